"""The promise of the runtime: torch's own batches, each once, in order, bit by bit, whatever is cached or deferred."""

import dataclasses
import functools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from plumb.core.config import CacheChoice, Config, Rewrites
from plumb.instrument.values import digest
from plumb.rewrites.find_rewrites import find_rewrites
from plumb.rewrites.thread_validation import validate_threads
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.loader import Loader
from plumb.tuning.measure.sample_cost import measure_samples
from plumb.tuning.measure.throughput import IndexStream

LENGTH = 23
SCALE = torch.tensor([2.0, 3.0, 5.0])


def decoded(seed):
    """Stands for reading and decoding a file, which takes most of the time: everything else is made of this."""
    generator = np.random.default_rng(seed)
    generator.bytes(2**18)
    return generator.integers(0, 256, size=(6, 5, 3), dtype=np.uint8)


def cropped(pixels):
    top = random.randint(0, 2)
    return pixels[top : top + 4]


def to_tensor(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous().float() / 255


class Images(Dataset):
    """Decodes, crops at random, converts and scales: the cut is in the middle, the rest may run on batches."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        image = cropped(decoded(index))
        return (to_tensor(image) - 0.5) * SCALE.view(3, 1, 1), index


class Changed(Images):
    """Changes what was decoded in place, so that a store must have taken it before."""

    def __getitem__(self, index):
        pixels = decoded(index)
        pixels += 1
        pixels[0] = np.random.randint(0, 9)
        return {"pixels": torch.from_numpy(pixels), "index": index, "name": f"sample {index}"}


class Repeatable(Images):
    """The same each time, all of it, and smallest at its end."""

    def __getitem__(self, index):
        pixels = decoded(index).astype(np.float32)
        return torch.from_numpy(np.log1p(pixels)).sum(dim=(1, 2)) + index


class Flat(Dataset):
    """Nothing to cache or to defer."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return random.random(), index


DATASETS = {
    "images": Images,
    "changed in place": Changed,
    "repeatable": Repeatable,
    "a subset": lambda: Subset(Images(), list(range(LENGTH - 1, 3, -1))),
    "several": lambda: ConcatDataset([Subset(Images(), range(9)), Images()]),
    "nothing to gain": Flat,
}


@functools.cache
def offers_for(name):
    """What is offered, and threads wherever they change nothing: those that would save nothing must not either."""
    loader = DataLoader(DATASETS[name](), batch_size=4)
    stream = IndexStream(loader.batch_sampler)
    cost = measure_samples(loader, stream, 0.05).cost
    indices = [index for _ in range(4) for index in next(stream)]
    rewrites = find_rewrites(loader, cost, indices, 20.0).rewrites
    places = [("", None), *((cut.after, cut) for cut in rewrites.cuts)]
    valid = (name for name, cut in places if validate_threads(loader.dataset, indices, 8, cut) is None)
    return dataclasses.replace(rewrites, threads_until=tuple(valid))


@st.composite
def configs(draw, rewrites: Rewrites, folder: str):
    """A configuration of torch's arguments and of all that was offered."""
    workers = draw(st.integers(0, 3))
    cuts = [cut.after for cut in rewrites.cuts]
    tier = draw(st.sampled_from(["memory", "disk"]))
    choices = st.builds(
        CacheChoice,
        after=st.sampled_from(cuts),
        tier=st.just(tier),
        bytes=st.sampled_from([2**16, 2**20, 2**26]),
        hit_ratio=st.just(1.0),
        folder=st.just(folder if tier == "disk" else None),
    )
    cache = draw(st.none() | choices) if cuts else None
    until = draw(st.sampled_from(rewrites.threads_until)) if rewrites.threads_until else None
    if cache is not None and until not in (None, cache.after):
        until = None
    steps = tuple(step.operator for step in rewrites.deferral.steps) if rewrites.deferral else ()
    return Config(
        num_workers=workers,
        prefetch_factor=draw(st.integers(1, 4)) if workers else None,
        persistent_workers=draw(st.booleans()) if workers else False,
        fetch_threads=draw(st.integers(2, 8)) if until is not None else 1,
        fetch_until=until or None,
        cache=cache,
        deferred=draw(st.sampled_from([(), steps])),
        allocator_reuse=draw(st.booleans()),
    )


def batches_of(loader, epochs, stop_after):
    """What a loop over so many epochs gets, each left after some batches."""
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    seen = []
    for _ in range(epochs):
        for number, batch in enumerate(loader):
            seen.append(digest(batch))
            if number + 1 == stop_after:
                break
    assert None not in seen
    return seen


class Twice(torch.utils.data.Sampler):
    """Gives some indices twice, as samplers that balance classes do."""

    def __len__(self):
        return 12

    def __iter__(self):
        return iter([5, 9, 5, 5, 11, 3, 0, 3, 9, 1, 2, 5])


SAMPLING = {
    "in order": lambda dataset: {"batch_size": 4},
    "shuffled": lambda dataset: {"batch_size": 5, "shuffle": True, "drop_last": True},
    "its own generator": lambda dataset: {
        "batch_size": 3, "shuffle": True, "generator": torch.Generator().manual_seed(1)
    },
    "some twice": lambda dataset: {"batch_size": 5, "sampler": Twice()},
    "batches by hand": lambda dataset: {"batch_sampler": [[0, 1, 2], [7], [3, 3, 4, 5], [9, 8]]},
}  # fmt: skip


def check(name, sampling, config, epochs=2, stop_after=None, **arguments):
    dataset = DATASETS[name]()
    given = SAMPLING[sampling](dataset) | arguments
    plain = DataLoader(dataset, **given, **config.loader_arguments())
    tuned = Loader(dataset, **(SAMPLING[sampling](dataset) | arguments), config=config, rewrites=offers_for(name))
    assert batches_of(tuned, epochs, stop_after) == batches_of(plain, epochs, stop_after)
    assert tuned.dataset is dataset
    assert tuned.collate_fn is plain.collate_fn
    return dataset


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
@settings(max_examples=5)
@given(data=st.data())
def test_batches_are_torch_s_own_whatever_the_configuration(name, data, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("stores"))
    config = data.draw(configs(offers_for(name), folder))
    sampling = data.draw(st.sampled_from(list(SAMPLING)))
    check(
        name, sampling, config, epochs=data.draw(st.integers(1, 3)), stop_after=data.draw(st.none() | st.integers(1, 3))
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repeatable"])
@settings(max_examples=5)
@given(data=st.data())
def test_deterministic_samples_are_those_without_workers(name, data, tmp_path_factory):
    config = data.draw(configs(offers_for(name), str(tmp_path_factory.mktemp("stores"))))
    dataset = DATASETS[name]()
    plain = DataLoader(dataset, batch_size=4)
    tuned = Loader(dataset, batch_size=4, config=config, rewrites=offers_for(name))
    assert batches_of(tuned, 2, None) == batches_of(plain, 2, None)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.nightly), "forkserver"])
def test_everything_goes_to_workers_that_are_not_forked(method):
    rewrites = offers_for("images")
    config = Config(
        num_workers=2,
        prefetch_factor=2,
        persistent_workers=True,
        fetch_threads=4,
        fetch_until=rewrites.cuts[0].after,
        cache=CacheChoice(rewrites.cuts[0].after, "memory", 2**20, 1.0),
        deferred=tuple(step.operator for step in rewrites.deferral.steps),
        allocator_reuse=True,
    )
    check("images", "shuffled", config, multiprocessing_context=method)


@pytest.mark.slow
def test_what_the_tests_above_rely_on_was_offered():
    images, changed, repeatable = offers_for("images"), offers_for("changed in place"), offers_for("repeatable")
    assert images.cuts
    assert images.threads_until
    assert images.deferral is not None
    assert changed.cuts
    assert any(cut.way == () for cut in repeatable.cuts), (repeatable.cuts, repeatable.reasons)
    flat = offers_for("nothing to gain")
    assert not flat.cuts
    assert flat.deferral is None
    assert offers_for("a subset").cuts


def on(device):
    """What is offered for images whose batches may arrive on a device."""
    loader = DataLoader(Images(), batch_size=4)
    stream = IndexStream(loader.batch_sampler)
    cost = measure_samples(loader, stream, 0.05).cost
    indices = [index for _ in range(4) for index in next(stream)]
    return find_rewrites(loader, cost, indices, 20.0, torch.device(device)).rewrites


def loaded_on(device, workers):
    """The batches of a loader with deferred operators that run on a device, and torch's own."""
    rewrites = on("cpu") if device == "cpu" else offers_for("images")
    rewrites = dataclasses.replace(rewrites, deferral=dataclasses.replace(rewrites.deferral, device=device))
    steps = tuple(step.operator for step in rewrites.deferral.steps)
    config = Config(workers, 2 if workers else None, deferred=steps, allocator_reuse=True)
    given = {"batch_size": 4, "generator": torch.Generator().manual_seed(1)}
    random.seed(3)
    batches = list(Loader(Images(), **given, config=config, rewrites=rewrites))
    random.seed(3)
    given["generator"].manual_seed(1)
    return batches, list(DataLoader(Images(), **given, **config.loader_arguments()))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_where_it_is_allowed_what_runs_on_batches_runs_on_the_device(workers):
    """The CPU stands in for the device; with one that keeps no values, it is seen that nothing else goes there."""
    assert on("cpu").deferral.device == "cpu"
    assert offers_for("images").deferral.device is None
    ours, theirs = loaded_on("cpu", workers)
    assert list(map(digest, ours)) == list(map(digest, theirs))
    for (images, indices), (expected, _) in zip(*loaded_on("meta", workers), strict=True):
        assert (images.device.type, images.shape, images.dtype) == ("meta", expected.shape, expected.dtype)
        assert indices.device.type == "cpu"


@pytest.mark.slow
def test_what_comes_out_otherwise_on_the_device_stays_on_the_cpu():
    rewrites = on("meta")
    assert rewrites.deferral is not None
    assert rewrites.deferral.device is None
    assert any("but not on meta" in reason for reason in rewrites.reasons)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_batches_before_their_last_operators(workers):
    offered = on("cuda")
    assert offered.deferral.device == "cuda", offered.reasons
    ours, theirs = loaded_on("cuda", workers)
    assert all(images.is_cuda and not indices.is_cuda for images, indices in ours)
    assert [digest([images.cpu(), indices]) for images, indices in ours] == list(map(digest, theirs))


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "no device of torch's"])
def test_a_plan_for_a_device_that_is_not_here_runs_without_it(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ours, theirs = loaded_on(device, 0)
    assert list(map(digest, ours)) == list(map(digest, theirs))


def test_code_that_is_not_the_plan_s_is_run_as_it_stands(capfd):
    rewrites = offers_for("images")
    stale = dataclasses.replace(rewrites, deferral=dataclasses.replace(rewrites.deferral, code="of another day"))
    config = Config(deferred=tuple(step.operator for step in rewrites.deferral.steps))
    dataset = Images()
    tuned = Loader(dataset, batch_size=4, config=config, rewrites=stale)
    tuned.running = IteratorSetup(config, stale, is_planned=True)
    assert batches_of(tuned, 1, None) == batches_of(DataLoader(dataset, batch_size=4), 1, None)
    assert "has changed since the plan was made" in capfd.readouterr().err
