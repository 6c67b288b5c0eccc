"""A loader like the user's, with another configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from plumb.plan import Config
from plumb.runtime.allocator import reuse_for_good


class Loader(DataLoader[Any]):
    """Torch's loader, built by plumb for its own use."""

    made_by_plumb = True

    def check_worker_number_rationality(self) -> None:
        """Says nothing: plumb knows the limits, and torch's own advice overlooks quotas."""


@dataclass(frozen=True)
class WorkerInit:
    """The user's `worker_init_fn`, after the worker's threads and allocator were set; picklable if the user's is."""

    torch_threads: int
    allocator_reuse: bool
    then: Callable[[int], None] | None

    def __call__(self, worker_id: int) -> None:
        """Runs in the worker, before its first sample."""
        torch.set_num_threads(self.torch_threads)
        if self.allocator_reuse:
            reuse_for_good()
        if self.then is not None:
            self.then(worker_id)


def worker_init(config: Config, users: Callable[[int], None] | None) -> Callable[[int], None] | None:
    """The `worker_init_fn` that sets up workers for `config`. Torch itself sets one thread, so one needs nothing."""
    if config.worker_torch_threads == 1 and not config.allocator_reuse:
        return users
    return WorkerInit(config.worker_torch_threads, config.allocator_reuse, users)


def current_config(loader: DataLoader[Any]) -> Config:
    """The configuration that a loader of the user's has now."""
    return Config(
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        in_order=getattr(loader, "in_order", True),
    )


def rebuild(
    loader: DataLoader[Any], config: Config, indices: Iterable[Any] | None, timeout_seconds: float = 0.0
) -> Loader:
    """A loader over the same dataset with `config`; it reads `indices` (batches of them where the user's loader makes
    batches), or the user's own sampler where `indices` is None. Workers that stay silent for `timeout_seconds` raise
    RuntimeError; the user's own timeout, if there is one, is kept.
    """
    arguments: dict[str, Any] = {
        "dataset": loader.dataset,
        "collate_fn": loader.collate_fn,
        "timeout": (loader.timeout or timeout_seconds) if config.num_workers else 0,
        "worker_init_fn": worker_init(config, loader.worker_init_fn),
        "generator": loader.generator,
        **config.loader_arguments(),
    }
    if config.num_workers:
        arguments["multiprocessing_context"] = loader.multiprocessing_context
    if isinstance(loader.dataset, torch.utils.data.IterableDataset):
        arguments |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        arguments["batch_sampler"] = loader.batch_sampler if indices is None else indices
    else:
        arguments |= {"sampler": loader.sampler if indices is None else indices, "batch_size": None}
    return Loader(**arguments)
