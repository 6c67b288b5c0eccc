"""Pipelines, hosts and configurations of every kind, for properties of the model."""

import math

from hypothesis import strategies as st

from plumb.core.plan import SampleCost
from plumb.host import Limits
from plumb.model.calibration import Calibration
from plumb.model.concurrency_climb import ClimbEnd, SourceCapacity
from plumb.model.cpu_contention import CpuCompetition
from plumb.model.inputs import (
    AllocatorGain,
    CutCost,
    DeferralCost,
    Footprint,
    ModelInputs,
    RemainingCpuShare,
    SearchSpace,
    StorageBandwidth,
    ThreadsCost,
)
from plumb.model.planner import cache_choice

seconds = st.floats(1e-6, 1.0)
costs = st.builds(
    SampleCost,
    wall_seconds=seconds,
    cpu_seconds=seconds,
    wait_seconds=st.floats(0, 1.0),
    main_seconds=st.floats(0, 0.01),
    output_bytes=st.just(0.0) | st.floats(1, 1e7),
    output_tensors=st.floats(0, 4),
)
limits = st.builds(
    Limits,
    cpus=st.floats(0.1, 128),
    memory_bytes=st.floats(1e6, 1e12),
    shm_bytes=st.floats(0, 1e11),
    open_files=st.integers(0, 100_000).map(float),
    processes=st.integers(0, 1000).map(float),
    disk_bytes=st.floats(0, 1e12),
    max_workers=st.just(math.inf) | st.integers(0, 64).map(float),
    max_connections=st.just(math.inf) | st.integers(1, 256).map(float),
)
BATCH_TIMES = {
    "cpu_seconds": st.floats(0.001, 0.1),
    "wait_seconds": st.just(0.0) | st.floats(0.001, 0.1),
    "hand_over_seconds": st.just(0.0) | st.floats(0.0001, 0.02),
    "step_seconds": st.just(0.0) | st.floats(0.0001, 0.1),
    "step_cpu_seconds": st.just(0.0) | st.floats(0, 0.05),
    "in_order": st.booleans(),
    "cores": st.floats(0.5, 8),
}
"""What the simulator is told of a batch, as far as every test of it may vary that."""
footprints = st.builds(
    Footprint,
    batch_bytes=st.floats(1, 1e9),
    tensors_per_batch=st.integers(1, 100),
    worker_private_bytes=st.floats(0, 1e9),
    main_bytes=st.floats(1e6, 1e10),
    open_files=st.integers(3, 500),
    worker_growth_bytes=st.just(0.0) | st.floats(0, 1e9),
)
shares = st.floats(0, 1.5)
lefts = st.builds(RemainingCpuShare, shares, shares, st.none() | st.builds(RemainingCpuShare, shares, shares))
saved = (st.floats(1, 1e6), lefts, st.floats(0, 1), st.floats(0, 0.5))
cuts = st.tuples(
    st.builds(CutCost, st.just("decode"), *saved, left_deferred=lefts),
    st.builds(CutCost, st.just("sample"), *saved),
)
deferrals = st.builds(
    DeferralCost,
    st.just(("normalize",)),
    lefts,
    *[st.floats(0, 0.1)] * 2,
    st.floats(-1e6, 1e6),
).map(lambda deferral: (deferral,))
threads = st.tuples(
    st.builds(
        ThreadsCost, st.just(8), st.none(), *[st.floats(1 / 8, 2)] * 2, st.floats(0.3, 3), *[st.floats(0, 1)] * 2
    ),
    st.builds(
        ThreadsCost,
        st.just(4),
        st.just("decode"),
        *[st.floats(1 / 4, 2)] * 2,
        st.floats(0.3, 3),
        *[st.floats(0, 1)] * 2,
    ),
)
calibrations = st.builds(
    Calibration,
    crowding=st.floats(-0.3, 3),
    oversubscription=st.floats(0, 1),
    hand_over_seconds_per_batch=st.floats(0, 0.01),
    hand_over_seconds_per_byte=st.floats(0, 1e-9),
    crowded_cpu_seconds=st.just(0.0) | seconds,
)
situations = st.builds(
    ModelInputs,
    cost=costs,
    cost_in_worker=costs,
    footprint=footprints,
    limits=limits,
    step_samples_per_second=st.none() | st.floats(1, 1e6),
    step_cpu_seconds=st.floats(0, 0.1),
    epoch_samples=st.none() | st.floats(1, 1e7),
    start_seconds_in_main=st.floats(0, 5),
    start_seconds_in_worker=st.floats(0, 5),
    samples_per_batch=st.integers(1, 512).map(float),
    batch_seconds=st.lists(st.floats(0.001, 1), max_size=5).map(tuple),
    calibration=calibrations,
    dataset_samples=st.floats(1, 1e6),
    cuts=cuts,
    deferrals=deferrals,
    threads=threads,
    allocator=st.none() | st.builds(AllocatorGain, st.floats(0.05, 1), st.floats(0, 1e9)),
    fresh_seconds=st.floats(0, 0.1),
    torch_threads_speedup=st.floats(1, 8),
    read_bytes=st.floats(0, 1e7),
    storage=st.none() | st.just(StorageBandwidth((1.0, 16.0, 64.0), (1e7, 1e8, 2e8))),
    transfer_bytes_per_second=st.none() | st.floats(1e6, 1e11),
    source=st.none()
    | st.builds(
        SourceCapacity,
        st.just((1, 2, 4)),
        st.just((10.0, 20.0, 40.0)),
        st.just(4),
        st.just(4),
        st.sampled_from(ClimbEnd),
    ),
    competition=st.none() | st.builds(CpuCompetition, st.floats(1, 128), st.floats(0, 64), st.floats(0.1, 1)),
)


@st.composite
def freedoms(draw, inputs):
    """What may be chosen in a situation: few values of every knob."""
    most = draw(st.integers(0, 6))
    stores = [
        cache_choice(cut, draw(st.floats(0, 1e11)), inputs.dataset_samples, folder)
        for cut in inputs.cuts
        for folder in (None, "/stores")
    ]
    return SearchSpace(
        num_workers=tuple(range(most + 1)),
        prefetch_factor=(2, 4),
        pin_memory=draw(st.sampled_from([(False,), (False, True)])),
        in_order=draw(st.sampled_from([(True,), (True, False)])),
        worker_torch_threads=draw(st.sampled_from([(1,), (1, 4)])),
        fetch=draw(st.sampled_from([((1, None),), ((1, None), (8, None)), ((1, None), (4, "decode"))])),
        caches=(None, *draw(st.lists(st.sampled_from(stores), max_size=2, unique=True))),
        deferrals=draw(st.sampled_from([((),), ((), ("normalize",))])),
        allocator_reuse=draw(st.sampled_from([(False,), (False, True)])),
    )


@st.composite
def places(draw):
    """A situation, and a configuration that its search space holds."""
    inputs = draw(situations)
    search_space = draw(freedoms(inputs))
    return inputs, search_space, draw(configs_of(search_space))


def configs_of(search_space):
    """Configurations that a search space holds, feasible or not."""
    from plumb.tuning.search.optuna_space import Space

    return st.fixed_dictionaries(
        {
            "num_workers": st.sampled_from(search_space.num_workers),
            **{
                name: st.sampled_from(distribution.choices)
                for name, distribution in Space(search_space, None).distributions().items()
                if name != "num_workers"
            },
        }
    ).map(Space(search_space, None).config)
