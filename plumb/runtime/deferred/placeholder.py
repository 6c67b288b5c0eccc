"""A tensor whose last operators have not run yet, and its placeholder in the user's code.

A placeholder has the type, the shape and the dtype of the result, and no content. All code except the next deferred
operator gets the true value, made at once: code that uses some samples differently runs as always.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map

from plumb.core.errors import PlumbError
from plumb.runtime.deferred.deferred_call import DeferredCall

ATTRIBUTE = "_plumb_pending"
PROPERTIES = (
    "shape", "dtype", "ndim", "device", "layout", "requires_grad", "is_cpu", "is_cuda", "is_meta", "is_nested",
    "is_quantized", "is_sparse",
)  # fmt: skip
LOOKS = {
    *(getattr(torch.Tensor, name).__get__ for name in PROPERTIES),
    torch.Tensor.size, torch.Tensor.dim, torch.Tensor.numel, torch.Tensor.__len__,
    torch.Tensor.is_floating_point, torch.is_floating_point, torch.Tensor.is_complex, torch.is_complex,
}  # fmt: skip
"""Functions that work on a placeholder directly."""


class VariesError(PlumbError, RuntimeError):
    """A batch whose operators can neither be deferred nor made any more: it must be remade plainly."""


class Pending:
    """Input tensor of the first of `calls`, of which `done` were deferred.

    `was_asked_for`: other code had to get the true value.
    """

    __slots__ = ("_made", "_version", "base", "calls", "done", "was_asked_for")

    def __init__(
        self, base: torch.Tensor, calls: Sequence[DeferredCall], done: int, made: torch.Tensor | None = None
    ) -> None:
        self.base = base
        self.calls = calls
        self.done = done
        self.was_asked_for = False
        self._made = made
        self._version = base._version

    def check(self) -> None:
        """Raise VariesError if the tensor has been changed since, because it should have been read before."""
        if self.base._version != self._version:
            raise VariesError("A tensor was changed in place after an operator that was deferred.")

    def made(self) -> torch.Tensor:
        """Return the true value. Raises VariesError, and the operators' errors."""
        if self._made is None:
            self.check()
            made = self.base.clone()
            for call in self.calls[: self.done]:
                made = call(made)
            self._made = made
        return self._made

    def defer(self, handed_on: bool, made: torch.Tensor | None = None) -> Pending:
        """Return the pending tensor after one more call; if that returns its own argument, change this object."""
        if not handed_on:
            following = Pending(self.base, self.calls, self.done + 1, made)
            following._version = self._version
            following.was_asked_for = self.was_asked_for
            return following
        self.done += 1
        self._made = made
        return self


def make_placeholder(pending: Pending, like: torch.Tensor) -> torch.Tensor:
    """Return a placeholder for a tensor of the type, shape and dtype of `like`."""
    tensor: torch.Tensor = like.as_subclass(_placeholder_class(type(like)))
    setattr(tensor, ATTRIBUTE, pending)
    return tensor


def without_content(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the same type, shape and dtype that takes almost no memory."""
    hollow = torch.empty((), dtype=tensor.dtype).expand(tensor.shape)
    result: torch.Tensor = hollow.as_subclass(type(tensor))
    return result


def pending_of(value: object) -> Pending | None:
    """Return the pending tensor of a placeholder; None for any other value."""
    return vars(value).get(ATTRIBUTE) if isinstance(value, torch.Tensor) else None


def true_value(value: Any) -> Any:
    """Return the true value of a placeholder, made if necessary; any other value itself."""
    pending = pending_of(value)
    if pending is None:
        return value
    pending.was_asked_for = True
    return pending.made()


@functools.cache
def _placeholder_class(kind: type[torch.Tensor]) -> Any:
    metaclass: Any = type(kind)
    return metaclass(kind.__name__, (kind,), {"__torch_function__": classmethod(_with_true_values)})


def _with_true_values(
    cls: type, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: Mapping[str, Any] | None = None
) -> Any:
    if function in LOOKS:
        with torch._C.DisableTorchFunctionSubclass():
            return function(*arguments, **(keywords or {}))
    true_arguments, true_keywords = tree_map(true_value, (arguments, dict(keywords or {})))
    return function(*true_arguments, **true_keywords)
