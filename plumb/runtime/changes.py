"""A change in what making a sample reads: its place, and of which sort it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Change:
    """Something that was another at the look before: its place for people, such as `Rows.progress`.

    `is_growth` says that entries were added to a dictionary, or written where a list had None, and nothing else: what a
    memory of samples does. `is_resized` says that any other collection has more items than before, or fewer.
    `is_scratch` says that it belongs to a library's transform: what that has drawn for a sample, as a rule.
    `is_name` says that a name stands for something else, `is_object` that this is no plain value, but an object of
    another class.
    """

    place: str
    is_growth: bool = False
    is_resized: bool = False
    is_scratch: bool = False
    is_name: bool = False
    is_object: bool = False


class Reached(NamedTuple):
    """How a value was reached; `key` tells it from all others, `place` is for people.

    `is_quiet` says that it lies in an object of a library's, which may use it as it likes, `is_scratch` that it hangs
    from a library's transform, `is_receiver` that it is the object of a method that the user has handed over.
    """

    key: int
    place: str
    is_quiet: bool = False
    is_scratch: bool = False
    is_receiver: bool = False

    def to(self, part: Any, place: str | None = None, is_quiet: bool | None = None) -> Reached:
        return Reached(
            hash((self.key, part)),
            self.place if place is None else place,
            self.is_quiet if is_quiet is None else is_quiet,
            self.is_scratch,
        )


def told_from(before: Any, sight: Any, value: Any, place: str, is_scratch: bool) -> Change:
    """Return the change of a value that is no object: what was seen of it before, and what is seen now."""
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
