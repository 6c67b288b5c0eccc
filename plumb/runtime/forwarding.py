"""An iterator in the script's hands that stands for torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class ForwardingIterator:
    """An iterator over the batches of another, which it is to all who look.

    Attributes, length and class are the other's, and so is what copying and pickling come to: libraries leave torch's
    iterators out of what they pickle, for example, and tell them by their class. `kind` is the class where the other
    only fills in.
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
