"""From the tree of calls to the graph: which nodes become operators, and what flows between them.

Each processor is one function from what it is given to something new. In order: `measure` sums up a first timing,
`choose` picks the operators, `select` says what must be recorded to see just these, and `connect` makes their graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import networkx as nx

from plumb.trace.discovery import Passed
from plumb.trace.recorder import COLLATE, Node, Selection

SMALL_SHARE = 0.02
SMALL_SHARE_TOGETHER = 0.05
WHOLE_SHARE = 0.03
INLINE_SHARE = 0.5
MOST_OPERATORS = 20
BUSY_CALLS = 200.0
UNNOTICED_SHARE = 0.002


@dataclass(frozen=True)
class Weights:
    """A first timing: each node's own share of a sample's time, its share with all below it, its calls per sample."""

    own: Mapping[Node, float]
    total: Mapping[Node, float]
    calls: Mapping[Node, float]


def measure(root: Node, seconds: Mapping[Node, float], calls: Mapping[Node, float]) -> Weights:
    """Turns seconds into shares, and sums them up from the leaves to the root."""
    whole = sum(seconds.values()) or 1.0
    total: dict[Node, float] = {}
    for node in reversed(list(root.walk())):
        total[node] = seconds.get(node, 0.0) / whole + sum(total[child] for child in node.children.values())
    return Weights({node: seconds.get(node, 0.0) / whole for node in total}, total, calls)


def noticed(root: Node, weights: Weights) -> set[Node]:
    """The nodes worth following in discovery: all but those in inner loops that take no time to speak of."""
    return {
        node
        for node in root.walk()
        if node.parent is not None
        and (weights.calls.get(node, 0.0) <= BUSY_CALLS or weights.total[node] >= UNNOTICED_SHARE)
    }


def choose(root: Node, weights: Weights, readers: Collection[Node]) -> list[Node]:
    """The nodes that become operators, in the order of their first call.

    A call whose parts are all small, or whose own code takes most of its time, is one operator; else its parts are.
    Parts that take nearly nothing are left out while they don't add up to much. An operator that reads from storage
    stays, however fast it was, for that is what a cold disk changes; so do the steps of a `Compose`.
    """
    chosen = [node for entry in root.children.values() for node in _operators_below(entry, weights, readers, True)]
    chosen = _without_small(chosen, weights, readers)
    while len(chosen) > MOST_OPERATORS:
        chosen = _with_fewer(chosen, weights)
    return chosen


def _operators_below(node: Node, weights: Weights, readers: Collection[Node], entry: bool) -> list[Node]:
    if not node.children:
        return [node] if weights.own[node] > 0 else []
    below = [
        found for child in node.children.values() for found in _operators_below(child, weights, readers, entry=False)
    ]
    large = [found for found in below if weights.total[found] >= SMALL_SHARE or found in readers]
    steps = [child for child in node.children.values() if is_step(child)]
    inline = weights.own[node] > INLINE_SHARE * weights.total[node]
    if not below or (not large and len(steps) < 2) or (inline and not entry and not _has_generators(node)):
        return [node]
    if weights.total[node] < WHOLE_SHARE and not entry:
        return [node]
    own = [node] if _is_inner_generator(node) and weights.own[node] >= SMALL_SHARE else []
    return own + below


def is_step(node: Node) -> bool:
    """Whether a node is one of several that an object keeps in order: a step of a `Compose` or a `Sequential`."""
    return node.position.endswith("]")


def _is_inner_generator(node: Node) -> bool:
    return node.is_generator and any(ancestor.parent is not None for ancestor in node.ancestors())


def _has_generators(node: Node) -> bool:
    return any(below.is_generator for below in node.walk())


def _without_small(chosen: list[Node], weights: Weights, readers: Collection[Node]) -> list[Node]:
    dropped: set[Node] = set()
    together = 0.0
    for node in sorted(chosen, key=weights.total.__getitem__):
        share = weights.total[node]
        together += share
        if share >= SMALL_SHARE or together > SMALL_SHARE_TOGETHER:
            break
        if any(below in readers for below in node.walk()) or is_step(node) or node.site is COLLATE:
            together -= share
            continue
        dropped.add(node)
    kept = [node for node in chosen if node not in dropped]
    return kept or chosen


def _with_fewer(chosen: list[Node], weights: Weights) -> list[Node]:
    """One step towards a graph that can be read: takes the smallest call that several operators share as one."""
    inside: dict[Node, list[Node]] = defaultdict(list)
    for node in chosen:
        for ancestor in node.ancestors():
            if ancestor.parent is not None and ancestor.parent.parent is not None and not _has_generators(ancestor):
                inside[ancestor].append(node)
    shared = [ancestor for ancestor, nodes in inside.items() if len(nodes) > 1]
    if not shared:
        smallest = min(chosen, key=weights.total.__getitem__)
        return [node for node in chosen if node is not smallest]
    merged = min(shared, key=weights.total.__getitem__)
    first = chosen.index(inside[merged][0])
    kept = [node for node in chosen if node not in inside[merged]]
    return [*kept[:first], merged, *kept[first:]]


def select(nodes: Collection[Node], *, whole: bool) -> Selection:
    """What to record in order to see these nodes: the sites on the ways to them, and every loop on these ways.

    With `whole`, the nodes themselves are run as they stand; else they are expanded where they were.
    Generators are always expanded, down to their loops: what they pull from another is not their own time.
    """
    expanded: set[Node] = set()
    sites: dict[str, set[int]] = defaultdict(set)
    for node in nodes:
        way = [node, *node.ancestors()]
        for step in way[:-1]:
            sites[step.site.function].add(step.site.index)
        expanded.update(way[1:])
        if node.function is not None and (not whole or node.is_generator):
            expanded.add(node)
    return Selection(frozenset(expanded), {name: frozenset(indices) for name, indices in sites.items()})


def represented(root: Node, operators: Collection[Node]) -> dict[Node, Node]:
    """The operator that each node is a part of: itself, or the nearest around it. Nodes outside of all are missing."""
    chosen = set(operators)
    found: dict[Node, Node] = {}
    for node in root.walk():
        if node in chosen:
            found[node] = node
        elif node.parent in found:
            found[node] = found[node.parent]
    return found


def connect(flows: Mapping[tuple[Node, Node], Passed], operators: list[Node], root: Node) -> nx.DiGraph:
    """The graph of the operators, with a `Passed` as "passed" on its edges.

    Nodes within an operator stand for it. What flowed through a node that is no operator flows past it.
    """
    stands_for = represented(root, operators)
    graph = nx.DiGraph()
    graph.add_nodes_from(operators)
    for (producer, consumer), passed in flows.items():
        start, end = stands_for.get(producer, producer), stands_for.get(consumer, consumer)
        if start is end:
            continue
        known = graph.edges[start, end]["passed"] if graph.has_edge(start, end) else None
        graph.add_edge(start, end, passed=passed if known is None else known.joined(passed))
    return acyclic(contracted(graph, operators), {node: place for place, node in enumerate(operators)})


def contracted(graph: nx.DiGraph, kept: Collection[Node]) -> nx.DiGraph:
    """The graph without the nodes that are not kept: what flowed through one flows past it, as it came out."""
    result = graph.copy()
    for node in graph.nodes:
        if node in kept:
            continue
        for producer in list(result.predecessors(node)):
            for _, consumer, passed in list(result.out_edges(node, data="passed")):
                if producer is not consumer and not result.has_edge(producer, consumer):
                    result.add_edge(producer, consumer, passed=passed)
        result.remove_node(node)
    return result


def acyclic(graph: nx.DiGraph, order: Mapping[Node, int]) -> nx.DiGraph:
    """The graph without the flows that go back, such as those of a loop from one turn to the next."""
    result = graph.copy()
    while True:
        try:
            cycle = nx.find_cycle(result)
        except nx.NetworkXNoCycle:
            return result
        result.remove_edge(*next(edge for edge in cycle if order[edge[1]] <= order[edge[0]]))
