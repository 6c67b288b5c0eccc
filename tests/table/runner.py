"""Runs the rows of the table under plumb, and without it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from forked_commands import ForkedCommands
from table.rows import ROWS, Row

from plumb.core import plan
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Measured, Plan, Prediction
from plumb.core.printable import printable

PLANS = {
    "workers": Config(num_workers=2, prefetch_factor=2),
    "lasting workers": Config(num_workers=2, prefetch_factor=2, persistent_workers=True),
    "threads": Config(fetch_threads=2),
    "own": Config(),
}
LIVE = "import functools, plumb\nDataLoader = functools.partial(plumb.DataLoader, tune='live')\n"
_LEFT_SECONDS = 10.0


@dataclass(frozen=True)
class Result:
    """What a script came to: its exit code, what it printed, and the processes and files that it left."""

    code: int
    out: str
    err: str
    left: tuple[str, ...]


def _ran(commands: ForkedCommands, row: Row, words: list[str], folder: Path) -> Result:
    """Run a command in a row's folder."""
    # A short path: processes make sockets in there.
    scratch = Path(tempfile.mkdtemp(prefix="table-"))
    environ = {**os.environ, "TMPDIR": str(scratch), **row.env}
    done = commands.run(words, folder, environ, row.given, row.closed)
    left = (*_left(folder), *(path.name for path in scratch.iterdir()))
    shutil.rmtree(scratch)
    return Result(done.returncode, done.stdout, done.stderr, left)


def _left(folder: Path) -> tuple[str, ...]:
    """The processes that are still at work in a folder some seconds later."""
    deadline = time.monotonic() + _LEFT_SECONDS
    while (left := _working_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _working_in(folder: Path) -> tuple[str, ...]:
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                    found.append(f"process {process.name}")
            except OSError:
                continue
    return tuple(found)


def run_all(folder: Path) -> dict[tuple[str, str], Result]:
    """Every row, plainly and in each of its modes."""
    commands, results = ForkedCommands(), {}
    try:
        for number, (name, row) in enumerate(ROWS.items()):
            for mode in ("plain", *row.modes):
                results[name, mode] = _run(commands, row, mode, folder / f"{number}-{mode}")
    finally:
        commands.close()
    return results


def _run(commands: ForkedCommands, row: Row, mode: str, folder: Path) -> Result:
    folder.mkdir()
    file = folder / "package" / row.file if row.is_module else folder / row.file
    file.parent.mkdir(exist_ok=True)
    code = row.preamble + (LIVE if mode == "live" else "") + row.code
    encoding = "latin-1" if "latin-1" in row.preamble else "utf-8"
    if row.is_module:
        (file.parent / "__init__.py").touch()
        # It imports itself, to see that it is in a package: once only.
        code = f"if __name__ == '__main__':\n{_indented(code)}"
    file.write_text(code, encoding=encoding)
    script = ["-m", f"package.{Path(row.file).stem}"] if row.is_module else [row.file]
    plan.write(_plan(row), folder / f"{Path(row.file).stem}.plumb.json")
    before = {"plain": ["python"], "live": ["python"], "run": ["run"]}
    command = before.get(mode, [mode, "--budget", "4"])
    return _ran(commands, row, [*command, *script, *row.words], folder)


def _indented(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.splitlines())


def _plan(row: Row) -> Plan:
    own = Measured(Config(pin_memory="pin_memory=True" in row.code), 100.0, (90.0, 110.0))
    tuned = Measured(PLANS[row.plan], 200.0, (190.0, 210.0))
    entries = tuple(
        LoaderResult(name, printable(f"{row.file}:1"), "Rows", size, own, tuned, Prediction(100.0, "cpu", {"cpu": 1.0}))
        for name, size in (("loader", 4), ("one", 4), ("two", 4))
    )
    return Plan(printable(row.file), {}, 1.0, 1.0, entries, is_module=row.is_module)
