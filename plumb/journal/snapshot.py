"""Listing of the script's folders before a tuning, with copies of small files.

The audit hook does not see writes of C libraries without a known entry point, nor those of other programs. A comparison
with the listing shows their changes, and the copies undo them.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from plumb.journal import records
from plumb.journal.copying import copy_aside
from plumb.journal.records import Record

_ENTRIES_AT_MOST = 20_000
# Limits on the time and room for listing and copying, because the script starts only afterwards.
_LISTING_SECONDS, _COPYING_SECONDS = 2.0, 2.0
_BYTES_AT_MOST, _FILE_BYTES_AT_MOST = 2**30, 64 * 2**20
# The same for files that libraries seldom write, but that a program may remove together with their folder.
_SELDOM_BYTES_AT_MOST, _SELDOM_FILE_BYTES_AT_MOST = 128 * 2**20, 2**20
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
# Kinds of the listed entries.
FILE, LINK, FOLDER = "file", "link", "folder"


def take(folders: Sequence[str], journal: str, ignored: Collection[str]) -> Collection[str]:
    """List what is below `folders` in the journal, and copy small files, first those that C libraries often write.

    Args:
        folders: Real paths of the script's folders.
        journal: The journal's folder.
        ignored: Real paths of plumb's own files and folders.

    Returns:
        The paths of the listed files.

    """
    found, is_whole = entries_below(folders, ignored)
    listed = {path: _facts(path, status) for path, status in found.items()}
    files = [path for path, facts in listed.items() if facts["kind"] == FILE]
    often = [path for path in files if _is_often_written(path)]
    seldom = sorted(set(files).difference(often))
    stop_at = time.monotonic() + _COPYING_SECONDS
    count = _copy(listed, often, journal, (_FILE_BYTES_AT_MOST, _BYTES_AT_MOST), stop_at, 0)
    _copy(listed, seldom, journal, (_SELDOM_FILE_BYTES_AT_MOST, _SELDOM_BYTES_AT_MOST), stop_at, count)
    with open(os.path.join(journal, records.SNAPSHOT), "w", encoding="utf-8") as file:
        json.dump({"folders": list(folders), "ignored": list(ignored), "entries": listed, "is_whole": is_whole}, file)
    return files


def _copy(
    listed: dict[str, Record], files: Sequence[str], journal: str, limits: tuple[int, int], stop_at: float, count: int
) -> int:
    """Copy files into the journal, the smallest ones first; return the number of copies, `count` earlier ones included.

    Args:
        listed: Facts of all entries, to which the copies' names are added.
        files: Paths of the files.
        journal: The journal's folder.
        limits: Largest size of a file, and of all of them together, in bytes.
        stop_at: Time by the monotonic clock at which copying stops.
        count: Number of earlier copies.

    """
    largest, room = limits
    crowd = Counter(map(os.path.dirname, files))
    for path in sorted(files, key=lambda path: listed[path]["size"]):
        facts = listed[path]
        if facts["size"] > min(largest, room) or time.monotonic() > stop_at:
            break
        if crowd[os.path.dirname(path)] > _DATA_FILES:
            continue
        count += 1
        with contextlib.suppress(OSError):
            copy_aside(path, os.path.join(journal, records.COPIES, f"listed-{count}"))
            facts["copy"] = f"listed-{count}"
            room -= facts["size"]
    return count


def _facts(path: str, status: os.stat_result) -> Record:
    facts = records.status_of(status)
    if stat.S_ISLNK(status.st_mode):
        target = ""
        with contextlib.suppress(OSError):
            target = os.readlink(path)
        return {**facts, "kind": LINK, "target": target}
    return {**facts, "kind": FOLDER if stat.S_ISDIR(status.st_mode) else FILE}


@dataclass(frozen=True)
class Listing:
    """A journal's snapshot: the folders, plumb's own paths, facts of all entries by path, and whether these are all."""

    folders: Sequence[str] = ()
    ignored: Sequence[str] = ()
    entries: dict[str, Record] = field(default_factory=dict)
    is_whole: bool = False


def read(journal: str) -> Listing:
    """Return a journal's snapshot; an empty one if it has none."""
    try:
        with open(os.path.join(journal, records.SNAPSHOT), encoding="utf-8") as file:
            return Listing(**json.load(file))
    except (OSError, ValueError, TypeError):
        return Listing()


def entries_below(folders: Sequence[str], ignored: Collection[str]) -> tuple[dict[str, os.stat_result], bool]:
    """Return files, links and folders below `folders` with their status, and whether these are all.

    Hidden folders and folders with programs are passed over. Large trees and slow file systems are listed in part.
    """
    found: dict[str, os.stat_result] = {}
    seen: set[str] = set()
    is_whole = True
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
            for path in (os.path.join(parent, name) for name in (*names, *files)):
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    if path not in ignored and stat.S_IFMT(status.st_mode) in (
                        stat.S_IFREG,
                        stat.S_IFLNK,
                        stat.S_IFDIR,
                    ):
                        found[path] = status
            if entries > _ENTRIES_AT_MOST or time.monotonic() > stop_at:
                is_whole = False
                break
    return found, is_whole


def _is_environment(files: Sequence[str]) -> bool:
    return "pyvenv.cfg" in files


def _is_often_written(path: str) -> bool:
    name = os.path.basename(path)
    return name.endswith(_WRITTEN_FROM_C) or name.startswith(_EVENTS)
