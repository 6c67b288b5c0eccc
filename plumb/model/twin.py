"""Simulation of a configuration: effects that the bounds leave out."""

from __future__ import annotations

import math

from plumb.core.config import Config
from plumb.model.demand import demand
from plumb.model.inputs import ModelInputs
from plumb.model.resource_bounds import cores, crowd, loader_rates, loop_rates
from plumb.model.simulator import SimulationParameters, simulate


def simulation_parameters(inputs: ModelInputs, config: Config) -> SimulationParameters:
    """Return the simulator's parameters for `config`, without the start of its workers."""
    wanted, batch = demand(inputs, config), inputs.samples_per_batch
    making = float(wanted.seconds(crowd=crowd(inputs, wanted, config.num_workers)))
    # The CPU time saved because a core never idles counts as waiting: it takes time and no core.
    computing = min((wanted.cpu_seconds + min(0.0, wanted.switching_cpu_seconds)) / wanted.speedup, making)
    step = inputs.step_samples_per_second
    return SimulationParameters(
        num_workers=config.num_workers,
        prefetch_factor=config.prefetch_factor or 0,
        cpu_seconds=computing * batch,
        wait_seconds=(making - computing) * batch,
        hand_over_seconds=wanted.main_seconds * batch,
        step_seconds=batch / step if step else 0.0,
        step_cpu_seconds=min(1.0 / step, inputs.step_cpu_seconds) * batch if step else 0.0,
        step_blocks=inputs.step_blocks,
        spread=_spread(inputs.batch_seconds),
        in_order=config.in_order,
        cores=float(cores(inputs, wanted, config.num_workers, inputs.step_cpu_seconds)),
        calibration=inputs.calibration.of(wanted.cpu_seconds),
        epoch_batches=math.ceil(inputs.epoch_samples / batch) if inputs.epoch_samples else None,
        persistent_workers=True,
    )


def simulated_rate(inputs: ModelInputs, config: Config, batches: int, seed: int = 0) -> float:
    """Return the simulated samples per second of the training loop, with workers that are ready at the start.

    The result is capped by the bounds. A simulated worker uses at most one core, whereas a real one with threads may
    use more.

    Args:
        inputs: Inputs of the model.
        config: Configuration to simulate.
        batches: Number of batches.
        seed: Seed of the simulation.

    """
    wanted = demand(inputs, config)
    bound = loop_rates(inputs, wanted, config.num_workers, loader_rates(inputs, wanted, config.num_workers, True))
    simulated = (
        simulate(simulation_parameters(inputs, config), batches, seed).batches_per_second * inputs.samples_per_batch
    )
    return min(simulated, float(bound))


def _spread(batch_seconds: tuple[float, ...]) -> tuple[float, ...]:
    """Return the times as factors with a mean of one."""
    mean = sum(batch_seconds) / len(batch_seconds) if batch_seconds else 0.0
    return tuple(seconds / mean for seconds in batch_seconds) if mean > 0 else (1.0,)
