"""What pages and docstrings name exists, pre-commit checks what CI checks, and no change of a process is left out."""

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


def test_the_files_that_docstrings_and_comments_name_exist():
    named = re.compile(r"(?:`|\()(?!torch/)((?:[a-z_]+/)*[a-z_]+\.py)(?:`|\))")
    missing = [
        (str(file.relative_to(PACKAGE)), name)
        for file in PACKAGE.rglob("*.py")
        for name in named.findall(file.read_text(encoding="utf-8"))
        if not any((place / name).is_file() for place in (ROOT, PACKAGE, *file.parents))
    ]
    assert missing == []


# What changes a process beyond the objects that plumb itself has made.
CHANGES = re.compile(
    r"sys\.meta_path\.insert|addaudithook|register_at_fork\(|signal\.signal\(|filterwarnings\(|simplefilter\("
    r"|os\.environ\[\S+\] =|mallopt\(|gc\.(?:freeze|disable)\(|faulthandler\.\w+\(|[^_]set_num_threads\("
    r"|setswitchinterval\(|sys\.(?:setprofile|settrace)\(|sched_setaffinity\(|sys\.\w+(?:\[\S+\])? = "
    r"|atexit\.register|ast\.parse = |\.prctl\(|_worker_info = |set_verbosity\(|method-assign|addHandler\("
    r"|backward = |setrlimit\(|os\.nice\(|oom_score_adj"
)
# They act on the command's own process, in which no user's code runs.
OF_THE_COMMAND = {"host/signals.py", "host/standard_streams.py"}


def test_each_change_of_the_user_s_process_is_on_the_page():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = page.partition("## What plumb changes in a user's process")[2].partition("## Contracts")[0]
    changing = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if CHANGES.search(file.read_text(encoding="utf-8"))
    }
    assert "script/interception.py" in changing
    assert {file for file in changing - OF_THE_COMMAND if f"`{file}`" not in listed} == set()
