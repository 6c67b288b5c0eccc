"""Torch's iterator with workers, but with a limited wait, and able to get indices late.

Torch waits without limit for living workers that hang, for instance behind a lock that was held when they were forked.
"""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_POLL_SECONDS = 1.0


class PatientIterator(_MultiProcessingDataLoaderIter):
    """Iterator that raises RuntimeError if workers deliver nothing for its loader's `patience_seconds`."""

    def __init__(self, loader: Any) -> None:
        self._patience_seconds = loader.patience_seconds
        self._give_up_at = 0.0
        super().__init__(loader)
        # Profiles of a training expect this name.
        self._profile_name = f"enumerate(DataLoader)#{_MultiProcessingDataLoaderIter.__name__}.__next__"

    def _get_data(self) -> Any:
        self._give_up_at = time.monotonic() + self._patience_seconds
        return super()._get_data()  # type: ignore[no-untyped-call]

    def _try_get_data(self, timeout: float = _POLL_SECONDS) -> Any:
        found = super()._try_get_data(min(timeout, _POLL_SECONDS))  # type: ignore[no-untyped-call]
        if not found[0] and time.monotonic() > self._give_up_at:
            # Torch would wait five seconds for each of them to end in order.
            for worker in self._workers:
                worker.kill()
            raise RuntimeError(f"its workers have delivered nothing for {self._patience_seconds:.0f} s")
        return found

    def top_up(self) -> None:
        """Send indices to the workers up to their limit, because the source may have had none before."""
        while self._send_idx - self._rcvd_idx < self._prefetch_factor * self._num_workers:
            sent = self._send_idx
            self._try_put_index()
            if self._send_idx == sent:
                return
