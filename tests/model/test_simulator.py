"""The twin of torch's loader: beside the real one, and within what arithmetic allows."""

import dataclasses
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from situations import BATCH_TIMES
from torch.utils.data import DataLoader, Dataset

from plumb.model.calibration import Calibration
from plumb.model.simulator import SimulationParameters, consumed, simulate

SMOOTH = Calibration(0.0, 0.0)
loadings = st.builds(
    SimulationParameters,
    num_workers=st.integers(1, 6),
    prefetch_factor=st.integers(1, 4),
    **BATCH_TIMES,
    step_blocks=st.booleans(),
    spread=st.lists(st.floats(0.5, 2), min_size=1, max_size=4).map(tuple),
    calibration=st.just(SMOOTH),
    epoch_batches=st.none() | st.integers(1, 60),
    persistent_workers=st.booleans(),
    start_seconds=st.floats(0, 0.5),
)


@settings(max_examples=200)
@given(loadings)
def test_a_simulation_never_exceeds_the_bounds(loading):
    result = simulate(loading, 300)
    rate = result.batches_per_second
    least = min(loading.spread)
    # Every batch takes at least this much of each; a loop of 300 batches may profit from what was ready before.
    slack = 1.0 + 3 * loading.num_workers * loading.prefetch_factor / 300
    cpu = loading.cpu_seconds * least
    assert rate <= slack * loading.num_workers / (cpu + loading.wait_seconds * least)
    step_cpu = min(loading.step_cpu_seconds, loading.step_seconds)
    assert rate <= slack * loading.cores / (cpu + loading.hand_over_seconds + step_cpu)
    if loading.hand_over_seconds + step_cpu > 0:
        assert rate <= slack / (loading.hand_over_seconds + step_cpu)
    if loading.step_seconds > 0 and loading.step_blocks:
        assert rate <= slack / (loading.hand_over_seconds + loading.step_seconds)
    elif loading.step_seconds > 0:
        assert rate <= slack / loading.step_seconds
    assert -0.01 <= result.stall_share <= 1


@given(loadings)
def test_the_same_seed_gives_the_same_result(loading):
    assert simulate(loading, 50, seed=3) == simulate(loading, 50, seed=3)


def test_the_rate_of_even_batches_is_that_of_the_tightest_bound():
    even = {"hand_over_seconds": 0.001, "calibration": SMOOTH}
    workers = SimulationParameters(3, 2, 0.01, wait_seconds=0.05, cores=8, **even)
    assert simulate(workers).batches_per_second == pytest.approx(3 / 0.06, rel=0.02)
    cpu = SimulationParameters(4, 2, 0.02, cores=2, **even)
    assert simulate(cpu).batches_per_second == pytest.approx(2 / 0.021, rel=0.02)
    step = SimulationParameters(4, 2, 0.02, step_seconds=0.05, cores=4, **even)
    assert simulate(step).batches_per_second == pytest.approx(20, rel=0.01)
    assert simulate(step).stall_share == pytest.approx(0, abs=0.02)
    by_turns = SimulationParameters(
        4, 2, 0.001, hand_over_seconds=0.02, step_seconds=0.05, step_cpu_seconds=0.05, cores=8
    )
    assert simulate(by_turns).batches_per_second == pytest.approx(1 / 0.07, rel=0.02)


def test_a_step_that_blocks_takes_turns_with_taking_batches_over_and_leaves_the_cores_to_workers():
    ahead = SimulationParameters(4, 2, 0.02, hand_over_seconds=0.02, step_seconds=0.03, cores=1, calibration=SMOOTH)
    blocked = dataclasses.replace(ahead, cpu_seconds=0.01, step_blocks=True)
    assert simulate(ahead).batches_per_second == pytest.approx(25, rel=0.01)
    assert simulate(blocked).batches_per_second == pytest.approx(20, rel=0.01)


def test_without_workers_loading_and_stepping_take_turns():
    assert simulate(SimulationParameters(0, 0, 0.03, 0.01, step_seconds=0.06)).batches_per_second == pytest.approx(10)


def test_one_worker_is_never_idle_with_the_least_prefetching():
    # What a single worker loses beside none is in its own work; its queue never runs dry.
    deep, shallow = (SimulationParameters(1, depth, 0.1, hand_over_seconds=0.01, cores=2) for depth in (8, 2))
    assert simulate(shallow).batches_per_second == pytest.approx(simulate(deep).batches_per_second, rel=0.001)


def test_a_slow_batch_stops_the_dispatch_to_all_unless_order_is_given_up():
    late = {"spread": (1.0,) * 15 + (20.0,), "cores": 64.0}
    ordered = simulate(SimulationParameters(8, 2, 0.0, 0.02, **late), 3000)
    deeper = simulate(SimulationParameters(8, 8, 0.0, 0.02, **late), 3000)
    free = simulate(SimulationParameters(8, 2, 0.0, 0.02, in_order=False, **late), 3000)
    assert ordered.batches_per_second < 0.7 * free.batches_per_second
    assert ordered.batches_per_second < deeper.batches_per_second


def test_workers_that_persist_start_once():
    epochs = {"epoch_batches": 8, "start_seconds": 1.0, "cores": 2.0}
    lasting = simulate(SimulationParameters(2, 2, 0.1, persistent_workers=True, **epochs), 40)
    renewed = simulate(SimulationParameters(2, 2, 0.1, **epochs), 40)
    assert lasting.epoch_seconds[0] == pytest.approx(1.4)
    assert lasting.epoch_seconds[1:] == pytest.approx([0.4] * 4)
    assert renewed.epoch_seconds == pytest.approx([1.4] * 5)
    assert renewed.batches_per_second == pytest.approx(8 / 1.4)
    long = simulate(SimulationParameters(2, 2, 0.1, epoch_batches=10_000, start_seconds=1.0, cores=2.0), 100)
    assert long.epoch_seconds == pytest.approx([501, 501], rel=0.01)


class Sleeper(Dataset):
    """Batches that take a known time, and no CPU."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return len(self.seconds)

    def __getitem__(self, index):
        time.sleep(self.seconds[index])
        return index


def _second_epoch(workers, prefetch, seconds, step_seconds, in_order=True):
    """Seconds of an epoch with workers that are there already."""
    loader = DataLoader(
        Sleeper(seconds),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        in_order=in_order,
    )
    next(iter(loader))
    for _ in loader:
        pass
    begin = time.perf_counter()
    for _ in loader:
        time.sleep(step_seconds)
    return time.perf_counter() - begin


@pytest.mark.parametrize(
    ("workers", "prefetch", "spread", "step_seconds", "in_order"),
    [
        (1, 2, (1.0,), 0.0, True),
        (4, 2, (1.0,), 0.0, True),
        (4, 2, (1.0,), 0.02, True),
        (4, 1, (0.5, 0.5, 0.5, 2.5), 0.0, True),
        (4, 4, (0.5, 0.5, 0.5, 2.5), 0.0, True),
        (4, 2, (0.2,) * 9 + (8.2,), 0.0, True),
        (4, 2, (0.2,) * 9 + (8.2,), 0.0, False),
    ],
)
def test_an_epoch_takes_as_long_as_the_real_one(workers, prefetch, spread, step_seconds, in_order):
    factors = [spread[(7 * place) % len(spread)] for place in range(40)]
    loading = SimulationParameters(workers, prefetch, 0.0, 0.02, step_seconds=step_seconds, in_order=in_order)
    expected = consumed(loading, factors)[-1]
    times = [0.02 * factor for factor in factors]
    # Sleeps are exact to a millisecond or so, but a busy host may wake a process up late.
    for _ in range(4):
        real = _second_epoch(workers, prefetch, times, step_seconds, in_order)
        if 0.95 < real / expected < 1.2:
            break
    assert 0.95 < real / expected < 1.2
