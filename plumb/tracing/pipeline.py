"""Pipeline: the graph of the operators that make a sample, with each operator's cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import networkx as nx


Kind = Literal["source", "read", "decode", "transform", "convert", "collate", "transfer"]


@dataclass(frozen=True)
class Operator:
    """One step of a pipeline. Seconds and bytes are means over all samples, so that operators add up.

    Attributes:
        id: Key of its node in the graph.
        name: Name of what is called.
        kind: What it is for: "source", "read", "decode", "transform", "convert", "collate" or "transfer".
        location: Place in the user's code that leads to it, else the library's.
        within: Names of the calls around it, outermost first.
        sites: Stable ids of the call sites from the entry down to it.
        wall_seconds: Time per sample, without that of operators inside it.
        cpu_seconds: CPU time per sample.
        wait_seconds: Time per sample in which its thread was blocked.
        median_seconds: Median time of the samples that visit it.
        quartile_seconds: First and third quartile of the same.
        visit_ratio: Share of samples that visit it, 0 to 1.
        calls_per_sample: Number of calls.
        input_bytes: Size of the values that it gets.
        output_bytes: Size of the values that it makes.
        read_bytes: Bytes that it reads from files; None if they could not be counted.
        output_type: Class of its output; None if it has none.
        output_shape: Shape of its output, with None for a size that varies; None if it has no shape.
        output_dtype: Type of the output's elements; None if it has none.
        random: True if it draws random numbers, or is the first on its path whose output differs when a sample is
            repeated.
        deterministic: True if its output depends on the index alone: no operator before it is random, and repeated
            samples were bitwise equal. None if that can't be compared.
        releases_gil: True if other threads can run Python meanwhile; None if that could not be measured.

    >>> import plumb, torch
    >>> hottest = plumb.trace(torch.rand(64, 1000)).hottest()
    >>> hottest.wall_seconds > 0.0
    True
    """

    id: str
    name: str
    kind: Kind
    location: str
    within: tuple[str, ...]
    sites: tuple[str, ...]
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    wait_seconds: float = 0.0
    median_seconds: float = 0.0
    quartile_seconds: tuple[float, float] = (0.0, 0.0)
    visit_ratio: float = 1.0
    calls_per_sample: float = 0.0
    input_bytes: float = 0.0
    output_bytes: float = 0.0
    read_bytes: float | None = None
    output_type: str | None = None
    output_shape: tuple[int | None, ...] | None = None
    output_dtype: str | None = None
    random: bool = False
    deterministic: bool | None = None
    releases_gil: bool | None = None

    @property
    def waits(self) -> bool:
        """True if the operator mostly waits, which more threads hide, and doesn't mostly compute, which needs cores."""
        return self.wait_seconds > self.cpu_seconds


@dataclass(frozen=True)
class Flow:
    """Values that flow between two operators, for a sample that takes this edge.

    Attributes:
        type: Class of the values; "unseen" if the sample flows along this edge in a way that object identities don't
            show.
        shape: Shape of the values, with None for a size that varies; None if they have no shape.
        dtype: Type of their elements; None if they have none.
        bytes: Size for one sample.
        visit_ratio: Share of samples that take this edge, 0 to 1.

    >>> import plumb
    >>> plumb.Flow("Tensor", (3, None, None), "uint8").shape  # images of varying size
    (3, None, None)
    """

    type: str
    shape: tuple[int | None, ...] | None = None
    dtype: str | None = None
    bytes: float = 0.0
    visit_ratio: float = 1.0


@dataclass(frozen=True)
class Pipeline:
    """Graph of a dataset from a source to the batch, with the figures of a whole sample; `print` shows it as a table.

    Attributes:
        graph: Acyclic graph; its nodes carry an `Operator` as "operator", its edges a `Flow` as "flow".
        dataset: Name of the dataset's class.
        samples: Number of samples that were traced.
        batch_size: Number of samples collated at once; None without batching.
        sample_seconds: Untraced time of one sample, including its share of collating.
        sample_cpu_seconds: CPU time of the same.
        sample_wait_seconds: Time of the same in which the thread was blocked.

    >>> import plumb, torch
    >>> pipeline = plumb.trace(torch.rand(64, 1000))
    >>> pipeline.graph.number_of_nodes() == len(pipeline.operators)
    True
    """

    graph: nx.DiGraph
    dataset: str
    samples: int
    batch_size: int | None
    sample_seconds: float
    sample_cpu_seconds: float
    sample_wait_seconds: float
    html_form: ClassVar[Callable[[Pipeline], str]] = staticmethod(repr)
    text_form: ClassVar[Callable[[Pipeline], str]] = staticmethod(repr)

    @property
    def operators(self) -> tuple[Operator, ...]:
        """All operators in topological order."""
        import networkx as nx

        return tuple(self.graph.nodes[name]["operator"] for name in nx.topological_sort(self.graph))

    @property
    def attributed_seconds(self) -> float:
        """Sum of the operators' wall seconds per sample."""
        return sum(operator.wall_seconds for operator in self.operators)

    @property
    def unattributed_seconds(self) -> float:
        """Seconds per sample that no operator accounts for: the dataset's inline code, and calls too small to show."""
        return max(0.0, self.sample_seconds - self.attributed_seconds)

    @property
    def unattributed_share(self) -> float:
        """Unattributed share of a sample's time, 0 to 1. Above 0.2, advice about single operators is unreliable."""
        return self.unattributed_seconds / self.sample_seconds if self.sample_seconds else 0.0

    def hottest(self) -> Operator:
        """Return the operator with the most wall time per sample.

        Raises:
            ValueError: There are no operators.
        """
        return max(self.operators, key=lambda operator: operator.wall_seconds)

    def to_node_link(self) -> dict[str, Any]:
        """Return the graph and the sample's figures as JSON-ready data, in the format of `networkx.node_link_data`."""
        import networkx as nx

        plain = nx.DiGraph(
            dataset=self.dataset,
            samples=self.samples,
            batch_size=self.batch_size,
            sample_seconds=self.sample_seconds,
            sample_cpu_seconds=self.sample_cpu_seconds,
            sample_wait_seconds=self.sample_wait_seconds,
            unattributed_seconds=self.unattributed_seconds,
            unattributed_share=self.unattributed_share,
        )
        for operator in self.operators:
            attributes = dataclasses.asdict(operator)
            plain.add_node(attributes.pop("id"), **attributes)
        for producer, consumer, flow in self.graph.edges(data="flow"):
            plain.add_edge(producer, consumer, **dataclasses.asdict(flow))
        data: dict[str, Any] = nx.node_link_data(plain, edges="links")
        return data

    def to_dot(self) -> str:
        """Return the graph in Graphviz's language: operators with their time, edges with what flows."""
        lines = ["digraph pipeline {", "  rankdir=TB;", '  node [shape=box, fontname="sans-serif"];']
        for operator in self.operators:
            label = f"{operator.name}\\n{operator.wall_seconds * 1e3:.3f} ms"
            lines.append(f"  {_quoted(operator.id)} [label={_quoted(label)}];")
        for producer, consumer, flow in self.graph.edges(data="flow"):
            lines.append(f"  {_quoted(producer)} -> {_quoted(consumer)} [label={_quoted(flow_text(flow))}];")
        return "\n".join([*lines, "}"])

    def __str__(self) -> str:
        """Return the table that `plumb trace` prints."""
        return type(self).text_form(self)

    def _repr_html_(self) -> str:
        return type(self).html_form(self)


def flow_text(flow: Flow) -> str:
    """Return a flow's type, shape and dtype in a few words: `Tensor 3x224x224 float32`."""
    shape = "" if flow.shape is None else "x".join("?" if size is None else str(size) for size in flow.shape)
    return " ".join(filter(None, [flow.type, shape, flow.dtype]))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
