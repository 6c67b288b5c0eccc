"""Threads make samples only where they make the same ones: tried as a loader will use them, in a child that may die."""

import ctypes
import os
import threading
import time
from functools import partial

import numpy as np
import pytest
from cut_datasets import Indexed
from cutting import found

from plumb.core.config import CallStep, Cut
from plumb.host.forked_trial import in_spawned_child
from plumb.rewrites import thread_validation
from plumb.rewrites.thread_validation import process_for_trials, validate_threads
from plumb.runtime.replay.replay import Replay, ReplayError

RECORD = 5000
WAIT = 0.002


class OneHandle(Indexed):
    """Seeks in one handle, waits, and reads: the wait's value is None, whoever makes it."""

    def __init__(self, path, buffering=-1):
        self.path, self.buffering = path, buffering
        self.file = None

    def __getitem__(self, index):
        if self.file is None:
            self.file = open(self.path, "rb", self.buffering)  # noqa: SIM115
        self.file.seek(index * RECORD)
        time.sleep(WAIT)
        return np.frombuffer(self.file.read(RECORD), dtype=np.uint8)


class ByMethods(OneHandle):
    """The same in two steps: the first returns what says nothing of the position that it leaves."""

    def go(self, index):
        if self.file is None:
            self.file = open(self.path, "rb", self.buffering)  # noqa: SIM115
        self.file.seek(index * RECORD)
        time.sleep(WAIT)
        return True

    def __getitem__(self, index):
        return self.go(index) and np.frombuffer(self.file.read(RECORD), dtype=np.uint8)


class ByDescriptor(OneHandle):
    """A descriptor is only a number."""

    def __getitem__(self, index):
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY)
        os.lseek(self.file, index * RECORD, os.SEEK_SET)
        time.sleep(WAIT)
        return np.frombuffer(os.read(self.file, RECORD), dtype=np.uint8)


HANDLES = {}


class InAGlobal(OneHandle):
    def __getitem__(self, index):
        if self.path not in HANDLES:
            HANDLES[self.path] = open(self.path, "rb")  # noqa: SIM115
        file = HANDLES[self.path]
        file.seek(index * RECORD)
        time.sleep(WAIT)
        return np.frombuffer(file.read(RECORD), dtype=np.uint8)


class OneForEachThread(OneHandle):
    """What is right to do."""

    def __init__(self, path):
        super().__init__(path)
        self.mine = threading.local()

    def __getitem__(self, index):
        if not hasattr(self.mine, "file"):
            self.mine.file = open(self.path, "rb")  # noqa: SIM115
        self.mine.file.seek(index * RECORD)
        time.sleep(WAIT)
        return np.frombuffer(self.mine.file.read(RECORD), dtype=np.uint8)


class WithoutPosition(OneHandle):
    """One descriptor for all threads, and each says where it reads."""

    def __getitem__(self, index):
        if self.file is None:
            self.file = os.open(self.path, os.O_RDONLY)
        time.sleep(WAIT)
        return np.frombuffer(os.pread(self.file, RECORD, index * RECORD), dtype=np.uint8)


@pytest.fixture
def records(tmp_path):
    path = tmp_path / "records"
    path.write_bytes(b"".join(bytes([index]) * RECORD for index in range(12)))
    return str(path)


def cuts_of(dataset):
    """No cut, and one at each call of `__getitem__` that is reached, found or not: a tuning might."""
    kind = type(dataset)
    entry = CallStep("plumb:sample#0", kind.__name__)
    place = f"{kind.__module__}:{kind.__qualname__}.__getitem__"
    steps = [CallStep(f"{place}#{site}", name) for site in range(6) for name in ("seek", "sleep", "lseek", "go")]
    by_hand = [cut for cut in (Cut(step.name, (entry, step)) for step in steps) if is_reached(dataset, cut)]
    assert by_hand
    return [None, *by_hand, *(item.cut for item in found(dataset)[0].values())]


def is_reached(dataset, cut):
    try:
        Replay(dataset, cut).prefix(0)
    except ReplayError:
        return False
    return True


def assert_refused(dataset):
    """Whole samples, and the prefix up to each call, also where the cut's value is None, or True."""
    reasons = {cut: validate_threads(dataset, range(12), 4, cut) for cut in cuts_of(dataset)}
    assert None not in reasons.values(), [cut for cut, reason in reasons.items() if reason is None]


@pytest.mark.parametrize("make", [OneHandle, partial(OneHandle, buffering=0), ByMethods, ByDescriptor, InAGlobal])
def test_a_position_that_threads_would_share_is_refused(make, records):
    assert_refused(make(records))


def test_what_threads_read_at_a_shared_position_is_wrong_where_nobody_sees_it_move(records, monkeypatch):
    monkeypatch.setattr(thread_validation, "positions", lambda _: {})
    assert_refused(OneHandle(records))


def test_the_position_is_what_is_named(records):
    assert "share the position in" in validate_threads(OneHandle(records), range(12), 4)


@pytest.mark.parametrize("make", [OneForEachThread, WithoutPosition])
def test_threads_that_share_no_position_are_not_refused(make, records):
    assert validate_threads(make(records), range(12), 4) is None


class InMemory(Indexed):
    """The position of a decoder in C, which nobody sees from outside; here, a closure plays it."""

    def __init__(self):
        place = [0]

        def go(index):
            place[0] = index
            return True

        def read():
            return np.full(10, place[0])

        self.go, self.read = go, read

    def __getitem__(self, index):
        done = self.go(index)
        time.sleep(WAIT)
        return self.read() if done else None


def test_a_position_in_memory_is_refused_up_to_each_call():
    dataset = InMemory()
    for cut in [None, *(item.cut for item in found(dataset)[0].values())]:
        assert validate_threads(dataset, range(12), 4, cut) is not None, cut


class HiddenScratch(Indexed):
    """What a call leaves for the next one is out of sight: only threads that are switched in between show it."""

    def __init__(self):
        held = np.zeros(1)
        address = held.ctypes.data
        self.held = {str(address): memoryview(held)}
        self.write = partial(ctypes.memset, address)
        self.read = partial(ctypes.string_at, address, 1)

    def __getitem__(self, index):
        self.write(index, 1)
        return self.read()[0]


def test_switches_between_two_calls_are_forced():
    assert validate_threads(HiddenScratch(), range(12), 4) is not None


class Crashes(Indexed):
    """Two threads at once are too many for a decoder."""

    inside = 0

    def __getitem__(self, index):
        Crashes.inside += 1
        try:
            time.sleep(WAIT)
            if Crashes.inside > 1:
                ctypes.string_at(0)
        finally:
            Crashes.inside -= 1
        return index


class Hangs(Indexed):
    """Each of two threads waits for what the other one has."""

    def __init__(self):
        self.locks = threading.Lock(), threading.Lock()

    def __getitem__(self, index):
        first, second = self.locks if index % 2 else self.locks[::-1]
        with first:
            time.sleep(WAIT)
            with second:
                return index


def test_a_crash_and_a_deadlock_of_threads_are_reasons():
    assert validate_threads(Crashes(), range(12), 4) == (
        "making samples in threads crashed a process that tried it (SIGSEGV)"
    )
    assert validate_threads(Hangs(), range(12), 4, seconds=3.0) == (
        "making samples in threads hung a process that tried it (no result within 3 s)"
    )


class NotAfterFork(Indexed):
    """A client with a connection that belongs to the process that has opened it."""

    def __init__(self):
        self.pid = None

    def __getstate__(self):
        return {"pid": None}

    def __getitem__(self, index):
        self.pid = self.pid or os.getpid()
        if self.pid != os.getpid():
            raise ConnectionError("another process has the connection")
        time.sleep(WAIT)
        return index


def test_a_dataset_that_a_fork_breaks_is_not_blamed_on_threads():
    dataset = NotAfterFork()
    dataset[0]
    assert process_for_trials(dataset, 0, 5.0, why_not_spawned=lambda: "there is no other") == (
        "a forked process can't read the dataset (making a sample raised ConnectionError: another process has the "
        "connection), and there is no other"
    )
    forgetting = process_for_trials(dataset, 0, 5.0, forget=lambda: vars(dataset).update(pid=None))
    assert validate_threads(dataset, range(12), 4, process=forgetting) is None
    assert dataset.pid == os.getpid()


@pytest.mark.slow
def test_a_spawned_process_tries_what_a_forked_one_can_t_read():
    dataset = NotAfterFork()
    dataset[0]
    process = process_for_trials(dataset, 0, 5.0, why_not_spawned=lambda: None)
    assert process is in_spawned_child
    assert validate_threads(dataset, range(12), 4, process=process) is None


def test_what_is_tried_leaves_nothing_in_this_process():
    class Counts(Indexed):
        reads = 0

        def __getitem__(self, index):
            Counts.reads += 1
            return index

    assert validate_threads(Counts(), range(12), 4) is not None
    assert Counts.reads == 1
