"""Work that crashes, hangs or raises in a child leaves the parent as it was, and an answer."""

import ctypes
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker

import psutil
import pytest
import torch

from plumb.host.forked_trial import ChildOutcome, in_child, in_spawned_child

SECONDS = 30.0


@pytest.fixture(autouse=True)
def _nothing_left():
    """Neither descriptors nor children, whatever the child did."""
    # A caretaker of multiprocessing's, which stays.
    resource_tracker.ensure_running()
    gc.collect()
    descriptors, children = set(os.listdir("/proc/self/fd")), set(psutil.Process().children())
    yield
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert set(psutil.Process().children()) == children


def test_what_work_returns_arrives_however_large():
    size = 50_000_000
    outcome = in_child(lambda: (torch.arange(5), bytes(size)), SECONDS)
    assert outcome.reason is None
    assert outcome.value[0].tolist() == [0, 1, 2, 3, 4]
    assert len(outcome.value[1]) == size


def read_nowhere_in_two_threads():
    started = threading.Barrier(2)

    def crash():
        started.wait()
        ctypes.string_at(0)

    threads = [threading.Thread(target=crash) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_crash_is_named_by_its_signal():
    outcome = in_child(read_nowhere_in_two_threads, SECONDS)
    assert outcome == ChildOutcome(reason="crashed a process that tried it (SIGSEGV)", has_died=True)


def test_a_crash_leaves_no_core(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_child(read_nowhere_in_two_threads, SECONDS)
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_is_killed_or_exits_is_a_reason():
    assert in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), SECONDS).reason == (
        "crashed a process that tried it (SIGKILL)"
    )
    assert in_child(lambda: os._exit(3), SECONDS).reason == "ended a process that tried it (exit code 3)"


def test_a_deadlock_ends_with_the_time():
    lock = threading.Lock()
    lock.acquire()
    begun = time.monotonic()
    outcome = in_child(lock.acquire, 0.3)
    assert outcome == ChildOutcome(reason="hung a process that tried it (no result within 0 s)", has_died=True)
    assert time.monotonic() - begun < SECONDS


def test_an_exception_and_what_is_not_picklable_are_reasons():
    def fail():
        raise KeyError("row 7")

    outcome = in_child(fail, SECONDS)
    assert outcome == ChildOutcome(reason="raised KeyError: 'row 7'")
    assert "pickle" in in_child(lambda: lambda: 0, SECONDS).reason
    assert in_child(sys.exit, SECONDS).reason == "raised SystemExit"

    class UnwordableError(Exception):
        def __str__(self):
            raise ValueError

    def fail_without_words():
        raise UnwordableError

    assert in_child(fail_without_words, SECONDS).reason == "raised UnwordableError"


@pytest.mark.parametrize("end", ["return", "hang", "crash"])
def test_what_the_child_has_started_ends_with_it(end, tmp_path):
    def work():
        process = subprocess.Popen(["sleep", "600"])
        (tmp_path / "pid").write_text(str(process.pid))
        if end == "hang":
            time.sleep(600)
        if end == "crash":
            os.abort()

    outcome = in_child(work, 2.0)
    assert outcome.has_died == (end != "return")
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + SECONDS
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_parent_s_files_are_left_alone(tmp_path, capfd):
    rows, log = tmp_path / "rows", tmp_path / "log"
    rows.write_bytes(bytes(range(100)))
    with open(rows, "rb", buffering=0) as file, open(log, "w") as written:
        file.seek(10)
        written.write("begun\n")

        def work():
            print("said in the child", flush=True)
            os.write(2, b"said by its libraries")
            written.write("written in the child\n")
            written.flush()
            return file.read(5)

        assert in_child(work, SECONDS).value == bytes(range(10, 15))
        assert file.read(2) == bytes([10, 11])
    assert log.read_text() == "begun\n"
    assert capfd.readouterr() == ("", "")


def test_the_parent_s_connections_lead_nowhere(tmp_path):
    """And a file that may be written, too, is read at a position of the child's own."""
    (tmp_path / "rows").write_bytes(bytes(range(100)))
    here, there = socket.socketpair()
    reading, writing = os.pipe()
    with here, there, open(tmp_path / "rows", "r+b", buffering=0) as file:

        def work():
            os.write(writing, b"said in the child")
            here.send(b"said in the child")
            return file.read(3)

        assert in_child(work, SECONDS) == ChildOutcome(reason="raised OSError: [Errno 9] Bad file descriptor")
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 1)
        assert in_child(lambda: file.read(3), SECONDS).value == bytes([0, 1, 2])
        assert file.read(1) == bytes([0])
    os.close(reading)
    os.close(writing)


def collect_and_be_asked_to_end():
    gc.collect()
    os.kill(os.getpid(), signal.SIGTERM)


def test_the_parent_s_handlers_and_finalizers_are_its_own(tmp_path):
    """A handler for SIGTERM saves a checkpoint, as many do; an object writes a file when it is collected."""
    saved = tmp_path / "checkpoint"
    before = signal.signal(signal.SIGTERM, lambda *_: saved.touch())

    class Finalized:
        def __del__(self):
            (tmp_path / f"finalized in {os.getpid()}").touch()

    cycle = [Finalized()]
    cycle.append(cycle)
    del cycle
    try:
        outcome = in_child(collect_and_be_asked_to_end, SECONDS)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert outcome.reason == "crashed a process that tried it (SIGTERM)"
    assert not saved.exists()
    gc.collect()
    assert {path.name for path in tmp_path.iterdir()} == {f"finalized in {os.getpid()}"}


def test_a_script_that_reaps_its_children_itself_gets_an_answer_too():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert in_child(lambda: 5, SECONDS).value == 5
        outcome = in_child(os.abort, SECONDS)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert outcome == ChildOutcome(reason="ended a process that tried it", has_died=True)


def test_torch_computes_in_a_child_of_a_process_that_used_many_threads():
    torch.rand(400, 400) @ torch.rand(400, 400)
    given = torch.rand(300, 300)
    outcome = in_child(lambda: (torch.get_num_threads(), (given @ given).sum().isfinite().item()), SECONDS)
    assert outcome.value == (1, True)


def test_a_child_can_be_had_from_any_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(in_child(functools.partial(int, "7"), SECONDS).value))
    thread.start()
    thread.join()
    assert found == [7]


def crash_if_spawned(text):
    if text == "crash":
        ctypes.string_at(0)
    return text, os.getpid() != os.getppid()


@pytest.mark.slow
def test_a_spawned_child_answers_likewise():
    assert in_spawned_child(functools.partial(crash_if_spawned, "fine"), SECONDS).value == ("fine", True)
    outcome = in_spawned_child(functools.partial(crash_if_spawned, "crash"), SECONDS)
    assert outcome.reason == "crashed a process that tried it (SIGSEGV)"
    assert "pickle" in in_spawned_child(lambda: 0, SECONDS).reason


def test_a_child_that_can_t_be_prepared_says_why(monkeypatch):
    def fails():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("plumb.host.forked_trial._part_from_parent", fails)
    assert in_child(lambda: 1, SECONDS).reason == "raised OSError: [Errno 24] Too many open files"
