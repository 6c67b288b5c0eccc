"""Patches of the source files that make a plan's loaders, with remarks and problems."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libcst as cst

from plumb.core.atomic_file import replace_file
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Plan
from plumb.core.units import format_rate
from plumb.report.patch.call_edit import Advice, amend, literal_argument
from plumb.report.patch.source_file import LoaderCall, SourceError, SourceFile
from plumb.report.patch.value_origin import UNKNOWN
from plumb.report.wording import LEAST_REST

_NOT_THE_USERS = {"site-packages", "dist-packages", "node_modules", "__pycache__"}


@dataclass(frozen=True)
class FilePatch:
    """A file's content before and after the patch."""

    path: Path
    before: bytes
    after: bytes
    encoding: str

    def diff(self) -> str:
        """Return the unified diff, as `git apply` and `patch -p1` accept it in the current directory."""
        name = os.path.relpath(self.path)
        old, new = (_lines(data.decode(self.encoding)) for data in (self.before, self.after))
        diff = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
        return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in diff)

    def write(self) -> None:
        """Replace the file atomically and keep its permissions. Raise OSError if that fails."""
        path = self.path.resolve()
        replace_file(path, self.after, like=path.stat())


@dataclass(frozen=True)
class Patch:
    """Output of `plumb apply`: patches, remarks on what they can't express, and problems, one line each."""

    files: tuple[FilePatch, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass
class _Wanted:
    """A call, and the calls that the plans of the loaders made by it ask for."""

    call: LoaderCall
    loaders: list[LoaderResult] = field(default_factory=list)
    nodes: list[cst.Call] = field(default_factory=list)


def patch(plan: Plan, script: Path, folder: Path, run_command: str) -> Patch:
    """Build the patch of the sources that gives the loaders of `script` their planned configurations.

    Args:
        plan: Plan of the loaders.
        script: The user's script.
        folder: Folder in which other source files are searched.
        run_command: Command that runs the script with the whole plan, including plumb's runtime.

    """
    remarks: list[str] = []
    problems: list[str] = []
    advice: list[tuple[LoaderResult, Advice]] = []
    persisting: list[str] = []
    sources = _Sources(script, folder)
    wanted: dict[Path, dict[cst.Call, _Wanted]] = {}
    for loader in plan.loaders:
        config = loader.expressible
        remarks += _runtime_lines(loader, config, run_command)
        try:
            source, call = sources.find(loader, plan.loaders)
        except SourceError as error:
            if loader.config != loader.baseline.config:
                problems.append(f"{loader.name} ({loader.site}): {error}")
            continue
        of_call = wanted.setdefault(source.path, {}).setdefault(call.node, _Wanted(call))
        of_call.loaders.append(loader)
        if config is None or config == loader.baseline.config:
            of_call.nodes.append(call.node)
            continue
        amended = amend(source, call, loader.name, loader.baseline.config, config)
        of_call.nodes.append(amended.node)
        advice += [(loader, a) for a in amended.advice]
        remarks += [f"{loader.name} ({source.place(call.node)}): {a}" for a in amended.advice]
        persisting += [loader.name] if amended.persists else []
    remarks += [*_contradictions(advice, run_command), *_persistence(persisting)]
    files = []
    for path, calls in wanted.items():
        source = sources.read(path)
        problems += [_conflict(w, run_command) for w in calls.values() if not _agree(source, w)]
        files.append(_file_patch(source, {w.call.node: w.nodes[0] for w in calls.values() if _agree(source, w)}))
    return Patch(tuple(file for file in files if file.before != file.after), tuple(remarks), tuple(problems))


def _file_patch(source: SourceFile, new: Mapping[cst.Call, cst.Call]) -> FilePatch:
    after = source.module.visit(_Replace(new))
    assert isinstance(after, cst.Module)
    return FilePatch(source.path, source.module.bytes, after.bytes, source.module.encoding.removesuffix("-sig"))


def _runtime_lines(loader: LoaderResult, expressible: Config | None, run_command: str) -> list[str]:
    """Return remarks on what the patch achieves and what plumb's runtime would add, if torch can't express it all."""
    if not loader.config.needs_runtime:
        return []
    gain, rest = loader.plain_gain, loader.rest_gain
    if expressible is None:
        patch = "no arguments of torch's own were measured to be better than yours"
    elif gain is None:
        patch = f"the patch has the best without the rest: {expressible}"
    else:
        patch = f"the patch has the best of torch's own arguments, {expressible}, {gain:.2f} times as fast as now"
    if rest is not None and rest < 1 + LEAST_REST:
        return [f"{loader.name} ({loader.site}): {patch}; the rest of the plan adds nothing to that"]
    more = f", {rest:.2f} times as fast as that" if rest is not None else ""
    return [
        f"{loader.name} ({loader.site}): {patch}. DataLoader's own arguments can't set all of {loader.config}: "
        f"{format_rate(loader.tuned.samples_per_second)}{more}, with",
        f"    {run_command}",
    ]


def _persistence(loaders: Sequence[str]) -> Iterator[str]:
    """Yield a remark on what plumb's runtime corrects, and torch alone does not, if workers newly persist."""
    if loaders:
        yield (
            f"persistent_workers=True ({', '.join(loaders)}) keeps workers from seeing what you change in a dataset "
            "between epochs, and later epochs are shuffled by other random numbers; plumb run has neither effect"
        )


def _contradictions(advice: Sequence[tuple[LoaderResult, Advice]], run_command: str) -> Iterator[str]:
    """Yield a remark for each place that would have to hold two values at once."""
    for key in dict.fromkeys((a.argument, a.subject) for _, a in advice if a.argument):
        about = [(loader, a) for loader, a in advice if (a.argument, a.subject) == key]
        if len({a.instead for _, a in about}) > 1:
            names = " and ".join(dict.fromkeys(loader.name for loader, _ in about))
            yield (
                f"{names} share {key[1]}: choose what suits the loader that you train on, or give each its own value "
                f"with {run_command}"
            )


def _agree(source: SourceFile, wanted: _Wanted) -> bool:
    return len({source.code(node) for node in wanted.nodes}) == 1


def _conflict(wanted: _Wanted, run_command: str) -> str:
    names = " and ".join(loader.name for loader in wanted.loaders)
    return (
        f"{names} are made by the same call (line {wanted.call.line}) but want different arguments: give each a call "
        f"of its own, or use {run_command}"
    )


class _Replace(cst.CSTTransformer):
    def __init__(self, new: Mapping[cst.Call, cst.Call]) -> None:
        super().__init__()
        self._new = new

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.Call:  # noqa: N802 - libcst's name
        return self._new.get(original_node, updated_node)


class _Sources:
    """The user's files, each parsed once."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script = script
        self._folder = folder
        self._read: dict[Path, SourceFile] = {}

    def read(self, path: Path) -> SourceFile:
        """Return the parsed file. Raise SourceError if it can't be parsed."""
        if path not in self._read:
            self._read[path] = SourceFile(path)
        return self._read[path]

    def find(self, loader: LoaderResult, loaders: Sequence[LoaderResult]) -> tuple[SourceFile, LoaderCall]:
        """Return the file and the call that make `loader`. Raise SourceError, whose message omits the loader's name."""
        file = loader.site.rpartition(":")[0]
        paths = [self._script] if self._script.name == file else list(_files(self._folder, file))
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
    if not found:
        raise SourceError(f"{source.path.name} has no call that makes it; a library may. Tune again if you moved it")
    if len(found) > 1:
        lines = ", ".join(str(call.line) for call in found)
        raise SourceError(f"is not there any more, and may be any of lines {lines} of {source.path.name}; tune again")
    _check(source, found[0], loader)
    return found[0]


def _check(source: SourceFile, call: LoaderCall, loader: LoaderResult) -> None:
    plain = [argument for argument in call.node.args if argument.keyword is None]
    if call.parameters is None and len(plain) > 1:
        raise SourceError(
            f"{source.code(call.node.func)} may have positional arguments of its own; write there yourself: "
            f"{_words(loader.config)}"
        )
    size = literal_argument(source, call, "batch_size")
    if size is not UNKNOWN and loader.batch_size is not None and size != loader.batch_size:
        raise SourceError(f"has batch_size={size}, the plan was made for {loader.batch_size}; tune again")


def _words(config: Config) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in config.loader_arguments().items())


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)
