"""Check whether an iterable dataset shares its samples among workers: by its code, then by comparing epochs.

Torch gives every worker a copy of an iterable dataset, and each copy delivers everything unless the dataset reads
`get_worker_info()`. Even if it does, another number of workers may mean other batches, or fewer of them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils import worker as torch_worker

from plumb.core.config import Config
from plumb.core.errors import PlumbError, one_line
from plumb.instrument.rng_state import restored_generators
from plumb.instrument.values import digest
from plumb.runtime.loader import Loader

_SAMPLES_TO_ASK, _SECONDS_TO_ASK = 4, 2.0
_PREFETCH = 2
_SECONDS_AT_LEAST = 1.0

Batches = list[tuple[bytes, ...]]


@dataclass(frozen=True)
class Sharding:
    """Result for one iterable dataset.

    `asks`: it, or the loader's `worker_init_fn`, reads the worker's info; None if unknown. An epoch was compared for
    the worker counts in `same`, for which batches and their order are those of the user's own count, and in
    `reordered`, for which the samples and the number of batches are. `reason` is why other counts are in neither.
    """

    asks: bool | None
    same: tuple[int, ...] = ()
    reordered: tuple[int, ...] = ()
    reason: str = ""


class _UnlikeError(PlumbError):
    """Delivered samples can't be compared; the message gives the reason."""


def examine(loader: DataLoader[Any], own_workers: int, counts: Sequence[int], seconds: float) -> Sharding:
    """Check a loader's dataset, and compare whole epochs with each of `counts` to one with the user's own count.

    All but the user's own count run in processes of their own; an error of the user's code becomes a reason. The
    process's random generators are restored.

    Args:
        loader: Loader of an iterable dataset.
        own_workers: The user's number of workers.
        counts: Other numbers of workers.
        seconds: Time to take, about.
    """
    deadline = time.perf_counter() + seconds
    same, reordered, reason = [], [], ""
    with restored_generators():
        try:
            if not _asks(loader):
                return Sharding(False)
        except Exception as error:
            return Sharding(None, reason=one_line(error))
    try:
        own = _epoch(loader, own_workers, deadline)
        for count in counts:
            try:
                other = _epoch(loader, count, deadline)
            except _UnlikeError as error:
                reason = str(error)
                break
            if other == own:
                same.append(count)
            elif len(other) == len(own) and _samples(other) == _samples(own):
                reordered.append(count)
            else:
                reason = _difference(own, own_workers, other, count)
    except Exception as error:
        reason = str(error) if isinstance(error, _UnlikeError) else one_line(error)
    return Sharding(True, tuple(same), tuple(reordered), reason)


def _difference(own: Batches, own_workers: int, other: Batches, count: int) -> str:
    ours, theirs = sum(map(len, own)), sum(map(len, other))
    return (
        f"an epoch is {ours:,} samples in {len(own):,} batches with num_workers={own_workers}, but {theirs:,} in "
        f"{len(other):,} with {count}" + ("" if (ours, len(own)) != (theirs, len(other)) else ", and not the same ones")
    )


def _samples(batches: Batches) -> Counter[bytes]:
    return Counter(sample for batch in batches for sample in batch)


def _asks(loader: DataLoader[Any]) -> bool:
    """Return whether a worker's copy of the dataset reads the worker's info until its first samples."""
    dataset = _WorkerInfoProbe(loader.dataset)  # type: ignore[arg-type]
    init = _Prepare(loader.worker_init_fn, spies=True)
    asked = Loader(
        dataset,
        config=Config(1, _PREFETCH),
        batch_size=None,
        worker_init_fn=init,
        multiprocessing_context=loader.multiprocessing_context,
    )
    return bool(next(iter(asked)))


def _epoch(loader: DataLoader[Any], workers: int, deadline: float) -> Batches:
    """Return one epoch's batches, as a digest per sample. Raises _UnlikeError, and the user's errors."""
    arguments: dict[str, Any] = {}
    if workers:
        arguments["multiprocessing_context"] = loader.multiprocessing_context
        arguments["timeout"] = max(_SECONDS_AT_LEAST, deadline - time.perf_counter())
    with restored_generators():
        batches = iter(
            Loader(
                _Digests(loader.dataset),  # type: ignore[arg-type]
                config=Config(workers, _PREFETCH if workers else None),
                batch_size=loader.batch_size,
                drop_last=loader.drop_last,
                collate_fn=_kept if loader.batch_size is not None else _alone,
                worker_init_fn=_Prepare(loader.worker_init_fn, spies=False),
                generator=loader.generator,
                **arguments,
            )
        )
        found: Batches = []
        for batch in batches:
            found.append(batch)
            if time.perf_counter() > deadline:
                raise _UnlikeError("there was no time to compare whole epochs")
    if any(not sample for batch in found for sample in batch):
        raise _UnlikeError("its samples can't be compared")
    return found


def _kept(samples: list[bytes]) -> tuple[bytes, ...]:
    return tuple(samples)


def _alone(sample: bytes) -> tuple[bytes, ...]:
    return (sample,)


class _Digests(IterableDataset[bytes]):
    """A dataset's samples as digests; empty for samples that can't be compared."""

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[bytes]:
        for sample in self.dataset:
            yield digest(sample) or b""


class _WorkerInfoProbe(IterableDataset[bool]):
    """Dataset that delivers whether the wrapped one reads the worker's info."""

    def __init__(self, dataset: IterableDataset[Any]) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[bool]:
        begin = time.perf_counter()
        for taken, _ in enumerate(self.dataset, 1):
            if taken >= _SAMPLES_TO_ASK or time.perf_counter() - begin > _SECONDS_TO_ASK:
                break
        info: Any = get_worker_info()
        yield isinstance(info, _WatchedWorkerInfo) and object.__getattribute__(info, "asked")


class _WatchedWorkerInfo:
    """A worker's info that records whether it was read."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self.asked = False

    def __getattribute__(self, name: str) -> Any:
        object.__setattr__(self, "asked", True)
        return getattr(object.__getattribute__(self, "info"), name)


@dataclass(frozen=True)
class _Prepare:
    """`worker_init_fn` that passes the user's own dataset to the user's, after installing a spy if `spies`."""

    then: Callable[[int], None] | None
    spies: bool

    def __call__(self, worker_id: int) -> None:
        info: Any = get_worker_info()
        # Torch forbids setting it.
        object.__setattr__(info, "dataset", info.dataset.dataset)
        if self.spies:
            torch_worker._worker_info = _WatchedWorkerInfo(info)  # type: ignore[assignment]
        if self.then is not None:
            self.then(worker_id)
