"""The twin's doings as spans: nobody does two things at once, and they are what the simulation says."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from situations import BATCH_TIMES, situations

from plumb.core.config import Config
from plumb.model.simulator import MAIN, STEP, SimulationParameters, consumed, spans
from plumb.model.timeline import timelines

loadings = st.builds(
    SimulationParameters,
    num_workers=st.integers(0, 4),
    prefetch_factor=st.integers(1, 3),
    **BATCH_TIMES,
)
factors = st.lists(st.floats(0.5, 2), min_size=1, max_size=30)
configs = st.builds(Config, num_workers=st.integers(0, 4), prefetch_factor=st.integers(1, 4))


@given(loadings, factors)
def test_nobody_does_two_things_at_once(loading, factors):
    found = spans(loading, factors)
    for process in {span.process for span in found}:
        own = [span for span in found if span.process == process]
        for one, after in itertools.pairwise(own):
            assert one.end_seconds <= after.begin_seconds + 1e-9


@given(loadings, factors)
def test_the_steps_end_when_the_simulation_says(loading, factors):
    done = consumed(loading, factors)
    for span in spans(loading, factors):
        assert span.end_seconds > span.begin_seconds >= 0
        if span.process == STEP:
            assert span.end_seconds == pytest.approx(done[span.batch])
        else:
            assert span.end_seconds <= done[-1] + 1e-9 or span.process >= 0


@given(loadings, factors)
def test_every_batch_is_made_once_by_whoever_makes_them(loading, factors):
    made = [span for span in spans(loading, factors) if span.doing == "computes"]
    assert sorted(span.batch for span in made) == list(range(len(factors)))
    assert {span.process for span in made} <= (set(range(loading.num_workers)) or {MAIN})


@given(situations, configs, configs)
def test_windows_have_one_length_and_hold_what_reaches_into_them(inputs, before, after):
    found = timelines(inputs, (before, after))
    if not found:
        return
    lengths = [shown.end_seconds - shown.begin_seconds for shown in found]
    assert lengths[0] == pytest.approx(lengths[1])
    for shown in found:
        assert shown.spans
        for span in shown.spans:
            assert span.begin_seconds < shown.end_seconds
            assert span.end_seconds > shown.begin_seconds
