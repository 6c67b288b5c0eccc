"""A source file of the user's, and the calls in it that make loaders."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libcst as cst
from libcst.metadata import CodeRange, MetadataWrapper, ParentNodeProvider, PositionProvider, QualifiedNameProvider

from plumb.core.errors import ExplainedError

# Positional parameters of torch's DataLoader, in their order.
PARAMETERS = (
    "dataset",
    "batch_size",
    "shuffle",
    "sampler",
    "batch_sampler",
    "num_workers",
    "collate_fn",
    "pin_memory",
    "drop_last",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
)
# Stands for a value that can't be read from the source alone.
UNKNOWN: Any = object()
Function = cst.FunctionDef | cst.Lambda
_SHORTEST_LIMIT, _LONGEST_LINE = 88, 120
_TORCHS = {"torch.utils.data.DataLoader", "torch.utils.data.dataloader.DataLoader"}


class SourceError(ExplainedError):
    """A source can't be read or lacks what is looked for."""


@dataclass(frozen=True)
class LoaderCall:
    """A call that makes a loader.

    `name` is the target to which its statement assigns it, `function` the function around it. `parameters` names its
    positional arguments; it is None if the class is not torch's and may have others. `preset` is the
    `functools.partial(...)` that bound some of its arguments before.
    """

    node: cst.Call
    line: int
    end_line: int
    name: str | None
    function: str | None
    parameters: tuple[str, ...] | None
    preset: cst.Call | None = None

    def is_named(self, name: str) -> bool:
        """Return whether the plan calls this loader `name`; a loader without a target is called by its function."""
        return name == (self.name or self.function)


@dataclass(frozen=True)
class Assignment:
    """An assignment of `value` in `function`, which is None in a module or a class."""

    node: cst.CSTNode
    value: cst.BaseExpression
    function: cst.FunctionDef | None


@dataclass(frozen=True)
class _LoaderClass:
    parameters: tuple[str, ...] | None
    own_init: bool = False
    preset: cst.Call | None = None


class SourceFile:
    """A parsed file. Raises SourceError if it can't be parsed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.module, collected = _parse(path)
        self._lines = self.module.code.splitlines()
        self.calls = tuple(collected.calls)
        self._collected = collected
        self._assignments: dict[str, list[Assignment]] = {}
        for node, target, value in collected.assigned:
            spelled = Assignment(node, value, self.function_of(node))
            self._assignments.setdefault(self.code(target), []).append(spelled)
        self.loader_calls = tuple(self._loader_calls())

    def code(self, node: cst.CSTNode) -> str:
        """Return the text of `node`."""
        return self.module.code_for_node(node).strip()

    def line(self, node: cst.CSTNode) -> int:
        """Return the line on which `node` begins."""
        return self._range(node).start.line

    def place(self, node: cst.CSTNode) -> str:
        """Return where `node` begins, as `train.py:41`."""
        return f"{self.path.name}:{self.line(node)}"

    def function_of(self, node: cst.CSTNode) -> cst.FunctionDef | None:
        """Return the innermost function around `node`; None outside of functions."""
        return next((n for n in self._parents(node) if isinstance(n, cst.FunctionDef)), None)

    def scopes_of(self, node: cst.CSTNode) -> Iterator[Function]:
        """Yield the functions around `node`, lambdas included, the innermost first."""
        return (n for n in self._parents(node) if isinstance(n, (cst.FunctionDef, cst.Lambda)))

    def scope_of(self, node: cst.CSTNode) -> Function | None:
        """Return the innermost function around `node`, lambdas included; None outside of functions."""
        return next(self.scopes_of(node), None)

    def start(self, node: cst.CSTNode) -> tuple[int, int]:
        """Return the line and column at which `node` begins."""
        where = self._range(node).start
        return where.line, where.column

    def imported_names(self, node: cst.CSTNode) -> frozenset[str]:
        """Return the full names that `node` may stand for, such as `config.WORKERS`."""
        return self._collected.qualified.get(node, frozenset())

    def class_of(self, node: cst.CSTNode) -> cst.ClassDef | None:
        """Return the innermost class around `node`; None outside of classes."""
        return next((n for n in self._parents(node) if isinstance(n, cst.ClassDef)), None)

    def assignments(self, target: str, near: cst.CSTNode) -> Sequence[Assignment]:
        """Return the assignments to `target` that the code at `near` sees."""
        found = self._assignments.get(target, [])
        if target.startswith("self."):
            return [a for a in found if self.class_of(a.node) is self.class_of(near)]
        for function in self.scopes_of(near):
            local = [a for a in found if a.function is function]
            if local:
                return local
        if not target.isidentifier():
            return found
        return self.module_assignments(target)

    def module_assignments(self, name: str) -> Sequence[Assignment]:
        """Return the assignments to `name` outside of functions and classes."""
        found = self._assignments.get(name, [])
        return [a for a in found if a.function is None and self.class_of(a.node) is None]

    def attribute_assignments(self, target: str) -> Sequence[Assignment]:
        """Return the assignments to `self.NAME` in any class."""
        return self._assignments.get(target, [])

    def uses(self, name: str, near: cst.CSTNode) -> Iterator[cst.CSTNode]:
        """Yield the parents of all uses of `name`; only those in the function of `near` if it is local there."""
        function = self.function_of(near)
        is_local = any(a.function is function for a in self._assignments.get(name, []))
        for node in self._collected.names:
            if node.value == name and (not is_local or self.function_of(node) is function):
                yield self._collected.parents[node]

    def class_attributes(self, name: str) -> Sequence[Assignment]:
        """Return the assignments to `name` in class bodies."""
        found = self._assignments.get(name, [])
        return [a for a in found if a.function is None and self.class_of(a.node) is not None]

    def calls_of(self, name: str) -> Sequence[cst.Call]:
        """Return the calls of a function, class or method called `name`."""
        return [call for call in self.calls if last_name(call.func) == name]

    def name_of(self, call: cst.Call) -> str | None:
        """Return the target to which the statement around `call` assigns it, spelled as in a plan, or None."""
        kinds = (cst.Assign, cst.AnnAssign, cst.Return)
        statement = next((n for n in self._parents(call) if isinstance(n, (*kinds, cst.BaseCompoundStatement))), None)
        if isinstance(statement, cst.Assign):
            target: cst.BaseExpression = statement.targets[0].target
        elif isinstance(statement, cst.AnnAssign):
            target = statement.target
        else:
            return None
        selector = self._selector(statement.value, call)
        if isinstance(target, (cst.Tuple, cst.List)):
            if not isinstance(selector, int) or selector >= len(target.elements):
                return None
            target, selector = target.elements[selector].value, None
        spelled = target.attr.value if isinstance(target, cst.Attribute) else normal(self.code(target))
        return spelled if selector is None else f"{spelled}[{selector}]"

    def is_too_long(self, call: cst.Call, new: cst.Call) -> bool:
        """Return whether a one-line call, replaced by `new`, would make its line longer than the file's other lines."""
        where = self._range(call)
        line = self._lines[where.start.line - 1]
        longest = min(max(map(len, self._lines)), _LONGEST_LINE)
        longer = len(line) - len(self.code(call)) + len(self.code(new))
        return where.start.line == where.end.line and longer > max(longest, _SHORTEST_LIMIT)

    def aligned_line_end(self, call: cst.Call) -> cst.ParenthesizedWhitespace:
        """Return a line end with the indentation that continues the arguments of `call` below its first one."""
        where = self._range(call.func)
        line = self._lines[where.end.line - 1]
        indentation = line[: len(line) - len(line.lstrip())]
        blanks = " " * (where.end.column + 1 - len(indentation))
        return cst.ParenthesizedWhitespace(last_line=cst.SimpleWhitespace(indentation + blanks))

    def _selector(self, value: cst.BaseExpression | None, call: cst.Call) -> str | int | None:
        """Return the key or index of `call` in a dictionary or tuple display; None elsewhere."""
        around = {call, *self._parents(call)}
        if isinstance(value, cst.Dict):
            entries = (e for e in value.elements if isinstance(e, cst.DictElement) and e.value in around)
            return next((normal(self.code(entry.key)) for entry in entries), None)
        if isinstance(value, (cst.Tuple, cst.List)):
            return next((n for n, element in enumerate(value.elements) if element.value in around), None)
        return None

    def loader_call(self, call: cst.Call) -> LoaderCall | None:
        """Return a call as one that makes a loader, as far as the source shows; None for any other call."""
        made = self._made_by(call)
        return None if made is None else self.as_loader_call(call, made.parameters, made.preset)

    def as_loader_call(
        self, call: cst.Call, parameters: tuple[str, ...] | None, preset: cst.Call | None = None
    ) -> LoaderCall:
        """Return a call that is known to make a loader, with the names of its positional arguments."""
        where, function = self._range(call), self.function_of(call)
        return LoaderCall(
            call,
            where.start.line,
            where.end.line,
            self.name_of(call),
            function.name.value if function else None,
            parameters,
            preset,
        )

    def _loader_calls(self) -> Iterator[LoaderCall]:
        for call in self.calls:
            made = self._made_by(call)
            if made is not None and not made.own_init:
                yield self.as_loader_call(call, made.parameters, made.preset)

    def _made_by(self, call: cst.Call) -> _LoaderClass | None:
        function = call.func
        if isinstance(function, cst.Attribute) and function.attr.value == "__init__":
            return self._initialised_by(call, function.value)
        return self._loader_class(function)

    def _initialised_by(self, call: cst.Call, base: cst.BaseExpression) -> _LoaderClass | None:
        """Return the class that `super().__init__(...)` or `Base.__init__(self, ...)` in a subclass initialises."""
        around = self.class_of(call)
        if isinstance(base, cst.Call) and last_name(base.func) == "super":
            bases = [self._loader_class(argument.value) for argument in around.bases] if around else []
            return next((made for made in bases if made is not None), None)
        made = self._loader_class(base)
        if made is None or made.parameters is None:
            return made
        return _LoaderClass(("self", *made.parameters), made.own_init)

    def _loader_class(self, expression: cst.BaseExpression, depth: int = 0) -> _LoaderClass | None:
        """Return the class of loaders, or the partial of one, that `expression` stands for; None for anything else."""
        names = self._collected.qualified.get(expression, frozenset())
        if names & _TORCHS:
            return _LoaderClass(PARAMETERS)
        if depth > len(self._collected.classes) + 1:
            return None
        if isinstance(expression, cst.Name):
            defined = self._collected.classes.get(expression.value)
            if defined is not None:
                return self._subclass(defined, depth)
            assigned = self.assignments(expression.value, expression)
            if assigned:
                return self._loader_class(assigned[0].value, depth + 1) if len(assigned) == 1 else None
        if isinstance(expression, cst.Call):
            return self._partial(expression, depth)
        name = last_name(expression) or ""
        if not name.endswith("Loader"):
            return None
        # The names of a star import are unknown: one that equals torch's class is taken to be that class.
        return _LoaderClass(PARAMETERS if name == "DataLoader" and not names else None)

    def _subclass(self, defined: cst.ClassDef, depth: int) -> _LoaderClass | None:
        bases = (self._loader_class(base.value, depth + 1) for base in defined.bases)
        made = next((base for base in bases if base is not None), None)
        if made is None:
            return None
        body = defined.body.body
        own_init = any(isinstance(part, cst.FunctionDef) and part.name.value == "__init__" for part in body)
        return _LoaderClass(made.parameters, made.own_init or own_init)

    def _partial(self, call: cst.Call, depth: int) -> _LoaderClass | None:
        if last_name(call.func) != "partial" or not call.args:
            return None
        made = self._loader_class(call.args[0].value, depth + 1)
        if made is None or made.preset is not None:
            return None
        bound = sum(argument.keyword is None and not argument.star for argument in call.args[1:])
        return _LoaderClass(made.parameters and made.parameters[bound:], made.own_init, call)

    def _range(self, node: cst.CSTNode) -> CodeRange:
        return self._collected.ranges[node]

    def _parents(self, node: cst.CSTNode) -> Iterator[cst.CSTNode]:
        parents = self._collected.parents
        while node in parents:
            node = parents[node]
            yield node


class _Collector(cst.CSTVisitor):
    """Visitor that collects in one walk all that is needed of a source."""

    METADATA_DEPENDENCIES = (PositionProvider, ParentNodeProvider, QualifiedNameProvider)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[cst.Call] = []
        self.classes: dict[str, cst.ClassDef] = {}
        self.names: list[cst.Name] = []
        self.assigned: list[tuple[cst.CSTNode, cst.BaseExpression, cst.BaseExpression]] = []
        self.qualified: dict[cst.CSTNode, frozenset[str]] = {}
        self.ranges: dict[cst.CSTNode, CodeRange] = {}
        self.parents: dict[cst.CSTNode, cst.CSTNode] = {}

    def on_visit(self, node: cst.CSTNode) -> bool:
        parent = self.get_metadata(ParentNodeProvider, node, None)
        if isinstance(parent, cst.CSTNode):
            self.parents[node] = parent
        where = self.get_metadata(PositionProvider, node, None)
        if isinstance(where, CodeRange):
            self.ranges[node] = where
        match node:
            case cst.Name() | cst.Attribute():
                names = self.get_metadata(QualifiedNameProvider, node, None)
                self.qualified[node] = frozenset(name.name for name in names or ())
                if isinstance(node, cst.Name):
                    self.names.append(node)
            case cst.Call():
                self.calls.append(node)
            case cst.ClassDef():
                self.classes[node.name.value] = node
            case cst.Assign():
                for target in node.targets:
                    self.assigned += [(node, *pair) for pair in _unpacked(target.target, node.value)]
            case cst.AugAssign():
                self.assigned.append((node, node.target, node.value))
            case cst.AnnAssign(value=cst.BaseExpression() as value):
                self.assigned.append((node, node.target, value))
        return True


def _parse(path: Path) -> tuple[cst.Module, _Collector]:
    try:
        data = path.read_bytes()
        # The parser makes each node only once, so nodes can be distinguished without the copy.
        wrapper = MetadataWrapper(cst.parse_module(data), unsafe_skip_copy=True)
        collected = _Collector()
        wrapper.visit(collected)
        is_kept = wrapper.module.bytes == data
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    except (cst.ParserSyntaxError, UnicodeDecodeError, LookupError) as error:
        line = f":{error.raw_line}" if isinstance(error, cst.ParserSyntaxError) else ""
        raise SourceError(f"{path}{line} is not Python that can be patched") from None
    except RecursionError:
        raise SourceError(f"{path}: is nested too deeply to be patched") from None
    if not is_kept:
        raise SourceError(f"{path}: cannot be patched without changing other lines too")
    return wrapper.module, collected


def _unpacked(
    target: cst.BaseExpression, value: cst.BaseExpression
) -> Iterator[tuple[cst.BaseExpression, cst.BaseExpression]]:
    """Yield each name of a target with the value assigned to it, or with all of `value` if that isn't a display."""
    if not isinstance(target, (cst.Tuple, cst.List)):
        yield target, value
        return
    shown = isinstance(value, (cst.Tuple, cst.List)) and len(value.elements) == len(target.elements)
    for index, element in enumerate(target.elements):
        yield from _unpacked(element.value, value.elements[index].value if shown else value)  # type: ignore[attr-defined]


def literal(source: SourceFile, expression: cst.BaseExpression) -> Any:
    """Return the value of a literal; UNKNOWN for any other expression."""
    try:
        return ast.literal_eval(source.code(expression))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def last_name(expression: cst.BaseExpression) -> str | None:
    """Return the last part of a dotted name, e.g. `DataLoader` of `torch.utils.data.DataLoader`."""
    if isinstance(expression, cst.Attribute):
        return expression.attr.value
    return expression.value if isinstance(expression, cst.Name) else None


def positional_parameters(function: Function) -> list[str]:
    """Return the names of a function's positional parameters, without a method's first one."""
    names = [each.name.value for each in (*function.params.posonly_params, *function.params.params)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def normal(code: str) -> str:
    """Return an expression's text as spelled in a plan, regardless of its quotes, blanks and lines."""
    return ast.unparse(ast.parse(f"(\n{code}\n)", mode="eval"))
