"""`plumb trace` on a whole script."""

import json

import networkx
import pytest
from script_parts import LOOP, PREAMBLE

from plumb.tracing.stored_pipeline import from_node_link

CODE = """
def read(index):
    time.sleep(0.003)
    return torch.full((8,), float(index))
def scale(x):
    for _ in range(200):
        x = x * 1.0
    return x
class Steps(Numbers):
    def __getitem__(self, index):
        return scale(read(index)), index % 3
train_loader = DataLoader(Steps(), batch_size=8)
"""


@pytest.mark.slow
def test_the_tree_names_the_hottest_operator_and_its_kind_of_time(plumb, write, tmp_path):
    write("train.py", PREAMBLE + CODE + LOOP.format(loader="train_loader"))
    ran = plumb("trace", "train.py")
    assert ran.code == 0, ran.err
    assert "train_loader  train.py:" in ran.out
    assert "Hottest: sleep" in ran.out or "Hottest: time.sleep" in ran.out or "Hottest: read" in ran.out
    assert "waiting" in ran.out
    assert "no GPU: " in ran.out or "device, in batches" in ran.out
    assert len(ran.out.splitlines()) < 40
    assert [path.name for path in tmp_path.iterdir()] == ["train.py"], "a trace writes no plan"


@pytest.mark.slow
def test_json_and_dot_are_the_graph_and_nothing_else(plumb, write):
    write("train.py", PREAMBLE + "print('chatter')" + CODE + LOOP.format(loader="train_loader"))
    graph = networkx.node_link_graph(json.loads(plumb("trace", "--json", "train.py").out), edges="links")
    assert networkx.is_directed_acyclic_graph(graph)
    assert graph.number_of_nodes() >= 2
    dot = plumb("trace", "--dot", "train.py").out
    assert dot.startswith("digraph")
    assert dot.rstrip().endswith("}")


@pytest.mark.slow
def test_a_tuning_carries_the_graph_and_shows_the_operators(plumb, write):
    write("train.py", PREAMBLE + CODE + LOOP.format(loader="train_loader"))
    ran = plumb("tune", "--budget", 25, "train.py")
    found = ran.loader("train_loader")
    assert found.graph is not None, found.notes
    pipeline = from_node_link(found.graph)
    assert pipeline.dataset == "Steps"
    assert pipeline.hottest().waits
    assert "a sample goes through" in ran.out
    assert pipeline.hottest().name in ran.out
    assert from_node_link(pipeline.to_node_link()).to_node_link() == pipeline.to_node_link()


def test_an_unstoppable_trace_of_nothing_says_so(plumb, write):
    write("train.py", "print('no loader')")
    ran = plumb("trace", "train.py")
    assert ran.code == 1
    assert "it has none" in ran.err
