"""Record of a loader's construction while its calls are still on the stack."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType, FrameType, ModuleType
from typing import Any

from plumb.core.construction import TEXT_AT_MOST, Construction, SkippedLines, StackCall
from plumb.core.printable import printable
from plumb.instrument.branch_tests import locals_of, skipped_branches
from plumb.instrument.call_site import UNKNOWN_COLUMN, call_range, is_library, nodes_of, outside_plumb
from plumb.instrument.code_names import is_users_module
from plumb.instrument.script_settings import config_files, parsed_options

_CALLS_AT_MOST = 40
_COMPREHENSIONS = frozenset(("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"))


def construction_of(loader: Any, frame: FrameType | None) -> Construction:
    """Return how `loader` was made, whose constructor was called by the code in `frame`."""
    folder = _script_folder()
    users: list[FrameType] = []
    calls: list[StackCall] = []
    for each, node, is_direct in _calls(loader, outside_plumb(frame)):
        users.append(each)
        if node is not None and len(calls) < _CALLS_AT_MOST:
            calls.append(_stack_call(each.f_code, node, folder, is_direct))
    skipped = [
        SkippedLines(_relative(file, folder), first, last) for file, first, last in dict.fromkeys(_skipped(users))
    ]
    return Construction(
        tuple(calls),
        tuple(skipped),
        parsed_options(),
        tuple(_relative(file, folder) for file in config_files()),
        tuple(dict.fromkeys(_relative(file, folder) for file in _users_sources())),
    )


def _stack_call(code: CodeType, node: ast.Call, folder: str, is_direct: bool) -> StackCall:
    calls = _spelled_calls(code.co_filename)
    _, called, text = next(each for each in calls if _range(each[0]) == _range(node))
    alike = [_range(each) for each, other, _ in calls if other == called and type(each.func) is type(node.func)]
    return StackCall(
        _relative(code.co_filename, folder),
        printable(code.co_name),
        node.lineno,
        printable(text[:TEXT_AT_MOST]),
        printable(called[:TEXT_AT_MOST]),
        alike.index(_range(node)),
        len(alike),
        sum(other == text for _, _, other in calls) == 1,
        is_direct,
    )


@lru_cache(maxsize=64)
def _spelled_calls(file: str) -> tuple[tuple[ast.Call, str, str], ...]:
    """Return the calls in a source file in order, each with what is called and the whole call as source text."""
    calls = [node for node in nodes_of(file) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return tuple((call, ast.unparse(call.func), ast.unparse(call)) for call in calls)


def _range(node: ast.Call) -> tuple[int, int, int | None, int | None]:
    return node.lineno, node.col_offset, node.end_lineno, node.end_col_offset


def _calls(loader: Any, frame: FrameType | None) -> Iterator[tuple[FrameType, ast.Call | None, bool]]:
    """Yield the frames of the user's code outwards, each with its call and whether the call itself ran the inner code.

    The call is None where code is run by something else, for instance by a loop over a generator. A comprehension
    counts as part of the function around it.
    """
    inner: FrameType | None = None
    is_interrupted = False
    while frame is not None:
        if is_library(frame.f_code.co_filename):
            is_interrupted = is_interrupted or inner is not None or not _is_for(frame, loader)
        else:
            is_around = inner is not None and inner.f_code in frame.f_code.co_consts
            if not (is_around and inner is not None and inner.f_code.co_name in _COMPREHENSIONS):
                node = _call_node(frame, inner)
                yield frame, node, not is_interrupted and node is not None
                is_interrupted = node is None
            else:
                yield frame, None, False
            inner = frame
            if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
                return
        frame = frame.f_back


def _is_for(frame: FrameType, loader: Any) -> bool:
    """Return whether a library's function was called for the loader itself, as a subclass's constructor is."""
    code = frame.f_code
    return bool(code.co_argcount) and locals_of(frame).get(code.co_varnames[0]) is loader


def _call_node(frame: FrameType, inner: FrameType | None) -> ast.Call | None:
    """Return the call that runs in `frame`; before Python 3.11, the one on its line that may have run `inner`."""
    line, column, end_line, end_column = call_range(frame)
    calls = [node for node in nodes_of(frame.f_code.co_filename) if isinstance(node, ast.Call)]
    if column != UNKNOWN_COLUMN:
        at = (line, column, end_line, end_column)
        return next((call for call in calls if _range(call) == at), None)
    around = [call for call in calls if call.lineno <= line <= (call.end_lineno or call.lineno)]
    name = inner.f_code.co_name if inner is not None else ""
    named = [call for call in around if name and ast.unparse(call.func).rpartition(".")[2] == name]
    found = named or around
    return found[-1] if found else None


def _skipped(users: list[FrameType]) -> Iterator[tuple[str, int, int]]:
    seen = set()
    for frame in users:
        file = frame.f_code.co_filename
        if file not in seen:
            seen.add(file)
            for first, last in skipped_branches(nodes_of(file), None, frame.f_globals):
                yield file, first, last
        if frame.f_code.co_name != "<module>":
            names = {**frame.f_globals, **locals_of(frame)}
            for first, last in skipped_branches(nodes_of(file), frame.f_code, names):
                yield file, first, last


def _users_sources() -> Iterator[str]:
    for module in list(sys.modules.values()):
        if type(module) is ModuleType and is_users_module(module):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file.endswith(".py"):
                yield file


def _script_folder() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.dirname(os.path.abspath(script)) if isinstance(script, str) else os.getcwd()


def _relative(file: str, folder: str) -> str:
    return printable(os.path.relpath(os.path.abspath(file), folder))
