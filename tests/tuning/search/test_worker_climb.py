"""Sources that are climbed by workers, with runs that a virtual source answers."""

import dataclasses

import pytest

from plumb.core.config import Config
from plumb.core.plan import Rate, SampleCost
from plumb.host import Limits
from plumb.model.calibration import ProbeRun
from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.model.inputs import Footprint, ModelInputs, ThreadsCost
from plumb.tuning import explanations
from plumb.tuning.search.calibration_runs import CalibrationRun
from plumb.tuning.search.ledger import TrialResult
from plumb.tuning.search.worker_climb import climb_workers

WAITS = SampleCost(0.0105, 5e-4, 0.01, 1e-5, 1e3, 1.0)
SITUATION = ModelInputs(
    WAITS,
    WAITS,
    Footprint(1e4, 1, 1e6, 1e8, 10),
    Limits(cpus=16, open_files=1e5),
    samples_per_batch=32.0,
    threads=(ThreadsCost(4, None, 0.3, 0.3, 1.0, 5e-4, 1e-5),),
)


def climb(rate_of, plain, inputs=SITUATION, most=256, known=(), seconds=60.0):
    asked = []

    def probe(inputs, config):
        asked.append(config.num_workers * config.fetch_threads)
        rate = rate_of(asked[-1])
        if isinstance(rate, str) or rate is None:
            return rate
        run = ProbeRun(config.num_workers, rate, 1.0, rate * 5e-4, rate * 1e-5)
        return CalibrationRun(run, 1e6, 0.0, 0.0, 0.01, 0.01)

    return asked, climb_workers(inputs, plain, most, known, probe, lambda: seconds)


def test_workers_are_doubled_until_the_source_gives_no_more():
    asked, inputs = climb(lambda reads: min(reads, 16) / 0.0105, Config(1, 2, fetch_threads=4))
    assert asked[:4] == [4, 8, 16, 32]
    assert max(asked) == 32
    assert inputs.source.end is ClimbEnd.FLAT
    assert inputs.samples_at_once == 32
    assert max(inputs.storage.outstanding) == 32


def test_without_threads_they_begin_where_the_model_was_calibrated():
    known = [
        TrialResult(Config(count, 2), Rate(count * 95.0, (90.0, 200.0)), None, "measured, to calibrate")
        for count in (2, 1)
    ]
    asked, inputs = climb(lambda reads: min(reads, 8) / 0.0105, Config(1, 2), known=known)
    assert asked[:2] == [4, 8]
    assert max(asked) == 16
    assert inputs.source.good_reads == 8


def test_workers_go_beyond_what_threads_of_one_process_get():
    locked = SourceCapacity((1,), (95.0,), 1, 1, ClimbEnd.PROCESS)
    asked, situation = climb(
        lambda reads: min(reads, 8) / 0.0105, Config(1, 2), dataclasses.replace(SITUATION, source=locked)
    )
    assert max(asked) == 16
    assert (situation.source.end, situation.source.good_reads) == (ClimbEnd.FLAT, 8)


def test_a_run_that_fails_sets_the_limit_below_it():
    asked, inputs = climb(lambda reads: "failed: refused" if reads > 8 else reads / 0.0105, Config(1, 2))
    assert asked[-1] == 16
    assert (inputs.source.end, inputs.samples_at_once) == (ClimbEnd.FAILED, 8)
    assert "refused" in inputs.source.reason


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_where_there_is_no_time_only_one_more_step_is_allowed(seconds):
    asked, inputs = climb(lambda reads: None if reads > 2 else reads / 0.0105, Config(1, 2), seconds=seconds)
    assert len(asked) <= 2
    assert inputs.source.end is ClimbEnd.TIME
    assert seconds or explanations.capacity(inputs.source).endswith("; more were not looked at: there was no time")
    assert inputs.samples_at_once == 2 * inputs.source.good_reads
    assert inputs.storage is None


def test_no_limit_of_the_host_or_of_the_user_is_passed():
    few = dataclasses.replace(SITUATION, limits=Limits(cpus=16, max_workers=3))
    asked, inputs = climb(lambda reads: reads / 0.0105, Config(1, 2), few)
    assert max(asked) == 2
    asked, inputs = climb(lambda reads: reads / 0.0105, Config(1, 2), most=6)
    assert max(asked) == 6
    assert inputs.source.end is ClimbEnd.MOST
