"""Deferred operators of a sample as repeatable calls: in another process, and on a whole batch."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, MethodType
from typing import Any

import numpy as np
import torch

from plumb.tracing.capture_pass import Method, with_receiver

RECIPE_BYTES = 2**18
SAME_WHERE_EQUAL = (
    bool, int, float, complex, str, bytes, slice, range, Enum, np.generic, np.dtype, torch.dtype, torch.device,
    MethodType, BuiltinFunctionType, Method,
)  # fmt: skip


@dataclass(frozen=True)
class DeferredCall:
    """A call without its one tensor, which is inserted at `place`: a position or a keyword."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]
    place: int | str

    def __call__(self, tensor: torch.Tensor) -> Any:
        """Return the callee's result for `tensor`. Raises the callee's errors."""
        if isinstance(self.place, str):
            return self.function(*self.arguments, **{**self.keywords, self.place: tensor})
        arguments = (*self.arguments[: self.place], tensor, *self.arguments[self.place :])
        return self.function(*arguments, **self.keywords)

    @property
    def owner(self) -> Any:
        """Object whose method is called; None for any other callee."""
        return self.function.__self__ if isinstance(self.function, MethodType) else None

    def is_same(self, other: DeferredCall) -> bool:
        """Return whether both call the same function with the same constants."""
        mine = self.function, self.place, self.arguments, dict(self.keywords)
        return is_same(mine, (other.function, other.place, other.arguments, dict(other.keywords)))

    def tensor_of(self, function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Any:
        """Return the tensor of a call that equals this one with the same constants; None for any other call.

        Most constants are identical to those of the first call, so identity is compared first.
        """
        if isinstance(self.function, Method):
            if not isinstance(function, (BuiltinFunctionType, MethodType)) or function.__name__ != self.function.name:
                return None
            arguments = (function.__self__, *arguments)
        elif not is_same(self.function, function):
            return None
        if isinstance(self.place, str):
            tensor = keywords.get(self.place)
            keywords = {name: value for name, value in keywords.items() if name != self.place}
        else:
            tensor = arguments[self.place] if self.place < len(arguments) else None
            arguments = arguments[: self.place] + arguments[self.place + 1 :]
        if len(arguments) != len(self.arguments) or keywords.keys() != self.keywords.keys():
            return None
        same = all(map(is_same, self.arguments, arguments))
        return tensor if same and all(is_same(self.keywords[name], value) for name, value in keywords.items()) else None


def taken_apart(
    function: Any, arguments: tuple[Any, ...], keywords: Mapping[str, Any], place: int | str
) -> tuple[DeferredCall, Any] | None:
    """Split a call into its tensor at `place`, counting a method's receiver, and the rest; None without such a place.

    >>> call, tensor = taken_apart(torch.ones(2).mul, (3,), {}, 0)
    >>> call(tensor + 1)
    tensor([6., 6.])
    """
    callee, given = with_receiver(function, arguments)
    if isinstance(place, str):
        if place not in keywords:
            return None
        others = {name: value for name, value in keywords.items() if name != place}
        return DeferredCall(callee, given, others, place), keywords[place]
    if place >= len(given):
        return None
    return DeferredCall(callee, (*given[:place], *given[place + 1 :]), keywords, place), given[place]


def is_same(left: Any, right: Any) -> bool:
    """Return whether two constants are the same: one object, or of one type and equal throughout."""
    if left is right:
        return True
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return is_plain(left) and is_plain(right) and bitwise_equal(left, right)
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(is_same(left[key], right[key]) for key in left)
    return isinstance(left, SAME_WHERE_EQUAL) and bool(left == right)


def is_plain(value: object) -> bool:
    """Return whether a value is a dense tensor in the CPU's memory that takes no part in autograd."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_nested
        and not value.is_quantized
        and not value.requires_grad
        and not value.is_inference()
    )


def bitwise_equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return whether two plain tensors have the same dtype, shape and bits: 0.0 and -0.0 differ, equal NaNs don't."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(_bits(left), _bits(right))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    plain = tensor.as_subclass(torch.Tensor).resolve_conj().resolve_neg()
    return plain.contiguous().reshape(-1).view(torch.uint8)


def pack(calls: Sequence[DeferredCall]) -> bytes | None:
    """Return the calls as bytes to send with each batch; None if they can't be pickled, or are too large."""
    try:
        packed = pickle.dumps(tuple(calls), pickle.HIGHEST_PROTOCOL)
        pickle.loads(packed)
    except Exception:
        return None
    return packed if len(packed) <= RECIPE_BYTES else None


def unpack(packed: bytes) -> tuple[DeferredCall, ...]:
    """Return the calls from bytes that `pack` made in a process of the same loader."""
    calls: tuple[DeferredCall, ...] = pickle.loads(packed)
    return calls
