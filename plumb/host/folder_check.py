"""Check that files can be made in a folder."""

from __future__ import annotations

import tempfile
from pathlib import Path


def existing_part(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def why_no_files(folder: Path) -> str:
    """Return why no file can be made in an existing folder, in lower case; empty if one can.

    Only an attempt shows what a read-only mount, a full disk or a special file system refuses.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return ""
