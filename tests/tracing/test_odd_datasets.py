"""Datasets, steps and loaders that answer as no other object does: equal to all, without truth or length."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import plumb
from plumb.instrument.dataset_facts import facts_of


class NoTruth:
    def __bool__(self):
        raise RuntimeError("no truth value")

    def __len__(self):
        raise RuntimeError("no length")

    def __eq__(self, other):
        raise RuntimeError("no equality")

    __hash__ = None


class Answers:
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: name


class Equal:
    def __eq__(self, other):
        return True

    __hash__ = None


class Elementwise:
    def __eq__(self, other):
        return np.array([True, False])

    __hash__ = None


class Doubling(NoTruth):
    def __call__(self, x):
        return x * 2


class Refusing:
    """Nothing of it may be asked for but what its samples do."""

    def __init__(self):
        object.__setattr__(self, "step", Doubling())

    def __getattribute__(self, name):
        if name.startswith("__") or name == "step":
            return object.__getattribute__(self, name)
        raise RuntimeError(name)


class Loader(DataLoader):
    def __eq__(self, other):
        return isinstance(other, Loader)

    __hash__ = None

    def __bool__(self):
        raise RuntimeError("no truth value")


@pytest.mark.parametrize("odd", [NoTruth, Answers, Equal, Elementwise, Refusing])
def test_what_is_odd_about_a_dataset_is_never_asked_for(odd):
    class Odd(odd, Dataset):
        def __init__(self):
            super().__init__()
            self.step, self.other = Doubling(), Elementwise()

        def __getitem__(self, index):
            if index >= 16:
                raise IndexError(index)
            return self.step(torch.full((4,), float(index)))

    loader = Loader(Odd(), batch_size=8, sampler=range(16))
    assert plumb.trace(loader).operators
    facts = facts_of({"dataset": loader.dataset})
    assert f"{__name__}.Doubling.__call__" in facts.code
    assert facts == facts_of({"dataset": loader.dataset})
