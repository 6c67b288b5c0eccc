"""What samples change for good, and what they use that a fork breaks, is found in a child, and nothing changes here."""

import collections
import functools
import multiprocessing
import os
import random
import socket
import subprocess
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, get_worker_info

from plumb.instrument.sample_effects import Effects, sample_effects

transforms = pytest.importorskip("torchvision.transforms")

LOG = []
COUNTER = {"calls": 0}


@functools.lru_cache(maxsize=4)
def squared(number):
    return number * number


class Samples(Dataset):
    """Makes samples by one function, which is given this dataset and an index."""

    def __init__(self, make, **attributes):
        self.make = make
        vars(self).update(attributes)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.make(self, index)


def effects(make, indices=range(8), seconds=30.0, collate_fn=None, **attributes):
    dataset = Samples(make, **attributes)
    return sample_effects(DataLoader(Subset(dataset, range(64)), batch_size=8, collate_fn=collate_fn), indices, seconds)


class Running:
    """A mean over all values so far."""

    def __init__(self):
        self.count, self.mean = 0, 0.0

    def __call__(self, x):
        self.count += 1
        self.mean += (x - self.mean) / self.count
        return x - self.mean


class Noise:
    def __init__(self, generator):
        self.generator = generator

    def __call__(self, x):
        return x + float(self.generator.random())


def counting(dataset, index):
    dataset.count += 1
    return index


def normalising(dataset, index):
    return dataset.transform(float(index))


def noting(dataset, index):
    dataset.seen.append(index)
    return index


def noting_in_a_set(dataset, index):
    dataset.seen.add(index)
    return index


def noting_globally(dataset, index):
    LOG.append(index)
    return index


def counting_globally(dataset, index):
    COUNTER["calls"] += 1
    return index


def counting_by_label(dataset, index):
    dataset.hits[index % 2] = dataset.hits.get(index % 2, 0) + 1
    return index


def counting_in_a_tensor(dataset, index):
    dataset.counts[index] += 1
    return index


def counting_in_shared_memory(dataset, index):
    dataset.value.value += 1
    return index


def taking(dataset, index):
    return dataset.waiting.popleft()


def normalised_by_a_module(dataset, index):
    return dataset.module(torch.rand(4, 3)).sum()


def noisy(dataset, index):
    return dataset.noise(index)


class Item:
    def __init__(self):
        self.count = 0


def counting_in_one_of_many(dataset, index):
    dataset.items[index * (len(dataset.items) // 64)].count += 1
    return index


CHANGES = {
    "Samples.count": (counting, lambda: {"count": 0}),
    "Running.count": (normalising, lambda: {"transform": transforms.Compose([Running()])}),
    "Samples.seen": (noting, lambda: {"seen": []}),
    "Samples.seen ": (noting_in_a_set, lambda: {"seen": set()}),
    "the global LOG": (noting_globally, dict),
    "the global COUNTER": (counting_globally, dict),
    "Samples.hits": (counting_by_label, lambda: {"hits": {}}),
    "Samples.counts": (counting_in_a_tensor, lambda: {"counts": torch.zeros(64)}),
    "Samples.value": (counting_in_shared_memory, lambda: {"value": multiprocessing.Value("i", 0)}),
    "Samples.items": (counting_in_one_of_many, lambda: {"items": [Item() for _ in range(20_000)]}),
    "Samples.waiting": (taking, lambda: {"waiting": collections.deque(range(500))}),
    "BatchNorm1d._buffers": (normalised_by_a_module, lambda: {"module": torch.nn.BatchNorm1d(3)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CHANGES)
def test_what_each_sample_changes_is_found_and_undone(case):
    make, attributes = CHANGES[case]
    held = attributes()
    before = repr({name: getattr(value, "value", value) for name, value in held.items()})
    found = effects(make, **held)
    assert found == Effects(changed=case.strip())
    assert "workers would each change their own" in found.why_in_one_process
    assert repr({name: getattr(value, "value", value) for name, value in held.items()}) == before
    assert not LOG
    assert COUNTER == {"calls": 0}


@pytest.mark.parametrize(
    "generator", [np.random.default_rng(0), random.Random(0), np.random.RandomState(0)], ids=lambda each: type(each)
)
def test_a_generator_of_the_datasets_own_is_found_and_stays_as_it_is(generator):
    before = repr(getattr(generator, "bit_generator", generator).__reduce__())
    found = effects(noisy, noise=Noise(generator))
    assert found == Effects(draws=True)
    assert found.why_in_one_process.startswith("the dataset holds a random generator")
    assert repr(getattr(generator, "bit_generator", generator).__reduce__()) == before


def seeded_by_index(dataset, index):
    dataset.noise.generator.seed(index)
    return dataset.noise(index)


def drawing(dataset, index):
    return index + random.random() + np.random.rand() + float(torch.rand(()))


def opening_once(dataset, index):
    if dataset.file is None:
        dataset.file = open(dataset.path, "rb")  # noqa: SIM115
    dataset.file.seek(index)
    return dataset.file.read(1)


def remembering(dataset, index):
    if index not in dataset.memory:
        dataset.memory[index] = np.full(10, index)
    return dataset.memory[index]


def remembering_in_a_list(dataset, index):
    if dataset.memory[index] is None:
        dataset.memory[index] = np.full(10, index)
    return dataset.memory[index]


def remembering_by_lru_cache(dataset, index):
    return squared(index)


def reusing_a_buffer(dataset, index):
    dataset.buffer[:] = index
    dataset.latest = index
    return dataset.buffer.copy()


def cropping(dataset, index):
    return dataset.transform(torch.rand(1, 8, 8))


HARMLESS = {
    "nothing": (lambda dataset, index: index, {}),
    "the process's own generators": (drawing, {}),
    "a generator that is seeded for each sample": (seeded_by_index, {"noise": Noise(random.Random(0))}),
    "a file opened once": (opening_once, {"file": None, "path": __file__}),
    "a memory of samples": (remembering, {"memory": {}}),
    "a memory in a list": (remembering_in_a_list, {"memory": [None] * 64}),
    "a cached function": (remembering_by_lru_cache, {}),
    "a buffer": (reusing_a_buffer, {"buffer": np.zeros(100), "latest": None}),
    "a library's transform": (cropping, {"transform": transforms.Compose([transforms.RandomCrop(4)])}),
}


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_no_sample_is_no_effect(case):
    make, attributes = HARMLESS[case]
    assert effects(make, **attributes) == Effects()


class Counting:
    def __init__(self):
        self.batches = 0

    def __call__(self, samples):
        self.batches += 1
        return samples


def test_what_collate_changes_is_an_effect():
    collate = Counting()
    assert effects(lambda dataset, index: index, collate_fn=collate) == Effects(changed="Counting.batches")
    assert collate.batches == 0


def asking(dataset, index):
    dataset.server.sendall(b"?")
    return dataset.server.recv(1) or 1 / 0


def through_a_pipe(dataset, index):
    dataset.process.stdin.write(b"x\n")
    dataset.process.stdin.flush()
    return dataset.process.stdout.readline() or 1 / 0


def locking(dataset, index):
    with dataset.lock:
        return index


def seeking(dataset, index):
    os.lseek(dataset.number, index, os.SEEK_SET)
    return os.read(dataset.number, 1)


def own_in_workers(dataset, index):
    return asking(dataset, index) if get_worker_info() is None else index


def test_a_connection_that_a_fork_would_share_is_not_used():
    here, there = socket.socketpair()
    found = effects(asking, server=here)
    assert found.why_not_forked.startswith("in a forked process, making a sample raised")
    there.setblocking(False)
    with pytest.raises(BlockingIOError):
        there.recv(1)
    assert effects(own_in_workers, server=here) == Effects()
    here.close()
    there.close()


def test_a_helper_process_that_a_fork_would_share_is_not_used():
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert effects(through_a_pipe, process=process).why_not_forked
        process.stdin.write(b"still alone\n")
        process.stdin.close()
        assert process.stdout.read() == b"still alone\n"


def test_a_lock_that_is_held_here_hangs_a_forked_process():
    lock = threading.Lock()
    with lock:
        assert "hung a process" in effects(locking, lock=lock, seconds=0.5).why_not_forked
    assert effects(locking, lock=lock) == Effects()


def test_a_file_that_is_open_for_writing_too_is_shared(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    number = os.open(path, os.O_RDWR)
    found = effects(seeking, number=number)
    assert found == Effects(shared=str(path))
    assert str(path) in found.why_not_forked
    assert os.lseek(number, 0, os.SEEK_CUR) == 0
    os.close(number)
    number = os.open(path, os.O_RDONLY)
    assert effects(seeking, number=number) == Effects()
    os.close(number)


class Held(Dataset):
    """Samples that lie in memory, as parts of it or as copies."""

    def __init__(self, rows, copies):
        self.rows, self.copies = rows, copies

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.rows[index].copy() if self.copies else self.rows[index]


@pytest.mark.parametrize(("batch_size", "copies"), [(4, False), (4, True), (None, True), (None, False)])
def test_batches_that_are_parts_of_the_dataset_are_seen(batch_size, copies):
    loader = DataLoader(Held(np.zeros((8, 3), np.float32), copies), batch_size=batch_size)
    effects = sample_effects(loader, range(8))
    assert effects.is_part is (batch_size is None and not copies)
    assert ("parts of what the dataset holds" in (effects.why_in_one_process or "")) is effects.is_part
