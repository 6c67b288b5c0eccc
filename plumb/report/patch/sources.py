"""The user's source files, and the places in them that a plan names."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from plumb.core.plan import LoaderResult, Plan
from plumb.report.patch.source_file import LoaderCall, SourceError, SourceFile

_NOT_THE_USERS = {"site-packages", "dist-packages", "node_modules", "__pycache__"}


class Sources:
    """The user's files, each parsed once."""

    def __init__(self, plan: Plan, script: Path, folder: Path) -> None:
        self._plan = plan
        self._script = script
        self._folder = folder
        # What the plan calls its script is now the file that the user named.
        self._planned_script = plan.script if not plan.is_module else script.name
        self._read: dict[Path, SourceFile] = {}

    def read(self, path: Path) -> SourceFile:
        """Return the parsed file. Raise SourceError if it can't be parsed."""
        path = self._script if path.resolve() == self._script.resolve() else path
        if path not in self._read:
            self._read[path] = SourceFile(path)
        return self._read[path]

    def at(self, file: str) -> SourceFile:
        """Return the file with a path relative to the script's folder. Raise SourceError if there is none."""
        if file == Path(self._planned_script).name:
            return self.read(self._script)
        path = Path(os.path.normpath(self._folder / file))
        if not path.is_file():
            raise SourceError(f"there is no {file} below {self._folder}")
        return self.read(path)

    def with_text(self, files: Sequence[str], text: str) -> Iterator[SourceFile]:
        """Yield those of the files with paths relative to the script's folder that have `text` in them."""
        for file in files:
            path = self._script if file == Path(self._planned_script).name else self._folder / file
            with contextlib.suppress(SourceError, OSError):
                if text.encode() in path.read_bytes():
                    yield self.at(file)

    def config_lines(self, file: str) -> list[str]:
        """Return the lines of a configuration file; none if it can't be read."""
        try:
            return (self._folder / file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return []

    def find(self, loader: LoaderResult, loaders: Sequence[LoaderResult]) -> tuple[SourceFile, LoaderCall]:
        """Return the file and the call that make `loader`, for a plan without the loader's construction.

        Raises SourceError, whose message omits the loader's name.
        """
        file = loader.site.rpartition(":")[0]
        is_script = file in (self._script.name, Path(self._planned_script).name)
        paths = [self._script] if is_script else list(_files(self._folder, file))
        if not paths:
            raise SourceError(f"there is no {file} below {self._folder}")
        attempts = [self._attempt(path, loader, loaders) for path in paths]
        found = [attempt for attempt in attempts if not isinstance(attempt, SourceError)]
        if len(found) > 1:
            places = ", ".join(os.path.relpath(source.path) for source, _ in found)
            raise SourceError(f"it may be made in any of {places}; give the one that is no longer used another name")
        if not found:
            raise next(attempt for attempt in attempts if isinstance(attempt, SourceError))
        return found[0]

    def _attempt(
        self, path: Path, loader: LoaderResult, loaders: Sequence[LoaderResult]
    ) -> tuple[SourceFile, LoaderCall] | SourceError:
        try:
            source = self.read(path)
            return source, _choose(source, loader, loaders)
        except SourceError as error:
            return error


def _files(folder: Path, name: str) -> Iterator[Path]:
    """Yield the files called `name` below `folder`, except those of installed packages."""
    for where, folders, files in os.walk(folder):
        if name in files:
            yield Path(where, name)
        folders[:] = sorted(
            f
            for f in folders
            if f not in _NOT_THE_USERS and not f.startswith(".") and not Path(where, f, "pyvenv.cfg").exists()
        )


def _choose(source: SourceFile, loader: LoaderResult, loaders: Sequence[LoaderResult]) -> LoaderCall:
    """Return the call that makes `loader`.

    It is looked for on the loader's line and by its name, then by its name alone (because lines move), then among calls
    that make no other loader.

    Raises:
        SourceError: There is no such call, or several.

    """
    number = loader.site.rpartition(":")[2]
    line = int(number) if number.isdecimal() else 0
    calls = source.loader_calls
    on_line = [call for call in calls if call.line <= line <= call.end_line]
    others = {other.name for other in loaders} - {loader.name}
    steps: list[Callable[[], list[LoaderCall]]] = [
        lambda: [call for call in on_line if call.name == loader.name],
        lambda: [call for call in on_line if call.name is None or loader.name.startswith(f"{call.name}[")],
        lambda: [call for call in calls if call.is_named(loader.name)],
        lambda: [call for call in calls if call.name not in others],
    ]
    found = next((found for step in steps if (found := step())), [])
    check_only(source, [call.line for call in found])
    return found[0]


def check_only(source: SourceFile, lines: Sequence[int]) -> None:
    """Raise SourceError unless one call was found; `lines` are those of all that were."""
    if not lines:
        raise SourceError(f"{source.path.name} has no call that makes it; a library may. Tune again if you moved it")
    if len(lines) > 1:
        shown = ", ".join(map(str, lines))
        raise SourceError(f"is not there any more, and may be any of lines {shown} of {source.path.name}; tune again")
