"""Where in the user's code a loader was made, and by what name the user knows it."""

from __future__ import annotations

import ast
import linecache
import sys
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType

_LIBRARY_FOLDERS = (
    *(sysconfig.get_paths()[key] + "/" for key in ("stdlib", "platstdlib", "purelib", "platlib")),
    str(Path(__file__).parent) + "/",
    "<frozen ",
)


@dataclass(frozen=True)
class Site:
    """A line of the user's code, and the name that the line gives to what it makes.

    `by_library` says that the line only led to an installed package, which made the thing on its own account.
    """

    file: str
    line: int
    name: str
    by_library: bool = False

    def __str__(self) -> str:
        return f"{Path(self.file).name}:{self.line}"


def is_library(file: str) -> bool:
    """Whether `file` belongs to Python, an installed package or plumb, and so is not the user's own."""
    return file.startswith(_LIBRARY_FOLDERS) or "/site-packages/" in file or "/dist-packages/" in file


def find_site(frame: FrameType | None) -> Site:
    """The innermost line of the user's code that leads to `frame`, with the name it assigns to.

    A factory's caller names what the factory returns, so the search for a name goes on outwards through `return`.
    """
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    own = [frame for frame in frames if not is_library(frame.f_code.co_filename)]
    # A training program that is itself an installed package has no frame of the user's own but its main module.
    own = own or [frame for frame in frames if frame.f_globals.get("__name__") == "__main__"] or frames[-1:]
    if own:
        site = own[0]
        name = next((name for name in map(_assigned_name, own) if name), None) or _enclosing_name(site)
        return Site(site.f_code.co_filename, site.f_lineno, name, by_library=site is not frames[0])
    return Site("<unknown>", 0, "loader")


def _enclosing_name(frame: FrameType) -> str:
    function = frame.f_code.co_name
    return "loader" if function.startswith("<") or function in ("__init__", "main") else function


def _assigned_name(frame: FrameType) -> str | None:
    """What the statement that runs in `frame` assigns its running call to, as the source writes it."""
    start = _call_position(frame)
    best: str | None = None
    for node in _assignments(frame.f_code.co_filename):
        if node.lineno <= start[0] <= (node.end_lineno or node.lineno):
            best = _target_of(node, start) or best
    return best


def _call_position(frame: FrameType) -> tuple[int, int]:
    """Line and column of the call that runs in `frame`; before Python 3.11 the column is not known and is 0."""
    if sys.version_info >= (3, 11):
        for index, (line, _, column, _) in enumerate(frame.f_code.co_positions()):
            if index == frame.f_lasti // 2 and line is not None:
                return line, column or 0
    return frame.f_lineno, 0


@lru_cache(maxsize=64)
def _assignments(file: str) -> tuple[ast.Assign | ast.AnnAssign | ast.NamedExpr, ...]:
    """All assignments in a source file whose value holds a call, outer ones first; none where it can't be parsed."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ()
    return tuple(
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr))
        and node.value is not None
        and not isinstance(node.value, ast.Lambda)
    )


def _target_of(node: ast.Assign | ast.AnnAssign | ast.NamedExpr, start: tuple[int, int]) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    value = node.value
    assert value is not None
    if isinstance(target, (ast.Tuple, ast.List)):
        if isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts):
            pairs = [(t, v) for t, v in zip(target.elts, value.elts, strict=True) if _covers(v, start)]
            return _spelled(pairs[0][0]) if pairs else None
        return None
    if isinstance(value, ast.Dict):
        keys = [key for key, item in zip(value.keys, value.values, strict=True) if key and _covers(item, start)]
        return f"{_spelled(target)}[{ast.unparse(keys[0])}]" if keys else _spelled(target)
    return _spelled(target)


def _covers(node: ast.expr, start: tuple[int, int]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= start <= end


def _spelled(target: ast.expr) -> str:
    """The target as the user would say it: `self.train_loader` is `train_loader`."""
    return target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
