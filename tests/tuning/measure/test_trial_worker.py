"""Where the death of a trial's worker is told, and where it isn't."""

import multiprocessing
import os
import signal
import time

import pytest
from torch.utils.data import DataLoader, Dataset, get_worker_info

from plumb.tuning.measure.trial_worker import worker_deaths_raised_while_waiting


class Slow(Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        if get_worker_info().id == 0:
            time.sleep(0.2 if index < 2 else 60)
        return index


def killed_now():
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    time.sleep(0.5)


def waited_for_after_a_death(batches):
    try:
        killed_now()
    except RuntimeError as error:
        raise AssertionError("told where nothing was waited for") from error
    list(batches)


@pytest.mark.slow
def test_a_death_is_told_where_a_batch_is_waited_for_and_nowhere_else():
    batches = iter(DataLoader(Slow(), batch_size=1, num_workers=1))
    next(batches)
    with pytest.raises(RuntimeError) as raised, worker_deaths_raised_while_waiting():
        waited_for_after_a_death(batches)
    assert "exited unexpectedly" in str(raised.value)
    assert "Killed" in str(raised.value.__cause__)


def test_torch_s_own_way_is_back_afterwards():
    batches = iter(DataLoader(Slow(), batch_size=1, num_workers=1))
    torchs = signal.getsignal(signal.SIGCHLD)
    with worker_deaths_raised_while_waiting():
        assert signal.getsignal(signal.SIGCHLD) is not torchs
    assert signal.getsignal(signal.SIGCHLD) is torchs
    next(batches)
    with pytest.raises(RuntimeError, match="Killed"):
        killed_now()
