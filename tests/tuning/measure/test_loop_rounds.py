"""Batches that workers hand over at about the same time, in the loop's windows: on a virtual clock."""

import random

import pytest

from plumb.tuning.measure.throughput import whole
from plumb.tuning.measure.training_loop import LoopMeter


class Workers:
    """The batches of workers that each take `seconds` for one, in order, on a virtual clock."""

    def __init__(self, clock, workers, prefetch, seconds):
        self.clock, self.workers, self.seconds = clock, workers, seconds
        self.random = random.Random(0)
        self.free_at = [0.0] * workers
        self.in_flight = workers * prefetch
        self.ready_at = [self._made(number, 0.0) for number in range(workers * prefetch)]

    def __iter__(self):
        return self

    def __next__(self):
        number = len(self.ready_at)
        ready = self.ready_at[number - self.in_flight]
        self.clock[0] = max(self.clock[0], ready)
        self.ready_at.append(self._made(number, self.clock[0]))
        return number

    def _made(self, number, asked):
        worker = number % self.workers
        took = self.seconds * self.random.uniform(0.9, 1.1)
        self.free_at[worker] = max(self.free_at[worker], asked) + took
        return self.free_at[worker]


@pytest.mark.parametrize(("workers", "prefetch", "seconds"), [(4, 4, 2.0), (16, 4, 2.0), (42, 4, 2.0), (42, 2, 0.5)])
def test_as_much_is_counted_as_workers_make(workers, prefetch, seconds, monkeypatch):
    """A window may be shorter than a worker takes for a batch, and begin or end within what all hand over at once."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    batches = Workers(clock, workers, prefetch, seconds)
    loop, rates = LoopMeter(1.0, 1e9), []
    for _ in range(5):
        # The other configuration's window: what may be prefetched is ready after it.
        clock[0] += 5.0
        running = loop.measure(batches, workers * prefetch + 1, 0.5, 1e9, 1.0, per_round=workers)
        next(running)
        while True:
            clock[0] += 0.001
            try:
                running.send(False)
            except StopIteration as stopped:
                rates.append(whole(stopped.value.chunks).samples_per_second)
                break
    shares = [rate * seconds / workers for rate in rates]
    assert max(shares) < 1.2, shares
    assert min(shares) > 0.7, shares
