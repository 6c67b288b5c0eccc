"""Discovery pass: which node produced the values that each call takes, and which calls draw random numbers.

Objects are followed by identity and kept alive for the length of a batch, so that no identity is used twice. That makes
allocation slow, so this pass times nothing.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import BuiltinFunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from plumb.host.read_counter import ReadCounter
from plumb.instrument.callee import is_dataset
from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import EVERYTHING, Node, Recorder, Selection
from plumb.instrument.rng_state import GENERATOR_CLASSES, generator_states
from plumb.instrument.values import Description, attribute, describe, digest, has_identity, is_lazy_image, parts


@dataclass
class NodeFacts:
    """Facts about one node, from all its calls. Bytes are sums over all samples.

    `draws`: a random number generator's state changed during a call. `changes`: at least one call returned something
    other than an unchanged argument. `digests` holds for each compared round a mapping from (unit, number of the call
    in it) to the digests of the call's arguments and of its result; None stands for values that can't be compared.
    """

    input: Description | None = None
    input_bytes: int = 0
    output: Description | None = None
    output_bytes: int = 0
    read_bytes: int = 0
    draws: bool = False
    changes: bool = False
    decodes_lazily: bool = False
    opens: bool = False
    digests: list[dict[tuple[int, int], tuple[bytes | None, bytes | None]]] = field(default_factory=list)


@dataclass
class ValueFlow:
    """Values that flowed from one node to another. `size_bytes` is a sum over all units."""

    description: Description
    size_bytes: int = 0
    units: set[int] = field(default_factory=set)

    def joined(self, other: ValueFlow) -> ValueFlow:
        """Merge two flows into one."""
        description = _common(self.description, other.description)
        return ValueFlow(description, self.size_bytes + other.size_bytes, self.units | other.units)


@dataclass
class _Open:
    """A running operator: generator states and bytes read at its start, and the bytes that operators inside it read."""

    node: Node
    states: tuple[Any, ...]
    start_bytes: int
    inner_bytes: int = 0


class Discovery(Recorder):
    """Recorder of what flows between nodes. Call `begin` for a unit (a sample or a group of them) before each entry."""

    def __init__(self, root: Node, rewriter: Rewriter, reads: ReadCounter, selection: Selection = EVERYTHING) -> None:
        super().__init__(root, rewriter, selection)
        self.facts: dict[Node, NodeFacts] = defaultdict(NodeFacts)
        self.flows: dict[tuple[Node, Node], ValueFlow] = {}
        self.delivered: dict[Node, Description] = {}
        self._reads = reads
        self._unit = 0
        self._round: int | None = None
        self._calls_in_unit: dict[Node, int] = defaultdict(int)
        self._producers: dict[int, tuple[Node, Any]] = {}
        self._open: list[_Open] = []

    def begin(self, unit: int, compared_round: int | None = None) -> None:
        """Start a unit. In compared rounds, the outputs of units with the same number are compared afterwards."""
        self._unit = unit
        self._round = compared_round
        self._calls_in_unit.clear()

    def keep_only(self, values: Iterable[Any]) -> None:
        """Release all values except these; a finished sample's intermediate values are no longer needed."""
        alive = {id(part) for value in values for part in parts(value)}
        self._producers = {key: producer for key, producer in self._producers.items() if key in alive}

    def deliver(self, result: Any) -> None:
        """Record which nodes produced the parts of a finished batch."""
        for part in parts(result):
            node = self._producer(part)
            if node is not None:
                self.delivered.setdefault(node, describe(part))

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        if not leaf:
            result = function(*arguments, **keywords)
            self._note_output(node, None, result)
            return result
        values = list(values_given(function, arguments, keywords))
        self._note_input(node, values if function is not operator.getitem else [])
        for value in values:
            self._note_flows(node, value)
        digests = [_digest(value) for value in values] if self._round is not None else []
        given = None if _has_state(function) else _joined(digests)
        generators = _held_generators(function)
        opened = _Open(node, generator_states(generators), self._reads.bytes_read() or 0)
        self._open.append(opened)
        try:
            result = function(*arguments, **keywords)
        finally:
            self._open.pop()
        read = (self._reads.bytes_read() or 0) - opened.start_bytes
        if self._open:
            self._open[-1].inner_bytes += read
        facts = self.facts[node]
        facts.read_bytes += read - opened.inner_bytes if not self._round else 0
        facts.draws = facts.draws or opened.states != generator_states(generators)
        self._note_output(node, given, result)
        if self._round is not None:
            facts.changes = facts.changes or not _is_handed_on(result, values, digests)
        if facts.changes or not any(result is value for value in values):
            self._produce(node, changed_by(function, arguments) if result is None else result)
        return result

    def _note_input(self, node: Node, values: list[Any]) -> None:
        if self._round:
            return
        facts = self.facts[node]
        facts.decodes_lazily = facts.decodes_lazily or any(map(is_lazy_image, values))
        for value in values:
            description = describe(value)
            facts.input_bytes += description.size_bytes
            if facts.input is None or description.size_bytes > facts.input.size_bytes:
                facts.input = description

    def _note_flows(self, node: Node, value: Any) -> None:
        whole: set[Node] = set()
        for part in parts(value):
            producer = self._producer(part) if has_identity(part) else None
            if producer is not None and producer not in whole:
                self._flow(producer, node, part)
                if attribute(part, "shape") is None:
                    whole.add(producer)  # what this container holds has been counted with it

    def _note_output(self, node: Node, given: bytes | None, result: Any) -> None:
        if isinstance(result, GeneratorType):
            return
        facts = self.facts[node]
        if not self._round:
            description = describe(result)
            facts.output_bytes += description.size_bytes
            facts.output = description if facts.output is None else _common(facts.output, description)
            facts.opens = facts.opens or (callable(attribute(result, "read")) and callable(attribute(result, "close")))
        if self._round is not None:
            while len(facts.digests) <= self._round:
                facts.digests.append({})
            facts.digests[self._round][self._unit, self._calls_in_unit[node]] = given, _digest(result)
        self._calls_in_unit[node] += 1

    def _produce(self, node: Node, result: Any) -> None:
        for part in parts(result):
            if has_identity(part):
                self._producers[id(part)] = node, part
        if self._open:
            self._flow(node, self._open[-1].node, result)

    def _producer(self, value: Any) -> Node | None:
        """Return the node that produced a value, or the array of which the value is a view."""
        for candidate in (value, attribute(value, "base"), attribute(value, "_base")):
            if candidate is not None and id(candidate) in self._producers:
                return self._producers[id(candidate)][0]
        return None

    def _flow(self, producer: Node | None, consumer: Node, value: Any) -> None:
        if producer is None or producer is consumer:
            return
        if self._round:
            return  # a repetition
        description = describe(value)
        passed = self.flows.get((producer, consumer))
        if passed is None:
            passed = self.flows[producer, consumer] = ValueFlow(description)
        passed.description = _common(passed.description, description)
        passed.size_bytes += description.size_bytes
        passed.units.add(self._unit)


def _digest(value: Any) -> bytes | None:
    """Return a digest good enough for discovery; code that acts on equality compares whole values."""
    return digest(value, large_by_blocks=True)


def _joined(digests: list[bytes | None]) -> bytes | None:
    known = [digest for digest in digests if digest is not None]
    return b"".join(known) if len(known) == len(digests) else None


def _is_handed_on(result: Any, values: list[Any], digests: list[bytes | None]) -> bool:
    """Return whether a call returned one of its arguments unchanged."""
    return any(
        result is value and before is not None and before == _digest(result)
        for value, before in zip(values, digests, strict=True)
    )


def _held_generators(function: Any) -> list[Any]:
    """Return the random number generators held by a called object, or by the object whose method is called."""
    holder = getattr(function, "__self__", function)
    attributes = getattr(holder, "__dict__", None)
    held = [holder, *(attributes.values() if type(attributes) is dict else ())]
    return [value for value in held if type(value).__name__ in GENERATOR_CLASSES]


def values_given(function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the values that a call takes: its arguments, and its receiver unless it is a module, class or dataset."""
    receiver = getattr(function, "__self__", None) if isinstance(function, (BuiltinFunctionType, MethodType)) else None
    if receiver is not None and not isinstance(receiver, (ModuleType, type)) and not is_dataset(receiver):
        yield receiver
    yield from arguments
    yield from keywords.values()


def _has_state(function: Any) -> bool:
    """Return whether a callee is a method of an object with state, such as a file, a generator or an iterator."""
    receiver = getattr(function, "__self__", None)
    stateless = receiver is None or isinstance(receiver, (ModuleType, str, bytes)) or hasattr(receiver, "tobytes")
    return not stateless or function is next


def changed_by(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the object that a call without a result presumably changed: its receiver, else its first argument."""
    receiver = getattr(function, "__self__", None)
    if function is print or is_dataset(receiver):
        return None
    if receiver is not None and not isinstance(receiver, ModuleType):
        return receiver
    return arguments[0] if arguments else None


def _common(left: Description, right: Description) -> Description:
    """Return what two descriptions have in common; sizes that vary become None."""
    if left == right:
        return left
    shape = None
    if left.shape is not None and right.shape is not None and len(left.shape) == len(right.shape):
        shape = tuple(a if a == b else None for a, b in zip(left.shape, right.shape, strict=True))
    types = dict.fromkeys([*left.type.split(" | "), *right.type.split(" | ")])
    return Description(
        " | ".join(types),
        shape,
        left.dtype if left.dtype == right.dtype else None,
        max(left.size_bytes, right.size_bytes),
        left.device if left.device == right.device else None,
    )
