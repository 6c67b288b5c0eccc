"""The user's loop on two configurations: what is known of them when the comparison ends, and that it ends."""

import itertools
import time
import weakref

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import Config
from plumb.core.errors import UsersError
from plumb.tuning.measure.loop_comparison import _begun, compare_in_loop
from plumb.tuning.measure.paired_comparison import Answer
from plumb.tuning.measure.training_loop import LoopMeter
from plumb.tuning.overtime import grace_seconds, late_seconds

WINDOW_SECONDS = 0.05


class Slow(Dataset):
    def __init__(self, seconds, broken_after=None):
        self.seconds, self.broken_after, self.made = seconds, broken_after, 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.made += 1
        if self.broken_after is not None and self.made > self.broken_after:
            raise OSError("no space left")
        time.sleep(self.seconds)
        return torch.zeros(2)


def compared(own_seconds, dataset, seconds=20.0, loop=None):
    """The comparison of a loader that takes `own_seconds` for a batch with one over `dataset`, and what it read."""

    def own():
        while True:
            time.sleep(own_seconds)
            yield torch.zeros(1, 2)

    loop = loop or LoopMeter(1.0, float("inf"))
    candidate = Config(), lambda: DataLoader(dataset, batch_size=1)
    course = compare_in_loop(loop, (Config(), own()), candidate, WINDOW_SECONDS, time.perf_counter() + seconds)
    return result_of(course)


def result_of(course):
    """What a course comes to in a loop that does nothing with its batches, and how many it was given."""
    batches = 0
    try:
        next(course)
        while True:
            batches += 1
            course.send(False)
    except StopIteration as done:
        return done.value, batches


def test_a_candidate_that_is_twice_as_fast_is_taken_long_before_the_time_is_over():
    found, _ = compared(0.02, Slow(0.008), seconds=60.0)
    assert found.is_taken
    assert found.ratio.answer is Answer.FASTER
    assert found.ratio.interval[0] <= found.ratio.ratio <= found.ratio.interval[1]
    assert len(found.own) == len(found.candidate) == found.ratio.pairs < 40


def test_a_candidate_that_is_slower_is_not():
    found, _ = compared(0.008, Slow(0.02), seconds=60.0)
    assert not found.is_taken
    assert found.ratio.answer is Answer.NOT_FASTER


def test_what_was_made_ahead_is_not_counted_where_the_time_ends_before_all_of_it_is_taken():
    """Eight batches that are there at once, and then one in 50 ms."""

    def batches():
        for number in itertools.count():
            time.sleep(0.0 if number < 8 else 0.05)
            yield torch.zeros(1, 2)

    loop = LoopMeter(1.0, float("inf"))
    reading, _ = result_of(loop.measure(batches(), 9, WINDOW_SECONDS, time.perf_counter() - 1.0, 1.0))
    assert reading.rate.samples_per_second <= 1 / 0.05


def test_without_time_what_does_not_look_faster_gets_one_pair_and_no_answer():
    found, _ = compared(0.02, Slow(0.03), seconds=-1.0)
    assert found.ratio.pairs == 1
    assert found.is_open
    assert not found.is_taken


def test_without_time_what_looks_faster_gets_the_pairs_that_can_tell():
    found, _ = compared(0.02, Slow(0.004), seconds=-1.0)
    assert found.ratio.pairs >= 2
    assert found.ratio.pairs <= 3 or found.ratio.answer is not Answer.UNDECIDED
    assert found.is_taken


def no_loader():
    raise AssertionError("a loader is made")


def slow_batches(seconds):
    while True:
        time.sleep(seconds)
        yield torch.zeros(1, 2)


def test_a_pair_that_would_end_too_late_is_not_begun():
    loop, now = LoopMeter(1.0, float("inf")), time.perf_counter()
    sides = (Config(), slow_batches(1.0)), (Config(), no_loader)
    found, batches = result_of(compare_in_loop(loop, *sides, WINDOW_SECONDS, now + 60, now + 2, batch_seconds=1.0))
    assert found.is_open
    assert not found.is_taken
    assert batches == 0


def test_no_further_pair_is_begun_that_would_end_too_late_by_those_before():
    loop, latest = LoopMeter(1.0, float("inf")), time.perf_counter() + 2.5
    candidate = Config(), lambda: DataLoader(Slow(0.3), batch_size=1)
    course = compare_in_loop(loop, (Config(), slow_batches(0.3)), candidate, WINDOW_SECONDS, latest + 60, latest)
    found, _ = result_of(course)
    assert found.ratio.pairs in (1, 2)
    assert found.is_open


@pytest.mark.parametrize("budget_seconds", [1.0, 20.0, 60.0, 600.0, 36_000.0])
def test_a_comparison_that_ends_late_ends_before_the_tuning_is_ended(budget_seconds):
    assert grace_seconds(budget_seconds) >= late_seconds(budget_seconds) + 8
    assert grace_seconds(budget_seconds) >= 20


@pytest.mark.parametrize("broken_after", [0, 5])
def test_a_candidate_that_fails_is_named_and_the_loop_goes_on(broken_after):
    found, _ = compared(0.01, Slow(0.005, broken_after))
    assert not found.is_taken
    assert "no space left" in found.failure


class Broken:
    """Batches of the user's own, of which the first comes, and all others raise."""

    made = 0

    def __next__(self):
        self.made += 1
        if self.made > 1:
            raise UsersError(OSError("the user's disk"))
        return torch.zeros(1, 2)


def test_the_users_own_failure_is_the_users():
    candidate = Config(), lambda: DataLoader(Slow(0.001), batch_size=1)
    loop = LoopMeter(1.0, float("inf"))
    course = compare_in_loop(loop, (Config(), Broken()), candidate, 0.05, time.perf_counter() + 5)
    given = [next(course)]
    with pytest.raises(UsersError, match="the user's disk"):
        given += [course.send(False) for _ in range(1000)]
    assert loop.skips == (OSError,)


def test_errors_that_the_loop_goes_on_after_leave_a_candidate_in_the_race():
    class Damaged(Slow):
        def __getitem__(self, index):
            if index % 3 == 0:
                raise OSError("a damaged row")
            return super().__getitem__(index)

    for skips, failure in (((), "OSError: a damaged row"), ((OSError,), "")):
        loop = LoopMeter(1.0, 60, skips)
        found, _ = compared(0.01, Damaged(0.001), loop=loop)
        assert found.failure == failure
        assert bool(found.candidate) != bool(failure)


def test_a_loop_that_counts_its_batches_is_left_before_its_epoch_ends():
    loop = LoopMeter(1.0, 8)
    found, batches = compared(0.01, Slow(0.01), loop=loop)
    assert batches <= 8
    assert loop.batches_given <= 8
    assert not found.is_taken or found.ratio.pairs >= 2


def test_the_candidate_s_first_batch_is_held_by_the_loop_alone():
    """Shared memory is counted to the last batch."""
    batches = _begun(DataLoader(Slow(0.0), batch_size=1), ())
    first = next(batches)
    held = weakref.ref(first)
    del first
    assert held() is None
    assert next(batches).shape == (1, 2)


def test_a_loop_that_has_no_batches_left_tells_nothing():
    loop = LoopMeter(1.0, 1)
    found, batches = compared(0.001, Slow(0.001), loop=loop)
    assert batches <= 2
    assert found.is_open
    assert not found.is_taken


def test_a_candidate_that_cannot_be_made_is_named():
    def cannot():
        raise OSError(24, "Too many open files")

    def own():
        while True:
            yield torch.zeros(1, 2)

    course = compare_in_loop(LoopMeter(1.0, float("inf")), (Config(), own()), (Config(), cannot), 0.05, 0.0)
    found, batches = result_of(course)
    assert "Too many open files" in found.failure
    assert not found.is_taken
    assert batches == 0
