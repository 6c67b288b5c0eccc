"""A state taken in the middle of an epoch leads to the rest of it, and to the epochs that would have followed."""

import io
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.tuning.live import live_iterator, tuning_of
from tests.parts.live_parts import Eager, Squares, Unsized, follow, patiently
from tests.tuning.live.test_samples import SAMPLING, loader_for, own_configs, timetables


def lists(batches):
    return [batch.tolist() for batch in batches]


def through_a_file(state):
    """What a checkpoint makes of it; only plain values and tensors come back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.slow
@settings(max_examples=30)
@given(
    sampling=st.sampled_from([name for name in SAMPLING if name != "no length"]),
    length=st.integers(1, 50),
    batch_size=st.integers(1, 4),
    own=own_configs,
    timetable=timetables,
    epoch=st.integers(0, 1),
    delivered=st.integers(0, 40),
)
def test_the_rest_of_the_epoch_and_the_epochs_behind_it(sampling, length, batch_size, own, timetable, epoch, delivered):
    torch.manual_seed(6)
    plain = loader_for(sampling, length, batch_size, own)
    uninterrupted = [lists(plain) for _ in range(3)]

    torch.manual_seed(6)
    live = loader_for(sampling, length, batch_size, own)
    follow(live, timetable)
    for _ in range(epoch):
        lists(live_iterator(live))
    iterator = live_iterator(live)
    begun = lists(itertools.islice(patiently(iterator), delivered))
    state, drawn = through_a_file(tuning_of(live).state_dict()), torch.get_rng_state()
    if len(begun) < delivered:
        # The loop came to the end, and so did its state.
        del iterator
        begun, later = [], uninterrupted[epoch + 1 :]
    else:
        later = uninterrupted[epoch:]

    torch.manual_seed(1)
    resumed = loader_for(sampling, length, batch_size, own)
    follow(resumed, timetable)
    tuning_of(resumed).load_state_dict(state)
    torch.set_rng_state(drawn)
    seen = [lists(patiently(live_iterator(resumed))) for _ in later]
    assert [begun + seen[0], *seen[1:]] == later if later else True


def test_to_take_a_state_changes_nothing():
    def delivered(looks):
        torch.manual_seed(2)
        loader = DataLoader(Squares(30), batch_size=2, sampler=Eager(30), num_workers=1)
        seen = []
        for batch in live_iterator(loader):
            seen.append((batch.tolist(), torch.rand(1).item()))
            if looks:
                tuning_of(loader).state_dict()
        return seen

    assert delivered(True) == delivered(False)


def test_a_state_of_a_state():
    """Interrupted again and again, until the epoch is over."""
    torch.manual_seed(2)
    expected = lists(DataLoader(Squares(30), batch_size=2, shuffle=True))
    torch.manual_seed(2)
    state, seen = None, []
    for _ in range(5):
        loader = DataLoader(Squares(30), batch_size=2, shuffle=True)
        if state is not None:
            tuning_of(loader).load_state_dict(state)
        iterator = live_iterator(loader)
        seen += lists(itertools.islice(iterator, 3))
        state = through_a_file(tuning_of(loader).state_dict())
    assert seen == expected


@pytest.mark.parametrize("own", [Config(), Config(2, 2)], ids=str)
def test_a_sampler_without_a_length_is_asked_again_and_what_came_is_left_out(own):
    def loader():
        return DataLoader(Squares(30), batch_size=2, sampler=Unsized(30), **own.loader_arguments())

    torch.manual_seed(2)
    expected = lists(loader())
    torch.manual_seed(2)
    first = loader()
    iterator = live_iterator(first)
    begun = lists(itertools.islice(iterator, 4))
    state = tuning_of(first).state_dict()
    torch.manual_seed(2)
    second = loader()
    tuning_of(second).load_state_dict(state)
    assert begun + lists(live_iterator(second)) == expected


def test_a_sampler_that_says_less_than_it_gives_does_not_hang_the_state():
    class Endless(Eager):
        def __iter__(self):
            return itertools.cycle(range(self.length))

    loader = DataLoader(Squares(6), batch_size=2, sampler=Endless(6))
    iterator = live_iterator(loader)
    lists(itertools.islice(iterator, 5))
    assert tuning_of(loader).state_dict()["delivered"] == 5


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(20))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_is_resumed_behind_what_came(workers):
    def loader():
        return DataLoader(Stream(), batch_size=3, num_workers=workers)

    expected = lists(loader())
    first = loader()
    iterator = live_iterator(first)
    begun = lists(itertools.islice(iterator, 3))
    second = loader()
    tuning_of(second).load_state_dict(tuning_of(first).state_dict())
    assert begun + lists(live_iterator(second)) == expected


def test_states_that_can_t_be_taken_or_read_are_refused():
    unordered = DataLoader(Squares(), num_workers=1, in_order=False)
    with pytest.raises(ValueError, match="in_order=False"):
        tuning_of(unordered).state_dict()
    with pytest.raises(ValueError, match="begin the epoch anew"):
        tuning_of(DataLoader(Squares())).load_state_dict({"epoch": 3})
