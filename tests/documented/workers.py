"""Worker processes: what a sample can learn of its worker, seeds, `worker_init_fn`, and workers that persist."""

from __future__ import annotations

import multiprocessing
import os
import random

import numpy as np
import torch
from documented.case import NONE, PERSISTENT, TWO, case, shown
from documented.data import Numbers, Stream
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, get_worker_info

from plumb.core.config import Config


class Told(Numbers):
    """Samples that tell what `get_worker_info` and the process tell."""

    def __getitem__(self, index):
        info = get_worker_info()
        process = multiprocessing.current_process()
        told = None if info is None else (info.id, info.num_workers, info.dataset is self, info.seed)
        return index, told, process.daemon, torch.get_num_threads() if told else None


@case((NONE, TWO), (TWO, PERSISTENT), (TWO, NONE), like_torch=("told",))
def worker_info(given):
    torch.manual_seed(1)
    loader = DataLoader(Told(), batch_size=4, collate_fn=list, **given)
    batches = list(loader)
    return {
        "indices": [[sample[0] for sample in batch] for batch in batches],
        "told": [[sample[1:] for sample in batch] for batch in batches],
        "main": get_worker_info(),
        "same dataset": type(loader.dataset).__name__,
    }


class Draws(Numbers):
    """Samples drawn from the three generators that torch seeds in a worker."""

    def __getitem__(self, index):
        return torch.rand(1, dtype=torch.float64).item(), random.random(), np.random.rand()


@case((TWO, NONE))
def what_workers_draw_is_not_drawn_from_the_training_s_generators(given):
    torch.manual_seed(2)
    list(DataLoader(Draws(), batch_size=4, collate_fn=list, **given))
    return {"after": torch.rand(1).item()}


@case((NONE, TWO), (TWO, Config(2, 5)), like_torch=("drawn", "after"))
def seeds_in_workers(given):
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    loader = DataLoader(Draws(), batch_size=4, collate_fn=list, **given)
    return {"drawn": [list(loader) for _ in range(2)], "after": torch.rand(1).item()}


@case((NONE, PERSISTENT), (NONE, TWO), (TWO, PERSISTENT), (TWO, NONE), (PERSISTENT, NONE))
def the_main_process_draws_the_same_afterwards(given):
    torch.manual_seed(3)
    loader = DataLoader(Numbers(), batch_size=4, shuffle=True, **given)
    return {"epochs": [([shown(batch) for batch in loader], torch.rand(1).item()) for _ in range(3)]}


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE))
def a_generator_of_the_script_s_own(given):
    torch.manual_seed(4)
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Numbers(), batch_size=4, shuffle=True, generator=generator, **given)
    epochs = [[shown(batch) for batch in loader] for _ in range(3)]
    return {
        "epochs": epochs,
        "state": generator.get_state().sum().item(),
        "global": torch.rand(1).item(),
        "kept": loader.generator is generator,
    }


@case((NONE, TWO), (TWO, NONE))
def one_generator_for_the_sampler_and_the_loader(given):
    data, generator = Numbers(), torch.Generator().manual_seed(6)
    sampler = RandomSampler(data, generator=generator)
    loader = DataLoader(data, batch_size=4, sampler=sampler, generator=generator, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(3)]}


class Marked(Numbers):
    """Samples with a mark that `worker_init_fn` sets."""

    mark = -1

    def __getitem__(self, index):
        return index, self.mark


def set_mark(worker_id):
    get_worker_info().dataset.mark = 100 + worker_id


@case((NONE, TWO), (TWO, PERSISTENT), (TWO, NONE), like_torch=("batches",))
def worker_init_fn_changes_the_worker_s_dataset(given):
    loader = DataLoader(Marked(), batch_size=4, worker_init_fn=set_mark, **given)
    return {
        "batches": [[shown(batch) for batch in loader] for _ in range(2)],
        "main": loader.dataset.mark,
        "kept": loader.worker_init_fn is set_mark,
    }


class Counting(Numbers):
    """Samples with the count of those made before them in their process."""

    count = 0

    def __getitem__(self, index):
        self.count += 1
        return index, self.count, os.getpid()


@case((PERSISTENT, Config(2, 1, persistent_workers=True)), (PERSISTENT, NONE), like_torch=("counts",))
def workers_that_persist_keep_their_dataset(given):
    loader = DataLoader(Counting(), batch_size=4, collate_fn=list, **given)
    epochs = [list(loader) for _ in range(3)]
    samples = [sample for epoch in epochs for batch in epoch for sample in batch]
    return {
        "indices": [sample[0] for sample in samples],
        "counts": [len({sample[2] for sample in samples}), *(sample[1] for sample in samples)],
    }


@case((TWO, Config(2, 4)))
def workers_that_do_not_persist_start_from_the_main_process_s_dataset(given):
    loader = DataLoader(Counting(), batch_size=4, collate_fn=list, **given)
    first = [sample[:2] for batch in loader for sample in batch]
    loader.dataset.count = 50
    return {"first": first, "second": [sample[:2] for batch in loader for sample in batch]}


@case((NONE, PERSISTENT), (TWO, Config(2, 4)))
def a_dataset_that_the_script_changes_between_epochs(given):
    loader = DataLoader(Marked(), batch_size=4, **given)
    epochs = []
    for epoch in range(3):
        loader.dataset.mark = epoch
        epochs.append([shown(batch) for batch in loader])
    return {"epochs": epochs}


class Part(IterableDataset):
    """The example of torch's documentation: a range that `worker_init_fn` divides."""

    def __init__(self, start, end):
        self.start, self.end = start, end

    def __iter__(self):
        return iter(range(self.start, self.end))


def divide(worker_id):
    info = get_worker_info()
    data, each = info.dataset, -(-(info.dataset.end - info.dataset.start) // info.num_workers)
    data.start, data.end = data.start + worker_id * each, min(data.start + (worker_id + 1) * each, data.end)


@case((TWO, PERSISTENT))
def worker_init_fn_divides_a_stream(given):
    loader = DataLoader(Part(3, 12), batch_size=4, worker_init_fn=divide, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(2)], "main": (loader.dataset.start)}


class Inner(Dataset):
    """Samples that a loader of their own makes, inside a worker."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return sum(batch.sum() for batch in DataLoader(Numbers(index + 1), batch_size=2))


@case()
def a_loader_inside_a_worker(given):
    loader = DataLoader(Inner(), batch_size=4, **given)
    return {"batches": [shown(batch) for batch in loader]}


@case((TWO, Config(2, 4, in_order=False)), (TWO, Config(2, 4)))
def order_of_delivery(given):
    loader = DataLoader(Stream(8), batch_size=4, **given)
    return {"batches": sorted(str(shown(batch)) for batch in loader)}
