"""Evaluation of the conditions of branches in code that is on the stack, without running any of the user's code."""

from __future__ import annotations

import ast
import contextlib
import inspect
import operator
from collections.abc import Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any

from plumb.core.errors import PlumbError

# Values of these types compare, and have a truth value, without the user's code.
_PLAIN = (bool, int, float, str, bytes, type(None), list, tuple, dict, set, frozenset)
_COMPARED: dict[type[ast.cmpop], Any] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


class _UnknownError(PlumbError):
    """A condition can't be evaluated without running code."""


def locals_of(frame: FrameType) -> dict[str, Any]:
    """Return the local variables of a frame, without keeping them alive longer than the frame does."""
    shared = frame.f_locals
    if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        return dict(shared)
    found = dict(shared)
    if type(shared) is dict:
        # Before Python 3.13 the frame stores this copy, which would hold what the function deletes.
        shared.clear()
    return found


def skipped_branches(
    nodes: Iterable[ast.AST], code: CodeType | None, names: Mapping[str, Any]
) -> Iterator[tuple[int, int]]:
    """Yield the first and last lines of the branches that were not executed, as their conditions say now.

    Args:
        nodes: All nodes of a file.
        code: Code of the function whose branches are meant; None for the module's own.
        names: Values of variables as the function, or the module, has them.

    """
    body = _body_of(nodes, code)
    inside = list(_own(body)) if body is not None else []
    assigned = [(ast.unparse(target), target.lineno) for target in _targets(inside)]
    for node in inside:
        if not isinstance(node, ast.If):
            continue
        read = {ast.unparse(part) for part in ast.walk(node.test) if isinstance(part, (ast.Name, ast.Attribute))}
        if any(target in read and line >= node.lineno for target, line in assigned):
            # Its condition may have been another one when it was evaluated.
            continue
        try:
            is_true = _truth(_value(node.test, names))
        except _UnknownError:
            continue
        skipped = node.orelse if is_true else node.body
        if skipped:
            yield skipped[0].lineno, skipped[-1].end_lineno or skipped[-1].lineno


def _body_of(nodes: Iterable[ast.AST], code: CodeType | None) -> list[ast.stmt] | None:
    for node in nodes:
        if code is None and isinstance(node, ast.Module):
            return node.body
        if code is not None and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if node.name == code.co_name and first <= code.co_firstlineno <= node.lineno:
                return node.body
    return None


def _own(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield all nodes of a function, or a module, without those of functions and classes in it."""
    for node in body:
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            yield from _own(ast.iter_child_nodes(node))


def _targets(nodes: Iterable[ast.AST]) -> Iterator[ast.Name | ast.Attribute]:
    for node in nodes:
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            yield node


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            if node.id in names:
                return names[node.id]
        case ast.Attribute():
            return _attribute(_value(node.value, names), node.attr)
        case ast.UnaryOp(op=ast.Not()):
            return not _truth(_value(node.operand, names))
        case ast.BoolOp():
            is_and = isinstance(node.op, ast.And)
            value: Any = is_and
            for part in node.values:
                value = _value(part, names)
                if _truth(value) is not is_and:
                    break
            return value
        case ast.Compare():
            return _compared(node, names)
        case ast.Tuple() | ast.List() | ast.Set():
            return [_value(part, names) for part in node.elts]
        case ast.Subscript():
            held, key = _value(node.value, names), _value(node.slice, names)
            if type(held) in (dict, list, tuple) and type(key) in (str, int):
                try:
                    return held[key]
                except LookupError:
                    pass
    raise _UnknownError


def _attribute(owner: Any, name: str) -> Any:
    """Return an attribute that is stored as such, so that no property of the user's runs."""
    kind = type(owner)
    if not isinstance(inspect.getattr_static(kind, name, None), property):
        with contextlib.suppress(AttributeError):
            held = object.__getattribute__(owner, "__dict__")
            if type(held) is dict and name in held:
                return held[name]
        found = inspect.getattr_static(kind, name, _UnknownError)
        if type(found) in _PLAIN:
            return found
    raise _UnknownError


def _compared(node: ast.Compare, names: Mapping[str, Any]) -> bool:
    left = _value(node.left, names)
    for sign, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, names)
        if not isinstance(sign, (ast.Is, ast.IsNot)) and not (type(left) in _PLAIN and type(right) in _PLAIN):
            raise _UnknownError
        try:
            if not _COMPARED[type(sign)](left, right):
                return False
        except Exception:
            raise _UnknownError from None
        left = right
    return True


def _truth(value: Any) -> bool:
    if type(value) not in _PLAIN:
        raise _UnknownError
    return bool(value)
