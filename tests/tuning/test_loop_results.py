"""What a plan says of the loop's comparison."""

import pytest

from plumb.core.config import Config
from plumb.core.plan import Measured
from plumb.model.inputs import SearchSpace
from plumb.rewrites.find_rewrites import AvailableRewrites
from plumb.tuning.loader_under_test import TuningResult
from plumb.tuning.loop_results import after_comparison
from plumb.tuning.measure.loop_comparison import LoopComparison
from plumb.tuning.measure.paired_comparison import PairedRatio

OWN, WANTED = Config(), Config(num_workers=2, prefetch_factor=2)
NOT_FASTER = PairedRatio(0.9, (0.8, 0.95), 6, 0.9)


def chosen(measured, untried):
    own, tuned = (Measured(config, 1.0, (1.0, 1.0)) for config in (OWN, measured))
    return TuningResult(own, tuned, own, None, SearchSpace((0, 2)), AvailableRewrites(), (), (), 0.0, untried)


@pytest.mark.parametrize(
    ("choice", "basis"), [(chosen(WANTED, None), "the best alone"), (chosen(OWN, WANTED), "the best by the model")]
)
@pytest.mark.parametrize(
    ("compared", "outcome"),
    [
        (LoopComparison((), (), None, "RuntimeError: gone"), "failed in your loop (RuntimeError: gone)"),
        (LoopComparison((), (), NOT_FASTER), "your loop ran 0.90 times as fast"),
    ],
)
def test_only_what_was_measured_alone_was_the_best_alone(choice, basis, compared, outcome):
    after, in_loop = after_comparison(choice, WANTED, compared, None)
    assert in_loop is None
    assert after.tuned == choice.baseline
    (note,) = after.notes
    assert basis in note
    assert outcome in note
    assert str(WANTED) in note
