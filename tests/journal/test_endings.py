"""However a tuning ends, the script's files are as they were, and nothing of the script stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import concurrent.futures, multiprocessing, multiprocessing.shared_memory, os, subprocess, sys, tempfile, time
from pathlib import Path

def work(number):
    return number

if __name__ == "__main__":
    temporary = tempfile.TemporaryDirectory(prefix="users-own-")
    pool = multiprocessing.Pool(2)
    pool.map(work, range(4))
    shared = multiprocessing.shared_memory.SharedMemory(create=True, size=2**20)
    queue = multiprocessing.Manager().list([1])
    executor = concurrent.futures.ProcessPoolExecutor(1)
    executor.submit(work, 1).result()
    apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path("model.pt").write_bytes(b"new")
    print("epoch,1", file=open("log.csv", "a"))
    os.remove("best.pt")
    Path("made.txt").write_text("new")
    Path(os.environ["READY"]).write_text(f"{{os.getpid()}} {{shared._name}}")
    {then}
"""
FILES = {"model.pt": b"earlier", "log.csv": b"epoch,0\n", "best.pt": b"best"}


def to_plumb(number: int) -> Callable[[int, int], None]:
    return lambda plumb, script: os.kill(plumb, number)


WAY = "then", "send", "codes"
ENDINGS = {
    "Ctrl-C": ("time.sleep(600)", to_plumb(signal.SIGINT), {130}),
    "SIGTERM": ("time.sleep(600)", to_plumb(signal.SIGTERM), {-signal.SIGTERM}),
    "SIGHUP": ("time.sleep(600)", to_plumb(signal.SIGHUP), {-signal.SIGHUP}),
    "SIGKILL": ("time.sleep(600)", to_plumb(signal.SIGKILL), {-signal.SIGKILL}),
    "the script is killed": ("time.sleep(600)", lambda plumb, script: os.kill(script, signal.SIGKILL), {1}),
    "the script fails": ("raise ValueError('mine')", None, {1}),
    "the script leaves at once": ("os._exit(0)", None, {1}),
}


@pytest.mark.parametrize(WAY, ENDINGS.values(), ids=ENDINGS)
def test_files_are_put_back_and_no_process_is_left(then, send, codes, tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(SCRIPT.format(then=then))
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    ready = tmp_path / ".ready"
    # A short path: processes make sockets in there.
    with tempfile.TemporaryDirectory() as temporary:
        monkeypatch.setenv("TMPDIR", temporary)
        monkeypatch.setenv("READY", str(ready))
        command = [sys.executable, "-m", "plumb", "tune", "--budget", "60", "train.py"]
        default = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
        tuning = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=default
        )
        script, segment = str(eventually(lambda: ready.exists() and ready.read_text())).split()
        family = [*psutil.Process(tuning.pid).children(recursive=True)] if send else []
        if send is not None:
            send(tuning.pid, int(script))
        _, err = tuning.communicate(timeout=60)
        assert tuning.returncode in codes, err
        eventually(lambda: not any(map(is_alive, family)))
        eventually(lambda: state(tmp_path) == FILES)
        eventually(lambda: not os.listdir(temporary))
        eventually(lambda: not Path("/dev/shm", segment.lstrip("/")).exists())
    if tuning.returncode != -signal.SIGKILL:
        assert (
            "Your script changed best.pt, log.csv, model.pt during the tuning; plumb put the earlier files back." in err
        )
        assert "made.txt (tune with --clean to remove)" in err
    assert not any(path.name.startswith("tmp") for path in Path(os.environ["XDG_CACHE_HOME"]).rglob("journals/*"))


def state(folder: Path) -> dict[str, bytes]:
    """The content of the files that have the time at which they were written."""
    found = [folder / name for name in FILES]
    return {path.name: path.read_bytes() for path in found if path.exists() and path.stat().st_mtime_ns == 10**18}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def eventually(told: Callable[[], object], seconds: float = 40.0) -> object:
    """What `told` says as soon as it says something; a process that was killed takes a moment to be gone."""
    end = time.monotonic() + seconds
    while not (found := told()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found
