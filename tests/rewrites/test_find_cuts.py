"""Which cuts are found, and which must not be: random, stateful, conditional, and only sometimes what they seem."""

import dataclasses
import itertools
import linecache
from pickle import dumps, loads

import cut_datasets
import numpy as np
import pytest
import torch
from cut_datasets import (
    Chained,
    Clip,
    Closed,
    Counting,
    Early,
    Even,
    Helped,
    Inline,
    Jittered,
    Mosaic,
    OneFile,
    OwnGenerator,
    RarelyAnother,
    Repeated,
    Scaled,
    Wrapper,
)
from cutting import found, seen
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, random_split

from plumb.core.config import Cut
from plumb.instrument.rng_state import generator_states
from plumb.instrument.values import digest
from plumb.rewrites.find_cuts import find_cuts
from plumb.rewrites.validate import validate_cut
from plumb.runtime.replay.replay import Replay
from plumb.tracing import tracer


def names(way):
    return [step.name for step in way]


def same_with(dataset, cut, indices=(0, 3, 7)):
    """Whether samples made from the cut's value are the plain ones, and draw the same."""
    replay = Replay(dataset, cut)
    return all(
        seen(index, replay.sample_from, index, replay.prefix(index)) == seen(index, dataset.__getitem__, index)
        for index in indices
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "one").mkdir()
    for number in range(8):
        pixels = np.random.default_rng(number).integers(0, 255, (640, 480, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "one" / f"{number}.jpg")
    return folder


def image_folder(pictures, version):
    pytest.importorskip("torchvision")
    from torchvision import datasets
    from torchvision.transforms import v2

    if version == 2:
        steps = [v2.Resize(288), v2.RandomCrop(64), v2.RandomHorizontalFlip(), v2.ToImage()]
        return datasets.ImageFolder(
            pictures, v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.2] * 3)])
        )
    from torchvision import transforms

    steps = [transforms.Resize(288), transforms.RandomCrop(64), transforms.RandomHorizontalFlip()]
    return datasets.ImageFolder(
        pictures, transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.2] * 3)])
    )


@pytest.mark.parametrize("version", [1, 2])
def test_images_are_cut_behind_the_loader_and_behind_a_deterministic_transform(pictures, version):
    dataset = image_folder(pictures, version)
    cuts, reasons = found(dataset)
    assert set(cuts) == {"convert", "Resize"}, reasons
    loaded, resized = cuts["convert"].cut, cuts["Resize"].cut
    assert names(loaded.way) == ["ImageFolder", "default_loader"]
    assert loaded.feeds == ()  # hoisted: nothing needs to be skipped
    assert names(resized.way) == ["ImageFolder", "Compose", "Resize"]
    assert resized.feeds == (loaded.way,)
    assert any("RandomCrop" in reason and "random" in reason for reason in reasons)
    assert cuts["Resize"].prefix_seconds > cuts["convert"].prefix_seconds > 0
    assert cuts["convert"].value_bytes == 640 * 480 * 3
    for cut in (loaded, resized):
        assert same_with(dataset, cut)


@pytest.mark.slow
def test_wrappers_lead_to_the_same_cut(pictures):
    dataset = image_folder(pictures, 1)
    first, second = random_split(ConcatDataset([dataset, dataset]), [10, 6], torch.Generator().manual_seed(0))
    for wrapped in (Subset(Subset(dataset, range(8)), [5, 1, 3, 0, 2]), ConcatDataset([dataset] * 2), first, second):
        cuts, _ = found(wrapped)
        assert names(cuts["Resize"].cut.way)[-2:] == ["Compose", "Resize"]
        assert same_with(wrapped, cuts["Resize"].cut, indices=range(5))


def test_parts_that_no_traced_sample_came_from_are_cut_as_well():
    parts = [Inline() for _ in range(80)]
    dataset = ConcatDataset(parts)
    cut = found(dataset, samples=4)[0]["np.clip"].cut
    assert same_with(dataset, cut, indices=range(0, len(dataset), 91))


@pytest.mark.quiet  # which cut is the best hangs on what its operators take
def test_the_users_own_wrappers_and_chains_and_closures_are_cut():
    cases = {
        Wrapper(Wrapper(Inline())): ["Wrapper", "Wrapper", "Inline", "clip"],
        Chained([Scaled(2.0), Scaled(0.5), Jittered(), Scaled(3.0)]): ["Chained", "Chain", "Scaled"],
        Closed(2.0): ["Closed", "load"],
        Clip(): ["Clip", "sum"],
    }
    for dataset, way in cases.items():
        best = next(iter(found(dataset)[0].values()))
        assert names(best.cut.way) == way
        assert same_with(dataset, best.cut)


def test_a_cut_that_is_not_all_that_a_helper_returns_skips_what_it_can_inside_others():
    dataset = Helped()
    cuts, _ = found(dataset)
    best = next(iter(cuts.values())).cut
    assert names(best.way) == ["Helped", "prepared"]
    assert [names(feed) for feed in best.feeds] == [["Helped", "load", "generated"], ["Helped", "load", "smoothed"]]
    assert same_with(dataset, best)


def test_a_helper_that_runs_once_is_cut_where_what_it_does_runs_more_often():
    dataset = Repeated()
    cuts, reasons = found(dataset)
    assert names(cuts["load"].cut.way) == ["Repeated", "load"]
    assert any("exactly once" in reason for reason in reasons)
    assert cuts["load"].prefix_seconds > cuts["load"].suffix_cpu_seconds
    assert same_with(dataset, cuts["load"].cut)


def test_prefix_and_suffix_add_up_to_a_sample():
    candidates = list(found(Inline())[0].values())
    totals = {round(item.prefix_seconds + item.suffix_cpu_seconds + item.suffix_wait_seconds, 9) for item in candidates}
    assert len(totals) == 1
    assert [item.prefix_seconds for item in candidates] == sorted((i.prefix_seconds for i in candidates), reverse=True)
    assert cut_datasets.VALUES * 8 in {item.value_bytes for item in candidates}


@pytest.mark.parametrize("make", [Mosaic, RarelyAnother])
def test_there_is_no_cut_behind_what_random_numbers_may_have_decided(make):
    cuts, reasons = found(make())
    assert not cuts
    assert any("random numbers are drawn before" in reason for reason in reasons)


def test_a_generator_that_the_dataset_or_its_module_keeps_is_random_as_well():
    cuts, _ = found(OwnGenerator())
    assert [names(item.cut.way) for item in cuts.values()] == [["OwnGenerator", "generated"]]


def test_what_depends_on_earlier_samples_is_no_cut():
    cuts, reasons = found(Counting())
    assert not any(names(item.cut.way) == ["Counting", "load"] for item in cuts.values())
    assert any("differs when a sample is repeated" in reason for reason in reasons)


def test_a_call_that_some_samples_do_not_reach_is_no_cut():
    cuts, reasons = found(Early())
    (loaded,) = (item.cut for item in cuts.values() if names(item.cut.way) == ["Early", "load"])
    assert not any("sort" in names(item.cut.way) for item in cuts.values())
    assert any("exactly once" in reason for reason in reasons)
    assert same_with(Early(), loaded, indices=range(6))


def test_a_deterministic_sample_is_cut_as_a_whole(tmp_path):
    cuts, _ = found(OneFile(tmp_path / "values"))
    whole = next(iter(cuts.values()))
    assert (whole.cut.way, whole.cut.feeds) == ((), ())
    assert whole.value_bytes == cut_datasets.VALUES * 4


def test_of_cuts_that_seem_to_save_the_same_the_latest_comes_first():
    """Operators that seem to take longer than a sample, as on a busy host, save no more than all of it."""
    traced = tracer.trace(Even(), 8)
    pipeline = dataclasses.replace(
        traced.pipeline, sample_seconds=1e-9, sample_cpu_seconds=1e-9, sample_wait_seconds=0.0
    )
    candidates = find_cuts(dataclasses.replace(traced, pipeline=pipeline)).candidates
    assert len({candidate.prefix_seconds for candidate in candidates}) == 1
    # On a busy host the window of the convolution may take long enough to be one, too.
    even = [candidate for candidate in candidates if candidate.value_bytes == cut_datasets.VALUES * 8]
    assert [names(candidate.cut.way) for candidate in even] == [[], ["Even", "smoothed"], ["Even", "generated"]]


def test_streams_and_groups_have_no_cuts():
    class Stream(IterableDataset):
        def __iter__(self):
            return map(cut_datasets.generated, range(8))

    class Groups(Inline):
        def __getitems__(self, indices):
            return [self[index] for index in indices]

    for dataset, word in ((Stream(), "iterable"), (Groups(), "groups")):
        cuts, reasons = found(dataset)
        assert not cuts
        assert word in reasons[0]


def test_generators_are_left_as_they_were():
    dataset = OwnGenerator()
    traced = tracer.trace(dataset, 4)
    before = generator_states([dataset.rng])
    assert find_cuts(traced).candidates
    assert generator_states([dataset.rng]) == before


NUMBERS = itertools.count()


def module(text):
    """The names that a piece of source defines, as if it had been read from a file of the user's."""
    name = f"generated_pipeline_{next(NUMBERS)}.py"
    linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    scope = {"__name__": "generated_pipeline"}
    exec(compile(text, name, "exec"), scope)
    return scope


PIPELINE = """
import random
import numpy as np
import torch
from torch.utils.data import Dataset

rng = np.random.default_rng(0)

class Step:
    def __init__(self, function):
        self.function = function

    def __call__(self, x):
        return self.function(x)

class Chain:
    def __init__(self, steps):
        self.steps = steps

    def __call__(self, x):
        for step in self.steps:
            x = step(x)
        return x

class Own(Dataset):
    def __init__(self):
        self.rng = np.random.default_rng(1)
        self.chain = Chain([Step(function) for function in [{steps}]])

    def __len__(self):
        return 6

    def helper(self, x, index):
        y = None
{helped}
        return x

    def __getitem__(self, index):
        x = np.random.default_rng(index).random((40, 50))
        y = x
        n = 1
{lines}
        return x, n
"""

EXPRESSIONS = [
    "np.sort(x)",
    "np.cumsum(x, 0)",
    "np.clip(x, 0.1, 0.8)",
    "x * 1.5",
    "x + 1",
    "x.T.copy().T",
    "x[::-1]",
    "np.ascontiguousarray(x)",
    "x.astype(np.float32)",
    "x.reshape(-1, 40, 1)[..., 0].copy()",
]
RANDOM = [
    "x + np.random.random(x.shape)",
    "x * random.random()",
    "x + torch.rand(()).item()",
    "x + rng.random(x.shape)",
    "np.roll(x, random.randrange(40))",
]
STATEMENTS = [
    "y = np.sort(x)",
    "y = x",
    "x = x + (0 if y is None else y.sum())",
    "x += 0.5",
    "x = x.copy(); np.negative(x, out=x)",
    "n = x.shape[0]",
    "n = float(x.sum())",
    "x = np.stack([x[0], x[1], x[-1]] * 12)",
    "x = np.sort(x) if index % 2 else x",
    "x = np.flipud(x) if random.random() < 0.5 else x",
    "x = x - self.rng.random()",
]
deterministic = st.sampled_from(EXPRESSIONS)
expressions = st.one_of(deterministic, deterministic, st.sampled_from(RANDOM))
assigned = expressions.map("x = {}".format)
inner = st.one_of(assigned, assigned, st.sampled_from(STATEMENTS))
statements = st.one_of(inner, inner, st.sampled_from(["x = self.helper(x, index)", "x = self.chain(x)"]))


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    st.lists(statements, min_size=2, max_size=7),
    st.lists(inner, min_size=1, max_size=3),
    st.lists(expressions, min_size=1, max_size=4),
)
def test_generated_pipelines_are_the_same_from_every_cut(lines, helped, steps):
    indented = ["\n".join(" " * 8 + line for line in block) for block in (lines, helped)]
    text = PIPELINE.format(
        lines=indented[0], helped=indented[1], steps=", ".join(f"lambda x: {step}" for step in steps)
    )
    names_of = module(text)
    dataset = names_of["Own"]()
    for item in found(dataset, samples=6)[0].values():
        check(dataset, item.cut, names_of["rng"])


def check(dataset, cut, module_rng):
    """A cut that is valid on two samples must be right on all; one that is not must have been refused for a reason."""
    if validate_cut(dataset, cut, [0, 1]) is not None:
        event("refused")
        return
    event("cut")
    replay = Replay(dataset, cut)

    def read(seed, reading, *arguments):
        for generator, start in ((dataset.rng, 1), (module_rng, 0)):
            generator.bit_generator.state = np.random.default_rng(start + seed).bit_generator.state
        value, states = seen(seed, reading, *arguments)
        return value, states, generator_states([dataset.rng, module_rng])

    for index in range(2, 6):
        values = []
        plain = read(index, dataset.__getitem__, index)
        assert (
            read(index, replay.sample_keeping, index, lambda value, values=values: values.append(dumps(value))) == plain
        )
        assert digest(loads(values[0])) == digest(replay.prefix(index))
        assert read(index, replay.sample_from, index, loads(values[0])) == plain


def test_a_cut_is_only_data():
    cut = found(Inline())[0]["np.clip"].cut
    assert isinstance(cut, Cut)
    assert all(isinstance(step.site, str) for feed in (cut.way, *cut.feeds) for step in feed)
