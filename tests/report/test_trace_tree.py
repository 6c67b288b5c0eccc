"""The tree in the terminal."""

import networkx as nx
from rich.console import Console

from plumb.report.trace_tree import render
from plumb.tracing.pipeline import Flow, Operator, Pipeline


def operator(name, within, cpu, wait=0.0, **more):
    return Operator(
        id=name, name=name, kind=more.pop("kind", "transform"), location="train.py:1", within=within,
        sites=("plumb:sample#0",), wall_seconds=cpu + wait, cpu_seconds=cpu, wait_seconds=wait, **more,
    )  # fmt: skip


def pipeline(*operators, sample_seconds=None):
    graph = nx.DiGraph()
    for each in operators:
        graph.add_node(each.id, operator=each)
    nx.add_path(graph, [each.id for each in operators], flow=Flow("Tensor"))
    seconds = sample_seconds or sum(each.wall_seconds for each in operators)
    return Pipeline(graph, "Pictures", 16, 8, seconds, seconds, 0.0)


def rendered(shown, width=100):
    console = Console(width=width, record=True, color_system=None)
    console.print(render(shown, width))
    return console.export_text()


def test_the_hottest_operator_and_its_kind_of_time():
    fetch = operator("fetch", ("Pictures",), 0.001, 0.009, kind="read", read_bytes=52_000)
    crop = operator("crop", ("Pictures", "Compose"), 0.004, random=True, visit_ratio=0.5)
    flip = operator("flip", ("Pictures", "Compose"), 0.001)
    text = rendered(pipeline(fetch, crop, flip))
    assert "Hottest: fetch, 67% of a sample's time, waiting" in text
    assert "read, waits, 52 kB read" in text
    assert "transform, random, in 50%" in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert any(line.startswith("Pictures ") for line in lines)
    assert any(line.startswith("  Compose ") for line in lines)
    assert any(line.startswith("    crop ") for line in lines)


def test_computing():
    assert "computing: it needs cores" in rendered(pipeline(operator("work", ("Pictures",), 0.003)))


def test_calls_around_a_single_call_share_a_row():
    text = rendered(pipeline(operator("a", ("Subset", "Folder"), 0.1), operator("b", ("Subset", "Folder"), 0.1)))
    assert "Subset > Folder" in text


def test_much_unattributed_time_is_warned_of():
    known = operator("work", ("Pictures",), 0.003)
    assert "belongs to no operator" in rendered(pipeline(known, sample_seconds=0.01))
    assert "belongs to no operator" not in rendered(pipeline(known, sample_seconds=0.0031))


def test_it_fits_a_narrow_screen():
    many = [
        operator(f"a_rather_long_name_of_an_operator_{n}", ("Pictures", "Compose"), 0.001 * n) for n in range(1, 18)
    ]
    lines = rendered(pipeline(*many), width=80).splitlines()
    assert len(lines) <= 28
    assert all(len(line) <= 80 for line in lines)
    assert all(f"{n:.3f}" in "\n".join(lines) for n in (1.0, 9.0))


def test_figures_never_exceed_the_whole():
    text = rendered(pipeline(operator("work", ("Pictures",), 0.012), sample_seconds=0.010))
    assert "100%" in text
    assert "120%" not in text


def test_no_two_rows_are_alike_on_narrow_terminals():
    for sides in (("Left", "Right"), ("ALeft", "BLeft")):
        names = [f"transforms.RandomResizedCropOfTheEyesOn{side}AndNothingElse" for side in sides]
        shown = pipeline(*(operator(name, ("Pictures", "Compose"), 0.004, random=True) for name in names))
        for width in (40, 60, 80, 120):
            rows = "".join(rendered(shown, width).split()).partition("Compose")[2].partition("unattributed")[0]
            _, one, other = rows.split("transforms.")
            assert one != other
