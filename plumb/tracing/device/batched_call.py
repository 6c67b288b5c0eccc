"""Many calls of one operator made as a single call on a stacked batch, and the check that the results agree."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from plumb.core.errors import PlumbError
from plumb.tracing.capture_pass import NO_TENSOR, CapturedCall, Method
from plumb.tracing.device.clock import Device

REPETITIONS = 5
BATCH_BYTES = 256 * 2**20
SAME_WHERE_EQUAL = (bool, int, float, complex, str, bytes, slice, MethodType, BuiltinFunctionType, Method)


class UnbatchableError(PlumbError):
    """Error for an operator that can't run on a batch. The message is a short phrase that says why."""


def seconds_per_call(calls: Sequence[CapturedCall], device: Device, batch_samples: int) -> float:
    """Return the device's seconds per call when `batch_samples` calls are made as one.

    That is the median of several runs, after a first run whose result is compared with the calls' results. The batch is
    smaller if its input would exceed `BATCH_BYTES`.

    Args:
        calls: Captured calls of one operator, repeated to fill the batch.
        device: Device to run on.
        batch_samples: Number of calls per batch.

    Raises:
        UnbatchableError: The operator can't run on a batch, or returns something else.

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


def stack(calls: Sequence[CapturedCall], place: torch.device) -> list[Any]:
    """Return a batch's leaves: tensors that vary between calls are stacked along a new first dimension.

    If no tensor varies, all tensors are stacked. The others are taken from the first call. Raises UnbatchableError if
    the calls have different functions, structures or other arguments.
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
    """Return whether an argument is a tensor that differs between calls; raise if any other argument does."""
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
    """Return the callee with its own tensors, or those of the method's object, moved; the original stays unchanged."""
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


def _runner(function: Any, like: CapturedCall, leaves: Sequence[Any]) -> Callable[[], Any]:
    """Return a call on fresh copies of the batch, because operators may change their arguments in place."""
    fresh = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
    arguments, keywords = tree_unflatten(fresh, like.structure)

    def run() -> Any:
        with torch.no_grad():
            return function(*arguments, **keywords)

    return run


def check(result: Any, calls: Sequence[CapturedCall], device: Device) -> None:
    """Raise UnbatchableError unless `result`, split along its first dimension, equals what the calls returned.

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
