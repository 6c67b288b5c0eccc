"""Deferred operators on a whole batch, with little memory traffic.

Each operator on its own would read and write the batch once, each time into fresh memory. So the calls' effects on the
batch are recorded once. If these are a chain of elementwise operations, a few samples at a time pass through all of
them in place, in the memory of the result, while they are in the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plumb.host.pinned_memory import pinned
from plumb.runtime.deferred.deferred_call import bitwise_equal, unpack

aten = torch.ops.aten
CHUNK_BYTES = 2**20
COPIES = {aten._to_copy.default, aten.clone.default}
IN_PLACE = {
    out_of_place: in_place
    for operation in ("add", "sub", "mul", "div")
    for name in getattr(aten, operation).overloads()
    if name in ("Tensor", "Scalar")
    for in_place in (getattr(getattr(aten, f"{operation}_"), name),)
    for out_of_place in (getattr(getattr(aten, operation), name), in_place)
}
OUT = {
    function: getattr(aten, function.name().removeprefix("aten::").partition(".")[0].rstrip("_")).out
    for function in IN_PLACE
    if function.name().endswith(".Tensor")
}


@dataclass(frozen=True)
class Operation:
    """One elementwise operation on a tensor, with its constants; a conversion or copy if `in_place` is None."""

    in_place: Any
    out: Any
    arguments: tuple[Any, ...]
    keywords: Mapping[str, Any]

    def start(self, source: torch.Tensor, result: torch.Tensor) -> None:
        """Fill `result` from `source`."""
        if self.in_place is None:
            result.copy_(source)
        else:
            self.out(source, *self.arguments, **self.keywords, out=result)

    def go_on(self, result: torch.Tensor) -> None:
        """Apply the operation to `result` itself."""
        if self.in_place is not None:
            self.in_place(result, *self.arguments, **self.keywords)

    def on(self, device: torch.device) -> Operation:
        """Return the operation with its constants on a device, such that a GPU divides by a number as the CPU does.

        Torch on a GPU multiplies by the reciprocal of a Python number, which is rounded once more.
        """
        is_division = device.type != "cpu" and self.in_place is aten.div_.Tensor
        moved = tuple(_constant_on(device, value, is_division) for value in self.arguments)
        return Operation(self.in_place, self.out, moved, self.keywords)


def _constant_on(device: torch.device, value: Any, is_divisor: bool) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if is_divisor and isinstance(value, (int, float)):
        # A tensor without dimensions doesn't change the result's type.
        return torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None, device=device)
    return value


COPY = Operation(None, None, (), {})


@dataclass(frozen=True)
class Chain:
    """Elementwise operations from one tensor to one of the same shape, of type `dtype` and memory format `layout`."""

    operations: tuple[Operation, ...]
    dtype: torch.dtype
    layout: torch.memory_format

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        """Return the result, on the batch's device, and in page-locked memory if the batch is in such memory."""
        result = torch.empty(
            batch.shape,
            dtype=self.dtype,
            device=batch.device,
            pin_memory=batch.is_pinned(),
            memory_format=self.layout,
        )
        is_cached = batch.device.type == "cpu"
        samples = max(1, CHUNK_BYTES * len(batch) // max(1, result.nbytes)) if is_cached else max(1, len(batch))
        for start in range(0, len(batch), samples):
            part = result[start : start + samples]
            self.operations[0].start(batch[start : start + samples], part)
            for operation in self.operations[1:]:
                operation.go_on(part)
        return result

    def on(self, device: torch.device) -> Chain:
        """Return the chain with its constants on a device."""
        return Chain(tuple(operation.on(device) for operation in self.operations), self.dtype, self.layout)


class BatchRecipe:
    """Runner of packed calls on batches, for one process and one thread."""

    def __init__(self, packed: bytes) -> None:
        self._calls = unpack(packed)
        self._chains: dict[tuple[Any, ...], Chain | None] = {}

    def run(self, batch: torch.Tensor, device: torch.device | None = None) -> torch.Tensor:
        """Return the result of the calls on a stacked batch, on `device` if given. Raises the calls' errors."""
        target = batch.device if device is None else device
        with torch.no_grad(), torch.autocast(batch.device.type, enabled=False):
            form = type(batch), batch.dtype, batch.shape[1:], layout_of(batch), target
            if form not in self._chains:
                result, chain = self._watched(batch)
                self._chains[form] = None if chain is None else chain.on(target)
                return _at(target, result, batch.is_pinned())
            chain = self._chains[form]
            if chain is None:
                return _at(target, self._plainly(batch), batch.is_pinned())
            return chain.run(_at(target, batch, batch.is_pinned()))

    def _plainly(self, batch: torch.Tensor) -> torch.Tensor:
        for call in self._calls:
            batch = call(batch)
        return batch

    def _watched(self, batch: torch.Tensor) -> tuple[torch.Tensor, Chain | None]:
        """Return the result, and a chain of operations with exactly the same result; None without such a chain."""
        with Watch(batch) as watch:
            result = self._plainly(batch)
        chain = chain_of(watch, result)
        if chain is None or not bitwise_equal(chain.run(batch), result):
            return result, None
        return result, chain


def _at(device: torch.device, tensor: torch.Tensor, pins: bool) -> torch.Tensor:
    """Return a tensor on a device; on the CPU in page-locked memory if the loader `pins` its batches."""
    if device.type == "cpu":
        return pinned(tensor) if pins else tensor
    return tensor.to(device, non_blocking=pins)


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Recorder of the operations on a tensor and everything derived from it: operation, arguments, and result."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Otherwise torch imports its compiler, which takes a second or more.
        return False

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.source = tensor
        self.steps: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []
        self._of_the_tensor = [tensor]

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = kwargs or {}
        result = function(*args, **keywords)
        if any(value is known for value in tree_leaves((args, keywords)) for known in self._of_the_tensor):
            self.steps.append((function, args, keywords, result))
            self._of_the_tensor.extend(value for value in tree_leaves(result) if isinstance(value, torch.Tensor))
        return result


def chain_of(watch: Watch, result: torch.Tensor) -> Chain | None:
    """Return the recorded operations on a batch as a chain of elementwise operations; None if they are none.

    Each operation takes only the previous result, and constants that are the same for all samples.
    """
    operations: list[Operation] = []
    current = watch.source
    earlier: list[torch.Tensor] = []
    for function, arguments, keywords, made in watch.steps:
        others = tree_leaves((arguments[1:], keywords))
        linear = bool(arguments) and arguments[0] is current and not any(v is e for v in others for e in earlier)
        elementwise = function in COPIES or (function in IN_PLACE and all(_is_for_each(v, current) for v in others))
        if not (linear and elementwise and not any(v is current for v in others) and _is_like(made, result)):
            return None
        if made is not current:
            earlier.append(current)
            current = made
        if function in COPIES:
            operations.append(COPY)
        else:
            operations.append(Operation(IN_PLACE[function], OUT.get(function), tuple(arguments[1:]), keywords))
    same_form = current is result and result.shape == watch.source.shape and type(result) is torch.Tensor
    starts = bool(operations) and (operations[0] is COPY or operations[0].out is not None)
    layout = layout_of(result)
    if layout is None or layout_of(watch.source) is None:
        return None
    return Chain(tuple(operations), result.dtype, layout) if same_form and starts else None


def layout_of(batch: torch.Tensor) -> torch.memory_format | None:
    """Return the memory format of a batch; None for rare ones."""
    if batch.is_contiguous():
        return torch.contiguous_format
    dense = batch.dim() == 4 and batch.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if dense else None


def _is_like(made: Any, result: torch.Tensor) -> bool:
    return isinstance(made, torch.Tensor) and made.shape == result.shape and made.dtype == result.dtype


def _is_for_each(value: Any, batch: torch.Tensor) -> bool:
    """Return whether a constant is the same for all samples of a batch of any size."""
    if not isinstance(value, torch.Tensor):
        return True
    return value.dim() < batch.dim() or (value.dim() == batch.dim() and value.shape[0] == 1)
