"""A batch that can't be pickled is an error of the worker's, at once, and not one that is waited for in vain."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import Config
from plumb.host import Limits
from plumb.runtime.loader import rebuild
from plumb.tuning.measure.throughput import IndexStream, MeasuredLoader
from plumb.tuning.measure.trial_guard import TrialGuard
from plumb.tuning.trials import _why as why


class Texts(Dataset):
    """Nothing is wrong with its samples without workers."""

    def __init__(self, unsent=lambda index: True):
        self.unsent = unsent

    def __len__(self):
        return 32

    def __getitem__(self, index):
        return {"x": torch.zeros(2), "decode": (lambda: index) if self.unsent(index) else index}


WORKER = Config(num_workers=1, prefetch_factor=2)


def test_the_error_takes_the_place_of_the_batch_and_others_come_in_order(capfd):
    loader = DataLoader(Texts(lambda index: index == 2), batch_size=1, collate_fn=list)
    batches = iter(rebuild(loader, WORKER, None))
    assert [next(batches)[0]["decode"] for _ in range(2)] == [0, 1]
    with pytest.raises(Exception, match=r"(?i)pickle") as raised:
        next(batches)
    assert "in DataLoader worker process 0" in str(raised.value)
    assert next(batches)[0]["decode"] == 3
    batches._shutdown_workers()
    assert "Traceback" not in capfd.readouterr().err


def test_a_trial_of_such_a_loader_fails_with_the_reason_before_it_is_taken_for_stuck():
    loader = DataLoader(Texts(), batch_size=4, collate_fn=list)
    guard = TrialGuard(Limits(), patience_seconds=60.0)
    stream = IndexStream(loader.batch_sampler)
    with pytest.raises(Exception, match=r"(?i)pickle") as raised:
        MeasuredLoader(WORKER, lambda indices: rebuild(loader, WORKER, indices), stream, 4.0, float("inf"), guard)
    guard.stop()
    assert guard.ended is None
    assert "pickle" in why(raised.value).lower()
