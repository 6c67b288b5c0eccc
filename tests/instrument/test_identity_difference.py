"""What counts as another loader than the planned one, and what each run has anew."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from plumb.instrument.identity_difference import difference_of_facts
from plumb.instrument.identity_of_loader import facts_of_loader

NAMES = ["idx", "label", "labels"]


class Rows(Dataset):
    def __init__(self, classes=("cat", "dog")):
        self.classes = classes

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.tensor(self.classes.index("dog") + index)


class Keeping:
    """Collates by names that it has in a list, as frameworks make it from a set."""

    def __init__(self, names):
        self.names = names

    def __call__(self, samples):
        return {name: default_collate(samples) for name in self.names}


def difference(first, second):
    then, now = (
        facts_of_loader(DataLoader(rows, batch_size=4, collate_fn=collate)) for rows, collate in (first, second)
    )
    return difference_of_facts(then, now)


@pytest.mark.parametrize("names", [list(each) for each in itertools.permutations(NAMES)])
def test_the_order_of_the_texts_that_collate_has_is_that_of_each_run(names):
    assert difference((Rows(), Keeping(NAMES)), (Rows(), Keeping(names))) == ""


@pytest.mark.parametrize("names", [["idx", "label", "other"], ["idx", "label"], ["idx", "label", "label"]])
def test_other_texts_are_another_collate_function(names):
    assert "names" in difference((Rows(), Keeping(NAMES)), (Rows(), Keeping(names)))


def test_the_order_of_what_samples_read_counts():
    collate = Keeping(NAMES)
    assert "classes" in difference((Rows(["cat", "dog"]), collate), (Rows(["dog", "cat"]), collate))
