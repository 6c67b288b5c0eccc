"""Sites of a function: its calls, operations, stores and loops, turned into calls of the recorder."""

from __future__ import annotations

import ast
import copy
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

RECORDER = "__plumb__"

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
"""Builtins whose calls are not recorded, because they do no work on a sample."""

FORWARDING: dict[str, tuple[int, int | None]] = {
    "enumerate": (0, 1),
    "zip": (0, None),
    "map": (1, None),
    "filter": (1, 2),
}
"""Builtins that call and iterate their arguments: number of arguments called, and end of those iterated (None: all)."""

SiteKind = Literal["call", "operation", "store", "loop"]


@dataclass(frozen=True)
class AstSite:
    """One place in a function where the recorder is called.

    `index` numbers the sites of a function in source order; it is the same each time the same source is rewritten,
    whichever sites are kept. `text` is the source of what is called, applied or iterated.
    """

    function: str
    index: int
    kind: SiteKind
    filename: str
    line: int
    text: str

    @property
    def id(self) -> str:
        """Stable name of the site, e.g. `mymodule:Dataset.__getitem__#3`."""
        return f"{self.function}#{self.index}"


def function_id(function: FunctionType) -> str:
    """Return a name for a function that survives edits elsewhere in its file; lambdas are named by their line.

    It is the same in a spawned process, where the script's module has another name.
    """
    module = "__main__" if function.__module__ == "__mp_main__" else function.__module__
    name = f"{module}:{function.__qualname__}"
    return f"{name}@{function.__code__.co_firstlineno}" if function.__name__ == "<lambda>" else name


OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "truediv", ast.FloorDiv: "floordiv", ast.Mod: "mod",
    ast.Pow: "pow", ast.MatMult: "matmul", ast.BitAnd: "and_", ast.BitOr: "or_", ast.BitXor: "xor",
    ast.LShift: "lshift", ast.RShift: "rshift", ast.USub: "neg", ast.Invert: "invert", ast.Lt: "lt", ast.LtE: "le",
    ast.Gt: "gt", ast.GtE: "ge", ast.Eq: "eq", ast.NotEq: "ne",
}  # fmt: skip


def _in_place(node: ast.operator) -> str:
    return "i" + OPERATORS[type(node)].rstrip("_")


class RecordSites(ast.NodeTransformer):
    """Transformer that turns the sites of one function into calls of the recorder, and lists them.

    Nodes keep their positions, so that a traceback shows the user's line. Statements with an evaluation order of their
    own (subscripts on both sides of an assignment, chained comparisons) are left unchanged if a call can't keep that
    order.
    """

    def __init__(self, function: FunctionType, keep: frozenset[int] | None, loops: bool) -> None:
        code = function.__code__
        self.function = function_id(function)
        self.filename = code.co_filename
        self.shadowed = {*code.co_varnames, *code.co_cellvars, *code.co_freevars, *function.__globals__}
        self.keep = keep
        self.loops = loops
        self.sites: list[AstSite] = []

    def rewrite(self, definition: ast.FunctionDef | ast.Lambda) -> Any:
        """Return a copy of a definition in which the kept sites call the recorder."""
        node = copy.deepcopy(definition)
        if isinstance(node, ast.Lambda):
            node.body = self.visit(node.body)
        else:
            node.body = [self.visit(statement) for statement in node.body]
        return node

    def _record(self, method: str, kind: SiteKind, place: ast.expr, described: ast.AST) -> _Call | None:
        """Add the next site to the list; return the maker of its call to the recorder, or None if it is not kept."""
        index = len(self.sites)
        line, column = _reported_position(place)
        self.sites.append(AstSite(self.function, index, kind, self.filename, line, _source(described)))
        kept = self.keep is None or index in self.keep or (self.loops and kind == "loop")
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
            # the call evaluates `value` before it reads the element, which makes no difference for a name or a constant
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
    """Maker of the expression that calls a method of the recorder for one site, at the place of what it replaces."""

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
    """Return the position that a traceback gives an expression: for a method on a line of its own, that line."""
    if isinstance(place, ast.Call) and isinstance(place.func, ast.Attribute):
        name = place.func
        assert name.end_lineno is not None
        assert name.end_col_offset is not None
        if name.end_lineno != name.lineno:
            return name.end_lineno, name.end_col_offset - len(name.attr)
    return place.lineno, place.col_offset


def _index(node: ast.expr) -> ast.expr:
    """Return a subscript as an ordinary expression, with slices built by the recorder's `slice`."""
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
