"""A trace keeps to its time, however many calls a sample makes."""

import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from plumb.core.plan import SampleCost
from plumb.rewrites import find_rewrites as find
from plumb.rewrites.find_rewrites import find_rewrites
from plumb.tracing.sample_source import TraceTimeError
from plumb.tracing.tracer import trace


def small(value):
    return torch.add(value, 1)


class Rollout(IterableDataset):
    """Makes thousands of calls before its first sample."""

    begun = 0

    def __iter__(self):
        type(self).begun += 1
        value = torch.zeros(1)
        for _ in range(5000):
            value = small(value)
        yield from [value] * 64


class Deep(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        value = torch.zeros(1)
        for _ in range(5000):
            value = small(value)
        return value + index


@pytest.mark.parametrize("dataset", [Rollout, Deep])
def test_a_trace_ends_at_its_deadline_and_the_sample_at_hand_is_completed(dataset, monkeypatch):
    calls = []
    deadline = time.perf_counter() + 0.3

    def slow_once(value):
        calls.append(1)
        # However fast the host is, the deadline passes within the first sample.
        if len(calls) == 2500:
            time.sleep(max(0.0, deadline - time.perf_counter()))
        return value + 1

    monkeypatch.setitem(globals(), "small", slow_once)
    with pytest.raises(TraceTimeError, match="not enough time"):
        trace(DataLoader(dataset(), batch_size=4), 16, deadline=deadline)
    assert time.perf_counter() > deadline
    # The user's code is never left in the middle.
    assert len(calls) % 5000 == 0


COST = SampleCost(1e-4, 1e-4, 0.0, 0.0, 4.0, 1.0)


def test_without_time_for_a_trace_there_are_offers_and_a_reason(monkeypatch):
    monkeypatch.setattr(find, "_TRACED_SECONDS", 0.2)
    found = find_rewrites(DataLoader(Rollout(), batch_size=4), COST, [], 0.4)
    assert found.pipeline is None
    assert found.rewrites.reasons == (
        "the operators were not traced: there was not enough time to follow all calls of a sample; allow more, with "
        "--budget or budget=",
    )


@pytest.mark.parametrize(("cost_seconds", "left"), [(0.002, 0.05), (3.0, 10.0)])
def test_why_there_was_no_time_is_told_by_what_was_left_and_what_it_takes(cost_seconds, left):
    cost = SampleCost(cost_seconds, cost_seconds, 0.0, 0.0, 4.0, 1.0)
    [reason] = find_rewrites(DataLoader(Deep(), batch_size=4), cost, [], left).rewrites.reasons
    needed = find.format_seconds(75 * cost_seconds)
    assert reason.startswith(f"there was no time to trace the operators: that takes about {needed}, and ")
    assert reason.endswith(" were left; allow more, with --budget or budget=")


class Slow(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(0.005)
        return torch.zeros(1)


def test_samples_of_few_calls_are_traced_in_a_short_time():
    cost = SampleCost(0.005, 0.0, 0.005, 0.0, 4.0, 1.0)
    found = find_rewrites(DataLoader(Slow(), batch_size=4), cost, list(range(32)), 0.9)
    assert found.pipeline is not None
    assert "time.sleep" in found.pipeline.graph
