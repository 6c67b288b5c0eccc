"""Results of measuring the user's loop, for a plan: rates, gains, and the causes of waiting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from statistics import mean

from plumb.core.config import Config
from plumb.core.plan import EndToEnd, Measured, Rate, Rejection, StepShares
from plumb.core.thresholds import NOISE, NOTHING_TO_GAIN
from plumb.model import stall_shares
from plumb.tuning import explanations
from plumb.tuning.loader_under_test import TrainingStep, TuningResult
from plumb.tuning.measure.collective_wait import shows_collective_waits
from plumb.tuning.measure.loop_comparison import LoopComparison
from plumb.tuning.measure.throughput import rate_of
from plumb.tuning.measure.training_loop import LoopReading

# With this many interleaved windows of the loop, its first reading, possibly an outlier, is left out.
_TURNS_THAT_TELL = 2


def after_comparison(
    choice: TuningResult, wanted: Config, compared: LoopComparison, step: TrainingStep | None, named: Config | str = ""
) -> tuple[TuningResult, EndToEnd | None]:
    """Return the choice after the loop's comparison, and the loop's rates if the candidate was taken."""
    if compared.is_taken:
        in_loop = _end_to_end(compared, step)
        if choice.tuned.config != wanted:
            # A configuration that was never measured alone gets the loop's rate, which is lower than the loader's could
            # be.
            choice = dataclasses.replace(choice, tuned=Measured(wanted, in_loop.tuned, in_loop.tuned_interval))
        return choice, in_loop
    choice, is_measured = dataclasses.replace(choice, tuned=choice.baseline), choice.untried != wanted
    if compared.failure:
        choice = choice.rejecting(Rejection(wanted, "failed", compared.gain, detail=compared.failure))
        return choice.noting(explanations.failed_in_loop(named or wanted, compared.failure, is_measured)), None
    if compared.ratio is not None and not compared.is_open:
        choice = choice.rejecting(Rejection(wanted, "not faster", compared.gain))
        return choice.noting(explanations.not_faster_in_loop(named or wanted, compared.ratio, is_measured)), None
    return choice, None


def _end_to_end(compared: LoopComparison, step: TrainingStep | None) -> EndToEnd:
    """Return the loop's rates on both configurations, over all windows."""
    before, after = rate_over_turns(compared.own), rate_over_turns(compared.candidate)
    return EndToEnd(
        before.samples_per_second,
        after.samples_per_second,
        before.interval,
        after.interval,
        reported_waiting_share(waiting_share(before, step), compared.own),
        reported_waiting_share(waiting_share(after, step), compared.candidate),
        baseline_ranks_share=_ranks_share(compared.own),
        tuned_ranks_share=_ranks_share(compared.candidate),
        gain=compared.gain,
    )


def rate_over_turns(readings: Sequence[LoopReading]) -> Rate:
    return rate_of([chunk for reading in readings for chunk in reading.chunks])


def waiting_share(loop: Rate, step: TrainingStep | None) -> float | None:
    """Return the share of the loop's time that ready batches would save, from 0 to 1; None without a step.

    It is computed from rates, not from the time inside `next`: with an asynchronous device or a prefetching thread,
    waiting for data and waiting for the step overlap.
    """
    return max(0.0, 1.0 - loop.samples_per_second / step.samples_per_second) if step else None


def reported_waiting_share(share: float | None, readings: Sequence[LoopReading]) -> float | None:
    """Return the share of the loop's time that waits for data, for the user to read.

    Ready batches may save more time than the loop spends on getting its own if workers compete with its step for the
    CPUs, or if the host was slower for a while: that is no waiting.
    """
    return None if share is None else min(share, max((reading.share_in_next for reading in readings), default=share))


def may_be_drift(before: LoopReading, step: TrainingStep) -> bool:
    """Return whether ready batches seem to save nothing although the loop spends much of its time in `next`.

    The loop may wait for a device meanwhile. But the host may also have been slower while the step was measured.
    """
    waiting = waiting_share(before.rate, step)
    return waiting is not None and waiting <= NOTHING_TO_GAIN and before.share_in_next > waiting + NOISE


def readings_of_turns(readings: Sequence[LoopReading], turns: Sequence[LoopReading]) -> list[LoopReading]:
    """Return the readings to judge the loop by: the interleaved ones if there are several, else all."""
    return list(turns) if len(turns) >= _TURNS_THAT_TELL else [*readings, *turns]


def _ranks_share(readings: Sequence[LoopReading]) -> float:
    """Return the share of the loop's time that its steps wait for other ranks; 0 if that can't be measured."""
    if not shows_collective_waits():
        return 0.0
    return mean(reading.ranks_seconds / (reading.wait_seconds + reading.step_seconds) for reading in readings)


def unchanged_loop(readings: Sequence[LoopReading], waiting: float | None) -> EndToEnd:
    loop, ranks = rate_over_turns(readings), _ranks_share(readings)
    rate, interval = loop.samples_per_second, loop.interval
    waiting = reported_waiting_share(waiting, readings)
    return EndToEnd(
        rate, rate, interval, interval, waiting, waiting, baseline_ranks_share=ranks, tuned_ranks_share=ranks
    )


def with_shares(loop: EndToEnd, choice: TuningResult) -> EndToEnd:
    """Return the loop's rates with the shares of a step's time."""

    def shares(config: Config, rate: float, waiting: float | None, ranks: float) -> StepShares | None:
        return None if waiting is None else stall_shares.step_shares(choice.inputs, config, rate, waiting, ranks)

    baseline, tuned = choice.baseline.config, choice.tuned.config
    return dataclasses.replace(
        loop,
        baseline_shares=shares(baseline, loop.baseline, loop.baseline_waiting_share, loop.baseline_ranks_share),
        tuned_shares=shares(tuned, loop.tuned, loop.tuned_waiting_share, loop.tuned_ranks_share),
    )
