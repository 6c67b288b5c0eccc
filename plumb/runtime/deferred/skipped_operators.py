"""Operators moved behind collate: skipped in the process that loads samples, and run later in the main process.

A deferred call returns a placeholder for its result. When the samples of a batch are complete, the tensors before the
calls replace their placeholders, and the calls are sent with the batch. A batch in which some sample took another path
is finished where it was loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.data import default_collate

from plumb.core.config import CallPath, Deferral
from plumb.host.pinned_memory import pinned
from plumb.host.threads import one_torch_thread
from plumb.runtime.deferred.batch_recipe import BatchRecipe
from plumb.runtime.deferred.deferred_call import DeferredCall, bitwise_equal, is_plain, pack, taken_apart
from plumb.runtime.deferred.placeholder import (
    Pending,
    VariesError,
    make_placeholder,
    pending_of,
    true_value,
    without_content,
)
from plumb.runtime.forwarding_iterator import ForwardingIterator
from plumb.runtime.marked_batches import CheckedBatch

Answer = Callable[[Any, tuple[Any, ...], Mapping[str, Any]], Any]
Collate = Callable[[list[Any]], Any]


@dataclass(frozen=True)
class DeferredSamples:
    """Samples of a batch before their deferred operators, and with the placeholders for these.

    `rows` are the inputs of the first of these operators.
    """

    before: list[Any]
    rows: list[torch.Tensor]
    with_placeholders: list[Any]
    leaf: int
    recipe: bytes


@dataclass(frozen=True)
class DeferredBatch:
    """A collated batch, the place of the leaf on which deferred operators must run, and these operators, packed."""

    batch: Any
    leaf: int
    recipe: bytes

    def pin_memory(self) -> DeferredBatch:
        """Copy the batch to page-locked memory; torch calls this if the user wants that."""
        return DeferredBatch(pinned(self.batch), self.leaf, self.recipe)


@dataclass(frozen=True)
class _LearnedCall:
    """A call as first seen in this process, a tensor like its result, and whether it returns its own argument."""

    call: DeferredCall
    like: torch.Tensor
    handed_on: bool


class CallDeferrer:
    """Skips the deferred calls of one process's samples, after recording them in the first sample.

    Several threads may load samples at once.
    """

    def __init__(self, deferral: Deferral) -> None:
        self._deferral = deferral
        self._lock = threading.RLock()
        self._forget()

    @property
    def answers(self) -> dict[CallPath, Answer]:
        """Function that answers each deferred call, by the call's way."""
        return {step.way: partial(self._answer, number) for number, step in enumerate(self._deferral.steps)}

    def settled(self, samples: list[Any]) -> list[Any] | DeferredSamples:
        """Return the samples of a batch for collating: all of them before the deferred operators, or all finished.

        Raises VariesError if they must be loaded again.
        """
        flat = [tree_flatten(sample) for sample in samples]
        pending = [found for leaves, _ in flat for found in map(pending_of, leaves) if found is not None]
        if not pending:
            return samples
        for found in pending:
            found.check()
        if self._recipe is not None and self._state() != self._state_learned:
            self._forget()
            raise VariesError("The constants of deferred operators have changed.")
        leaf = self._deferral.leaf
        if self._recipe is None or not all(self._is_deferred(leaves) for leaves, _ in flat):
            return with_true_values(samples)
        # Here each sample has one placeholder, in the place of the leaf.
        rows = [found.base for found in pending]
        before = [
            tree_unflatten([*leaves[:leaf], row, *leaves[leaf + 1 :]], structure)
            for (leaves, structure), row in zip(flat, rows, strict=True)
        ]
        return DeferredSamples(before, rows, samples, leaf, self._recipe)

    def _is_deferred(self, leaves: Sequence[Any]) -> bool:
        """Return whether a sample's only placeholder is the deferred leaf, and its operators were really skipped."""
        places = [place for place, leaf in enumerate(leaves) if pending_of(leaf) is not None]
        if places != [self._deferral.leaf]:
            return False
        pending = pending_of(leaves[self._deferral.leaf])
        assert pending is not None
        is_whole = pending.done == len(self._deferral.steps) and pending.calls is self._calls
        return is_whole and not pending.was_asked_for

    def _forget(self) -> None:
        self._calls: list[DeferredCall] = []
        self._steps: list[_LearnedCall] = []
        self._like: torch.Tensor | None = None
        self._recipe: bytes | None = None
        self._state_learned: Any = None
        self._refused = False

    def _state(self) -> Any:
        return [
            [visible_state(value) for value in (call.owner, call.function, *call.arguments, *call.keywords.values())]
            for call in self._calls
        ]

    def _answer(self, number: int, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        if not self._refused and number == len(self._steps):
            taken = taken_apart(function, arguments, keywords, self._deferral.steps[number].argument)
            pending = None if taken is None else self._pending(number, taken[1])
            with self._lock:
                if taken is not None and pending is not None and number == len(self._steps) and not self._refused:
                    return self._learn(number, taken[0], pending)
        if not self._refused and number < len(self._steps):
            step = self._steps[number]
            given = step.call.tensor_of(function, arguments, keywords)
            pending = self._pending(number, given)
            if pending is not None:
                following = pending.defer(step.handed_on)
                return given if following is pending else make_placeholder(following, step.like)
        return function(*arguments, **keywords)

    def _pending(self, number: int, given: Any) -> Pending | None:
        """Return the input of a deferred call as pending if it is like the recorded one, else None."""
        if number:
            pending = pending_of(given)
            return pending if pending is not None and pending.calls is self._calls and pending.done == number else None
        if not is_plain(given) or pending_of(given) is not None:
            return None
        like = self._like
        same = like is None or (type(given) is type(like) and given.dtype == like.dtype and given.shape == like.shape)
        return Pending(given, self._calls, 0) if same else None

    def _learn(self, number: int, call: DeferredCall, pending: Pending) -> Any:
        """Make a call for the first time in this process, and return the placeholder for its result.

        Skipping the operators must be unnoticeable: a changed argument that isn't the result might be used again, and
        the first argument isn't a placeholder.
        """
        given = pending.made()
        version = given._version
        result = call(given)
        handed_on = result is given
        unnoticed = not handed_on and given._version == version
        if not is_plain(result) or not (unnoticed or (handed_on and number)):
            self._refused = True
            return result if number else call(pending.base)
        if number == 0:
            self._like = without_content(pending.base)
        self._calls.append(call)
        like = without_content(result)
        self._steps.append(_LearnedCall(call, like, handed_on))
        if len(self._steps) == len(self._deferral.steps):
            self._recipe = pack(self._calls)
            self._refused = self._recipe is None
            self._state_learned = self._state()
        following = pending.defer(handed_on, result)
        return make_placeholder(following, like)


def with_true_values(samples: Sequence[Any]) -> list[Any]:
    """Return the samples with the true values of all placeholders."""
    return [tree_map(true_value, sample) if has_placeholder(sample) else sample for sample in samples]


def has_placeholder(sample: Any) -> bool:
    """Return whether some leaf of a sample is a placeholder."""
    return any(pending_of(leaf) is not None for leaf in tree_leaves(sample))


@dataclass(frozen=True)
class DeferringCollate:
    """The loader's collate function for samples whose last operators may be deferred; picklable if the loader's is."""

    collate_fn: Collate

    def __call__(self, samples: Any) -> Any:
        """Return the batch, before its deferred operators if the leaf is just the samples' stacked tensors."""
        if not isinstance(samples, DeferredSamples):
            return self.collate_fn(samples)
        batch = self.collate_fn(list(samples.before))
        if self._stacks(batch, samples):
            return DeferredBatch(batch, samples.leaf, samples.recipe)
        return self.collate_fn(with_true_values(samples.with_placeholders))

    def _stacks(self, batch: Any, samples: DeferredSamples) -> bool:
        leaves = tree_flatten(batch)[0]
        if samples.leaf >= len(leaves) or not is_plain(leaves[samples.leaf]):
            return False
        stacked: torch.Tensor = leaves[samples.leaf]
        rows = samples.rows
        if stacked.shape != (len(rows), *rows[0].shape) or stacked.dtype != rows[0].dtype:
            return False
        return self.collate_fn is default_collate or all(map(bitwise_equal, stacked, rows))


class Undeferred(ForwardingIterator):
    """Iterator over finished batches, in place of torch's, with the attributes of torch's.

    If a `device` is given, deferred operators run there. If the loader `has_workers`, they run on one thread: while
    workers keep the cores busy, torch's threads would mostly wait for each other.
    """

    def __init__(self, batches: Iterator[Any], has_workers: bool, device: torch.device | None = None) -> None:
        super().__init__(batches)
        self._has_workers = has_workers
        self._device = device
        self._recipes: dict[bytes, BatchRecipe] = {}

    def __next__(self) -> Any:
        batch = super().__next__()
        if isinstance(batch, CheckedBatch) and isinstance(batch.batch, DeferredBatch):
            return batch.with_batch(self._finished(batch.batch))
        return self._finished(batch) if isinstance(batch, DeferredBatch) else batch

    def _finished(self, deferred: DeferredBatch) -> Any:
        recipe = self._recipes.get(deferred.recipe)
        if recipe is None:
            recipe = self._recipes[deferred.recipe] = BatchRecipe(deferred.recipe)
        with one_torch_thread() if self._has_workers else nullcontext():
            return run(deferred, recipe, self._device)


def device_of(deferral: Deferral) -> torch.device | None:
    """Return the device of deferred operators; None for the batch's own, or if the plan's device doesn't exist here."""
    if deferral.device is None:
        return None
    try:
        device = torch.device(deferral.device)
    except RuntimeError:
        # A plan is a file, which may contain anything.
        return None
    return None if device.type == "cuda" and not torch.cuda.is_available() else device


def run(deferred: DeferredBatch, recipe: BatchRecipe, device: torch.device | None = None) -> Any:
    """Return the finished batch. Raises the operators' errors."""
    leaves, structure = tree_flatten(deferred.batch)
    leaves[deferred.leaf] = recipe.run(leaves[deferred.leaf], device)
    return tree_unflatten(leaves, structure)


def visible_state(value: Any, depth: int = 3) -> Any:
    """Return a cheap summary of an object's state: simple values, identities, lengths, and versions of tensors.

    Equal summaries don't prove that nothing changed deep inside; different ones prove a change.
    """
    if isinstance(value, (bool, int, float, complex, str, bytes, type(None))):
        return value
    if isinstance(value, (list, tuple, dict, set)):
        return id(value), len(value)
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if depth and hasattr(value, "__dict__"):
        return id(value), tuple((name, visible_state(item, depth - 1)) for name, item in vars(value).items())
    return id(value)
