"""Claims of a plan: the rates of whole epochs of `plumb run`, with all costs of an epoch."""

from __future__ import annotations

import dataclasses

from plumb.core.plan import Claim, EndToEnd, LoaderResult
from plumb.model import resource_bounds
from plumb.model.inputs import ModelInputs
from plumb.model.resource_bounds import EPOCHS
from plumb.tuning.epoch_rehearsal import EpochCosts
from plumb.tuning.loader_under_test import TuningResult
from plumb.tuning.measure.paired_comparison import WORTH


def claim_of(
    planned: LoaderResult,
    choice: TuningResult,
    in_loop: EndToEnd | None,
    costs: EpochCosts,
    epoch_samples: float | None,
) -> Claim:
    """Return the expected rates of whole epochs.

    Args:
        planned: Entry of the plan.
        choice: Result of the tuning, with the model's inputs.
        in_loop: Rates of the user's loop on both configurations within an epoch; None if they were not measured.
        costs: Seconds of epochs in addition to their batches.
        epoch_samples: Samples per epoch; None if it has no end.
    """
    inputs = choice.inputs
    if in_loop is None:
        # Starts of workers are in the rates of loaders already.
        own, later = planned.baseline.samples_per_second, planned.tuned.samples_per_second
        first = _first_epoch(dataclasses.replace(inputs, step_samples_per_second=None), planned, own, later)
        return Claim(own, first, later, later, is_of_loop=False)
    own, later = in_loop.baseline, in_loop.baseline * in_loop.ratio
    first = _first_epoch(inputs, planned, own, later)

    def over_an_epoch(rate: float, seconds: float) -> float:
        return float(resource_bounds.amortized(rate, epoch_samples, seconds))

    return Claim(
        own=over_an_epoch(own, costs.own),
        first=over_an_epoch(first, costs.first),
        second=over_an_epoch(later, costs.second),
        later=over_an_epoch(later, costs.later),
    )


def is_worth_having(claim: Claim) -> bool:
    """Return whether a training of ten epochs has a worthwhile gain, including its first epoch."""
    seconds = 1 / claim.first + 1 / claim.second + (EPOCHS - 2) / claim.later
    return EPOCHS / claim.own >= seconds * (1 + WORTH)


def _first_epoch(inputs: ModelInputs, planned: LoaderResult, own: float, later: float) -> float:
    """Return the rate of the epoch that fills a store, by the model, scaled such that it is right for `own`.

    It is `later` without a store. `own` and `later` are measured, in samples per second.
    """
    if planned.config.cache is None:
        return later
    baseline = planned.baseline
    modelled = resource_bounds.training_rate(inputs, baseline.config, baseline.samples_per_second)
    return min(later, resource_bounds.filling_rate(inputs, planned.config) * own / modelled)
