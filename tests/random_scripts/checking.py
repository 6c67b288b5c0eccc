"""What must hold of a script under plumb, beside the same script run plainly. Each check returns what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

from tests.random_scripts.recipe import Recipe
from tests.random_scripts.zygote import Done

_OWN_FRAME = re.compile(r'File "[^"]*/plumb/[\w/]+\.py", line \d+, in \w+')
_SHOWN_AT_MOST = 3


def differences(recipe: Recipe, plain: Done, other: Done) -> list[str]:
    """Where the script printed something else, or ended in another way."""
    found = list(failures(plain, other))
    if other.code is not None and other.code != plain.code:
        found.append(f"exit code {other.code} instead of {plain.code}: {_last_line(other.err)}")
    expected, printed = (comparable(recipe, done.out) for done in (plain, other))
    if expected != printed:
        pairs = [(a, b) for a, b in zip(expected, printed, strict=False) if a != b][:_SHOWN_AT_MOST]
        more = f", {len(printed)} lines instead of {len(expected)}" if len(printed) != len(expected) else ""
        found.append("other lines: " + "; ".join(f"{b!r} instead of {a!r}" for a, b in pairs) + more)
    if recipe.ends in ("error", "error in sample") and _last_line(plain.err) != _last_line(other.err):
        found.append(f"another error: {_last_line(other.err)!r} instead of {_last_line(plain.err)!r}")
    return found


def failures(plain: Done, other: Done) -> list[str]:
    """Where plumb itself failed, or did not end."""
    found = []
    if other.code is None:
        found.append(f"did not end within {other.seconds:.0f} s")
    lines = [*other.err.splitlines(), *other.out.splitlines()]
    found += [line for line in lines if "plumb itself failed" in line][:1]
    if "Traceback" in other.err and "Traceback" not in plain.err:
        found.append(f"a traceback: {_last_line(other.err)}")
    if "Exception ignored" in other.err and "Exception ignored" not in plain.err:
        found.append("an exception was ignored: " + _after(other.err, "Exception ignored"))
    own = _OWN_FRAME.search(other.err)
    if own and "tests/" not in own[0] and "/child.py" not in own[0]:
        found.append(f"a frame of plumb's own: {own[0]}")
    return found


def comparable(recipe: Recipe, out: str) -> list[str]:
    """The lines that must be the same whatever the workers are."""
    lines = out.splitlines()
    if not recipe.values_follow_workers:
        return lines
    if recipe.order_follows_samples and recipe.ends.endswith("in sample"):
        return []
    if recipe.order_follows_samples:
        return [line.split("[")[0] for line in lines if line.startswith("i")]
    return [line for line in lines if line[:1] in "ie"]


def files_in(folder: Path) -> dict[str, bytes]:
    """The contents of the files that a script left in its folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".pyc",) and not path.name.endswith(".plumb.json")
    }


def other_files(before: dict[str, bytes], after: dict[str, bytes], may_add: bool) -> list[str]:
    """Files that are not as they were, or should be."""
    found = [f"{name} is gone" for name in before if name not in after]
    found += [f"{name} was changed" for name, content in before.items() if after.get(name, content) != content]
    if not may_add:
        found += [f"{name} is new" for name in after if name not in before]
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("plumb:", ".", " "))]
    return lines[-1] if lines else ""


def _after(text: str, word: str) -> str:
    return " / ".join(text[text.index(word) :].splitlines()[:6])
