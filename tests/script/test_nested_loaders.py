"""A loader within a dataset is the dataset's own affair."""

from forked import run_forked

NESTED = """
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset
from plumb.script import interception

class Heard:
    def __init__(self):
        self.made, self.iterated, self.read = [], [], []
    def constructing(self, site, arguments):
        return {**arguments, "drop_last": True}
    def constructed(self, loader, site):
        self.made.append(loader)
    def iterating(self, loader, start, plain_loop):
        self.iterated.append(loader)
        return start()
    def read_by_dataset(self, loader):
        self.read.append(loader)

heard = Heard()
interception.install(heard)
rows = torch.arange(4)

class Queue(Dataset):
    "Fills itself from a loader of its own, when the first sample is asked for, as torchio's does."
    batches = None
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if self.batches is None:
            self.batches = iter(DataLoader(rows))
        return next(self.batches)

class Handed:
    "No torch Dataset; it is given its loader."
    def __init__(self, loader):
        self.loader = loader
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return next(iter(self.loader))

class Stream(IterableDataset):
    def __init__(self):
        self.first = [batch for batch in DataLoader(rows)]
    def __iter__(self):
        yield from DataLoader(rows)

given = DataLoader(rows)
for dataset in (Queue(), Handed(given), Stream()):
    loader = DataLoader(dataset, batch_size=2)
    for batch in loader:
        pass
    assert heard.made[-1] is heard.iterated[-1] is loader
# An infinite wrapper and a training object are no datasets.
class Forever:
    def __init__(self):
        self.loader = DataLoader(rows)
    def __iter__(self):
        while True:
            yield from self.loader
next(iter(Forever()))
assert len(heard.made) == 5 and heard.made[0] is given, heard.made
assert len(heard.iterated) == 4, heard.iterated
assert given in heard.read and given not in heard.iterated
assert all(loader.drop_last for loader in heard.made) and not any(loader.drop_last for loader in heard.read[:1])
"""


def test_loaders_that_datasets_make_or_read_are_left_alone():
    assert run_forked(NESTED) == ""
