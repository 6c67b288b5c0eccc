"""Recovery of journals of tunings that were killed together with their watchers, e.g. when a machine stops."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from plumb.journal import putting_back, records
from plumb.journal.records import KEPT, MOVED

ALIVE = "alive"
# The keeper touches the file about once a second; later changes than this come from others.
_LATE_SECONDS = 5.0


def hold(folder: str) -> int:
    """Open a file that shows, as long as a process holds it, that the journal is in use; return its descriptor."""
    descriptor = os.open(os.path.join(folder, ALIVE), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def recover(root: Path, prefix: str) -> list[str]:
    """Restore what killed tunings changed, and return a sentence for each of them.

    If any file of a tuning was changed since, none of its files is restored, and the earlier ones are kept for a while.
    """
    said = []
    for folder in sorted(root.glob(f"{prefix}*")):
        with contextlib.suppress(OSError):
            said += _recovered_if_killed(folder)
    return said


def _recovered_if_killed(folder: Path) -> list[str]:
    descriptor = os.open(folder / ALIVE, os.O_RDWR)
    try:
        # Held until all is done, because another tuning may begin meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _recovered(folder, os.fstat(descriptor).st_mtime + _LATE_SECONDS)
    except BlockingIOError:
        return []
    finally:
        os.close(descriptor)


def _recovered(folder: Path, died_at: float) -> list[str]:
    found = records.read(str(folder))
    touched = {record["path"] for record in found} | {record["to"] for record in found if record["kind"] == MOVED}
    if any(_changed_at(path) > died_at for path in touched):
        kept = folder.with_name(f"earlier-{folder.name}")
        os.rename(folder, kept)
        count = sum(record["kind"] == KEPT for record in found)
        return (
            [f"a tuning was killed, and its files were used since: {count} earlier files are in {kept}"]
            if count
            else []
        )
    # Later changes in the script's folders are not the script's, so they are not compared.
    (folder / records.SNAPSHOT).unlink(missing_ok=True)
    outcome = putting_back.put_back(str(folder), clean=False)
    if outcome.not_put_back:
        return [f"a tuning was killed, and not all of its files could be put back: they are in {folder}"]
    shutil.rmtree(folder, ignore_errors=True)
    names = ", ".join(outcome.put_back)
    return [f"a tuning was killed; the files that it had changed are put back now: {names}"] if names else []


def _changed_at(path: str) -> float:
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return 0.0
