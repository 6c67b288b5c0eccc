"""The guard of a trial: what it ends, for what reason, and that nothing of the trial is left."""

import multiprocessing
import os
import threading
import time

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import Config
from plumb.host import Limits
from plumb.host.process_memory import script_bytes
from plumb.runtime.loader import rebuild
from plumb.tuning.measure import trial_guard
from plumb.tuning.measure.throughput import IndexStream, MeasuredLoader
from plumb.tuning.measure.trial_guard import TrialEndedError, TrialGuard

TWO = Config(num_workers=2, prefetch_factor=2)


class Stuck(Dataset):
    """Samples up to `good`; the next one waits for a lock that nobody gives back."""

    def __init__(self, good):
        self.good = good
        self.lock = threading.Lock()

    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if index >= self.good:
            self.lock.acquire()
            self.wait_for_ever()
        return torch.zeros(2)

    def wait_for_ever(self):
        self.lock.acquire()


class ManyTensors(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        return [torch.zeros(1) for _ in range(50)]


def kept_apart(samples):
    return samples


def feed_of(dataset, guard, config=TWO, **arguments):
    loader = DataLoader(dataset, batch_size=4, **arguments)
    stream = IndexStream(loader.batch_sampler)
    return MeasuredLoader(
        config,
        lambda indices: rebuild(loader, config, indices, stacks_file=guard.stacks_file),
        stream,
        4,
        float("inf"),
        guard,
    )


def run(dataset, guard, **arguments):
    feed = feed_of(dataset, guard, **arguments)
    try:
        feed.window(60.0)
    finally:
        feed.close()


def run_until_ended(dataset, guard, **arguments):
    others = set(multiprocessing.active_children())
    with pytest.raises(TrialEndedError) as caught:
        run(dataset, guard, **arguments)
    assert set(multiprocessing.active_children()) <= others
    return caught.value


def test_workers_that_are_stuck_from_the_start_are_ended_and_say_where():
    error = run_until_ended(Stuck(0), TrialGuard(Limits(), patience_seconds=1.0))
    assert error.limit is None
    assert "in wait_for_ever" in str(error)
    assert "test_trial_guard.py:" in str(error)


def test_a_worker_that_falls_silent_is_ended_after_a_multiple_of_its_usual_time(monkeypatch):
    monkeypatch.setattr(trial_guard, "_SILENT_SECONDS", 1.0)
    error = run_until_ended(Stuck(400), TrialGuard(Limits(), patience_seconds=60.0))
    assert error.limit is None
    assert "stuck" in str(error)
    assert "in wait_for_ever" in str(error)


@pytest.mark.slow
def test_spawned_workers_say_where_they_are_too():
    guard = TrialGuard(Limits(), patience_seconds=12.0)
    config = Config(num_workers=1, prefetch_factor=2)
    error = run_until_ended(AlwaysStuck(), guard, config=config, multiprocessing_context="spawn", num_workers=1)
    assert "in __getitem__" in str(error)


class AlwaysStuck(Dataset):
    """Can be pickled, as a spawned worker's dataset must."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        while True:
            time.sleep(0.1)


def test_a_trial_that_opens_too_many_files_is_ended():
    most = psutil.Process().num_fds() + 60
    error = run_until_ended(
        ManyTensors(), TrialGuard(Limits(open_files=most), patience_seconds=60.0), collate_fn=kept_apart
    )
    assert error.limit == "open files"
    assert f"of {most} open files" in str(error)


def test_a_trial_that_takes_more_memory_than_was_asked_for_is_ended():
    class Eating(Stuck):
        held = []

        def __getitem__(self, index):
            self.held.append(bytearray(b"x" * 2**21))
            time.sleep(0.01)
            return index

    limits = Limits().lowered(memory_bytes=script_bytes() + 200 * 2**20)
    error = run_until_ended(Eating(1), TrialGuard(limits, patience_seconds=60.0))
    assert error.limit == "memory"
    assert "asked for" in str(error)


def test_what_the_main_process_opens_is_looked_at_between_batches():
    opened = []

    class Opening(Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            opened.append(os.open(os.devnull, os.O_RDONLY))
            time.sleep(0.01)
            return index

    try:
        guard = TrialGuard(Limits(open_files=psutil.Process().num_fds() + 40), patience_seconds=60.0)
        assert run_until_ended(Opening(), guard, config=Config()).limit == "open files"
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_trial_that_harms_nobody_is_left_alone_and_leaves_nothing():
    guard = TrialGuard(Limits(), patience_seconds=60.0)
    feed = feed_of(Stuck(1000), guard)
    assert feed.window(0.5)
    feed.close()
    assert guard.ended is None
    assert "plumb-guard" not in {thread.name for thread in threading.enumerate()}
    opened = {os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if _exists(name)}
    assert not any("plumb-stacks" in path for path in opened)


def _exists(name):
    return os.path.lexists(f"/proc/self/fd/{name}")


def test_a_worker_of_a_trial_is_the_first_to_go_where_memory_runs_out():
    class Score(Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, index):
            with open("/proc/self/oom_score_adj") as score:
                return int(score.read())

    guard = TrialGuard(Limits(), patience_seconds=60.0)
    loader = DataLoader(Score(), batch_size=4, collate_fn=kept_apart)
    batches = iter(rebuild(loader, TWO, None, stacks_file=guard.stacks_file))
    assert next(batches) == [1000] * 4
    with open("/proc/self/oom_score_adj") as score:
        assert int(score.read()) < 1000
    guard.stop()
