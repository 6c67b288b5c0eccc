"""Effects of making samples, tried in a forked child that represents a worker.

A worker has a copy of the dataset: changes by its samples are invisible to the main process and other workers. And it
shares files that were open when it was forked. Both can be observed in a child that makes a few samples.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data._utils import worker

from plumb.core.sized import length_of
from plumb.host.forked_trial import in_child
from plumb.host.inherited_files import DESCRIPTORS, open_descriptors, regular_files, reopen_inherited_files
from plumb.instrument.array_copies import ArrayCopies
from plumb.instrument.byte_windows import array_of
from plumb.instrument.dataset_state import DatasetState
from plumb.instrument.found_change import Change
from plumb.instrument.object_parts import roots_of
from plumb.instrument.opened_files import OpenedFile, opened_files
from plumb.instrument.rng_state import generator_states

# A child that makes no sample in this time hangs.
CHILD_SECONDS = 30.0
_LOOK_SECONDS = 1.0
# The loop waits for the child, so large values are checked twice for at most this long, first the parts at the indices.
_LARGE_SECONDS = 0.01
_MOST_FILES = 32
# The second index is searched among this many.
_LOOKED_THROUGH = 64
# Small arrays are restored, in case other processes share them, and at most this many bytes in all.
_MOST_BYTES = 1 << 25


@dataclass(frozen=True)
class Effects:
    """Lasting changes by making samples, and uses of what a forked process must not use.

    `changed` is the place of something that samples change each time; first-time setup doesn't count. `draws`: a random
    generator of the dataset's own was drawn from. `is_part`: a batch lies in the dataset's memory, so that changing it
    in place changes the dataset. `shared` is a file whose position moved, which a worker would share. `failure` says
    how a sample failed or hung in a forked process, but not here. `files` are those that Python opened for the samples,
    in their state then, `again` those that it opened each time.
    """

    changed: str = ""
    draws: bool = False
    is_part: bool = False
    shared: str = ""
    failure: str = ""
    files: tuple[OpenedFile, ...] = field(default=(), compare=False)
    again: tuple[OpenedFile, ...] = field(default=(), compare=False)

    @property
    def why_in_one_process(self) -> str | None:
        """Reason why the samples must be made in one process, in the user's order; None if they need not."""
        if self.changed:
            return f"reading changes {self.changed}, and workers would each change their own"
        if self.draws:
            return "the dataset holds a random generator, and workers would each draw from a copy"
        if self.is_part:
            return "its batches are parts of what the dataset holds, which a loop may change; workers send copies"
        return None

    @property
    def why_same_workers(self) -> str | None:
        """Reason why another number of workers, or longer-lived ones, would make other samples; None without one."""
        if self.changed:
            return (
                f"reading changes {self.changed}, of which each worker has its own, so other workers make other samples"
            )
        if self.draws:
            return (
                "the dataset holds a random generator, of which each worker has a copy, so other workers draw otherwise"
            )
        return None

    @property
    def why_not_forked(self) -> str | None:
        """Reason why a forked process must not make samples, while a newly started one may; None if there is none."""
        if self.shared:
            return f"the dataset reads {self.shared}, which is open for writing too and whose position workers share"
        return f"in a forked process, making a sample {self.failure}" if self.failure else None


def sample_effects(
    loader: DataLoader[Any], indices: Iterable[Any], seconds: float = CHILD_SECONDS, skips_shared: bool = False
) -> Effects:
    """Make samples of a map-style dataset in a forked child, and return their effects.

    Nothing changes in this process: the child has its own generators and file positions, its connections are unusable,
    and arrays in shared memory are restored. If no child can be forked, no effects are found.

    Args:
        loader: The loader whose dataset, `collate_fn` and `worker_init_fn` are tried.
        indices: Indices of samples, such as those of a batch; two different ones are used.
        seconds: Time limit for the child.
        skips_shared: Whether to leave out tensors in shared memory, which all processes share.
    """
    chosen = _two_of(indices)
    if isinstance(loader.dataset, IterableDataset) or not chosen:
        return Effects()
    inherited = {number for number, _ in open_descriptors()}
    outcome = in_child(partial(_found_with_files, loader, chosen, inherited, skips_shared), seconds)
    if outcome.value is not None:
        return outcome.value
    reason = outcome.reason or ""
    return Effects(failure=reason) if outcome.has_died or reason.startswith("raised") else Effects()


def _two_of(indices: Iterable[Any]) -> list[Any]:
    found = list(islice(indices, _LOOKED_THROUGH))
    other = next((index for index in found if not _is_equal(index, found[0])), None)
    return found[:1] if other is None else [found[0], other]


def _is_equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False


# ---- in the child


def _found_with_files(loader: DataLoader[Any], indices: list[Any], inherited: set[int], skips_shared: bool) -> Effects:
    with opened_files() as files:
        effects = _found(loader, indices, inherited, skips_shared)
        return replace(effects, files=tuple(islice(files, _MOST_FILES)))


def _found(loader: DataLoader[Any], indices: list[Any], inherited: set[int], skips_shared: bool) -> Effects:
    """Make the samples of two indices in turns, twice, and return their effects."""
    not_reopened = reopen_inherited_files()
    state = DatasetState(roots_of(loader), by_value=True, skips_shared=skips_shared)
    near = tuple(_places(loader.dataset, indices))
    look = partial(state.look, _LOOK_SECONDS, window_seconds=_LARGE_SECONDS, near=near)
    look(has_windows=False)
    kept = ArrayCopies(state.arrays, _MOST_BYTES)
    try:
        read = _reader(loader)
        first, other = indices[0], indices[-1]
        read(first)
        # The setup by the first sample is not repeated by the others.
        look(has_windows=False)
        positions = _positions(inherited, not_reopened)
        read(other)
        changes = [change for change in look(has_windows=True) if change.is_resized]
        drawn = generator_states(state.generators)[3:]
        with opened_files() as again:
            read(first)
            batch = read(other)
        is_part = _shares_memory(batch, state.arrays)
        # State that depends only on the latest index is now as before: a buffer, or the presently open file.
        changes += look(has_windows=True)
        after = _positions(inherited, not_reopened)
        moved = [number for number, place in positions.items() if after.get(number, place) != place]
        return Effects(
            changed=next((change.place for change in changes if _lasts(change)), ""),
            draws=generator_states(state.generators)[3:] != drawn,
            is_part=is_part,
            shared=os.readlink(f"{DESCRIPTORS}/{moved[0]}") if moved else "",
            again=tuple(islice(again, _MOST_FILES)),
        )
    finally:
        kept.put_back()


def _places(dataset: Any, indices: Iterable[Any]) -> Iterator[float]:
    """Yield the indices' places in the dataset, as shares of its length."""
    length = length_of(dataset) or 0
    for index in indices:
        if isinstance(index, int) and 0 <= index < length:
            yield index / length


def _lasts(change: Change) -> bool:
    return not change.is_growth and not change.is_scratch


def _shares_memory(batch: Any, arrays: list[np.ndarray[Any, Any]]) -> bool:
    """Return whether a tensor or an array of a batch lies within one of the dataset's."""
    parts = [array for leaf in tree_leaves(batch) if (array := _array(leaf)) is not None]
    return any(np.may_share_memory(part, array) for part in parts for array in arrays)


def _array(leaf: Any) -> np.ndarray[Any, Any] | None:
    return array_of(leaf) if isinstance(leaf, (np.ndarray, torch.Tensor)) else None


def _reader(loader: DataLoader[Any]) -> Callable[[Any], Any]:
    """Return a function that makes a batch of one sample like a worker, with the same random numbers each time."""
    dataset: Any = loader.dataset
    is_single = loader.batch_sampler is None
    worker._worker_info = worker.WorkerInfo(id=0, num_workers=1, seed=0, dataset=dataset)
    if loader.worker_init_fn is not None:
        loader.worker_init_fn(0)

    def read(index: Any) -> Any:
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        if is_single:
            samples = dataset[index]
        elif getattr(dataset, "__getitems__", None):
            samples = dataset.__getitems__([index])
        else:
            samples = [dataset[index]]
        # A collate function that needs a whole batch is not tried.
        with contextlib.suppress(Exception):
            return loader.collate_fn(samples)
        return None

    return read


def _positions(inherited: set[int], not_reopened: tuple[int, ...]) -> dict[int, int]:
    """Return the positions in inherited files that a worker would share, by their descriptors."""
    return {
        number: os.lseek(number, 0, os.SEEK_CUR)
        for number, flags in regular_files()
        if number in inherited and (flags & os.O_ACCMODE == os.O_RDWR or number in not_reopened)
    }
