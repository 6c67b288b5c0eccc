"""Checks of large values by windows; the sequence of windows continues from check to check."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

from plumb.core.time_box import TimeBox
from plumb.instrument.byte_windows import Windows
from plumb.instrument.found_change import Change, ValuePath


class Large(NamedTuple):
    """A large value on a walk: `part` digests one of its `windows`, whose places depend on `shape`.

    With `in_turn`, a thorough check continues until each window was visited. `is_indexed`: a window can be found
    without passing through those before it.
    """

    part: Callable[[int], Any]
    windows: int
    shape: Any
    way: ValuePath
    in_turn: bool = True
    is_indexed: bool = True


class LargeValues:
    """Windows of all large values that were met, by their paths.

    With `by_value`, two checks follow each other directly and are compared, so each begins at the first window.
    """

    def __init__(self, by_value: bool) -> None:
        self._is_by_value = by_value
        self._windows: dict[int, Windows] = {}
        self._met: list[Large] = []

    def begin_look(self) -> None:
        """Begin a thorough check."""
        for windows in self._windows.values():
            windows.begin(anew=self._is_by_value)

    def begin_walk(self) -> None:
        """Forget the values met on the previous walk."""
        self._met.clear()

    def meet(self, large: Large) -> Iterator[Change]:
        """Check the next window of a value, and yield its changes."""
        self._met.append(large)
        yield from self._look_at(large)

    def go_on(self, box: TimeBox, near: Sequence[float] = ()) -> Iterator[Change]:
        """Continue with the windows of all values met until each was visited once, or the time is up.

        Args:
            box: Time limit.
            near: Places in indexed values, as shares of their lengths, whose windows come first, regardless of the
                time.
        """
        for large in [each for each in self._met if each.is_indexed]:
            # The last window may be shorter, so a place may lie in either of two windows.
            windows = {int(place * count) for place in near for count in (large.windows - 1, large.windows)}
            for number in sorted(windows):
                yield from self._look_at(large, number)
        seen, left = 1, [large for large in self._met if large.in_turn]
        while left and not box.is_over:
            seen += 1
            left = [large for large in left if large.windows >= seen]
            for large in left:
                if not box.is_over:
                    yield from self._look_at(large)

    def forget(self) -> None:
        """Forget the windows, so that the next check only records them."""
        self._windows.clear()

    def forget_all_but(self, visited: Container[int]) -> None:
        """Forget values that were not visited in this check, and windows that were not digested."""
        self._windows = {key: windows for key, windows in self._windows.items() if key in visited}
        for windows in self._windows.values():
            windows.forget_earlier()

    def _look_at(self, large: Large, number: int | None = None) -> Iterator[Change]:
        windows = self._windows.setdefault(large.way.key, Windows())
        try:
            is_changed = windows.look(large.part, large.windows, large.shape, number)
        except RuntimeError:
            # Another thread may be changing it: skipped this time.
            return
        if is_changed:
            yield Change(
                large.way.place,
                is_scratch=large.way.is_quiet or large.way.is_scratch,
                is_item=isinstance(large.shape, int),
            )
