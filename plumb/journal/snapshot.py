"""Listing of the script's folders before a tuning, with copies of small files that are often written from C.

The audit hook does not see writes of C libraries without a known entry point, nor those of other programs. A comparison
with the listing shows their changes, and the copies undo them.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from plumb.journal import records
from plumb.journal.copying import copy_aside
from plumb.journal.records import Record

_ENTRIES_AT_MOST = 20_000
# Limits on the time and room for listing and copying, because the script starts only afterwards.
_LISTING_SECONDS, _COPYING_SECONDS = 2.0, 2.0
_BYTES_AT_MOST, _FILE_BYTES_AT_MOST = 2**30, 64 * 2**20
# A folder with more files than this holds data and not a training's results.
_DATA_FILES = 200
# Folders with programs, which a training doesn't write.
_PASSED_OVER = ("__pycache__", "node_modules", "site-packages")
_WRITTEN_FROM_C = (
    ".arrow", ".bin", ".ckpt", ".csv", ".db", ".feather", ".h5", ".hdf5", ".json", ".jsonl", ".log", ".mdb", ".model",
    ".nc", ".npy", ".npz", ".onnx", ".parquet", ".pickle", ".pkl", ".pt", ".pth", ".safetensors", ".sqlite",
    ".sqlite3", ".tsv", ".txt", ".wandb",
)  # fmt: skip
_EVENTS = "events.out.tfevents"


def take(folders: Sequence[str], journal: str, ignored: Collection[str]) -> Collection[str]:
    """List the regular files below `folders` in the journal, and copy those that C libraries often write.

    Args:
        folders: Real paths of the script's folders.
        journal: The journal's folder.
        ignored: Real paths of plumb's own files and folders.

    Returns:
        The paths of the listed files.

    """
    listed = {path: records.status_of(status) for path, status in files_below(folders, ignored)}
    stop_at, room = time.monotonic() + _COPYING_SECONDS, _BYTES_AT_MOST
    count = 0
    candidates = [path for path in listed if _is_often_written(path)]
    crowd = Counter(map(os.path.dirname, candidates))
    # The smallest first, so that as many files as possible are copied.
    for path in sorted(candidates, key=lambda path: listed[path]["size"]):
        facts = listed[path]
        if facts["size"] > min(_FILE_BYTES_AT_MOST, room) or time.monotonic() > stop_at:
            break
        if crowd[os.path.dirname(path)] > _DATA_FILES:
            continue
        count += 1
        with contextlib.suppress(OSError):
            copy_aside(path, os.path.join(journal, records.COPIES, f"listed-{count}"))
            facts["copy"] = f"listed-{count}"
            room -= facts["size"]
    with open(os.path.join(journal, records.SNAPSHOT), "w", encoding="utf-8") as file:
        json.dump({"folders": list(folders), "ignored": list(ignored), "files": listed}, file)
    return listed


def read(journal: str) -> tuple[list[str], list[str], dict[str, Record]]:
    """Return the folders, the ignored paths and the listed files of a journal's snapshot; empty if it has none."""
    try:
        with open(os.path.join(journal, records.SNAPSHOT), encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return [], [], {}
    return found["folders"], found["ignored"], found["files"]


def files_below(folders: Sequence[str], ignored: Collection[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield regular files below `folders` with their status, except those in hidden folders and in program folders.

    Large trees and slow file systems are listed in part.
    """
    seen: set[str] = set()
    stop_at = time.monotonic() + _LISTING_SECONDS
    for root in folders:
        entries = 0
        for parent, names, files in os.walk(root):
            if parent in seen or parent in ignored or _is_environment(files):
                names.clear()
                continue
            seen.add(parent)
            names[:] = [name for name in names if not name.startswith(".") and name not in _PASSED_OVER]
            entries += len(files) + len(names)
            for path in (os.path.join(parent, name) for name in files):
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if path not in ignored and os.path.isfile(path) and not os.path.islink(path):
                        yield path, status
            if entries > _ENTRIES_AT_MOST or time.monotonic() > stop_at:
                break


def _is_environment(files: Sequence[str]) -> bool:
    return "pyvenv.cfg" in files


def _is_often_written(path: str) -> bool:
    name = os.path.basename(path)
    return name.endswith(_WRITTEN_FROM_C) or name.startswith(_EVENTS)
