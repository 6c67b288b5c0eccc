"""Loaders like the user's, with another configuration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from plumb.core.config import Config, Rewrites
from plumb.instrument.torch_loader import DataLoader
from plumb.instrument.worker_init import ReopeningInit, WatchedInit
from plumb.runtime.iterator_setup import IteratorSetup
from plumb.runtime.patient_iterator import PatientIterator
from plumb.runtime.store.dataset_store import DatasetStore

NO_REWRITES = Rewrites()


class TorchsLoader(DataLoader[Any]):
    """Torch's loader as plumb makes it for itself: the interception of a script's loaders passes it by."""

    made_by_plumb = True


class Loader(TorchsLoader):
    """Torch's loader on a configuration of plumb's; `dataset` and all other parts are the user's own.

    The arguments are torch's; `config` replaces those that it covers. `running` starts the iterators if it outlives the
    loader. Workers that deliver nothing for `patience_seconds`, if set, raise RuntimeError.
    """

    def __init__(
        self,
        dataset: Any,
        *arguments: Any,
        config: Config,
        rewrites: Rewrites = NO_REWRITES,
        stored: DatasetStore | None = None,
        running: IteratorSetup | None = None,
        is_checked: bool = False,
        **keywords: Any,
    ) -> None:
        if running is None and (config.needs_runtime or is_checked):
            running = IteratorSetup(config, rewrites, stored, is_checked=is_checked)
        self.running = running
        self.patience_seconds: float | None = None
        super().__init__(dataset, *arguments, **{**keywords, **config.loader_arguments()})

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        start = super().__iter__
        return start() if self.running is None else self.running.start(self, start)

    def _get_iterator(self) -> Any:
        return super()._get_iterator() if self.patience_seconds is None else PatientIterator(self)

    def check_worker_number_rationality(self) -> None:
        """Do nothing: plumb knows the limits, and torch's own advice ignores quotas."""


def current_config(loader: DataLoader[Any]) -> Config:
    """Return the present configuration of a user's loader."""
    return Config(
        num_workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        in_order=getattr(loader, "in_order", True),
    )


def index_sampler(loader: DataLoader[Any]) -> Iterable[Any]:
    """Return a loader's sampler of index batches, or of single indices if the dataset makes the batches."""
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler


def rebuild(
    loader: DataLoader[Any],
    config: Config,
    indices: Iterable[Any] | None,
    timeout_seconds: float = 0.0,
    rewrites: Rewrites = NO_REWRITES,
    stored: DatasetStore | None = None,
    stacks_file: str | None = None,
    running: IteratorSetup | None = None,
    is_checked: bool = False,
) -> Loader:
    """Make a loader over the same dataset with another configuration.

    Args:
        loader: The user's loader.
        config: Configuration.
        indices: Indices to read (batches of them if the user's loader makes batches); None for the user's own sampler.
        timeout_seconds: Time after which silent workers raise RuntimeError; the user's own timeout takes precedence.
        rewrites: Rewrites that `config` may name.
        stored: Store to read from; None for the configuration's own.
        stacks_file: File to which workers write their stacks on request (`instrument/worker_init.py`); None for none.
        running: Starter of iterators that outlives the loader; None for a new one.
        is_checked: Whether marked indices return with a note.
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
