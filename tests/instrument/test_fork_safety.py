"""What a fork would break in a dataset, found before workers start, and what plumb itself opened, put back."""

import functools
import gzip
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

from plumb.instrument.fork_safety import HandleSnapshot, handles


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


def test_a_file_open_for_reading_is_none_since_workers_open_it_again(rows):
    with open(rows.path, "rb") as file, gzip.open(rows.path) as packed:
        assert handles(Rows(handle=file, packed=packed)) == ()
    with open(rows.path, "r+b") as file:
        assert [handle.what for handle in handles(Rows(handle=file))] == ["an open file"]


def test_a_dataset_that_refers_to_itself_ends():
    dataset = Rows()
    dataset.itself = [dataset, {"again": dataset}]
    assert handles(dataset) == ()


@functools.lru_cache
def connection(path):
    return sqlite3.connect(path)


class Queried(Rows):
    """Asks a database that is reached by a function, or through an engine of SQLAlchemy's."""

    def __getitem__(self, index):
        return self.ask(f"select {index}")


def ask_cached(query):
    return connection(":memory:").execute(query).fetchone()


def closing_over(handle):
    return lambda query: handle.execute(query).fetchone()


def asking_engine(engine):
    def ask(query):
        with engine.connect() as connection:
            return connection.exec_driver_sql(query).fetchone()

    return ask


def test_connections_behind_caches_closures_and_engines_are_found(tmp_path):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/x.db")
    environment = lmdb.open(str(tmp_path / "lmdb"))
    held = sqlite3.connect(":memory:")
    for ask in (ask_cached, closing_over(held), functools.partial(held.execute), asking_engine(engine)):
        dataset = Queried(ask=ask)
        assert dataset[3]
        assert [handle.what for handle in handles(Subset(dataset, [0]))] == ["a connection to SQLite"]
    dataset = Queried(ask=lambda query: environment.stat())
    assert [handle.what for handle in handles(dataset)] == ["an open LMDB environment"]
    environment.close()
    engine.dispose()
    held.close()
    connection(":memory:").close()


def test_what_was_opened_meanwhile_is_put_back_and_workers_open_their_own(rows):
    opened = HandleSnapshot(rows)
    assert rows[3] == 3
    assert rows.file is not None
    opened.put_back()
    assert rows.file is None
    loader = DataLoader(rows, batch_size=4, num_workers=3)
    assert torch.cat(list(loader)).tolist() == list(range(64))
    assert rows.file is None


def test_what_was_open_before_stays(rows):
    assert rows[3] == 3
    file = rows.file
    HandleSnapshot(rows).put_back()
    assert rows.file is file
    assert os.fstat(file.fileno()).st_size == 512
    file.close()


def test_an_attribute_that_was_not_there_is_gone_again(rows):
    opened = HandleSnapshot(rows)
    rows.extra = rows.file = open(rows.path, "rb")  # noqa: SIM115
    opened.put_back()
    assert rows.file is None
    assert not hasattr(rows, "extra")


class OpenedByProcess(Rows):
    """Remembers which process has opened the file, and has no attribute for it before."""

    def __init__(self, path):
        super().__init__(path)
        del self.file
        self.process = None

    def __getitem__(self, index):
        if self.process != os.getpid():
            self.file, self.process = open(self.path, "rb", buffering=0), os.getpid()  # noqa: SIM115
        return super().__getitem__(index)


def test_what_says_that_it_is_open_is_put_back_too(rows):
    dataset = OpenedByProcess(rows.path)
    opened = HandleSnapshot(dataset)
    assert dataset[3] == 3
    opened.put_back()
    assert vars(dataset) == {"path": rows.path, "process": None}
    assert dataset[4] == 4


class Reader:
    def __init__(self, path):
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115


@pytest.mark.parametrize("contents", [{"files": {}}, {"files": []}, {"files": {"other": None}}, {"files": ["other"]}])
def test_handles_in_objects_and_containers_made_meanwhile_are_put_back(rows, contents):
    dataset = Rows(rows.path, **contents)
    before = dict(dataset.files) if isinstance(dataset.files, dict) else list(dataset.files)
    opened = HandleSnapshot(dataset)
    reader = Reader(rows.path)
    if isinstance(dataset.files, dict):
        dataset.files["first"] = reader
    else:
        dataset.files.append(reader)
    assert dataset.files != before
    opened.put_back()
    assert dataset.files == before
    assert not reader.file.closed
    reader.file.close()


def test_what_holds_no_handle_stays_as_it_has_become(rows):
    rows.decoded, rows.parts, rows.count = {}, Rows(), 0
    opened = HandleSnapshot(rows)
    rows.decoded[3], rows.count = b"pixels", 1
    rows.parts.file = open(rows.path, "rb")  # noqa: SIM115
    opened.put_back()
    assert (rows.decoded, rows.count, rows.parts.file) == ({3: b"pixels"}, 1, None)


def test_containers_too_large_to_be_known_keep_their_elements(rows):
    rows.many = dict.fromkeys(range(1000))
    opened = HandleSnapshot(rows)
    rows.many[0] = open(rows.path, "rb")  # noqa: SIM115
    opened.put_back()
    assert len(rows.many) == 1000
    rows.many[0].close()
