"""Tunes the examples as a user would, and compares plumb's choice with a full grid over the same knobs.

    python -m analysis.main_job

Prints and writes `analysis/results/main_job.md`. The grid is measured by turns, so that drift of the machine hits all
configurations alike, each time with workers of its own.
"""

import dataclasses
import io
import itertools
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from analysis.images import ROOT, train_loader
from analysis.machine import description
from analysis.measuring import Reading, best, by_turns, share, stream_of, torch_contender
from analysis.results import table
from analysis.tuned import Tuned, tune_loader
from plumb.core.config import Config
from plumb.core.plan import LoaderResult, Plan, decode
from plumb.report.terminal import print_report

RESULTS = ROOT / "analysis" / "results" / "main_job.md"
GRID = [Config(0)] + [Config(workers, prefetch) for workers, prefetch in itertools.product((1, 2, 3, 4), (2, 4, 8))]
TURNS, WINDOW_SECONDS, BUDGET_SECONDS = 5, 1.2, 60.0


def tuned(script: Path) -> tuple[Plan, float, str]:
    """Tune a script by the command; return its plan, the seconds from the command to the report, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "plumb", "tune", str(script)], cwd=folder, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - started
        printed = done.stdout.replace(f"{ROOT}/", "")
        return decode(Path(folder, f"{script.stem}.plumb.json").read_bytes()), seconds, printed


def save_picture(plan: Plan, path: Path) -> None:
    """Save the report as a picture of a terminal, without fonts from elsewhere."""
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    print_report(plan, "train.plumb.json", console)
    picture = console.export_svg(title="plumb tune examples/images/train.py")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))


def grid(choice: Tuned) -> list[Reading]:
    """Every configuration of the grid, and plumb's choice with its store filled, measured by turns; the choice last."""
    choice.fill([choice.config])
    return by_turns(
        [*(torch_contender(choice.loader, config) for config in GRID), choice.contender(choice.config)],
        stream_of(choice.loader),
        64,
        TURNS,
        WINDOW_SECONDS,
    )


def row(plan: LoaderResult) -> str:
    """One line of the results' table."""
    loop = plan.end_to_end
    before, after = plan.baseline, plan.tuned
    return (
        f"| {plan.name} ({plan.site}) | {before.samples_per_second:,.0f} [{before.interval[0]:,.0f}, "
        f"{before.interval[1]:,.0f}] | {after.samples_per_second:,.0f} [{after.interval[0]:,.0f}, "
        f"{after.interval[1]:,.0f}] | {plan.gain:.2f} | {after.config} | "
        + (f"{loop.baseline:,.0f} → {loop.tuned:,.0f} |" if loop else "– |")
    )


def main() -> None:
    """Print the results and write them."""
    lines = ["# The main job on the examples", "", f"Measured on: {description()}.", ""]
    reports = []
    head = "| loader | before, samples/s | after, samples/s | factor | configuration | the script's own loop |"
    for script in (ROOT / "examples" / "images" / "train.py", ROOT / "examples" / "text" / "train.py"):
        plan, seconds, report = tuned(script)
        reports += [
            "",
            f"`plumb tune examples/{script.parent.name}/train.py` printed:",
            "",
            "```",
            report.strip(),
            "```",
        ]
        lines += [
            f"## examples/{script.parent.name}/train.py",
            "",
            f"{seconds:.1f} s from the command to the report, {plan.startup_seconds:.1f} s of them until the script's "
            "loop began.",
            "",
            head,
            "|---|---|---|---|---|---|",
            *(row(loader) for loader in plan.loaders),
            "",
        ]
        if script.parent.name == "images":
            save_picture(
                dataclasses.replace(plan, script="examples/images/train.py", written_files=()),
                RESULTS.with_name("images.svg"),
            )
    choice = tune_loader(train_loader(), BUDGET_SECONDS)
    *of_grid, chosen = grid(choice)
    leader = best(of_grid)
    reached = share(chosen, leader)
    low, high = reached.interval
    rates = [(reading.contender.name, reading.rate) for reading in (*of_grid, chosen)]
    lines += [
        "## plumb's choice against the full grid of torch's own arguments, images example, train loader",
        "",
        f"The loader tuned once more, for its own rate. Each configuration {TURNS} windows of {WINDOW_SECONDS} s by "
        "turns; worker start left out, as it is the same with persistent workers, and a store filled before.",
        "",
        *table(
            ["loader", "samples/s", "95 % interval"],
            [
                [name, f"{rate.samples_per_second:,.0f}", f"{rate.interval[0]:,.0f} to {rate.interval[1]:,.0f}"]
                for name, rate in rates
            ],
        ),
        "",
        f"Best of the grid: {leader.contender.name}. plumb's choice reaches {reached.samples_per_second:.3f} of it "
        f"[{low:.3f}, {high:.3f}].",
        *reports,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
