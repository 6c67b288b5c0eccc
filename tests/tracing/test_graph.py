"""The graphs of datasets written by hand: operators, branches, flows, and what is left behind."""

import copy
import json
import random
import sys
import threading

import networkx as nx
import numpy as np
import pytest
import sample_datasets
import torch
from sample_datasets import Detection, Doubled, Lines, Noise, Waiting, write_pictures
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset

from plumb.api.trace import trace
from plumb.core.errors import TuningError
from plumb.tracing.pipeline import Flow, Operator, Pipeline
from plumb.tracing.sample_source import TraceError


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_pictures(folder)
    return Detection(folder)


@pytest.fixture(scope="module")
def scenes(detection):
    return trace(detection, samples=8)


def names(pipeline):
    return [operator.name for operator in pipeline.operators]


def by_name(pipeline, name):
    return next(operator for operator in pipeline.operators if operator.name == name)


def inside(pipeline, function):
    """An operator that is a function of the dataset's, or stands inside it."""
    return next(operator for operator in pipeline.operators if function in (operator.name, *operator.within))


def test_the_branches_of_a_detection_dataset_meet_in_the_batch(scenes):
    graph = scenes.graph
    mask, boxes = "np.array", "boxes[order]"
    assert nx.has_path(graph, "convert", "np.asarray(image) / 255.0")
    assert nx.has_path(graph, "np.argsort", boxes)
    for left, right in [("convert", mask), ("convert", boxes), (mask, boxes)]:
        assert not nx.has_path(graph, left, right)
        assert not nx.has_path(graph, right, left)
    for branch in ("np.asarray(image) / 255.0", mask, boxes):
        assert nx.has_path(graph, branch, "default_collate")


def test_a_graph_leads_from_one_source_to_one_batch_without_cycles(scenes):
    graph = scenes.graph
    assert nx.is_directed_acyclic_graph(graph)
    assert [name for name in graph if graph.in_degree(name) == 0] == ["index"]
    assert [name for name in graph if graph.out_degree(name) == 0] == ["default_collate"]
    assert 5 <= len(graph) <= 20


def test_nodes_and_edges_are_typed(scenes):
    for name, operator in scenes.graph.nodes(data="operator"):
        assert isinstance(operator, Operator)
        assert operator.id == name
    assert all(isinstance(flow, Flow) for _, _, flow in scenes.graph.edges(data="flow"))


def test_kinds_follow_from_what_goes_in_and_out(scenes):
    assert by_name(scenes, "convert").kind == "decode"
    assert by_name(scenes, "np.array").kind == "decode"
    assert by_name(scenes, "np.asarray(image) / 255.0").kind == "convert"
    assert by_name(scenes, "boxes[order]").kind == "transform"
    assert by_name(scenes, "index").kind == "source"
    assert by_name(scenes, "default_collate").kind == "collate"


def test_flows_say_what_flows(scenes):
    flow = scenes.graph.edges["np.argsort", "boxes[order]"]["flow"]
    assert flow == Flow("ndarray", (20_000,), "int64", 20_000 * 8, 1.0)
    assert by_name(scenes, "boxes[order]").output_bytes == 20_000 * 4 * 4
    assert by_name(scenes, "convert").output_shape == (240, 320, 3)


def test_bytes_read_from_files_are_counted_where_they_are_read(scenes, detection):
    if by_name(scenes, "convert").read_bytes is None:
        pytest.skip("this host doesn't say what a thread reads")
    read = sum(operator.read_bytes or 0 for operator in scenes.operators)
    sizes = [path.stat().st_size for path in detection.folder.iterdir()]
    assert 0.5 * np.mean(sizes) * 2 < read < 3 * np.mean(sizes) * 2
    assert by_name(scenes, "boxes[order]").read_bytes == 0


def test_a_branch_that_not_all_samples_take_has_a_visit_ratio(detection):
    pipeline = trace(detection, samples=12)
    flipped = [operator for operator in pipeline.operators if operator.name == "copy"]
    assert flipped
    assert all(0 < operator.visit_ratio < 1 for operator in flipped)
    assert by_name(pipeline, "convert").visit_ratio == 1


def test_what_depends_on_random_numbers_is_not_deterministic(scenes):
    assert by_name(scenes, "convert").deterministic is True
    assert by_name(scenes, "boxes[order]").deterministic is True
    assert not by_name(scenes, "convert").random


def test_all_kinds_of_generators_are_seen():
    pipeline = trace(Noise(), samples=8)
    own, torchs = by_name(pipeline, "random"), by_name(pipeline, "torch.rand")
    assert own.random
    assert torchs.random
    assert own.deterministic is False
    assert inside(pipeline, "constant").deterministic is True
    assert pipeline.operators[-1].deterministic is False


def test_locations_are_the_users(scenes):
    operator = by_name(scenes, "np.array")
    filename, _, line = operator.location.rpartition(":")
    assert filename == sample_datasets.__file__
    with open(filename) as file:
        assert "np.array(Image.open" in file.readlines()[int(line) - 1]
    assert operator.within == ("Detection", "load_mask")
    assert operator.sites[0] == "plumb:sample#0"
    assert operator.sites[1].startswith("sample_datasets:Detection.__getitem__#")
    assert operator.sites[2].startswith("sample_datasets:Detection.load_mask#")


def test_sites_are_the_same_in_every_trace(detection, scenes):
    again = trace(copy.copy(detection), samples=8)
    assert by_name(again, "np.array").sites == by_name(scenes, "np.array").sites
    assert by_name(again, "convert").sites == by_name(scenes, "convert").sites


def test_waiting_and_computing_are_told_apart():
    pipeline = trace(Waiting(), samples=4)
    fetch, work = inside(pipeline, "fetch"), inside(pipeline, "work")
    assert fetch.waits
    assert not work.waits
    assert fetch.releases_gil is True
    assert work.releases_gil is False


def test_generators_are_followed_from_one_to_the_next(tmp_path):
    path = tmp_path / "lines.csv"
    path.write_text("\n".join(",".join(str(i * j) for j in range(200)) for i in range(30)))
    pipeline = trace(Lines(path), samples=10)
    assert pipeline.dataset == "Lines"
    functions = ["read", "parse", "spread"]
    found = [next(name for name in functions if name in (o.name, *o.within)) for o in pipeline.operators[:-1]]
    assert list(dict.fromkeys(found)) == functions
    assert nx.has_path(pipeline.graph, pipeline.operators[0].id, "default_collate")
    assert pipeline.operators[-2].output_shape == (200, 200)


@pytest.mark.slow
@pytest.mark.quiet
def test_wrappers_are_passed_through(detection):
    inner = Waiting()
    for wrapped in (Subset(inner, [0, 1, 2]), ConcatDataset([inner]), Doubled(inner), StackDataset(inner)):
        pipeline = trace(wrapped, samples=3)
        assert inside(pipeline, "fetch").waits
        assert inside(pipeline, "work").calls_per_sample == 1


@pytest.mark.slow
@pytest.mark.quiet
def test_the_parts_of_a_concatenation_are_told_apart():
    pipeline = trace(ConcatDataset([Waiting(), Waiting()]), samples=4)
    assert [operator.visit_ratio for operator in pipeline.operators if operator.name == "work"] == [0.5, 0.5]


def test_a_loader_brings_its_batch_size_and_its_collate_function(detection):
    def stacked(samples):
        images = torch.stack([image for image, _ in samples])
        return images.float().permute(0, 3, 1, 2).contiguous()

    pipeline = trace(DataLoader(detection, batch_size=4, collate_fn=stacked), samples=8)
    assert pipeline.batch_size == 4
    assert {"torch.stack", "float", "contiguous"} <= set(pipeline.graph)
    assert by_name(pipeline, "torch.stack").kind == "collate"
    assert by_name(pipeline, "torch.stack").calls_per_sample == 0.25


def test_a_loader_without_batches(detection):
    assert trace(DataLoader(Waiting(), batch_size=None), samples=3).batch_size is None


def test_getitems_is_read_in_groups():
    class Grouped(Waiting):
        def __getitems__(self, indices):
            return [self.work(values) for values in self.gather(indices)]

        def gather(self, indices):
            time_for_all = self.fetch(0)
            return [time_for_all + index for index in indices]

    pipeline = trace(DataLoader(Grouped(), batch_size=2), samples=4)
    assert inside(pipeline, "fetch").calls_per_sample == 0.5
    assert inside(pipeline, "work").calls_per_sample == 1


def test_plain_sequences_and_iterables_are_datasets():
    assert trace([torch.zeros(1000)] * 4).dataset == "list"
    assert trace({"first": 1}.keys()).samples == 1


def test_a_stream_that_is_shorter_each_time_is_traced():
    class Shrinking(Lines):
        length = 40

        def __iter__(self):
            self.length -= 3
            for number in range(self.length):
                yield np.full(10_000, number)

    assert trace(Shrinking(None), samples=36).samples < 36


def test_a_stream_that_is_soon_used_up_is_refused():
    class Once(Lines):
        items = iter(range(3))

        def __iter__(self):
            yield from self.items

    with pytest.raises(TraceError, match="once"):
        trace(Once(None))


def test_an_inner_loop_is_not_recorded_call_by_call():
    class Scanning(Waiting):
        def __getitem__(self, index):
            return self.scanned(torch.full((300,), float(index)).numpy())

        def scanned(self, values):
            total = 0.0
            for value in values:
                for factor in values[:20]:
                    total += max(value, factor)
            return torch.tensor(total)

    pipeline = trace(Scanning(), samples=4)
    assert inside(pipeline, "Scanning").calls_per_sample <= 1
    assert "max" not in names(pipeline)


@pytest.mark.parametrize(
    ("nothing", "kind"),
    [([], TuningError), (iter([1, 2]), TraceError), ((n for n in [1]), TraceError), (5, TypeError)],
    ids=["empty", "an iterator", "a generator", "a number"],
)
def test_what_cannot_be_traced_is_refused_in_one_line(nothing, kind):
    with pytest.raises(kind) as error:
        trace(nothing)
    assert "\n" not in str(error.value)


def test_the_datasets_own_exceptions_come_through():
    class Broken(Waiting):
        def __getitem__(self, index):
            raise KeyError("no such sample")

    with pytest.raises(KeyError, match="no such sample"):
        trace(Broken())


def test_the_samples_are_those_of_the_untraced_dataset(detection):
    seen = []

    class Watched(Detection):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            seen.append((index, sample[1]["boxes"].sum().item(), tuple(sample[0].shape)))
            return sample

    watched = Watched(detection.folder)
    trace(watched, indices=[0, 5])
    expected = {(i, detection[i][1]["boxes"].sum().item(), (240, 320, 3)) for i in (0, 5)}
    assert set(seen) == expected


def test_nothing_is_left_behind(detection):
    modules = (sample_datasets, torch.utils.data, torch.utils.data.dataset, np, sys.modules[__name__])
    classes = (Detection, torch.utils.data.Dataset, DataLoader)
    before = [dict(vars(owner)) for owner in (*modules, *classes)]
    own = dict(vars(detection))
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    trace(detection, samples=4)
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    assert [dict(vars(owner)) for owner in (*modules, *classes)] == before
    assert dict(vars(detection)) == own
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    assert drawn == (random.random(), np.random.random(), torch.rand(1).item())


def test_other_threads_are_not_traced():
    class Shared(Waiting):
        threads: set = set()

        def work(self, values):
            self.threads.add((threading.current_thread().name, sys._getframe(1).f_code.co_filename))
            return values

    dataset = Shared()
    stopped = threading.Event()

    def load():
        while not stopped.is_set():
            dataset[0]

    other = threading.Thread(target=load, name="other")
    other.start()
    try:
        pipeline = trace(dataset, samples=4)
    finally:
        stopped.set()
        other.join()
    callers = {filename for name, filename in dataset.threads if name == "other"}
    assert callers == {sample_datasets.__file__}
    assert inside(pipeline, "fetch").calls_per_sample == 1


def test_functions_that_outlive_the_trace_are_plain():
    class Keeping(Waiting):
        def __getitem__(self, index):
            if not hasattr(self, "kept"):
                self.kept = lambda value: self.work(value)
                self.pending = (self.work(value) for value in [np.ones(3)])
            return self.kept(self.fetch(index))

    dataset = Keeping()
    trace(dataset, samples=3)
    assert "__plumb__" not in dataset.kept.__code__.co_freevars
    assert len(list(dataset.pending)) == 1


def test_a_pipeline_can_be_written_down(scenes):
    data = json.loads(json.dumps(scenes.to_node_link()))
    again = nx.node_link_graph(data, edges="links")
    assert set(again) == set(scenes.graph)
    assert set(again.edges) == set(scenes.graph.edges)
    assert data["graph"]["dataset"] == "Detection"
    convert = next(node for node in data["nodes"] if node["id"] == "convert")
    assert convert["kind"] == "decode"
    assert convert["wall_seconds"] > 0
    dot = scenes.to_dot()
    assert dot.startswith("digraph")
    assert '"convert" -> ' in dot


def test_the_figures_of_a_sample_add_up(scenes):
    assert isinstance(scenes, Pipeline)
    assert scenes.attributed_seconds == pytest.approx(sum(o.wall_seconds for o in scenes.operators))
    assert 0 <= scenes.unattributed_share <= 1
    assert scenes.hottest().wall_seconds == max(o.wall_seconds for o in scenes.operators)
    for operator in scenes.operators:
        assert operator.wall_seconds == pytest.approx(operator.cpu_seconds + operator.wait_seconds)
