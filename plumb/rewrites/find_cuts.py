"""Search for cuts of a sample: calls whose result depends on the index alone, found in recorded samples.

A cut is moved to the outermost call that returns the same object, so that nothing needs to be skipped if possible.
Other calls that only feed the cut are skipped with it if they take time.
"""

from __future__ import annotations

import itertools
import operator
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plumb.core.config import Cut
from plumb.core.units import format_bytes
from plumb.instrument.dataset_objects import DatasetObjects
from plumb.instrument.recorder import SAMPLE, Node
from plumb.instrument.source_digest import code_digest
from plumb.rewrites.call_log import Calls, Sample
from plumb.rewrites.feeding_calls import feeds_of
from plumb.runtime.replay.sample_code import code_of_samples
from plumb.runtime.replay.substitution import Tree
from plumb.tracing.graph_builder import ids_of, is_called_random, name_of
from plumb.tracing.pipeline import Operator, Pipeline
from plumb.tracing.sample_source import Indexed
from plumb.tracing.tracer import TracedPipeline

MOST_SAMPLES = 8
# A larger value is no sample, but a source of samples, such as a memory-mapped file.
_LARGEST_BYTES = 2**30
MOST_CUTS = 6
SMALLEST_SHARE = 0.05


@dataclass(frozen=True)
class CutCandidate:
    """A cut, and its worth; seconds and bytes are per sample.

    The prefix need not run if the cut's value is known; the suffix is the rest of a sample, including its share of
    collating. `value_bytes` is the size of the value's content in memory.
    """

    cut: Cut
    prefix_cpu_seconds: float
    prefix_wait_seconds: float
    suffix_cpu_seconds: float
    suffix_wait_seconds: float
    value_bytes: float

    @property
    def prefix_seconds(self) -> float:
        """Wall time of the prefix."""
        return self.prefix_cpu_seconds + self.prefix_wait_seconds

    def saves_all_of(self, other: CutCandidate) -> bool:
        """Return whether storing values here saves at least as much as at `other`, and takes no more space."""
        return self.prefix_seconds >= other.prefix_seconds and self.value_bytes <= other.value_bytes


@dataclass(frozen=True)
class FoundCuts:
    """Cuts in descending order of saved time, and reasons against cuts at other operators, or against all."""

    candidates: tuple[CutCandidate, ...] = ()
    reasons: tuple[str, ...] = ()


def find_cuts(traced: TracedPipeline) -> FoundCuts:
    """Find the cuts of a traced dataset; they are not validated yet.

    Reads a few samples twice more, in another order and with other states of the random generators, which are restored.
    Raises the dataset's errors.
    """
    if not isinstance(traced.source, Indexed):
        return FoundCuts(reasons=("An iterable dataset has no index by which a sample could be stored.",))
    if traced.source.grouped:
        return FoundCuts(reasons=("The dataset reads its samples in groups, by a __getitems__ of its own.",))
    recorded = _record(traced, traced.source)
    found: dict[Node, str] = {}
    reasons: list[str] = []
    for name, node in recorded.operators.items():
        reason = recorded.reason_against(node)
        if not reason:
            found[recorded.hoisted(node)] = name
            continue
        reasons.append(f"Nothing is stored after {name}: {reason}.")
        outer = recorded.cuttable_around(node)
        if outer is not None:
            is_taken = outer.name in recorded.operators or outer.name in found.values()
            found.setdefault(recorded.hoisted(outer), f"{outer.name} around {name}" if is_taken else outer.name)
    if recorded.operators and not recorded.reason_against(recorded.entry):
        last = list(recorded.operators)[-1]
        found = {node: name for node, name in found.items() if name != last} | {recorded.entry: last}
    costs = {step.id: step for step in traced.pipeline.operators}
    # The latest first: if cuts seem to save the same, it leaves the least to run.
    latest = reversed(found.items())
    candidates = [_candidate(recorded, node, name, costs, traced.pipeline) for node, name in latest]
    worth = [item for item in candidates if item.prefix_seconds >= SMALLEST_SHARE * traced.pipeline.sample_seconds]
    # If cuts save the same, the one with smaller values.
    worth.sort(key=lambda item: (-item.prefix_seconds, item.value_bytes))
    return FoundCuts(tuple(worth[:MOST_CUTS]), tuple(reasons))


@dataclass(frozen=True)
class _Recorded:
    """Samples, each recorded in two rounds: `operators` are the nodes of the operators that make single samples.

    `code` is a digest of all code that may make samples.
    """

    calls: Calls
    entry: Node
    first: list[Sample]
    second: list[Sample]
    results: Mapping[Node, Any]
    operators: Mapping[str, Node]
    code: str

    def reason_against(self, node: Node) -> str:
        """Return why the result of a node can't be stored; empty if it can."""
        for sample in (*self.first, *self.second):
            calls = sample.of(node)
            if len(calls) != 1 or calls[0].end is None:
                return "it does not run exactly once in each sample"
            if sample.drawn is not None and sample.drawn <= calls[0].end:
                return "random numbers are drawn before its end"
            for called in filter(is_called_random, self.operators.values()):
                if any(call.start <= calls[0].end for call in sample.of(called)):
                    return f"{name_of(called)} is marked as not deterministic"
        for one, other in zip(self.first, self.second, strict=True):
            made, again = one.of(node)[0].digest, other.of(node)[0].digest
            if made is None or again is None:
                return f"what it returns ({type(self.results[node]).__name__}) can't be compared"
            if made != again:
                return "its output differs when a sample is repeated"
        if max(sample.of(node)[0].size_bytes for sample in self.first) > _LARGEST_BYTES:
            return f"what it returns is larger than {format_bytes(_LARGEST_BYTES)}"
        return _pickling_error(self.results[node])

    def cuttable_around(self, node: Node) -> Node | None:
        """Return the innermost call around `node`, if that runs several times in a sample, that can be cut itself."""
        if all(len(sample.of(node)) == 1 for sample in (*self.first, *self.second)):
            return None
        inside = itertools.takewhile(lambda outer: outer is not self.entry, node.ancestors())
        return next((outer for outer in inside if outer.parent and not self.reason_against(outer)), None)

    def hoisted(self, node: Node) -> Node:
        """Return the outermost call that returns the very object that `node` returns, and can be cut as well."""
        parent = node.parent
        if parent is None or parent.parent is None or self.reason_against(parent):
            return node
        samples = (*self.first, *self.second)
        if all(sample.of(node)[0].result == sample.of(parent)[0].result for sample in samples):
            return self.hoisted(parent)
        return node


def _record(traced: TracedPipeline, source: Indexed) -> _Recorded:
    """Record the calls that a trace followed in its discovery pass."""
    observed = traced.observed
    followed = [node for node in observed.discovery.facts if node.parent is not None and not node.is_collating]
    entry = followed[0]
    while entry.parent is not None and entry.parent.parent is not None:
        entry = entry.parent
    tree = Tree([entry.way, *(node.way for node in followed)])
    held = DatasetObjects(source.dataset)
    calls = Calls(tree, held.generators)
    indices = [group[0] for group in source.groups[: min(MOST_SAMPLES, observed.units)]]
    with held.kept(), calls:
        first = [_sample(calls, source.dataset, index) for index in indices]
        held.disturb()
        second = [_sample(calls, source.dataset, index) for index in reversed(indices)][::-1]
        results = dict(calls.results)
    ids = ids_of(observed.operators)
    operators = {
        ids[node]: tree.nodes[node.way]
        for node in observed.operators
        if node.parent is not None and not node.is_collating and node.way in tree.nodes
    }
    return _Recorded(calls, tree.nodes[entry.way], first, second, results, operators, code_of_samples(source.dataset))


def _sample(calls: Calls, dataset: Any, index: Any) -> Sample:
    calls.begin()
    return calls.finish(calls.enter(SAMPLE, operator.getitem, dataset, index))


def _candidate(
    recorded: _Recorded, node: Node, name: str, costs: Mapping[str, Operator], pipeline: Pipeline
) -> CutCandidate:
    matters = [inner for inner in recorded.operators.values() if inner is not node]
    samples = [*recorded.first, *recorded.second]
    feeds = feeds_of(node, samples, lambda feed: any(inner in matters for inner in feed.walk()))
    skipped = {inner for outer in (node, *feeds) for inner in outer.walk()}
    saved = [costs[key] for key, inner in recorded.operators.items() if inner in skipped]
    cpu = min(pipeline.sample_cpu_seconds, sum(step.cpu_seconds for step in saved))
    wait = min(pipeline.sample_wait_seconds, sum(step.wait_seconds for step in saved))
    functions = recorded.calls.functions
    on_the_ways = {step for end in (node, *feeds) for step in (end, *end.ancestors())}
    is_whole = node is recorded.entry
    code = code_digest(function for step in on_the_ways for function in functions.get(step, ()))
    return CutCandidate(
        Cut(name, (), (), recorded.code) if is_whole else Cut(name, node.way, tuple(feed.way for feed in feeds), code),
        prefix_cpu_seconds=cpu,
        prefix_wait_seconds=wait,
        suffix_cpu_seconds=pipeline.sample_cpu_seconds - cpu,
        suffix_wait_seconds=pipeline.sample_wait_seconds - wait,
        value_bytes=sum(sample.of(node)[0].size_bytes for sample in samples) / len(samples),
    )


def _pickling_error(value: Any) -> str:
    try:
        pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        return f"what it returns can't be pickled ({type(error).__name__})"
    return ""
