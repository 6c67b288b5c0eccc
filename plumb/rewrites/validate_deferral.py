"""Trial of a deferral on the user's samples: as a loader runs it, besides the plain pipeline with the same seeds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map

from plumb.core.config import Deferral
from plumb.core.errors import one_line
from plumb.instrument.recorder import SAMPLE
from plumb.instrument.rng_state import disturb_generators, generator_states, restored_generators
from plumb.runtime.deferred.batch_recipe import BatchRecipe
from plumb.runtime.deferred.deferred_call import bitwise_equal, is_plain, is_same
from plumb.runtime.deferred.skipped_operators import CallDeferrer, DeferredBatch, DeferringCollate, device_of, run
from plumb.runtime.replay.substitution import SubstitutingRecorder, Tree

Collate = Callable[[list[Any]], Any]


def try_out(deferral: Deferral, dataset: Any, collate_fn: Collate, indices: Sequence[Any]) -> str:
    """Return why a deferral must not be used, in a short phrase; empty if every batch was equal.

    The batches have several sizes and orders, and different states of the random generators.
    """
    device = device_of(deferral)
    tree = Tree(step.way for step in deferral.steps)
    deferring = CallDeferrer(deferral)
    answered = SubstitutingRecorder(tree, {tree.nodes[way]: answer for way, answer in deferring.answers.items()})
    collate = DeferringCollate(collate_fn)

    def plainly(group: Sequence[Any]) -> Any:
        return collate_fn([dataset[index] for index in group])

    def deferred(group: Sequence[Any]) -> Any:
        with answered:
            samples = [answered.enter(SAMPLE, operator.getitem, dataset, index) for index in group]
        return collate(deferring.settled(samples))

    for group in (list(indices), list(indices[:1]), list(indices[::-1]), list(indices[: len(indices) // 2 + 1])):
        disturb_generators()
        with restored_generators():
            expected = plainly(group)
            states = generator_states([])
        with restored_generators():
            repeated = plainly(group)
        if not same_batch(expected, repeated):
            return "the samples don't repeat, so nothing can be compared"
        try:
            batch = deferred(group)
        except Exception as error:
            return one_line(error)
        if not isinstance(batch, DeferredBatch):
            return "something looks at the samples in between"
        if generator_states([]) != states:
            return "other random numbers are drawn"
        recipe = BatchRecipe(batch.recipe)
        # The first run derives the fast chain, the second uses it.
        if not all(same_batch(_on_host(run(batch, recipe, device)), expected) for _ in range(2)):
            return "the batch comes out otherwise"
    return ""


def _on_host(batch: Any) -> Any:
    return tree_map(lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, batch)


def same_batch(left: Any, right: Any) -> bool:
    """Return whether two batches have the same structure, types, layouts and values, bit by bit."""
    left_leaves, left_structure = tree_flatten(left)
    right_leaves, right_structure = tree_flatten(right)
    return left_structure == right_structure and all(map(_same_leaf, left_leaves, right_leaves))


def _same_leaf(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        if type(left) is not type(right) or not is_plain(left) or not is_plain(right):
            return False
        return bitwise_equal(left, right) and left.stride() == right.stride()
    if isinstance(left, float) and isinstance(right, float):
        return bool(np.float64(left).tobytes() == np.float64(right).tobytes())
    return is_same(left, right)
