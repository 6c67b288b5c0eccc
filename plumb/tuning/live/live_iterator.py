"""Iterator for the user's loop during the tuning: every batch is measured when it is delivered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import DataLoader

from plumb.core.sized import index_count
from plumb.runtime.epoch.epoch_iterator import EpochIterator
from plumb.runtime.epoch.epoch_order import EpochOrder
from plumb.runtime.epoch.loader_run import LoaderRun, state_guard
from plumb.runtime.guards.state_guard import StateGuard
from plumb.tracing.device.profile import synchronize
from plumb.tuning.live.controller import LiveController
from plumb.tuning.live.meter import Delivery, now
from plumb.tuning.measure.sample_cost import samples_in


@dataclass
class LiveRun(LoaderRun):
    """State shared by the epochs of one loader that is tuned during training."""

    steering: LiveController
    state: StateGuard = field(init=False)

    def __post_init__(self) -> None:
        self.state = state_guard(self)
        self.guards.add(self.state)


class LiveIterator(EpochIterator):
    """One epoch, whose deliveries are passed to the pilot as long as it is the latest epoch."""

    _run: LiveRun

    def renew(self, template: DataLoader[Any], order: EpochOrder, seed_state: Any) -> None:
        """Begin another epoch, as torch's iterator does if its workers persist."""
        self._returned: tuple[float, float, float] | None = None
        super().renew(template, order, seed_state)

    def _batch_wanted(self) -> Any:
        if not self._is_latest:
            return super()._batch_wanted()
        controller, asked, returned = self._run.steering, now(), self._returned
        workers = self._segments[-1].config.num_workers if self._segments else self._run.own.num_workers
        ends_span = controller.ends_span(asked[0], workers)
        if ends_span and not controller.is_settled:
            synchronize()
            asked = now()
        if not self._has_next():
            self._end()
        self._switch()
        batch, indices, segment = self._batch()
        got = self._returned = now()
        delivery = Delivery(
            config=segment.config,
            samples=index_count(indices, self._template.batch_sampler is not None) or samples_in(batch),
            at=got[0],
            wait_seconds=got[0] - asked[0],
            wait_cpu_seconds=got[1] - asked[1],
            step_seconds=asked[0] - returned[0] if returned else 0.0,
            step_cpu_seconds=asked[2] - returned[2] if returned else 0.0,
            is_steady=segment is self._segments[-1] and self._next_segment is None and segment.is_steady,
            is_filled=segment.is_filled,
            ends_span=ends_span,
            start_seconds=segment.start_seconds,
            pids=segment.pids,
        )
        controller.note(delivery, batch, indices)
        return batch

    def _is_due(self) -> bool:
        # New workers would get the dataset as it is now, which must equal the one that this epoch's workers got.
        return super()._is_due() and self._run.state.is_as_at_the_start()
