"""Statements and calls by which a function may change what other threads see too, or look at its thread, by its source.

In doubt, what a statement changes counts as shared. A set-up, which makes something once and the same for all samples,
is no change: `if self.file is None: self.file = open(self.path)`.
"""

from __future__ import annotations

import ast
import dis
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any

from plumb.instrument.callee import is_user_code
from plumb.instrument.local_values import Definition, LocalValues

MUTATORS = frozenset(
    (
        *("append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "setdefault", "popitem"),
        *("add", "discard", "fill", "put", "shuffle", "resize", "copy_", "fill_", "zero_", "add_", "mul_", "div_"),
        *("sub_", "random_", "normal_", "uniform_", "index_fill_", "masked_fill_", "scatter_"),
    )
)
"""Methods that change the object they are called on."""

# Methods that move a position, or talk over a connection. `resize` of an image returns another one.
_MOVERS = frozenset(
    (
        *(
            "seek",
            "read",
            "readinto",
            "readline",
            "readlines",
            "readexactly",
            "read1",
            "write",
            "writelines",
            "truncate",
        ),
        *("recv", "recv_into", "send", "sendall", "execute", "executemany", "fetchone", "fetchall", "close", "grab"),
        *("appendleft", "popleft", "extendleft", "rotate", "put_nowait", "get_nowait", "__next__", "__setattr__"),
        *("__setitem__", "__delattr__", "__delitem__", "itemset", "setflags", "seed", "manual_seed", "setstate"),
        *("set_state", "retrieve", "difference_update", "intersection_update"),
    )
)
_CHANGING = (MUTATORS | _MOVERS) - {"resize"}
# These change their first argument, and functions of `os` with these names a descriptor's position.
_CHANGE_ARGUMENT = frozenset(("shuffle", "copyto", "readinto", "recv_into", "place", "putmask", "put_along_axis"))
_BUILTINS = frozenset(("setattr", "delattr", "next"))
_OF_DESCRIPTORS = frozenset(("read", "readv", "write", "writev", "lseek", "sendfile", "close"))
_THREADS = frozenset(
    ("current_thread", "currentThread", "main_thread", "get_ident", "get_native_id", "gettid", "local")
)
_STORES = ("STORE_ATTR", "STORE_SUBSCR", "STORE_SLICE", "STORE_GLOBAL", "DELETE_ATTR", "DELETE_SUBSCR", "DELETE_GLOBAL")
_COMPOUND = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.FunctionDef, ast.Lambda)


@dataclass(frozen=True)
class SharedWrite:
    """A part of a function that may change `what`, or, with `is_thread`, looks at its thread by that name.

    `is_alone`: no other statement is in its line.
    """

    what: str
    node: ast.expr
    is_alone: bool
    is_thread: bool = False
    is_store: bool = False


class FunctionReader(ast.NodeVisitor):
    """Reader of one function: its `writes`, the methods that its `set_ups` call, and all `named` elsewhere."""

    def __init__(
        self,
        function: FunctionType,
        definition: Definition,
        methods: frozenset[str] = frozenset(),
        receivers: Sequence[Any] = (),
        own: frozenset[str] = frozenset(),
    ) -> None:
        """Read a function.

        Args:
            function: Function of the user's.
            definition: Its source.
            methods: Names of the user's functions, which are read by themselves.
            receivers: Objects that have the function as a method, as far as they are known.
            own: Parameters that get nothing shared, as far as is known.
        """
        self.writes: list[SharedWrite] = []
        self.set_ups: set[str] = set()
        self.named: set[str] = set()
        self._values = LocalValues(function, definition, own)
        self.receiver = self._values.receiver
        self._class = function.__qualname__.rpartition(".")[0].rpartition(".")[2]
        self._methods, self._receivers = methods, receivers
        self._line = 0
        self._is_alone = True
        body = [definition.body] if isinstance(definition, ast.Lambda) else definition.body
        for node in body:
            self.visit(node)

    # ---- statements

    def visit(self, node: ast.AST) -> None:
        """Visit a node; what is only raised or asserted changes nothing."""
        if isinstance(node, (ast.Raise, ast.Assert)):
            return
        if not isinstance(node, ast.stmt):
            super().visit(node)
            return
        before = self._line, self._is_alone
        self._is_alone = node.lineno != self._line
        if isinstance(node, _COMPOUND):
            self._line = node.lineno
        super().visit(node)
        self._line, self._is_alone = before

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        outer = self.writes, self.named
        self.writes, self.named = [], set()
        for each in node.body:
            self.visit(each)
        if self._is_set_up(node):
            self.set_ups |= self.named
            self.writes, self.named = outer
        else:
            self.writes, self.named = [*outer[0], *self.writes], outer[1] | self.named
        for each in node.orelse:
            self.visit(each)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name) and not self._values.is_new(node.target):
            self._add(node.target, node.target)
        self.generic_visit(node)

    # ---- expressions

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            if node.id in self._values.shared:
                self._add(node, node, is_store=True)
            return
        self.named.add(node.id)
        is_local = node.id == "local" and getattr(self._values.meaning(node), "__module__", "") != "_thread"
        if node.id in _THREADS and not is_local:
            self._add(node, node, is_thread=True)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._visit_part(node)
        self.named.add(node.attr)
        if node.attr in _THREADS and (node.attr != "local" or self._values.is_library(node.value)):
            self._add(node, node, is_thread=True)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self._visit_part(node)

    def _visit_part(self, node: ast.Attribute | ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load) and not self._values.is_new(node.value):
            self._add(node, node, is_store=True)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        changed = self._changed_by(node)
        if changed is not None:
            self._add(changed, node)
        self.generic_visit(node)

    def _changed_by(self, call: ast.Call) -> ast.expr | None:
        """Return what a call may change although other threads have it too; None if that is nothing."""
        function, values = call.func, self._values
        for keyword in call.keywords:
            if keyword.arg == "out" and not values.is_new(keyword.value):
                return keyword.value
        first = call.args[0] if call.args and not values.is_new(call.args[0]) else None
        if isinstance(function, ast.Name):
            changes = function.id in _CHANGE_ARGUMENT | _BUILTINS and not values.binds(function.id)
            return first if changes else None
        if not isinstance(function, ast.Attribute) or is_user_code(values.meaning(function)):
            return None
        name, owner = function.attr, function.value
        if name in _CHANGE_ARGUMENT and first is not None:
            return first
        if values.is_library(owner):
            return first if name in _OF_DESCRIPTORS and getattr(values.meaning(owner), "__name__", "") == "os" else None
        changes = name in _CHANGING or (name.endswith("_") and not name.startswith("_"))
        return owner if changes and not values.is_new(owner) and not self._is_read_by_itself(owner, name) else None

    def _is_read_by_itself(self, owner: ast.expr, name: str) -> bool:
        """Return whether a method is a function of the user's."""
        if not isinstance(owner, (ast.Name, ast.Attribute)):
            return False
        if isinstance(owner, ast.Name):
            return owner.id == self.receiver and name in self._methods
        if not isinstance(owner.value, ast.Name) or owner.value.id != self.receiver:
            return False
        found = [vars(each).get(owner.attr) for each in self._receivers if hasattr(each, "__dict__")]
        return bool(found) and all(is_user_code(getattr(type(each), name, None)) for each in found)

    def _add(self, what: ast.expr, node: ast.expr, is_thread: bool = False, is_store: bool = False) -> None:
        named = ast.unparse(what) if is_thread else self._path(what)
        self.writes.append(SharedWrite(named, node, self._is_alone, is_thread, is_store))

    def _path(self, what: ast.expr) -> str:
        """Return the name of an object, without what is inside of it, such as `Frames.buffer`."""
        while True:
            inner = what.value if isinstance(what, (ast.Attribute, ast.Subscript)) else None
            if isinstance(what, ast.Subscript) or (isinstance(what, ast.Attribute) and not _is_path(what)):
                what = inner or what
                continue
            break
        text, receiver = ast.unparse(what).partition("\n")[0], self.receiver
        is_own = bool(receiver) and text.partition(".")[0] == receiver
        return f"{self._class}{text[len(receiver) :]}" if is_own else text

    # ---- set-ups

    def _is_set_up(self, node: ast.If) -> bool:
        """Return whether a branch makes once what its condition misses, from nothing that depends on a sample."""
        made = [part for part in _parts(node.test) if _missing_in(part) is not None]
        if not made:
            return False
        keys = {each.id for part in made if isinstance(part, ast.Compare) for each in _names(part.left)}
        stored = {write.what for write in self.writes if write.is_store}
        if any(not write.is_store and write.what not in stored for write in self.writes):
            return False
        bound = {each.id for item in node.body for each in _names(item) if not isinstance(each.ctx, ast.Load)}
        read = {each.id for item in (node.test, *node.body) for each in _names(item) if isinstance(each.ctx, ast.Load)}
        has_sums = any(isinstance(each, ast.AugAssign) for item in node.body for each in ast.walk(item))
        free = read - keys - bound - {self.receiver}
        return not has_sums and not any(map(self._values.binds, free - self._modules_in(free)))

    def _modules_in(self, names: set[str]) -> set[str]:
        return {name for name in names if isinstance(self._values.meaning(ast.Name(name, ast.Load())), ModuleType)}


def methods_of_set_ups(readers: Mapping[FunctionType, FunctionReader]) -> frozenset[str]:
    """Return the names of functions without arguments that only set-ups call."""
    named = {name for reader in readers.values() for name in reader.named}
    called = {name for reader in readers.values() for name in reader.set_ups}
    return frozenset(
        function.__name__
        for function, reader in readers.items()
        if function.__name__ in called - named and function.__code__.co_argcount <= bool(reader.receiver)
    )


def may_write(code: CodeType) -> bool:
    """Return whether a function without source, or one inside of it, may change what is shared, by its instructions."""
    if any(each.opname in _STORES or each.argval in _THREADS for each in dis.get_instructions(code)):
        return True
    if not _CHANGING.isdisjoint(code.co_names):
        return True
    return any(may_write(inner) for inner in code.co_consts if isinstance(inner, CodeType))


def _parts(test: ast.expr) -> Iterator[ast.expr]:
    """Yield the conditions that are joined by `and` and `or`."""
    if isinstance(test, ast.BoolOp):
        for each in test.values:
            yield from _parts(each)
    else:
        yield test


def _missing_in(test: ast.expr) -> ast.expr | None:
    """Return what a condition finds missing: `x is None`, `not x`, `not hasattr(x, ...)`, `key not in x`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        found = test.operand
        if isinstance(found, ast.Call) and getattr(found.func, "id", "") == "hasattr" and found.args:
            return found.args[0]
        return found if isinstance(found, ast.Attribute) else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    if isinstance(test.ops[0], ast.NotIn):
        return test.comparators[0]
    right = test.comparators[0]
    is_none = isinstance(test.ops[0], (ast.Is, ast.Eq)) and isinstance(right, ast.Constant) and right.value is None
    return test.left if is_none else None


def _names(node: ast.AST) -> list[ast.Name]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Name)]


def _is_path(node: ast.expr) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)
