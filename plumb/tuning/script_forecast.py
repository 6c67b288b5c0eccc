"""Forecast of what a script does to a dataset between epochs, from the source of the loops around its training loop.

A tuning ends within the first epoch, so it never sees a second. A store that is lost after each epoch gains nothing,
and workers of a loader that is remade start in each epoch. This is a forecast, for a plan's claims and offers: actual
changes are detected when the plan is used.
"""

from __future__ import annotations

import ast
import contextlib
import dis
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch.utils.data import DataLoader

from plumb.instrument.call_site import Site, nodes_of
from plumb.instrument.callee import is_user_code, is_user_file
from plumb.instrument.code_names import globals_read
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.object_parts import roots_of
from plumb.instrument.shared_writes import MUTATORS

_LOOK_SECONDS = 0.2
_MOST_FRAMES = 50
_STORES = frozenset({"STORE_ATTR", "STORE_SUBSCR", "DELETE_ATTR", "DELETE_SUBSCR"})
_SHUFFLES = ("shuffle",)


@dataclass(frozen=True)
class BetweenEpochs:
    """Forecast of what the script does between epochs.

    `changed` is the statement that changes the dataset, empty if there is none. `is_made_anew`: the loader is made
    within the loop of epochs.
    """

    changed: str = ""
    is_made_anew: bool = False


NOTHING = BetweenEpochs()


def between_epochs(frame: FrameType | None, loader: DataLoader[Any], site: Site) -> BetweenEpochs:
    """Return what a script seems to do to a loader and its dataset between epochs.

    Args:
        frame: Frame that requests a batch, or one called from it.
        loader: Loader that is read.
        site: Place where it was made.
    """
    with contextlib.suppress(Exception):
        return _found(frame, loader, site)
    # Sources may be unreadable, and objects behind names may behave unusually: then nothing is forecast.
    return NOTHING


def _found(frame: FrameType | None, loader: DataLoader[Any], site: Site) -> BetweenEpochs:
    epochs = list(_loops_of_epochs(frame))
    if not epochs:
        return NOTHING
    made = [(file, loop, frame) for file, loop, _, frame in epochs if file == site.file and _is_in(loop, site.line)]
    parts = _Parts(loader)
    for file, loop, inner, frame in epochs:
        for node in _statements(loop, inner):
            if parts.is_changed_by(node, frame):
                return BetweenEpochs(ast.unparse(node).partition("\n")[0], bool(made))
        if (file, loop, frame) in made and (dataset := _dataset_made(loop, site.line)):
            return BetweenEpochs(dataset, is_made_anew=True)
    return BetweenEpochs("", bool(made))


def _loops_of_epochs(frame: FrameType | None) -> Iterator[tuple[str, ast.For | ast.While, ast.AST | None, FrameType]]:
    """Yield the loops around the one that requests batches, each with its file, the loop inside, and its frame."""
    has_batch_loop = False
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return
        file, code = frame.f_code.co_filename, frame.f_code
        if is_user_file(file):
            loops = [
                node
                for node in nodes_of(file)
                if isinstance(node, (ast.For, ast.While))
                and node.lineno >= code.co_firstlineno
                and _is_in(node, frame.f_lineno)
            ]
            # Outer ones come first.
            inner: ast.AST | None = None
            for loop in reversed(loops):
                if has_batch_loop:
                    yield file, loop, inner, frame
                has_batch_loop, inner = True, loop
        frame = frame.f_back


def _is_in(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _statements(loop: ast.For | ast.While, inner: ast.AST | None) -> Iterator[ast.stmt | ast.Call]:
    """Yield assignments and calls in a loop, without those of the loop inside and of functions defined there."""
    queue: list[ast.AST] = list(loop.body)
    while queue:
        node = queue.pop(0)
        if node is inner or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Delete, ast.Call)):
            yield node
        queue += ast.iter_child_nodes(node)


def _dataset_made(loop: ast.For | ast.While, line: int) -> str:
    """Return the call that makes a loader's dataset if both are made in a loop; empty if none is found."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Call) and node.lineno == line:
            first = node.args[0] if node.args else None
            given = next((each.value for each in node.keywords if each.arg == "dataset"), first)
            if isinstance(given, ast.Call):
                return ast.unparse(given)
            if isinstance(given, ast.Name):
                made = (
                    each.value
                    for each in ast.walk(loop)
                    if isinstance(each, ast.Assign)
                    and any(isinstance(target, ast.Name) and target.id == given.id for target in each.targets)
                )
                return next((ast.unparse(value) for value in made if isinstance(value, ast.Call)), "")
    return ""


class _Parts:
    """Parts from which a loader's samples are made: objects by identity, and names of globals that its code reads."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._values: dict[int, Any] = {}
        self._globals: set[tuple[int, str]] = set()
        DatasetState(roots_of(loader), visit=self._visit).look(_LOOK_SECONDS)

    def _visit(self, value: Any, _: str) -> None:
        self._values[id(value)] = value
        if is_user_code(value):
            self._globals.update((id(value.__globals__), name) for name, _ in globals_read(value))

    def is_changed_by(self, node: ast.stmt | ast.Call, frame: FrameType) -> bool:
        """Return whether a statement, or a call, writes to something that samples are made from."""
        if isinstance(node, ast.Call):
            return self._is_changed_by_call(node, frame)
        targets = node.targets if isinstance(node, (ast.Assign, ast.Delete)) else [node.target]  # type: ignore[attr-defined]
        return any(self._is_written(target, frame) for target in targets)

    def _is_written(self, target: ast.expr, frame: FrameType) -> bool:
        if isinstance(target, (ast.Tuple, ast.List)):
            return any(self._is_written(each, frame) for each in target.elts)
        if isinstance(target, (ast.Attribute, ast.Subscript)):
            return self._has_one_along(target.value, frame)
        if not isinstance(target, ast.Name):
            return False
        is_local = target.id in frame.f_code.co_varnames or target.id in frame.f_code.co_cellvars
        return not is_local and (id(frame.f_globals), target.id) in self._globals

    def _is_changed_by_call(self, call: ast.Call, frame: FrameType) -> bool:
        function = call.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in _SHUFFLES and any(self._has_one_along(argument, frame) for argument in call.args):
            return True
        if not isinstance(function, ast.Attribute):
            return False
        owner = _value_of(function.value, frame)
        if id(owner) not in self._values or self._values[id(owner)] is not owner or isinstance(owner, type):
            return False
        method = getattr(type(owner), name, None)
        code = getattr(method, "__code__", None)
        if code is None:
            return name in MUTATORS
        return is_user_file(code.co_filename) and any(each.opname in _STORES for each in dis.get_instructions(code))

    def _has_one_along(self, expression: ast.expr, frame: FrameType) -> bool:
        """Return whether an expression, or an object on its path, is something that samples are made from."""
        while True:
            value = _value_of(expression, frame)
            if value is not None and self._values.get(id(value)) is value and not isinstance(value, (int, str)):
                return True
            if not isinstance(expression, (ast.Attribute, ast.Subscript)):
                return False
            expression = expression.value


def _value_of(expression: ast.expr, frame: FrameType) -> Any:
    """Return the present value of a name, with attributes and constant keys after it; None if it is unknown.

    None of the user's code is run.
    """
    if isinstance(expression, ast.Name):
        return frame.f_locals.get(expression.id, frame.f_globals.get(expression.id))
    if isinstance(expression, ast.Attribute):
        owner = _value_of(expression.value, frame)
        return getattr(owner, "__dict__", {}).get(expression.attr)
    if isinstance(expression, ast.Subscript) and isinstance(expression.slice, ast.Constant):
        owner = _value_of(expression.value, frame)
        if type(owner) in (list, tuple, dict):
            with contextlib.suppress(LookupError, TypeError):
                return owner[expression.slice.value]
    return None
