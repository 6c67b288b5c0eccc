"""Paths of files as a journal knows them, and what the file system has at them."""

from __future__ import annotations

import os
import stat


def lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


def highest_writable(folder: str, device: int) -> str | None:
    """Return the highest writable folder above `folder` on the device; None if there is none.

    `folder` itself, which holds the files, counts only if a file system is mounted on it, because the script may remove
    it.
    """
    top = folder
    while os.path.dirname(top) != top:
        above = os.path.dirname(top)
        if os.stat(above).st_dev != device:
            return top if os.access(top, os.W_OK) else None
        if not os.access(above, os.W_OK):
            break
        top = above
    return top if top != folder or os.path.dirname(top) == top else None


def can_be_renamed(source: str, status: os.stat_result, target: str) -> bool:
    """Return False if a rename must fail or changes nothing, so that it must not be undone."""
    there, is_folder = lstat(target), stat.S_ISDIR(status.st_mode)
    if source == target or not os.path.isdir(os.path.dirname(target)) or (is_folder and is_within(target, source)):
        return False
    if there is None:
        return True
    if stat.S_ISDIR(there.st_mode) != is_folder or os.path.samestat(there, status):
        return False
    return not is_folder or not os.listdir(target)


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def entry_at(path: str) -> str:
    """Return the real path of a folder's entry: links in its folder's path are followed, the last name is not."""
    path = os.path.abspath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
