"""The report on a terminal: one screen, whatever its width."""

import io
from dataclasses import replace

import example_plan
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from plumb.core.config import Config
from plumb.core.plan import Claim, Delivered, PlainMeasured, Trial
from plumb.report.terminal import print_report
from plumb.report.wording import whole


@pytest.fixture(scope="module")
def traced():
    return example_plan.graph()


def lines(loader, width=110):
    console = Console(file=io.StringIO(), width=width)
    print_report(example_plan.plan_of(loader), "train.plumb.json", console)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_time_of_a_step_is_told_on_one_scale(traced):
    shown = lines(example_plan.loader_plan(traced))
    before, after = (line for line in shown if "% step" in line)
    assert before.split()[:3] == ["before", "312", "ms"]
    assert "14% step, 43% computing samples, 43% reading" in before
    assert before.count("█") == 24
    assert after.count("█") == round(24 * 205 / 880)


def test_what_a_step_waits_for_other_ranks_is_told(traced):
    shown = lines(example_plan.among_ranks(traced))
    before, after = (line for line in shown if "% step" in line)
    assert "10% step, 4% other ranks, 43% computing samples" in before
    assert "% other ranks" in after


def test_the_best_few_of_what_was_tried_are_shown(traced):
    several = [Trial(Config(1, 2, fetch_threads=n), 1.0, 300.0 - n, (200.0, 400.0), "measured") for n in range(2, 12)]
    loader = example_plan.loader_plan(traced)
    shown = lines(replace(loader, trials=(*loader.trials, *several)), width=80)
    tried = shown[shown.index(next(line for line in shown if "what was tried" in line)) :]
    tried = [line.strip() for line in tried[: tried.index("")]]
    assert len(tried) < 20
    assert any(line.startswith("240  no workers") for line in tried), "the script's own is always there"
    assert any(line.startswith("yours: in turns") for line in tried)
    assert any(line.startswith("900  2 workers, prefetch 4") for line in tried)
    assert any(line.startswith("chosen: in turns") for line in tried)
    assert tried[-1] == "and 8 more"


def test_one_reason_is_told_of_what_was_not_offered(traced):
    shown = "\n".join(lines(example_plan.loader_plan(traced)))
    assert "no threads for whole samples: random numbers are drawn" in shown
    assert "Nothing is stored after read" not in shown


def test_it_shows_the_ways_to_use_it(traced):
    loader = example_plan.loader_plan(traced)
    nothing = PlainMeasured(example_plan.BEFORE, 240.0, (235.0, 246.0))
    kept = lines(replace(loader, plain=nothing))
    assert not any("plumb apply" in line for line in kept), "torch's arguments can't say it"
    assert any("plumb apply" in line for line in lines(loader)), "two workers were measured to be better"
    plain = replace(loader, tuned=replace(loader.tuned, config=Config(2, 4, persistent_workers=True)))
    shown = "\n".join(lines(plain))
    assert "DataLoader(..., num_workers=2, prefetch_factor=4, persistent_workers=True)" in shown
    assert "plumb apply train.py" in shown
    assert "plumb report train.plumb.json --html report.html" in shown


def test_an_older_plan_has_no_line_on_the_step(traced):
    loop = replace(example_plan.loader_plan(traced).end_to_end, baseline_shares=None, tuned_shares=None)
    assert not any("% step" in line for line in lines(example_plan.loader_plan(traced, end_to_end=loop)))


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 50), min_size=1))
def test_cells_add_up(lengths):
    cells = whole(lengths)
    assert list(cells) == list(lengths)
    assert sum(cells.values()) == round(sum(lengths.values()))
    assert all(abs(cells[name] - length) <= 1 for name, length in lengths.items())


def test_what_was_claimed_and_what_a_run_delivered_are_told_together(traced):
    loader = replace(example_plan.loader_plan(traced), claim=Claim(200.0, 300.0, 450.0, 500.0))
    shown = " ".join(" ".join(lines(loader)).split())
    claimed = "epochs should reach 500 samples/s, starts included, 2.50 times as fast as yours; the first one 300"
    assert shown.index(claimed) < shown.index("While an epoch runs: Your loop: ")
    assert "Delivered" not in shown
    came = Delivered(210.0, 290.0, 480.0, 2.4, is_by_turns=False, others_cpus=0.0, is_slower=False)
    shown = " ".join(" ".join(lines(replace(loader, delivered=came))).split())
    assert (
        "Delivered by the latest run: 480 samples/s, 2.40 times as fast (beside the plan's figure for yours)." in shown
    )
    slow = replace(came, ratio=0.8, is_by_turns=True, is_slower=True)
    shown = " ".join(" ".join(lines(replace(loader, delivered=slow))).split())
    assert "0.80 times as fast (epochs by turns); it went on as the script has it. Tune again." in shown
    short = Delivered(210.0, 290.0, None, None, is_by_turns=False, others_cpus=0.0, is_slower=False)
    shown = " ".join(" ".join(lines(replace(loader, delivered=short))).split())
    assert "which had one epoch: 290 samples/s." in shown


def test_the_loop_s_rates_are_shown_where_the_loader_alone_is_slower(traced):
    loader = example_plan.loader_plan(traced)
    loop = replace(loader.end_to_end, baseline=100.0, tuned=150.0)
    slower = replace(loader, tuned=replace(loader.tuned, samples_per_second=149.0), end_to_end=loop)
    shown = "\n".join(lines(replace(slower, baseline=replace(loader.baseline, samples_per_second=172.0))))
    before, after = (
        next(line for line in shown.splitlines() if line.strip().startswith(s)) for s in ("before", "after")
    )
    assert before.split()[1] == "100"
    assert after.split()[1] == "150"
    assert "the loader alone 149 samples/s" in after
    assert "0.87" not in shown
