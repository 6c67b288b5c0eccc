"""Drawing of a pipeline as a graph in SVG: layers from top to bottom.

The layout is a small version of Sugiyama's (layers by longest path, then barycentres); an edge that skips layers runs
in a lane of its own beside them, as in the graph of a version history.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import networkx as nx

from plumb.core.config import Config
from plumb.core.units import format_seconds
from plumb.report.html.markup import Markup, tag
from plumb.report.wording import percent
from plumb.tracing.pipeline import Operator, Pipeline, flow_text

WIDTH, HEIGHT = 272.0, 58.0
_GAP, _LAYER_GAP, _LANE, _MARGIN = 36.0, 40.0, 18.0, 2.0
_PAD = 12.0
_NAME_LETTERS, _FLOW_LETTERS = 21, 24
_TURN = 8.0
_SWEEPS = 4


@dataclass(frozen=True)
class Layout:
    """Centres of the nodes, x coordinates of the lanes of edges that skip layers, and the size of the drawing.

    Edges that share a lane don't overlap. `outermost` are the nodes with nothing between them and the lanes.
    """

    centres: dict[Hashable, tuple[float, float]]
    lanes: dict[tuple[Hashable, Hashable], float]
    outermost: frozenset[Hashable]
    width: float
    height: float


def layout(graph: nx.DiGraph) -> Layout:
    """Place the nodes of an acyclic graph; all have the same size, and none overlaps another or a lane."""
    layers = _ordered([list(layer) for layer in nx.topological_generations(graph)], graph)
    depth = {node: index for index, layer in enumerate(layers) for node in layer}
    nodes_width = max((len(layer) * (WIDTH + _GAP) - _GAP for layer in layers), default=0.0)
    middle = _MARGIN + nodes_width / 2
    centres: dict[Hashable, tuple[float, float]] = {}
    for index, layer in enumerate(layers):
        left = middle - (len(layer) * (WIDTH + _GAP) - _GAP) / 2 + WIDTH / 2
        y = _MARGIN + index * (HEIGHT + _LAYER_GAP) + HEIGHT / 2
        centres |= {node: (left + place * (WIDTH + _GAP), y) for place, node in enumerate(layer)}
    skipping = sorted(
        (edge for edge in graph.edges if depth[edge[1]] - depth[edge[0]] > 1),
        key=lambda edge: (depth[edge[1]] - depth[edge[0]], depth[edge[0]]),
    )
    numbers: dict[tuple[Hashable, Hashable], int] = {}
    for edge in skipping:
        taken = {number for other, number in numbers.items() if _overlap(depth, edge, other)}
        numbers[edge] = next(number for number in range(len(taken) + 1) if number not in taken)
    right = _MARGIN + nodes_width
    lanes = {edge: right + _LANE * (number + 1) for edge, number in numbers.items()}
    width = max(lanes.values(), default=right) + _MARGIN
    outermost = frozenset(layer[-1] for layer in layers)
    return Layout(centres, lanes, outermost, width, 2 * _MARGIN + len(layers) * (HEIGHT + _LAYER_GAP) - _LAYER_GAP)


def _ordered(layers: list[list[Any]], graph: nx.DiGraph) -> list[list[Any]]:
    """Return the layers, each ordered by the mean place of its nodes' neighbours, so that few edges cross."""
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        neighbours = graph.pred if downwards else graph.succ
        place: dict[Any, float] = {}
        for layer in layers if downwards else reversed(layers):
            own = {node: index - (len(layer) - 1) / 2 for index, node in enumerate(layer)}
            wanted = {node: _mean([place[other] for other in neighbours[node]], own[node]) for node in layer}
            layer.sort(key=lambda node: wanted[node])
            place |= {node: index - (len(layer) - 1) / 2 for index, node in enumerate(layer)}
    return layers


def _mean(places: Sequence[float], otherwise: float) -> float:
    return sum(places) / len(places) if places else otherwise


def _overlap(depth: dict[Any, int], one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return depth[one[0]] < depth[other[1]] and depth[other[0]] < depth[one[1]]


def draw(pipeline: Pipeline, config: Config) -> Markup:
    """Draw the pipeline's graph with each operator's time and share, and what `config` does with it."""
    placed = layout(pipeline.graph)
    return tag(
        "svg",
        tag("title", f"What a sample of {pipeline.dataset} goes through"),
        *(_edge(pipeline, edge, placed) for edge in pipeline.graph.edges),
        *(_flow(pipeline, operator, placed) for operator in pipeline.operators),
        *(_node(pipeline, operator, placed.centres[operator.id], config) for operator in pipeline.operators),
        class_="dag",
        role="img",
        viewBox=f"0 0 {placed.width:.0f} {placed.height:.0f}",
        width=placed.width,
        height=placed.height,
    )


def states(pipeline: Pipeline, operator: Operator, config: Config) -> tuple[str, ...]:
    """Return what is special about an operator: "random", or how the configuration uses its work or its output."""
    found = ["random"] if operator.random else []
    if config.cache is not None:
        if operator.id == config.cache.after:
            found.append("stored")
        elif operator.id in _before(pipeline, config.cache.after):
            found.append("skipped")
    if operator.id in config.deferred:
        found.append("on batches")
    return tuple(found)


def _before(pipeline: Pipeline, after: str) -> Collection[str]:
    """Return the operators whose output is used only to make the value at the cut `after`."""
    if after not in pipeline.graph:
        return ()
    feeding = nx.ancestors(pipeline.graph, after)
    others = pipeline.graph.subgraph(pipeline.graph.nodes - {after})
    return {operator for operator in feeding if nx.descendants(others, operator) <= feeding}


def _node(pipeline: Pipeline, operator: Operator, centre: tuple[float, float], config: Config) -> Markup:
    left, top = centre[0] - WIDTH / 2, centre[1] - HEIGHT / 2
    inner = WIDTH - 2 * _PAD
    whole = max(pipeline.sample_seconds, pipeline.attributed_seconds) or 1.0
    share = operator.wall_seconds / whole
    computing, waiting = (inner * seconds / whole for seconds in (operator.cpu_seconds, operator.wait_seconds))
    particular = states(pipeline, operator, config)
    right = left + WIDTH - _PAD
    bar = {"y": top + HEIGHT - 11, "height": 4.0, "rx": 2.0}
    return tag(
        "g",
        tag("title", f"{operator.name}\n{operator.location}"),
        tag("rect", class_="box", x=left, y=top, width=WIDTH, height=HEIGHT, rx=8.0),
        tag("text", _cut(operator.name, _NAME_LETTERS), class_="name", x=left + _PAD, y=top + 20),
        tag("text", format_seconds(operator.wall_seconds), class_="time", x=right, y=top + 20, text_anchor="end"),
        tag("text", ", ".join((operator.kind, *particular)), class_="kind", x=left + _PAD, y=top + 37),
        tag("text", percent(share), class_="share", x=right, y=top + 37, text_anchor="end"),
        tag("rect", class_="track", x=left + _PAD, width=inner, **bar),
        tag("rect", class_="computes", x=left + _PAD, width=computing, **bar) if computing >= 1 else None,
        tag("rect", class_="waits", x=left + _PAD + computing, width=waiting, **bar) if waiting >= 1 else None,
        class_=" ".join(["operator", *(state.replace(" ", "-") for state in particular)]),
    )


def _edge(pipeline: Pipeline, edge: tuple[str, str], placed: Layout) -> Markup:
    flow = pipeline.graph.edges[edge]["flow"]
    kind = "edge unseen" if flow.type == "unseen" else "edge"
    path, head = _by_lane(edge, placed) if edge in placed.lanes else _direct(edge, placed)
    return tag("g", tag("title", flow_text(flow)), tag("path", d=path), tag("path", class_="head", d=head), class_=kind)


def _direct(edge: tuple[str, str], placed: Layout) -> tuple[str, str]:
    """Return the paths of an edge's line and of its head."""
    (x0, y0), (x1, y1) = (placed.centres[node] for node in edge)
    y0, y1, bend = y0 + HEIGHT / 2, y1 - HEIGHT / 2, _LAYER_GAP / 2
    return f"M{x0:.1f},{y0:.1f} C{x0:.1f},{y0 + bend:.1f} {x1:.1f},{y1 - bend:.1f} {x1:.1f},{y1:.1f}", _down(x1, y1)


def _by_lane(edge: tuple[str, str], placed: Layout) -> tuple[str, str]:
    """Return the paths of an edge in a lane; it leaves and enters sideways, or vertically if a node is in the way."""
    (x0, y0), (x1, y1) = (placed.centres[node] for node in edge)
    lane, half, bend = placed.lanes[edge], HEIGHT / 2, _LAYER_GAP / 2
    if edge[0] in placed.outermost:
        begin = f"M{x0 + WIDTH / 2:.1f},{y0:.1f} H{lane - _TURN:.1f} Q{lane:.1f},{y0:.1f} {lane:.1f},{y0 + _TURN:.1f}"
    else:
        low = y0 + half
        begin = f"M{x0:.1f},{low:.1f} C{x0:.1f},{low + bend:.1f} {lane:.1f},{low:.1f} {lane:.1f},{low + 2 * bend:.1f}"
    if edge[1] in placed.outermost:
        x = x1 + WIDTH / 2
        end = f"V{y1 - _TURN:.1f} Q{lane:.1f},{y1:.1f} {lane - _TURN:.1f},{y1:.1f} H{x:.1f}"
        head = f"M{x + 5:.1f},{y1 - 4:.1f} l-5,4 l5,4"
    else:
        high = y1 - half
        curve = f"C{lane:.1f},{high:.1f} {x1:.1f},{high - bend:.1f} {x1:.1f},{high:.1f}"
        end, head = f"V{high - 2 * bend:.1f} {curve}", _down(x1, high)
    return f"{begin} {end}", head


def _down(x: float, y: float) -> str:
    return f"M{x - 4:.1f},{y - 5:.1f} l4,5 l4,-5"


def _flow(pipeline: Pipeline, operator: Operator, placed: Layout) -> Markup | None:
    """Return the description of an operator's output, beside the edge to the next one."""
    flows = [flow for _, _, flow in pipeline.graph.out_edges(operator.id, data="flow") if flow.type != "unseen"]
    if not flows:
        return None
    x, y = placed.centres[operator.id]
    text = _cut(flow_text(flows[0]), _FLOW_LETTERS)
    return tag("text", text, class_="flow", x=x + 8, y=y + HEIGHT / 2 + _LAYER_GAP / 2 + 4)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"
