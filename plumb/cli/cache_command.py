"""`plumb cache`: the sample stores on this host."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from plumb.core.errors import CommandError
from plumb.report.output import wide_console
from plumb.runtime.store import catalog


def list_stores() -> None:
    """Print the sample stores on this host. Raise ExplainedError if a folder of theirs can't be trusted."""
    from plumb.report.store_list import print_stores

    with _folder_errors():
        print_stores(catalog.find_stores(), time.time(), wide_console())


def clear_stores(folder: Path | None) -> None:
    """Remove the stores that no process uses, in a cache folder or everywhere. Raise as `list_stores` does."""
    from plumb.report.store_list import print_cleared

    with _folder_errors():
        print_cleared(*catalog.clear_stores(folder), wide_console())


@contextlib.contextmanager
def _folder_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CommandError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None
