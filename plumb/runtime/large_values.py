"""Large values on a walk, looked at by windows: which windows are next, goes on from look to look."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, NamedTuple

from plumb.runtime.changes import Change, Reached
from plumb.runtime.time_box import TimeBox
from plumb.runtime.windows import Windows


class Large(NamedTuple):
    """A large value as it is met: `part` digests one of its `windows`, and `shape` decides on where these lie.

    With `in_turn`, a thorough look goes on until each window was seen. `is_indexed` says that one window can be found
    without a walk through those before it.
    """

    part: Callable[[int], Any]
    windows: int
    shape: Any
    way: Reached
    in_turn: bool = True
    is_indexed: bool = True


class LargeValues:
    """The windows of all large values that were met, by how these were reached.

    With `by_value`, looks follow each other at once, and compare what both have come to: each begins at the first one.
    """

    def __init__(self, by_value: bool) -> None:
        self._is_by_value = by_value
        self._windows: dict[int, Windows] = {}
        self._met: list[Large] = []

    def begin_look(self) -> None:
        """Begin a thorough look."""
        for windows in self._windows.values():
            windows.begin(anew=self._is_by_value)

    def begin_walk(self) -> None:
        """Forget what was met on the walk before."""
        self._met.clear()

    def meet(self, large: Large) -> Iterator[Change]:
        """Look at the next window of a value, and yield what has changed."""
        self._met.append(large)
        yield from self._look_at(large)

    def go_on(self, box: TimeBox, near: Sequence[float] = ()) -> Iterator[Change]:
        """Go on with the windows of all that was met until each was seen once, or the time is up.

        Args:
            box: Time limit.
            near: Places in values with an index, as shares of their lengths, whose windows come first, time or not.

        """
        for large in [each for each in self._met if each.is_indexed]:
            # The last window may be a short one, which decides on whether a place lies in this window or that.
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
        """Take the windows as they are at the next look for what they were before."""
        self._windows.clear()

    def forget_all_but(self, visited: Container[int]) -> None:
        """Forget what was not visited in this look, and the windows that were not looked at."""
        self._windows = {key: windows for key, windows in self._windows.items() if key in visited}
        for windows in self._windows.values():
            windows.forget_earlier()

    def _look_at(self, large: Large, number: int | None = None) -> Iterator[Change]:
        windows = self._windows.setdefault(large.way.key, Windows())
        try:
            is_changed = windows.look(large.part, large.windows, large.shape, number)
        except RuntimeError:
            # Another thread changes it at this moment: not this time.
            return
        if is_changed:
            yield Change(large.way.place, is_scratch=large.way.is_quiet or large.way.is_scratch)
