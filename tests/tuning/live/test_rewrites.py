"""What a scout finds beside the training may be rewritten; the loop gets the same batches, from a store in the end."""

import multiprocessing
import os
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import CacheChoice, Config
from plumb.rewrites.find_rewrites import AvailableRewrites, find_rewrites
from plumb.tuning.live import live_iterator, tuning_of
from plumb.tuning.live.background_search import BackgroundSearch
from plumb.tuning.measure.sample_cost import measure_samples
from plumb.tuning.measure.throughput import IndexStream
from tests.parts.live_parts import follow, patiently
from tests.parts.observers import observed_worker

LENGTH, BATCH = 320, 8
MAIN = os.getpid()


class Sorted(Dataset):
    """Samples that take milliseconds to make, and are the same each time."""

    def __init__(self, length=LENGTH, values=60_000):
        self.length, self.values = length, values

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        x = np.random.default_rng(index).random(self.values)
        x = np.sort(x)
        x = np.clip(x[:256], 0.0, 0.5)
        return torch.from_numpy(x).float() * 2, index


class OnlyWhereItTrains(Sorted):
    """Ends any process that is neither the training's own nor a worker of its loader."""

    def __getitem__(self, index):
        if os.getpid() != MAIN and observed_worker() is None:
            os._exit(1)
        return super().__getitem__(index)


class Counting(Sorted):
    count = 0

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


def trained(loader, until, seconds=60.0):
    """Trains until that is so, for an epoch more, and looks at each batch; whether there ever was a scout."""
    expected = [batch[0].tolist() for batch in DataLoader(Sorted(), batch_size=BATCH)]
    tuning, had_scout, is_last = tuning_of(loader), False, False
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = []
        for values, indices in live_iterator(loader):
            assert indices.tolist() == list(range(len(seen) * BATCH, (len(seen) + 1) * BATCH))
            seen.append(values)
            if len(seen) % 20 == 0:
                had_scout |= any(child.name == "plumb-scout" for child in multiprocessing.active_children())
        assert [values.tolist() for values in seen] == expected
        if is_last:
            return had_scout
        is_last = until(tuning)
    raise AssertionError(f"it never came to that: {tuning.trials}")


@pytest.mark.quiet
@pytest.mark.slow
def test_a_loop_comes_to_read_what_it_has_read_before_from_a_store():
    loader = DataLoader(Sorted(), batch_size=BATCH)
    tuning = tuning_of(loader)
    assert trained(loader, lambda tuning: tuning.is_settled and len(tuning.trials) > 1)
    own = tuning.trials[0]
    stored = [trial for trial in tuning.trials if trial.config.cache]
    assert stored, tuning.trials
    assert tuning.config.cache == stored[-1].config.cache
    assert tuning.config.persistent_workers, "a store goes with its last user"
    assert stored[-1].samples_per_second > own.samples_per_second


@pytest.mark.slow
def test_a_scout_that_dies_costs_the_training_nothing():
    loader = DataLoader(OnlyWhereItTrains(), batch_size=BATCH)
    tuning = tuning_of(loader)
    trained(loader, lambda tuning: tuning.is_settled)
    assert not tuning.config.cache
    assert any(trial.config.num_workers for trial in tuning.trials)


@pytest.mark.slow
def test_no_scout_is_sent_where_reading_changes_the_dataset():
    loader = DataLoader(Counting(), batch_size=BATCH)
    assert not trained(loader, lambda tuning: tuning.is_settled)


def test_a_scout_ends_when_nobody_wants_to_hear_from_it():
    background_search = BackgroundSearch(
        DataLoader(Sorted(values=2_000_000), batch_size=BATCH), [[0, 1, 2, 3]] * 3, True
    )
    process = background_search._process
    assert background_search.available() is None
    background_search.end()
    assert not process.is_alive()
    assert background_search.available() == AvailableRewrites()


@pytest.mark.slow
def test_a_process_that_may_have_no_children_trains_without_a_scout():
    def train():
        # OpenMP's threads stay behind in a fork.
        torch.set_num_threads(1)
        assert not trained(DataLoader(Sorted(), batch_size=BATCH), lambda tuning: tuning.is_settled)

    process = multiprocessing.get_context("fork").Process(target=train, daemon=True)
    process.start()
    process.join(90)
    assert process.exitcode == 0


@pytest.mark.slow
def test_a_scout_leaves_no_trace_of_what_a_dataset_prints_or_draws(capfd):
    class Talking(Sorted):
        def __getitem__(self, index):
            print("a sample")
            return super().__getitem__(index)

    state = torch.get_rng_state()
    background_search = BackgroundSearch(
        DataLoader(Talking(values=2000), batch_size=BATCH), [list(range(48)), list(range(48, 96))], False
    )
    until = time.monotonic() + 60
    while (available := background_search.available()) is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert isinstance(available, AvailableRewrites)
    assert available.rewrites.cuts or available.rewrites.reasons
    assert torch.equal(torch.get_rng_state(), state)
    assert capfd.readouterr().out == ""


SHORT = Sorted(24, 20_000)


@pytest.fixture(scope="module")
def rewrites():
    loader = DataLoader(SHORT, batch_size=2)
    stream = IndexStream(loader.batch_sampler)
    found = find_rewrites(loader, measure_samples(loader, stream, 0.1).cost, list(range(24)), 20.0).rewrites
    assert found.cuts
    return found


@pytest.mark.slow
@settings(max_examples=15)
@given(data=st.data(), stops=st.lists(st.none() | st.integers(1, 12), min_size=1, max_size=4))
def test_batches_are_torch_s_whatever_is_rewritten_when(data, stops, rewrites):
    caches = st.none() | st.builds(
        CacheChoice,
        after=st.sampled_from([cut.after for cut in rewrites.cuts]),
        tier=st.just("memory"),
        bytes=st.sampled_from([2**16, 2**24]),
        hit_ratio=st.just(1.0),
    )
    steps = tuple(step.operator for step in rewrites.deferral.steps) if rewrites.deferral else ()
    configs = st.builds(
        lambda workers, cache, deferred, lasting: Config(
            workers, 2, lasting or cache is not None, cache=cache, deferred=deferred
        ),
        st.integers(1, 2), caches, st.sampled_from([(), steps]), st.booleans(),
    )  # fmt: skip
    loader = DataLoader(SHORT, batch_size=2, shuffle=True)

    def delivered(start):
        torch.manual_seed(7)
        seen = []
        for stop in stops:
            for count, (values, indices) in enumerate(start(), 1):
                seen.append((values.tolist(), indices.tolist()))
                if count == stop:
                    break
        return seen

    expected = delivered(lambda: iter(loader))
    live = DataLoader(SHORT, batch_size=2, shuffle=True)
    controller = follow(live, data.draw(st.lists(st.tuples(st.integers(0, 40), configs), max_size=3)))
    controller.rewrites = rewrites
    assert delivered(lambda: patiently(live_iterator(live))) == expected
    assert not controller.failures
