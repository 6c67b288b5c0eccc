"""Forked workers read inherited files at positions of their own, whatever holds the files."""

import collections
import functools
import os
import pickle
import time
import zipfile

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, random_split

from plumb.core.config import Config
from plumb.host.inherited_files import reopen_inherited_files
from plumb.instrument.worker_init import ReopeningInit
from plumb.runtime.loader import rebuild

COUNT, PAUSE_SECONDS = 400, 0.0005


@functools.lru_cache
def cached(path):
    return open(path, "rb", buffering=0)


class Slotted:
    __slots__ = ("file",)


class Rows(Dataset):
    """Reads row by row from a handle that `held` gives: `read(place)` returns the bytes of a row."""

    def __init__(self, read, first=0):
        self.read, self.first = read, first

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.first + index, int.from_bytes(self.read(index), "little")


def seeking(file, index):
    file.seek(4 * index)
    # Time for another process to move the same handle.
    time.sleep(PAUSE_SECONDS)
    return file.read(4)


def by_number(path):
    number = os.open(path, os.O_RDONLY)

    def read(index):
        os.lseek(number, 4 * index, os.SEEK_SET)
        time.sleep(PAUSE_SECONDS)
        return os.read(number, 4)

    return read


def in_slots(path):
    slotted = Slotted()
    slotted.file = open(path, "rb", buffering=0)  # noqa: SIM115
    return lambda index: seeking(slotted.file, index)


def in_zip(path):
    with zipfile.ZipFile(f"{path}.zip", "w") as archive:
        for index in range(COUNT):
            archive.writestr(str(index), index.to_bytes(4, "little"))
    archive = zipfile.ZipFile(f"{path}.zip")
    return lambda index: archive.read(str(index))


def deleted(path):
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    os.unlink(path)
    return functools.partial(seeking, file)


def far_in_a_list(path):
    files = collections.deque([None] * 40 + [open(path, "rb", buffering=0)])  # noqa: SIM115
    return lambda index: seeking(files[40], index)


HELD = {
    "behind lru_cache": lambda path: lambda index: seeking(cached(path), index),
    "in a partial": lambda path: functools.partial(seeking, open(path, "rb", buffering=0)),  # noqa: SIM115
    "by its number": by_number,
    "in slots": in_slots,
    "in a zip archive": in_zip,
    "deleted meanwhile": deleted,
    "far in a deque": far_in_a_list,
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_forked_workers_read_the_right_rows(held, tmp_path):
    path = str(tmp_path / "rows.bin")
    np.arange(COUNT, dtype="<u4").tofile(path)
    rows = Rows(held(path))
    assert rows[5] == (5, 5)
    parts, _ = random_split(ConcatDataset([rows, rows]), [COUNT, COUNT], torch.Generator().manual_seed(0))
    loader = rebuild(DataLoader(parts, batch_size=4), Config(3, 2), None)
    wrong = [(want, got) for wants, gots in loader for want, got in zip(wants, gots, strict=True) if want != got]
    assert wrong == []


def test_positions_and_flags_are_kept_and_writers_are_left_alone(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    reading = os.open(path, os.O_RDONLY)
    both = os.open(path, os.O_RDWR)
    buffered = open(path, "rb")  # noqa: SIM115
    assert buffered.read(3) == bytes((0, 1, 2))
    os.set_inheritable(reading, True)
    for number in (reading, both):
        os.lseek(number, 40, os.SEEK_SET)
    pid = os.fork()
    if not pid:
        failed = reopen_inherited_files()
        kept = os.lseek(reading, 0, os.SEEK_CUR) == 40 and os.get_inheritable(reading)
        kept = kept and not os.get_inheritable(buffered.fileno()) and buffered.read(3) == bytes((3, 4, 5))
        os.lseek(reading, 7, os.SEEK_SET)
        os.lseek(both, 7, os.SEEK_SET)
        os._exit(0 if kept and not failed else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.lseek(reading, 0, os.SEEK_CUR) == 40
    # A handle that may write is shared still: what two processes write lies one behind the other.
    assert os.lseek(both, 0, os.SEEK_CUR) == 7
    os.close(reading)
    os.close(both)
    buffered.close()


def note(worker_id):
    note.called = worker_id


def test_the_users_function_is_called_and_sent():
    pickle.loads(pickle.dumps(ReopeningInit(note)))(3)
    assert note.called == 3
    ReopeningInit(None)(0)
