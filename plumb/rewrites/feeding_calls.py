"""Search for calls whose only purpose is to make a cut's inputs, by the data flow of recorded samples.

A flow that can't be seen (into an attribute, a condition, plain arithmetic) is detected when a skipped value is used,
which raises.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

from plumb.instrument.recorder import Node
from plumb.rewrites.call_log import LoggedCall, Sample


def feeds_of(cut: Node, samples: Sequence[Sample], matters: Callable[[Node], bool]) -> list[Node]:
    """Return the calls to skip if the result of `cut` is known, in the order in which they ran, none inside another.

    Args:
        cut: Node of the cut.
        samples: Recorded samples.
        matters: Returns whether a node takes considerable time. Calls that would read a skipped result are skipped,
            too.
    """
    around = {*cut.ancestors()}
    takers = _takers(cut, around, samples)
    possible = _possible(cut, around, takers)
    chosen = {node for node in _outermost(possible, around, cut) if matters(node)}
    pending = list(chosen)
    while pending:
        for inner in pending.pop().walk():
            for taker in takers.get(inner, ()):
                if _is_within(taker, {cut, *chosen}):
                    continue
                added = [node for node in (taker, *taker.ancestors()) if node in possible][-1]
                chosen.add(added)
                pending.append(added)
    chosen = {node for node in chosen if not any(other in chosen for other in node.ancestors())}
    return [node for node in takers if node in chosen]


def _takers(cut: Node, around: Collection[Node], samples: Sequence[Sample]) -> dict[Node, set[Node]]:
    """Return for each node that always ends before the cut the nodes that later took part of its results.

    Calls around the cut only pass on their inputs. The root stands for takers that must not be skipped: the sample
    itself, and calls after the cut that don't get the value from the cut.
    """
    takers: dict[Node, set[Node]] = {}
    unfit: set[Node] = set()
    for sample in samples:
        for end in sample.of(cut):
            for call in sample.calls:
                if call.node is cut or call.node in around:
                    continue
                if call.end is None or call.end > end.start:
                    unfit.add(call.node)
                    continue
                found = takers.setdefault(call.node, set())
                found |= _takers_of(call, end, sample, around)
    return {node: found for node, found in takers.items() if node not in unfit}


def _takers_of(call: LoggedCall, cut: LoggedCall, sample: Sample, around: Collection[Node]) -> set[Node]:
    assert call.end is not None
    assert cut.end is not None
    rest = call.made - cut.made
    root = [*cut.node.ancestors()][-1]
    found = {root} if rest & sample.delivered else set()
    for later in sample.calls:
        if later.start < call.end or later.node in around:
            continue
        if later.start > cut.end:
            if rest & later.given:
                found.add(root)
        elif call.made & later.given:
            found.add(later.node)
    return found


def _possible(cut: Node, around: Collection[Node], takers: dict[Node, set[Node]]) -> set[Node]:
    """Return the nodes whose results are only taken by the cut, or by others of these nodes, and reach the cut."""
    possible = set(takers)
    while True:
        leading = _leading(cut, possible, takers)
        kept = {node for node in leading if all(_is_within(taker, {cut, *leading}) for taker in takers[node])}
        if kept == possible:
            return possible
        possible = kept


def _leading(cut: Node, possible: set[Node], takers: dict[Node, set[Node]]) -> set[Node]:
    """Return those of the nodes whose results reach the cut."""
    givers: dict[Node, set[Node]] = defaultdict(set)
    for node in possible:
        for taker in takers[node]:
            for outer in (taker, *taker.ancestors()):
                givers[outer].add(node)
    found: set[Node] = set()
    pending = [cut]
    while pending:
        for node in givers[pending.pop()] - found:
            found.add(node)
            pending.append(node)
    return found


def _outermost(possible: Collection[Node], around: Collection[Node], cut: Node) -> list[Node]:
    found = []
    pending = [child for node in around for child in node.children.values()]
    while pending:
        node = pending.pop()
        if node is cut or node in around:
            continue
        if node in possible:
            found.append(node)
        else:
            pending.extend(node.children.values())
    return found


def _is_within(node: Node, others: Collection[Node]) -> bool:
    return node in others or any(outer in others for outer in node.ancestors())
