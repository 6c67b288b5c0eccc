"""Runs one seed's script in each way, and collects what is wrong with it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from plumb.core.config import Config
from tests.random_scripts.checking import differences, failures, files_in, other_files
from tests.random_scripts.recipe import Recipe, draw
from tests.random_scripts.text import source_of
from tests.random_scripts.zygote import Done, Zygote, kill_all, processes_in

SCRIPT = "train.py"
PLAN = "train.plumb.json"
_CONFIGS = (
    Config(2, 2, persistent_workers=True),
    Config(2, 2, persistent_workers=True),
    Config(1, 3),
    Config(3, 1, persistent_workers=True),
    Config(2, 2, persistent_workers=True, allocator_reuse=True),
    Config(2, 2, persistent_workers=True, start_method="spawn"),
)
_PATIENCE_SECONDS = 4.0
_SHARED_MEMORY = Path("/dev/shm")
# Torch's compiler makes its folder at import.
_TORCH_LEAVES = ("torchinductor_",)


@dataclass(frozen=True)
class Wishes:
    """Which ways to try: `tunes` with a real tuning, too; `looks_at_shared_memory` where nobody else uses that."""

    tunes: bool = True
    budget_seconds: float = 3.0
    timeout_seconds: float = 60.0
    looks_at_shared_memory: bool = False


def config_of(recipe: Recipe) -> Config:
    """The configuration that a seed's script is forced onto."""
    config = _CONFIGS[recipe.number % len(_CONFIGS)]
    # Spawned workers import torch: not where each step starts some, nor where the script has a way of its own.
    may_spawn = recipe.start == "default" and recipe.loop not in ("validation", "next of iter")
    return config if may_spawn else dataclasses.replace(config, start_method=None)


def run_seed(number: int, zygote: Zygote, wishes: Wishes) -> list[str]:
    """What is wrong with the script of a seed under plumb; a script that fails plainly is a fault of ours."""
    folder = Path(tempfile.mkdtemp(prefix=f"seed-{number}-"))
    try:
        return _Seed(draw(number), folder, zygote, wishes).check()
    finally:
        kill_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


class _Seed:
    def __init__(self, recipe: Recipe, folder: Path, zygote: Zygote, wishes: Wishes) -> None:
        self._recipe, self._folder, self._zygote, self._wishes = recipe, folder, zygote, wishes
        self._source = source_of(recipe)
        self._problems: list[str] = []

    def check(self) -> list[str]:
        recipe, config = self._recipe, config_of(self._recipe)
        place = self._new("plain")
        plain = self._in_zygote("plain", place)
        if plain.code is None or (plain.code != 0 and recipe.ends not in ("exit 3", "error", "error in sample")):
            return [f"plain: ends with {plain.code}: {plain.err[-600:]}"]
        left = files_in(place)

        recorded = self._new("recorded")
        options = {"plan": str(self._folder / PLAN), "config": dataclasses.asdict(config)}
        self._compare("recorded", plain, self._in_zygote("record", recorded, **options))

        forced = self._new("forced")
        on_plan = self._in_zygote("run", forced, plan=str(self._folder / PLAN))
        self._compare(f"forced ({config})", plain, on_plan)
        said = [line for line in on_plan.err.splitlines() if line.startswith("plumb: ")]
        if recipe.is_harmless and (said or not on_plan.workers):
            self._note("forced", [f"the plan was not used, by {on_plan.workers} workers: {said}"])
        if not recipe.values_follow_workers:
            self._note("forced", other_files(left, files_in(forced), may_add=False))

        if self._wishes.tunes:
            self._tuned(plain, place, left)
        return self._problems

    def _tuned(self, plain: Done, place: Path, left: dict[str, bytes]) -> None:
        words = ["tune", "--budget", str(self._wishes.budget_seconds), SCRIPT]
        done = self._command(place, words)
        self._note("tune", failures(plain, done))
        # A script that fails before its loop was tuned ends the tuning.
        may_fail = self._recipe.ends in ("exit 3", "error", "error in sample")
        if done.code not in (0, None) and not may_fail:
            self._note("tune", [f"exit code {done.code}: {_plumbs_line(done)}"])
        self._note("tune", other_files(left, files_in(place), may_add=True))
        if (place / PLAN).exists():
            again = self._new("again")
            ran = self._in_zygote("run", again, plan=str(place / PLAN))
            self._compare("run on the tuned plan", plain, ran)
            if not self._recipe.values_follow_workers:
                self._note("run on the tuned plan", other_files(left, files_in(again), may_add=False))

    def _new(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir()
        (place / SCRIPT).write_text(self._source)
        return place

    def _environ(self, place: Path) -> dict[str, str]:
        folder = self._folder / f"{place.name}-tmp"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        return {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache")}

    def _in_zygote(self, way: str, place: Path, **options: object) -> Done:
        shared = self._shared_memory()
        environ = self._environ(place)
        done = self._zygote.run(way, SCRIPT, place, self._wishes.timeout_seconds, environ=environ, **options)
        self._note(way, self._leftovers(environ, place, shared))
        return done

    def _command(self, place: Path, words: list[str]) -> Done:
        shared = self._shared_memory()
        environ = self._environ(place)
        begun = time.monotonic()
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [sys.executable, "-m", "plumb", *words],
                cwd=place,
                env={**os.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            try:
                code: int | None = process.wait(self._wishes.timeout_seconds)
            except subprocess.TimeoutExpired:
                code = None
                kill_all(place)
                process.wait()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        self._note(words[0], self._leftovers(environ, place, shared))
        return Done(code, texts[0], texts[1], time.monotonic() - begun)

    def _compare(self, way: str, plain: Done, other: Done) -> None:
        self._note(way, differences(self._recipe, plain, other))

    def _note(self, way: str, problems: list[str]) -> None:
        self._problems += [f"{way}: {problem}" for problem in problems]

    def _shared_memory(self) -> set[str]:
        if not self._wishes.looks_at_shared_memory:
            return set()
        # A user's folder of stores may stay, as long as it is empty.
        return {str(path) for path in _SHARED_MEMORY.rglob("*") if path.is_file()}

    def _leftovers(self, environ: dict[str, str], place: Path, shared: set[str]) -> list[str]:
        """Processes, temporary files and shared memory that are still there a while after a command."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while (left := self._left(environ, place, shared)) and time.monotonic() < until:
            time.sleep(0.1)
        return left

    def _left(self, environ: dict[str, str], place: Path, shared: set[str]) -> list[str]:
        left = [f"process {number} is left: {_command_line(number)}" for number in processes_in(place)]
        # A script's own persistent workers leave the folders of their sockets when it ends.
        leaves = (*_TORCH_LEAVES, "pymp-") if self._recipe.persistent_workers else _TORCH_LEAVES
        names = [name for name in os.listdir(environ["TMPDIR"]) if not name.startswith(leaves)]
        left += [f"{name} is left in the temporary folder" for name in names]
        left += [f"{name} is left" for name in sorted(self._shared_memory() - shared)]
        return left


def _command_line(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:160]
    except OSError:
        return "?"


def _plumbs_line(done: Done) -> str:
    lines = [line for line in done.err.splitlines() if line.startswith("plumb: ")]
    return lines[-1] if lines else done.err[-200:]
