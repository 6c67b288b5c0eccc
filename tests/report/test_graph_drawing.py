"""The layout of a graph: nothing overlaps, whatever the graph."""

import itertools

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st

from plumb.report.html import graph_drawing


@st.composite
def graphs(draw):
    size = draw(st.integers(1, 14))
    graph = nx.DiGraph()
    graph.add_nodes_from(map(str, range(size)))
    pairs = list(itertools.combinations(range(size), 2))
    if pairs:
        graph.add_edges_from((str(a), str(b)) for a, b in draw(st.sets(st.sampled_from(pairs), max_size=25)))
    return graph


@given(graphs())
def test_nodes_don_t_overlap_and_stay_inside(graph):
    placed = graph_drawing.layout(graph)
    assert set(placed.centres) == set(graph)
    for x, y in placed.centres.values():
        assert graph_drawing.WIDTH / 2 <= x <= placed.width - graph_drawing.WIDTH / 2
        assert graph_drawing.HEIGHT / 2 <= y <= placed.height - graph_drawing.HEIGHT / 2
    for (x0, y0), (x1, y1) in itertools.combinations(placed.centres.values(), 2):
        assert abs(x0 - x1) > graph_drawing.WIDTH or abs(y0 - y1) > graph_drawing.HEIGHT


@given(graphs())
def test_what_flows_goes_down(graph):
    placed = graph_drawing.layout(graph)
    for producer, consumer in graph.edges:
        assert placed.centres[consumer][1] - placed.centres[producer][1] > graph_drawing.HEIGHT


@given(graphs())
def test_an_edge_past_other_layers_has_its_lane_for_itself(graph):
    placed = graph_drawing.layout(graph)
    for edge in graph.edges:
        top, bottom = (placed.centres[node][1] for node in edge)
        passes = any(top < y < bottom for _, y in placed.centres.values())
        assert (edge in placed.lanes) == passes
    right = max(x for x, _ in placed.centres.values()) + graph_drawing.WIDTH / 2
    assert all(right < lane < placed.width for lane in placed.lanes.values())
    for one, other in itertools.combinations(placed.lanes, 2):
        if placed.lanes[one] == placed.lanes[other]:
            (a, b), (c, d) = (tuple(placed.centres[node][1] for node in edge) for edge in (one, other))
            assert b <= c or d <= a


def test_a_chain_is_a_straight_line():
    placed = graph_drawing.layout(nx.path_graph(5, create_using=nx.DiGraph))
    assert len({x for x, _ in placed.centres.values()}) == 1
    assert not placed.lanes
