"""What a run on a plan would leave behind where a signal ends it is removed, and nothing that is in use."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from plumb.core.config import CacheChoice, Config
from plumb.runtime.cleanup_after_run import leaves_something

RUN = """
import os, sys, time
from pathlib import Path
from plumb.runtime import cleanup_after_run
from plumb.runtime.store import store_folder
from plumb.runtime.store.store_folder import StoreFacts, StoreUse

store_folder.SHARED_MEMORY = Path(os.environ["SHM"])
folder = Path(os.environ["SOCKETS"]); folder.mkdir()
(folder / "socket").touch()
cleanup_after_run.start(str(folder))
use = StoreUse(store_folder.memory_root() / "f", StoreFacts("Images", "load", "memory", 0))
{then}
print("ready", flush=True)
{wait}
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    shm = tmp_path / "shm"
    shm.mkdir()
    # The watcher, too, takes this for shared memory.
    startup = tmp_path / "startup"
    startup.mkdir()
    (startup / "sitecustomize.py").write_text(
        "import os, pathlib\nfrom plumb.runtime.store import store_folder\n"
        "store_folder.SHARED_MEMORY = pathlib.Path(os.environ['SHM'])"
    )
    monkeypatch.setenv("SHM", str(shm))
    monkeypatch.setenv("SOCKETS", str(tmp_path / "pymp-x"))
    root = str(Path(__file__).resolve().parent.parent.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(startup), root]))

    def start(then="", wait="time.sleep(600)", **more):
        code = RUN.format(then=then, wait=wait)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **more)
        assert process.stdout.readline() == "ready\n"
        return process

    return start


def watchers(folder: Path) -> list[psutil.Process]:
    listed = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [
        process
        for process, words in listed
        if "plumb.runtime.cleanup_after_run" in words and str(folder) in " ".join(words)
    ]


def is_clean(folder: Path) -> bool:
    return not (folder / "pymp-x").exists() and not list((folder / "shm").iterdir())


def eventually(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_run_that_a_signal_ends_leaves_nothing(number, started, tmp_path):
    run = started(start_new_session=True)
    [watcher] = watchers(tmp_path)
    assert watcher not in psutil.Process(run.pid).children(recursive=True)
    assert os.getsid(watcher.pid) != os.getsid(run.pid)
    # As a terminal, or a scheduler, ends all that it knows of.
    os.killpg(run.pid, number)
    assert run.wait() == -number
    run.stdout.close()
    eventually(lambda: is_clean(tmp_path))
    eventually(lambda: not watchers(tmp_path))


def test_nobody_is_kept_waiting_and_an_ended_run_has_no_watcher(started, tmp_path):
    # A script may wait for all its children, and whoever reads its output for the end of it.
    run = started(wait="try:\n    os.wait()\nexcept ChildProcessError:\n    print('no children')")
    assert run.stdout.read() == "no children\n"
    run.stdout.close()
    assert run.wait(timeout=30) == 0
    eventually(lambda: not watchers(tmp_path))


def test_what_a_living_process_uses_stays(started, tmp_path):
    # The run forks a process that lives on, then all its own descriptors are closed, and it goes on itself.
    run = started(then="os.fork() or (time.sleep(3), os._exit(0)); os.closerange(3, 100)")
    time.sleep(1.0)
    assert (tmp_path / "pymp-x" / "socket").exists()
    assert watchers(tmp_path)
    run.kill()
    run.wait()
    run.stdout.close()
    eventually(lambda: is_clean(tmp_path))


def test_only_plans_that_leave_something_have_a_watcher():
    assert not leaves_something(Config(num_workers=2))
    assert not leaves_something(Config(cache=CacheChoice("load", "disk", 1, 1.0, tempfile.gettempdir())))
    assert leaves_something(Config(cache=CacheChoice("load", "memory", 1, 1.0)))
    assert leaves_something(Config(num_workers=2, allocator_reuse=True))
