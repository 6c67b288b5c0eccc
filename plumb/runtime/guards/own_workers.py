"""Guard of loaders for which another number of workers than the script's may mean other samples."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from plumb.core.config import Config
from plumb.instrument.worker_identity import why_worker_matters


class OwnWorkers:
    """Comparison of a plan's workers with those of the script's configuration `users`, for one loader.

    Plans made by an older plumb or by hand may have another number although samples depend on the worker that makes
    them. `compared` are the counts of workers with which the plan compared the samples of an iterable dataset.
    """

    def __init__(self, users: Config, planned: Config, compared: frozenset[int]) -> None:
        self._users = users
        self._planned = planned
        self._compared = compared
        self._was_looked_up = False
        self._why: str | None = None

    def matter(self, loader: DataLoader[Any]) -> bool:
        """Return whether each batch must be made by the same of the script's workers as without a plan."""
        return self._users.num_workers > 0 and self._reason(loader) is not None

    def why_plain(self, loader: DataLoader[Any]) -> str | None:
        """Return why the loader must run as the script has it; None if the plan's configuration is as good."""
        users, planned = self._users, self._planned
        counts = {users.num_workers, planned.num_workers}
        if isinstance(loader.dataset, IterableDataset):
            # The plan's workers might each deliver all of a stream.
            return None if len(counts) == 1 or counts <= self._compared else self._may_repeat_samples()
        if counts == {0}:
            return None
        is_same = _workers(users) == _workers(planned) and not planned.rewrites_samples
        return None if is_same else self._reason(loader)

    def _may_repeat_samples(self) -> str:
        return (
            f"with num_workers={self._planned.num_workers} an iterable dataset may deliver samples more than once, and "
            f"the plan does not say that it was compared with {self._users.num_workers}"
        )

    def _reason(self, loader: DataLoader[Any]) -> str | None:
        if not self._was_looked_up:
            self._was_looked_up, self._why = True, why_worker_matters(loader)
        return self._why


def _workers(config: Config) -> tuple[int, bool, bool]:
    return config.num_workers, config.persistent_workers, config.in_order
