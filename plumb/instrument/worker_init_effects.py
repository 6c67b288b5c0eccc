"""Effects of a script's `worker_init_fn`: whether it does more than seed random generators, by its source.

A worker's identity is its number, its seed and its copy of the dataset. What is computed from it may be passed to
functions that seed or print. It matters if it is stored anywhere but in a local variable, if it is passed to another
function, or if it decides what is stored or called.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import os
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

from plumb.core.printable import printable
from plumb.instrument.call_site import nodes_of
from plumb.instrument.callee import is_user_class, is_user_code
from plumb.instrument.code_names import closed_over
from plumb.instrument.local_values import DEFINITIONS, definitions_in, last_name
from plumb.instrument.object_parts import attributes_of

_UNKNOWN = object()
_DEEPEST = 8
# Calls of these return what differs between workers.
_SOURCES = frozenset(("get_worker_info", "initial_seed", "getpid", "current_process"))
# Functions of libraries that may be passed a worker's identity, by the ends of their names.
_HARMLESS = frozenset(
    ("print", "debug", "info", "warning", "set_num_threads", "setNumThreads", "setRNGSeed", "sched_setaffinity", "nice",
     "setproctitle", "getenv", "get_worker_info", "default_rng", "SeedSequence", "PCG64", "Generator", "Random",
     "RandomState", "md5", "sha1", "sha256", "blake2b", "crc32", "tensor", "array", "asarray", "prod")
)  # fmt: skip
_SEEDING = ("seed", "worker_init")
# Methods of numbers, texts and seed sequences that change nothing.
_PURE_METHODS = frozenset(
    ("generate_state", "spawn", "astype", "sum", "item", "encode", "format", "hexdigest", "digest", "to_bytes",
     "bit_length", "tolist", "numpy")
)  # fmt: skip
_PURE_BUILTINS = frozenset(
    getattr(builtins, name)
    for name in ("abs", "bool", "bytes", "divmod", "enumerate", "float", "hash", "hex", "int", "isinstance", "len",
                 "list", "max", "min", "pow", "print", "range", "repr", "round", "sorted", "str", "sum", "tuple",
                 "type", "zip", "getattr", "hasattr", "callable")
)  # fmt: skip


def place_of_effect(init: Any) -> str | None:
    """Return the function and line where a `worker_init_fn` does more than seed generators; None if nowhere.

    Libraries' own functions don't. A function whose source can't be read may.
    """
    try:
        return _Effects().of(init, (), {}, differs_everywhere=True)
    except Exception:
        return "its source could not be read"


class _Effects:
    """Search for effects through the functions that call each other."""

    def __init__(self) -> None:
        self._seen: set[tuple[types.CodeType, frozenset[str]]] = set()
        self._depth = 0

    def of(
        self, function: Any, given: tuple[Any, ...], named: Mapping[str, Any], differs_everywhere: bool = False,
        differing: frozenset[int | str] = frozenset(),
    ) -> str | None:  # fmt: skip
        """Return the place of an effect of a call, None without one.

        Args:
            function: What is called.
            given: Known values of its first parameters.
            named: Known values of parameters by name.
            differs_everywhere: Whether all its other parameters differ between workers.
            differing: Otherwise the places, after `given`, and names of those that do.
        """
        more: dict[str, Any] = {"differs_everywhere": differs_everywhere, "differing": differing}
        if isinstance(function, functools.partial):
            return self.of(function.func, (*function.args, *given), {**function.keywords, **named}, **more)
        if isinstance(function, types.MethodType):
            return self.of(function.__func__, (function.__self__, *given), named, **more)
        if not isinstance(function, types.FunctionType):
            call = inspect.getattr_static(type(function), "__call__", None)
            if is_user_class(type(function)) and isinstance(call, types.FunctionType):
                return self.of(call, (function, *given), named, **more)
            name = getattr(function, "__name__", "")
            is_harmless = not isinstance(function, types.BuiltinFunctionType) or "seed" in name or _is_pure(function)
            return None if is_harmless else name
        wrapped = getattr(function, "__wrapped__", None)
        if not is_user_code(function):
            return None if wrapped is None else self.of(wrapped, given, named, **more)
        code = function.__code__
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        rest = parameters[len(given) :]
        extra = code.co_varnames[len(parameters) : len(parameters) + 2] if code.co_flags & 0x0C else ()
        if differs_everywhere:
            tainted = frozenset((*(name for name in rest if name not in named), *extra))
        else:
            places = frozenset(rest[each] for each in differing if type(each) is int and each < len(rest))
            tainted = places | frozenset(name for name in rest if name in differing)
            if len(tainted) < len(differing):
                tainted |= frozenset(extra or rest)
        if (code, tainted) in self._seen:
            return None
        self._seen.add((code, tainted))
        if self._depth >= _DEEPEST:
            return _place(function, code.co_firstlineno)
        known = {**dict(zip(parameters, given, strict=False)), **named}
        self._depth += 1
        try:
            nodes = definitions_in(nodes_of(code.co_filename), function)
            if not nodes:
                return f"{_place(function, code.co_firstlineno)}, whose source could not be read"
            found = (_Body(self, function, node, set(tainted), known).effect() for node in nodes)
            return next((place for place in found if place is not None), None)
        finally:
            self._depth -= 1


class _Body:
    """One function's statements. `differing` are the names of values that differ between workers."""

    def __init__(
        self, effects: _Effects, function: types.FunctionType, node: Any, differing: set[str], known: dict[str, Any]
    ) -> None:
        self._effects, self._function, self._known = effects, function, known
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        self._nodes = [inner for statement in body for inner in ast.walk(statement)]
        self._outer = {
            name for each in self._nodes if isinstance(each, (ast.Global, ast.Nonlocal)) for name in each.names
        }
        self._differing = differing
        # Names of values that calls returned: they may differ, but no worker's number is known to be in them.
        self._called: set[str] = set()
        self._locals = set(function.__code__.co_varnames) - self._outer
        for each in self._nodes:
            if isinstance(each, DEFINITIONS):
                self._differing.update(
                    argument.arg for argument in ast.walk(each.args) if isinstance(argument, ast.arg)
                )
        self._imported = dict(_imported(self._nodes, function))

    def effect(self) -> str | None:
        """Return the place of the first effect, None without one."""
        stores = [store for node in self._nodes for store in _stores(node)]
        count = -1
        while count != len(self._differing) + len(self._called):
            count = len(self._differing) + len(self._called)
            for target, value in stores:
                names = {each.id for each in ast.walk(target) if isinstance(each, ast.Name)}
                if value is not None and self._differs(value):
                    self._differing |= names
                elif value is not None and not self._is_constant(value):
                    self._called |= names
        tests = (each.test for each in self._nodes if isinstance(each, (ast.If, ast.While, ast.IfExp)))
        decides = any(self._differs(test) for test in tests) or any(isinstance(each, ast.Match) for each in self._nodes)
        for target, value in stores:
            if self._is_store(target, value, decides):
                return _place(self._function, target.lineno)
        for node in self._nodes:
            if isinstance(node, ast.Call) and (place := self._of_call(node, decides)) is not None:
                return place
        return None

    def _differs(self, value: ast.AST) -> bool:
        return any(
            (isinstance(each, ast.Name) and each.id in self._differing)
            or (isinstance(each, ast.Call) and last_name(each.func) in _SOURCES)
            for each in ast.walk(value)
        )

    def _is_constant(self, value: ast.AST) -> bool:
        return not any(
            isinstance(each, (ast.Call, ast.Await)) or (isinstance(each, ast.Name) and each.id in self._called)
            for each in ast.walk(value)
        )

    def _is_store(self, target: ast.AST, value: ast.AST | None, decides: bool) -> bool:
        if isinstance(target, (ast.Tuple, ast.List)):
            return any(self._is_store(each, value, decides) for each in target.elts)
        if isinstance(target, ast.Starred):
            return self._is_store(target.value, value, decides)
        if isinstance(target, ast.Name) and target.id not in self._outer:
            return False
        if isinstance(target, ast.Subscript) and last_name(target.value) == "environ":
            return False
        # To give each worker's copy of the dataset the same value, whatever it is, tells no worker from another.
        indices = [each.slice for each in ast.walk(target) if isinstance(each, ast.Subscript)]
        is_told = value is None or self._differs(value) or not self._is_constant(value)
        return decides or is_told or any(map(self._differs, indices))

    def _of_call(self, call: ast.Call, decides: bool) -> str | None:
        """Return the place of a call's effect."""
        function, name = self._resolved(call.func), last_name(call.func)
        values = [*call.args, *(keyword.value for keyword in call.keywords)]
        if self._is_users(function):
            places = {i for i, each in enumerate(call.args) if self._differs(each)}
            named = {each.arg or "**" for each in call.keywords if self._differs(each.value)}
            is_unclear = any(isinstance(each, ast.Starred) for each in call.args) or "**" in named
            return self._effects.of(function, (), {}, decides or is_unclear, frozenset[Any](places | named))
        is_on_own = self._differs(call.func)
        is_given = any(self._differs(each) for each in values)
        if isinstance(function, type) and issubclass(function, BaseException):
            return None
        if isinstance(function, type) and is_user_class(function):
            return _place(self._function, call.lineno) if is_given or decides else None
        if not (is_on_own or is_given or decides):
            return None
        if is_on_own:
            is_harmless = name in _PURE_METHODS
        elif _is_pure(function) or name in _HARMLESS or name in _PURE_METHODS:
            is_harmless = True
        else:
            is_harmless = any(part in name.lower() for part in _SEEDING) or name in _SOURCES
        return None if is_harmless else _place(self._function, call.lineno)

    def _is_users(self, function: Any) -> bool:
        if isinstance(function, (types.FunctionType, types.MethodType, functools.partial)):
            inner = getattr(function, "func", getattr(function, "__func__", function))
            return is_user_code(inner)
        return function is not _UNKNOWN and not isinstance(function, type) and is_user_class(type(function))

    def _resolved(self, node: ast.AST) -> Any:
        """Return the value of a name or of an attribute, without running the user's code; _UNKNOWN if it isn't one."""
        if isinstance(node, ast.Name):
            return self._named(node.id)
        if not isinstance(node, ast.Attribute):
            return _UNKNOWN
        value = self._resolved(node.value)
        if value is _UNKNOWN:
            return _UNKNOWN
        if isinstance(value, types.ModuleType):
            return vars(value).get(node.attr, _UNKNOWN)
        own = {} if isinstance(value, type) else attributes_of(value)
        if node.attr in own:
            return own[node.attr]
        found = inspect.getattr_static(value, node.attr, _UNKNOWN)
        if isinstance(found, (staticmethod, classmethod)):
            return found.__func__
        is_method = isinstance(found, types.FunctionType) and not isinstance(value, type)
        return types.MethodType(found, value) if is_method else found

    def _named(self, name: str) -> Any:
        if name in self._known:
            return self._known[name]
        if name in self._imported:
            return self._imported[name]
        if name in self._locals:
            return _UNKNOWN
        for scope in (dict(closed_over(self._function)), self._function.__globals__, vars(builtins)):
            if name in scope:
                return scope[name]
        return _UNKNOWN


def _is_pure(function: Any) -> bool:
    if isinstance(function, type) and function.__module__.partition(".")[0] == "numpy":
        return True
    if isinstance(function, (type, types.BuiltinFunctionType)):
        return function in _PURE_BUILTINS or function.__module__ in ("math", "time")
    return False


def _stores(node: ast.AST) -> Iterator[tuple[Any, ast.AST | None]]:
    """Yield what a statement stores to, and the value; None for what is deleted."""
    if isinstance(node, ast.Assign):
        yield from ((target, node.value) for target in node.targets)
    elif isinstance(node, ast.AugAssign) or (isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value):
        yield node.target, node.value
    elif isinstance(node, (ast.For, ast.AsyncFor, ast.comprehension)):
        yield node.target, node.iter
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, node.context_expr
    elif isinstance(node, ast.Delete):
        yield from ((target, None) for target in node.targets)


def _imported(nodes: list[ast.AST], function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the modules, and their members, that a function imports itself."""
    package = function.__globals__.get("__package__") or ""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or name, sys.modules.get(name, _UNKNOWN)
        elif isinstance(node, ast.ImportFrom):
            name = f"{package}.{node.module}" if node.level else node.module or ""
            module = sys.modules.get(name)
            for alias in node.names:
                yield alias.asname or alias.name, vars(module).get(alias.name, _UNKNOWN) if module else _UNKNOWN


def _place(function: types.FunctionType, line: int) -> str:
    return printable(f"{function.__qualname__}, {os.path.basename(function.__code__.co_filename)}:{line}")
