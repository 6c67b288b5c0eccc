"""Inspection of values: their parts, shape, size, and a digest of their content. It never changes a value."""

from __future__ import annotations

import hashlib
import itertools
import sys
import types
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

DEEPEST = 5
# Arrays above this size may be compared by blocks only: this many, of this size each.
_LARGE_BYTES, _BLOCKS, _BLOCK_BYTES = 16 * 2**20, 64, 2**16
MOST_PARTS = 2000
SHORT_TEXT = 8
SHARED_INTEGERS = range(-5, 257)
WITHOUT_IDENTITY = (
    int, type(None), type(Ellipsis), slice, range, type, types.ModuleType, types.FunctionType,
    types.BuiltinFunctionType, types.MethodType, types.GeneratorType,
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """A value's type, its shape and dtype if it is array-like, and the bytes of its content."""

    type: str
    shape: tuple[int | None, ...] | None
    dtype: str | None
    size_bytes: int
    device: str | None = None


def parts(value: object) -> Iterator[Any]:
    """Yield the value and the values that it holds, through containers and plain objects, outermost first."""
    pending: list[tuple[Any, int]] = [(value, 0)]
    seen: set[int] = set()
    while pending and len(seen) < MOST_PARTS:
        item, depth = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        if depth < DEEPEST:
            pending.extend((held, depth + 1) for held in reversed(_held(item)))


def _held(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(itertools.islice(value, MOST_PARTS))
    if isinstance(value, dict):
        return list(itertools.islice(value.values(), MOST_PARTS))
    if isinstance(value, (float, complex, str, bytes, *WITHOUT_IDENTITY)) or attribute(value, "shape") is not None:
        return []
    attributes = attribute(value, "__dict__")
    return list(attributes.values())[:MOST_PARTS] if type(attributes) is dict else []


def has_identity(value: object) -> bool:
    """Return whether a value can be followed by its identity; small integers, classes and short texts are shared."""
    if isinstance(value, (str, bytes)):
        return len(value) >= SHORT_TEXT
    if type(value) is int:
        return value not in SHARED_INTEGERS
    return not isinstance(value, WITHOUT_IDENTITY) and not (type(value) is tuple and not value)


def attribute(value: object, name: str) -> Any:
    """Return an attribute of any value; None if it has none or if reading it raises."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def describe(value: Any) -> Description:
    """Return the type, shape, dtype and size of a value; only its type if inspecting it raises."""
    try:
        return _described(value)
    except Exception:
        return Description(type(value).__name__, None, None, 0)


def _described(value: Any) -> Description:
    name = type(value).__name__
    if isinstance(value, type):
        return Description(name, None, None, 0)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        sizes = tuple(int(size) for size in shape)
        device = getattr(value, "device", None)
        return Description(
            name, sizes, _dtype_name(dtype), _array_bytes(value), None if device is None else str(device)
        )
    if _is_image(value):
        bands = len(value.getbands())
        size = (value.height, value.width, bands) if bands > 1 else (value.height, value.width)
        pixels = 0 if is_lazy_image(value) else value.height * value.width * bands
        return Description(name, size, value.mode, pixels)
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return Description(name, None, None, len(value))
    return Description(name, None, None, sum(_content_bytes(part) for part in parts(value) if part is not value))


def _content_bytes(value: Any) -> int:
    if isinstance(value, (int, float)):
        return 8
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if getattr(value, "shape", None) is not None and hasattr(value, "dtype"):
        return _array_bytes(value)
    if _is_image(value):
        return int(value.height * value.width * len(value.getbands()))
    return 0


def _array_bytes(value: Any) -> int:
    if type(value).__module__.startswith(("h5py", "zarr")):
        return 0  # a handle to data on a disk
    if hasattr(value, "element_size"):
        return int(value.nelement() * value.element_size())
    size = getattr(value, "nbytes", 0)
    return int(size) if isinstance(size, int) else 0


def _dtype_name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _is_image(value: object) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "getbands")


def is_lazy_image(value: object) -> bool:
    """Return whether a value is a Pillow image whose file is open and not decoded yet."""
    return _is_image(value) and bool(getattr(value, "tile", None))


def digest(value: object, large_by_blocks: bool = False) -> bytes | None:
    """Return a digest of a value's content, equal for bitwise equal values; None if the content can't be compared.

    With `large_by_blocks`, only some blocks of large arrays and tensors are read, as is always done for memory-mapped
    files: values that differ elsewhere then have the same digest.
    """
    content = hashlib.blake2b(digest_size=16)
    try:
        return content.digest() if _Feeder(content, large_by_blocks).feed(value, 0) else None
    except Exception:
        return None


@dataclass(frozen=True)
class ComparableDigest:
    """A digest of what can be compared in a value; `is_whole` is True if that is all of it."""

    digest: bytes
    is_whole: bool


def digest_of_comparable(value: object) -> ComparableDigest | None:
    """Return a digest of a value's comparable content, or None if it has none; of the rest, only types count."""
    feeder = _PatientFeeder(hashlib.blake2b(digest_size=16), large_by_blocks=False)
    feeder.feed(value, 0)
    return ComparableDigest(feeder.content.digest(), not feeder.counts["untold"]) if feeder.counts["told"] else None


@dataclass(frozen=True)
class _Feeder:
    """Adder of values to a digest; each method returns False if a value holds something that can't be compared."""

    content: Any
    large_by_blocks: bool

    def feed(self, value: Any, depth: int) -> bool:
        content, kind = self.content, type(value)
        content.update(f"{kind.__module__}.{kind.__qualname__};".encode())
        if value is None or isinstance(value, (bool, int, float, complex, str)):
            content.update(repr(value).encode())
            return True
        if isinstance(value, (bytes, bytearray, memoryview)):
            self._feed_bytes(memoryview(value).cast("B"), self.large_by_blocks)
            return True
        if isinstance(value, type):
            content.update(f"{value.__module__}.{value.__qualname__}".encode())
            return True
        if isinstance(value, dict):
            items: Any = [part for key in value for part in (key, value[key])]
            return depth < DEEPEST and all(self.feed(item, depth + 1) for item in items)
        if isinstance(value, (list, tuple)):
            content.update(f"{len(value)};".encode())
            return depth < DEEPEST and all(self.feed(item, depth + 1) for item in value)
        if kind.__module__ == "torch" or hasattr(value, "element_size"):
            return self._feed_tensor(value)
        if hasattr(value, "tobytes"):
            return self._feed_array(value)
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict and attributes and not callable(value) and _is_of_python_classes(value):
            return depth < DEEPEST and self.feed(attributes, depth + 1)
        return False

    def _feed_tensor(self, tensor: Any) -> bool:
        if getattr(tensor, "is_sparse", False) or not hasattr(tensor, "untyped_storage"):
            return False
        import torch

        dense = tensor.detach().as_subclass(torch.Tensor).cpu().contiguous()
        self.content.update(f"{tensor.dtype};{tuple(tensor.shape)};".encode())
        if dense.numel():
            self._feed_bytes(dense.reshape(-1).view(torch.uint8).numpy(), self.large_by_blocks)
        return True

    def _feed_array(self, value: Any) -> bool:
        if is_lazy_image(value):
            return False
        dtype = getattr(value, "dtype", None)
        if getattr(dtype, "hasobject", False):
            return False
        form = [getattr(value, name, None) for name in ("shape", "size", "mode")]
        self.content.update(f"{dtype};{form};".encode())
        if _is_contiguous_array(value):
            is_mapped = getattr(value, "filename", None) is not None
            self._feed_bytes(value.reshape(-1).view("uint8"), self.large_by_blocks or is_mapped)
        else:
            self.content.update(value.tobytes())
        return True

    def _feed_bytes(self, flat: Any, by_blocks: bool) -> None:
        """Add a one-dimensional array of bytes: all of it, or some blocks spread from its beginning to its end."""
        if not by_blocks or len(flat) <= _LARGE_BYTES:
            self.content.update(memoryview(flat))
            return
        for block in range(_BLOCKS):
            start = (len(flat) - _BLOCK_BYTES) * block // (_BLOCKS - 1)
            self.content.update(memoryview(flat[start : start + _BLOCK_BYTES]))


@dataclass(frozen=True)
class _PatientFeeder(_Feeder):
    """Feeder that skips what can't be compared; `counts` are the values that were added, and those skipped."""

    counts: Counter[str] = field(default_factory=Counter)

    def feed(self, value: Any, depth: int) -> bool:
        try:
            is_told = self._feed_set(value) if isinstance(value, (set, frozenset)) else super().feed(value, depth)
        except Exception:
            is_told = False
        if not is_told or not self._is_container(value):
            self.counts["told" if is_told else "untold"] += 1
        return True

    def _feed_set(self, value: Any) -> bool:
        digests = [digest(item) for item in value]
        self.content.update(b"".join(sorted(each for each in digests if each is not None)))
        return None not in digests

    def _is_container(self, value: Any) -> bool:
        if isinstance(value, (dict, list, tuple)):
            return True
        return attribute(value, "shape") is None and type(attribute(value, "__dict__")) is dict


def _is_contiguous_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and value.flags.c_contiguous and value.size > 0


def _is_of_python_classes(value: object) -> bool:
    """Return whether a value's `__dict__` is all of its state, because all its classes are written in Python."""
    modules = (sys.modules.get(kind.__module__) for kind in type(value).__mro__[:-1])
    return all(str(getattr(module, "__file__", "")).endswith(".py") for module in modules)
