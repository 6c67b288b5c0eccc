"""What a loop runs on, and why: real loops, of which every batch that was measured is one that they got."""

import itertools
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from plumb.core.config import Config
from plumb.tuning.live import controller, live_iterator, tuning_of
from tests.parts.live_parts import Squares
from tests.parts.observers import observed_process, observed_worker

BATCH = 8


def loop(loader, epochs=12):
    """Trains until the tuning is settled, and some batches more; what came must be what torch delivers."""
    tuning, after = tuning_of(loader), 0
    for _ in range(epochs):
        seen, states = [], (random.getstate(), repr(np.random.get_state()))
        for batch in live_iterator(loader):
            seen.append(batch[:, 0].tolist())
            time.sleep(0.008)
            after += tuning.is_settled
            if after == 30:
                break
        assert (random.getstate(), repr(np.random.get_state())) == states
        assert list(itertools.chain.from_iterable(seen)) == list(range(BATCH * len(seen)))
        if after == 30:
            return tuning
    raise AssertionError(f"it never came to that: {tuning.trials}")


def outcomes(tuning):
    return [trial.outcome for trial in tuning.trials]


@pytest.mark.slow
def test_a_loop_that_waits_tries_workers_and_keeps_the_best(capfd):
    loader = DataLoader(Squares(3200, seconds=0.003), batch_size=BATCH)
    tuning = loop(loader)
    own, *tried, kept = tuning.trials
    assert own.config == Config()
    assert own.outcome == "your own configuration"
    assert tried
    assert all(trial.config.num_workers for trial in tried)
    assert all(trial.predicted_samples_per_second > own.samples_per_second for trial in tried)
    better = [trial for trial in tried if trial.outcome == "better"]
    assert kept.config == (better[-1] if better else own).config
    assert kept.outcome.startswith("kept: the best of what was tried" if better else "kept: as good as any")
    assert tuning.config.num_workers == kept.config.num_workers
    assert capfd.readouterr().err.count("plumb: your loop runs at ") == bool(better)


@pytest.mark.slow
def test_the_user_s_workers_are_not_given_up_for_worse():
    """Whatever is tried, the loop ends on nothing that was measured to be slower."""
    loader = DataLoader(Squares(3200, seconds=0.001), batch_size=BATCH, num_workers=2)
    tuning = loop(loader)
    best = max(trial.samples_per_second for trial in tuning.trials if trial.samples_per_second)
    assert tuning.trials[-1].samples_per_second >= 0.85 * best


class Handle(Squares):
    """Keeps a file open, which it opens with its first sample."""

    def __init__(self, path, at_once):
        super().__init__(800, seconds=0.002)
        self.path = path
        np.arange(800).tofile(path)
        self.file = open(path, "rb") if at_once else None  # noqa: SIM115

    def __getitem__(self, index):
        super().__getitem__(index)
        self.file = self.file or open(self.path, "rb")  # noqa: SIM115
        self.file.seek(index * 8)
        return torch.tensor([int(np.frombuffer(self.file.read(8), dtype=np.int64)[0]), 0])


class Counting(Squares):
    def __init__(self):
        super().__init__(800, seconds=0.002)
        self.count = 0

    def __getitem__(self, index):
        self.count += 1
        return super().__getitem__(index)


class Augmenting(Squares):
    def __init__(self):
        super().__init__(800, seconds=0.002)
        self.random = np.random.default_rng(0)

    def __getitem__(self, index):
        return super().__getitem__(index) + torch.tensor([0, int(self.random.integers(9))])


class SetUpOnce(Squares):
    """Reads its table with the first sample, and is the same from then on."""

    table = None

    def __getitem__(self, index):
        self.table = self.table or list(range(self.length))
        return super().__getitem__(self.table[index])


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Counting, r"reading changes Counting\.count"),
        (Augmenting, "holds a random generator"),
    ],
    ids=["counts", "draws"],
)
def test_no_workers_are_forked_where_they_would_change_the_samples(make, why):
    tuning = loop(DataLoader(make(), batch_size=BATCH))
    assert tuning.config == Config()
    with pytest.raises(AssertionError, match=f"kept: .*{why}"):
        raise AssertionError(outcomes(tuning)[-1])


@pytest.mark.parametrize("at_once", [False, True])
def test_a_file_that_is_open_here_is_read_by_workers_too(at_once, tmp_path):
    loader = DataLoader(Handle(tmp_path / "values", at_once), batch_size=BATCH)
    tuning = tuning_of(loader)
    for _ in range(2):
        batches = live_iterator(loader)
        values = [next(batches)[:, 0]]
        # Without a look at how fast the loop is: workers that are forked now inherit the file.
        tuning._run.steering.wanted = Config(2, 2)
        values += [batch[:, 0] for batch in batches]
        assert torch.cat(values).tolist() == list(range(800))
        tuning._run.steering._stop()
    assert not tuning._run.is_plain


@pytest.mark.slow
def test_what_is_set_up_once_is_no_reason():
    tuning = loop(DataLoader(SetUpOnce(3200, seconds=0.003), batch_size=BATCH))
    assert any(trial.config.num_workers for trial in tuning.trials)


class NotInWorkers(Squares):
    """Ends, or refuses to work, anywhere but in the main process."""

    def __init__(self, how):
        super().__init__(1600, seconds=0.003)
        self.how = how

    def __getitem__(self, index):
        if observed_worker() is not None and index % 5 == 0:
            if self.how == "dies":
                os.kill(observed_process(), signal.SIGKILL)
            raise RuntimeError("no device in a worker")
        return super().__getitem__(index)


@pytest.mark.slow
@pytest.mark.parametrize(("how", "why"), [("dies", "exited unexpectedly"), ("refuses", "no device in a worker")])
def test_a_configuration_that_fails_costs_the_loop_no_batch(how, why, capfd):
    tuning = loop(DataLoader(NotInWorkers(how), batch_size=BATCH))
    assert tuning.config == Config()
    failed = [outcome for outcome in outcomes(tuning) if outcome.startswith("failed: ")]
    # What fails in a forked process is found by a child, and not tried in the loop.
    assert failed or "in a forked process, making a sample" in capfd.readouterr().err
    assert all(why in outcome for outcome in failed)
    assert len({trial.config for trial in tuning.trials}) == 1 + len(failed)


def test_a_tuning_that_fails_leaves_the_training_alone(capfd, monkeypatch):
    def fail(batch):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(controller, "batch_bytes", fail)
    loader = DataLoader(Squares(80), batch_size=BATCH)
    assert [batch[0, 0].item() for batch in live_iterator(loader)] == list(range(0, 80, BATCH))
    assert "the tuning of your loop stopped (ZeroDivisionError" in capfd.readouterr().err
    assert tuning_of(loader).config == Config()
