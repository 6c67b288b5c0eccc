"""Processors from the tree of calls to the graph: choice of the operators, and the flows between them.

Each processor is a pure function. In order: `measure` sums up a first timing, `choose` picks the operators, `select`
returns what must be recorded to see only these, and `connect` makes their graph.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plumb.instrument.recorder import COLLATE, Node, Selection
from plumb.tracing.dataflow_pass import ValueFlow
from plumb.tracing.timing_pass import Cost

if TYPE_CHECKING:
    import networkx as nx

SMALL_SHARE = 0.005
SMALL_SHARE_TOGETHER = 0.03
BESIDE_STEPS_SHARE = 0.05
WHOLE_SHARE = 0.03
LIBRARY_WHOLE_SHARE = 0.1
INLINE_SHARE = 0.5
WRAPPED_SHARE = 0.8
MOST_OPERATORS = 20
BUSY_CALLS = 200.0
FINE_CALLS = 8.0
FINE_TIME = 0.2
UNNOTICED_SHARE = 0.002


@dataclass(frozen=True)
class Weights:
    """A first timing: each node's own share of a sample's time, and its share including everything below it.

    `calls` are per sample. The nodes in `fine` run so briefly, in total or for each of their many calls, that recording
    them would cost more than they do.
    """

    own: Mapping[Node, float]
    total: Mapping[Node, float]
    calls: Mapping[Node, float]
    fine: Collection[Node]


def measure(root: Node, costs: Mapping[Node, Cost], overhead_seconds: float) -> Weights:
    """Convert costs to shares and sum them up from the leaves to the root.

    Args:
        root: Root of the tree of calls.
        costs: Cost per sample of each timed node.
        overhead_seconds: Cost of recording one call.

    """
    seconds = {node: cost.wall_seconds for node, cost in costs.items()}
    calls = {node: cost.calls_per_sample for node, cost in costs.items()}
    fine = {
        node
        for node, count in calls.items()
        if seconds[node] < count * overhead_seconds * (1.0 if count > FINE_CALLS else FINE_TIME)
    }
    whole = sum(seconds.values()) or 1.0
    # a call that is reached only later, behind a condition, has no cost yet and counts as 0
    total: dict[Node, float] = defaultdict(float)
    for node in reversed(list(root.walk())):
        total[node] = seconds.get(node, 0.0) / whole + sum(total[child] for child in node.children.values())
    own = defaultdict(float, {node: seconds.get(node, 0.0) / whole for node in total})
    return Weights(own, total, calls, fine)


def inner_loops(root: Node, weights: Weights) -> Selection:
    """Return the selection for later passes: everything except calls in inner loops that are too brief to record."""
    skipped: dict[str, set[int]] = defaultdict(set)
    for node in root.walk():
        if node in weights.fine and weights.calls[node] > BUSY_CALLS and node.site.kind != "loop":
            skipped[node.site.function].add(node.site.index)
    return Selection(skipped={name: frozenset(indices) for name, indices in skipped.items()})


def worth_following(weights: Weights) -> set[Node]:
    """Return the nodes worth following in discovery: those timed, except frequent calls that take hardly any time."""
    return {
        node
        for node, calls in weights.calls.items()
        if calls <= BUSY_CALLS or (weights.total[node] >= UNNOTICED_SHARE and node not in weights.fine)
    }


def choose(root: Node, weights: Weights, readers: Collection[Node]) -> list[Node]:
    """Return the nodes that become operators, in the order of their first call.

    A call is one operator if all its parts are small, if its own code takes most of its time, or if it is a user's
    function around a single call; otherwise its parts are the operators.
    Parts with a negligible share are left out as long as their sum is small. An operator that reads from storage stays,
    however fast it was, because its time depends on the disk's cache. The steps of a `Compose` stay, and other calls in
    it are left out. Operators that the user marked stay.

    Args:
        root: Root of the tree of calls.
        weights: First timing.
        readers: Nodes that read from storage or open files.

    """
    chosen = [node for entry in root.children.values() for node in _operators_below(entry, weights, readers, True)]
    chosen = _without_small(chosen, weights, readers)
    while len(chosen) > MOST_OPERATORS:
        chosen = _with_fewer(chosen, weights)
    return chosen


def _operators_below(node: Node, weights: Weights, readers: Collection[Node], entry: bool) -> list[Node]:
    if not node.children:
        return [node] if weights.own[node] > 0 and (node not in weights.fine or node.hint is not None) else []
    runs_steps = any(child.is_step for child in node.children.values())
    beside = set() if node.is_users else _beside_steps(node, weights, readers)
    below = [
        found
        for child in node.children.values()
        if child not in beside
        for found in _operators_below(child, weights, readers, entry=False)
    ]
    if any(found.hint is not None for found in below):
        return below
    large = [found for found in below if weights.total[found] >= SMALL_SHARE or found in readers]
    if not below or (not large and not runs_steps):
        return [node]
    if entry or _makes_generators(node):
        return below
    inline = weights.total[node] - sum(weights.total[found] for found in below) > INLINE_SHARE * weights.total[node]
    plain = not any(inner.is_users or inner.is_step or inner in readers for inner in node.walk())
    small = weights.total[node] < (LIBRARY_WHOLE_SHARE if plain else WHOLE_SHARE)
    whole = inline or small or _is_library_step(node) or (node.is_users and _wraps_one(node, below, weights, readers))
    return [node] if whole else below


def _wraps_one(node: Node, below: list[Node], weights: Weights, readers: Collection[Node]) -> bool:
    """Return whether a function is little more than one call that is not expanded."""
    main = max(below, key=weights.total.__getitem__)
    beside = any(found in readers for found in below if found is not main)
    wraps = weights.total[main] >= WRAPPED_SHARE * weights.total[node] and not main.children
    return wraps and not main.is_step and not beside


def _beside_steps(node: Node, weights: Weights, readers: Collection[Node]) -> set[Node]:
    """Return the small calls that a library's `Compose` makes besides its steps, which are not worth showing."""
    ways = {child: list(child.walk()) for child in node.children.values()}
    if not any(below.is_step for way in ways.values() for below in way):
        return set()
    return {
        child
        for child, way in ways.items()
        if weights.total[child] < BESIDE_STEPS_SHARE
        and not any(below.is_step or below.is_users or below in readers for below in way)
    }


def _is_library_step(node: Node) -> bool:
    """Return whether a node is a library's step that runs neither other steps nor user code: one step to its user."""
    inside = list(node.walk())[1:]
    return node.is_step and not any(below.is_users or below.position not in ("", node.position) for below in inside)


def _makes_generators(node: Node) -> bool:
    return any(below.is_generator for below in list(node.walk())[1:])


def _without_small(chosen: list[Node], weights: Weights, readers: Collection[Node]) -> list[Node]:
    dropped: set[Node] = set()
    together = 0.0
    for node in sorted(chosen, key=weights.total.__getitem__):
        share = weights.total[node]
        together += share
        if share >= SMALL_SHARE or together > SMALL_SHARE_TOGETHER:
            break
        reads = any(below in readers for below in node.walk())
        if reads or node.hint is not None or (node.is_step and share >= UNNOTICED_SHARE) or node.site is COLLATE:
            together -= share
            continue
        dropped.add(node)
    kept = [node for node in chosen if node not in dropped]
    return kept or chosen


def _with_fewer(chosen: list[Node], weights: Weights) -> list[Node]:
    """Reduce the number of operators by one step: merge those below the smallest call that several of them share."""
    inside: dict[Node, list[Node]] = defaultdict(list)
    for node in chosen:
        for ancestor in node.ancestors():
            if ancestor.parent is not None and ancestor.parent.parent is not None and not _makes_generators(ancestor):
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
    """Return what to record in order to see these nodes: the sites on their call paths, and every loop on these paths.

    Generators are always expanded down to their loops, because what they pull from another iterator is not their own
    time.

    Args:
        nodes: Nodes to see.
        whole: True runs the nodes themselves unrecorded; False expands those that were expanded before.

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
    """Map each node to the operator that it is part of: itself, or the nearest around it. Other nodes are left out."""
    chosen = set(operators)
    found: dict[Node, Node] = {}
    for node in root.walk():
        if node in chosen:
            found[node] = node
        elif node.parent in found:
            found[node] = found[node.parent]
    return found


def connect(flows: Mapping[tuple[Node, Node], ValueFlow], operators: list[Node], root: Node) -> nx.DiGraph:
    """Build the graph of the operators, with a `ValueFlow` as "passed" on its edges.

    An operator stands for the nodes below it. Flows through a node outside all operators are drawn past it.
    """
    import networkx as nx

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
    """Return the graph without the nodes that are not kept.

    Producers of a removed node are joined to its consumers, and such an edge carries what flowed out of the node.
    """
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
    """Return the graph without backward flows, such as those of a loop from one iteration to the next."""
    import networkx as nx

    result = graph.copy()
    while True:
        try:
            cycle = nx.find_cycle(result)
        except nx.NetworkXNoCycle:
            return result
        result.remove_edge(*next(edge for edge in cycle if order[edge[1]] <= order[edge[0]]))
