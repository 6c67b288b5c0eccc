"""Transfer of batches from workers in reused shared memory.

Torch gives every tensor of every batch shared memory of its own: pages that are mapped and cleared when the worker
first accesses them, a descriptor sent through a socket, and pages freed by the main process. Here a worker keeps a few
buffers, which the main process knows after their first use. The tensors of a batch lie side by side in one buffer,
which is reused as soon as nothing in the main process refers to any of them, be it a view or an array.

A batch with other than ordinary tensors (nested, sparse or quantized ones, subclasses, tensors that need a gradient,
have gaps in their memory, or share memory) is transferred by torch as a whole, and so is a batch when all buffers are
in use.
"""

from __future__ import annotations

import io
import itertools
import os
import pickle
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import collate_tensor_fn, default_collate_fn_map

from plumb.core.errors import PlumbError

# In addition to the requested batches: one that the script uses, and one that it is about to use.
BEYOND_PREFETCH = 2
_FREE, _TAKEN, _GIVEN_UP = 0, 1, 2
_ALIGNED_BYTES = 64
# A buffer that was too small is replaced by one with spare room, so that few are made if sizes vary.
_ROOM = 1.25

Key = tuple[int, int]
Place = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]
_RECEIVERS: weakref.WeakValueDictionary[Key, BufferReader] = weakref.WeakValueDictionary()
_numbers = itertools.count()
_STORAGES = (torch.UntypedStorage, torch.TypedStorage)
# Types that torch copies bitwise. It can't copy some others, such as `torch.int4`, and crashes with others.
_NUMBERS = (
    *(
        "bool",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "float32",
        "float64",
    ),
    *("bfloat16", "complex32", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz"),
)
_DTYPES = frozenset(getattr(torch, name) for name in _NUMBERS if hasattr(torch, name))


class Buffer:
    """Shared memory, used by one batch of this process at a time."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self._memory = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        self.start = storage.data_ptr()
        self.lent: weakref.ref[memoryview] | None = None

    def lend(self, when_free: Callable[[Any], None] | None = None) -> memoryview:
        """Return the memory, for tensors made by `tensor_at`; `when_free` is called when the last of them is freed."""
        view = memoryview(self._memory)  # type: ignore[arg-type]  # numpy's arrays are buffers
        self.lent = weakref.ref(view, when_free)
        return view

    @property
    def is_in_use(self) -> bool:
        """True if a tensor in this process lies in the memory lent last."""
        return self.lent is not None and self.lent() is not None


def tensor_at(view: memoryview, place: Place) -> torch.Tensor:
    """Return the tensor at a place of lent memory, which it keeps in use as long as it exists."""
    dtype, shape, stride, offset = place
    count = 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return torch.frombuffer(view, dtype=dtype, count=count, offset=offset).as_strided(shape, stride)


class BufferReader:
    """Main process's side of one iterator's buffers."""

    def __init__(self, workers: int, prefetch_factor: int) -> None:
        taken = torch.zeros(workers, prefetch_factor + BEYOND_PREFETCH, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self.terms = BufferHandshake((os.getpid(), next(_numbers)), taken)
        self._taken = taken.numpy()
        self._buffers: dict[tuple[int, int], Buffer] = {}
        _RECEIVERS[self.terms.key] = self

    def opened(self, parcel: BufferedBatch) -> Any:
        """Return the batch that a worker sent."""
        place = parcel.worker, parcel.number
        if parcel.storage is not None:
            self._buffers[place] = Buffer(parcel.storage)
        view = self._buffers[place].lend(partial(_free, self._taken, place, os.getpid()))
        return _BatchUnpickler(parcel.content, [tensor_at(view, there) for there in parcel.places]).load()

    def give_up_lent(self) -> None:
        """Abandon all memory in use to its users, because a process about to be forked may use it for longer."""
        if self.terms.key[0] != os.getpid():
            return
        for place, buffer in list(self._buffers.items()):
            if buffer.is_in_use:
                buffer.lent = None
                self._taken[place] = _GIVEN_UP


def _free(taken: Any, place: tuple[int, int], pid: int, _: Any) -> None:
    if os.getpid() == pid:
        taken[place] = _FREE


def _give_up_lent() -> None:
    for receiver in list(_RECEIVERS.values()):
        receiver.give_up_lent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_give_up_lent)


@dataclass(frozen=True)
class BufferHandshake:
    """Shared facts about an iterator's buffers: its key, and for each worker the states of its buffers."""

    key: Key
    taken: torch.Tensor


@dataclass(frozen=True)
class BufferedBatch:
    """A batch in transit: its tensors' places in a buffer, and everything else pickled. It is unpickled as the batch.

    `storage` is the buffer's memory if the main process doesn't know it yet.
    """

    key: Key
    worker: int
    number: int
    storage: torch.UntypedStorage | None
    places: Sequence[Place]
    content: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.key, self.worker, self.number, self.storage, self.places, self.content)


def _open(*sent: Any) -> Any:
    parcel = BufferedBatch(*sent)
    return _RECEIVERS[parcel.key].opened(parcel)


@dataclass
class BufferedCollate:
    """The loader's collate function, whose batches leave a worker in buffers; picklable if the loader's is."""

    collate_fn: Callable[[Any], Any]
    terms: BufferHandshake
    _sender: BufferWriter | None = None

    def __call__(self, samples: Any) -> Any:
        """Return the batch, or in a worker a parcel that becomes the batch in the main process."""
        info = get_worker_info()
        if info is None:
            return self.collate_fn(samples)
        if self._sender is None:
            self._sender = BufferWriter(self.terms, info.id)
        return self._sender.sent(self.collate_fn, samples)


class BufferWriter:
    """A worker's side of its buffers."""

    def __init__(self, terms: BufferHandshake, worker: int) -> None:
        self._key = terms.key
        self._worker = worker
        self._taken = terms.taken[worker].numpy()
        self._buffers: list[Buffer | None] = [None] * len(self._taken)
        self._thread = threading.get_ident()
        self._open: _BufferPart | None = None
        if default_collate_fn_map.get(torch.Tensor) is collate_tensor_fn:
            default_collate_fn_map[torch.Tensor] = self._stacked

    def sent(self, collate_fn: Callable[[Any], Any], samples: Any) -> Any:
        """Return the object to send in place of the batch that `collate_fn` makes of `samples`."""
        self._forget_given_up()
        number = self._largest()
        buffer = None if number is None else self._buffers[number]
        self._open = None if number is None or buffer is None else _BufferPart(number, buffer)
        try:
            batch = collate_fn(samples)
            return self._packed(batch, self._open)
        finally:
            self._open = None

    def _packed(self, batch: Any, lot: _BufferPart | None) -> Any:
        content = io.BytesIO()
        writer = _Writer(content)
        try:
            writer.dump(batch)
        except Exception:
            # Torch can transfer it, or raises its own error.
            return batch
        tensors = writer.tensors
        if not tensors:
            return batch
        storage = None
        if lot is None or not all(lot.place(tensor) for tensor in tensors):
            found = self._with_room_for(sum(map(_room, tensors)), None if lot is None else lot.number)
            if found is None:
                return batch
            lot, storage = found
            for tensor in tensors:
                lot.place(tensor)
        places = [lot.placed[id(tensor)] for tensor in tensors]
        self._taken[lot.number] = _TAKEN
        return BufferedBatch(self._key, self._worker, lot.number, storage, places, content.getvalue())

    def _stacked(self, batch: Sequence[torch.Tensor], *, collate_fn_map: Any = None) -> torch.Tensor:
        """Stack tensors as torch's own collate does in a worker, but into a buffer if there is room."""
        first, lot = batch[0], self._open
        if lot is not None and threading.get_ident() == self._thread and _fits(first):
            out = lot.room_for(first.dtype, (len(batch), *first.shape))
            if out is not None:
                return torch.stack(tuple(batch), 0, out=out)
        stacked: torch.Tensor = collate_tensor_fn(batch, collate_fn_map=collate_fn_map)
        return stacked

    def _forget_given_up(self) -> None:
        for number, state in enumerate(self._taken):
            if state == _GIVEN_UP:
                self._buffers[number], self._taken[number] = None, _FREE

    def _is_free(self, number: int) -> bool:
        buffer = self._buffers[number]
        return bool(self._taken[number] == _FREE) and not (buffer is not None and buffer.is_in_use)

    def _largest(self) -> int | None:
        sizes = {
            number: buffer.storage.nbytes()
            for number, buffer in enumerate(self._buffers)
            if buffer is not None and self._is_free(number)
        }
        return max(sizes, key=lambda number: sizes[number]) if sizes else None

    def _with_room_for(self, size: int, in_hand: int | None) -> tuple[_BufferPart, torch.UntypedStorage] | None:
        """Make a buffer in an empty place if there is one, else in place of a smaller one; None if none is free."""
        free = [number for number in range(len(self._buffers)) if number == in_hand or self._is_free(number)]
        if not free:
            return None
        number = min(free, key=lambda number: self._buffers[number] is not None)
        wanted = size if self._buffers[number] is None else int(size * _ROOM)
        storage = torch.UntypedStorage._new_shared(wanted)  # type: ignore[no-untyped-call]
        buffer = self._buffers[number] = Buffer(storage)
        return _BufferPart(number, buffer), storage


class _BufferPart:
    """One batch's part of a buffer, filled from its start."""

    def __init__(self, number: int, buffer: Buffer) -> None:
        self.number = number
        self.placed: dict[int, Place] = {}
        self._start = buffer.start
        self._view = buffer.lend()
        self._used = 0

    def room_for(self, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Return a contiguous tensor in the next free place; None if there is no room, or the tensor is empty."""
        like = torch.empty(shape, dtype=dtype, device="meta")
        size = _room(like)
        if not 0 < size <= len(self._view) - self._used:
            return None
        tensor = tensor_at(self._view, (dtype, shape, like.stride(), self._used))
        self._used += size
        return tensor

    def place(self, tensor: torch.Tensor) -> bool:
        """Record a tensor's place, and copy it there if it lies elsewhere; return False if there is no room."""
        offset = tensor.data_ptr() - self._start
        if not 0 <= offset < len(self._view):
            offset, size = self._used, _room(tensor)
            if size > len(self._view) - offset:
                return False
            there = tensor_at(self._view, (tensor.dtype, tuple(tensor.shape), tensor.stride(), offset))
            there.copy_(tensor)
            self._used += size
        self.placed[id(tensor)] = tensor.dtype, tuple(tensor.shape), tensor.stride(), offset
        return True


class _NotOursError(PlumbError):
    """A batch has a part that can't lie in a buffer and arrive as torch would deliver it."""


class _Writer(ForkingPickler):
    """Pickler that pickles a batch as torch's queues do, except for its tensors, which it collects.

    Raises _NotOursError at the first tensor that can't lie in a buffer. It never starts torch's own way of pickling a
    tensor, which would open a descriptor for a receiver that never comes.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}
        self._storages: set[int] = set()

    def persistent_id(self, value: Any) -> int | None:
        """Return the number of a collected tensor; None for other values and empty tensors."""
        if isinstance(value, _STORAGES):
            raise _NotOursError
        if not isinstance(value, torch.Tensor):
            return None
        if id(value) in self._numbers:
            return self._numbers[id(value)]
        if not is_ordinary(value):
            raise _NotOursError
        storage = value.untyped_storage()
        if not value.numel():
            # Nothing is copied or shared. An empty part of a larger tensor depends on that tensor.
            if storage.nbytes():
                raise _NotOursError
            return None
        if not _is_dense(value) or storage._cdata in self._storages:
            raise _NotOursError
        self._storages.add(storage._cdata)
        self._numbers[id(value)] = len(self.tensors)
        self.tensors.append(value)
        return self._numbers[id(value)]


class _BatchUnpickler(pickle.Unpickler):
    """Unpickler of a batch whose tensors are already here."""

    def __init__(self, content: bytes, tensors: Sequence[torch.Tensor]) -> None:
        super().__init__(io.BytesIO(content))
        self._tensors = tensors

    def persistent_load(self, number: int) -> torch.Tensor:
        """Return a collected tensor."""
        return self._tensors[number]


def _fits(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is ordinary and not empty."""
    return is_ordinary(tensor) and tensor.numel() > 0


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is only a type, a shape, strides, and bytes in this process's memory."""
    # The order matters, because nested tensors raise if asked for attributes that they lack.
    return (
        type(tensor) is torch.Tensor
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not (tensor.requires_grad or any(getattr(tensor, "names", ())))
        and tensor.dtype in _DTYPES
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """Return whether a tensor's elements fill its memory, in any order."""
    if tensor.is_contiguous():
        return True
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True)).is_contiguous()


def _room(tensor: torch.Tensor) -> int:
    """Return the bytes that a dense tensor takes in a buffer."""
    return -(-tensor.nbytes // _ALIGNED_BYTES) * _ALIGNED_BYTES
