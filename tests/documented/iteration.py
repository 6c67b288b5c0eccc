"""Ways to iterate: early exits, several iterators at once, what is left when they go."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import threading

import torch
from documented.case import NONE, PERSISTENT, TWO, case, raised, shown
from documented.data import Numbers
from torch.utils.data import DataLoader

from plumb.core.config import Config


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE))
def break_and_start_again(given):
    loader = DataLoader(Numbers(40), batch_size=4, **given)
    parts = []
    for stop in (2, 1, 5, 20):
        part = []
        for batch in loader:
            part.append(shown(batch))
            if len(part) == stop:
                break
        parts.append(part)
    return {"parts": parts}


@case((NONE, PERSISTENT), (NONE, TWO), (TWO, PERSISTENT), (TWO, NONE))
def two_iterators_at_once(given):
    loader = DataLoader(Numbers(12), batch_size=4, **given)
    first = iter(loader)
    got = [next(first)]
    second = iter(loader)
    got += [next(second), next(first), next(second), next(first)]
    return {
        "got": [shown(batch) for batch in got],
        "ends": [raised(lambda: next(first)), shown(next(second)), raised(lambda: next(second))],
    }


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE))
def loops_in_loops(given):
    loader = DataLoader(Numbers(8), batch_size=4, **given)
    return {"pairs": [(shown(outer), shown(inner)) for outer in loader for inner in loader]}


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE))
def zip_of_loaders(given):
    loaders = []
    for length in (12, 6):
        loader = DataLoader(Numbers(length), batch_size=4, **given)
        loaders.append(loader)
    long, short = loaders
    return {
        "two": [[shown(batch) for batch in pair] for pair in zip(long, short, strict=False)],
        "twice the same": [[shown(batch) for batch in pair] for pair in zip(long, long, strict=True)],
        "then": [shown(batch) for batch in long],
    }


@case((PERSISTENT, Config(2, 1, persistent_workers=True)))
def workers_that_persist_have_one_iterator(given):
    loader = DataLoader(Numbers(12), batch_size=4, **given)
    first = iter(loader)
    next(first)
    second = iter(loader)
    return {"same": first is second, "from the start": [shown(batch) for batch in first]}


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (PERSISTENT, NONE))
def no_worker_outlives_its_loader(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)
    next(iter(loader))
    iterator = iter(loader)
    next(iterator)
    del iterator, loader
    gc.collect()
    return {"workers": len(multiprocessing.active_children())}


@case((TWO, Config(2, 4)))
def no_worker_outlives_its_iterator(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)
    iterator = iter(loader)
    next(iterator)
    alive = len(multiprocessing.active_children())
    del iterator
    return {"workers": [alive, len(multiprocessing.active_children())]}


@case((NONE, TWO), (TWO, NONE))
def an_iterator_that_has_ended(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)
    iterator = iter(loader)
    first = [shown(batch) for batch in iterator]
    ends = [raised(lambda: next(iterator))["type"] for _ in range(3)]
    return {"first": first, "ends": ends, "is its own": iter(iterator) is iterator, "length": len(iterator)}


@case((NONE, PERSISTENT), (TWO, PERSISTENT), (TWO, NONE))
def an_endless_cycle_by_hand(given):
    torch.manual_seed(1)
    loader = DataLoader(Numbers(), batch_size=4, shuffle=True, **given)

    def cycle():
        iterator = iter(loader)
        while True:
            batch = next(iterator, None)
            if batch is None:
                iterator = iter(loader)
            else:
                yield batch

    return {"batches": [shown(batch) for batch in itertools.islice(cycle(), 8)]}


@case()
def the_tools_of_python(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)
    return {
        "list": shown(list(loader)),
        "enumerate": [(number, shown(batch)) for number, batch in enumerate(loader, 1)],
        "islice": [shown(batch) for batch in itertools.islice(loader, 1, None)],
        "chain": [shown(batch) for batch in itertools.chain(loader, loader)],
        "unpacked": shown([*loader]),
        "sum": shown(sum(batch.sum() for batch in loader)),
        "in": torch.tensor([8, 9]).shape in [batch.shape for batch in loader],
    }


@case()
def a_loader_per_thread(given):
    found = {}

    def loop(name):
        loader = DataLoader(Numbers(name), batch_size=4, **given)
        found[name] = [shown(batch) for _ in range(2) for batch in loader]

    threads = [threading.Thread(target=loop, args=(name,)) for name in (8, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"found": sorted(found.items())}
