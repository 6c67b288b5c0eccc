"""Search for the code that makes batches without torch's DataLoader, for the sentence that ends a tuning."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, GeneratorType
from typing import Any

from plumb.core.printable import printable
from plumb.instrument.call_site import is_library

_BATCH_MAKER = re.compile(r"_*(get|next|load|make|sample|fetch|generate)_?(\w+_)?(mini)?_?batch(es)?", re.IGNORECASE)
# In a library's code, only classes with such names count as sources of batches.
_SOURCE = re.compile(r"load|dl$|iter|pipe|batch|data|stream|queue|buffer|reader|feed", re.IGNORECASE)
_NO_SOURCES = ("builtins", "itertools", "collections", "_collections_abc", "torch", "numpy", "functools")
_ONLY = "and plumb tunes torch's DataLoaders only"


def in_loop(frame: FrameType | None) -> str:
    """Return a sentence on where the innermost training loop around `frame` takes its batches from."""
    frames = [each for each in _outwards(frame) if "/torch/" not in each.f_code.co_filename]
    own = [each for each in frames if not is_library(each.f_code.co_filename)]
    for each in [*own, *(each for each in frames if each not in own)]:
        found = _in_frame(each, in_library=each not in own)
        if found:
            return f"{found}, {_ONLY}"
    for each in own:
        found = _defined_in(each.f_code.co_filename)
        if found:
            return f"{found}, {_ONLY}"
    where = f" ({_place(own[0].f_code.co_filename, own[0].f_lineno)})" if own else ""
    return f"its loop{where} makes its batches itself, {_ONLY}"


def in_source(file: str) -> str:
    """Return a sentence on the function of a source file that makes batches by hand; empty if there is none."""
    found = _defined_in(file)
    return f"{found}, {_ONLY}" if found else ""


def _defined_in(file: str) -> str:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.FunctionDef) and _BATCH_MAKER.fullmatch(node.name):
            return f"batches are made by hand in {node.name} ({_place(file, node.lineno)})"
    return ""


def _in_frame(frame: FrameType, in_library: bool) -> str:
    """Return a phrase on where the loop around `frame` takes its batches from; empty if that isn't visible."""
    file = frame.f_code.co_filename
    for loop in _loops_around(file, frame.f_lineno):
        for call in (node for node in ast.walk(loop) if isinstance(node, ast.Call)) if not in_library else ():
            name = _last_name(call.func)
            if name is not None and _BATCH_MAKER.fullmatch(name):
                code = getattr(inspect.unwrap(_value(call.func, frame)), "__code__", None)
                where = _place(code.co_filename, code.co_firstlineno) if code else _place(file, call.lineno)
                return f"batches are made by hand in {name} ({where})"
        if isinstance(loop, ast.For):
            for part in _parts(loop.iter):
                source = _named(_value(part, frame), in_library)
                if source:
                    name = ast.unparse(part)
                    return f"batches come from {name} ({source}; the loop is at {_place(file, loop.lineno)})"
    return ""


def _named(value: Any, in_library: bool) -> str:
    """Return a description of an object if batches may come from it, else an empty string."""
    # A progress bar has the iterable that it wraps.
    value = getattr(value, "iterable", value)
    if isinstance(value, GeneratorType):
        return (
            f"the generator {value.gi_code.co_name}, {_place(value.gi_code.co_filename, value.gi_code.co_firstlineno)}"
        )
    kind = type(value)
    is_source = kind.__module__.partition(".")[0] not in _NO_SOURCES
    if not is_source or (in_library and not _SOURCE.search(kind.__name__)):
        return ""
    return f"a {kind.__name__} of {kind.__module__}" if kind.__module__ != "__main__" else f"a {kind.__name__}"


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the names in the iterable of a `for`, also those inside calls such as `enumerate`."""
    if isinstance(node, ast.Call):
        for argument in node.args:
            yield from _parts(argument)
    elif isinstance(node, (ast.Name, ast.Attribute)):
        yield node


def _value(node: ast.expr, frame: FrameType) -> Any:
    """Return the value of a name or an attribute in a frame; None if that would run the user's code."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        return inspect.getattr_static(_value(node.value, frame), node.attr, None)
    return None


def _last_name(node: ast.expr) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _loops_around(file: str, line: int) -> list[ast.For | ast.While]:
    """Return the loops around a line, the innermost first."""
    loops = [node for node in ast.walk(_tree(file)) if isinstance(node, (ast.For, ast.While))]
    return [node for node in loops if node.lineno <= line <= (node.end_lineno or node.lineno)][::-1]


def _tree(file: str) -> ast.AST:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(file: str, line: int) -> str:
    return printable(f"{Path(file).name}:{line}")
