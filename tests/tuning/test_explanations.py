"""Sentences say no more than what was measured."""

import math
import re

import pytest
from example_plan import SITUATION

from plumb.core.config import Config, Deferral, DeferredStep
from plumb.core.plan import Claim
from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.model.contributions import rates_without_each
from plumb.model.planner import Candidate
from plumb.tuning import explanations
from plumb.tuning.explanations import undecided
from plumb.tuning.iterable_sharding import Sharding
from plumb.tuning.measure.paired_comparison import PairedRatio
from plumb.tuning.script_forecast import BetweenEpochs

CANDIDATE = Config(2, 2)


def said(ratio, interval):
    return undecided(CANDIDATE, PairedRatio(ratio, interval, 3, 0.2), None, 0.0, 10.0)


def test_what_was_slower_in_pairs_is_not_said_to_be_better():
    assert "may be better" in said(1.2, (0.8, 1.7))
    sentence = said(0.28, (0.1, 1.2))
    assert "may be better" not in sentence
    assert sentence.startswith("whether num_workers=2, prefetch_factor=2 is better is open")


def test_bounds_that_tell_nothing_are_not_printed():
    for interval, why in (((1e-9, 1e6), "too unequal"), ((0.0, math.inf), "too few")):
        sentence = said(2.7, interval)
        assert why in sentence
        assert "1000000" not in sentence
    assert "0.80 to 1.70 in 3 pairs" in said(1.2, (0.8, 1.7))


# Words of plumb's own code, which no report explains.
OWN_WORDS = re.compile(
    r"\b(binds?|binding|calibrat\w+|side by side|reused memory|operators? runs?|windows?|cuts?|stores|knobs?|finalists?"
    r"|ledger|companions?|climb\w*|twins?|rehears\w+|runtime)\b"
)


def sentences():
    """Yield every sentence that a tuning writes into a plan, in all of its forms."""
    full = Config(2, 2, fetch_threads=8, allocator_reuse=True, deferred=("normalize",))
    for ratio in (0.8, 1.01, 1.4):
        for interval in ((0.5 * ratio, 1.5 * ratio), (0.0, math.inf)):
            found = PairedRatio(ratio, interval, 3, 0.2)
            yield explanations.in_pairs(full, found)
            for is_measured in (False, True):
                yield explanations.not_faster_in_loop(full, found, is_measured)
            for waits, others in ((None, 0.0), (0.4, 1.5)):
                yield explanations.undecided(full, found, waits, others, 60.0)
    yield explanations.undecided(full, None, 0.4, 0.0, 60.0)
    for end in ClimbEnd:
        yield explanations.capacity(SourceCapacity((1, 2), (10.0, 19.0), 2, 2, end, "the source said so"))
    yield explanations.capacity(SourceCapacity((), (), 0, 0, ClimbEnd.FAILED, "it said so"))
    yield explanations.contributed(900.0, rates_without_each(SITUATION, Config(2, 2, allocator_reuse=True)))
    yield explanations.paused([1.0, 2.0])
    yield explanations.beside(["val", "other"])
    yield explanations.feeds("train")
    yield explanations.failed_in_loop(full, "it broke", is_measured=True)
    for between in (BetweenEpochs("data.shuffle()"), BetweenEpochs(is_made_anew=True)):
        yield explanations.changed_between_epochs(between)
    yield explanations.eaten_by_starts(full, Claim(100.0, 50.0, 90.0, 99.0))
    yield explanations.left_in_rehearsal(full, "a worker died")
    yield explanations.pooled(1.5)
    deferral = Deferral((DeferredStep("normalize", (), 0),), 0, device="cuda")
    for one, has_gpu in ((None, False), (None, True), (deferral, True)):
        yield explanations.arriving(one, has_gpu)
    yield explanations.pinned(900.0, 800.0)
    for shows in (False, True):
        yield explanations.among_ranks(4, shows)
    yield explanations.workers_failed("out of memory")
    yield explanations.stateful("StatefulDataLoader")
    for sharding in (Sharding(None, reason="why"), Sharding(False), Sharding(True, (1, 2), (3,), "why")):
        yield explanations.shared_out(sharding, 2, may_reorder=False)


@pytest.mark.parametrize("sentence", sentences())
def test_a_stranger_knows_the_words(sentence):
    assert not OWN_WORDS.findall(sentence)
    assert not re.search(r"\s\s|\.$|^[A-Z]", sentence), "one sentence, which reports put after a dot"


def test_only_what_is_above_1_is_said_to_be_faster():
    for sentence in sentences():
        below = [each for each in re.findall(r"([\d.]+) times as fast", sentence) if float(each) <= 1]
        assert not below or not re.search(r"\bis faster|may be better|gains\b", sentence), sentence


def test_what_there_was_no_time_for_is_named_for_others_may_have_been_tried():
    said = explanations.untried(Candidate(Config(4, 2), 2_600.0, 2_543.0), 5.5)
    assert "the 5.5 s that were left did not suffice to try num_workers=4" in said
    assert "which by the model would reach 2,543 samples/s" in said
