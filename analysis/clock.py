"""Comparison of a plan's claim with the clock: plain epochs and epochs of `plumb run` by turns.

    python -m analysis.clock [--quick] [--only NAME...]

Twelve scripts: the examples, pipelines of this folder with a training around them, and scripts of the tests. Each is
tuned in a folder of its own; then processes without and with the plan take turns, timed from outside of plumb. Prints
and writes `analysis/results/clock.md`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from analysis.images import ROOT
from analysis.results import Effort, publish, say, table
from plumb.core import plan
from plumb.core.errors import one_line
from plumb.core.plan import LoaderResult
from plumb.report.wording import short

FULL, QUICK = Effort(2, 0.0, 15.0), Effort(1, 0.0, 10.0)
EPOCHS, QUICK_EPOCHS = 4, 3
# The epochs that a training is taken to have.
TRAINING = 10
_TUNING_SECONDS, _JOB_SECONDS = 150.0, 90.0
LOWEST_SHARE, HIGHEST_SHARE, LEAST_IN_TOTAL = 0.85, 1.2, 0.97


@dataclass(frozen=True)
class Script:
    """A script to tune and run, and its arguments; its own number of epochs is made large where it has one."""

    name: str
    path: str
    arguments: tuple[str, ...] = ()


def _pipeline(name: str, samples: int) -> Script:
    return Script(name, "analysis/train_pipeline.py", (name, "--samples", str(samples)))


SCRIPTS = (
    Script("images", "examples/images/train.py", ("--epochs", "30")),
    Script("text", "examples/text/train.py", ("--epochs", "30")),
    _pipeline("waits", 256),
    _pipeline("decoded", 1500),
    _pipeline("spectrograms", 256),
    _pipeline("augmented", 96),
    Script("train_and_val", "tests/scripts/train_and_val.py"),
    Script("custom_collate", "tests/scripts/custom_collate.py"),
    Script("custom_batch_sampler", "tests/scripts/custom_batch_sampler.py"),
    Script("dataset_mutated_between_epochs", "tests/scripts/dataset_mutated_between_epochs.py"),
    Script("writes_everything", "tests/scripts/writes_everything.py"),
    Script("accelerate_loop", "tests/scripts/accelerate_loop.py"),
)


@dataclass(frozen=True)
class Row:
    """Result of one script: the seconds of epochs, process by process, or an `error`."""

    name: str
    entry: LoaderResult | None
    plain: tuple[tuple[float, ...], ...] = ()
    run: tuple[tuple[float, ...], ...] = ()
    error: str = ""

    @property
    def claimed(self) -> float:
        """Speedup of later epochs by the plan."""
        assert self.entry is not None
        return self.entry.claim.gain if self.entry.claim is not None else 1.0

    @property
    def delivered(self) -> float:
        """Measured speedup of later epochs; the first two epochs of a process are like no others."""
        return median(_later(self.plain)) / median(_later(self.run))

    @property
    def share(self) -> float:
        """Delivered over claimed."""
        return self.delivered / self.claimed

    @property
    def in_total(self) -> float:
        """Speedup of a training of ten epochs, its first epochs as they were."""
        plain, run = _training_seconds(self.plain), _training_seconds(self.run)
        return plain / run


def _later(processes: Sequence[Sequence[float]]) -> list[float]:
    return [seconds for epochs in processes for seconds in epochs[2:]]


def _training_seconds(processes: Sequence[Sequence[float]]) -> float:
    first = [median(epochs[number] for epochs in processes) for number in range(2)]
    return sum(first) + (TRAINING - 2) * median(_later(processes))


def measured(script: Script, effort: Effort, epochs: int, folder: Path) -> Row:
    """Tunes a script, and runs it by turns."""
    source = (ROOT / script.path).read_text()
    path = ROOT / script.path
    if re.search(r"^(\w+, )*EPOCHS = ", source, re.MULTILINE):
        path = folder / path.name
        path.write_text(re.sub(r"^((?:\w+, )*EPOCHS = (?:\d+, )*)\d+$", r"\g<1>30", source, flags=re.MULTILINE))
    command = [sys.executable, "-m", "plumb", "tune", "--budget", str(effort.budget_seconds)]
    target = [str(path), *script.arguments]
    plan_file = folder / "plan.json"
    try:
        _done([*command, "--output", str(plan_file), *target], folder, _TUNING_SECONDS)
        found = plan.read(plan_file).loaders
        entry = next((each for each in found if each.end_to_end is not None), found[0])
        plain: list[tuple[float, ...]] = []
        run: list[tuple[float, ...]] = []
        for _ in range(effort.turns):
            plain.append(_epochs("-", entry.name, epochs, target, folder))
            copy = folder / "copy.json"
            copy.write_bytes(plan_file.read_bytes())
            run.append(_epochs(str(copy), entry.name, epochs, target, folder))
    except (subprocess.SubprocessError, OSError, ValueError, plan.PlanError) as error:
        return Row(script.name, None, error=one_line(error))
    return Row(script.name, entry, tuple(plain), tuple(run))


def _epochs(plan_file: str, loader: str, epochs: int, target: Sequence[str], folder: Path) -> tuple[float, ...]:
    out = folder / "seconds.json"
    command = [sys.executable, "-m", "analysis.clock_job", plan_file, str(out), loader, str(epochs), *target]
    _done(command, folder, _JOB_SECONDS)
    seconds = tuple(json.loads(out.read_text()))
    if len(seconds) < epochs:
        raise ValueError(f"it had {len(seconds)} epochs, and not {epochs}")
    return seconds


def _done(command: Sequence[str], folder: Path, seconds: float) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, env=_environment())
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise ValueError(f"{command[2]} ended with exit code {done.returncode}: {last}")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def report(rows: Sequence[Row]) -> list[str]:
    """Return the clock's readings, script by script, and whether the aims are kept."""
    good = [row for row in rows if not row.error]
    cells = [
        [
            row.name,
            short(row.entry.config) if row.entry is not None else "",
            f"{row.claimed:.2f}",
            f"{row.delivered:.2f}",
            f"{row.share:.2f}",
            f"{row.in_total:.2f}",
            ", ".join(f"{median(epochs[number] for epochs in row.plain):.2f}" for number in (0, 1, -1)),
            ", ".join(f"{median(epochs[number] for epochs in row.run):.2f}" for number in (0, 1, -1)),
        ]
        for row in good
    ]
    kept = sum(LOWEST_SHARE <= row.share <= HIGHEST_SHARE for row in good)
    lowest = min((row.in_total for row in good), default=float("nan"))
    return [
        f"Epochs of processes without and with the plan, by turns, each timed from `iter` to its end. Delivered over "
        f"claimed gain lies between {LOWEST_SHARE} and {HIGHEST_SHARE} for {kept} of {len(rows)} scripts (aim: 10 "
        f"of 12). Over {TRAINING} epochs, first ones included, the least is {lowest:.2f} of plain "
        f"(aim: {LEAST_IN_TOTAL}).",
        "",
        *table(
            [
                "script",
                "plan",
                "claimed",
                "delivered",
                "share",
                f"{TRAINING} epochs",
                "plain: 1st, 2nd, last, s",
                "run: 1st, 2nd, last, s",
            ],
            cells,
        ),
        *[f"\n{row.name}: {row.error}" for row in rows if row.error],
    ]


def main() -> None:
    """Measures all scripts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a short run that shows no more than that it works")
    parser.add_argument("--only", nargs="+", choices=[script.name for script in SCRIPTS])
    args = parser.parse_args()
    effort, epochs = (QUICK, QUICK_EPOCHS) if args.quick else (FULL, EPOCHS)
    rows = []
    for script in SCRIPTS:
        if args.only and script.name not in args.only:
            continue
        with tempfile.TemporaryDirectory(prefix="plumb-clock-") as folder:
            rows.append(measured(script, effort, epochs, Path(folder)))
        row = rows[-1]
        say(
            f"{row.name}: {row.error}"
            if row.error
            else f"{row.name}: claimed {row.claimed:.2f}, delivered {row.delivered:.2f}, in total {row.in_total:.2f}"
        )
    publish("clock", "Claimed, and shown by the clock", report(rows), keep=not args.quick and not args.only)


if __name__ == "__main__":
    main()
