"""Draws from random generators that the dataset holds, noticed in the worker that makes them.

Each worker has a copy of such a generator, so other workers than the user's draw other numbers: the same ones in each
worker, perhaps. A dataset that draws for a rare sample only shows it in none of the samples that were tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch as torchs_fetch

from plumb.profile.randomness import state_of
from plumb.runtime.held import Held


class OwnDrawsError(Exception):
    """A batch drew from a generator of the dataset's own, in a worker that the user does not have."""


@dataclass(frozen=True)
class OwnDrawsInit:
    """A `worker_init_fn` that does what the one before does, and then lets batches that draw so fail.

    Whoever gets the error has the batch made again by the user's own configuration. Picklable if both functions are.
    """

    then: Callable[[int], None] | None
    collate_fn: Callable[[Any], Any] | None

    def __call__(self, worker_id: int) -> None:
        if self.then is not None:
            self.then(worker_id)
        info = get_worker_info()
        roots = [info.dataset if info else None, self.collate_fn]
        generators = [each for root in roots if root is not None for each in Held(root).generators]
        if generators:
            _watch(generators)


def _watch(generators: list[Any]) -> None:
    """Let torch's fetcher of this process, which is a worker, raise OwnDrawsError where a generator has moved."""
    plain: Callable[[Any, Any], Any] = torchs_fetch._MapDatasetFetcher.fetch

    def fetch(fetcher: Any, indices: Any) -> Any:
        before = [state_of(each) for each in generators]
        batch = plain(fetcher, indices)
        if [state_of(each) for each in generators] != before:
            raise OwnDrawsError("a sample drew from a random generator of the dataset's own, which each worker copies")
        return batch

    torchs_fetch._MapDatasetFetcher.fetch = fetch  # type: ignore[method-assign]
