"""Place in the user's code that made a loader, and the user's name for the loader."""

from __future__ import annotations

import ast
import itertools
import linecache
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import TypeVar

from plumb.core.printable import printable

_Statement = TypeVar("_Statement", bound=ast.stmt)

# Column of a call if Python doesn't record it.
UNKNOWN_COLUMN = -1
_PROGRESS_BARS = ("tqdm", "rich", "alive_progress", "fastprogress", "progressbar")
_PLUMB_FOLDER = str(Path(__file__).parent.parent) + "/"
_LIBRARY_FOLDERS = (
    *(sysconfig.get_paths()[key] + "/" for key in ("stdlib", "platstdlib", "purelib", "platlib")),
    _PLUMB_FOLDER,
    "<frozen ",
)


@dataclass(frozen=True)
class Site:
    """A line of the user's code, and the name that the line gives to the object it makes.

    If the line only led to an installed package, which made the object itself, `library` names that package. `scope` is
    the function around the line, and `statement` its text, which stays the same when it is moved.
    """

    file: str
    line: int
    name: str
    library: str = ""
    scope: str = ""
    statement: str = ""

    @property
    def by_library(self) -> bool:
        """True if an installed package made the object."""
        return bool(self.library)

    def __str__(self) -> str:
        return printable(f"{Path(self.file).name}:{self.line}")


def is_library(file: str) -> bool:
    """Return whether `file` belongs to Python, an installed package or plumb, and not to the user."""
    return file.startswith(_LIBRARY_FOLDERS) or "/site-packages/" in file or "/dist-packages/" in file


def find_site(frame: FrameType | None) -> Site:
    """Return the innermost line of the user's code that leads to `frame`, with the name to which it assigns.

    A factory's caller names the factory's result, so the search for a name continues outwards through `return`. Frames
    of plumb are skipped, because plumb acts for the code that called it.
    """
    frame = outside_plumb(frame)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    own = [frame for frame in frames if not is_library(frame.f_code.co_filename)]
    # A training program in an installed package has no user frame except its main module.
    own = own or [frame for frame in frames if frame.f_globals.get("__name__") == "__main__"] or frames[-1:]
    if own:
        site = own[0]
        return Site(
            site.f_code.co_filename,
            site.f_lineno,
            _name_by_callers(own) or _enclosing_name(site),
            "" if site is frames[0] else str(frames[0].f_globals.get("__name__", "?")).partition(".")[0],
            getattr(site.f_code, "co_qualname", site.f_code.co_name),
            _statement_text(site.f_code.co_filename, *_call_position(site)),
        )
    return Site("<unknown>", 0, "loader")


def loops_plainly(frame: FrameType) -> bool:
    """Return whether the code in `frame`, which requests an iterator, will read it until it ends.

    The user's own `for` does, also through a progress bar. A framework, or code that calls `iter` explicitly, may count
    its batches and stop by itself.
    """
    frame = outside_plumb(frame) or frame
    if is_library(frame.f_code.co_filename):
        return str(frame.f_globals.get("__name__")).partition(".")[0] in _PROGRESS_BARS
    return _iter_calls(frame.f_code.co_filename).isdisjoint({_call_position(frame)})


def begins_anew(frame: FrameType) -> bool:
    """Return whether the user's code in `frame`, which requests a batch, makes another iterator when one has ended.

    Such a loop catches StopIteration and calls `iter` there, so its steps are not those of an epoch.
    """
    outside = outside_plumb(frame) or frame
    file, line = outside.f_code.co_filename, _call_position(outside)[0]
    return not is_library(file) and any(first <= line <= last for first, last in _begun_anew(file))


def outside_plumb(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame that isn't plumb's own."""
    while frame is not None and frame.f_code.co_filename.startswith(_PLUMB_FOLDER):
        frame = frame.f_back
    return frame


def _name_by_callers(frames: list[FrameType]) -> str | None:
    """Return the name to which the innermost frame's call is assigned; after a `return`, the caller's name for it."""
    selectors: list[ast.expr | int] = []
    for frame in frames:
        start = _call_position(frame)
        statement = _statement_at(frame.f_code.co_filename, start)
        if frame.f_code.co_name == "<lambda>" or statement is None or statement.value is None:
            continue
        found = _selectors(statement.value, start) or _key_in_comprehension(statement.value, start, frame)
        selectors = [*found, *selectors]
        if not isinstance(statement, ast.Return):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            return _selected(target, selectors)
    return None


def _enclosing_name(frame: FrameType) -> str:
    function = frame.f_code.co_name
    return "loader" if function.startswith("<") or function in ("__init__", "main") else function


def call_range(frame: FrameType) -> tuple[int, int, int, int]:
    """Return line, column, last line and last column of the call that runs in `frame`.

    Before Python 3.11 the columns are `UNKNOWN_COLUMN`.
    """
    if sys.version_info >= (3, 11):
        position = next(itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
        if position is not None and position[0] is not None and None not in position:
            line, end_line, column, end_column = (each or 0 for each in position)
            return line, column, end_line, end_column
        if position is not None and position[0] is not None:
            return position[0], UNKNOWN_COLUMN, position[0], UNKNOWN_COLUMN
    return frame.f_lineno, UNKNOWN_COLUMN, frame.f_lineno, UNKNOWN_COLUMN


def _call_position(frame: FrameType) -> tuple[int, int]:
    """Return line and column of the call that runs in `frame`; before Python 3.11 the column is `UNKNOWN_COLUMN`."""
    return call_range(frame)[:2]


@lru_cache(maxsize=256)
def _statement_text(file: str, line: int, column: int) -> str:
    """Return the innermost statement at a place, as Python unparses it; of one with a body, the call or first line."""
    statement = _innermost((node for node in nodes_of(file) if isinstance(node, ast.stmt)), (line, column))
    if statement is None:
        return linecache.getline(file, line).strip()
    if not hasattr(statement, "body"):
        return ast.unparse(statement)
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call) and _covers(node, (line, column))]
    return ast.unparse(calls[-1]) if calls else linecache.getline(file, line).strip()


@lru_cache(maxsize=64)
def nodes_of(file: str) -> tuple[ast.AST, ...]:
    """Return all nodes of a source file's tree, outer ones first; none if it can't be parsed."""
    with warnings.catch_warnings():
        # Python has printed what it warns of when it compiled the file.
        warnings.simplefilter("ignore")
        try:
            return tuple(ast.walk(ast.parse("".join(linecache.getlines(file)))))
        except (SyntaxError, ValueError):
            return ()


@lru_cache(maxsize=64)
def _statements(file: str) -> tuple[ast.Assign | ast.AnnAssign | ast.Return, ...]:
    """Return all statements in a source file that can name a call's result."""
    return tuple(node for node in nodes_of(file) if isinstance(node, (ast.Assign, ast.AnnAssign, ast.Return)))


@lru_cache(maxsize=64)
def _iter_calls(file: str) -> frozenset[tuple[int, int]]:
    """Return line and column of every call of `iter` in a source file."""
    calls = (node for node in nodes_of(file) if isinstance(node, ast.Call))
    by_name = (node for node in calls if isinstance(node.func, ast.Name) and node.func.id == "iter")
    return frozenset((node.lineno, node.col_offset) for node in by_name)


@lru_cache(maxsize=64)
def _begun_anew(file: str) -> tuple[tuple[int, int], ...]:
    """Return the first and last lines of `try` bodies in a source file whose StopIteration handler calls `iter`."""
    return tuple(
        (node.body[0].lineno, node.body[-1].end_lineno or node.body[-1].lineno)
        for node in nodes_of(file)
        if isinstance(node, ast.Try) and any(map(_makes_iterator, node.handlers))
    )


def _makes_iterator(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {kind.id for kind in caught if isinstance(kind, ast.Name)}
    calls = (node.func for part in handler.body for node in ast.walk(part) if isinstance(node, ast.Call))
    return "StopIteration" in names and any(isinstance(call, ast.Name) and call.id == "iter" for call in calls)


def _statement_at(file: str, start: tuple[int, int]) -> ast.Assign | ast.AnnAssign | ast.Return | None:
    return _innermost(_statements(file), start)


def _innermost(statements: Iterable[_Statement], start: tuple[int, int]) -> _Statement | None:
    """Return the last of `statements` around a place, as several may share its line; by line without a column."""
    on_line = [node for node in statements if node.lineno <= start[0] <= (node.end_lineno or node.lineno)]
    covering = [node for node in on_line if _covers(node, start)]
    if not covering and start[1] == UNKNOWN_COLUMN:
        covering = on_line
    return covering[-1] if covering else None


def _selectors(value: ast.expr, start: tuple[int, int]) -> Sequence[ast.expr | int]:
    """Return the key or index of the call at `start` in a dictionary or tuple display, as a list; empty without one."""
    if isinstance(value, ast.Dict):
        return [key for key, item in zip(value.keys, value.values, strict=True) if key and _covers(item, start)][:1]
    if isinstance(value, (ast.Tuple, ast.List)):
        return [index for index, item in enumerate(value.elts) if _covers(item, start)][:1]
    return []


def _key_in_comprehension(value: ast.expr, start: tuple[int, int], frame: FrameType) -> Sequence[ast.expr]:
    """Return the key that a dictionary comprehension gives to the call at `start` if it is a text in a variable."""
    if not isinstance(value, ast.DictComp) or not isinstance(value.key, ast.Name) or not _covers(value.value, start):
        return []
    key = frame.f_locals.get(value.key.id)
    return [ast.Constant(key)] if type(key) is str else []


def _selected(target: ast.expr, selectors: list[ast.expr | int]) -> str | None:
    """Return the name of the part of `target` to which `selectors` lead."""
    for position, selector in enumerate(selectors):
        if isinstance(target, (ast.Tuple, ast.List)):
            if not isinstance(selector, int) or selector >= len(target.elts):
                return None
            target = target.elts[selector]
        else:
            rest = [str(part) if isinstance(part, int) else ast.unparse(part) for part in selectors[position:]]
            return _spelled(target) + "".join(f"[{part}]" for part in rest)
    return None if isinstance(target, (ast.Tuple, ast.List)) else _spelled(target)


def _covers(node: ast.expr | ast.stmt, start: tuple[int, int]) -> bool:
    end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= start <= end


def _spelled(target: ast.expr) -> str:
    """Return the target's name as the user would say it: `train_loader` for `self.train_loader`."""
    return target.attr if isinstance(target, ast.Attribute) else ast.unparse(target)
