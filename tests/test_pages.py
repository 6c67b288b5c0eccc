"""What the pages say of files is true: each that they name exists, and pre-commit checks what CI checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "plumb"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = sorted(PACKAGE.glob("*/README.md"))
LARGE = 1_000
# In a flow, a word with an underscore is a module, and `module.name` a function or a class of one.
MODULE = re.compile(r"(?<![\w./\"`-])[a-z]+(?:_[a-z]+)+(?![\w(=-])")
MEMBER = re.compile(r"(?<![\w.])([a-z_]+)\.([A-Za-z]\w+)")


def lines_of(room):
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in room.rglob("*.py"))


def test_each_large_room_has_a_page_that_draws_its_flow():
    rooms = [room for room in PACKAGE.iterdir() if room.is_dir() and lines_of(room) > LARGE]
    assert [room.name for room in rooms if not (room / "README.md").is_file()] == []


@pytest.mark.parametrize("page", [*PAGES, *ROOMS], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_exists(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [*PAGES, *ROOMS], ids=lambda page: str(page.relative_to(ROOT)))
def test_the_files_that_a_page_names_exist(page):
    places = [ROOT, PACKAGE, page.parent, ROOT / "docs", ROOT / "analysis" / "results"]
    named = re.findall(r"(?<![\w/.-])(?:[\w-]+/)*\w+\.(?:py|css|md)\b", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not any((place / name).is_file() for place in places)]
    assert [name for name in missing if name not in ("train.py",)] == []


@pytest.mark.parametrize("page", ROOMS, ids=lambda page: page.parent.name)
def test_the_modules_in_a_room_s_flow_exist_and_have_what_it_names(page):
    flow = page.read_text(encoding="utf-8").split("```")[1]
    modules = {file.stem: file.read_text(encoding="utf-8") for file in PACKAGE.rglob("*.py")}
    members = [(name, member) for name, member in MEMBER.findall(flow) if name in modules and member != "py"]
    missing = [
        pair for pair in members if not re.search(rf"^(def |class |){pair[1]}\b", modules[pair[0]], re.MULTILINE)
    ]
    named = set(MODULE.findall(flow)) - {member for _, member in members}
    assert (named - set(modules), missing) == (set(), [])


def test_pre_commit_checks_what_ci_checks():
    config = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (.+)", config)
    ci = [line.split(" >/dev/null")[0] for line in re.findall(r"^\.venv/bin/((?!python).+)$", script, re.MULTILINE)]
    assert entries == ci
