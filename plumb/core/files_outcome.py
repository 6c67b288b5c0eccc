"""Outcome of a tuning for the script's files, as data for reports and plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plumb.core.printable import printable

# Files that are not as they were are all named, up to this number.
_LEFT_AT_MOST = 20


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
        by_others: Files in the script's folders that changed or appeared while no program of the script ran, or that
            another process uses; they are left as they are, and `why` says where their earlier state is kept.
        replaced: Paths at which the state of the end was replaced or removed only because it is of a time at which a
            program of the script ran; it is kept.
        replaced_in: Folder with these states, under their full paths; empty if there are none.
        listed_in: File with the paths in `not_put_back` and `by_others`; empty if they are few.

    """

    put_back: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    cleaned: tuple[str, ...] = ()
    not_put_back: tuple[UnkeptFile, ...] = ()
    by_others: tuple[UnkeptFile, ...] = ()
    replaced: tuple[str, ...] = ()
    replaced_in: str = ""
    listed_in: str = ""

    @property
    def written(self) -> tuple[str, ...]:
        """All paths that the script is known to have written, sorted."""
        unkept = [file.path for file in self.not_put_back]
        return tuple(sorted({*self.put_back, *self.new, *self.cleaned, *unkept}))

    def sentences(self, here: Path, at_most: int, is_trace: bool = False) -> list[str]:
        """Return sentences on the outcome for the user; paths below `here` are shown relative to it.

        Args:
            here: Folder in which the command was started.
            at_most: Largest number of paths named in a sentence on files that are as they were, or new.
            is_trace: Whether the script was traced and not tuned.

        """
        work, remedy = ("trace", "") if is_trace else ("tuning", " (tune with --clean to remove)")
        at_most_left = max(at_most, _LEFT_AT_MOST)

        def named(paths: Sequence[str], at_most: int = at_most, where: str = "") -> str:
            shown = [_from(path, here) for path in paths[:at_most]]
            more = len(paths) - len(shown)
            return ", ".join(shown) + (f" and {more:,} more{where}" if more > 0 else "")

        found = []
        if self.put_back:
            files = "the earlier file" if len(self.put_back) == 1 else "the earlier files"
            found.append(f"Your script changed {named(self.put_back)} during the {work}; plumb put {files} back.")
        if self.new:
            found.append(f"New, made by your script during the {work}: {named(self.new)}{remedy}.")
        if self.cleaned:
            found.append(f"Removed again, made by your script during the tuning: {named(self.cleaned)}.")
        found += [
            f"Your script changed {_from(file.path, here)} during the {work}; plumb could not put it back: {file.why}."
            for file in self.not_put_back[:at_most_left]
        ]
        where = f" (all are in {printable(self.listed_in)})" if self.listed_in else ""
        if len(self.not_put_back) > at_most_left:
            more = len(self.not_put_back) - at_most_left
            found.append(f"{more:,} more files could not be put back{where or '; the plan lists them'}.")
        for why in dict.fromkeys(file.why for file in self.by_others):
            left = [file.path for file in self.by_others if file.why == why]
            found.append(f"Left alone: {named(left, at_most_left, where)} {why}.")
        if self.replaced:
            found.append(
                f"No process was seen to write {named(self.replaced, at_most_left)}, but a program of your script ran "
                f"when that changed. What plumb replaced or removed there is kept in {printable(self.replaced_in)}."
            )
        return found


def _from(path: str, here: Path) -> str:
    prefix = f"{here}/"
    return printable(path[len(prefix) :] if path.startswith(prefix) else path)
