"""Processes that are ended leave nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plumb.host.process_control import end_trees, remove_segments

SHARED_MEMORY = Path("/dev/shm")
pytestmark = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no shared memory that is seen as files")

# A parent and a child, each killed at the moment when torch has named a segment and not yet removed the name.
FAMILY = """
import os, subprocess, sys
child = [] if "child" in sys.argv else [subprocess.Popen([sys.executable, __file__, "child"])]
open(f"/dev/shm/torch_{os.getpid()}_1_1", "x").close()
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_a_family_that_is_killed_leaves_no_shared_memory(tmp_path):
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    running = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    pids = [int(running.stdout.readline()) for _ in range(2)]
    segments = [SHARED_MEMORY / f"torch_{pid}_1_1" for pid in pids]
    assert all(segment.exists() for segment in segments)
    end_trees([running.pid])
    running.wait()
    assert not any(segment.exists() for segment in segments)
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def test_the_shared_memory_of_others_is_left_alone():
    mine, other = (SHARED_MEMORY / f"torch_{number}_1_1" for number in (os.getpid(), f"{os.getpid()}0"))
    try:
        mine.touch()
        other.touch()
        remove_segments([os.getpid()])
        assert other.exists()
        assert not mine.exists()
    finally:
        mine.unlink(missing_ok=True)
        other.unlink(missing_ok=True)


# As torch does in the main thread, when a worker was killed.
LISTENING = """
import signal, subprocess, sys
from plumb.host.process_control import end_children

def raise_error(*_):
    raise RuntimeError("a worker is killed")

signal.signal(signal.SIGCHLD, raise_error)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
end_children()
print(child.poll())
"""


def test_no_handler_hears_of_the_death_of_children():
    ran = subprocess.run([sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("-9\n", "")
