"""Encoding of values as bytes, and exact, fast decoding into memory of their own."""

from __future__ import annotations

import ctypes
import io
import pickle
import struct
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from plumb.core.errors import PlumbError

if TYPE_CHECKING:
    import numpy
    import torch
    from PIL import Image

_Bytes = bytes | bytearray | memoryview
_COUNTS = struct.Struct("<QI")
_LENGTH = struct.Struct("<QB")
_OURS, _WRITABLE, _READ_ONLY = range(3)
_PLAIN_KINDS = "biufcmMSUV"
# Attributes of Pillow's own images; all others in an image's `__dict__` were added by users.
_OF_PILLOW = frozenset(
    ("im", "_im", "mode", "_mode", "size", "_size", "palette", "info", "readonly", "_exif", "category", "_category")
)


class EncodeError(PlumbError):
    """A value can't be stored such that it is restored unchanged. The message is the reason, in one line."""


def encode(value: Any) -> bytes:
    """Return the value as bytes that share nothing with it, so that it may be changed afterwards.

    Raises EncodeError if it can't be pickled, has an image that is not decoded yet, or has two arrays that share
    memory, which they would not after decoding.
    """
    pickled = io.BytesIO()
    try:
        pickler = _ValuePickler(pickled)
        pickler.dump(value)
        _refuse_shared(pickler.extents)
    except EncodeError:
        raise
    except Exception as error:
        raise EncodeError(f"a {type(value).__name__} can't be pickled ({type(error).__name__}: {error})") from None
    stream = pickled.getbuffer()
    buffers = [(buffer.raw(), kind) for buffer, kind in pickler.buffers]
    lengths = [_LENGTH.pack(raw.nbytes, kind) for raw, kind in buffers]
    head = _COUNTS.pack(stream.nbytes, len(buffers))
    return b"".join([head, *lengths, stream, *(raw for raw, _ in buffers)])


def decode(data: memoryview) -> Any:
    """Return the value that was encoded. It shares no memory with `data`, and writable parts are writable.

    Raises the errors of unpickling if `data` is damaged, or a class is missing in this process.
    """
    stream_bytes, count = _COUNTS.unpack_from(data)
    start = _COUNTS.size + count * _LENGTH.size
    stream = data[start : start + stream_bytes]
    start += stream_bytes
    buffers: list[_Bytes] = []
    for place in range(count):
        length, kind = _LENGTH.unpack_from(data, _COUNTS.size + place * _LENGTH.size)
        buffers.append(_KEEPERS[kind](data[start : start + length]))
        start += length
    if start != data.nbytes:
        raise ValueError(f"{data.nbytes} bytes, where {start} were encoded")
    return pickle.loads(stream, buffers=buffers)


# Restoring functions of this module copy their buffer; those of others keep it.
_KEEPERS: tuple[Callable[[memoryview], _Bytes], ...] = (lambda view: view, bytearray, bytes)


class _ValuePickler(pickle.Pickler):
    """Pickler that keeps the content of arrays, tensors and images out of the stream."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._take)
        self.buffers: list[tuple[pickle.PickleBuffer, int]] = []
        self.extents: list[tuple[int, int, numpy.ndarray[Any, Any]]] = []
        self._ours: set[int] = set()
        modules = sys.modules
        self._ndarray = getattr(modules.get("numpy"), "ndarray", None)
        self._tensor = getattr(modules.get("torch"), "Tensor", None)
        self._image = getattr(modules.get("PIL.Image"), "Image", None)

    def reducer_override(self, value: Any) -> Any:
        """Return how to restore the value if this module has a better way than its class."""
        kind = type(value)
        if self._ndarray is not None and kind is self._ndarray:
            return self._reduce_array(value)
        if self._tensor is not None and isinstance(value, self._tensor):
            return self._reduce_tensor(value)
        if self._image is not None and isinstance(value, self._image):
            return self._reduce_image(value)
        return NotImplemented

    def _take(self, buffer: pickle.PickleBuffer) -> None:
        if id(buffer) in self._ours:
            self.buffers.append((buffer, _OURS))
        else:
            self.buffers.append((buffer, _READ_ONLY if memoryview(buffer).readonly else _WRITABLE))

    def _outside(self, content: Any) -> pickle.PickleBuffer:
        buffer = pickle.PickleBuffer(content)
        self._ours.add(id(buffer))
        return buffer

    def _reduce_array(self, array: numpy.ndarray[Any, Any]) -> Any:
        if array.dtype.kind not in _PLAIN_KINDS or array.dtype.hasobject or not array.dtype.itemsize:
            return NotImplemented
        axes, _, content = self._content(array)
        shape = tuple(array.shape[axis] for axis in axes)
        return _restore_array, (array.dtype, shape, axes, array.flags.writeable, content)

    def _reduce_tensor(self, tensor: torch.Tensor) -> Any:
        import torch

        kind = type(tensor)
        if kind.__reduce_ex__ is not torch.Tensor.__reduce_ex__ or not _is_plain(tensor):
            return NotImplemented
        if kind is not torch.Tensor or tensor.__dict__:
            with torch._C.DisableTorchFunctionSubclass():
                return _restore_subclass, (tensor.as_subclass(torch.Tensor), kind, tensor.__dict__)
        array = _elements(tensor)
        axes, dense, content = self._content(array)
        stride = tensor.stride() if dense else _dense_stride(tensor.shape, axes)
        return _restore_tensor, (tensor.dtype, tuple(tensor.shape), stride, content)

    def _content(self, array: numpy.ndarray[Any, Any]) -> tuple[tuple[int, ...], bool, pickle.PickleBuffer]:
        """Return an array's axes in memory order, whether it has no gaps, and its elements in that order."""
        import numpy

        self.extents.append((*_extent(array), array))
        axes = tuple(range(array.ndim))
        if not array.flags.c_contiguous:
            axes = tuple(sorted(axes, key=lambda axis: -abs(array.strides[axis])))
        ordered = array.transpose(axes)
        plain = numpy.asarray(ordered, order="C").reshape(-1).view(numpy.uint8)
        return axes, ordered.flags.c_contiguous, self._outside(plain)

    def _reduce_image(self, image: Image.Image) -> Any:
        if getattr(image, "tile", None):
            raise EncodeError("an image that is not decoded yet: storing it would decode it too early")
        if type(image) is not self._image:
            return NotImplemented
        palette = None
        if image.mode in ("P", "PA") and image.palette is not None:
            palette = image.palette.mode, bytes(image.getpalette(image.palette.mode) or [])
        added = {name: value for name, value in vars(image).items() if name not in _OF_PILLOW}
        content = self._outside(image.tobytes())
        return _restore_image, (image.mode, image.size, image.info, palette, added, content)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Return whether a tensor consists of its elements only."""
    import torch

    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.requires_grad
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


class _Memory:
    """A tensor's memory by NumPy's array interface; after `tensor.numpy()` the tensor could never be resized."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor
        size = tensor.dtype.itemsize
        self.__array_interface__ = {
            "version": 3,
            "data": (tensor.data_ptr(), True),
            "typestr": f"|V{size}",
            "shape": tuple(tensor.shape),
            "strides": tuple(step * size for step in tensor.stride()),
        }


def _elements(tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
    """Return a view of a tensor's elements as raw bytes, because NumPy lacks some of torch's types."""
    import numpy

    if not tensor.numel():
        return numpy.empty(tuple(tensor.shape), f"V{tensor.dtype.itemsize}")
    return numpy.asarray(_Memory(tensor))


def _dense_stride(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """Return the strides without gaps of a shape whose axes lie in memory in this order."""
    stride, step = [0] * len(axes), 1
    for axis in reversed(axes):
        stride[axis] = step
        step *= shape[axis]
    return tuple(stride)


def _extent(array: numpy.ndarray[Any, Any]) -> tuple[int, int]:
    """Return the memory addresses at which an array's elements begin and end."""
    start = array.__array_interface__["data"][0]
    if not array.size:
        return start, start
    reaches = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    lowest = start + sum(reach for reach in reaches if reach < 0)
    return lowest, start + sum(reach for reach in reaches if reach > 0) + array.itemsize


def _refuse_shared(extents: Sequence[tuple[int, int, numpy.ndarray[Any, Any]]]) -> None:
    if len(extents) < 2:
        return
    import numpy

    reaching: list[tuple[int, int, Any]] = []
    for start, end, array in sorted(extents, key=lambda extent: extent[:2]):
        reaching = [earlier for earlier in reaching if earlier[1] > start]
        if end > start and any(numpy.shares_memory(earlier[2], array) for earlier in reaching):
            raise EncodeError("two arrays in it share memory: they would come back apart")
        reaching.append((start, end, array))


def _restore_array(dtype: Any, shape: tuple[int, ...], axes: tuple[int, ...], writable: bool, content: _Bytes) -> Any:
    import numpy

    array = numpy.empty(shape, dtype)
    if array.size:
        memoryview(array.reshape(-1).view(numpy.uint8))[:] = memoryview(content)  # type: ignore[arg-type]
    if axes != tuple(range(len(axes))):
        array = array.transpose(numpy.argsort(axes))
    array.flags.writeable = writable
    return array


def _restore_tensor(dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], content: _Bytes) -> Any:
    import numpy
    import torch

    tensor = torch.empty_strided(shape, stride, dtype=dtype)
    source = numpy.frombuffer(content, numpy.uint8)
    if source.size != tensor.nbytes:
        raise ValueError(f"{source.size} bytes for a tensor of {tensor.nbytes}")
    if source.size:
        # Without gaps, the order in memory is the same. After a copy by NumPy, the tensor could never be resized.
        ctypes.memmove(tensor.data_ptr(), source.__array_interface__["data"][0], source.size)
    return tensor


def _restore_subclass(tensor: torch.Tensor, kind: type[torch.Tensor], attributes: dict[str, Any]) -> torch.Tensor:
    restored = tensor.as_subclass(kind)
    restored.__dict__.update(attributes)
    return restored


def _restore_image(
    mode: str,
    size: tuple[int, int],
    info: dict[Any, Any],
    palette: tuple[str, bytes] | None,
    added: dict[str, Any],
    content: Any,
) -> Image.Image:
    from PIL import Image

    image = Image.new(mode, size, None)
    image.info = info
    if palette is not None:
        image.putpalette(palette[1], palette[0])
    if all(size):
        image.frombytes(content)
    image.__dict__.update(added)
    return image
