"""A Python function -> the same function with its calls routed through a recorder.

The function's source is found again by its code object, every call, operation on values, subscript and loop in it is
turned into a call of a recorder, and the result is compiled under the user's file name and line numbers. The recorder
reaches the new function through an extra closure cell, so nothing is written to the user's modules or classes.

Nested functions, lambdas and classes are compiled as they stand: each function is rewritten when it is called, so one
that outlives the trace is the user's plain code.
"""

from __future__ import annotations
import __future__

import ast
import copy
import dataclasses
import linecache
import warnings
from collections import defaultdict
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any, Literal

RECORDER = "__plumb__"
SCOPE = "__plumb_scope__"

FUTURE_FLAGS = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
ASYNC_FLAGS = 0x0080 | 0x0100 | 0x0200  # coroutine, iterable coroutine, asynchronous generator

FRAME_READING_NAMES = {"locals", "vars", "dir", "eval", "exec", "_getframe", "currentframe", "inspect"}
FRAME_READING_METHODS = {"_getframe", "currentframe"}
"""A function that names one of these may see its own frame, where the recorder's cell would show: never rewritten."""

TRIVIAL = {
    "isinstance",
    "issubclass",
    "len",
    "range",
    "type",
    "getattr",
    "hasattr",
    "setattr",
    "id",
    "callable",
    "super",
}
"""Builtins that do no work on a sample: their calls are left as they are."""

FORWARDING: dict[str, tuple[int, int | None]] = {
    "enumerate": (0, 1),
    "zip": (0, None),
    "map": (1, None),
    "filter": (1, 2),
}
"""Builtins that call and iterate what they are given: how many arguments they call, and where those to iterate end."""

SiteKind = Literal["call", "operation", "store", "loop"]


@dataclass(frozen=True)
class Site:
    """One place in a function where the recorder is called.

    `index` numbers the sites of a function in source order and is the same each time the same source is rewritten,
    whichever of its sites are kept. `text` is the source of what is called, applied or iterated.
    """

    function: str
    index: int
    kind: SiteKind
    filename: str
    line: int
    text: str

    @property
    def id(self) -> str:
        """The site's stable name, e.g. `mymodule:Dataset.__getitem__#3`."""
        return f"{self.function}#{self.index}"


@dataclass(frozen=True)
class Rewritten:
    """The code of the function with the id `function`, calls to a recorder in it, and the sites of these calls."""

    function: str
    code: CodeType
    sites: tuple[Site, ...]

    def bind(self, function: FunctionType, recorder: object) -> FunctionType:
        """`function` as it was (globals, defaults, closure), with this code, talking to `recorder`."""
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        cells[RECORDER] = CellType(recorder)
        closure = tuple(cells[name] for name in self.code.co_freevars)
        bound = FunctionType(self.code, function.__globals__, function.__name__, function.__defaults__, closure)
        bound.__kwdefaults__ = function.__kwdefaults__
        bound.__qualname__ = function.__qualname__
        return bound


class Rewriter:
    """Rewrites functions, and remembers what it has parsed and compiled."""

    def __init__(self) -> None:
        self._definitions: dict[str, dict[int, list[_Definition]]] = {}
        self._full: dict[tuple[str, CodeType], Rewritten | None] = {}
        self._partial: dict[tuple[str, CodeType, frozenset[int]], Rewritten] = {}

    def rewrite(self, function: FunctionType, keep: frozenset[int] | None = None) -> Rewritten | None:
        """The function's code with its sites recorded: all of them, or its loops and those whose index is in `keep`.

        None where that can't be done faithfully: no source, source that is not what runs (edited since, or rewritten
        by somebody else), asynchronous code, or code that looks at its own frame.
        """
        code = function.__code__
        key = code.co_filename, code
        if key not in self._full:
            self._full[key] = self._compile(function, None)
        full = self._full[key]
        if full is None or keep is None:
            return full
        partial_key = (*key, keep)
        if partial_key not in self._partial:
            partial = self._compile(function, keep)
            assert partial is not None
            self._partial[partial_key] = dataclasses.replace(full, code=partial.code)
        return self._partial[partial_key]

    def _compile(self, function: FunctionType, keep: frozenset[int] | None) -> Rewritten | None:
        code = function.__code__
        if code.co_flags & ASYNC_FLAGS:
            return None
        for definition in self._candidates(code.co_filename, code.co_firstlineno, function.__globals__):
            plain = definition.compile(function, definition.node)
            if plain is not None and _same_code(plain, code):
                if _may_read_its_frame(definition.node):
                    return None
                visitor = _RecordSites(function, keep)
                recorded = definition.compile(function, visitor.rewrite(definition.node))
                return None if recorded is None else Rewritten(visitor.function, recorded, tuple(visitor.sites))
        return None

    def _candidates(self, filename: str, line: int, module_globals: dict[str, Any]) -> list[_Definition]:
        if filename not in self._definitions:
            self._definitions[filename] = _definitions(filename, module_globals)
        return self._definitions[filename].get(line, [])


def function_id(function: FunctionType) -> str:
    """A name for a function that survives edits elsewhere in its file; lambdas have no name and take their line."""
    name = f"{function.__module__}:{function.__qualname__}"
    return f"{name}@{function.__code__.co_firstlineno}" if function.__name__ == "<lambda>" else name


@dataclass(frozen=True)
class _Definition:
    """A `def` or a lambda in a parsed file, the class whose name mangles its private names, and the file's imports."""

    node: ast.FunctionDef | ast.Lambda
    class_name: str
    imports: list[ast.alias]

    def compile(self, function: FunctionType, node: ast.FunctionDef | ast.Lambda) -> CodeType | None:
        """The code of `node`, compiled in a scope that gives its names the meaning they have in `function`.

        An outer function names the free variables, and a class between the two provides `__class__` and mangling. The
        names that this binds are declared global, so that the function's own references pass them by. The module's
        imports stand before it, for calls on imported names are compiled in a way of their own.
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
    """The functions defined in a file, by the line that their code objects give; none where it can't be read."""
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
    """The names that a module's own statements import, without those in its functions and classes."""
    names: set[str] = set()
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name.partition(".")[0]) for alias in node.names if alias.name != "*")
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            names |= _imported_names(node)
    return names


def _bare(node: ast.FunctionDef | ast.Lambda) -> Any:
    """The definition without what is evaluated outside its body: decorators, defaults, annotations."""
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
    """Whether two code objects run the same instructions on the same names and constants."""
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
    """The code with the qualified name that its original has, and the functions and classes defined in it likewise."""

    def renamed(const: object) -> object:
        if isinstance(const, CodeType):
            return _renamed(const, scope, name)
        return name + const[len(scope) :] if isinstance(const, str) and const.startswith(scope) else const

    changes: dict[str, Any] = {"co_consts": tuple(map(renamed, code.co_consts))}
    if hasattr(code, "co_qualname"):  # from Python 3.11 on
        changes["co_qualname"] = renamed(code.co_qualname)
    return code.replace(**changes)


OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow", ast.MatMult: "matmul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
    ast.LShift: "lshift", ast.RShift: "rshift", ast.USub: "neg", ast.Invert: "invert", ast.Lt: "lt", ast.LtE: "le",
    ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip


def _in_place(node: ast.operator) -> str:
    return "i" + OPERATORS[type(node)].rstrip("_")


class _RecordSites(ast.NodeTransformer):
    """Turns the sites of one function into calls of the recorder.

    Nodes keep their positions, so a traceback shows the user's line. Statements that evaluate in an order of their own
    (subscripts on both sides of an assignment, chained comparisons) are left alone where a call can't keep it.
    """

    def __init__(self, function: FunctionType, keep: frozenset[int] | None) -> None:
        code = function.__code__
        self.function = function_id(function)
        self.filename = code.co_filename
        self.shadowed = {*code.co_varnames, *code.co_cellvars, *code.co_freevars, *function.__globals__}
        self.keep = keep
        self.sites: list[Site] = []

    def rewrite(self, definition: ast.FunctionDef | ast.Lambda) -> Any:
        node = copy.deepcopy(definition)
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = [self.visit(statement) for statement in node.body]
        return node

    def _record(self, method: str, kind: SiteKind, place: ast.expr, described: ast.AST) -> _Call | None:
        """Takes the next site number; a maker of the call to the recorder, or None where the site is not kept."""
        index = len(self.sites)
        line, column = _reported_position(place)
        self.sites.append(Site(self.function, index, kind, self.filename, line, _source(described)))
        kept = self.keep is None or index in self.keep or kind == "loop"
        return _Call(method, index, place, line, column) if kept else None

    def visit_Call(self, node: ast.Call) -> ast.expr:
        named = node.func.id if isinstance(node.func, ast.Name) else None
        if named in FORWARDING and named not in self.shadowed:
            makers = self._forwarded(node.args, *FORWARDING[named])
            self.generic_visit(node)
            node.args = [a if maker is None else maker.make(a) for a, maker in zip(node.args, makers, strict=True)]
            return node
        call = None if named in TRIVIAL else self._record("call", "call", node, node.func)
        self.generic_visit(node)
        return node if call is None else call.make(node.func, *node.args, keywords=node.keywords)

    def _forwarded(self, arguments: list[ast.expr], called: int, end: int | None) -> list[_Call | None]:
        makers: list[_Call | None] = []
        for place, argument in enumerate(arguments):
            if isinstance(argument, ast.Starred):
                break  # from here on, places are not known
            if place < called:
                makers.append(self._record("forward", "call", argument, argument))
            else:
                makers.append(self._loop(argument) if end is None or place < end else None)
        return makers + [None] * (len(arguments) - len(makers))

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        if isinstance(node.left, ast.Constant) and isinstance(node.right, ast.Constant):
            return node
        call = self._record("operate", "operation", node, node)
        self.generic_visit(node)
        return node if call is None else call.operate(OPERATORS[type(node.op)], node.left, node.right)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        recorded = type(node.op) in OPERATORS and not isinstance(node.operand, ast.Constant)
        call = self._record("operate", "operation", node, node) if recorded else None
        self.generic_visit(node)
        return node if call is None else call.operate(OPERATORS[type(node.op)], node.operand)

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        recorded = len(node.ops) == 1 and type(node.ops[0]) in OPERATORS
        call = self._record("operate", "operation", node, node) if recorded else None
        self.generic_visit(node)
        return node if call is None else call.operate(OPERATORS[type(node.ops[0])], node.left, node.comparators[0])

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        recorded = isinstance(node.ctx, ast.Load)
        call = self._record("operate", "operation", node, node) if recorded else None
        self.generic_visit(node)
        return node if call is None else call.operate("getitem", node.value, _index(node.slice))

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        target = node.targets[0]
        recorded = len(node.targets) == 1 and isinstance(target, ast.Subscript)
        call = self._record("store", "store", target, target) if recorded else None
        self.generic_visit(node)
        if call is None:
            return node
        assert isinstance(target, ast.Subscript)
        return ast.copy_location(ast.Expr(call.make(node.value, target.value, _index(target.slice))), node)

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.stmt:
        target = node.target
        place = ast.copy_location(ast.Name("_"), node)
        if isinstance(target, ast.Name):
            call = self._record("operate", "operation", place, node)
            self.generic_visit(node)
            if call is None:
                return node
            loaded = ast.copy_location(ast.Name(target.id, ast.Load()), target)
            value = call.operate(_in_place(node.op), loaded, node.value)
            return ast.copy_location(ast.Assign([target], value), node)
        if isinstance(target, ast.Subscript) and isinstance(node.value, (ast.Name, ast.Constant)):
            # here `value` is evaluated before the element is read, which is no change for a name or a constant
            call = self._record("update", "store", place, node)
            self.generic_visit(node)
            if call is None:
                return node
            operation = ast.Constant(_in_place(node.op))
            return ast.copy_location(
                ast.Expr(call.make(operation, target.value, _index(target.slice), node.value)), node
            )
        self.generic_visit(node)
        return node

    def visit_For(self, node: ast.For) -> ast.stmt:
        loop = self._loop(node.iter)
        self.generic_visit(node)
        node.iter = node.iter if loop is None else loop.make(node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        loop = None if node.is_async else self._loop(node.iter)
        self.generic_visit(node)
        node.iter = node.iter if loop is None else loop.make(node.iter)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.expr:
        loop = self._loop(node.value)
        self.generic_visit(node)
        node.value = node.value if loop is None else loop.make(node.value)
        return node

    def _loop(self, iterable: ast.expr) -> _Call | None:
        return self._record("iterate", "loop", iterable, iterable)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        node.target = self.visit(node.target)
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_match_case(self, node: Any) -> Any:
        # patterns hold no code, although some look like expressions
        if node.guard is not None:
            node.guard = self.visit(node.guard)
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def _leave(self, node: ast.AST) -> ast.AST:
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = visit_ClassDef = _leave  # noqa: N815
    visit_TypeAlias = visit_Raise = visit_Global = visit_Nonlocal = _leave  # noqa: N815


@dataclass(frozen=True)
class _Call:
    """Makes the expression that calls a method of the recorder for one site, at the place of what it replaces."""

    method: str
    index: int
    place: ast.expr
    line: int
    column: int

    def make(self, *arguments: ast.expr, keywords: list[ast.keyword] | None = None) -> ast.expr:
        method = ast.Attribute(ast.Name(RECORDER, ast.Load()), self.method, ast.Load())
        call = ast.Call(method, [ast.Constant(self.index), *arguments], keywords or [])
        ast.copy_location(call, self.place)
        call.lineno, call.col_offset = self.line, self.column
        for node in (method, method.value, call.args[0]):
            # on one line: the compiler reports a method that spans several at its last
            node.lineno = node.end_lineno = self.line
            node.col_offset = node.end_col_offset = self.column
        return ast.fix_missing_locations(call)

    def operate(self, operation: str, *operands: ast.expr) -> ast.expr:
        return self.make(ast.Constant(operation), *operands)


def _reported_position(place: ast.expr) -> tuple[int, int]:
    """Where a traceback places an expression: the call of a method that stands on a line of its own, on that line."""
    if isinstance(place, ast.Call) and isinstance(place.func, ast.Attribute):
        name = place.func
        assert name.end_lineno is not None
        assert name.end_col_offset is not None
        if name.end_lineno != name.lineno:
            return name.end_lineno, name.end_col_offset - len(name.attr)
    return place.lineno, place.col_offset


def _index(node: ast.expr) -> ast.expr:
    """A subscript as an ordinary expression, with slices built by the recorder's `slice`."""
    if isinstance(node, ast.Slice):
        bounds = [bound or ast.Constant(None) for bound in (node.lower, node.upper, node.step)]
        maker = ast.Attribute(ast.Name(RECORDER, ast.Load()), "slice", ast.Load())
        return ast.fix_missing_locations(ast.copy_location(ast.Call(maker, bounds, []), node))
    if isinstance(node, ast.Tuple):
        return ast.copy_location(ast.Tuple([_index(element) for element in node.elts], ast.Load()), node)
    return node


def _source(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else text[:57] + "..."
