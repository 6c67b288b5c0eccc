"""Patches of the source files that make a plan's loaders, with remarks and problems."""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import libcst as cst

from plumb.core.atomic_file import replace_file
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Plan
from plumb.core.units import format_rate
from plumb.report.patch.call_chain import Lookup, spelled, traced
from plumb.report.patch.call_edit import Advice, amend, arguments_of, literal_argument
from plumb.report.patch.shared_origins import Located, SharedOrigins
from plumb.report.patch.source_file import UNKNOWN, LoaderCall, SourceError, SourceFile
from plumb.report.patch.sources import Sources
from plumb.report.wording import LEAST_REST


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


def _located(sources: Sources, loader: LoaderResult, loaders: Sequence[LoaderResult]) -> Located:
    """Return the call that makes `loader`: the one seen when it was tuned, else the one that its site and name say.

    Raises SourceError, whose message omits the loader's name.
    """
    seen = traced(sources, loader)
    if seen is None:
        source, call = sources.find(loader, loaders)
        at = Lookup(loader.name, sources)
    else:
        call, at = seen
        source = at.links[at.level].source
    _check(source, call, loader)
    before = loader.baseline.config
    return Located(loader, source, call, arguments_of(source, call, at, before), loader.expressible or before)


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
    sources = Sources(plan, script, folder)
    found: list[Located] = []
    for loader in plan.loaders:
        remarks += _runtime_lines(loader, loader.expressible, run_command)
        try:
            found.append(_located(sources, loader, plan.loaders))
        except SourceError as error:
            if loader.config != loader.baseline.config:
                problems.append(f"{loader.name} ({loader.site}): {error}")
    shared = SharedOrigins(found, sources)
    wanted: dict[Path, dict[cst.Call, _Wanted]] = {}
    for each in found:
        loader, source, call = each.loader, each.source, each.call
        of_call = wanted.setdefault(source.path, {}).setdefault(call.node, _Wanted(call))
        of_call.loaders.append(loader)
        if each.after == loader.baseline.config:
            of_call.nodes.append(call.node)
            continue
        others = functools.partial(shared.others, each)
        amended = amend(source, call, each.arguments, loader.baseline.config, each.after, others)
        of_call.nodes.append(amended.node)
        advice += [(loader, a) for a in amended.advice]
        remarks += [f"{loader.name} ({source.place(call.node)}): {a}" for a in amended.advice]
        persisting += [loader.name] if amended.persists else []
    remarks += [*shared.contradictions({loader.name for loader, _ in advice}, run_command), *_persistence(persisting)]
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


def _check(source: SourceFile, call: LoaderCall, loader: LoaderResult) -> None:
    plain = [argument for argument in call.node.args if argument.keyword is None]
    if call.parameters is None and len(plain) > 1:
        raise SourceError(
            f"{source.code(call.node.func)} may have positional arguments of its own; write there yourself: "
            f"{spelled(loader.config)}"
        )
    size = literal_argument(source, call, "batch_size")
    if size is not UNKNOWN and loader.batch_size is not None and size != loader.batch_size:
        raise SourceError(f"has batch_size={size}, the plan was made for {loader.batch_size}; tune again")


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)
