"""Datasets that are iterated: shards, lengths, chains and data pipes. A plan never changes their worker count."""

from __future__ import annotations

import itertools

import torch
from documented.case import PERSISTENT, TWO, case, shown
from documented.data import SizedStream, Stream
from torch.utils.data import ChainDataset, DataLoader, IterableDataset
from torch.utils.data.datapipes.iter import IterableWrapper

from plumb.core.config import Config

ONE = Config(1, 2)


@case((TWO, PERSISTENT))
def shards(given):
    loader = DataLoader(Stream(), batch_size=4, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


@case((TWO, PERSISTENT))
def a_stream_that_does_not_shard_comes_once_per_worker(given):
    loader = DataLoader(Stream(sharded=False), batch_size=4, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


@case((TWO, PERSISTENT))
def each_shard_drops_its_own_last_batch(given):
    loader = DataLoader(Stream(11), batch_size=4, drop_last=True, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


class Uneven(Stream):
    """The first worker has far less than the second."""

    def __iter__(self):
        return (number for number in super().__iter__() if number % 2 or number < 4)


@case((TWO, PERSISTENT))
def shards_of_different_lengths(given):
    loader = DataLoader(Uneven(30), batch_size=4, **given)
    return {"epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


@case((TWO, PERSISTENT))
def the_warning_of_more_batches_than_the_length_says(given):
    loader = DataLoader(SizedStream(sharded=False), batch_size=4, **given)
    return {"length": len(loader), "epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


@case((TWO, PERSISTENT))
def a_chain(given):
    chain = ChainDataset([SizedStream(5), SizedStream(7)])
    loader = DataLoader(chain, batch_size=4, **given)
    return {"length": len(loader), "epochs": [[shown(batch) for batch in loader] for _ in range(2)]}


class Endless(IterableDataset):
    """Never ends."""

    def __iter__(self):
        return map(torch.tensor, itertools.count())


@case((ONE, Config(1, 4, persistent_workers=True)))
def an_endless_stream(given):
    loader = DataLoader(Endless(), batch_size=4, **given)
    return {"parts": [[shown(batch) for batch in itertools.islice(loader, 3)] for _ in range(2)]}


@case((TWO, PERSISTENT))
def a_data_pipe(given):
    torch.manual_seed(1)
    pipe = IterableWrapper(range(12)).shuffle().sharding_filter().map(str)
    loader = DataLoader(pipe, batch_size=4, shuffle=True, **given)
    return {"first": [shown(batch) for batch in loader], "sizes": [len(batch) for batch in loader]}
