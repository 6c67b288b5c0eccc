"""Cuts of a dataset as a tuning finds them, and samples under a state of the random generators."""

import random

import numpy as np
import pytest
import torch

from plumb.instrument.rng_state import generator_states
from plumb.instrument.values import digest
from plumb.rewrites import find_cuts
from plumb.tracing import tracer


def found(dataset, samples=8):
    """The cuts of a dataset by what they come after, and the reasons. Traced in a hurry: times are not looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracer, "TIMED_SECONDS", 0.01)
        patch.setattr(tracer, "WATCHED_SECONDS", 0.0)
        patch.setattr(find_cuts, "SMALLEST_SHARE", 0.0)
        found = find_cuts.find_cuts(tracer.trace(dataset, samples))
    return {candidate.cut.after: candidate for candidate in found.candidates}, found.reasons


def seen(seed, read, *arguments):
    """What `read` returns under a seed, as a digest, and the states of the random generators behind it."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    value = digest(read(*arguments))
    assert value is not None
    return value, generator_states([])
