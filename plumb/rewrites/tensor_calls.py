"""Recorder of the calls on tensors that make a sample, down to single operations, also inside libraries."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from plumb.core.config import CallPath, CallStep
from plumb.instrument.callee import Callee, expands, is_standard
from plumb.instrument.function_rewriter import Rewriter, RewrittenFunction
from plumb.instrument.recorder import SAMPLE, Frame, Node, Recorder
from plumb.instrument.rng_state import generator_states
from plumb.runtime.deferred.deferred_call import is_plain
from plumb.tracing.capture_pass import with_receiver

KEPT_BYTES = 64 * 2**20
OPAQUE_PACKAGES = {"torch", "numpy", "PIL", "plumb"}


@dataclass(frozen=True)
class TensorCall:
    """One call that took tensors and returned one.

    `tensors` are the tensors among its arguments, by place; `copies` their values at that time, as `copy` is that of
    `result`. `started` and `ended` number the moments of a sample.
    """

    node: Node
    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    tensors: Mapping[int | str, torch.Tensor]
    copies: Mapping[int | str, torch.Tensor]
    result: torch.Tensor
    copy: torch.Tensor
    started: int
    ended: int
    draws: bool

    @property
    def kept_bytes(self) -> int:
        return self.copy.nbytes + sum(copy.nbytes for copy in self.copies.values())


@dataclass(frozen=True)
class FollowedSample:
    """Leaves of a sample, and the last calls on tensors that led to it, as many as fit into memory."""

    leaves: list[Any]
    calls: list[TensorCall]


class Follower(Recorder):
    """Recorder of the calls on tensors of one sample after the other. Descends into all code except torch's own."""

    def __init__(self, root: Node, rewriter: Rewriter) -> None:
        super().__init__(root, rewriter)
        self._calls: deque[TensorCall] = deque()
        self._kept_bytes = 0
        self._moment = 0
        self._called: tuple[Any, tuple[Any, ...], Mapping[str, Any]] | None = None

    def sample(self, dataset: Any, index: Any) -> FollowedSample:
        """Load a sample. Raises the dataset's errors."""
        self._calls.clear()
        self._kept_bytes = 0
        with self:
            sample = self.enter(SAMPLE, operator.getitem, dataset, index)
        return FollowedSample(tree_flatten(sample)[0], list(self._calls))

    def call(
        self, frame: Frame, site: Any, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        """Store the call as it is in the code, because `run` gets the inner code of an expanded call."""
        self._called = None if function is next else (function, arguments, keywords)
        return super().call(frame, site, function, arguments, keywords)

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Run a call, and record it if it takes tensors and returns one."""
        called, self._called = self._called or (function, arguments, keywords), None
        _, given = with_receiver(called[0], called[1])
        places: list[tuple[int | str, Any]] = [*enumerate(given), *called[2].items()]
        tensors = {place: value for place, value in places if is_plain(value)}
        if not tensors:
            return function(*arguments, **keywords)
        copies = {place: tensor.clone() for place, tensor in tensors.items()}
        states = generator_states([])
        self._moment += 1
        started = self._moment
        result = function(*arguments, **keywords)
        self._moment += 1
        if is_plain(result):
            draws = states != generator_states([])
            self._keep(TensorCall(node, *called, tensors, copies, result, result.clone(), started, self._moment, draws))
        return result

    def _keep(self, call: TensorCall) -> None:
        self._calls.append(call)
        self._kept_bytes += call.kept_bytes
        while self._kept_bytes > KEPT_BYTES:
            self._kept_bytes -= self._calls.popleft().kept_bytes

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> RewrittenFunction | None:
        function = callee.function
        if function is None or is_standard(function):
            return None
        package = (function.__module__ or "").partition(".")[0]
        if package in OPAQUE_PACKAGES and not expands(callee, frame.function, frame.receiver):
            return None
        if any(ancestor.function == f"{function.__module__}:{function.__qualname__}" for ancestor in node.ancestors()):
            return None  # recursion
        return self.rewriter.rewrite(function)


def follower() -> Follower:
    """Return a follower with its own tree of calls."""
    return Follower(Node(None, SAMPLE, "sample", ""), Rewriter())


def way_of(node: Node) -> CallPath:
    """Return the calls that lead to a node, including its own."""
    nodes = [node, *node.ancestors()][:-1][::-1]
    return tuple(CallStep(step.site.id, step.name, step.position) for step in nodes)
