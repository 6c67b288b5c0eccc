"""Search for the last operators of a sample that have the same effect on a batch, so that they may run behind collate.

A few samples are followed call by call, also through libraries. From a tensor of the finished sample the search goes
backwards: each call that made it from one other tensor, and can do so for many samples at once, is a step. The
outermost such call is taken: `normalize(tensor)` instead of the subtraction inside. The result is then tried as a
loader would run it, and is used only if it is equal, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch

from plumb.core.config import Deferral, DeferredStep
from plumb.host.threads import one_torch_thread
from plumb.instrument.rng_state import restored_generators
from plumb.rewrites.tensor_calls import FollowedSample, TensorCall, follower, way_of
from plumb.rewrites.validate_deferral import Collate, try_out
from plumb.runtime.deferred.deferred_call import DeferredCall, bitwise_equal, is_plain, is_same, pack, taken_apart
from plumb.runtime.replay.sample_code import code_on
from plumb.tracing.graph_builder import name_of

FOLLOWED_SAMPLES = 4
REPETITIONS = 5


@dataclass(frozen=True)
class _Step:
    """One operator on the path to a leaf: its call, and its input and output tensors, sample by sample."""

    name: str
    place: DeferredStep
    call: DeferredCall
    given: list[torch.Tensor]
    made: list[torch.Tensor]
    hands_on: bool


@dataclass(frozen=True)
class FoundDeferral:
    """The operators that may be deferred, or the `reason` why there are none."""

    deferral: Deferral | None
    reason: str
    steps: Sequence[_Step] = ()

    @property
    def names(self) -> str:
        """Names of the operators, as a phrase."""
        return " and ".join(step.operator for step in self.deferral.steps) if self.deferral else ""

    @property
    def saved_bytes(self) -> int:
        """Number of bytes by which a sample's leaf is smaller without the deferred operators; negative if larger."""
        return self.steps[-1].made[0].nbytes - self.steps[0].given[0].nbytes if self.steps else 0


def find_deferral(dataset: Any, collate_fn: Collate, indices: Sequence[Any]) -> FoundDeferral:
    """Find the operators of a map-style dataset that may be deferred, tried on some samples.

    Restores the random generators. Raises the dataset's errors.

    Args:
        dataset: The dataset.
        collate_fn: The loader's collate function.
        indices: Several indices, of different samples.
    """
    if hasattr(type(dataset), "__getitems__") and not type(dataset).__module__.startswith("torch.utils.data"):
        return FoundDeferral(None, f"{type(dataset).__name__} loads several samples at once")
    with restored_generators(), one_torch_thread():
        following = follower()
        followed = [following.sample(dataset, index) for index in indices[:FOLLOWED_SAMPLES]]
        if len({len(sample.leaves) for sample in followed}) > 1:
            return FoundDeferral(None, "the structure of the samples varies")
        reasons: list[str] = []
        for leaf, steps in _by_cost(followed, reasons):
            for chosen in _suffixes(steps):
                places = tuple(step.place for step in chosen)
                code = code_on(tuple(place.way for place in places), dataset, indices[0])
                deferral = Deferral(places, leaf, code)
                reason = try_out(deferral, dataset, collate_fn, indices)
                if not reason:
                    return FoundDeferral(deferral, "", chosen)
                reasons.append(f"{chosen[0].name} to {chosen[-1].name}: {reason}")
        return FoundDeferral(None, reasons[0] if reasons else "no tensor in the sample is made of another one")


def _by_cost(followed: Sequence[FollowedSample], reasons: list[str]) -> Iterator[tuple[int, list[_Step]]]:
    """Yield the leaves of the samples with the steps that lead to them, the slowest first."""
    found = []
    for leaf, value in enumerate(followed[0].leaves):
        if is_plain(value):
            steps, reason = _steps_to(leaf, followed)
            found.append((leaf, steps))
            if not steps and reason:
                reasons.append(reason)
    yield from sorted(found, key=lambda item: -_seconds_alone(item[1]) if item[1] else 0.0)


def _steps_to(leaf: int, followed: Sequence[FollowedSample]) -> tuple[list[_Step], str]:
    """Return the steps that lead to a leaf, in order, and why there are no more."""
    steps: list[_Step] = []
    wanted: list[Any] = [sample.leaves[leaf] for sample in followed]
    latest = [sample.calls[-1].ended if sample.calls else 0 for sample in followed]
    while True:
        reason = ""
        for calls in _calls_returning(wanted, latest, followed):
            step = _step_of(calls)
            if isinstance(step, _Step):
                break
            reason = reason or f"{name_of(calls[0].node)} {step}"
        else:
            return steps[::-1], reason
        steps.append(step)
        wanted = [call.tensors[step.place.argument] for call in calls]
        latest = [call.started for call in calls]


def _calls_returning(
    wanted: Sequence[Any], latest: Sequence[int], followed: Sequence[FollowedSample]
) -> Iterator[list[TensorCall]]:
    """Yield the calls that returned the wanted tensors by then, one per sample at the same node, outermost first."""
    by_node = [
        {call.node: call for call in sample.calls if call.result is value and call.ended <= moment}
        for sample, value, moment in zip(followed, wanted, latest, strict=True)
    ]
    for node in sorted(by_node[0], key=lambda node: -by_node[0][node].ended):
        if all(node in calls for calls in by_node):
            yield [calls[node] for calls in by_node]


def _step_of(calls: Sequence[TensorCall]) -> _Step | str:
    """Return the step that the calls of several samples make up, or the reason against it in words."""
    if any(call.draws for call in calls):
        return "draws random numbers"
    place = _varying_place(calls)
    if place is None:
        return "doesn't take exactly one tensor that differs from sample to sample"
    taken = [taken_apart(call.function, call.arguments, call.keywords, place) for call in calls]
    callables = [call for call, _ in filter(None, taken)]
    if not all(callables[0].is_same(other) for other in callables[1:]):
        return "gets constants that vary from sample to sample"
    if pack(callables[:1]) is None:
        return "can't be pickled"
    given, made = [call.copies[place] for call in calls], [call.copy for call in calls]
    if not _does_the_same_on_a_batch(callables[0], given, made):
        return "gives other values for a whole batch"
    node = calls[0].node
    hands_on = all(call.tensors[place] is call.result for call in calls)
    return _Step(name_of(node), DeferredStep(name_of(node), way_of(node), place), callables[0], given, made, hands_on)


def _varying_place(calls: Sequence[TensorCall]) -> int | str | None:
    """Return the one place in which the samples have different tensors; None if there are none or several."""
    first = calls[0]
    if any(call.copies.keys() != first.copies.keys() for call in calls):
        return None
    varying = [
        place
        for place in first.copies
        if not all(
            call.tensors[place] is first.tensors[place] or is_same(call.copies[place], first.copies[place])
            for call in calls[1:]
        )
    ]
    return varying[0] if len(varying) == 1 else None


def _does_the_same_on_a_batch(call: DeferredCall, given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> bool:
    if len({tensor.shape for tensor in given}) > 1 or len({tensor.dtype for tensor in given}) > 1:
        return False
    plain = [tensor.as_subclass(torch.Tensor) for tensor in given]
    try:
        batch = call(torch.stack(plain))
    except Exception:
        return False
    if not is_plain(batch) or batch.dim() == 0 or len(batch) != len(made):
        return False
    return all(map(bitwise_equal, batch, made))


def _suffixes(steps: Sequence[_Step]) -> Iterator[list[_Step]]:
    """Yield the suffixes to try: first those that leave the fewest bytes to collate, and of these the longest.

    None begins with a step that returns its own argument, for which there can be no placeholder.
    """
    starts = [number for number, step in enumerate(steps) if not step.hands_on]
    for start in sorted(starts, key=lambda number: (steps[number].given[0].nbytes, number)):
        if steps[start].given[0].nbytes <= steps[-1].made[0].nbytes:
            yield list(steps[start:])


def _seconds_alone(steps: Sequence[_Step]) -> float:
    """Return the median seconds of the steps for one sample."""

    def through(tensor: Any) -> None:
        tensor = tensor.clone()  # steps may change what they are given
        for step in steps:
            tensor = step.call(tensor)

    return median(_seconds(partial(through, tensor)) for tensor in steps[0].given)


def _seconds(work: Callable[[], Any]) -> float:
    """Return the median seconds of a few runs."""
    taken = []
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return median(taken)
