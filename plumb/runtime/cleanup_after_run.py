"""Process that outlives a run on a plan, and removes the run's remains if a signal ended it.

Torch leaves the folder of its workers' sockets behind, plumb its stores in memory. The watcher uses none of the run's
terminal, output or session; it is no child of the script, which may wait for all of its own.

Run as `python -m plumb.runtime.cleanup_after_run OWNER STARTED DESCRIPTOR FOLDER`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from plumb.core.config import Config

_PACKAGE_ROOT = Path(__file__).resolve().parent.parent.parent
_LOOK_SECONDS = 0.5
# A shell that starts the watcher and exits, so that the watcher is no child of this process.
_LET_GO = '"$@" </dev/null >/dev/null 2>&1 &'


def leaves_something(config: Config) -> bool:
    """Return whether a run with this configuration leaves files if it is killed."""
    return config.allocator_reuse or (config.cache is not None and config.cache.tier == "memory")


def start(folder: str) -> None:
    """Start the watcher of this process; `folder` is the folder of its workers' sockets.

    If no watcher can be started, plumb's next run removes the stores.
    """
    read, _ = os.pipe()
    owner = str(os.getpid())
    command = [sys.executable, "-m", "plumb.runtime.cleanup_after_run", owner, _started(owner), str(read), folder]
    paths = [str(_PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with contextlib.suppress(OSError):
        # The write end stays open in this process and in its forks, as long as any of them lives.
        subprocess.run(
            ["/bin/sh", "-c", _LET_GO, "sh", *command],
            pass_fds=(read,),
            start_new_session=True,
            cwd="/",
            env=environment,
            check=False,
        )
    os.close(read)


def main() -> None:
    """Wait until the run and all its forks have ended, and remove the remains."""
    owner, started, descriptor, folder = sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(int(descriptor), 1)
    # A script may close all unknown descriptors: then only the script's own end counts.
    while _started(owner) == started:
        time.sleep(_LOOK_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)
    from plumb.runtime.store.store_folder import remove_abandoned

    remove_abandoned()


def _started(pid: str) -> str:
    """Return the start time of a process, in ticks, which distinguishes it from a later one with the same number."""
    try:
        status = Path("/proc", pid, "stat").read_text(errors="replace")
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else fields[18]


if __name__ == "__main__":
    main()
