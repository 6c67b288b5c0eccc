"""Torch's iterator with workers, but for two waits that have no end in it.

A worker whose batch can't be pickled drops it, with a traceback, and torch waits for that batch for ever: see
`multiprocessing.queues.Queue._on_queue_feeder_error`. And workers that hang, behind a lock that was taken when they
were forked for instance, are waited for as long as they live.
"""

from __future__ import annotations

import multiprocessing.queues
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_POLL_SECONDS = 1.0


class PatientIterator(_MultiProcessingDataLoaderIter):
    """Raises RuntimeError where workers have delivered nothing for the `patience_seconds` of its loader."""

    def __init__(self, loader: Any) -> None:
        self._patience_seconds = loader.patience_seconds
        self._give_up_at = 0.0
        super().__init__(loader)

    def _get_data(self) -> Any:
        self._give_up_at = time.monotonic() + self._patience_seconds
        return super()._get_data()  # type: ignore[no-untyped-call]

    def _try_get_data(self, timeout: float = _POLL_SECONDS) -> Any:
        found = super()._try_get_data(min(timeout, _POLL_SECONDS))  # type: ignore[no-untyped-call]
        if not found[0] and time.monotonic() > self._give_up_at:
            raise RuntimeError(f"its workers have delivered nothing for {self._patience_seconds:.0f} s")
        return found

    def top_up(self) -> None:
        """Send indices to the workers until they have as many as they may: the source may have had none before."""
        while self._send_idx - self._rcvd_idx < self._prefetch_factor * self._num_workers:
            sent = self._send_idx
            self._try_put_index()
            if self._send_idx == sent:
                return


@dataclass(frozen=True)
class Reporting:
    """A `worker_init_fn` that does what the user's does; its worker delivers an error in place of a batch that can't be
    pickled. Picklable if the user's function is.
    """

    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        multiprocessing.queues.Queue._on_queue_feeder_error = _FeederErrors()  # type: ignore[attr-defined]
        if self.then is not None:
            self.then(worker_id)


class _FeederErrors:
    """In place of a queue's method that prints what went wrong with an object in the queue's thread."""

    def __get__(self, queue: Any, owner: type) -> Callable[[BaseException, Any], None]:
        return partial(_sent_instead, queue)


def _sent_instead(queue: Any, error: BaseException, sent: Any) -> None:
    if isinstance(sent, tuple) and len(sent) == 2 and not isinstance(sent[1], ExceptionWrapper):
        reason = RuntimeError(f"its batch can't be sent by a worker ({type(error).__name__}: {error})")
        queue.put((sent[0], ExceptionWrapper((RuntimeError, reason, None))))  # type: ignore[no-untyped-call]
