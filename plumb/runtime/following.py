"""The calls on tensors that make a sample, down to the single operations, in the user's code and in libraries."""

from __future__ import annotations

import hashlib
import operator
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from plumb.config import Step, Way
from plumb.identity import without_numbers
from plumb.profile.capture import with_receiver
from plumb.profile.randomness import generator_states
from plumb.runtime.answered import Tree
from plumb.runtime.facts import facts_of
from plumb.runtime.recipe import is_plain
from plumb.trace.code import code_digest
from plumb.trace.expand import Callee, expands, is_standard
from plumb.trace.recorder import SAMPLE, Frame, Node, Recorder
from plumb.trace.rewrite import Rewriter, Rewritten

_DATASET = "dataset"
KEPT_BYTES = 64 * 2**20
OPAQUE_PACKAGES = {"torch", "numpy", "PIL", "plumb"}


@dataclass(frozen=True)
class TensorCall:
    """One call that was given tensors and returned one.

    `tensors` are those among its arguments by their places, as objects, and `copies` what they held at that time, as
    `copy` is what `result` held. `started` and `ended` number the moments of a sample.
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
    """The leaves of a sample, and the last calls on tensors that led to it: as many as there is room for."""

    leaves: list[Any]
    calls: list[TensorCall]


class Follower(Recorder):
    """Notes the calls on tensors of one sample after the other. Descends into all code that isn't torch's own."""

    def __init__(self, root: Node, rewriter: Rewriter) -> None:
        super().__init__(root, rewriter)
        self._calls: deque[TensorCall] = deque()
        self._kept_bytes = 0
        self._moment = 0
        self._called: tuple[Any, tuple[Any, ...], Mapping[str, Any]] | None = None

    def sample(self, dataset: Any, index: Any) -> FollowedSample:
        """Loads a sample. Raises what the dataset raises."""
        self._calls.clear()
        self._kept_bytes = 0
        with self:
            sample = self.enter(SAMPLE, operator.getitem, dataset, index)
        return FollowedSample(tree_flatten(sample)[0], list(self._calls))

    def call(
        self, frame: Frame, site: Any, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]
    ) -> Any:
        """Keeps the call as the code has it: what `run` gets of one that is expanded is the code behind it."""
        self._called = None if function is next else (function, arguments, keywords)
        return super().call(frame, site, function, arguments, keywords)

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        """Runs a call, and notes it where tensors go in and one comes out."""
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

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> Rewritten | None:
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
    """A follower with a tree of calls of its own."""
    return Follower(Node(None, SAMPLE, "sample", ""), Rewriter())


def way_of(node: Node) -> Way:
    """The calls that lead to a node, its own included."""
    nodes = [node, *node.ancestors()][:-1][::-1]
    return tuple(Step(step.site.id, step.name, step.position) for step in nodes)


class _Noting(Recorder):
    """Notes the functions on the ways of a tree."""

    def __init__(self, tree: Tree) -> None:
        super().__init__(tree.root, tree.rewriter, tree.selection)
        self.functions: set[FunctionType] = set()
        self._on_the_ways = {step for node in tree.nodes.values() for step in (node, *node.ancestors())}

    def run(
        self, node: Node, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], leaf: bool
    ) -> Any:
        return function(*arguments, **keywords)

    def _expansion(self, node: Node, callee: Callee, frame: Frame) -> Rewritten | None:
        if callee.function is not None and node in self._on_the_ways:
            self.functions.add(callee.function)
        return super()._expansion(node, callee, frame)


def code_on(ways: tuple[Way, ...], dataset: Any, index: Any) -> str:
    """A digest of the code on the ways, those of the last callees included, as one sample runs it.

    Raises what the dataset raises.
    """
    noting = _Noting(Tree(ways))
    with noting:
        noting.enter(SAMPLE, operator.getitem, dataset, index)
    return code_digest(noting.functions)


def code_of_samples(dataset: Any) -> str:
    """Return a digest of all of the user's code that a dataset's samples may run, with the options that it names.

    Options are flags, numbers and texts in defaults, closures, modules and classes; what the dataset holds itself may
    change while samples are made. Which code a sample runs may differ from sample to sample, so nothing is run here.
    """
    facts = without_numbers(facts_of({_DATASET: dataset}), constants=True)
    options = {path: value for path, value in facts.values.items() if not path.startswith(_DATASET)}
    return hashlib.blake2b(repr((facts.code, options)).encode(), digest_size=16).hexdigest()
