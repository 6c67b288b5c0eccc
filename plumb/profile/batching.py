"""Many calls of one operator as a single call on a stacked batch, and whether that comes to the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from plumb.profile.accelerators import Device
from plumb.profile.capture import NO_TENSOR, Call, Method

REPETITIONS = 5
BATCH_BYTES = 256 * 2**20
SAME_WHERE_EQUAL = (bool, int, float, complex, str, bytes, slice, MethodType, BuiltinFunctionType, Method)


class UnbatchableError(Exception):
    """An operator that can't run on a batch. The message is a short phrase that says why."""


def seconds_per_call(calls: Sequence[Call], device: Device, batch_samples: int) -> float:
    """What one call costs when `batch_samples` calls are one on the device; the given calls are repeated to make them.

    The median of several runs, after a first whose result is compared. Fewer calls make the batch where it would get
    too large. Raises UnbatchableError where the operator can't run so, or comes to something else.
    """
    fitting = max(len(calls), BATCH_BYTES // max(1, calls[0].input_bytes))
    batch = list(islice(cycle(calls), min(batch_samples, fitting)))
    try:
        leaves = stack(batch, device.torch_device)
        function = on_device(calls[0].function, device.torch_device)
        check(_runner(function, calls[0], leaves)(), batch, device)
        return median(device.seconds(_runner(function, calls[0], leaves)) for _ in range(REPETITIONS)) / len(batch)
    except UnbatchableError:
        raise
    except Exception as error:
        raise UnbatchableError(f"raises {type(error).__name__}") from error


def stack(calls: Sequence[Call], place: torch.device) -> list[Any]:
    """The leaves of the batch: tensors that vary from call to call stacked along a new first dimension, others as is.

    Where no tensor varies, all are stacked. Raises UnbatchableError where the calls aren't alike.
    """
    first = calls[0]
    if any(not _same(call.function, first.function) or call.structure != first.structure for call in calls):
        raise UnbatchableError("arguments vary")
    columns = list(zip(*(call.leaves for call in calls), strict=True))
    varying = [_varies(column) for column in columns]
    if not any(varying):
        varying = [isinstance(column[0], torch.Tensor) for column in columns]
    return [
        torch.stack(column).to(place) if stacked else _placed(column[0], place)
        for column, stacked in zip(columns, varying, strict=True)
    ]


def _varies(column: Sequence[Any]) -> bool:
    """Whether an argument is another tensor in some calls; anything else must be the same in all of them."""
    first = column[0]
    if not isinstance(first, torch.Tensor):
        if not all(_same(value, first) for value in column):
            raise UnbatchableError("arguments vary")
        return False
    if not all(isinstance(value, torch.Tensor) and value.dtype == first.dtype for value in column):
        raise UnbatchableError("arguments vary")
    if any(value.shape != first.shape for value in column):
        raise UnbatchableError("shapes vary")
    return not all(torch.equal(value, first) for value in column)


def _same(left: Any, right: Any) -> bool:
    comparable = type(left) is type(right) and isinstance(left, SAME_WHERE_EQUAL)
    return left is right or (comparable and bool(left == right))


def _placed(value: Any, place: torch.device) -> Any:
    return value.to(place) if isinstance(value, torch.Tensor) else value


def on_device(function: Any, place: torch.device) -> Any:
    """The callee with the tensors that it, or the object whose method it is, holds itself. Theirs stay as they are."""
    if isinstance(function, MethodType):
        return MethodType(function.__func__, on_device(function.__self__, place))
    if isinstance(function, torch.nn.Module):
        return copy.deepcopy(function).to(place)
    attributes = getattr(function, "__dict__", None)
    if type(attributes) is not dict or isinstance(function, (FunctionType, type, ModuleType)):
        return function
    held = {name: value.to(place) for name, value in attributes.items() if isinstance(value, torch.Tensor)}
    if not held:
        return function
    moved = copy.copy(function)
    vars(moved).update(held)
    return moved


def _runner(function: Any, like: Call, leaves: Sequence[Any]) -> Callable[[], Any]:
    """A call on fresh copies of the batch, for operators that change their arguments in place."""
    fresh = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    arguments, keywords = tree_unflatten(fresh, like.structure)

    def run() -> Any:
        with torch.no_grad():
            return function(*arguments, **keywords)

    return run


def check(result: Any, calls: Sequence[Call], device: Device) -> None:
    """Raises UnbatchableError unless `result`, taken apart along its first dimension, is what the calls returned.

    Integers and bools must be equal, other numbers within torch's tolerance for their dtype.
    """
    leaves = tree_flatten(result)[0]
    if not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise UnbatchableError(NO_TENSOR)
    if any(leaf.device.type != device.torch_device.type for leaf in leaves):
        raise UnbatchableError("leaves the device")
    expected = list(zip(*(call.results for call in calls), strict=True))
    if len(leaves) != len(expected):
        raise UnbatchableError("differs")
    if not all(_unstacks_to(leaf, column) for leaf, column in zip(leaves, expected, strict=True)):
        raise UnbatchableError("differs")


def _unstacks_to(batch: torch.Tensor, samples: Sequence[torch.Tensor]) -> bool:
    if batch.dim() == 0 or len(batch) != len(samples):
        return False
    plain = batch.detach().as_subclass(torch.Tensor).cpu()
    try:
        for made, wanted in zip(plain, samples, strict=True):
            torch.testing.assert_close(made, wanted, equal_nan=True)
    except AssertionError:
        return False
    return True
