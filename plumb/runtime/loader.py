"""A loader like the user's, with another configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from plumb.config import Config, Rewrites
from plumb.runtime.inherited_files import ReopeningInit
from plumb.runtime.patient_iterator import PatientIterator
from plumb.runtime.running import Running
from plumb.runtime.stored import Stored
from plumb.runtime.watched import WatchedInit
from plumb.torch_loader import DataLoader

NO_REWRITES = Rewrites()


class Loader(DataLoader[Any]):
    """Torch's loader on a configuration of plumb's; `dataset` and all other parts are the user's own.

    The arguments are torch's; those that `config` is about are replaced by it. `running` starts its iterators, where it
    outlives the loader. Where `patience_seconds` are set, workers that deliver nothing for so long raise RuntimeError.
    """

    made_by_plumb = True

    def __init__(
        self,
        dataset: Any,
        *arguments: Any,
        config: Config,
        rewrites: Rewrites = NO_REWRITES,
        stored: Stored | None = None,
        running: Running | None = None,
        is_checked: bool = False,
        **keywords: Any,
    ) -> None:
        if running is None and (config.needs_runtime or is_checked):
            running = Running(config, rewrites, stored, is_checked=is_checked)
        self.running = running
        self.patience_seconds: float | None = None
        super().__init__(dataset, *arguments, **{**keywords, **config.loader_arguments()})

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start = super().__iter__
        return start() if self.running is None else self.running.start(self, start)

    def _get_iterator(self) -> Any:
        return super()._get_iterator() if self.patience_seconds is None else PatientIterator(self)

    def check_worker_number_rationality(self) -> None:
        """Says nothing: plumb knows the limits, and torch's own advice overlooks quotas."""


def current_config(loader: DataLoader[Any]) -> Config:
    """The configuration that a loader of the user's has now."""
    return Config(
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        in_order=getattr(loader, "in_order", True),
    )


def index_sampler(loader: DataLoader[Any]) -> Iterable[Any]:
    """What gives a loader its batches of indices, or its single indices where the dataset makes the batches."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def rebuild(
    loader: DataLoader[Any],
    config: Config,
    indices: Iterable[Any] | None,
    timeout_seconds: float = 0.0,
    rewrites: Rewrites = NO_REWRITES,
    stored: Stored | None = None,
    stacks_file: str | None = None,
    running: Running | None = None,
    is_checked: bool = False,
) -> Loader:
    """A loader over the same dataset with `config`; it reads `indices` (batches of them where the user's loader makes
    batches), or the user's own sampler where `indices` is None. Workers that stay silent for `timeout_seconds` raise
    RuntimeError; the user's own timeout, if there is one, is kept. Where `stacks_file` is given, workers write their
    stacks to it when asked (see `runtime/watched.py`). `is_checked` lets indices that are marked come back with a note.
    """
    worker_init_fn = loader.worker_init_fn
    if config.num_workers and not isinstance(worker_init_fn, ReopeningInit):
        worker_init_fn = ReopeningInit(worker_init_fn)
    arguments: dict[str, Any] = {
        "collate_fn": loader.collate_fn,
        "timeout": (loader.timeout or timeout_seconds) if config.num_workers else 0,
        "worker_init_fn": WatchedInit(stacks_file, worker_init_fn) if stacks_file else worker_init_fn,
        "generator": loader.generator,
    }
    if config.num_workers:
        arguments["multiprocessing_context"] = config.start_method or loader.multiprocessing_context
    if isinstance(loader.dataset, torch.utils.data.IterableDataset):
        arguments |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
    elif loader.batch_sampler is not None:
        arguments["batch_sampler"] = loader.batch_sampler if indices is None else indices
    else:
        arguments |= {"sampler": loader.sampler if indices is None else indices, "batch_size": None}
    return Loader(
        loader.dataset,
        config=config,
        rewrites=rewrites,
        stored=stored,
        running=running,
        is_checked=is_checked,
        **arguments,
    )
