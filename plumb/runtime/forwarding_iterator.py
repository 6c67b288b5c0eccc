"""Iterators for the script that represent torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class ForwardingIterator:
    """Iterator over the batches of another one, from which it is indistinguishable.

    Attributes, length and class are the other's, and so are copies and pickles: for example, libraries leave torch's
    iterators out of their pickles, and recognize them by class. `kind` is the class to show if it differs from that of
    `batches`.
    """

    def __init__(self, batches: Iterator[Any], kind: type | None = None) -> None:
        self._batches = batches
        self._kind = kind or batches.__class__

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in ("_batches", "_kind"):  # an object without one is just being made
            raise AttributeError(name)
        return getattr(self._batches, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._kind

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._batches.__reduce_ex__(protocol)
