"""Files that are replaced as a whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, like: os.stat_result | None = None) -> None:
    """Write a file atomically: a reader sees the old one or the new one, never a part. May raise OSError.

    Args:
        path: The file.
        data: Its new content.
        like: Status whose permissions the file gets, and its owner if that is allowed; None for those of a new file
            that all may read.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if like is not None:
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), 0o644 if like is None else like.st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
