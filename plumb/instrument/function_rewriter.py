"""Rewriter of Python functions that routes their calls through a recorder.

The function's source is located by its code object. Every call, operation on values, subscript and loop in it is turned
into a call of a recorder, and the result is compiled under the user's file name and line numbers. The new function gets
the recorder through an extra closure cell, so nothing is written to the user's modules or classes.

Nested functions, lambdas and classes are compiled unchanged: each function is rewritten when it is called, so a
function that outlives the trace is the user's plain code.
"""

from __future__ import annotations
import __future__

import ast
import copy
import dataclasses
import linecache
import threading
import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

from plumb.instrument.ast_sites import RECORDER, AstSite, RecordSites

SCOPE = "__plumb_scope__"

FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
ASYNC_FLAGS = 0x0080 | 0x0100 | 0x0200  # coroutine, iterable coroutine, asynchronous generator

FRAME_READING_NAMES = {"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "inspect"}
FRAME_READING_METHODS = {"_getframe", "currentframe"}
"""Functions that use one of these names are never rewritten: they may see the recorder's cell in their own frame."""


@dataclass(frozen=True)
class RewrittenFunction:
    """Rewritten code of the function with the id `function`, with the sites of its calls to a recorder."""

    function: str
    code: CodeType
    sites: tuple[AstSite, ...]

    def bind(self, function: FunctionType, recorder: object) -> FunctionType:
        """Return a copy of `function` (globals, defaults, closure) with this code, calling `recorder`."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        cells[RECORDER] = CellType(recorder)
        closure = tuple(cells[name] for name in self.code.co_freevars)
        bound = FunctionType(self.code, function.__globals__, function.__name__, function.__defaults__, closure)
        bound.__kwdefaults__ = function.__kwdefaults__
        bound.__qualname__ = function.__qualname__
        return bound


class Rewriter:
    """Rewriter of functions, with a cache of what it parsed and compiled."""

    def __init__(self) -> None:
        self._definitions: dict[str, dict[int, list[_Definition]]] = {}
        self._full: dict[tuple[str, CodeType], RewrittenFunction | None] = {}
        self._partial: dict[tuple[str, CodeType, frozenset[int], bool], RewrittenFunction] = {}
        # Python's own parser may not run in two threads at once (CPython issue 106905).
        self._lock = threading.Lock()

    def rewrite(
        self, function: FunctionType, keep: frozenset[int] | None = None, loops: bool = True
    ) -> RewrittenFunction | None:
        """Return the function's code with its sites recorded, or None if that can't be done faithfully.

        That is so if there is no source, if the source is not what runs (edited since, or rewritten by another tool),
        and for asynchronous code and code that may read its own frame.

        Args:
            function: Function to rewrite.
            keep: Indices of the sites to record; None records all.
            loops: Whether to record all loops as well.

        """
        code = function.__code__
        key = code.co_filename, code
        with self._lock:
            if key not in self._full:
                self._full[key] = self._compile(function, None, loops)
            full = self._full[key]
            if full is None or keep is None:
                return full
            partial_key = (*key, keep, loops)
            if partial_key not in self._partial:
                partial = self._compile(function, keep, loops)
                assert partial is not None
                self._partial[partial_key] = dataclasses.replace(full, code=partial.code)
            return self._partial[partial_key]

    def _compile(self, function: FunctionType, keep: frozenset[int] | None, loops: bool) -> RewrittenFunction | None:
        code = function.__code__
        if code.co_flags & ASYNC_FLAGS:
            return None
        for definition in self._candidates(code.co_filename, code.co_firstlineno, function.__globals__):
            plain = definition.compile(function, definition.node)
            if plain is not None and _same_code(plain, code):
                if _may_read_its_frame(definition.node):
                    return None
                visitor = RecordSites(function, keep, loops)
                recorded = definition.compile(function, visitor.rewrite(definition.node))
                return None if recorded is None else RewrittenFunction(visitor.function, recorded, tuple(visitor.sites))
        return None

    def _candidates(self, filename: str, line: int, module_globals: dict[str, Any]) -> list[_Definition]:
        if filename not in self._definitions:
            self._definitions[filename] = _definitions(filename, module_globals)
        return self._definitions[filename].get(line, [])


@dataclass(frozen=True)
class _Definition:
    """A `def` or lambda in a parsed file, with the class that mangles its private names, and the file's imports."""

    node: ast.FunctionDef | ast.Lambda
    class_name: str
    imports: list[ast.alias]

    def compile(self, function: FunctionType, node: ast.FunctionDef | ast.Lambda) -> CodeType | None:
        """Compile `node` in a scope that gives its names the meaning they have in `function`.

        An outer function names the free variables, and a class between the two provides `__class__` and mangling. The
        names that this scope binds are declared global, so that the function's own references skip them. The module's
        imports come first, because the compiler treats calls on imported names differently.

        Returns None if the node can't be compiled.
        """
        original = function.__code__
        free = [name for name in original.co_freevars if name != "__class__"]
        if isinstance(node, ast.Lambda):
            member: ast.stmt = ast.Expr(node)
        else:
            member = node
        body: list[ast.stmt] = [ast.ClassDef(self.class_name, [], [], [member], [])]
        if self.class_name not in free:
            body.insert(0, ast.Global([self.class_name]))
        parameters = [ast.arg(name) for name in (*free, RECORDER)]
        outer = ast.FunctionDef(SCOPE, ast.arguments([], parameters, None, [], [], None, []), body, [])
        for scope in (outer, body[-1]):
            scope.type_params = []  # type: ignore[attr-defined]  # required from Python 3.12 on, ignored before
        imports: list[ast.stmt] = [ast.Import(self.imports)] if self.imports else []
        module = ast.fix_missing_locations(ast.Module([*imports, outer], []))
        try:
            flags = original.co_flags & FUTURE_FLAGS
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the user has been warned
                compiled = compile(module, original.co_filename, "exec", flags=flags, dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError):
            return None
        for _ in range(3):
            compiled = next(const for const in compiled.co_consts if isinstance(const, CodeType))
        qualified_name = getattr(original, "co_qualname", function.__qualname__)
        return _renamed(compiled, f"{SCOPE}.<locals>.{self.class_name}.{original.co_name}", qualified_name)


def _definitions(filename: str, module_globals: dict[str, Any]) -> dict[int, list[_Definition]]:
    """Return the functions defined in a file, by the line in their code objects; none if the file can't be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse("".join(linecache.getlines(filename, module_globals)))
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[int, list[_Definition]] = defaultdict(list)
    imports = [ast.alias(name) for name in _imported_names(tree)]

    def collect(parent: ast.AST, class_name: str) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.Lambda):
                found[node.lineno].append(_Definition(_bare(node), class_name, imports))
            elif isinstance(node, ast.FunctionDef):
                first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
                found[first].append(_Definition(_bare(node), class_name, imports))
            collect(node, node.name if isinstance(node, ast.ClassDef) else class_name)

    collect(tree, "_")
    return found


def _imported_names(scope: ast.AST) -> set[str]:
    """Return the names that a module's own statements import, without those in its functions and classes."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name.partition(".")[0]) for alias in node.names if alias.name != "*")
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            names |= _imported_names(node)
    return names


def _bare(node: ast.FunctionDef | ast.Lambda) -> Any:
    """Return a definition without what is evaluated outside its body: decorators, defaults, annotations."""
    bare = copy.copy(node)
    bare.args = copy.deepcopy(node.args)
    bare.args.defaults = []
    bare.args.kw_defaults = [None] * len(bare.args.kwonlyargs)
    every = [*bare.args.posonlyargs, *bare.args.args, *bare.args.kwonlyargs, bare.args.vararg, bare.args.kwarg]
    for argument in filter(None, every):
        argument.annotation = None
    if isinstance(bare, ast.FunctionDef):
        bare.decorator_list = []
        bare.returns = None
        bare.type_params = []  # type: ignore[attr-defined]  # exists from Python 3.12 on
    return bare


def _may_read_its_frame(definition: ast.AST) -> bool:
    return any(
        (isinstance(node, ast.Name) and node.id in FRAME_READING_NAMES)
        or (isinstance(node, ast.Attribute) and node.attr in FRAME_READING_METHODS)
        for node in ast.walk(definition)
    )


def _same_code(left: CodeType, right: CodeType) -> bool:
    """Return whether two code objects run the same instructions on the same names and constants."""
    return (
        left.co_code == right.co_code
        and left.co_name == right.co_name
        and left.co_names == right.co_names
        and left.co_varnames == right.co_varnames
        and left.co_freevars == right.co_freevars
        and len(left.co_consts) == len(right.co_consts)
        and all(
            _same_code(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType) else a == b
            for a, b in zip(left.co_consts, right.co_consts, strict=True)
        )
    )


def _renamed(code: CodeType, scope: str, name: str) -> CodeType:
    """Return the code with its original's qualified name, and nested functions and classes with theirs."""

    def renamed(const: object) -> object:
        if isinstance(const, CodeType):
            return _renamed(const, scope, name)
        return name + const[len(scope) :] if isinstance(const, str) and const.startswith(scope) else const

    changes: dict[str, Any] = {"co_consts": tuple(map(renamed, code.co_consts))}
    if hasattr(code, "co_qualname"):  # from Python 3.11 on
        changes["co_qualname"] = renamed(code.co_qualname)
    return code.replace(**changes)
