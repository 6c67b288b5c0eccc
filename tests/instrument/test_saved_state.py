"""Loaders of a lineage of their own that save their place: seen like any other, and their state is as without plumb."""

import pytest
import torch
from forked import run_forked
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Prediction
from plumb.instrument.saved_state import is_stateful
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.loader import current_config
from plumb.runtime.planned_loader import PlannedLoader
from plumb.tuning.search.search_space import worker_start


class Rows(Dataset):
    def __init__(self):
        self.read = 0

    def __len__(self):
        return 16

    def __getitem__(self, index):
        self.read += 1
        return torch.tensor(index)


class Stateful(Rows):
    def state_dict(self):
        return {"read": self.read}

    def load_state_dict(self, state):
        self.read = state["read"]


def planned_for(loader, **tuned):
    own = Measured(current_config(loader), 1.0, (1.0, 1.0))
    better = Measured(Config(**{"fetch_threads": 4, **tuned}), 2.0, (2.0, 2.0))
    plan = LoaderResult("loader", "train.py:1", "Rows", 4, own, better, Prediction(1.0, "cpu", {}))
    return PlannedLoader(loader, plan, own.config)


def trained(loader, start):
    """What a training sees of two epochs, of its random numbers, and of a place in the third that was saved."""
    seen = []
    for _ in range(2):
        seen += [*(batch.tolist() for batch in start(loader)), torch.rand(1).item()]
    batches = start(loader)
    seen.append(next(batches).tolist())
    return seen, loader.state_dict(), [batch.tolist() for batch in batches]


@pytest.mark.parametrize("dataset", [Rows, Stateful])
@pytest.mark.parametrize("tuned", [{}, {"num_workers": 2, "prefetch_factor": 2, "persistent_workers": True}])
def test_a_training_and_its_saved_place_are_as_without_a_plan(dataset, tuned):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    results = []
    for is_planned in (False, True):
        torch.manual_seed(0)
        loader = stateful.StatefulDataLoader(dataset(), batch_size=4, shuffle=True)
        planned = planned_for(loader, **tuned)
        start = lambda loader, planned=planned: planned.start(loader, lambda: iter(loader), print)  # noqa: E731
        results.append(trained(loader, start if is_planned else iter))
    (seen, state, rest), (seen_planned, state_planned, rest_planned) = results
    assert seen_planned == seen
    assert rest_planned == rest
    assert repr(state_planned) == repr(state)
    # What was saved on the plan is gone on with by the script alone.
    resumed = stateful.StatefulDataLoader(dataset(), batch_size=4, shuffle=True)
    resumed.load_state_dict(state_planned)
    assert [batch.tolist() for batch in resumed] == rest


def test_the_number_of_workers_of_such_a_loader_is_left_alone():
    class Saving(DataLoader):
        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    saving, plain = Saving(Rows(), num_workers=1), DataLoader(Rows())
    assert is_stateful(saving)
    assert not is_stateful(plain)
    assert worker_start(saving, current_config(saving), ()).keeps_count
    assert not worker_start(plain, current_config(plain), ()).keeps_count


def test_a_dataset_read_by_threads_has_its_state_and_no_other_methods():
    fetching = FetchingDataset(Stateful(), Fetch(threads=2))
    fetching.load_state_dict({"read": 5})
    assert fetching.state_dict() == {"read": 5}
    assert not hasattr(FetchingDataset(Rows(), Fetch(threads=2)), "state_dict")
    with pytest.raises(AttributeError, match="anything"):
        fetching.anything


OWN_LINEAGE = """
import torch
from torch.utils.data import DataLoader
from plumb.script import interception

class Early(DataLoader):
    def __init__(self, dataset, size):
        self.__dict__.update(dict.fromkeys(
            ["sampler", "batch_sampler", "collate_fn", "num_workers", "worker_init_fn", "generator"]))
        self.__dict__.update(dataset=dataset, batch_size=size)
    def __iter__(self):
        yield from self.dataset

class Ordinary(DataLoader):
    def __init__(self, *args):
        super().__init__(*args)
    def __iter__(self):
        for batch in super().__iter__():
            yield batch

class Forever(DataLoader):
    def __init__(self, *args):
        DataLoader.__init__(self, *args)
        self.batches = DataLoader.__iter__(self)
    def __iter__(self):
        while True:
            yield next(self.batches)

class Heard:
    said = []
    def constructing(self, site, arguments):
        return arguments
    def constructed(self, loader, site):
        self.said.append(("made", type(loader).__name__))
    def iterating(self, loader, start, plain_loop):
        self.said.append(("iterated", type(loader).__name__))
        return start()

interception.install(Heard())

class Late(Early):
    def __init__(self, dataset):
        super().__init__(dataset, 1)

class Derived(Late):
    pass

class NameOnly(DataLoader):
    def __init__(self, rows):
        self.rows = rows
    def __iter__(self):
        return iter(self.rows)

assert [row for row in NameOnly([3])] == [3]
first = Early([1, 2], 1)
second = Derived([1, 2])
assert ([x for x in first], [x for x in second]) == ([1, 2], [1, 2])
third = Ordinary([1, 2], 1)
assert len(list(third)) == 2
fourth = Forever([1, 2], 1)
next(iter(fourth))
assert Heard.said == [
    ("made", "Early"),
    ("made", "Derived"),
    ("iterated", "Early"),
    ("iterated", "Derived"),
    ("made", "Ordinary"),
    ("iterated", "Ordinary"),
    ("made", "Forever"),
    ("iterated", "Forever"),
], Heard.said
"""


def test_a_loader_that_never_calls_torch_s_is_heard_of_once_and_others_as_before():
    assert run_forked(OWN_LINEAGE) == ""
