"""Steady-state measurement: what is counted, and what is not."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from plumb.core.config import Config
from plumb.model.resource_bounds import amortized
from plumb.tuning.measure import throughput
from plumb.tuning.measure.throughput import (
    Chunk,
    IndexStream,
    MeasuredLoader,
    NoBatchesError,
    SizedIndices,
    interleaved,
    is_known,
    rate_of,
)

chunks = st.builds(Chunk, st.floats(1, 1e6), st.floats(0.01, 10))


@given(st.lists(chunks, min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_lies_among_the_readings(its_chunks):
    rate = rate_of(its_chunks)
    low, high = rate.interval
    rates = [chunk.samples_per_second for chunk in its_chunks]
    assert low <= rate.samples_per_second * (1 + 1e-9)
    assert high >= rate.samples_per_second * (1 - 1e-9)
    if len(its_chunks) >= 4:
        assert min(rates) <= low * (1 + 1e-9)
        assert high <= max(rates) * (1 + 1e-9)


@given(st.lists(chunks, min_size=1, max_size=3))
def test_few_readings_have_a_wide_interval(its_chunks):
    low, high = rate_of(its_chunks).interval
    assert high / low > 1.2


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="no chunk"):
        rate_of([])


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(0, 100))
def test_an_epoch_with_a_start_takes_longer(rate, samples, start):
    spread = amortized(rate, samples, start)
    assert samples / spread == pytest.approx(samples / rate + start)
    assert amortized(rate, None, start) == rate


@given(st.integers(1, 7), st.integers(1, 40))
def test_the_stream_gives_every_epoch_of_the_sampler_in_turn(length, taken):
    stream = IndexStream(range(length))
    assert [next(stream) for _ in range(taken)] == list(itertools.islice(itertools.cycle(range(length)), taken))


def test_a_sampler_without_batches_is_an_error():
    with pytest.raises(NoBatchesError):
        next(IndexStream([]))
    once = IndexStream(iter([1, 2]))
    assert [next(once), next(once)] == [1, 2]
    with pytest.raises(NoBatchesError):
        next(once)


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=5), min_size=1, max_size=5))
def test_sizes_come_in_the_order_of_the_batches(batches):
    indices = SizedIndices(IndexStream(batches))
    asked = list(itertools.islice(iter(indices), 3 * len(batches)))
    assert [indices.next_size() for _ in asked] == [len(batch) for batch in asked]


@pytest.mark.parametrize(
    ("single", "samples"), [(7, 64), ("clip.mp4", 64), ((3, 5), 64), ([1, 2, 3], 3), (torch.arange(5), 5)]
)
def test_a_single_index_stands_for_a_batch_that_the_dataset_makes(single, samples):
    indices = SizedIndices(IndexStream([single], is_batches=False), 64)
    next(iter(indices))
    assert indices.next_size() == samples


class _Clock:
    """Time that passes only where a batch takes it."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def thread_time(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(throughput, "time", clock)
    return clock


def _loader(clock, in_flight, seconds, burst=0.001):
    """Batches of which the first `in_flight` are ready at once, as after a start or a rest."""

    def batches(indices):
        for number, index in enumerate(indices):
            clock.now += burst if number < in_flight else seconds
            yield index

    return batches


def test_prefetched_batches_are_not_counted(clock):
    config = Config(num_workers=2, prefetch_factor=4)
    stream = IndexStream([[0] * 10])
    feed = MeasuredLoader(config, _loader(clock, config.batches_in_flight, 0.5), stream, 10, float("inf"))
    chunks = feed.window(5.0)
    assert rate_of(chunks).samples_per_second == pytest.approx(10 / 0.5)
    assert all(chunk.samples % 20 == 0 for chunk in chunks), "only whole rounds of one batch per worker"


def test_a_mean_is_known_once_its_error_is_small_and_not_from_a_handful():
    assert not is_known([1.0] * 3)
    assert is_known([1.0] * 4)
    erratic = [1.0] * 9 + [11.0]
    assert not is_known(erratic)
    assert not is_known(erratic * 100)
    assert is_known(erratic * 300)


def test_a_window_ends_at_its_time_when_hopeless_and_at_the_deadline(clock):
    stream = IndexStream([[0]])
    feed = MeasuredLoader(Config(), _loader(clock, 0, 0.25), stream, 1, deadline=100.0)
    assert sum(chunk.seconds for chunk in feed.window(2.0)) == pytest.approx(2.0)
    assert len(feed.window(2.0, hopeless=lambda chunks: len(chunks) == 3)) == 3
    clock.now = 99.9
    assert len(feed.window(2.0)) == 1


def test_turns_are_taken_until_the_feeds_are_told_apart(clock):
    order = []

    class Tracing(MeasuredLoader):
        def window(self, seconds, hopeless=None):
            order.append(self.config.num_workers)
            return super().window(seconds, hopeless)

        def settle(self):
            order.append("settles")

    stream = IndexStream([[0]])
    feeds = [
        Tracing(Config(workers, 2 if workers else None), _loader(clock, 0, 0.25), stream, 1, 1e9) for workers in (0, 1)
    ]
    taken = interleaved(feeds, 1.0, settled=lambda chunks, turns: turns >= 3)
    assert order[:2] == ["settles"] * 2, "what the start of one prefetches is no part of the other's first turn"
    assert order[2:] == [0, "settles", 1, "settles"] * 3
    assert [[chunk.seconds for chunk in its] for its in taken] == [[1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("waits", [False, True])
def test_workers_that_wait_for_their_samples_are_not_taken_for_idle(clock, monkeypatch, waits):
    monkeypatch.setattr(throughput, "cpu_seconds", lambda pids: 0.0)
    feed = MeasuredLoader(Config(1, 8), _loader(clock, 0, 0.5), IndexStream([[0]]), 1, 1e9, waits=waits)
    feed.window(5.0)
    begun = clock.now
    feed.settle()
    assert clock.now - begun == pytest.approx(8 * 0.5 if waits else 0.1, abs=0.11)
    settled = clock.now
    feed.settle()
    assert clock.now == settled, "they have finished already"


def test_real_workers_deliver_every_index_once_in_order():
    from torch.utils.data import DataLoader

    seen = []

    def make(indices):
        return DataLoader(range(1000), batch_sampler=indices, num_workers=2, prefetch_factor=2, collate_fn=list)

    class Listening(MeasuredLoader):
        def _take(self):
            seen.append(next(self._batches))
            return self._indices.next_size()

    stream = IndexStream([[n, n + 1] for n in range(0, 1000, 2)])
    feed = Listening(Config(2, 2), make, stream, 2, float("inf"))
    assert len(feed.worker_pids) == 2
    feed.window(0.0)
    feed.close()
    flat = [index for batch in seen for index in batch]
    assert flat == [index % 1000 for index in range(len(flat))]


class _Damaged:
    """Batches of which every third raises, as torch's iterators do and go on."""

    def __init__(self, clock, indices):
        self._clock, self._indices, self._made = clock, iter(indices), 0

    def __iter__(self):
        return self

    def __next__(self):
        self._made += 1
        next(self._indices)
        self._clock.now += 0.25
        if self._made % 3 == 0:
            raise KeyError(self._made)


@pytest.mark.parametrize("skips", [(), (ValueError,), (KeyError,), (ValueError, LookupError)])
def test_batches_that_fail_are_left_out_where_the_loop_leaves_them_out(skips, clock):
    make = lambda indices: _Damaged(clock, indices)  # noqa: E731
    feed = MeasuredLoader(Config(), make, IndexStream([[0, 1]]), 2, float("inf"), skips=skips)
    if not {KeyError, LookupError} & set(skips):
        with pytest.raises(KeyError):
            feed.window(3.0)
        return
    rate = rate_of(feed.window(30.0)).samples_per_second
    assert rate == pytest.approx(2 * 2 / 0.75, rel=0.4), "their time counts, and their samples don't"


def test_a_feed_of_nothing_but_errors_ends(clock):
    class Broken(_Damaged):
        def __next__(self):
            next(self._indices)
            raise KeyError

    with pytest.raises(KeyError):
        MeasuredLoader(
            Config(), lambda indices: Broken(clock, indices), IndexStream([[0]]), 2, float("inf"), skips=(KeyError,)
        )
