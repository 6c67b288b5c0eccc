"""A live loader's batches are checked: what differs is not delivered, and the loop goes on as the script has it."""

import secrets
import sys

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from plumb.core.config import CacheChoice, Config, Cut, Rewrites
from plumb.runtime.checks import running_checks
from plumb.tuning.live import live_iterator
from tests.parts.live_parts import follow, patiently

LENGTH, BATCH = 160, 4


STEPS = {"step": 0}


class Stepped(Dataset):
    """Samples that a table changes which no look at the dataset leads to."""

    def __init__(self):
        # No store of another test has the values of this one.
        self.token = secrets.token_hex(8)

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        table = vars(sys.modules[__name__])["STE" + "PS"]
        return torch.tensor(float(index) + 1000 * table["step"])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_store_that_is_wrong_in_the_next_epoch_is_never_delivered_from(workers, monkeypatch):
    monkeypatch.setattr(running_checks, "tallies", [])
    monkeypatch.setattr(running_checks, "_say_at_the_end", lambda: None)
    cache = CacheChoice("sample", "memory", 2**22, 1.0)
    live = DataLoader(Stepped(), batch_size=BATCH)
    controller = follow(live, [(0, Config(workers, 2, True, cache=cache))])
    controller.rewrites = Rewrites((Cut("sample", ()),))
    seen = []
    for step in range(3):
        monkeypatch.setitem(STEPS, "step", step)
        seen.append(torch.cat(list(patiently(live_iterator(live)))).tolist())
    assert seen == [[float(index + 1000 * step) for index in range(LENGTH)] for step in range(3)]
    (tally,) = running_checks.tallies
    assert (tally.name, tally.equal, tally.differing) == ("Stepped", 2, 1)
    ((plain, reason),) = controller.failures
    assert plain == "plain"
    assert "batch 1 of epoch 2 differs" in reason
