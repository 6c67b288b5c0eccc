"""Records of a journal: their kinds, their format, and the names of the files in the journal's folder.

A record is one line of JSON, written before the change that it describes, so that a process may be killed at any
moment. Undoing the records from the last one to the first one restores every path.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

Record = dict[str, Any]

# A file existed; `copy` is the name of its content in the journal's folder, `how` it got there.
KEPT = "kept"
# A file was opened for appending only: its first `size` bytes stay as they were.
GROWN = "grown"
# Nothing existed at the path. `companion` is the database whose journal the path is, if any.
ABSENT = "absent"
# A folder existed and was removed; a symbolic link existed and was removed.
FOLDER, SYMLINK = "folder", "symlink"
# A file or folder was moved from `path` to `to`.
MOVED = "moved"
# Only mode, owner or times were changed.
STATUS = "status"
# A file existed and could not be kept, for the reason in `why`.
UNKEPT = "unkept"
# A temporary file or folder that the script's own exit would remove.
SCRATCH = "scratch"
# A process of the script had the file open for writing, according to /proc.
SEEN = "seen"
# A folder of the journal on another file system, for files that are too large to be copied.
BESIDE = "beside"
# The script started another program at the time `at`, with these `words`, or looked up a C function that changes files.
# `stays` is true if its end can't be seen.
PROGRAM = "program"
# At the time `at`, no program of the script was running any more.
QUIET = "quiet"
# Kinds whose path is not one that the script changes.
NOT_CHANGES = (SCRATCH, PROGRAM, QUIET, SEEN, BESIDE)

RECORDS, LOCK, COPIES, UNDONE = "records.jsonl", "lock", "copies", "undone"
SETTINGS, STARTUP, SNAPSHOT = "settings.json", "startup", "snapshot.json"
# The environment variables that tell a program which journal to write, and mark the processes of one script.
VARIABLE, MARK = "PLUMB_JOURNAL", "PLUMB_TUNING"


def encode(record: Record) -> bytes:
    """Return the line of `record`; names that are not valid UTF-8 are preserved."""
    return json.dumps(record).encode() + b"\n"


def read(folder: str) -> list[Record]:
    """Return all whole records in a journal's folder, in the order in which they were written."""
    try:
        with open(os.path.join(folder, RECORDS), "rb") as file:
            return list(decode(file.read()))
    except FileNotFoundError:
        return []


def decode(lines: bytes) -> Iterator[Record]:
    """Yield the records in complete lines. A line cut off by a kill is skipped, because its change was never made."""
    for line in lines.splitlines(keepends=True):
        if line.endswith(b"\n"):
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def status_of(status: os.stat_result) -> Record:
    """Return a file's properties that are restored besides its content, and those by which changes are detected."""
    return {
        "mode": status.st_mode & 0o7777,
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "atime_ns": status.st_atime_ns,
        "changed_at": status.st_ctime,
        "inode": status.st_ino,
        "device": status.st_dev,
    }


def is_as_in(record: Record, status: os.stat_result) -> bool:
    """Return whether a file looks unchanged since its `record`: same inode, size and modification time."""
    return (record["inode"], record["device"], record["size"], record["mtime_ns"]) == (
        status.st_ino,
        status.st_dev,
        status.st_size,
        status.st_mtime_ns,
    )
