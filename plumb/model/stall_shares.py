"""Attribution of a training loop's waiting time to its causes, from measured shares and a sample's costs."""

from __future__ import annotations

from plumb.core.config import Config
from plumb.core.plan import StepShares
from plumb.model import resource_bounds
from plumb.model.demand import Demand, deferral_of, demand
from plumb.model.inputs import ModelInputs


def step_shares(
    inputs: ModelInputs, config: Config, samples_per_second: float, waiting_share: float, ranks_share: float = 0.0
) -> StepShares:
    """Divide the time of a measured loop between the step, reading, computing, transfer and other ranks.

    Receiving batches can't be hidden behind anything. The rest of the waiting is attributed to the binding resource: to
    storage or to cores alone, otherwise to a sample's waiting and computing in their proportion. The same holds without
    workers, where all of this happens in sequence.

    Args:
        inputs: Costs and limits.
        config: Configuration with which the loop was measured.
        samples_per_second: Measured rate of the loop.
        waiting_share: Share of the loop's time spent waiting for data.
        ranks_share: Share of the loop's time spent waiting for other ranks.

    """
    wanted = demand(inputs, config)
    behind_collate = deferral_of(inputs, config.deferred).main_seconds if config.deferred else 0.0
    taking_over = max(0.0, wanted.main_seconds - behind_collate) * samples_per_second
    transfer = min(waiting_share, taking_over)
    left = waiting_share - transfer
    limits = resource_bounds.bounds(inputs, config)
    binding = min(limits.keys() - {"step"}, key=lambda resource: limits[resource], default="workers")
    if binding == "transfer" or (binding == "main process" and config.num_workers and not config.deferred):
        transfer, left = waiting_share, 0.0
    read = left * _waiting_part(wanted, binding, config.num_workers)
    ranks = min(ranks_share, 1.0 - waiting_share)
    return StepShares(1.0 - waiting_share - ranks, read, left - read, transfer, ranks)


def _waiting_part(wanted: Demand, binding: str, num_workers: int) -> float:
    """Return the share (0 to 1) of the data stall that is due to a sample's waiting, as opposed to computing."""
    if num_workers and binding in ("storage", "cpu"):
        return float(binding == "storage")
    computing = wanted.cpu_seconds / wanted.speedup
    making = computing + wanted.wait_seconds
    return wanted.wait_seconds / making if making > 0 else 0.0
