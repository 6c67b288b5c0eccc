"""Copies of files that are about to change: by reflink if the file system supports it, otherwise by bytes."""

from __future__ import annotations

import contextlib
import os
import shutil

from plumb.core.errors import PlumbError

# Larger files are not copied, because the script would have to wait too long, nor files whose copy would leave the disk
# with less room than this.
LARGEST_BYTES = 2 * 2**30
ROOM_LEFT_BYTES = 512 * 2**20
_CHUNK_BYTES = 64 * 2**20


class TooLargeError(PlumbError, OSError):
    """A file that is not copied; the message says why, in a few words."""


def check_room(size: int, folder: str) -> None:
    """Raise TooLargeError if a copy of `size` bytes in `folder` is too large for a tuning or for the disk."""
    if size > LARGEST_BYTES:
        raise TooLargeError(f"larger than the {LARGEST_BYTES // 2**30} GiB that are copied")
    if shutil.disk_usage(folder).free - size < ROOM_LEFT_BYTES:
        raise TooLargeError("no room on the disk for a copy")


def copy_aside(path: str, target: str) -> None:
    """Copy a file's content, mode, times and attributes to the new file `target`.

    Args:
        path: An existing regular file.
        target: A path in the journal's folder. It appears there only when the copy is complete.

    Raises:
        TooLargeError: The file is too large to be copied.
        OSError: The file can't be read, or the copy can't be written.

    """
    size, part = os.stat(path).st_size, f"{target}.part"
    try:
        if not _reflinked(path, part):
            check_room(size, os.path.dirname(target))
            with open(path, "rb", buffering=0) as source, open(part, "wb", buffering=0) as copy:
                _copy_bytes(source.fileno(), copy.fileno())
        shutil.copystat(path, part)
        os.replace(part, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


def _reflinked(path: str, target: str) -> bool:
    """Make `target` share the blocks of `path`, which takes no room; return whether the file system supports that."""
    import fcntl

    ficlone = 0x40049409
    try:
        with open(path, "rb", buffering=0) as source, open(target, "wb", buffering=0) as copy:
            fcntl.ioctl(copy.fileno(), ficlone, source.fileno())
    except OSError:
        return False
    return True


def _copy_bytes(source: int, target: int) -> None:
    while True:
        try:
            moved = os.copy_file_range(source, target, _CHUNK_BYTES)
        except (OSError, AttributeError):
            break
        if not moved:
            return
    # If the kernel can't copy between these two files, the rest is read and written by this process.
    while data := os.read(source, 1 << 20):
        view = memoryview(data)
        while view:
            view = view[os.write(target, view) :]
