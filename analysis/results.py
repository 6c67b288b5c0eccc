"""The arguments that benchmarks have in common, and where their results go."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.machine import description
from analysis.pipelines import NAMES

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Effort:
    """Length of a benchmark: turns of windows, and plumb's own budget for one loader."""

    turns: int
    window_seconds: float
    budget_seconds: float


def arguments(document: str, effort: Effort) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all benchmarks have; `effort` is that of the full run, for the help."""
    parser = argparse.ArgumentParser(
        description=document.partition("\n")[0],
        epilog=f"Full runs measure {effort.turns} turns of windows of {effort.window_seconds:g} s.",
    )
    parser.add_argument("--quick", action="store_true", help="a short run that shows no more than that it works")
    return parser


def add_pipelines(parser: argparse.ArgumentParser, default: Sequence[str] = NAMES) -> None:
    """Add the choice of pipelines; without it, they are the `default`."""
    parser.add_argument("--only", nargs="+", choices=NAMES, default=default, help="these pipelines instead of all")


def say(text: str) -> None:
    """Progress, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def publish(name: str, title: str, lines: list[str], *, keep: bool) -> None:
    """Print the results; write them to `results/NAME.md` if they are to be kept."""
    text = "\n".join([f"# {title}", "", f"Measured on: {description()}.", "", *lines]) + "\n"
    print(text)
    if keep:
        (FOLDER / f"{name}.md").write_text(text)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return a table in Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows]]
