"""What batches are made of and in which order: collate, sampling, datasets, pinning."""

from __future__ import annotations

import collections
import dataclasses

import numpy as np
import torch
from documented.case import NONE, PERSISTENT, TWO, case, raised, shown
from documented.data import Numbers, Stream
from torch.utils import data as torch_data
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler, SequentialSampler

from plumb.core.config import Config

Point = collections.namedtuple("Point", "x y")
PINNED = Config(pin_memory=True)


class Nested(Numbers):
    """Samples of all that `default_collate` knows."""

    def __getitem__(self, index):
        return {
            "tensor": torch.full((2,), index, dtype=torch.int16),
            "array": np.full((2,), index, dtype=np.float16),
            "scalars": [np.float32(index), np.int64(index), index / 2, index, index % 2 == 0],
            "text": f"number {index}",
            "bytes": bytes([index]),
            "point": Point(index, (torch.tensor(index), "y")),
            "nothing": {},
        }


@case((NONE, PERSISTENT), (TWO, NONE))
def nested_batches(given):
    loader = DataLoader(Nested(), batch_size=4, **given)
    return {"batches": [shown(batch) for batch in loader]}


@dataclasses.dataclass
class Pair:
    """A sample, and a batch, of the user's own type, which has the method that pinning calls."""

    left: torch.Tensor
    right: str

    def pin_memory(self):
        return Pair(self.left, self.right + " pinned")


class Pairs(Numbers):
    """Samples of a type that torch can't collate."""

    def __getitem__(self, index):
        return Pair(torch.tensor(index), str(index))


def join(pairs):
    return Pair(torch.stack([pair.left for pair in pairs]), " ".join(pair.right for pair in pairs))


@case((NONE, PERSISTENT), (TWO, NONE), (NONE, PINNED), like_torch=("batches", "warnings"))
def a_type_of_the_script_s_own_with_its_own_collate(given):
    loader = DataLoader(Pairs(), batch_size=4, collate_fn=join, **given)
    return {"batches": [shown(batch) for batch in loader], "kept": loader.collate_fn is join}


@case((NONE, TWO), (TWO, NONE), like_torch=("error",))
def a_type_that_torch_can_t_collate(given):
    loader = DataLoader(Pairs(), batch_size=4, **given)
    return {"error": raised(lambda: list(loader))}


@case((PINNED, Config(2, 2, pin_memory=True)), (Config(2, 2, pin_memory=True), PINNED))
def pinning(given):
    loader = DataLoader(Nested(), batch_size=4, **given)
    batches = list(loader)
    return {"batches": [shown(batch) for batch in batches], "pinned": batches[0]["tensor"].is_pinned()}


class Maybe(Numbers):
    """Every third sample is None."""

    def __getitem__(self, index):
        return None if index % 3 == 0 else {"x": np.float64(index), "n": index}


@case((NONE, PERSISTENT), (TWO, NONE), batch_size=None)
def samples_instead_of_batches(given):
    loader = DataLoader(Maybe(), batch_size=None, shuffle=True, **given)
    torch.manual_seed(1)
    return {"samples": [[shown(sample) for sample in loader] for _ in range(2)], "length": len(loader)}


@case((TWO, PERSISTENT), batch_size=None)
def a_stream_of_ready_batches(given):
    loader = DataLoader(Stream(), batch_size=None, collate_fn=lambda sample: (sample, None), **given)
    return {"samples": [[shown(sample) for sample in loader] for _ in range(2)]}


@case((NONE, TWO), (TWO, NONE), like_torch=("error",))
def none_can_t_be_collated(given):
    loader = DataLoader(Maybe(), batch_size=4, **given)
    return {"error": raised(lambda: list(loader))}


@case((NONE, TWO), (TWO, NONE), like_torch=("error",))
def samples_of_different_sizes(given):
    loader = DataLoader([torch.zeros(n) for n in range(8)], batch_size=4, **given)
    return {"error": raised(lambda: list(loader))}


@case()
def the_last_batch_dropped(given):
    loader = DataLoader(Numbers(), batch_size=4, drop_last=True, **given)
    return {"batches": [shown(batch) for batch in loader], "length": len(loader), "kept": loader.drop_last}


@case()
def more_in_a_batch_than_there_is(given):
    loader = DataLoader(Numbers(3), batch_size=4, **given)
    return {"batches": [shown(batch) for batch in loader], "length": len(loader)}


@case()
def an_empty_dataset(given):
    loader = DataLoader([], batch_size=4, **given)
    return {"batches": list(loader), "length": len(loader)}


class Eager(Sampler):
    """Draws its order when it is asked for it."""

    def __len__(self):
        return 10

    def __iter__(self):
        return iter(torch.randperm(10).tolist())


@case((NONE, PERSISTENT), (NONE, TWO), (TWO, PERSISTENT), (TWO, NONE), (PERSISTENT, NONE))
def a_sampler_that_draws_when_it_is_asked(given):
    torch.manual_seed(2)
    sampler = Eager()
    loader = DataLoader(Numbers(), batch_size=4, sampler=sampler, **given)
    epochs = [([shown(batch) for batch in loader], torch.rand(1).item()) for _ in range(3)]
    return {"epochs": epochs, "kept": loader.sampler is sampler}


class Uneven:
    """Batches of different sizes, from an object that is no Sampler."""

    def __len__(self):
        return 3

    def __iter__(self):
        yield [0]
        yield (9, 3, 3)
        yield range(4, 6)


@case((NONE, PERSISTENT), (TWO, NONE), batch_size=None)
def a_batch_sampler_of_the_script_s_own(given):
    sampler = Uneven()
    loader = DataLoader(Numbers(), batch_sampler=sampler, **given)
    return {
        "epochs": [[shown(batch) for batch in loader] for _ in range(2)],
        "kept": [loader.batch_sampler is sampler, loader.batch_size, type(loader.sampler).__name__, len(loader)],
    }


class Whole(Numbers):
    """Takes a list of indices at once, as `batch_size=None` with a BatchSampler for its sampler asks."""

    def __getitem__(self, indices):
        return torch.tensor(indices) * 2


@case(batch_size=None)
def batches_made_by_the_dataset(given):
    data = Whole()
    loader = DataLoader(data, batch_size=None, sampler=BatchSampler(SequentialSampler(data), 4, False), **given)
    return {"batches": [shown(batch) for batch in loader]}


class AtOnce(Numbers):
    """Has `__getitems__`, which torch prefers."""

    def __getitems__(self, indices):
        return [torch.tensor([index, len(indices)]) for index in indices]


@case()
def getitems(given):
    loader = DataLoader(AtOnce(), batch_size=4, **given)
    return {"batches": [shown(batch) for batch in loader]}


class Named(Dataset):
    """Indices need not be integers."""

    def __getitem__(self, key):
        return key.upper()


@case()
def keys_that_are_no_integers(given):
    loader = DataLoader(Named(), batch_size=4, sampler=list("abcdef"), **given)
    return {"batches": [shown(batch) for batch in loader], "length": len(loader)}


@case()
def torch_s_samplers(given):
    torch.manual_seed(3)
    samplers = [
        torch_data.SubsetRandomSampler([7, 1, 5, 3]),
        torch_data.WeightedRandomSampler([0.1, 0.9, 0.5], 8),
        torch_data.RandomSampler(Numbers(), replacement=True, num_samples=7),
        torch_data.RandomSampler(Numbers(), num_samples=15),
        torch_data.SequentialSampler(Numbers(5)),
    ]
    epochs = []
    for sampler in samplers:
        loader = DataLoader(Numbers(), batch_size=4, sampler=sampler, **given)
        epochs.append([[shown(batch) for batch in loader] for _ in range(2)])
    return {"epochs": epochs}


@case((NONE, PERSISTENT), (PERSISTENT, NONE))
def a_distributed_sampler(given):
    parts = []
    for rank in range(2):
        sampler = DistributedSampler(Numbers(), num_replicas=2, rank=rank, shuffle=True, seed=7)
        loader = DataLoader(Numbers(), batch_size=4, sampler=sampler, **given)
        for epoch in range(3):
            loader.sampler.set_epoch(epoch)
            parts.append([shown(batch) for batch in loader])
    return {"parts": parts}


@case()
def torch_s_datasets(given):
    ten = Numbers()
    datasets = [
        torch_data.ConcatDataset([ten, Numbers(3)]),
        torch_data.Subset(ten, [8, 2, 5]),
        *torch_data.random_split(ten, [0.7, 0.3], generator=torch.Generator().manual_seed(8)),
        torch_data.TensorDataset(torch.arange(6), torch.arange(12.0).view(6, 2)),
        torch_data.StackDataset(number=ten, again=ten),
        torch_data.datapipes.map.SequenceWrapper(range(6)).map(str),
    ]
    batches = []
    for data in datasets:
        loader = DataLoader(data, batch_size=4, **given)
        batches.append([shown(batch) for batch in loader])
    return {"batches": batches}
