"""What draws random numbers is not stored, and not made in threads, however seldom it happens."""

import random
import sys
import time
import types

import numpy as np
import pytest
import torch
from cutting import found
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import CacheChoice, CallStep, Config, Cut, Rewrites
from plumb.instrument.dataset_generators import DrawWatch, Generators
from plumb.instrument.rng_state import generator_states
from plumb.runtime import fetch
from plumb.runtime.fetch import Fetch, FetchingDataset
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.replay.sample_code import code_of_samples, code_on
from plumb.runtime.store.store import Store, key_of

LENGTH, RARE = 64, (5, 37, 50)
MODULE = types.ModuleType("a_library_with_a_generator")
MODULE.shared = np.random.default_rng(3)
AUGMENTS = False


def decoded(index):
    return torch.from_numpy(np.random.default_rng(index).random(32))


def noise_of(kind, dataset):
    closed = torch.Generator().manual_seed(4)
    draws = {
        "torch": lambda: torch.randn(32),
        "numpy": lambda: torch.from_numpy(np.random.random(32)),
        "random": lambda: torch.full((32,), random.random()),
        "held": lambda: torch.from_numpy(dataset.rng.random(32)),
        "closed over": lambda: torch.randn(32, generator=closed),
        "of a module": lambda: torch.from_numpy(MODULE.shared.random(32)),
    }
    return draws[kind]


class Rare(Dataset):
    """Only a rare class is augmented; `behind` adds what every sample draws, after the part that may be stored."""

    def __init__(self, kind="torch", rare=RARE, behind=False):
        self.rng = np.random.default_rng(1)
        self.rare, self.behind, self.noise = set(rare), behind, noise_of(kind, self)
        self.python = random.Random(7)

    def __len__(self):
        return LENGTH

    def load(self, index):
        values = decoded(index)
        if index in self.rare:
            values = values + self.noise()
        return values

    def __getitem__(self, index):
        values = self.load(index)
        if self.behind:
            values = values * self.python.random() + torch.rand(())
        return values, index


class Flagged(Dataset):
    """A flag of the script switches augmentation on."""

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        values = decoded(index)
        return values + torch.randn(32) if AUGMENTS else values


WHOLE = Cut("samples", ())


def load_cut():
    way = (CallStep("plumb:sample#0", "Rare"), CallStep(f"{__name__}:Rare.__getitem__#0", "load"))
    return Cut("load", way, (), code_on((way,), Rare(), 0))


def batches(read, epochs=3, seed=0):
    """The samples of some epochs in changing order, and the states of all generators behind them."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    MODULE.shared.bit_generator.state = np.random.default_rng(3).bit_generator.state
    seen = []
    for epoch in range(epochs):
        order = list(np.random.default_rng(epoch).permutation(LENGTH))
        for start in range(0, LENGTH, 8):
            seen += read([int(index) for index in order[start : start + 8]])
    return [(index, values.tolist()) for values, index in seen], generator_states([MODULE.shared])


@pytest.fixture(autouse=True)
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, MODULE.__name__, MODULE)


@pytest.mark.parametrize("kind", ["torch", "numpy", "random", "held", "closed over", "of a module"])
@pytest.mark.parametrize("cut", [WHOLE, load_cut()], ids=["whole", "load"])
def test_a_rare_class_that_is_augmented_is_never_stored(kind, cut, spec, capfd):
    dataset = Rare(kind, behind=cut is not WHOLE)
    reader = FetchingDataset(dataset, Fetch(cut=cut, spec=spec))
    plain = Rare(kind, behind=cut is not WHOLE)
    expected = batches(lambda indices: [plain[index] for index in indices])
    assert batches(reader.__getitems__) == expected
    assert dataset.rng.bit_generator.state == plain.rng.bit_generator.state
    stored = Store(spec)
    values = [stored.get(key_of(index)) for index in range(LENGTH)]
    missing = [index for index, value in enumerate(values) if isinstance(value, type(fetch.MISSING))]
    assert missing == sorted(RARE), "and all others are stored"
    assert capfd.readouterr().err == ""


def test_a_generator_that_a_sample_makes_is_found_before_anything_is_stored(spec):
    class Lazy(Rare):
        own = None

        def load(self, index):
            if self.own is None:
                self.own = np.random.default_rng(9)
            return decoded(index) + torch.from_numpy(self.own.random(32))

    plain = Lazy()
    expected = batches(lambda indices: [plain[index] for index in indices])
    assert batches(FetchingDataset(Lazy(), Fetch(cut=WHOLE, spec=spec)).__getitems__) == expected
    assert Store(spec).count == 0


def test_several_samples_that_draw_end_the_store_in_all_processes(spec, capfd):
    often = range(0, LENGTH, 2)
    plain = Rare(rare=often)
    expected = batches(lambda indices: [plain[index] for index in indices])
    assert batches(FetchingDataset(Rare(rare=often), Fetch(cut=WHOLE, spec=spec)).__getitems__) == expected
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "drew random numbers before the end of samples" in lines[0]
    other = Store(spec)
    assert other.get(key_of(1)) is fetch.MISSING
    assert other.is_off
    assert "was ended" in other.reason
    # A process that comes to it later reads plainly, too, and says no more.
    assert batches(FetchingDataset(Rare(rare=often), Fetch(cut=WHOLE, spec=spec)).__getitems__) == expected
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["torch", "held", "of a module"])
@pytest.mark.parametrize("cut", [None, load_cut()], ids=["whole samples", "up to a cut"])
def test_threads_end_where_random_numbers_are_drawn_in_them(kind, cut, spec, capfd):
    dataset, plain = Rare(kind, behind=cut is not None), Rare(kind, behind=cut is not None)
    expected = batches(lambda indices: [plain[index] for index in indices])
    reader = FetchingDataset(dataset, Fetch(threads=4, cut=cut, spec=spec if cut else None))
    assert batches(reader.__getitems__) == expected
    assert dataset.rng.bit_generator.state == plain.rng.bit_generator.state
    assert dataset.python.getstate() == plain.python.getstate()
    assert "random numbers are drawn in threads" in capfd.readouterr().err


def test_threads_without_a_store_are_looked_at_later_too(monkeypatch, capfd):
    """The class appears when the first batches are over, and draws while a sample is waited for."""
    monkeypatch.setattr(fetch, "_LOOKED_AT_FIRST", 0)
    slowly = Rare.load

    def load(self, index):
        time.sleep(0.002)
        return slowly(self, index)

    monkeypatch.setattr(Rare, "load", load)
    reader = FetchingDataset(Rare(), Fetch(threads=2, cut=load_cut()))
    plain = Rare()
    expected = batches(lambda indices: [plain[index] for index in indices])
    assert batches(reader.__getitems__) == expected
    assert "random numbers are drawn in threads" in capfd.readouterr().err


def test_threads_that_draw_nothing_go_on_beside_a_rest_that_draws(spec, capfd):
    for store in (None, spec):
        plain, dataset = Rare(rare=(), behind=True), Rare(rare=(), behind=True)
        expected = batches(lambda indices, plain=plain: [plain[index] for index in indices])
        assert batches(FetchingDataset(dataset, Fetch(threads=4, cut=load_cut(), spec=store)).__getitems__) == expected
    assert Store(spec).count == LENGTH
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_store_of_whole_samples_is_checked_by_the_code_and_the_flags_of_today(workers, monkeypatch, capfd):
    cut = found(Flagged())[0]["samples"].cut if "samples" in found(Flagged())[0] else None
    whole = next((item.cut for item in found(Flagged())[0].values() if item.cut.way == ()), cut)
    assert whole is not None
    assert whole.code == code_of_samples(Flagged()) != ""
    config = Config(workers, 2 if workers else None, cache=CacheChoice(whole.after, "memory", 2**22, 1.0))

    def epochs():
        loader = DataLoader(Flagged(), batch_size=8, num_workers=workers)
        running = IteratorSetup(config, Rewrites((whole,)), is_planned=True)
        torch.manual_seed(0)
        return [[batch[3].tolist() for batch in running.start(loader, loader.__iter__)] for _ in range(3)]

    first, second, third = epochs()
    assert first == second == third
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.modules[__name__], "AUGMENTS", True)
    first, second, third = epochs()
    assert first != second != third != first
    assert "has changed since the plan was made" in capfd.readouterr().err


def test_the_code_of_samples_covers_helpers_defaults_and_flags(monkeypatch):
    def made(scale, flag=False, helper=decoded):
        class Made(Dataset):
            def __getitem__(self, index, flag=flag):
                return helper(index) * scale + flag

        return Made()

    def other(index):
        return index + 1

    codes = [code_of_samples(each) for each in (made(1), made(2), made(1, True), made(1, helper=other))]
    assert len(set(codes)) == 4
    assert code_of_samples(made(1)) == codes[0]
    before = code_of_samples(Flagged())
    monkeypatch.setattr(sys.modules[__name__], "AUGMENTS", True)
    assert code_of_samples(Flagged()) != before


def test_a_watch_sees_each_draw_once():
    held, torchs = Rare(), torch.Generator()
    held.more = torchs
    watch = DrawWatch(Generators(held))
    draws = [
        *[random.random, lambda: random.gauss(0, 1), np.random.random, lambda: np.random.seed(1)],
        # The second normal number was drawn along with the first.
        *[np.random.randn, np.random.randn, lambda: random.gauss(0, 1), lambda: torch.rand(1)],
        *[held.rng.random, held.python.random, lambda: torch.rand(1, generator=torchs), MODULE.shared.random],
    ]
    assert not watch.has_moved()
    for draw in draws * 2:
        draw()
        assert (watch.has_moved(), watch.has_moved()) == (True, False)
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        assert watch.has_moved()
        np.random.random()
        assert (watch.has_moved(), watch.has_moved()) == (True, False)
    finally:
        np.random.set_bit_generator(before)
