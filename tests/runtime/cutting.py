"""Cuts of a dataset as a tuning finds them, and samples under a state of the random generators."""

import random

import numpy as np
import torch

from plumb.profile.randomness import generator_states
from plumb.runtime.cuts import find_cuts
from plumb.trace import course
from plumb.trace.values import digest


def found(dataset, samples=8):
    """The cuts of a dataset by what they come after, and the reasons. Traced in a hurry: times are not looked at."""
    before = course.TIMED_SECONDS, course.WATCHED_SECONDS
    course.TIMED_SECONDS, course.WATCHED_SECONDS = 0.01, 0.0
    try:
        cuts = find_cuts(course.trace(dataset, samples))
    finally:
        course.TIMED_SECONDS, course.WATCHED_SECONDS = before
    return {candidate.cut.after: candidate for candidate in cuts.candidates}, cuts.reasons


def seen(seed, read, *arguments):
    """What `read` returns under a seed, as a digest, and the states of the random generators behind it."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    value = digest(read(*arguments))
    assert value is not None
    return value, generator_states([])
