"""The cost of a sample as a worker would pay it."""

import hashlib
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from plumb.tuning.inputs_from_sample import ObservedLoader
from plumb.tuning.loader_under_test import LoaderUnderTest
from plumb.tuning.measure.sample_cost import (
    batch_bytes,
    leaves,
    measure_samples,
    measure_samples_without_torch_threads,
    samples_in,
    torch_threads_speedup,
    without_failing,
)
from plumb.tuning.measure.throughput import IndexStream, NoBatchesError


class Waiting(Dataset):
    def __len__(self):
        return 100

    def __getitem__(self, index):
        time.sleep(0.002)
        return torch.zeros(3, 4), index


def test_waits_are_told_from_computing():
    loader = DataLoader(Waiting(), batch_size=5)
    seen = measure_samples(loader, IndexStream(loader.batch_sampler), seconds=0.2)
    cost = seen.cost
    assert 0 < len(seen.batch_seconds) * 5 < seen.samples, "the first batches are another matter"
    # A single one may lose what this thread waited for a core just before or after it.
    assert statistics.median(seen.batch_seconds) >= 5 * 0.002
    assert cost.wall_seconds >= 0.002
    assert cost.wait_seconds > 3 * cost.cpu_seconds
    assert cost.output_bytes == 3 * 4 * 4 + 8
    assert cost.output_tensors == 2 / 5


class Erratic(Waiting):
    """One batch in five takes twenty times as long."""

    def __getitem__(self, index):
        time.sleep(0.04 if index % 25 == 0 else 0.002)
        return index


def test_a_source_that_is_slow_now_and_then_is_looked_at_for_longer_and_all_that_it_waits_counts():
    loader = DataLoader(Erratic(), batch_size=5)
    stream = IndexStream(loader.batch_sampler)
    short, long = (measure_samples(loader, stream, 0.1, at_most) for at_most in (None, 1.0))
    assert long.samples > 3 * short.samples
    assert long.cost.wait_seconds > 1.3 * 0.002, "0.04 s of every 25 samples on average"
    assert long.cost.wall_seconds == pytest.approx(long.cost.cpu_seconds + long.cost.wait_seconds)
    steady = DataLoader(Waiting(), batch_size=5)
    assert measure_samples(steady, IndexStream(steady.batch_sampler), 0.1, 5.0).samples < 0.5 / 0.002


def test_many_samples_at_once_and_batches_of_the_dataset_s_own():
    class Together(Waiting):
        asked = []

        def __getitems__(self, indices):
            self.asked.append(list(indices))
            return [self[index] for index in indices]

    class Whole(Waiting):
        def __getitem__(self, index):
            return torch.zeros(3, 4)

    loader = DataLoader(Together(), batch_size=4)
    measure_samples(loader, IndexStream(loader.batch_sampler), seconds=0.0)
    assert Together.asked[0] == [0, 1, 2, 3]
    # What the dataset makes of one index is one sample, as it has a number beside a tensor; or a batch of three.
    for dataset, samples in ((Waiting(), 1.0), (Whole(), 3.0)):
        alone = DataLoader(dataset, batch_size=None)
        seen = measure_samples(alone, IndexStream(alone.sampler, is_batches=False), seconds=0.0)
        assert (seen.samples, seen.cost.output_bytes * samples) == (samples, 4 * 4 * 3)


def test_an_iterable_dataset_is_begun_again():
    class Three(IterableDataset):
        begun = 0

        def __iter__(self):
            Three.begun += 1
            yield from (torch.zeros(2) for _ in range(3))

    measure_samples(DataLoader(Three(), batch_size=2), None, seconds=0.05)
    assert Three.begun > 1


def test_threads_are_as_in_a_loader_without_workers():
    seen = []

    class Asking(Waiting):
        def __getitem__(self, index):
            seen.append(torch.get_num_threads())
            return super().__getitem__(index)

    before = torch.get_num_threads()
    loader = DataLoader(Asking(), batch_size=2)
    measure_samples(loader, IndexStream(loader.batch_sampler), seconds=0.0)
    assert set(seen) == {before}


def test_whether_more_threads_help(monkeypatch):
    class Threaded(Waiting):
        def __getitem__(self, index):
            time.sleep(0.004 / torch.get_num_threads())
            return index

    class Indifferent(Waiting):
        pass

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for dataset, helps in ((Threaded(), True), (Indifferent(), False)):
            loader = DataLoader(dataset, batch_size=2)
            speedup = torch_threads_speedup(loader, IndexStream(loader.batch_sampler), seconds=0.1)
            assert (speedup > 1.5) is helps
    finally:
        torch.set_num_threads(before)


def test_batches_of_any_structure():
    batch = {"image": torch.zeros(4, 2), "target": [{"boxes": torch.zeros(3)}, (torch.ones(5, dtype=torch.int64), "x")]}
    assert batch_bytes(batch) == (4 * 2 * 4 + 3 * 4 + 5 * 8, 3)
    assert samples_in(batch) == 4
    assert samples_in(["a", "b"]) == 2
    assert samples_in("text") == 1
    assert "x" in list(leaves(batch))


class Hashed(Dataset):
    """Samples that threads of their own compute."""

    def __len__(self):
        return 100

    def __getitem__(self, index):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(hashlib.pbkdf2_hmac, "sha256", b"word", b"salt", 20_000).result()
        return torch.zeros(3), index


@pytest.mark.slow
@pytest.mark.quiet
def test_threads_of_a_library_s_own_compute_and_are_no_wait():
    loader = DataLoader(Hashed(), batch_size=5)
    stream = IndexStream(loader.batch_sampler)
    alone = measure_samples_without_torch_threads(loader, stream, 0.3)
    assert alone.other_cpus > 0.3
    seen = measure_samples(loader, stream, 0.3)
    assert seen.cost.wait_seconds > seen.cost.cpu_seconds
    assert seen.other_cpus > 0.3
    told = seen.made_by_threads(seen.other_cpus, alone.cost.wait_seconds).cost
    assert told.wait_seconds < seen.cost.wait_seconds
    assert told.cpu_seconds + told.wait_seconds == pytest.approx(told.wall_seconds)


def test_torch_s_threads_are_not_a_library_s_own():
    class Large(Waiting):
        def __getitem__(self, index):
            return (torch.ones(1 << 20) * 2).sqrt().sum(), index

    loader = DataLoader(Large(), batch_size=5)
    stream = IndexStream(loader.batch_sampler)
    assert measure_samples_without_torch_threads(loader, stream, 0.2).other_cpus < 0.1
    seen = measure_samples(loader, stream, 0.3)
    told = ObservedLoader(LoaderUnderTest("loader", loader, 5.0, None, None), stream, 0.3).without_threads_as_waiting(
        seen
    )
    assert told.other_cpus == 0.0
    assert told.cost.wall_seconds == pytest.approx(seen.cost.wall_seconds)
    assert told.cost.wait_seconds <= seen.cost.wait_seconds, "waiting for torch's threads is none for the sample"


class Node:
    def __init__(self, value):
        self.value = value
        self.whole = self


def test_a_batch_of_objects_that_lead_back_to_themselves_is_measured():
    assert batch_bytes([Node(torch.zeros(8)), Node(torch.zeros(8))]) == (64, 2)


class Few(IterableDataset):
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        return iter(torch.zeros(self.samples, 4))


def test_a_stream_shorter_than_a_batch_is_measured_by_the_batch_that_it_gives():
    seen = measure_samples(DataLoader(Few(3), batch_size=8), None, 0.01)
    assert seen.largest_batch_bytes == 3 * 16


@pytest.mark.parametrize(("samples", "drop_last"), [(0, False), (3, True)])
def test_a_stream_without_a_batch_ends_the_measurement(samples, drop_last):
    with pytest.raises(NoBatchesError):
        measure_samples(DataLoader(Few(samples), batch_size=8, drop_last=drop_last), None, 0.01)


class Damaged(Dataset):
    def __len__(self):
        return 30

    def __getitem__(self, index):
        if index % 10 == 3:
            raise KeyError(index)
        return index


class DamagedStream(IterableDataset):
    def __iter__(self):
        yield from (Damaged()[index] for index in range(30))


def test_samples_that_the_loop_goes_on_after_are_left_out():
    loader, stream = DataLoader(Damaged(), batch_size=2), DataLoader(DamagedStream(), batch_size=2)
    indices = IndexStream(loader.batch_sampler)
    for each, its_indices in ((loader, indices), (stream, None)):
        with pytest.raises(KeyError):
            measure_samples(each, its_indices, 0.1)
        assert measure_samples(each, its_indices, 0.1, skips=(KeyError,)).samples > 0
    assert without_failing(loader, range(12), (KeyError,)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    "sample", [(torch.zeros(20_000), 3), [torch.zeros(20_000), torch.tensor(3)], torch.tensor(1.0)]
)
def test_what_cannot_be_a_batch_is_one_sample(sample):
    assert samples_in(sample) == 1
