"""Every sentence of a report is true of the plan on which it stands, at any width, and in ASCII without colour."""

import io
import re
from dataclasses import replace

import example_plan
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from plumb.core import printable
from plumb.core.config import CacheChoice, Config
from plumb.core.plan import Claim, Delivered, EndToEnd, LoopGain, Measured, PlainMeasured, Rejection, Trial
from plumb.report.answer import answer, is_changed, is_offered, waiting_share
from plumb.report.html.page import page
from plumb.report.notebook import plan_html
from plumb.report.terminal import print_report
from plumb.report.tried import tried
from plumb.report.wording import bottleneck, change

WIDTHS = [40, 60, 80, 120]
UNKNOWN = re.compile(
    r"\bbinds?\b|calibrate|side by side|reused memory|no operator runs|arguments for all of|would bind|windows?\b"
    r"|\bcuts?\b"
)

rates = st.floats(1.0, 1e6).map(lambda rate: round(rate, 1))
ratios = st.floats(0.3, 4.0).map(lambda ratio: round(ratio, 3))
shares = st.none() | st.floats(0.0, 0.999)
workers = st.integers(1, 4)
configs = st.just(Config()) | st.builds(
    lambda count, prefetch, lasting, pinned, threads, reused, batches, store: Config(
        count,
        prefetch if count else None,
        bool(count) and lasting,
        pinned,
        threads,
        allocator_reuse=reused,
        deferred=batches,
        cache=store,
    ),
    st.integers(0, 4),
    st.sampled_from([2, 4, 8]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 8]),
    st.booleans(),
    st.sampled_from([(), ("normalize",), ("to_tensor", "normalize"), ("a", "to_tensor", "b"), ("c", "to_tensor", "b")]),
    st.none() | st.builds(CacheChoice, st.just("decode"), st.sampled_from(["memory", "disk"]), workers, ratios),
)
gains = st.builds(
    lambda low, more, most, pairs, chance: LoopGain(low * more, (low, low * more * most), pairs, chance),
    ratios, st.floats(1.0, 1.3), st.floats(1.0, 1.3), st.integers(3, 9), st.floats(0, 1),
) | st.builds(LoopGain, ratios, st.none(), st.integers(1, 2), st.floats(0, 1))  # fmt: skip


def around(rate, config=None, kind=Measured):
    return kind(config, rate, (rate * 0.97, rate * 1.03))


HOW = {"one run", "in turns"}
OUTCOMES = ["measured", "measured, to calibrate", "side by side", "in pairs", "stopped early: slower"]


@st.composite
def trials(draw, config):
    if draw(st.integers(0, 5)) == 0:
        return Trial(config, draw(st.none() | rates), None, None, "not tried: memory")
    rate = draw(rates)
    told = st.none() | rates
    return Trial(
        config, draw(told), rate, (rate * 0.97, rate * 1.03), draw(st.sampled_from(OUTCOMES)),
        loop_samples_per_second=draw(told),
    )  # fmt: skip


@st.composite
def loaders(draw):
    """Entries of plans, of tunings that may have come to anything."""
    own = draw(configs.filter(lambda config: not config.needs_runtime))
    others = draw(st.lists(configs.filter(lambda config: config != own), max_size=6, unique=True))
    chosen = draw(st.sampled_from([own, *others]))
    tuned = around(draw(rates), chosen) if chosen != own else None
    baseline = around(draw(rates), own)
    loop = None
    if draw(st.booleans()):
        before = draw(rates)
        gain = draw(st.none() | gains) if tuned else None
        after = before * (gain.ratio if gain else draw(ratios)) if tuned else before
        waits = draw(st.tuples(shares, shares))
        loop = EndToEnd(before, after, (before, before), (after, after), *waits, gain=gain)
    tried_ones = [draw(trials(config)) for config in draw(st.permutations([own, *others]))]
    causes = st.sampled_from(["not faster", "undecided", "failed", "epochs", "not kept up", "changing dataset"])
    rejected = tuple(
        Rejection(
            config, draw(causes), draw(st.none() | gains), loop is not None, "it broke", draw(st.floats(0, 2)),
            draw(st.none() | st.just(180.0)),
        )
        for config in others
        if config != chosen and draw(st.booleans())
    )  # fmt: skip
    is_open = tuned is None and (loop is None or loop.baseline_waiting_share != 0) and draw(st.booleans())
    claim = Claim(draw(rates), draw(rates), draw(rates), draw(rates), loop is not None) if tuned else None
    ran = st.builds(Delivered, rates, rates, rates, st.none() | ratios, st.booleans(), st.just(0.0), st.booleans())
    return example_plan.loader_plan(
        None,
        baseline=baseline,
        tuned=tuned or baseline,
        end_to_end=loop,
        trials=tuple(tried_ones),
        rejected=rejected,
        undecided="it may be better. More time settles it: --budget 180" if is_open else "",
        claim=draw(st.none() | st.just(claim)),
        delivered=draw(st.none() | ran) if tuned else None,
        unsafe=draw(st.sampled_from(["", "", "", "batch 3 was another"])) if tuned else "",
        plain=draw(st.none() | st.builds(around, rates, st.just(own) | configs.filter(
            lambda config: not config.needs_runtime), st.just(PlainMeasured))),
        notes=(),
        rewrites=example_plan.Rewrites(),
    )  # fmt: skip


def printed(width, *loaders, encoding="utf-8"):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors=printable.ERRORS)
    print_report(example_plan.plan_of(*loaders), "train.plumb.json", Console(file=stream, width=width, no_color=True))
    stream.flush()
    return raw.getvalue().decode(encoding)


def flat(text):
    return " ".join(text.split())


def ratios_in(text):
    return [float(each.replace(",", "")) for each in re.findall(r"([\d.,]*\d) times as fast", text)]


@settings(max_examples=60, deadline=None)
@given(loaders())
def test_an_answer_is_true_of_its_plan(loader):
    told = answer(loader)
    if is_offered(loader):
        assert is_changed(loader)
        assert told.startswith(change(loader.baseline.config, loader.tuned.config))
        assert ratios_in(told)
        assert min(ratios_in(told)) > 1
        return
    assert told.startswith(("leave it as it is: ", "could not tell"))
    assert told.startswith("could not tell") == (bool(loader.undecided) and not is_changed(loader))
    if is_changed(loader):
        slower = loader.unsafe or (loader.delivered and loader.delivered.is_slower) or min(ratios_in(told)) <= 1
        assert slower, "what is faster is offered"
    elif told.startswith("leave"):
        waits = waiting_share(loader)
        if waits is not None and waits > 0.03:
            assert "of its time, but " in told, "a loop that waits gets a reason"
        if waits is not None and waits <= 0.03:
            assert "but" not in told


@settings(max_examples=60, deadline=None)
@given(loaders(), st.sampled_from(WIDTHS))
def test_what_a_report_offers_is_nowhere_printed_as_slower(loader, width):
    shown = flat(printed(width, loader))
    assert ("Use it:" in shown) == ("plumb run train.py" in shown) == is_offered(loader)
    if is_offered(loader):
        assert all(ratio > 1 for ratio in ratios_in(shown.partition(" tried, on the loader alone")[0])), shown
    assert ("or write:" in shown) <= is_offered(loader)
    assert ("pay that back" in shown) <= is_offered(loader)
    assert ("training steps pay that back" in shown) <= (loader.end_to_end is not None)
    in_notebook = plan_html(loader, "")
    assert ("DataLoader(..." in in_notebook or "plan.loader(" in in_notebook) <= is_offered(loader)
    assert ('class="use"' in page(example_plan.plan_of(loader), {})) == is_offered(loader)


@settings(max_examples=60, deadline=None)
@given(loaders())
def test_each_row_that_is_faster_than_the_chosen_one_says_why_it_was_not_chosen(loader):
    rows = tried(loader)
    chosen = next(row for row in rows if row.is_chosen)
    best = chosen.trial.samples_per_second or loader.tuned.samples_per_second
    for row in rows:
        if not row.is_chosen and (row.trial.samples_per_second or 0) > best:
            assert row.remark.startswith("yours: " if row.is_own else "not chosen: ")
            assert row.remark.removeprefix("yours: ") not in HOW
        else:
            assert not row.remark.startswith("not chosen")


@settings(max_examples=60, deadline=None)
@given(loaders(), st.sampled_from(WIDTHS))
def test_no_two_rows_read_the_same_and_nothing_is_cut(loader, width):
    rows = tried(loader, 5)
    assert len({row.words for row in rows}) == len(rows)
    shown = printed(width, loader, encoding="ascii")
    assert shown.isascii()
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(width, loader)
    assert max(len(line.rstrip()) for line in shown.splitlines()) <= width
    for row in rows:
        assert flat(row.words) in flat(shown)
        assert flat(row.remark) in flat(shown)


@settings(max_examples=60, deadline=None)
@given(loaders())
def test_what_limits_a_loader_is_no_more_than_what_the_model_knows(loader):
    told = bottleneck(loader)
    loop, predicted = loader.end_to_end, loader.predicted
    measured = loop.tuned if loop else loader.tuned.samples_per_second
    if told.startswith("What limits it now is "):
        assert predicted.samples_per_second >= 0.8 * measured
        assert predicted.bottleneck != "step" or loop is None or (loop.tuned_waiting_share or 0) <= 0.1
    else:
        assert "yet your loop still waited" in told or "less than was measured" in told


@settings(max_examples=60, deadline=None)
@given(loaders())
def test_only_words_that_a_stranger_knows(loader):
    assert not UNKNOWN.findall(printed(120, loader)), printed(120, loader)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Config(2, 2), "change num_workers to 2"),
        (Config(2, 4, persistent_workers=True, pin_memory=True), "change num_workers to 2 and pin_memory to True"),
        (Config(1, 8), "change prefetch_factor to 8"),
        (Config(0), "change num_workers to 0"),
        (Config(1, 2, cache=CacheChoice("decode", "disk", 1, 1.0)), "store what decode returns on the disk"),
        (Config(1, 2, deferred=("whole batches",)), "read each batch by one call"),
        (Config(1, 2, deferred=("a", "b", "c")), "run the last 3 operations on whole batches"),
        (Config(1, 2, allocator_reuse=True), "use the memory of batches again"),
        (Config(2, 2, fetch_threads=8), "change num_workers to 2 and load 8 samples at a time in threads"),
    ],
)
def test_a_change_is_an_order(after, words):
    assert change(Config(1, 2), after) == words


def rejecting(cause, gain, waits, **changes):
    loader = example_plan.loader_plan(None, trials=())
    loop = EndToEnd(100.0, 100.0, (99.0, 101.0), (99.0, 101.0), waits, waits)
    rejected = Rejection(Config(2, 2), cause, gain, **changes)
    undecided = "it may be better" if cause == "undecided" else ""
    return replace(loader, tuned=loader.baseline, end_to_end=loop, rejected=(rejected,), undecided=undecided)


def test_answers_of_what_was_not_changed():
    unsure = rejecting("undecided", LoopGain(1.4, (0.9, 2.1), 3, 0.1), 0.5, others_cpus=1.0, enough_seconds=180.0)
    told = "at least 0.90, likely 1.40 times as fast with 2 workers, prefetch 2; try --budget 180"
    assert answer(unsure) == f"could not tell on this busy host: your loop is {told}"
    slower = rejecting("not faster", LoopGain(0.9, (0.85, 0.95), 4, 1.0), 0.994)
    waits = "leave it as it is: your loop waits for data 99% of its time, but"
    assert answer(slower) == f"{waits} it ran 0.90 times as fast with the best of what was tried, 2 workers, prefetch 2"
    assert answer(replace(slower, rejected=())) == f"{waits} no other configuration was measured"
    fed = rejecting("not faster", None, 0.02)
    assert answer(fed) == "leave it as it is: your loop waits for data 2.0% of its time"


def test_a_plan_that_a_run_found_slower_is_not_offered():
    ran = Delivered(100.0, 70.0, 66.0, 0.66, is_by_turns=True, others_cpus=0.0, is_slower=True)
    shown = flat(printed(120, example_plan.loader_plan(None, delivered=ran)))
    assert "Leave it as it is: by the clock of the latest run, 2 workers" in shown
    assert "0.66 times as fast as yours" in shown
    assert "Use it" not in shown
    assert "Again: plumb tune train.py" in shown


def row(config, rate, outcome="measured", loop=None):
    return Trial(config, None, rate, (rate * 0.98, rate * 1.02), outcome, loop_samples_per_second=loop)


TWO, FOUR = Config(2, 2), Config(4, 2)


@pytest.mark.parametrize(
    ("trial", "rejected", "why"),
    [
        (
            row(TWO, 680.0),
            [Rejection(TWO, "not faster", LoopGain(0.97, (0.95, 0.99), 4, 0.9))],
            "0.97 times as fast in y",
        ),
        (
            row(TWO, 680.0),
            [Rejection(TWO, "undecided", LoopGain(1.2, (0.9, 1.6), 3, 0.2))],
            "(0.90 to 1.60), too unsure",
        ),
        (row(TWO, 680.0), [Rejection(TWO, "undecided", LoopGain(1.2, (0.0, 9e9), 3, 0.2))], "in your loop, too unsure"),
        (row(TWO, 680.0), [Rejection(TWO, "undecided")], "no time was left to try it in your loop"),
        (row(TWO, 680.0), [Rejection(TWO, "failed", detail="it broke")], "failed in your loop"),
        (row(TWO, 680.0), [Rejection(TWO, "epochs")], "slower by the clock"),
        (row(TWO, 680.0), [Rejection(FOUR, "epochs")], "only the best of all is tried in your loop"),
        (row(TWO, 197_162.0, "stopped early: slower"), [], "clearly slower than the best so far, so ended early"),
        (row(TWO, 460.0), [], "not told apart from yours"),
        (row(TWO, 480.0), [], "less than single runs vary"),
        (row(TWO, 680.0), [], "in one run; not compared in turns"),
        (row(TWO, 9_000.0, loop=1500.0), [], "your step takes no more than 1,500 samples/s"),
        (row(TWO, 680.0, loop=300.0), [], "not over a training: 300 samples/s"),
    ],
)
def test_why_a_row_that_is_faster_alone_was_not_chosen(trial, rejected, why):
    own = row(Config(), 455.0, "side by side", loop=1490.0 if trial.samples_per_second > 1000 else 400.0)
    loader = rejecting("not faster", None, 0.5)
    loader = replace(loader, baseline=around(455.0, Config()), tuned=around(455.0, Config()))
    first, second = tried(replace(loader, trials=(own, trial), rejected=tuple(rejected)))
    assert first.remark.startswith("not chosen: ")
    assert why in first.remark
    assert second.remark == "yours: in turns"
