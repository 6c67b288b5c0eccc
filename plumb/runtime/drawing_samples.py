"""Count of samples that draw random numbers where a rewrite allows none; several end the rewrite."""

from __future__ import annotations

from plumb.runtime.deferred.placeholder import VariesError

FEWEST = 8
SHARE = 0.1
"""If only a rare class is augmented, few samples draw: the others' values are right, and stay stored."""


class DrawsError(VariesError):
    """Random numbers are drawn where a rewrite allows none. The message is one line."""


class DrawCounter:
    """Number of samples that one process has read, and of those that drew random numbers before the cut."""

    def __init__(self) -> None:
        self._samples = 0
        self._drew = 0

    def note(self, samples: int, drew: int) -> None:
        """Count samples that were read, from the store or not, and those of them that drew."""
        self._samples += samples
        self._drew += drew

    def check(self, after: str) -> None:
        """Raise DrawsError if so many samples drew that the code must differ from the validated one."""
        if self._drew >= FEWEST and self._drew >= SHARE * self._samples:
            raise DrawsError(
                f"{self._drew} of {self._samples} samples drew random numbers before the end of {after}, where none "
                "did when that was found out"
            )
