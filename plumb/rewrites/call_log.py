"""Recorder of the calls of single samples: their order, inputs and outputs, and draws of random numbers."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType, GeneratorType
from typing import Any

from plumb.instrument.callee import Callee, is_dataset
from plumb.instrument.function_rewriter import RewrittenFunction
from plumb.instrument.recorder import Frame, Node, Recorder
from plumb.instrument.rng_state import generator_states
from plumb.instrument.values import attribute, describe, digest, has_identity, parts
from plumb.runtime.replay.substitution import Tree
from plumb.tracing.dataflow_pass import changed_by, values_given

COLLECTING = {"append", "appendleft", "insert"}
"""Methods of lists and deques that store a value without using it."""


@dataclass
class LoggedCall:
    """One call. `start` and `end` count the sample's events; `end` is None if it raised, or made a generator.

    `given` and `made` are the identities of its inputs and of all parts of its result; `result` is the result's own.
    """

    node: Node
    start: int
    end: int | None = None
    given: frozenset[int] = frozenset()
    result: int = 0
    made: frozenset[int] = frozenset()
    digest: bytes | None = None
    size_bytes: int = 0


@dataclass
class Sample:
    """Calls of one sample in the order in which they began, and the identities of its parts.

    `drawn` is the event before which random numbers were first drawn, None if there were no draws.
    """

    calls: list[LoggedCall] = field(default_factory=list)
    drawn: int | None = None
    delivered: frozenset[int] = frozenset()

    def of(self, node: Node) -> list[LoggedCall]:
        return [call for call in self.calls if call.node is node]


class Calls(Recorder):
    """Recorder of samples, one after the other: call `begin` before and `finish` after each."""

    def __init__(self, tree: Tree, generators: list[Any]) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self.sample = Sample()
        self.results: dict[Node, Any] = {}
        self.functions: dict[Node, list[FunctionType]] = defaultdict(list)
        self._generators_held = generators
        self._alive: list[Any] = []
        self._holders: list[Any] = []
        self._events = 0
        self._states: Any = None

    def begin(self) -> None:
        """Start a sample, and release the last one's values."""
        self.sample = Sample()
        self._events = 0
        self._alive.clear()
        self.results.clear()
        self._states = generator_states(self._generators_held)

    def finish(self, sample: Any) -> Sample:
        """Return the record of the sample. `results` has the last result of each node until the next sample begins."""
        self._tick()
        self.sample.delivered = _identities([sample])
        return self.sample

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        taken = values_given(function, arguments, keywords) if leaf else [*arguments, *keywords.values()]
        given = [value for value in taken if not is_dataset(value) and not any(value is item for item in self._holders)]
        call = LoggedCall(node, self._tick())
        if not _collects(function):
            call.given = _identities(given) | _identities(_bases(given))
        self._alive.append(given)
        self.sample.calls.append(call)
        result = function(*arguments, **keywords)
        if not isinstance(result, GeneratorType):
            made = changed_by(function, arguments) if result is None and leaf else result
            self._alive.append(made)
            self.results[node] = result
            call.result = id(result)
            call.made = _identities([made])
            call.digest = digest(result)
            call.size_bytes = describe(result).size_bytes
            call.end = self._tick()
        return result

    def _tick(self) -> int:
        """Return the number of the next event, and record whether random numbers were drawn since the last one."""
        self._events += 1
        if self.sample.drawn is None:
            states = generator_states(self._generators_held)
            if states != self._states:
                self.sample.drawn = self._events
        return self._events

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> RewrittenFunction | None:
        if callee.function is not None and callee.function not in self.functions[node]:
            self.functions[node].append(callee.function)
        self._holders = list(_receivers(frame))
        return super()._expansion(node, callee, frame)


def _receivers(frame: Frame | None) -> Iterator[Any]:
    """Yield the objects whose methods are running, because values inside these don't count as passed on."""
    while frame is not None:
        if frame.receiver is not None:
            yield frame.receiver
        frame = frame.caller


def _identities(values: Iterable[Any]) -> frozenset[int]:
    return frozenset(id(part) for value in values for part in parts(value) if has_identity(part))


def _bases(values: Iterable[Any]) -> list[Any]:
    """Return the arrays and tensors of which some of the values are views."""
    bases = [attribute(value, name) for value in values for name in ("base", "_base")]
    return [base for base in bases if base is not None]


def _collects(function: Callable[..., Any]) -> bool:
    return getattr(function, "__name__", "") in COLLECTING and isinstance(
        getattr(function, "__self__", None), (list, deque)
    )
