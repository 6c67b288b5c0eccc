"""Where workers come from, how long they live, and what is left of them."""

import gc
import itertools
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.tuning.live import live_iterator, tuning_of
from tests.parts.live_parts import Squares, follow, patiently
from tests.parts.observers import observed_worker


def alive(pids):
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


def gone(pids, seconds=10.0):
    """Whether they end soon."""
    until = time.monotonic() + seconds
    while alive(pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pids)


def pids_of(iterator):
    return [pid for segment in iterator._segments for pid in segment.pids]


class WhoReads(Squares):
    """Says who read a sample, and what the dataset is called there."""

    def __init__(self, length=60):
        super().__init__(length)
        self.epoch = 0

    def __getitem__(self, index):
        info = observed_worker()
        assert info is None or info.dataset is self
        return torch.tensor([index, info.num_workers if info else 0, self.epoch])


def test_a_loop_that_is_left_leaves_no_worker_behind():
    loader = DataLoader(Squares(60), num_workers=1)
    follow(loader, [(5, Config(2, 2))])
    iterator = live_iterator(loader)
    list(itertools.islice(patiently(iterator), 20))
    pids = pids_of(iterator)
    assert len(alive(pids)) == 2
    del iterator
    assert gone(pids)


def test_workers_that_are_kept_live_as_long_as_the_loader():
    loader = DataLoader(WhoReads(), num_workers=1)
    follow(loader, [(5, Config(2, 2, persistent_workers=True))])
    list(patiently(live_iterator(loader)))
    kept = tuning_of(loader)._run.kept.pids
    assert len(alive(kept)) == 2
    second = live_iterator(loader)
    assert {batch[0, 1].item() for batch in itertools.islice(second, 7)} == {2}
    assert tuple(pids_of(second)) == kept
    del second  # left in the middle: the third epoch goes on with them all the same
    third = live_iterator(loader)
    assert tuple(pids_of(third)) == kept
    del third, loader
    gc.collect()
    assert gone(kept)


def test_workers_that_were_to_be_kept_are_renewed_for_a_changed_dataset():
    loader = DataLoader(WhoReads(), num_workers=1)
    follow(loader, [(5, Config(2, 2, persistent_workers=True))])
    for epoch in range(3):
        loader.dataset.epoch = epoch
        assert {batch[0, 2].item() for batch in patiently(live_iterator(loader))} == {epoch}


def test_a_dataset_that_changes_within_an_epoch_is_given_to_no_new_worker_before_the_next():
    loader = DataLoader(WhoReads(), num_workers=1)
    follow(loader, [(20, Config(2, 2))])
    readers = []
    for epoch in (0, 1):
        for number, batch in enumerate(patiently(live_iterator(loader))):
            loader.dataset.epoch = 10 * epoch + (number > 5)
            readers.append((epoch, batch[0, 1].item()))
    assert set(readers) == {(0, 1), (1, 2)}


class Stream(IterableDataset):
    def __iter__(self):
        info = observed_worker()
        for index in range(30):
            time.sleep(0.002)
            yield index, info.num_workers if info else 0


@pytest.mark.parametrize("workers", [0, 2])
def test_iterable_datasets_and_unordered_loaders_are_torch_s_alone(workers):
    loader = DataLoader(Stream(), batch_size=4, num_workers=workers)
    expected = [[part.tolist() for part in batch] for batch in loader]
    batches = live_iterator(loader)
    assert type(batches) is type(iter(loader))
    assert [[part.tolist() for part in batch] for batch in batches] == expected
    assert tuning_of(loader).config.num_workers == workers
    unordered = DataLoader(Squares(), num_workers=1, in_order=False)
    assert type(live_iterator(unordered)) is type(iter(unordered))


@pytest.mark.slow
def test_workers_that_are_not_forked():
    """They take seconds to start; meanwhile the loop gets its batches, and none is missed."""
    loader = DataLoader(WhoReads(400), batch_size=2, num_workers=1, multiprocessing_context="spawn")
    controller = follow(loader, [(10, Config(2, 2))])
    batches = list(patiently(live_iterator(loader)))
    assert torch.cat(batches)[:, 0].tolist() == list(range(400))
    assert [config.num_workers for config in controller.ran] == [1, 2]
    assert not controller.failures


SCRIPT = """
import itertools, sys
from torch.utils.data import DataLoader
from plumb.tuning.live import live_iterator
from plumb.core.config import Config
from tests.parts.live_parts import Squares, follow, patiently

loader = DataLoader(Squares(200), num_workers=1, persistent_workers=sys.argv[1] == "persistent")
follow(loader, [(5, Config(2, 2, persistent_workers=True))])
iterator = live_iterator(loader)
for batch in itertools.islice(patiently(iterator), 50):
    pass
pids = [pid for segment in iterator._segments for pid in segment.pids]
assert len(pids) == 2
print(*pids, flush=True)
if sys.argv[2] == "error":
    raise SystemError("the training failed")
"""


@pytest.mark.slow
@pytest.mark.parametrize("lasting", ["persistent", "not"])
@pytest.mark.parametrize("end", ["end", "error"])
def test_an_interpreter_that_ends_leaves_no_worker_behind(lasting, end):
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", SCRIPT, lasting, end]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert gone([int(pid) for pid in done.stdout.split()])
    assert done.returncode == (end == "error")
    assert done.stderr.count("Traceback") == (end == "error"), done.stderr
