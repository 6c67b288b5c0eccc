"""Outcome of a tuning for the script's files, as data for reports and plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumb.core.printable import printable


@dataclass(frozen=True)
class UnkeptFile:
    """A file that is not as it was before the tuning, and why plumb could not restore it."""

    path: str
    why: str


@dataclass(frozen=True)
class FilesOutcome:
    """Paths of the script's files after a tuning; a folder's path ends with a slash, and stands for all in it.

    Attributes:
        put_back: Existing files that the script changed or removed and that were restored.
        new: Files and folders that the script made and that are still there.
        cleaned: Files and folders that the script made and plumb removed on the user's request.
        not_put_back: Existing files that the script changed and that could not be restored.
        by_others: Files in the script's folders that changed or appeared without a process of the script being seen to
            write them; they are left as they are, and `why` says where their earlier state is kept.

    """

    put_back: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    cleaned: tuple[str, ...] = ()
    not_put_back: tuple[UnkeptFile, ...] = ()
    by_others: tuple[UnkeptFile, ...] = ()

    @property
    def written(self) -> tuple[str, ...]:
        """All paths that the script is known to have written, sorted."""
        unkept = [file.path for file in self.not_put_back]
        return tuple(sorted({*self.put_back, *self.new, *self.cleaned, *unkept}))

    def sentences(self, here: Path, at_most: int) -> list[str]:
        """Return sentences on the outcome for the user; paths below `here` are shown relative to it.

        Args:
            here: Folder in which the command was started.
            at_most: Largest number of paths named in a sentence.

        """

        def named(paths: Sequence[str]) -> str:
            shown = [_from(path, here) for path in paths[:at_most]]
            more = len(paths) - len(shown)
            return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")

        found = []
        if self.put_back:
            files = "the earlier file" if len(self.put_back) == 1 else "the earlier files"
            found.append(f"Your script changed {named(self.put_back)} during the tuning; plumb put {files} back.")
        if self.new:
            found.append(
                f"New, made by your script during the tuning: {named(self.new)} (tune with --clean to remove)."
            )
        if self.cleaned:
            found.append(f"Removed again, made by your script during the tuning: {named(self.cleaned)}.")
        found += [
            f"Your script changed {_from(file.path, here)} during the tuning; plumb could not put it back: {file.why}."
            for file in self.not_put_back[:at_most]
        ]
        if len(self.not_put_back) > at_most:
            found.append(f"{len(self.not_put_back) - at_most:,} more files could not be put back; the plan lists them.")
        for why in dict.fromkeys(file.why for file in self.by_others):
            found.append(f"Left alone: {named([file.path for file in self.by_others if file.why == why])} {why}.")
        return found


def _from(path: str, here: Path) -> str:
    prefix = f"{here}/"
    return printable(path[len(prefix) :] if path.startswith(prefix) else path)
