"""Capture of a few calls of chosen operators, with their arguments and results, from real samples.

Tensors are copied before the call, because it may change them in place; arrays are stored as tensors if torch supports
their dtype. The bytes and calls kept for one operator are limited.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import BuiltinFunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import TreeSpec, tree_flatten

from plumb.instrument.function_rewriter import Rewriter
from plumb.instrument.recorder import SAMPLE, Node, Recorder, Selection
from plumb.tracing.graph_builder import name_of
from plumb.tracing.operator_selection import select
from plumb.tracing.pipeline import Operator
from plumb.tracing.sample_source import SampleSource

OPERATOR_BYTES = 32 * 2**20
OPERATOR_CALLS = 64
LONGEST_CONTAINER = 64
NO_TENSOR = "no tensor"
NOT_SEEN = "not seen"
TOO_LARGE = "too large to keep"


@dataclass(frozen=True)
class Method:
    """A method of a tensor by its name; the receiver is the first argument."""

    name: str

    def __call__(self, receiver: Any, *arguments: Any, **keywords: Any) -> Any:
        return getattr(receiver, self.name)(*arguments, **keywords)


@dataclass(frozen=True)
class CapturedCall:
    """One call: `leaves` are its positional and keyword arguments, without the containers that `structure` describes.

    `results` are the tensors that it returned, on the CPU like those in `leaves`.
    """

    function: Any
    leaves: tuple[Any, ...]
    structure: TreeSpec
    results: tuple[torch.Tensor, ...]

    @property
    def input_bytes(self) -> int:
        return _size_bytes(self.leaves)


@dataclass(frozen=True)
class CapturedCalls:
    """Captured calls by operator id, and the reason for each operator without calls."""

    calls: Mapping[str, list[CapturedCall]]
    reasons: Mapping[str, str]


def capture(source: SampleSource, units: int, operators: list[Operator], deadline: float = math.inf) -> CapturedCalls:
    """Load the first `units` units of a source twice: once to find the operators' nodes, once to keep their calls.

    Args:
        source: Source of the samples.
        units: Number of units to load.
        operators: Operators whose calls are kept.
        deadline: Latest time in `time.perf_counter` seconds; what was kept by then is returned.

    Raises:
        Exception: What the dataset raises.

    """
    walk = _CallTreeWalk(Node(None, SAMPLE, "sample", ""), Rewriter())
    _load(walk, source, units, deadline)
    ids = {(operator.within, operator.name, operator.sites): operator.id for operator in operators}
    places = {node: _place(node) for node in walk.root.walk() if node.parent is not None}
    wanted = {node: ids[place] for node, place in places.items() if place in ids}
    keeping = _CapturingRecorder(walk.root, walk.rewriter, select(list(wanted), whole=True), wanted)
    _load(keeping, source, units, deadline)
    calls = {name: calls for name, calls in keeping.calls.items() if calls and name not in keeping.refused}
    unseen = {operator.id: NOT_SEEN for operator in operators if operator.id not in calls}
    return CapturedCalls(calls, unseen | keeping.refused)


def _load(recorder: Recorder, source: SampleSource, units: int, deadline: float) -> None:
    """Load units through a recorder, until a stream ends or the deadline passes."""
    recorder.deadline = deadline
    with recorder, suppress(StopIteration):
        for load in source.loads(recorder, units):
            if time.perf_counter() > deadline:
                break
            load()


def _place(node: Node) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Return a node's place in the form that an operator has: the calls around it, its name, and its sites."""
    way = [node, *node.ancestors()][:-1][::-1]
    sites = (f"{step.site.id}@{step.position}" if step.position else step.site.id for step in way)
    return tuple(step.name for step in way[:-1]), name_of(node), tuple(sites)


class _CallTreeWalk(Recorder):
    """Recorder that only lets the tree of calls grow below the root."""

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        return function(*arguments, **keywords)


class _CapturingRecorder(Recorder):
    """Recorder that keeps the calls of the wanted nodes. `refused` maps operators that can't be kept to the reason."""

    def __init__(self, root: Node, rewriter: Rewriter, selection: Selection, wanted: Mapping[Node, str]) -> None:
        super().__init__(root, rewriter, selection)
        self.calls: dict[str, list[CapturedCall]] = defaultdict(list)
        self.refused: dict[str, str] = {}
        self._wanted = wanted
        self._bytes: dict[str, int] = defaultdict(int)

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        name = self._wanted.get(node)
        if name is None or name in self.refused:
            return function(*arguments, **keywords)
        callee, given = with_receiver(function, arguments)
        leaves, structure = tree_flatten((given, dict(keywords)), is_leaf=_is_long)
        if not self._fits(name, leaves):
            return function(*arguments, **keywords)
        copies = tuple(_copied(leaf) for leaf in leaves)
        result = function(*arguments, **keywords)
        made = tree_flatten(result, is_leaf=_is_long)[0]
        if not self._fits(name, [*leaves, *made]):
            return result
        results = tuple(_copied(leaf) for leaf in made)
        if any(map(_is_tensor, copies)) and results and all(map(_is_tensor, results)):
            self._bytes[name] += _size_bytes([*leaves, *made])
            self.calls[name].append(CapturedCall(callee, copies, structure, results))
        else:
            self.refused[name] = NO_TENSOR
        return result

    def _fits(self, name: str, values: list[Any]) -> bool:
        """Return whether one more call with these values fits. Refuse an operator if not even its first call does."""
        kept = len(self.calls[name])
        fits = kept < OPERATOR_CALLS and self._bytes[name] + _size_bytes(values) <= OPERATOR_BYTES
        if not fits and not kept:
            self.refused[name] = TOO_LARGE
        return fits


def with_receiver(function: Any, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """Return a method of a tensor or array as a function of its receiver; any other function unchanged."""
    receiver = getattr(function, "__self__", None)
    if isinstance(function, (BuiltinFunctionType, MethodType)) and _is_array(receiver):
        return Method(function.__name__), (receiver, *arguments)
    return function, arguments


def _is_tensor(value: object) -> bool:
    """Return whether a value is a dense tensor; other tensors can't be stacked and have no plain size in bytes."""
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_nested


def _is_array(value: object) -> bool:
    return _is_tensor(value) or isinstance(value, np.ndarray)


def _size_bytes(values: Iterable[Any]) -> int:
    return sum(value.nbytes for value in values if _is_array(value))


def _is_long(value: object) -> bool:
    """Return whether a container is too long to be an argument of an operator on tensors, e.g. a list of all files."""
    return isinstance(value, (list, tuple, dict)) and len(value) > LONGEST_CONTAINER


def _copied(value: Any) -> Any:
    """Return a plain copy of a tensor on the CPU, an array as a tensor if torch supports its dtype, else the value."""
    if _is_tensor(value):
        return value.detach().as_subclass(torch.Tensor).cpu().clone()
    # Only plain arrays: a masked array or a matrix means more than its data.
    if type(value) in (np.ndarray, np.memmap):
        try:
            return torch.from_numpy(np.array(value))
        except (TypeError, ValueError):
            return value
    return value
