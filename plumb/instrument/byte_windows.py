"""Digests of large values by parts: each check digests other parts, so that all are covered eventually."""

from __future__ import annotations

import marshal
import mmap
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch

PLAIN = frozenset((bool, int, float, complex, str, bytes, type(None)))

# Arrays up to this size are digested as a whole in each check; larger ones by probes and one window.
_WHOLE_BYTES, _WINDOW_BYTES = 1 << 12, 1 << 14
_PROBES, _PROBE_BYTES = 16, 16
_SMALL_FILE_BYTES = 1 << 22
# Items of a collection in one window: many if all are plain, and `marshal` digests them, else few. Plain items that are
# collections themselves count by their values, so that a window of large ones takes no longer.
_PLAIN_ITEMS, _ITEMS = 4096, 32
_VALUES_IN_AN_ITEM = 2
_LONG_TEXT, _TEXT_ENDS = 256, 32
_DEPTH, _WIDTH = 4, 32


class Windows:
    """Digests of the parts of one value. Parts are digested in turn, continuing from check to check."""

    def __init__(self) -> None:
        self._digests: dict[int, Any] = {}
        self._latest: set[int] = set()
        self._next = 0
        self._shape: Any = None

    def look(self, part: Callable[[int], Any], count: int, shape: Any, number: int | None = None) -> bool:
        """Digest the next of `count` parts; return whether its digest has changed.

        With a `number`, digest that part out of turn. `shape` determines where parts lie; if it has changed, all
        digests are forgotten.
        """
        if shape != self._shape:
            self._digests, self._next, self._shape = {}, 0, shape
            self._latest.clear()
        if number is None:
            number = self._next % count
            self._next = number + 1
        digest, before = part(number), self._digests.get(number)
        self._digests[number] = digest
        self._latest.add(number)
        return before is not None and before != digest

    def begin(self, anew: bool = False) -> None:
        """Begin a check: parts digested from now on are the latest. With `anew`, begin at the first part."""
        self._latest.clear()
        if anew:
            self._next = 0

    def forget_earlier(self) -> None:
        """Forget all parts except the latest, because they may have changed along with these."""
        self._digests = {number: self._digests[number] for number in self._latest}


def brief(value: Any) -> Any:
    """Return a short substitute for a value: a plain one itself, the ends of a long text, an identity."""
    kind = type(value)
    if kind not in PLAIN:
        return id(value)
    if kind is float and value != value:
        return "not a number"
    if (kind is str or kind is bytes) and len(value) > _LONG_TEXT:
        return id(value), len(value), value[:_TEXT_ENDS], value[-_TEXT_ENDS:]
    return value


# ---- arrays


def array_of(value: Any) -> np.ndarray[Any, Any] | None:
    """Return an array over the memory of an array, a tensor or a buffer; None if it has none that can be read."""
    try:
        if isinstance(value, np.ndarray):
            return None if value.dtype.hasobject else np.asarray(value)
        if isinstance(value, torch.Tensor):
            return _of_tensor(value)
        return np.frombuffer(value, np.uint8)
    except Exception:
        # Tensors without storage, subclasses that refuse, closed maps of files: there are no bytes to compare.
        return None


def may_change(array: np.ndarray[Any, Any]) -> bool:
    """Return whether code in this process may write to an array's memory."""
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if owner.flags.writeable:
            return True
        owner = owner.base
    return owner is not None and not isinstance(owner, bytes) and not _is_read_only(owner)


def brief_by_value(value: Any) -> Any:
    """Return a short substitute for a value that is independent of its identity: its class if it isn't plain."""
    found = brief(value)
    if type(found) is tuple:
        return found[1:]
    return found if type(value) in PLAIN else type(value)


def array_probes(array: np.ndarray[Any, Any]) -> tuple[Any, ...]:
    """Return an array's shape, and a digest of all of it if it is small, else some bytes spread over it."""
    shape = array.shape, array.strides, array.dtype.str
    flat = _flat(array)
    if flat is None:
        return (*shape, zlib.crc32(_elements(array, 0, _PROBES)))
    if flat.nbytes <= _WHOLE_BYTES:
        return (*shape, zlib.crc32(flat.data))
    step = (flat.nbytes - _PROBE_BYTES) // (_PROBES - 1) // 8 * 8
    probes = b"".join(flat[place * step : place * step + _PROBE_BYTES].tobytes() for place in range(_PROBES))
    return (*shape, probes, flat[-_PROBE_BYTES:].tobytes())


def array_windows(array: np.ndarray[Any, Any]) -> tuple[Callable[[int], Any], int]:
    """Return a function that digests one window of an array, and the number of windows; 0 for a small array."""
    flat = _flat(array)
    if flat is not None:
        count = -(-flat.nbytes // _WINDOW_BYTES) if flat.nbytes > _WHOLE_BYTES else 0
        return lambda number: zlib.crc32(flat[number * _WINDOW_BYTES : (number + 1) * _WINDOW_BYTES].data), count
    size = max(1, _WINDOW_BYTES // max(array.itemsize, 1))
    count = -(-array.size // size)
    return lambda number: zlib.crc32(_elements(array, number * size, (number + 1) * size)), count


def _of_tensor(tensor: torch.Tensor) -> np.ndarray[Any, Any] | None:
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_nested:
        return None
    plain = tensor.detach().resolve_conj().resolve_neg()
    try:
        found: np.ndarray[Any, Any] = plain.numpy()
    except TypeError:
        # Types that numpy does not have, such as bfloat16.
        found = plain.view(torch.uint8).numpy()
    return found


def _flat(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """Return the bytes of an array in the order of its memory; None if they are not contiguous."""
    if array.flags.c_contiguous:
        return array.reshape(-1).view(np.uint8)
    return array.T.reshape(-1).view(np.uint8) if array.flags.f_contiguous else None


def _elements(array: np.ndarray[Any, Any], begin: int, end: int) -> bytes:
    return bytes(np.asarray(array.flat[begin:end]).tobytes())


def _is_read_only(owner: Any) -> bool:
    owner = owner.obj if isinstance(owner, memoryview) else owner
    if isinstance(owner, mmap.mmap) and len(owner) <= _SMALL_FILE_BYTES:
        # The loop may write to the file through another map, or the file itself. To read the pages of a large one, on
        # which samples may never come, would cost more than it is worth.
        return False
    try:
        return memoryview(owner).readonly
    except TypeError:
        return False


# ---- collections


def item_windows(value: Any) -> tuple[Callable[[int], Any], int, bool]:
    """Return a function that digests one window of a collection's items, the number of windows, and if items are plain.

    Plain items are digested at tens of millions a second, objects at some hundred thousand. The function is for one
    check: consecutive windows are then found without a walk from the first item.
    """
    items, is_indexed = _items_of(value), isinstance(value, (list, tuple))
    values = _plain_values(items(0, 1) + (items(len(value) - 1, len(value)) if is_indexed else []))
    size = _ITEMS
    if values is not None:
        of_one = values // 2 if is_indexed else values
        size = max(1, _VALUES_IN_AN_ITEM * _PLAIN_ITEMS // max(_VALUES_IN_AN_ITEM, of_one))

    def part(number: int) -> Any:
        return _digest(items(number * size, (number + 1) * size), values is not None)

    return part, -(-len(value) // size), values is not None


def _items_of(value: Any) -> Callable[[int, int], list[Any]]:
    """Return a function that gives a collection's items from one place to another, with both keys and values."""
    if isinstance(value, (list, tuple)):
        return lambda begin, end: list(value[begin:end])
    is_dict = isinstance(value, dict)
    place, upcoming = 0, iter(value)

    def items(begin: int, end: int) -> list[Any]:
        nonlocal place, upcoming
        if begin != place:
            upcoming = islice(dict.items(value) if is_dict else value, begin, None)
        place = end
        found = islice(upcoming, end - begin)
        return list(chain.from_iterable(found)) if is_dict else list(found)

    if is_dict:
        upcoming = iter(dict.items(value))
    return items


def _digest(items: list[Any], is_plain: bool) -> Any:
    if is_plain:
        try:
            return hash(marshal.dumps(items, 2))
        except ValueError:
            pass  # something among them is not plain
    return hash(tuple(_deep(item, _DEPTH) for item in items))


def _plain_values(items: Sequence[Any]) -> int | None:
    """Return the number of values if all items are plain and short, or collections of such; else None.

    Copying large items would take long.
    """
    found = 0
    for item in items:
        inside: int | None = 1
        if isinstance(item, (list, tuple, dict)):
            if len(item) > _WIDTH:
                return None
            inside = _plain_values([*item.keys(), *item.values()] if isinstance(item, dict) else item)
        elif type(item) not in PLAIN or (type(item) in (str, bytes) and len(item) > _LONG_TEXT):
            return None
        if inside is None:
            return None
        found += inside
        if found > _VALUES_IN_AN_ITEM * _PLAIN_ITEMS:
            break
    return found


def _deep(value: Any, depth: int) -> Any:
    """Return a substitute for an item of a large collection, with the values that are reached in a few steps."""
    kind = type(value)
    if kind in PLAIN or not depth:
        return brief(value)
    if isinstance(value, torch.Tensor):
        return id(value), _version(value), _few_bytes(value)
    if isinstance(value, np.ndarray):
        return id(value), _few_bytes(value)
    if isinstance(value, (list, tuple)):
        return len(value), tuple([_deep(item, depth - 1) for item in value[:_WIDTH]])
    if isinstance(value, dict):
        pairs = islice(dict.items(value), _WIDTH)
        return len(value), tuple([(brief(key), _deep(item, depth - 1)) for key, item in pairs])
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict:
        inside = [(name, _deep(item, depth - 1)) for name, item in islice(attributes.items(), _WIDTH)]
        return id(kind), tuple(inside)
    names = getattr(kind, "__slots__", ())
    if names and isinstance(names, (tuple, list)):
        return id(kind), tuple([_deep(getattr(value, name, None), depth - 1) for name in names[:_WIDTH]])
    return id(value)


def _few_bytes(value: Any) -> Any:
    array = array_of(value)
    return None if array is None or not array.size else array_probes(array)


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
