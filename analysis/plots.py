"""The comparison as pictures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from analysis.measuring import share
from analysis.outcome import PLUMB, Outcome
from analysis.summary import factors

_OURS, _THEIRS = "#1f6f8b", "#b9c4c9"


def shares(outcomes: Sequence[Outcome], path: Path) -> None:
    """Every peer's share of the best of all, a panel for each pipeline."""
    columns = 2
    rows = -(-len(outcomes) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(11, 2.9 * rows), squeeze=False, layout="constrained")
    for outcome, panel in zip(outcomes, axes.flat, strict=False):
        oracle = outcome.oracle
        if oracle is None:
            continue
        by_share = sorted(
            ((share(entry, oracle), entry.peer) for entry in outcome.entries if entry.is_measured),
            key=lambda pair: pair[0].samples_per_second,
        )
        reached = [share.samples_per_second for share, _ in by_share]
        below = [max(0.0, share.samples_per_second - share.interval[0]) for share, _ in by_share]
        above = [max(0.0, share.interval[1] - share.samples_per_second) for share, _ in by_share]
        colours = [_OURS if peer == PLUMB else _THEIRS for _, peer in by_share]
        panel.barh(range(len(by_share)), reached, color=colours, xerr=[below, above], error_kw={"elinewidth": 0.8})
        panel.set_yticks(range(len(by_share)), [peer for _, peer in by_share], fontsize=7)
        panel.axvline(1, color="black", linewidth=0.6)
        panel.set_title(outcome.title, fontsize=10, loc="left")
        panel.spines[["top", "right"]].set_visible(False)
    for panel in axes.flat[len(outcomes) :]:
        panel.set_axis_off()
    figure.supxlabel("rate, as a share of the best of torch's and plumb's configurations", fontsize=9)
    figure.savefig(path)
    pyplot.close(figure)


def means(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw by how much plumb is faster than each peer, on each pipeline and on average."""
    found = sorted(factors(outcomes).items(), key=lambda item: geometric_mean(item[1]))
    figure, panel = pyplot.subplots(figsize=(8, 0.4 * len(found) + 1.2), layout="constrained")
    for height, (_, values) in enumerate(found):
        panel.plot(values, [height] * len(values), "o", color=_THEIRS, markersize=4)
        panel.plot(geometric_mean(values), height, "D", color=_OURS, markersize=6)
    panel.set_yticks(range(len(found)), [peer for peer, _ in found], fontsize=8)
    panel.set_xscale("log")
    panel.axvline(1, color="black", linewidth=0.6)
    panel.set_xlabel("plumb is faster by: each pipeline, and their geometric mean", fontsize=9)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
    pyplot.close(figure)
