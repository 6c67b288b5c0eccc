"""Tunes the examples as a user would, and compares plumb's choice with a full grid over the same knobs.

    python -m analysis.main_job

Prints and writes `analysis/results/main_job.md`. The grid is measured by turns: all its workers are started first,
and windows go round all configurations, so that drift of the machine hits all alike.
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

import numpy as np
from rich.console import Console

from analysis.images import ROOT, train_loader
from analysis.machine import description
from analysis.tuned import Tuned, tune_loader
from plumb.plan import Config, LoaderPlan, Plan, decode
from plumb.report.terminal import print_report
from plumb.search.measure import Chunk, Feed, IndexStream, rate_of

RESULTS = ROOT / "analysis" / "results" / "main_job.md"
GRID = [Config(0)] + [Config(workers, prefetch) for workers, prefetch in itertools.product((1, 2, 3, 4), (2, 4, 8))]
TURNS, WINDOW_SECONDS, BUDGET_SECONDS = 5, 1.2, 60.0


def tuned(script: Path) -> tuple[Plan, float, str]:
    """The plan of a script tuned from the command line, the seconds from the command to the report, and the report."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "plumb", "tune", str(script)], cwd=folder, capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - started
        printed = done.stdout.replace(f"{ROOT}/", "")
        return decode(Path(folder, f"{script.stem}.plumb.json").read_bytes()), seconds, printed


def save_picture(plan: Plan, path: Path) -> None:
    """The report as a picture of a terminal, without fonts from elsewhere."""
    console = Console(record=True, width=118, file=io.StringIO(), force_terminal=True)
    print_report(plan, "train.plumb.json", console)
    picture = console.export_svg(title="plumb tune examples/images/train.py")
    path.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))


def grid(choice: Tuned) -> dict[Config, list[Chunk]]:
    """Every configuration of the grid, and plumb's choice with its store filled, measured by turns."""
    stream = IndexStream(choice.loader.batch_sampler)
    choice.fill([choice.config])
    configs = list(dict.fromkeys([*GRID, choice.config]))
    feeds = [
        Feed(config, lambda indices, config=config: choice.make(config, indices), stream, 64, float("inf"))
        for config in configs
    ]
    chunks: dict[Config, list[Chunk]] = {config: [] for config in configs}
    for turn in range(TURNS):
        for feed in feeds:
            chunks[feed.config] += feed.window(WINDOW_SECONDS)
            feed.settle()
        print(f"grid: turn {turn + 1} of {TURNS}", file=sys.stderr)
    for feed in feeds:
        feed.close()
    return chunks


def share_of_best(chunks: dict[Config, list[Chunk]], choice: Config) -> tuple[Config, float, tuple[float, float]]:
    """The grid's best configuration, and the choice's rate as a share of the best's, with a bootstrap interval."""
    best = max(GRID, key=lambda config: rate_of(chunks[config]).samples_per_second)
    random = np.random.default_rng(0)

    def medians(config: Config) -> np.ndarray:
        rates = np.array([chunk.samples_per_second for chunk in chunks[config]])
        return np.median(random.choice(rates, (2000, len(rates))), axis=1)

    low, high = np.percentile(medians(choice) / medians(best), [2.5, 97.5])
    share = rate_of(chunks[choice]).samples_per_second / rate_of(chunks[best]).samples_per_second
    return best, share, (float(low), float(high))


def row(plan: LoaderPlan) -> str:
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
    """Prints and writes the results."""
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
    chunks, chosen = grid(choice), choice.config
    best, share, (low, high) = share_of_best(chunks, chosen)
    lines += [
        "## plumb's choice against the full grid of torch's own arguments, images example, train loader",
        "",
        f"The loader tuned once more, for its own rate. Each configuration {TURNS} windows of {WINDOW_SECONDS} s by "
        "turns; worker start left out, as it is the same with persistent workers, and a store filled before.",
        "",
        "| configuration | samples/s | 95 % interval |",
        "|---|---|---|",
    ]
    for config, its_chunks in chunks.items():
        rate = rate_of(its_chunks)
        mark = " (plumb's choice)" if config == chosen else ""
        lines.append(
            f"| {config}{mark} | {rate.samples_per_second:,.0f} | {rate.interval[0]:,.0f} to {rate.interval[1]:,.0f} |"
        )
    lines += [
        "",
        f"Best of the grid: {best}. plumb's choice reaches {share:.3f} of it [{low:.3f}, {high:.3f}].",
        *reports,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(text)


if __name__ == "__main__":
    main()
