"""The loader as an object: its length, attributes, arguments, subclasses, copies."""

from __future__ import annotations

import copy
import inspect
import multiprocessing
import pickle

import torch
from documented.batches import Eager, Uneven
from documented.case import NONE, PERSISTENT, TWO, case, raised, shown
from documented.data import Numbers, SizedStream, Stream
from torch.utils import data as torch_data
from torch.utils.data import DataLoader


def batches_of(loader):
    return [shown(batch) for batch in loader]


@case((NONE, PERSISTENT), (TWO, NONE))
def lengths(given):
    def length(data, **more):
        loader = DataLoader(data, **{"batch_size": 4, **more}, **given)
        return len(loader)

    unsized = iter(range(3))
    return {
        "lengths": [
            length(Numbers(10)),
            length(Numbers(10), drop_last=True),
            length(Numbers(10), batch_size=None),
            length(Numbers(10), batch_size=1, batch_sampler=Uneven()),
            length(Numbers(10), sampler=[1, 2, 3, 4, 5]),
        ],
        "errors": [
            raised(lambda: length(Numbers(), sampler=unsized)),
            raised(lambda: length(Numbers(), batch_size=1, batch_sampler=unsized)),
        ],
    }


@case((TWO, PERSISTENT))
def lengths_of_streams(given):
    def length(data, **more):
        loader = DataLoader(data, **{"batch_size": 4, **more}, **given)
        return len(loader)

    return {
        "lengths": [
            length(SizedStream(10)),
            length(SizedStream(10), drop_last=True),
            length(SizedStream(10), batch_size=None),
        ],
        "error": raised(lambda: length(Stream())),
    }


@case((NONE, PERSISTENT), (TWO, NONE), like_torch=("workers",))
def attributes(given):
    data, sampler, generator = Numbers(), Eager(), torch.Generator()
    loader = DataLoader(data, batch_size=4, sampler=sampler, generator=generator, drop_last=True, **given)
    kept = [loader.dataset is data, loader.sampler is sampler, loader.generator is generator]
    list(loader)
    return {
        "kept": [*kept, loader.dataset is data, loader.sampler is sampler, loader.batch_sampler.sampler is sampler],
        "plain": [loader.batch_size, loader.drop_last, loader.pin_memory, loader.timeout, loader.worker_init_fn],
        "types": [type(loader).__name__, type(loader.batch_sampler).__name__, loader.collate_fn.__name__],
        "names": sorted(name for name in vars(loader) if name != "_plumb_loader"),
        "workers": [loader.num_workers, loader.prefetch_factor, loader.persistent_workers],
    }


@case((NONE, PERSISTENT), (TWO, NONE))
def protected_attributes(given):
    loader = DataLoader(Numbers(), batch_size=4, **given)
    list(loader)
    names = ("batch_size", "batch_sampler", "sampler", "drop_last", "dataset", "persistent_workers")
    errors = [raised(lambda name=name: setattr(loader, name, None)) for name in names]
    loader.anything = 5
    return {"errors": errors, "other": loader.anything, "batches": batches_of(loader)}


@case()
def invalid_arguments(given):
    def of(data=(), **arguments):
        def make():
            loader = DataLoader(data or Numbers(), **{"batch_size": 4, **arguments})
            return list(loader)

        return raised(make)

    return {
        "errors": [
            of(num_workers=-1),
            of(timeout=-1),
            of(prefetch_factor=2),
            of(num_workers=1, prefetch_factor=-1),
            of(persistent_workers=True),
            of(multiprocessing_context="fork"),
            of(num_workers=1, multiprocessing_context="thread"),
            of(num_workers=1, multiprocessing_context=5),
            of(sampler=[1], shuffle=True),
            of(batch_sampler=[[1]]),
            of(batch_size=1, batch_sampler=[[1]], shuffle=True),
            of(batch_size=1, batch_sampler=[[1]], drop_last=True),
            of(batch_size=None, drop_last=True),
            of(batch_size=0),
            of(batch_size=-4),
            of(drop_last=3),
            of(Stream(), shuffle=True),
            of(Stream(), sampler=[1]),
            of(Stream(), batch_size=1, batch_sampler=[[1]]),
            of(num_workers="2"),
            of(unknown=1),
            raised(lambda: DataLoader()),
        ]
    }


@case((NONE, PERSISTENT))
def arguments_by_position(given):
    loader = DataLoader(Numbers(), 4, False, None, None, 0, tuple, False, True)
    return {"batches": batches_of(loader), "kept": [loader.drop_last, loader.collate_fn is tuple]}


class Own(DataLoader):
    """A signature of its own, and iterates in its own way."""

    def __init__(self, folder, size, /, workers, **more):
        self.folder = folder
        super().__init__(Numbers(len(folder)), size, **workers, **more)

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            yield number, batch * 2

    def __len__(self):
        return 100 + super().__len__()


@case((NONE, PERSISTENT), (TWO, NONE))
def a_subclass(given):
    torch.manual_seed(1)
    loader = Own("a folder!", 4, given, sampler=Eager())
    loader.dataset.length = 10
    return {
        "batches": [batches_of(loader) for _ in range(2)],
        "length": len(loader),
        "type": [type(loader).__name__, isinstance(loader, DataLoader), loader.folder],
    }


class Repeating:
    """A sampler without an end."""

    def __init__(self, sampler):
        self.sampler = sampler

    def __iter__(self):
        while True:
            yield from iter(self.sampler)


class Infinite(DataLoader):
    """Workers that never end, as several training programs make them: the sampler is exchanged after construction."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "batch_sampler", Repeating(self.batch_sampler))
        self.iterator = super().__iter__()

    def __len__(self):
        return len(self.batch_sampler.sampler)

    def __iter__(self):
        for _ in range(len(self)):
            yield next(self.iterator)


@case((NONE, PERSISTENT), (TWO, NONE))
def a_subclass_that_exchanges_its_sampler(given):
    torch.manual_seed(2)
    loader = Infinite(Numbers(), batch_size=4, shuffle=True, **given)
    return {"epochs": [batches_of(loader) for _ in range(3)], "length": len(loader)}


class Equal(DataLoader):
    """Two loaders of the same dataset are equal, so that none can be a key of a dictionary."""

    def __eq__(self, other):
        return self.dataset is other.dataset


@case((NONE, PERSISTENT))
def a_subclass_without_a_hash(given):
    data = Numbers()

    loaders = []
    for _ in range(2):
        loader = Equal(data, batch_size=4, **given)
        loaders.append(loader)
    return {"equal": loaders[0] == loaders[1], "batches": batches_of(loader), "error": raised(lambda: hash(loader))}


@case((NONE, PERSISTENT), (NONE, TWO))
def copies(given):
    epochs = []
    for copied in (copy.copy, copy.deepcopy, lambda loader: pickle.loads(pickle.dumps(loader))):
        torch.manual_seed(3)
        loader = DataLoader(Numbers(), batch_size=4, sampler=Eager(), **given)
        twin = copied(loader)
        epochs.append([batches_of(twin), batches_of(loader), batches_of(twin), batches_of(copied(twin))])
    return {"epochs": epochs, "after": torch.rand(1).item()}


@case((NONE, PERSISTENT))
def the_class(given):
    loader = DataLoader[int](Numbers(), batch_size=4, **given)
    return {
        "signature": str(inspect.signature(DataLoader.__init__)),
        "call": str(inspect.signature(DataLoader)),
        "names": [DataLoader.__init__.__qualname__, DataLoader.__iter__.__qualname__, DataLoader.__init__.__module__],
        "documentation": [DataLoader.__doc__, DataLoader.__init__.__doc__, DataLoader.__iter__.__doc__],
        "same": DataLoader is torch_data.DataLoader is torch_data.dataloader.DataLoader,
        "instance": [isinstance(loader, DataLoader), type(loader) is DataLoader, batches_of(loader)],
    }


@case((TWO, PERSISTENT), (TWO, NONE), like_torch=("context",))
def start_methods_that_can_be_named(given):
    batches, contexts = [], []
    for context in ("fork", multiprocessing.get_context("fork")):
        more = {"multiprocessing_context": context} if given["num_workers"] else {}
        loader = DataLoader(Numbers(), batch_size=4, **more, **given)
        batches.append(batches_of(loader))
        contexts.append(type(loader.multiprocessing_context).__name__)
    return {"batches": batches, "context": contexts}


@case((NONE, PERSISTENT), (TWO, NONE))
def state_of_a_stateful_loader(given):
    try:
        from torchdata.stateful_dataloader import StatefulDataLoader
    except ImportError:
        return {"skipped": "torchdata"}
    torch.manual_seed(4)

    def make():
        return StatefulDataLoader(Numbers(20), batch_size=4, shuffle=True, **given)

    loader = make()
    iterator = iter(loader)
    first = [shown(next(iterator)) for _ in range(2)]
    state = loader.state_dict()
    rest = [shown(batch) for batch in iterator]
    again = make()
    again.load_state_dict(state)
    return {"first": first, "rest": rest, "again": batches_of(again), "next epoch": batches_of(again)}
