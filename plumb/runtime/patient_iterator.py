"""Torch's iterator with workers, but for a wait that has no end in it, and able to be given indices late.

Workers that hang, behind a lock that was taken when they were forked for instance, are waited for by torch as long as
they live.
"""

from __future__ import annotations

import time
from typing import Any

from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

_POLL_SECONDS = 1.0


class PatientIterator(_MultiProcessingDataLoaderIter):
    """Raises RuntimeError where workers have delivered nothing for the `patience_seconds` of its loader."""

    def __init__(self, loader: Any) -> None:
        self._patience_seconds = loader.patience_seconds
        self._give_up_at = 0.0
        super().__init__(loader)
        # Under the name that profiles of a training know.
        self._profile_name = f"enumerate(DataLoader)#{_MultiProcessingDataLoaderIter.__name__}.__next__"

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
