"""Builder of the graph of typed operators, from what the passes recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plumb.instrument.callee import is_user_file
from plumb.instrument.recorder import COLLATE, Node
from plumb.tracing.dataflow_pass import Discovery, NodeFacts, ValueFlow
from plumb.tracing.operator_kinds import kind_of
from plumb.tracing.operator_selection import connect, represented
from plumb.tracing.pipeline import Flow, Operator
from plumb.tracing.timing_pass import Cost

if TYPE_CHECKING:
    import networkx as nx

FREE_SHARE = 0.5
SOURCE = "index"
BATCH = "batch"
NO_COST = Cost(0.0, 0.0, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0)


@dataclass(frozen=True)
class ObservedPasses:
    """Results of the passes over one dataset: `units` of `unit_samples` samples, and batches of `batch_samples`."""

    root: Node
    operators: list[Node]
    discovery: Discovery
    costs: Mapping[Node, Cost]
    free_share: Callable[[Node], float | None]
    counts_reads: bool
    units: int
    unit_samples: int
    batch_samples: int


def assemble(observed: ObservedPasses) -> nx.DiGraph:
    """Build the acyclic graph from a source to the batch; nodes carry an `Operator`, edges carry a `Flow`."""
    import networkx as nx

    nodes = connect(observed.discovery.flows, observed.operators, observed.root)
    parts = _parts(observed)
    ids = ids_of(observed.operators)
    graph = nx.DiGraph()
    for node in observed.operators:
        first = nodes.in_degree(node) == 0
        graph.add_node(ids[node], operator=_operator(node, ids[node], parts[node], observed, first))
    for producer, consumer, passed in nodes.edges(data="passed"):
        ratio = graph.nodes[ids[producer]]["operator"].visit_ratio
        graph.add_edge(ids[producer], ids[consumer], flow=_flow(passed, consumer, observed, ratio))
    return _with_ends(_with_determinism(graph, observed, ids), observed, ids)


def _parts(observed: ObservedPasses) -> dict[Node, list[Node]]:
    """Return the nodes that each operator stands for: its own node and those below it."""
    parts: dict[Node, list[Node]] = {node: [] for node in observed.operators}
    for node, operator in represented(observed.root, observed.operators).items():
        parts[operator].append(node)
    return parts


def ids_of(operators: list[Node]) -> dict[Node, str]:
    """Return the operators' ids in the graph: their names, numbered when several operators have the same name."""
    ids: dict[Node, str] = {}
    taken: dict[str, int] = {SOURCE: 1, BATCH: 1}
    for node in operators:
        name = name_of(node)
        taken[name] = taken.get(name, 0) + 1
        ids[node] = name if taken[name] == 1 else f"{name}#{taken[name]}"
    return ids


def name_of(node: Node) -> str:
    """Return the name to show for a node: the callee's name as the source has it, or an operation's expression."""
    site = node.site
    if node.hint is not None and node.hint.name:
        return node.hint.name
    if site.kind == "operation":
        return site.text.removeprefix("self.")
    if site.kind == "store":
        return site.text.removeprefix("self.") + (" = ..." if "=" not in site.text else "")
    if node.is_generator and node.generator_name not in ("__iter__", "<genexpr>"):
        return str(node.generator_name)
    return site.text if node.is_qualified and node.function is None else node.name


def _operator(node: Node, operator_id: str, parts: list[Node], observed: ObservedPasses, first: bool) -> Operator:
    facts = {part: observed.discovery.facts[part] for part in parts if part in observed.discovery.facts}
    own = facts.get(node, NodeFacts())
    samples = observed.units * observed.unit_samples
    if node.is_collating:
        samples = max(1, samples // observed.batch_samples) * observed.batch_samples
    cost = _total(observed.costs, parts)
    free = observed.free_share(node)
    made = own.output
    read = sum(fact.read_bytes for fact in facts.values())
    seen = replace(own, read_bytes=read, opens=any(fact.opens for fact in facts.values()))
    way = [node, *node.ancestors()][:-1][::-1]
    return Operator(
        id=operator_id,
        name=name_of(node),
        kind=kind_of(
            node.name, seen, collates=node.is_collating, first=first and not own.input_bytes and not node.is_step
        ),
        location=_location(node),
        within=tuple(step.name for step in way[:-1]),
        sites=tuple(f"{step.site.id}@{step.position}" if step.position else step.site.id for step in way),
        wall_seconds=cost.wall_seconds,
        cpu_seconds=cost.cpu_seconds,
        wait_seconds=cost.wait_seconds,
        median_seconds=cost.median_seconds,
        quartile_seconds=cost.quartile_seconds,
        visit_ratio=cost.visit_ratio,
        calls_per_sample=cost.calls_per_sample,
        input_bytes=own.input_bytes / samples,
        output_bytes=own.output_bytes / samples,
        read_bytes=read / samples if observed.counts_reads else None,
        output_type=None if made is None else made.type,
        output_shape=None if made is None else made.shape,
        output_dtype=None if made is None else made.dtype,
        random=is_called_random(node) or any(fact.draws or _differs_for_equal_input(fact) for fact in facts.values()),
        releases_gil=None if free is None else free > FREE_SHARE,
    )


def _total(costs: Mapping[Node, Cost], parts: list[Node]) -> Cost:
    """Return an operator's cost: its own node's cost, plus the time of the other nodes that it stands for."""
    known = [costs[part] for part in parts if part in costs]
    if not known:
        return NO_COST
    own = costs.get(parts[0], NO_COST)
    return replace(
        own,
        wall_seconds=sum(cost.wall_seconds for cost in known),
        cpu_seconds=sum(cost.cpu_seconds for cost in known),
        wait_seconds=sum(cost.wait_seconds for cost in known),
    )


def _location(node: Node) -> str:
    """Return the innermost place in the user's code that leads to a node, else its call's place or its definition."""
    places = []
    for step in [node, *node.ancestors()]:
        if step.site.filename:
            places.append(f"{step.site.filename}:{step.site.line}")
        if step.is_users:
            places.append(step.definition or "")
    return next(filter(is_user_file, places), places[0] if places else node.definition or "")


def _differs_for_equal_input(facts: NodeFacts) -> bool:
    """Return whether a repeated call got equal input and returned a different result."""
    if len(facts.digests) < 2:
        return False
    first, second = facts.digests
    return any(
        given is not None and second[key][0] == given and None not in (made, second[key][1]) and second[key][1] != made
        for key, (given, made) in first.items()
        if key in second
    )


def _repeats(facts: NodeFacts) -> bool | None:
    """Return whether repeated samples were bitwise equal and made by as many calls; None if that can't be compared."""
    if len(facts.digests) < 2:
        return None
    first, second = facts.digests
    if first.keys() != second.keys():
        return False
    pairs = [(made, second[key][1]) for key, (_, made) in first.items()]
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        return False
    return True if all(None not in pair for pair in pairs) else None


def is_called_random(node: Node) -> bool:
    """Return whether the user marked the callee as not deterministic."""
    return node.hint is not None and node.hint.deterministic is False


def _hinted(node: Node, repeats: bool | None) -> bool | None:
    """Return whether repeated samples were equal; if that can't be compared, return the user's mark."""
    return node.hint.deterministic if repeats is None and node.hint is not None else repeats


def _flow(passed: ValueFlow, consumer: Node, observed: ObservedPasses, producer_ratio: float) -> Flow:
    collated = consumer.is_collating
    samples = len(passed.units) * (observed.batch_samples if collated else observed.unit_samples)
    return Flow(
        type=passed.description.type,
        shape=passed.description.shape,
        dtype=passed.description.dtype,
        bytes=passed.size_bytes / samples,
        visit_ratio=producer_ratio if collated else len(passed.units) / observed.units,
    )


def _with_determinism(graph: nx.DiGraph, observed: ObservedPasses, ids: Mapping[Node, str]) -> nx.DiGraph:
    """Return the graph with `random` and `deterministic` set on its operators.

    The first operator on a path whose output doesn't repeat is random, whatever its random numbers come from.
    """
    import networkx as nx

    result = graph.copy()
    repeats = {name: _repeats(observed.discovery.facts.get(node, NodeFacts())) for node, name in ids.items()}
    repeats |= {name: _hinted(node, repeats[name]) for node, name in ids.items()}
    for name in nx.topological_sort(graph):
        operator = graph.nodes[name]["operator"]
        before = [result.nodes[other]["operator"] for other in nx.ancestors(graph, name)]
        origin = repeats[name] is False and all(repeats[other] for other in graph.predecessors(name))
        random = operator.random or (origin and operator.kind != "collate")
        tainted = random or any(other.random for other in before)
        result.nodes[name]["operator"] = replace(
            operator, random=random, deterministic=False if tainted else repeats[name]
        )
    return result


def _with_ends(graph: nx.DiGraph, observed: ObservedPasses, ids: Mapping[Node, str]) -> nx.DiGraph:
    """Return the graph with one source and one end; several sources or ends are joined by an added node of no cost."""
    result = graph.copy()
    ends = [name for name in graph if graph.out_degree(name) == 0]
    collating = [ids[node] for node in observed.operators if node.site is COLLATE]
    if len(ends) > 1 and not collating:
        result.add_node(BATCH, operator=Operator(BATCH, BATCH, "collate", "", (), (), deterministic=None))
    delivered = {ids[node]: made for node, made in observed.discovery.delivered.items() if node in ids}
    for name in ends if len(ends) > 1 else ():
        end = collating[0] if collating else BATCH
        made = delivered.get(name)
        flow = Flow("unseen") if made is None or collating else Flow(made.type, made.shape, made.dtype, made.size_bytes)
        if name != end:
            result.add_edge(name, end, flow=flow)
    sources = [name for name in result if result.in_degree(name) == 0]
    if len(sources) > 1:
        result.add_node(SOURCE, operator=Operator(SOURCE, SOURCE, "source", "", (), (), deterministic=True))
        result.add_edges_from((SOURCE, name, {"flow": Flow("index")}) for name in sources)
    return result
