"""What a fork would break in a dataset, found before workers start, and what plumb itself opened, put back."""

import io
import os
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import lmdb
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from plumb.runtime.inherited import OpenedHere, handles


class Rows(Dataset):
    """Rows of a file that is opened by the first sample."""

    def __init__(self, path="", **attributes):
        self.path = path
        self.file = None
        vars(self).update(attributes)

    def __len__(self):
        return 64

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.path, "rb", buffering=0)  # noqa: SIM115
        self.file.seek(8 * index)
        return int.from_bytes(self.file.read(8), "little")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.bin"
    path.write_bytes(np.arange(64, dtype="<u8").tobytes())
    return Rows(str(path))


def held_lock():
    lock = threading.Lock()
    lock.acquire()
    return lock


def started_pool():
    pool = ThreadPoolExecutor(1)
    pool.submit(int).result()
    return pool


HANDLES = {
    "an open file": lambda folder: open(folder / "x", "w"),  # noqa: SIM115
    "a connection to SQLite": lambda folder: sqlite3.connect(folder / "x.db"),
    "an open socket": lambda folder: socket.socketpair()[0],
    "a lock that is held": lambda folder: held_lock(),
    "a pool that has started": lambda folder: started_pool(),
    "an open LMDB environment": lambda folder: lmdb.open(str(folder / "lmdb")),
}


@pytest.mark.parametrize("what", HANDLES)
def test_handles_are_found_wherever_they_hang(what, tmp_path):
    handle = HANDLES[what](tmp_path)
    dataset = Subset(Rows(parts={"first": [Rows(handle=handle)]}), [0])
    (found,) = handles(dataset)
    assert str(found) == f"{what} (Subset.dataset.parts.handle)"
    getattr(handle, "close", getattr(handle, "shutdown", lambda: None))()


def test_h5py_files_are_found_while_they_are_open(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert [handle.what for handle in handles(Rows(handle=file))] == ["an open h5py file"]
    assert handles(Rows(handle=file)) == ()


@pytest.mark.parametrize(
    "harmless",
    [io.BytesIO(), threading.Lock(), threading.RLock(), torch.zeros(2), np.zeros(2), [1, 2], "path", Rows, len],
    ids=lambda value: type(value).__name__,
)
def test_what_can_be_inherited_is_none(harmless):
    assert handles(Rows(harmless=harmless)) == ()


def test_a_dataset_that_refers_to_itself_ends():
    dataset = Rows()
    dataset.itself = [dataset, {"again": dataset}]
    assert handles(dataset) == ()


def test_what_was_opened_meanwhile_is_put_back_and_workers_open_their_own(rows):
    opened = OpenedHere(rows)
    assert rows[3] == 3
    assert handles(rows)
    opened.put_back()
    assert rows.file is None
    loader = DataLoader(rows, batch_size=4, num_workers=3)
    assert torch.cat(list(loader)).tolist() == list(range(64))
    assert rows.file is None


def test_what_was_open_before_stays(rows):
    assert rows[3] == 3
    file = rows.file
    OpenedHere(rows).put_back()
    assert rows.file is file
    assert os.fstat(file.fileno()).st_size == 512
    file.close()


def test_an_attribute_that_was_not_there_is_gone_again(rows):
    opened = OpenedHere(rows)
    rows.extra = rows.file = open(rows.path, "rb")  # noqa: SIM115
    opened.put_back()
    assert rows.file is None
    assert not hasattr(rows, "extra")
