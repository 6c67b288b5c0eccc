"""Reader of pipelines that were stored as plain data."""

from __future__ import annotations

from typing import Any

import msgspec
import networkx as nx

from plumb.tracing.pipeline import Flow, Operator, Pipeline


def from_node_link(data: dict[str, Any]) -> Pipeline:
    """Return the pipeline for data from `Pipeline.to_node_link`. Raise ValueError for any other data."""
    try:
        plain = nx.node_link_graph(data, edges="links")
        graph = nx.DiGraph()
        for name, attributes in plain.nodes(data=True):
            graph.add_node(name, operator=msgspec.convert({"id": name, **attributes}, Operator))
        for producer, consumer, attributes in plain.edges(data=True):
            graph.add_edge(producer, consumer, flow=msgspec.convert(attributes, Flow))
        figures = plain.graph
        return Pipeline(
            graph,
            figures["dataset"],
            figures["samples"],
            figures["batch_size"],
            figures["sample_seconds"],
            figures["sample_cpu_seconds"],
            figures["sample_wait_seconds"],
        )
    except (msgspec.ValidationError, nx.NetworkXError, KeyError, TypeError) as error:
        raise ValueError(f"not the graph of a pipeline: {error}") from None
