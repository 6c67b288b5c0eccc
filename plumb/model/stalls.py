"""What a training loop waits for, told from how long it waits and from what a sample costs."""

from __future__ import annotations

from plumb.config import Config
from plumb.model import operational
from plumb.model.demand import Demand, deferral_of, demand
from plumb.model.situation import Situation
from plumb.plan import StepShares


def step_shares(
    situation: Situation, config: Config, samples_per_second: float, waiting_share: float, ranks_share: float = 0.0
) -> StepShares:
    """Divides the time of a loop that was measured with `config` at this rate, and waits for data so much of it, and
    for other ranks so much.

    Taking batches over can't be hidden behind anything. What is left is put down to the resource that binds: to storage
    or to cores alone, else to a sample's waiting and computing as they relate to each other. So it is without workers,
    too, where all of this follows one after another.
    """
    wanted = demand(situation, config)
    behind_collate = deferral_of(situation, config.deferred).main_seconds if config.deferred else 0.0
    taking_over = max(0.0, wanted.main_seconds - behind_collate) * samples_per_second
    transfer = min(waiting_share, taking_over)
    left = waiting_share - transfer
    limits = operational.bounds(situation, config)
    binding = min(limits.keys() - {"step"}, key=lambda resource: limits[resource], default="workers")
    if binding == "transfer" or (binding == "main process" and config.num_workers and not config.deferred):
        transfer, left = waiting_share, 0.0
    read = left * _waiting_part(wanted, binding, config.num_workers)
    ranks = min(ranks_share, 1.0 - waiting_share)
    return StepShares(1.0 - waiting_share - ranks, read, left - read, transfer, ranks)


def _waiting_part(wanted: Demand, binding: str, num_workers: int) -> float:
    """How much of the making of a sample holds the loop up by waiting, from 0 to 1, rather than by computing."""
    if num_workers and binding in ("storage", "cpu"):
        return float(binding == "storage")
    computing = wanted.cpu_seconds / wanted.speedup
    making = computing + wanted.wait_seconds
    return wanted.wait_seconds / making if making > 0 else 0.0
