"""Digest of any object: its values, classes and functions, and what they refer to; equal in equal processes."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import secrets
import sys
import types
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from plumb.core.errors import PlumbError
from plumb.instrument.byte_code import names_in, package_version
from plumb.instrument.callee import is_user_class, is_user_code
from plumb.instrument.values import attribute, is_lazy_image
from plumb.instrument.values import digest as digest_of_value

_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict))
_SCALARS = frozenset((type(None), bool, int, float, complex))
_TEXTS = frozenset((str, bytes, bytearray))
_FLAT = _SCALARS | {str, bytes}
# Smaller collections are digested item by item; larger ones of plain values only, up to the second number at once.
_FEW, _MOST_FLAT = 1000, 1_000_000
# A partial digest covers this many values, and this many blocks of larger arrays and texts.
_MOST_OBJECTS, _FEW_OBJECTS = 50_000, 10_000
_LARGE_BYTES, _BLOCKS = 2**22, 64
_LARGE_FLAT_BYTES = 2**26
_LOCKS = frozenset(("_thread.lock", "_thread.RLock", "_thread._localdummy"))
# Metadata of a class that doesn't influence its behaviour.
_NOT_CONTENT = frozenset(
    ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__annotate__", "__annotate_func__",
     "__annotations_cache__", "__abstractmethods__", "_abc_impl", "__orig_bases__", "__parameters__", "__type_params__",
     "__firstlineno__", "__slotnames__", "__static_attributes__", "__dataclass_fields__", "__dataclass_params__",
     "__match_args__")
)  # fmt: skip
_DIGEST_BYTES = 20


class Content:
    """Digester of objects. A part that can't be digested counts as new, so that two digests always differ.

    Sets are compared without their order, dictionaries with it. An object that was met before is represented by its
    number. User code is compared by its byte code, libraries by their versions.

    With `most_items`, only this many items of a larger collection are digested, evenly spread, and some blocks of large
    arrays and texts; `is_partial` is then true if anything was left out, and `objects` counts the digested objects.
    """

    def __init__(self, most_items: int | None = None) -> None:
        self._met: dict[int, tuple[int, Any]] = {}
        self._nonce = secrets.token_bytes(16)
        self._most_items = most_items
        self.is_partial = False
        self.objects = 0

    def digest(self, value: Any, most_objects: int = _MOST_OBJECTS) -> bytes:
        """Return the digest of a value.

        Raises TooMuchError if it has more than `most_objects` objects and `most_items` is limited.
        """
        stream = _Stream()
        pickler = _DigestPickler(stream, self, most_objects if self._most_items else None)
        try:
            pickler.dump(value)
        except TooMuchError:
            raise
        except Exception:
            # For example because of cyclic lists.
            stream.write(self._nonce)
        return stream.digest()

    def collected(self, value: Any) -> Any:
        """Return a substitute for a large plain collection or text; None for one that is digested item by item."""
        most, kind = self._most_items, type(value)
        if kind in _SCALARS:
            return None
        length, few = len(value), _FEW if most is None else min(_FEW, most)
        if kind in _TEXTS:
            return self._text_part(value, length) if most is not None and length > _LARGE_BYTES else None
        if length <= few:
            return None
        if _is_flat(value, None if most is None else _MOST_FLAT):
            return "flat", kind.__name__, length, _digest_at_once(value)
        if most is None or length <= most:
            return None
        self.is_partial = True
        step = -(-length // most)
        items = list(itertools.islice(value.items(), 0, None, step)) if kind is dict else [*value[::step], value[-1]]
        return "part", kind.__name__, length, items

    def _text_part(self, value: Any, length: int) -> Any:
        self.is_partial = True
        block, step = _LARGE_BYTES // _BLOCKS, length // _BLOCKS
        return "part", type(value).__name__, length, [value[start : start + block] for start in range(0, length, step)]

    def substitute_of(self, value: Any) -> Any:
        """Return a substitute for a value that is not plain: a tuple of its parts, which are digested in turn."""
        if id(value) in self._met:
            return "again", self._met[id(value)][0]
        self._met[id(value)] = len(self._met), value
        return self._substitute_of(value)

    def _substitute_of(self, value: Any) -> Any:
        kind = type(value)
        if kind in (set, frozenset):
            return self._set(value)
        if isinstance(value, types.CodeType):
            return "code", *_code(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return "method", value.__func__, value.__self__
        if isinstance(value, types.ModuleType):
            return "module", value.__name__, _version(value.__name__)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, (staticmethod, classmethod)):
            return kind.__name__, value.__func__
        if isinstance(value, property):
            return "property", value.fget
        if f"{kind.__module__}.{kind.__qualname__}" in _LOCKS:
            return (kind.__qualname__,)
        return self._array(value) or self._object(value)

    def _set(self, value: Any) -> Any:
        kind, most = type(value), self._most_items
        if most is not None and len(value) > most:
            self.is_partial = True
            # Uses the items' hashes, which differ between processes, so this is only for comparisons within one
            # process.
            return kind.__name__, len(value), hash(frozenset(value))
        return kind.__name__, sorted(Content.digest(Content(), item) for item in value)

    def _function(self, function: types.FunctionType) -> Any:
        name = function.__module__, function.__qualname__
        if not is_user_code(function):
            return "library", *name, _version(function.__module__)
        return "function", *name, *code_of(function)

    def _class(self, kind: type) -> Any:
        name = kind.__module__, kind.__qualname__
        if not is_user_class(kind):
            return "library", *name, _version(kind.__module__)
        return (
            "class",
            *name,
            kind.__bases__,
            sorted((name, member) for name, member in vars(kind).items() if name not in _NOT_CONTENT),
        )

    def _array(self, value: Any) -> Any:
        kind, numpy = type(value), sys.modules.get("numpy")
        if numpy is not None and kind is numpy.memmap and value.filename is not None:
            return "memmap", repr(value.dtype), value.shape, value.strides, value.offset, _file(str(value.filename))
        if numpy is not None and (kind is numpy.ndarray or isinstance(value, numpy.generic)):
            if value.dtype.hasobject:
                return "array", repr(value.dtype), value.shape, value.ravel().tolist()
            if self._most_items is not None and value.nbytes > _LARGE_BYTES:
                self.is_partial = True
                return "array", repr(value.dtype), value.shape, digest_of_value(value, large_by_blocks=True)
            whole = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8)
            return "array", repr(value.dtype), value.shape, hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).digest()
        if is_lazy_image(value):
            return self._unpicklable(value)
        known = kind.__module__.startswith("PIL.") or hasattr(kind, "untyped_storage")
        if not known:
            return None
        is_large = self._most_items is not None and getattr(value, "nbytes", 0) > _LARGE_BYTES
        self.is_partial = self.is_partial or is_large
        content = digest_of_value(value, large_by_blocks=is_large)
        return None if content is None else ("array", kind, content)

    def _object(self, value: Any) -> Any:
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            return self._unpicklable(value)
        if isinstance(reduced, str):
            wrapped = attribute(value, "__wrapped__")
            return "global", type(value), reduced, attribute(value, "__module__"), wrapped
        parts = [list(part) if isinstance(part, Iterator) else part for part in reduced]
        return "object", type(value), *parts

    def _unpicklable(self, value: Any) -> Any:
        for name in ("filename", "name"):
            path = attribute(value, name)
            if isinstance(path, (str, bytes)) and os.path.isfile(path):
                return "open file", type(value), _file(os.fsdecode(path))
        attributes = attribute(value, "__dict__")
        if type(attributes) is dict and is_user_class(type(value)):
            return "object", type(value), attributes
        return "untold", self._nonce


class TooMuchError(PlumbError):
    """A value has more objects than a partial digest may cover."""


class _DigestPickler(pickle.Pickler):
    def __init__(self, stream: _Stream, content: Content, most_objects: int | None) -> None:
        super().__init__(stream, protocol=4)
        # Without its memo, pickle writes equal objects equally, whether they are identical or not.
        self.fast = True
        self._content, self._substitute_of, self._collected = content, content.substitute_of, content.collected
        self._objects_left = most_objects

    def persistent_id(self, value: Any) -> Any:
        """Return the substitute for a value; None for plain ones, which pickle writes unchanged."""
        kind = type(value)
        if self._objects_left is not None:
            self._objects_left -= 1
            self._content.objects += 1
            if self._objects_left < 0:
                raise TooMuchError
        if kind in _PLAIN:
            return self._collected(value)
        return (kind.__name__, str(value)) if issubclass(kind, PurePath) else self._substitute_of(value)


def _is_flat(value: Any, most: int | None) -> bool:
    """Return whether a collection has only plain values or lists of them, at most `most`, and not too large."""
    parts = (value.keys(), value.values()) if type(value) is dict else (value,)
    if any(_is_clearly_not_flat(part, most) for part in parts):
        return False
    for part in parts:
        kinds = set(map(type, part))
        count = len(part)
        if kinds <= {tuple, list}:
            count = sum(map(len, part))
            part = itertools.chain.from_iterable(part)
            if most is not None and count > most // 2:
                return False
            part = list(part)
            kinds = set(map(type, part))
        if not kinds <= _FLAT or (most is not None and count > most):
            return False
        some = list(itertools.islice(part, 0, None, -(-count // _FEW) or 1))
        large = sum(len(item) for item in some if type(item) in _TEXTS) / max(len(some), 1)
        if most is not None and large * count > _LARGE_FLAT_BYTES:
            return False
    return True


def _is_clearly_not_flat(part: Any, most: int | None) -> bool:
    """Return whether the first of many items shows that they are not flat, or are lists with too many items in all."""
    first = type(next(iter(part)))
    return first not in _FLAT and (first not in (list, tuple) or (most is not None and len(part) > most // 2))


def _digest_at_once(value: Any) -> bytes:
    """Return the digest of a collection of plain values, without visiting each."""
    stream = _Stream()
    pickler = pickle.Pickler(stream, protocol=4)
    pickler.fast = True
    pickler.dump(value)
    return stream.digest()


def digest_of_part(value: Any) -> tuple[bytes, bool]:
    """Return a digest of a value in bounded time, and whether it covers only a part of the value.

    If there are many objects, the sizes of two small parts predict how many objects larger parts have.
    """
    found = _part(value, 1000, _FEW_OBJECTS)
    if found is None:
        least, few = (_part(value, most_items, _MOST_OBJECTS) for most_items in (1, 10))
        found = few or least
        if least is not None and few is not None:
            for_an_item = (few[1].objects - least[1].objects) / 9
            for most_items, most_objects in ((1000, _MOST_OBJECTS), (100, 2 * _FEW_OBJECTS)):
                expected = least[1].objects + (most_items - 1) * for_an_item
                larger = _part(value, most_items, most_objects) if expected <= most_objects else None
                if larger is not None:
                    found = larger
                    break
    return (Content(1).digest(type(value)), True) if found is None else (found[0], found[1].is_partial)


def _part(value: Any, most_items: int, most_objects: int) -> tuple[bytes, Content] | None:
    """Return a digest of a part of a value, and its digester; None if the part has too many objects."""
    content = Content(most_items)
    try:
        return content.digest(value, most_objects), content
    except TooMuchError:
        return None


class _Stream:
    """File that computes the digest of what is written to it."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self.digest = self._hash.digest

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)


def code_of(function: types.FunctionType) -> tuple[Any, ...]:
    """Return what determines a function: byte code, defaults, attributes, closure, and the globals that it names."""
    cells = [_cell(cell) for cell in function.__closure__ or ()]
    names = sorted(names_in(function.__code__).module_level & function.__globals__.keys())
    found = {name: function.__globals__[name] for name in names}
    wrapped = getattr(function, "__wrapped__", None)
    attributes = sorted((name, value) for name, value in vars(function).items() if name != "__wrapped__")
    return function.__code__, function.__defaults__, function.__kwdefaults__, cells, found, wrapped, attributes


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return "empty"


def _code(code: types.CodeType) -> tuple[Any, ...]:
    """Return the parts of byte code that have an effect: not its file and lines."""
    arguments = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_name, code.co_code, code.co_consts, *arguments, *names


def _file(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return os.path.abspath(path), status.st_mtime_ns, status.st_size


def _version(module: str | None) -> str | None:
    """Return the version of the package that contains a module; None for the standard library."""
    package = (module or "").partition(".")[0]
    return None if package in sys.stdlib_module_names else package_version(package)
