"""Changes in the objects that samples are made from: place and kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Change:
    """A difference from the previous check, with its place for people, such as `Rows.progress`.

    `is_growth`: entries were only added to a dictionary, or written where a list had None, as a cache of samples does.
    `is_resized`: any other collection has more or fewer items than before. `is_scratch`: it belongs to a library's
    transform, usually values drawn for a sample. `is_name`: a name refers to something else. `is_object`: the value is
    no plain one and no array, but an object of another class.
    """

    place: str
    is_growth: bool = False
    is_resized: bool = False
    is_scratch: bool = False
    is_name: bool = False
    is_object: bool = False
    is_item: bool = False


class ValuePath(NamedTuple):
    """Path by which a value was reached; `key` identifies it, `place` describes it for people.

    `is_quiet`: the value lies in a library's object, which may use it freely. `is_scratch`: it belongs to a library's
    transform. `is_receiver`: it is the object of a method that the user passed as a function.
    """

    key: int
    place: str
    is_quiet: bool = False
    is_scratch: bool = False
    is_receiver: bool = False

    def to(self, part: Any, place: str | None = None, is_quiet: bool | None = None) -> ValuePath:
        return ValuePath(
            hash((self.key, part)),
            self.place if place is None else place,
            self.is_quiet if is_quiet is None else is_quiet,
            self.is_scratch,
        )


def change_between(before: Any, sight: Any, value: Any, place: str, is_scratch: bool) -> Change:
    """Return the change of a value that is no object, from its earlier and its present summary."""
    is_growth = _has_grown(value, before, sight)
    is_resized = isinstance(value, (list, dict, set)) or hasattr(value, "popleft")
    is_resized = is_resized and not is_growth and isinstance(before, tuple) and before[0] != sight[0]
    return Change(place, is_growth, is_resized, is_scratch)


def _has_grown(value: Any, before: Any, sight: Any) -> bool:
    """Return whether entries were added to a dictionary, or written where a list had None, and nothing else changed."""
    if type(value).__name__ in ("Counter", "defaultdict") or not isinstance(before, tuple):
        return False
    if isinstance(value, dict):
        pairs = before[1]
        return bool(sight[0] > before[0] and sight[1][: len(pairs)] == pairs)
    if isinstance(value, list) and before[0] == sight[0]:
        return all(one == other or one is None for one, other in zip(before[1], sight[1], strict=True))
    return False
