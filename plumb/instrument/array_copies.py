"""Copies of small arrays, for restoring what samples change in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

_LARGEST_BYTES = 1 << 20


class ArrayCopies:
    """Copies of those arrays that can be written and are small, of `most_bytes` in all."""

    def __init__(self, arrays: Iterable[np.ndarray[Any, Any]], most_bytes: int) -> None:
        self._kept: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        for array in arrays:
            if array.flags.writeable and array.nbytes <= min(_LARGEST_BYTES, most_bytes):
                most_bytes -= array.nbytes
                self._kept.append((array, array.copy()))

    def put_back(self) -> None:
        """Restore the arrays that differ; others may be in shared memory that another process writes to."""
        for array, before in self._kept:
            if array.tobytes() != before.tobytes():
                array[...] = before
