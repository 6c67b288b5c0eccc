"""What a value is: its parts, its shape and size, and a digest of its content. Values are never changed by looking."""

from __future__ import annotations

import hashlib
import itertools
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DEEPEST = 5
MOST_PARTS = 2000
SHORT_TEXT = 8
SHARED_INTEGERS = range(-5, 257)
WITHOUT_IDENTITY = (
    int, type(None), type(Ellipsis), slice, range, type, types.ModuleType, types.FunctionType,
    types.BuiltinFunctionType, types.MethodType, types.GeneratorType,
)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What flows: a value's type, and where it is array-like its shape and dtype. `size_bytes` counts its content."""

    type: str
    shape: tuple[int | None, ...] | None
    dtype: str | None
    size_bytes: int
    device: str | None = None


def parts(value: object) -> Iterator[Any]:
    """The value and the values that it holds, through containers and plain objects, outermost first."""
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
    """Whether a value can be followed by its identity: small numbers, classes and short texts are shared."""
    if isinstance(value, (str, bytes)):
        return len(value) >= SHORT_TEXT
    if type(value) is int:
        return value not in SHARED_INTEGERS
    return not isinstance(value, WITHOUT_IDENTITY) and not (type(value) is tuple and not value)


def attribute(value: object, name: str) -> Any:
    """An attribute of a value of any kind, None where it has none or where looking at it fails."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def describe(value: Any) -> Description:
    """The type, shape, dtype and size of a value; its type alone where it doesn't let itself be looked at."""
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
    """Whether a value is a Pillow image whose file has been opened and not been decoded yet."""
    return _is_image(value) and bool(getattr(value, "tile", None))


def digest(value: object) -> bytes | None:
    """A digest of a value's content, equal for bitwise equal values; None where the content can't be told."""
    content = hashlib.blake2b(digest_size=16)
    try:
        return content.digest() if _feed(content, value, 0) else None
    except Exception:
        return None


def _feed(content: Any, value: Any, depth: int) -> bool:
    """Adds a value to a digest; False where it holds something that can't be compared."""
    kind = type(value)
    content.update(f"{kind.__module__}.{kind.__qualname__};".encode())
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        content.update(repr(value).encode())
        return True
    if isinstance(value, (bytes, bytearray, memoryview)):
        content.update(value)
        return True
    if isinstance(value, type):
        content.update(f"{value.__module__}.{value.__qualname__}".encode())
        return True
    if isinstance(value, dict):
        items: Any = [part for key in value for part in (key, value[key])]
        return depth < DEEPEST and all(_feed(content, item, depth + 1) for item in items)
    if isinstance(value, (list, tuple)):
        content.update(f"{len(value)};".encode())
        return depth < DEEPEST and all(_feed(content, item, depth + 1) for item in value)
    if kind.__module__ == "torch" or hasattr(value, "element_size"):
        return _feed_tensor(content, value)
    if hasattr(value, "tobytes"):
        return _feed_array(content, value)
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict and attributes and not callable(value) and _is_of_python_classes(value):
        return depth < DEEPEST and _feed(content, attributes, depth + 1)
    return False


def _is_of_python_classes(value: object) -> bool:
    """Whether all there is to a value is in its `__dict__`: none of its classes was written in another language."""
    modules = (sys.modules.get(kind.__module__) for kind in type(value).__mro__[:-1])
    return all(str(getattr(module, "__file__", "")).endswith(".py") for module in modules)


def _feed_tensor(content: Any, tensor: Any) -> bool:
    if getattr(tensor, "is_sparse", False) or not hasattr(tensor, "untyped_storage"):
        return False
    import torch

    dense = tensor.detach().as_subclass(torch.Tensor).cpu().contiguous()
    content.update(f"{tensor.dtype};{tuple(tensor.shape)};".encode())
    content.update(memoryview(dense.reshape(-1).view(torch.uint8).numpy()) if dense.numel() else b"")
    return True


def _feed_array(content: Any, value: Any) -> bool:
    if is_lazy_image(value):
        return False
    dtype = getattr(value, "dtype", None)
    if getattr(dtype, "hasobject", False):
        return False
    form = [getattr(value, name, None) for name in ("shape", "size", "mode")]
    content.update(f"{dtype};{form};".encode())
    content.update(value.tobytes())
    return True
