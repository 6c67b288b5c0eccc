"""Ends of processes that leave nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

# They wait until the pipe to their parent closes, remove what it left in shared memory, and end by themselves.
CARETAKERS = ("resource_tracker", "torch_shm_manager")
_SHARED_MEMORY = Path("/dev/shm")
# Torch opens a segment and removes its name at once; a name that exists for longer has lost its owner.
_NAMED_FOR_SECONDS = 0.05
_KILLED_WITHIN_SECONDS = 60
# A killed process keeps its files, and their locks, until all its memory is freed.
_GONE_WITHIN_SECONDS = 2.0
# Settings of a process that its children inherit: the folder of their sockets, which multiprocessing reads, and the
# process that made it.
_FOLDER, _FOLDER_OWNER = "tempdir", "plumb_tempdir_owner"
_LAST_OF_ALL, _REMOVALS = -200, 5


def end_children() -> None:
    """SIGKILL all descendants of this process, which is about to end, except multiprocessing's and torch's helpers.

    SIGTERM is not used, because the user's handlers for it may save checkpoints. Returns when they are gone, and with
    them their marks on stores, or after `_GONE_WITHIN_SECONDS`.
    """
    _ignore_deaths()
    _clean_up_after(_kill_children(os.getpid()))


def _ignore_deaths() -> None:
    """Disable handlers of SIGCHLD: torch's raises in the main thread, where the user's code may run.

    Python's own `signal` allows that in the main thread only.
    """
    import ctypes

    default_action = ctypes.c_void_p(0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).signal(signal.SIGCHLD, default_action)


def end_trees(pids: Iterable[int]) -> None:
    """SIGKILL these processes and their descendants; all are killed before any is waited for."""
    roots = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            root = psutil.Process(pid)
            # A suspended process can't start others meanwhile, nor react to the death of its children.
            root.suspend()
            roots.append(root)
    killed = [child for root in roots for child in _kill_children(root.pid)]
    for root in roots:
        with contextlib.suppress(psutil.Error):
            root.kill()
    _clean_up_after([*roots, *killed])


def end_marked(mark: str) -> None:
    """SIGKILL every process whose environment contains `mark`, also orphans such as a pool's workers.

    Repeats the search for processes that are started meanwhile.
    """
    end_by = time.monotonic() + _GONE_WITHIN_SECONDS
    while found := [process for process in _marked(mark) if not _is_caretaker(process)]:
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        _clean_up_after(found)
        if time.monotonic() > end_by:
            return


def _marked(mark: str) -> list[psutil.Process]:
    line, found = mark.encode(errors="surrogateescape"), []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, psutil.Error):
            if int(folder.name) != os.getpid() and line in (folder / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(folder.name)))
    return found


def _is_caretaker(process: psutil.Process) -> bool:
    try:
        return any(name in part for part in process.cmdline() for name in CARETAKERS)
    except psutil.Error:
        return True


def _kill_children(pid: int) -> list[psutil.Process]:
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    killed = []
    for child in children:
        with contextlib.suppress(psutil.Error):
            if not _is_caretaker(child):
                child.kill()
                killed.append(child)
    return killed


def _clean_up_after(killed: list[psutil.Process]) -> None:
    remove_segments(process.pid for process in killed)
    give_up_at = time.monotonic() + _GONE_WITHIN_SECONDS
    while any(map(_is_there, killed)) and time.monotonic() < give_up_at:
        time.sleep(0.005)


def _is_there(process: psutil.Process) -> bool:
    """Return whether a process still holds resources; one that only waits for its parent's `wait` doesn't.

    A process looks like that as soon as its first thread ends, but its other threads keep the same files.
    """
    try:
        return bool(process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1))
    except psutil.Error:
        return False


def remove_segments(pids: Iterable[int]) -> None:
    """Remove the shared memory that just killed processes were about to pass on.

    Torch's descriptors keep a segment alive without a name; a process killed between creating the name and removing it
    leaves it for ever. Old segments are left alone: they belong to another process that once had such a number, perhaps
    in another container with the same `/dev/shm`.
    """
    now = time.time()
    left = []
    for segment in (found for pid in pids for found in _SHARED_MEMORY.glob(f"torch_{pid}_*")):
        with contextlib.suppress(OSError):
            status = segment.stat()
            if status.st_uid == os.getuid() and now - status.st_ctime < _KILLED_WITHIN_SECONDS:
                left.append(segment)
    if not left:
        return
    time.sleep(_NAMED_FOR_SECONDS)
    for segment in left:
        with contextlib.suppress(OSError):
            segment.unlink()


def end_with_parent() -> None:
    """Make Linux kill this process as soon as its parent ends for any reason; do nothing elsewhere."""
    import ctypes

    set_parent_death_signal = 1
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL, 0, 0, 0)


def forks_end_with_us() -> None:
    """Make Linux kill processes forked from the main thread as soon as this process ends.

    Torch's workers notice that by themselves, but only every five seconds. Forks of other threads are left alone,
    because Linux would kill them when that thread ends.
    """
    from_main_thread = False

    def before() -> None:
        nonlocal from_main_thread
        from_main_thread = threading.current_thread() is threading.main_thread()

    def in_child() -> None:
        if from_main_thread:
            end_with_parent()

    os.register_at_fork(before=before, after_in_child=in_child)


def keep_sockets_together() -> None:
    """Put the sockets of all workers started from now on into a folder that is removed when this process ends.

    Persistent workers are killed at the end of a script, and would each leave a folder. If no folder can be made, they
    make their own, or fail as they would.
    """
    settings = _process_settings()
    if settings.get(_FOLDER) is None:
        with contextlib.suppress(OSError):
            share_temporary_folder()
            settings[_FOLDER_OWNER] = os.getpid()


def prepare_sockets() -> None:
    """In a worker's first steps: make the folder of its sockets, unless its parent has made one for all.

    Otherwise a thread makes it with the first batch, perhaps after the worker has removed its folders to end. The last
    worker to end removes the parent's folder if the parent was killed.
    """
    settings, parent = _process_settings(), multiprocessing.parent_process()
    if settings.get(_FOLDER) is None:
        with contextlib.suppress(OSError):
            folder = settings[_FOLDER] = tempfile.mkdtemp(prefix="pymp-")
            multiprocessing.util.Finalize(None, _remove, args=(folder,), exitpriority=_LAST_OF_ALL)
    elif parent is not None and settings.get(_FOLDER_OWNER) == parent.pid:
        multiprocessing.util.Finalize(None, _remove, args=(settings[_FOLDER], parent), exitpriority=_LAST_OF_ALL)


def _remove(folder: str, unless_alive: Any = None) -> None:
    if unless_alive is not None and unless_alive.is_alive():
        return
    # A thread that still sends a batch may make its socket in there meanwhile; it makes no second one.
    for _ in range(_REMOVALS):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return


def share_temporary_folder(folder: str | None = None) -> None:
    """Put the sockets of all workers into one folder, by default this process's own, which is removed at its end.

    Otherwise each killed worker would leave a folder behind.
    """
    if folder is None:
        multiprocessing.util.get_temp_dir()
    else:
        _process_settings()[_FOLDER] = folder


def _process_settings() -> dict[str, Any]:
    """Return what `get_temp_dir` reads, and a new process inherits, whatever its start method."""
    settings: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    return settings
