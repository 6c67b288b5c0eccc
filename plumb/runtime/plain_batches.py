"""Batches of the user's own configuration, made in a forked child so that they leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from plumb.host.forked_trial import ChildOutcome, in_child
from plumb.host.threads import torch_threads
from plumb.instrument.dataset_generators import Generators, GeneratorStates
from plumb.instrument.values import digest_of_comparable


@dataclass(frozen=True)
class BatchVersion:
    """One version of a batch: a digest of its bits, and the states of all generators after it by their names.

    `digest` is None if no part of the batch can be compared. `is_whole`: every generator that was drawn from had the
    given state at the start; a generator made with the samples has its own.
    """

    digest: bytes | None
    after: dict[str, bytes]
    is_whole: bool = True

    def equals(self, other: BatchVersion) -> bool:
        """Return whether both versions have the same bits and drew the same random numbers."""
        common = self.after.keys() & other.after.keys()
        return self.digest == other.digest and all(self.after[name] == other.after[name] for name in common)


@dataclass(frozen=True)
class PlainBatches:
    """Maker of batches like torch's own fetcher, with the user's dataset and collate function.

    `is_batched`: torch collates; without a batch size, a batch is one sample, converted.
    """

    dataset: Any
    collate_fn: Callable[[Any], Any]
    is_batched: bool

    def samples(self, indices: Any) -> Any:
        """Return the dataset's samples for `indices`. Raises the dataset's errors."""
        return plain_samples(self.dataset, indices) if self.is_batched else self.dataset[indices]

    def batch(self, indices: Any) -> Any:
        """Return the batch at `indices`. Raises the errors of the dataset and the collate function."""
        return self.collate_fn(self.samples(indices))

    def in_child(
        self, indices: Any, states: GeneratorStates, seconds: float, times: int = 1
    ) -> ChildOutcome[list[BatchVersion]]:
        """Make the batch `times` times in a forked child, each time from `states`, and return the versions.

        Args:
            indices: As torch passes them to its fetcher.
            states: States of all generators, because Python reseeds `random` in a forked child.
            seconds: Time limit for all versions together.
            times: Number of versions.
        """
        return in_child(partial(self._makings, indices, states, times), seconds)

    def here(self, indices: Any, states: GeneratorStates, threads: int) -> BatchVersion:
        """Make the batch in this process with `threads` threads of torch; generators are restored afterwards."""
        generators = Generators(self.dataset)
        before = generators.snapshot()
        try:
            with torch_threads(threads):
                return self._making(generators, indices, states)
        finally:
            generators.put_back(before)

    def _makings(self, indices: Any, states: GeneratorStates, times: int) -> list[BatchVersion]:
        generators = Generators(self.dataset)
        return [self._making(generators, indices, states) for _ in range(times)]

    def _making(self, generators: Generators, indices: Any, states: GeneratorStates) -> BatchVersion:
        is_whole = generators.put_back(states)
        told = digest_of_comparable(self.batch(indices))
        is_new = generators.look_again()
        return BatchVersion(None if told is None else told.digest, generators.named_states(), is_whole and not is_new)


def plain_samples(dataset: Any, indices: Sequence[Any]) -> Any:
    """Return the samples at `indices`, requested as torch's fetcher does."""
    if getattr(dataset, "__getitems__", None):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]
