"""Change of one call that makes a loader to a configuration, and advice for what can't be written there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import libcst as cst

from plumb.core.config import Config
from plumb.report.patch import value_origin
from plumb.report.patch.argument_layout import edit
from plumb.report.patch.call_chain import Lookup, index_of
from plumb.report.patch.option_origin import Origin
from plumb.report.patch.source_file import UNKNOWN, LoaderCall, SourceFile, literal

# Torch's defaults of the arguments that a configuration may change, in the order in which they are written.
_DEFAULTS: dict[str, Any] = {
    "num_workers": 0,
    "pin_memory": False,
    "prefetch_factor": None,
    "persistent_workers": False,
    "in_order": True,
    "timeout": 0,
    "multiprocessing_context": None,
}
# Torch refuses other values than the default of these if there are no workers.
_WORKERS_ONLY = ("prefetch_factor", "persistent_workers", "timeout", "multiprocessing_context")
_PREFETCH_BY_DEFAULT = 2
_AS_GIVEN = ("num_workers", "pin_memory", "in_order")


@dataclass(frozen=True)
class Advice:
    """Advice to change a value elsewhere: `subject` names where the argument's value comes from, `instead` what to do.

    Without an argument, it lists what can be written only after other advice has been followed. `shared` names the
    other loaders that the place changes.
    """

    subject: str
    instead: str
    argument: str = ""
    shared: str = ""

    def __str__(self) -> str:
        if not self.argument:
            return self.subject + self.instead
        come = "come" if ", " in self.argument else "comes"
        return f"{self.argument} {come} from {self.subject}: {self.instead}{self.shared}"


@dataclass(frozen=True)
class OtherUse:
    """Another loader that gets an argument from the same place: its name and place, and the value it should have.

    The value is UNKNOWN for a loader that isn't in the plan.
    """

    loader: str
    value: Any = UNKNOWN


@dataclass(frozen=True)
class Amended:
    """The new call, and advice for other places. `persists`: workers now persist and did not before."""

    node: cst.Call
    advice: tuple[Advice, ...]
    persists: bool


@dataclass(frozen=True)
class Argument:
    """One of torch's arguments as the call has it: its position, its literal value, or its value's origin.

    An argument without a position and an origin is absent.
    """

    index: int | None = None
    value: Any = UNKNOWN
    origin: Origin | None = None


@dataclass
class _Edits:
    replaced: dict[int, str] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)


def arguments_of(source: SourceFile, call: LoaderCall, at: Lookup, before: Config | None) -> dict[str, Argument]:
    """Return the arguments of a call that a configuration may change.

    Args:
        source: File of the call.
        call: Call that makes the loader.
        at: Lookup for the origins of values.
        before: Configuration of the loader when it was tuned; None if it isn't known.

    """
    had = wanted_values(before) if before is not None else {}
    # Torch replaces other values by its own, so that these are not what the script gave.
    values = {name: had.get(name, UNKNOWN) if name in _AS_GIVEN else UNKNOWN for name in _DEFAULTS}
    return {name: _argument(source, call, name, replace(at, value=values[name])) for name in _DEFAULTS}


def amend(
    source: SourceFile,
    call: LoaderCall,
    arguments: dict[str, Argument],
    before: Config,
    after: Config,
    others: Callable[[str, Origin], Sequence[OtherUse]],
) -> Amended:
    """Change `call` for the configuration `after`; values that the call does not spell out become advice.

    Args:
        source: File of the call.
        call: Call that makes the loader.
        arguments: Its arguments.
        before: Configuration with which the call made the loader when it was tuned.
        after: Configuration to write.
        others: Returns the other loaders that get an argument from the same origin.

    Returns:
        The call and the advice.

    """
    wanted, had = wanted_values(after), wanted_values(before)
    wrong = [
        name for name in wanted if not _is_right(arguments[name], wanted[name], had.get(name), name, after.num_workers)
    ]
    elsewhere = {name: origin for name in wrong if (origin := arguments[name].origin) is not None}
    here = [name for name in wrong if name not in elsewhere]
    advice = _advice(elsewhere, wanted, others)
    workers = arguments["num_workers"]
    guard = ""
    held: list[str] = []
    if not after.num_workers and any(name in _WORKERS_ONLY for name in elsewhere):
        held = [name for name in here if name == "num_workers" or name in _WORKERS_ONLY]
        if held:
            advice.append(Advice("then, since torch wants them together: ", _spelled(held, wanted)))
    elif after.num_workers and workers.origin is not None and not _surely_has_workers(workers.origin):
        guard = _reference(source, call)
        if not guard:
            held = [name for name in here if name in _WORKERS_ONLY and arguments[name].index is None]
        if held:
            advice.append(Advice("where the number of workers is set, add ", _spelled(held, wanted)))
    edits = _edits(call, [name for name in here if name not in held], arguments, wanted, guard)
    node = edit(call.node, edits.replaced, edits.removed, edits.added, None)
    if edits.added and source.is_too_long(call.node, node):
        aligned = source.aligned_line_end(call.node)
        node = edit(call.node, edits.replaced, edits.removed, edits.added, aligned)
    persists = after.persistent_workers and "persistent_workers" in wrong and not before.persistent_workers
    return Amended(node, tuple(advice), persists)


def literal_argument(source: SourceFile, call: LoaderCall, name: str) -> Any:
    """Return an argument's value if the call spells it out, else UNKNOWN."""
    index = _index(call, name)
    return UNKNOWN if index is None else literal(source, call.node.args[index].value)


def wanted_values(config: Config) -> dict[str, Any]:
    """Return the arguments that matter to a configuration with their values, including those at torch's default."""
    given = {**_DEFAULTS, **config.loader_arguments()}
    if config.num_workers:
        # With workers, the timeout is the user's choice, and so is the start method unless `config` sets it.
        del given["timeout"]
        if not config.start_method:
            del given["multiprocessing_context"]
    return given


def _is_right(argument: Argument, wanted: Any, had: Any, name: str, workers: int) -> bool:
    value = argument.value
    if argument.origin is not None and value is UNKNOWN:
        value = had
    elif argument.origin is None and argument.index is None:
        value = _DEFAULTS[name]
    if name == "prefetch_factor" and workers and value is None:
        value = _PREFETCH_BY_DEFAULT
    return bool(value == wanted)


def _edits(
    call: LoaderCall, names: list[str], arguments: dict[str, Argument], wanted: dict[str, Any], guard: str
) -> _Edits:
    edits = _Edits()
    for name in names:
        index, value = arguments[name].index, wanted[name]
        if index is None:
            edits.added[name] = _guarded(name, value, guard) if name in _WORKERS_ONLY else repr(value)
        elif name in _WORKERS_ONLY and not wanted["num_workers"] and call.node.args[index].keyword is not None:
            edits.removed.append(index)
        else:
            edits.replaced[index] = repr(value)
    return edits


def _guarded(name: str, value: Any, workers: str) -> str:
    """Return the value's source text, with a condition if only the script knows whether there are workers."""
    if not workers:
        return repr(value)
    return f"{workers} > 0" if name == "persistent_workers" else f"{value!r} if {workers} > 0 else None"


def _argument(source: SourceFile, call: LoaderCall, name: str, at: Lookup) -> Argument:
    index = _index(call, name)
    if index is not None:
        expression = call.node.args[index].value
        value = literal(source, expression)
        if value is UNKNOWN:
            value = _unguarded(source, call, expression)
        if value is not UNKNOWN:
            return Argument(index, value)
        origin = value_origin.origin(source, expression, at)
        return Argument(index, origin.value, origin)
    for star in _stars(call):
        hidden = _through(source, call, star, name, at)
        if hidden is not None:
            return Argument(None, hidden.value, hidden)
    for bound in call.preset.args if call.preset else ():
        if bound.keyword and bound.keyword.value == name:
            origin = value_origin.preset(source, bound.value)
            return Argument(None, origin.value, origin)
    return Argument()


def _unguarded(source: SourceFile, call: LoaderCall, expression: cst.BaseExpression) -> Any:
    """Return the value in a conditional expression that an earlier patch wrote (see `_guarded`), else UNKNOWN."""
    workers = _reference(source, call)
    if workers and source.code(expression) == f"{workers} > 0":
        return True
    if isinstance(expression, cst.IfExp) and workers and source.code(expression.test) == f"{workers} > 0":
        return literal(source, expression.body)
    return UNKNOWN


def _index(call: LoaderCall, name: str) -> int | None:
    """Return the position in the call of the argument that torch names `name`; None if the call doesn't have it."""
    return index_of(call.node, call.parameters or (), name)


def _stars(call: LoaderCall) -> Iterator[cst.Arg]:
    bound = call.preset.args if call.preset else ()
    return (argument for argument in (*call.node.args, *bound) if argument.star)


def _through(source: SourceFile, call: LoaderCall, star: cst.Arg, name: str, at: Lookup) -> Origin | None:
    """Return the origin of an argument that may come through a star; None if the source shows that it doesn't."""
    if star.star == "*":
        return value_origin.hidden(source, call, star, name, at) if name in (call.parameters or ()) else None
    later = value_origin.set_entries(source, star.value, name, at)
    if later:
        return value_origin.entry_origin(source, f'{source.code(star.value)}["{name}"]', later[-1].value, at)
    around = value_origin.dictionary(source, star.value)
    if around is not None:
        value = value_origin.entry(source, around, name)
        if value is not None:
            return value_origin.entry_origin(source, f'{source.code(star.value)}["{name}"]', value, at)
        if isinstance(star.value, cst.Name) and value_origin.is_complete(source, star.value, around):
            return None
    return value_origin.hidden(source, call, star, name, at)


def _reference(source: SourceFile, call: LoaderCall) -> str:
    """Return the call's expression for its number of workers if it may be repeated, else an empty string."""
    index = _index(call, "num_workers")
    if index is None or not value_origin.is_reference(call.node.args[index].value):
        return ""
    return source.code(call.node.args[index].value)


def _surely_has_workers(origin: Origin) -> bool:
    return not origin.can_vary and isinstance(origin.value, int) and origin.value > 0


def _advice(
    elsewhere: Mapping[str, Origin], wanted: dict[str, Any], others: Callable[[str, Origin], Sequence[OtherUse]]
) -> list[Advice]:
    """Return the advice for each place from which arguments come."""
    advice = []
    for name, origin in elsewhere.items():
        uses = others(name, origin)
        unlike = [use for use in uses if use.value is not UNKNOWN and use.value != wanted[name]]
        if unlike:
            keeping = " and ".join(f"{use.loader}, which wants {use.value!r}" for use in unlike)
            advice.append(
                Advice(f"{origin.text}, as for {keeping}", f"write {name}={wanted[name]!r} in this call", name)
            )
            continue
        shared = f"; that changes {' and '.join(use.loader for use in uses)}, too" if uses else ""
        together = [other for other in elsewhere if elsewhere[other].is_same_as(origin)]
        if name in ("prefetch_factor", "timeout", "multiprocessing_context") and wanted[name] == _DEFAULTS[name]:
            advice.append(Advice(origin.text, "take it out, torch wants none without workers", name))
        elif not origin.takes_keywords:
            advice.append(Advice(origin.text, origin.instead(wanted[name]), name, shared))
        elif name == together[0]:
            advice.append(Advice(origin.text, origin.instead(_spelled(together, wanted)), ", ".join(together), shared))
    return advice


def _spelled(names: list[str], wanted: dict[str, Any]) -> str:
    return ", ".join(f"{name}={wanted[name]!r}" for name in names)
