"""Which values a function has made itself, by its source: what no other thread can have."""

from __future__ import annotations

import ast
import sys
from types import FunctionType, ModuleType
from typing import Any

from plumb.instrument.callee import is_user_class
from plumb.instrument.code_names import closed_over, is_users_module

# Calls of these may return something that they were given or called on, or a part of it.
_ALIASING = frozenset(
    (
        *("get", "setdefault", "pop", "popitem", "getattr", "next", "iter", "vars", "values", "items", "enumerate"),
        *("zip", "reversed", "chain", "memoryview", "from_numpy", "as_tensor", "asarray", "frombuffer", "view", "cast"),
        *("reshape", "detach", "numpy", "squeeze", "unsqueeze", "transpose", "permute", "ravel", "__getitem__"),
        *("__getattribute__", "enter_context"),
    )
)
_MADE = (ast.Constant, ast.JoinedStr, ast.BinOp, ast.UnaryOp, ast.Compare, ast.List, ast.Tuple, ast.Dict, ast.Set,
         ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)  # fmt: skip
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class LocalValues:
    """Names that a function binds, functions inside it included, and what it binds them to.

    `receiver` is the name of a method's object, `shared` are names declared global or nonlocal. `own` are parameters
    that get nothing shared, as far as is known.
    """

    def __init__(self, function: FunctionType, definition: Definition, own: frozenset[str] = frozenset()) -> None:
        self._globals = function.__globals__
        self._closed_over = dict(closed_over(function))
        self._bound: dict[str, list[ast.expr | None]] = {}
        self._items: dict[str, list[ast.expr]] = {}
        self._modules: dict[str, str] = {}
        self.shared: set[str] = set()
        names = [each.arg for each in (*definition.args.posonlyargs, *definition.args.args)]
        holder = function.__qualname__.rpartition(".")[0]
        self.receiver = names[0] if names and holder and not holder.endswith("<locals>") else ""
        for node in ast.walk(definition):
            self._note(node)
        collected = [each.arg for each in (definition.args.vararg, definition.args.kwarg) if each is not None]
        index = names[1:] if function.__name__ == "__getitem__" else []
        for name in {*collected, *index, *own} - {self.receiver}:
            self._bound[name].remove(None)

    def binds(self, name: str) -> bool:
        """Return whether the function binds a name."""
        return name in self._bound or name in self._items

    def is_new(self, value: ast.expr, met: frozenset[str] = frozenset()) -> bool:
        """Return whether an expression's value was made by this call, as far as that is easy to tell."""
        if isinstance(value, ast.Name):
            return value.id in met or self._is_new_name(value.id, met | {value.id})
        if isinstance(value, (ast.Attribute, ast.Subscript, ast.Starred, ast.NamedExpr)):
            return self.is_new(value.value, met)
        if isinstance(value, ast.IfExp):
            return self.is_new(value.body, met) and self.is_new(value.orelse, met)
        if isinstance(value, ast.BoolOp):
            return all(self.is_new(each, met) for each in value.values)
        if not isinstance(value, ast.Call):
            return isinstance(value, _MADE)
        return last_name(value.func) not in _ALIASING or self._has_new_parts(value, met)

    def meaning(self, value: ast.expr) -> Any:
        """Return the present value of a global name, or of what it leads to in modules and classes; None for others."""
        if isinstance(value, ast.Name):
            if value.id in self._modules:
                return sys.modules.get(self._modules[value.id])
            if self.binds(value.id):
                return None
            return self._closed_over.get(value.id, self._globals.get(value.id))
        if isinstance(value, ast.Attribute):
            owner = self.meaning(value.value)
            return vars(owner).get(value.attr) if isinstance(owner, (ModuleType, type)) else None
        return None

    def is_library(self, value: ast.expr) -> bool:
        """Return whether an expression begins at a module or a class of a library."""
        while isinstance(value, (ast.Attribute, ast.Subscript)):
            value = value.value
        found = self.meaning(value)
        return (
            isinstance(found, type) and not is_user_class(found)
            if not isinstance(found, ModuleType)
            else (not is_users_module(found))
        )

    def _has_new_parts(self, call: ast.Call, met: frozenset[str]) -> bool:
        given = [*call.args, *(each.value for each in call.keywords)]
        if isinstance(call.func, ast.Attribute) and not self.is_library(call.func.value):
            given.append(call.func.value)
        return all(self.is_new(each, met) for each in given)

    def _is_new_name(self, name: str, met: frozenset[str]) -> bool:
        if name in self.shared or not self.binds(name):
            return False
        return all(value is not None and self.is_new(value, met) for value in self._bound.get(name, ())) and all(
            self._has_new_items(value, met) for value in self._items.get(name, ())
        )

    def _has_new_items(self, value: ast.expr, met: frozenset[str]) -> bool:
        if isinstance(value, (ast.List, ast.Tuple, ast.Set)):
            return all(self.is_new(each, met) for each in value.elts)
        if isinstance(value, (ast.ListComp, ast.SetComp, ast.GeneratorExp)):
            return self.is_new(value.elt, met)
        return self._has_new_parts(value, met) if isinstance(value, ast.Call) else self.is_new(value, met)

    def _note(self, node: ast.AST) -> None:
        """Record the names that a node binds."""
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._bind(target, node.value)
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            self._bind(node.target, node.value)
        elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
            for each in ast.walk(node.target):
                if isinstance(each, ast.Name):
                    self._items.setdefault(each.id, []).append(node.iter)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._bind(node.optional_vars, node.context_expr)
        elif isinstance(node, ast.arg):
            self._bound.setdefault(node.arg, []).append(None)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            self._bound.setdefault(node.name, [])
        elif isinstance(node, (ast.Global, ast.Nonlocal)):
            self.shared.update(node.names)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            for each in node.names:
                name = each.asname or each.name.partition(".")[0]
                self._bound.setdefault(name, []).append(None)
                if isinstance(node, ast.Import):
                    self._modules[name] = each.name if each.asname else name

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._bound.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Starred):
            self._bind(target.value, value)
        elif isinstance(target, (ast.Tuple, ast.List)):
            is_paired = isinstance(value, (ast.Tuple, ast.List)) and len(value.elts) == len(target.elts)
            parts = value.elts if is_paired else [value] * len(target.elts)  # type: ignore[attr-defined]
            for each, part in zip(target.elts, parts, strict=True):
                self._bind(each, part)


def definitions_in(nodes: tuple[ast.AST, ...], function: FunctionType) -> list[Definition]:
    """Return the definitions among a file's nodes that a function may come from; several lambdas may be in one line."""
    code, found = function.__code__, []
    for node in nodes:
        if not isinstance(node, DEFINITIONS):
            continue
        decorators = getattr(node, "decorator_list", [])
        line = min([node.lineno, *(each.lineno for each in decorators)])
        if line == code.co_firstlineno and getattr(node, "name", "<lambda>") == code.co_name:
            found.append(node)
    return found


def last_name(node: ast.AST) -> str:
    """Return a name, or that of an attribute; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
