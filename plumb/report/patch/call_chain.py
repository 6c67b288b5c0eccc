"""The calls that made a loader when it was tuned, found in the source as it is now."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import libcst as cst

from plumb.core.config import Config
from plumb.core.construction import TEXT_AT_MOST, Construction, StackCall
from plumb.core.plan import LoaderResult
from plumb.report.framework_settings import framework_setting
from plumb.report.patch.source_file import (
    PARAMETERS,
    UNKNOWN,
    Function,
    LoaderCall,
    SourceError,
    SourceFile,
    last_name,
    normal,
    positional_parameters,
)
from plumb.report.patch.sources import Sources, check_only

_TUNED = ("num_workers", "prefetch_factor", "persistent_workers", "pin_memory", "in_order")


@dataclass(frozen=True)
class Link:
    """A call of the chain. `is_direct` says that this call itself ran the code around the link before."""

    source: SourceFile
    call: cst.Call
    is_direct: bool


@dataclass(frozen=True)
class Lookup:
    """Where the origin of a value is looked for: outwards from the link `level` of a loader's chain.

    `value` is the value that the loader had; UNKNOWN if it isn't known. Without links, the source alone decides.
    """

    loader: str
    sources: Sources
    construction: Construction = field(default_factory=Construction)
    links: tuple[Link, ...] = ()
    level: int = 0
    value: Any = UNKNOWN
    depth: int = 0

    def deeper(self, level: int | None = None) -> Lookup:
        """Return the lookup of the next value on the way, at the same level or at another one."""
        return replace(self, depth=self.depth + 1, level=self.level if level is None else level)

    def caller_of(self, source: SourceFile, function: Function) -> int | None:
        """Return the level of the call that ran `function`; None if it isn't known."""
        for level in range(self.level, len(self.links) - 1):
            link = self.links[level]
            if link.source is source and source.scope_of(link.call) is function and self.links[level + 1].is_direct:
                return level + 1
        return None

    def others(self, source: SourceFile, text: str) -> Iterator[SourceFile]:
        """Yield the user's other files that contain `text`."""
        return (each for each in self.sources.with_text(self.construction.sources, text) if each is not source)

    def was_skipped(self, source: SourceFile, node: cst.CSTNode) -> bool:
        """Return whether a node is in a branch that was not executed when the loader was made."""
        line = source.line(node)
        files = {call.file for link, call in zip(self.links, self.construction.calls, strict=False)
                 if link.source is source and source.line(link.call) == call.line}  # fmt: skip
        return any(s.file in files and s.first <= line <= s.last for s in self.construction.skipped)


def traced(sources: Sources, loader: LoaderResult) -> tuple[LoaderCall, Lookup] | None:
    """Return the call to edit for `loader`, and the lookup at its level; None if its construction isn't known.

    That is the innermost call, or, if that only passes on what a subclass's constructor was given, the call of that
    constructor.

    Raises:
        SourceError: The call isn't in the source any more, or may be one of several.

    """
    construction = loader.construction
    if construction is None or not construction.calls:
        return None
    first = construction.calls[0]
    if not first.is_direct:
        by = loader.library or "other code"
        setting = framework_setting(loader)
        instead = f"write {setting}" if setting else f"give it {spelled(loader.config)}"
        raise SourceError(f"is made by {by}, called at {first.file}:{first.line}: {instead}")
    links = list(_links(sources, construction))
    at = Lookup(loader.name, sources, construction, tuple(links))
    call = _made_call(links[0], is_torchs=not loader.library)
    while (outer := _outer(at, call)) is not None:
        call, at = outer, replace(at, level=at.level + 1)
    return call, at


def own_stars(function: Function | None) -> tuple[str | None, str | None]:
    """Return the names of a function's `*arguments` and `**keywords`."""
    if function is None:
        return None, None
    star, double = function.params.star_arg, function.params.star_kwarg
    return (star.name.value if isinstance(star, cst.Param) else None, double.name.value if double else None)


def index_of(call: cst.Call, parameters: Sequence[str], name: str) -> int | None:
    """Return the index of the argument of `call` that is called `name`; None if it isn't spelled out."""
    for index, argument in enumerate(call.args):
        if argument.keyword is not None and argument.keyword.value == name:
            return index
    plain = itertools.takewhile(lambda argument: not argument.star and argument.keyword is None, call.args)
    named = list(parameters)[: len(list(plain))]
    return named.index(name) if name in named else None


def _links(sources: Sources, construction: Construction) -> Iterator[Link]:
    """Yield the links as far as they are in the source. Raise SourceError if the first one isn't."""
    for level, wanted in enumerate(construction.calls):
        try:
            source = sources.at(wanted.file)
            call = _find(source, wanted)
        except SourceError:
            if level == 0:
                raise
            return
        yield Link(source, call, wanted.is_direct)


def _find(source: SourceFile, wanted: StackCall) -> cst.Call:
    """Return the call that the plan means: by its text if that is unique, else by its number among those alike."""
    alike = sorted((call for call in source.calls if _text(source, call.func) == wanted.called), key=source.start)
    in_scope = [call for call in alike if _is_in(source, call, wanted.scope)]
    same = [call for call in in_scope if _text(source, call) == wanted.text]
    if len(same) == 1 and wanted.is_unique:
        return same[0]
    if len(alike) == wanted.count and alike[wanted.number] in in_scope:
        return alike[wanted.number]
    check_only(source, [source.line(call) for call in in_scope])
    return in_scope[0]


def _text(source: SourceFile, expression: cst.BaseExpression) -> str:
    return normal(source.code(expression))[:TEXT_AT_MOST]


def _is_in(source: SourceFile, call: cst.Call, scope: str) -> bool:
    function, around = source.function_of(call), source.class_of(call)
    if scope.startswith("<"):
        return scope != "<module>" or function is None
    return scope == (function.name.value if function else around.name.value if around else None)


def _made_call(link: Link, is_torchs: bool) -> LoaderCall:
    call = link.call
    made = link.source.loader_call(call)
    if made is not None and (made.parameters is not None or not is_torchs):
        return made
    parameters: tuple[str, ...] | None = PARAMETERS if is_torchs else None
    function = call.func
    if is_torchs and isinstance(function, cst.Attribute) and function.attr.value == "__init__":
        is_super = isinstance(function.value, cst.Call) and last_name(function.value.func) == "super"
        parameters = PARAMETERS if is_super else ("self", *PARAMETERS)
    return link.source.as_loader_call(call, parameters)


def _outer(at: Lookup, call: LoaderCall) -> LoaderCall | None:
    """Return the call of a subclass's constructor if `call`, inside it, passes on its keywords; None otherwise."""
    link = at.links[at.level]
    function = link.source.scope_of(call.node)
    star, double = own_stars(function)
    is_passed_on = any(a.star == "**" and last_name(a.value) == double for a in call.node.args) and double is not None
    if not is_passed_on or not isinstance(function, cst.FunctionDef) or function.name.value != "__init__":
        return None
    if any(index_of(call.node, call.parameters or (), name) is not None for name in _TUNED):
        return None
    level = at.caller_of(link.source, function)
    if level != at.level + 1:
        return None
    outer = at.links[level]
    names = []
    for parameter in positional_parameters(function):
        given = (i for i, a in enumerate(call.node.args) if not a.star and last_name(a.value) == parameter)
        index = next(given, None)
        names.append(parameter if index is None else _torch_name(call, index) or parameter)
    if star is not None:
        plain = [a for a in call.node.args if a.keyword is None]
        before = next((n for n, a in enumerate(plain) if a.star == "*" and last_name(a.value) == star), None)
        names += [] if before is None else (call.parameters or ())[before:]
    made = outer.source.loader_call(outer.call)
    return replace(outer.source.as_loader_call(outer.call, tuple(names)), preset=made.preset if made else None)


def _torch_name(call: LoaderCall, index: int) -> str | None:
    keyword = call.node.args[index].keyword
    if keyword is not None:
        return keyword.value
    return call.parameters[index] if call.parameters and index < len(call.parameters) else None


def spelled(config: Config) -> str:
    """Return a configuration as torch's keyword arguments, as one would type them."""
    return ", ".join(f"{name}={value!r}" for name, value in config.loader_arguments().items())
