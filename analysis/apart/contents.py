"""Contents of batches, so that loaders can be held to the same work; needs numpy and nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

# Random contents may differ by this share of their spread, and by this share in size: both are about samples.
_MEAN_APART, _SPREAD_APART, _SIZE_APART = 0.2, 0.2, 0.2


@dataclass
class Contents:
    """Some batches, told exactly and in the large.

    `checksum` is of every value in order; integers of any width and floats of any width count alike. `kinds` sums up
    the arrays of one kind of number and so many dimensions: how many there were, their values, and these values' sums.
    """

    batches: int = 0
    checksum: int = 0
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def contents_of(batches: Iterable[Any]) -> Contents:
    """Read `batches` and keep none of them; return a summary of their contents."""
    seen = Contents()
    for batch in batches:
        seen.batches += 1
        for array in leaves(batch):
            plain = _plain(array)
            seen.checksum = zlib.crc32(plain.tobytes(), seen.checksum)
            numbers = plain.astype(np.float64)
            sums = {"arrays": 1.0, "values": float(plain.size), "sum": numbers.sum(), "squares": (numbers**2).sum()}
            known = seen.kinds.setdefault(f"{plain.dtype.kind}{plain.ndim}", dict.fromkeys(sums, 0.0))
            known.update({name: known[name] + float(value) for name, value in sums.items()})
    return seen


def leaves(batch: Any) -> Iterator[np.ndarray]:
    """Yield the arrays of nested lists, tuples and dicts, in their order; tensors as arrays."""
    if isinstance(batch, dict):
        for key in sorted(batch):
            yield from leaves(batch[key])
    elif isinstance(batch, (list, tuple)):
        for part in batch:
            yield from leaves(part)
    else:
        yield np.asarray(batch)


def difference(mine: Contents, theirs: Contents, *, exact: bool) -> str:
    """In what two differ, in words; empty where they are the same, or alike where they are random."""
    if mine.batches != theirs.batches:
        return f"{mine.batches} batches against {theirs.batches}"
    if exact:
        return "" if mine.checksum == theirs.checksum else "the values are not the same, bit for bit"
    if mine.kinds.keys() != theirs.kinds.keys():
        return f"arrays of {', '.join(mine.kinds)} against {', '.join(theirs.kinds)}"
    apart = (_apart(kind, mine.kinds[kind], theirs.kinds[kind]) for kind in mine.kinds)
    return next((text for text in apart if text), "")


def same_totals(mine: Contents, theirs: Contents) -> bool:
    """Return whether two passes have the same sums of whole numbers, in whatever order and however padded by zeros."""
    return _totals(mine) == _totals(theirs)


def _totals(seen: Contents) -> dict[str, float]:
    return {kind: sums["sum"] for kind, sums in seen.kinds.items() if kind[0] in "iu"}


def _apart(kind: str, mine: dict[str, float], theirs: dict[str, float]) -> str:
    if mine["arrays"] != theirs["arrays"]:
        return f"{mine['arrays']:g} arrays of {kind} against {theirs['arrays']:g}"
    if abs(mine["values"] - theirs["values"]) > _SIZE_APART * mine["values"]:
        return f"{mine['values']:g} values of {kind} against {theirs['values']:g}"
    (mean, spread), (other_mean, other_spread) = _moments(mine), _moments(theirs)
    if abs(mean - other_mean) > _MEAN_APART * spread or abs(spread - other_spread) > _SPREAD_APART * spread:
        return f"{kind} is {mean:.3g} ± {spread:.3g} against {other_mean:.3g} ± {other_spread:.3g}"
    return ""


def _moments(sums: dict[str, float]) -> tuple[float, float]:
    mean = sums["sum"] / max(sums["values"], 1.0)
    return mean, max(sums["squares"] / max(sums["values"], 1.0) - mean**2, 0.0) ** 0.5


def _plain(array: np.ndarray) -> np.ndarray:
    kind = array.dtype.kind
    return np.ascontiguousarray(array, dtype={"f": np.float32, "b": np.int64, "i": np.int64, "u": np.int64}[kind])
