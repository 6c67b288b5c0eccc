"""Which `worker_init_fn` and which code of samples make it matter which worker makes a sample."""

import functools
import hashlib
import logging
import multiprocessing
import os
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
from torch.utils.data import get_worker_info as who_reads

from plumb.instrument.worker_identity import why_worker_matters
from plumb.instrument.worker_init import ReopeningInit


class Rows(Dataset):
    bank = 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return index * self.bank

    def use(self, bank):
        self.bank = bank

    def reseed(self, seed):
        random.seed(seed)


ROWS, SEEN = Rows(), []
BANK = 0
_log = logging.getLogger(__name__)


def stores(worker):
    get_worker_info().dataset.bank = worker


def stores_globally(worker):
    global BANK
    BANK = worker


def stores_a_number(worker):
    if worker == 0:
        ROWS.bank = 3


def stores_within(worker):
    count = 0

    def inner():
        nonlocal count
        count = worker

    inner()


def calls(worker):
    info = get_worker_info()
    info.dataset.open()


def calls_another(worker):
    stores_globally(worker + 1)


def is_given(worker, rows):
    rows.bank = worker


class Stores:
    def __call__(self, worker):
        self.worker = worker

    def begin(self, worker):
        SEEN[:] = [worker]


MATTERING = (
    stores, stores_globally, stores_a_number, stores_within, calls, calls_another,
    functools.partial(is_given, rows=ROWS), Stores(), Stores().begin, SEEN.append,
    functools.partial(setattr, ROWS, "bank"), lambda worker: ROWS.use(worker), ReopeningInit(stores),
)  # fmt: skip


@pytest.mark.parametrize("init", MATTERING, ids=lambda init: getattr(init, "__name__", type(init).__name__))
def test_a_worker_init_fn_that_gives_workers_an_identity(init):
    assert "does more than seed generators" in why_worker_matters(DataLoader(ROWS, worker_init_fn=init))


def seed_everything(seed, deterministic=True):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if deterministic:
        torch.backends.cudnn.deterministic = True


def seeds(worker):
    seed_everything(42 + worker)


def seeds_as_torch_says(worker):
    seed = torch.initial_seed() % 2**32
    np.random.seed(seed)
    random.seed(seed)


def seeds_by_rank(worker, num_workers, rank, seed):
    np.random.seed(num_workers * rank + worker + seed)


def seeds_by_sequence(worker):
    import numpy

    sequence = numpy.random.SeedSequence([get_worker_info().seed, worker])
    np.random.seed(sequence.generate_state(4))
    torchs, pythons = sequence.spawn(2)
    torch.manual_seed(torchs.generate_state(1, dtype=np.uint64)[0])
    random.seed((pythons.generate_state(2, dtype=np.uint64).astype(object) * [1 << 64, 1]).sum())


def seeds_by_digest(worker):
    random.seed(int(hashlib.md5(str(worker).encode()).hexdigest(), 16))
    info = get_worker_info()
    if info is not None:
        np.random.seed(info.seed % 2**32)


def sets_threads(worker):
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    _log.info("worker %d begins", worker)
    ROWS.reseed(worker)


class Seeds:
    seed = 3

    def __call__(self, worker):
        np.random.seed(self.seed + worker)


SEEDING = (
    None, seeds, seeds_as_torch_says, functools.partial(seeds_by_rank, num_workers=2, rank=0, seed=3),
    seeds_by_sequence, seeds_by_digest, sets_threads, Seeds(), random.seed, torch.manual_seed,
    lambda worker: np.random.seed(np.random.get_state()[1][0] + worker),
)  # fmt: skip


@pytest.mark.parametrize("init", SEEDING, ids=lambda init: getattr(init, "__name__", type(init).__name__))
def test_a_worker_init_fn_that_seeds(init):
    assert why_worker_matters(DataLoader(ROWS, worker_init_fn=init)) is None


class ByInfo(Rows):
    def __getitem__(self, index):
        return get_worker_info().id


class ByAnotherName(Rows):
    def __getitem__(self, index):
        return helped()


def helped():
    return who_reads().id


class ByProcess(Rows):
    def __getitem__(self, index):
        return multiprocessing.current_process().name


class ByNumber(Rows):
    def __getitem__(self, index):
        number = os.getpid()
        return number % 2


@pytest.mark.parametrize("dataset", [ByInfo, ByAnotherName, ByProcess, ByNumber])
def test_samples_that_read_their_worker(dataset):
    assert "reads" in why_worker_matters(DataLoader(dataset()))


def test_a_collate_function_that_reads_its_worker():
    assert "reads get_worker_info" in why_worker_matters(DataLoader(ROWS, collate_fn=lambda _: get_worker_info().id))


class Reopening(Rows):
    def __init__(self):
        self.process, self.is_odd = os.getpid(), os.getpid() % 2

    def __getitem__(self, index):
        if self.process != os.getpid():
            self.process = os.getpid()
        return index


class Comparing(Rows):
    process = None

    def __getitem__(self, index):
        process = os.getpid()
        if process != self.process:
            self.process = process
        return index


class ReopeningAtOnce(Reopening):
    def __getitem__(self, index):
        if self.process != os.getpid():
            self.process, self.file = os.getpid(), os.open(os.devnull, os.O_RDONLY)
        return index


class ReopeningBefore(Reopening):
    def __getitem__(self, index):
        if self.process != os.getpid():
            self.file, self.process = os.open(os.devnull, os.O_RDONLY), os.getpid()
        return index


class StoringBeside(Reopening):
    """Stores something that depends on the process, in the same statement."""

    def __getitem__(self, index):
        if self.process != os.getpid():
            self.file, self.process, self.other = None, os.getpid(), os.getpid() + index
        return index


class Stream(IterableDataset):
    def __iter__(self):
        yield get_worker_info()


@pytest.mark.parametrize("dataset", [Rows, Reopening, ReopeningAtOnce, ReopeningBefore, Comparing, Stream])
def test_set_up_in_each_process_and_streams_are_no_matter(dataset):
    assert why_worker_matters(DataLoader(dataset())) is None


def test_what_else_is_made_of_the_process_s_number_matters():
    assert "reads getpid" in why_worker_matters(DataLoader(StoringBeside()))
