"""Threads that read samples: one of torch's threads each, and no fork while one of them is at work or is ending."""

import os
import subprocess
import sys
import threading
import time

import pytest
import torch

from plumb.host.threads import ReadingThreads, one_torch_thread, settle

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="only Linux tells")


def test_each_reads_on_one_thread_of_torch_s_and_others_keep_theirs():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with ReadingThreads(4) as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(16))) == {1}
            assert torch.get_num_threads() == 3
        seen = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [3]
    finally:
        torch.set_num_threads(before)


def test_one_torch_thread_is_put_back():
    before = torch.get_num_threads()
    with one_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_fork_waits_for_threads_that_are_at_work():
    ended = []

    def work(place):
        time.sleep(0.2)
        ended.append(place)

    with ReadingThreads(4) as pool:
        for place in range(4):
            pool.submit(work, place)
        child = os.fork()
        if child == 0:
            os._exit(len(ended))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 4
        assert pool.is_idle


def test_a_fork_waits_for_threads_that_are_ending():
    pool = ReadingThreads(16)
    natives = set(pool.map(lambda _: (time.sleep(0.01), threading.get_native_id())[1], range(16)))
    assert any(os.path.exists(f"/proc/self/task/{native}") for native in natives)
    del pool
    settle()
    assert not any(os.path.exists(f"/proc/self/task/{native}") for native in natives)


def test_idle_threads_and_a_thread_s_own_fork_hold_nothing_up():
    def fork():
        child = os.fork()
        if child == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with ReadingThreads(4) as pool:
        begin = time.monotonic()
        assert pool.submit(fork).result() == 7
        assert fork() == 7
        assert time.monotonic() - begin < 5.0


def test_a_count_that_the_host_refuses_is_an_error_and_no_deadlock(monkeypatch):
    started = []
    start = threading.Thread.start

    def refuse(thread):
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        ReadingThreads(8)
    for thread in started:
        thread.join(10.0)
        assert not thread.is_alive()


_PARSING = """
import ast, os, threading, time
from plumb.host.threads import ReadingThreads

plainly, inside, most = ast.parse, [], []

def watched(*arguments, **keywords):
    inside.append(1)
    most.append(len(inside))
    time.sleep(0.005)
    try:
        return plainly(*arguments, **keywords)
    finally:
        inside.pop()

ast.parse = watched
with ReadingThreads(8) as pool:
    assert list(pool.map(ast.literal_eval, ["(1, 2)"] * 40)) == [(1, 2)] * 40
with ReadingThreads(2):
    pass
assert max(most) == 1, most

# Somebody else's thread parses while a worker is forked, which parses, too.
thread = threading.Thread(target=lambda: [ast.literal_eval("(1, 2)") for _ in range(40)])
thread.start()
time.sleep(0.05)
child = os.fork()
if child == 0:
    os._exit(ast.literal_eval("7"))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_one_thread_at_a_time_parses_python_and_a_fork_does_not_wait_for_it():
    done = subprocess.run([sys.executable, "-c", _PARSING], capture_output=True, text=True, timeout=60)
    assert done.stdout == "7\n", done.stderr
