"""Kinds of values in a check for changes: collections, arrays, code, and objects, the user's or a library's."""

from __future__ import annotations

import argparse
import array
import ctypes
import enum
import functools
import mmap
import queue
import random
import sys
import threading
import types
from collections import UserDict, UserList, deque
from typing import Any

import numpy as np
import torch

from plumb.instrument.byte_windows import PLAIN
from plumb.instrument.callee import STANDARD_FOLDERS, is_dataset, is_step, is_user_class
from plumb.instrument.hidden_progress import has_hidden_progress
from plumb.instrument.rng_state import GENERATOR_CLASSES
from plumb.instrument.torch_loader import DataLoader


class ValueKind(enum.Enum):
    """Kind of a value in a check for changes."""

    OPAQUE = enum.auto()
    """Its parts are not checked: files, locks, threads, modules."""
    LIST = enum.auto()
    DICT = enum.auto()
    SET = enum.auto()
    ARRAY = enum.auto()
    CLASS = enum.auto()
    FUNCTION = enum.auto()
    WRAPPED = enum.auto()
    """Refers to a function or to values, without state of its own: methods, partial functions, caches of functions."""
    GENERATOR = enum.auto()
    PROGRESS = enum.auto()
    """A standard object that goes on with each use, and keeps its state to itself: iterators, running digests."""
    OBJECT = enum.auto()
    """An object with the user's code only: the attributes that this code reads are checked."""
    STEP = enum.auto()
    """A library's dataset or transform, or a user's object that inherits from one: all of it is checked."""
    PASSED = enum.auto()
    """Any other object of a library: its parts are checked, but not its own counters and caches."""


# A `threading.local` shows what belongs to the present thread.
_NAMESPACES = (argparse.Namespace, types.SimpleNamespace, threading.local)
_WRAPPED = (types.MethodType, types.BuiltinFunctionType, functools.partial, functools.partialmethod, staticmethod,
            classmethod, property, functools.cached_property, type(functools.lru_cache(len)), types.MappingProxyType,
            queue.Queue)  # fmt: skip
_BUFFERS = (np.ndarray, torch.Tensor, bytearray, memoryview, array.array, mmap.mmap, ctypes._SimpleCData, ctypes.Array,
            ctypes.Structure)  # fmt: skip
# Bases without state: a class with no other bases has only the user's code.
_STATELESS_BASES = frozenset(("object", "Dataset", "IterableDataset", "Generic", "ABC", "Protocol", "Sampler", "Enum"))
_THEIR_PACKAGES = frozenset(("builtins", "typing", "abc", "enum", "torch", "torchdata"))
_known: dict[type, tuple[ValueKind, bool]] = {}


def kind_of(value: Any) -> ValueKind:
    """Return the kind of `value`."""
    return _told(value)[0]


def is_all_users(value: Any) -> bool:
    """Return whether only the user's code may read the attributes of an object, by its names for them."""
    return _told(value)[1]


def is_transform(value: Any) -> bool:
    """Return whether a value is a library's transform, which stores values that it has drawn for a sample.

    A module's buffers are lasting state, and so are the attributes of a library's datasets.
    """
    if kind_of(value) is not ValueKind.STEP or isinstance(value, torch.nn.Module):
        return False
    return not is_dataset(value) and not any(map(is_user_class, type(value).__mro__))


def _told(value: Any) -> tuple[ValueKind, bool]:
    kind = type(value)
    found = _known.get(kind)
    if found is None:
        found = _kind(value, kind), _has_no_other_code(kind)
        if len(_known) < 10_000:
            _known[kind] = found
    return found


def _kind(value: Any, kind: type) -> ValueKind:
    """Return the kind of values of a class; `value` is one of them."""
    if kind in PLAIN or issubclass(kind, (types.ModuleType, types.CodeType, np.generic, np.dtype, range, slice)):
        return ValueKind.OPAQUE
    if issubclass(kind, _BUFFERS):
        return ValueKind.ARRAY
    if issubclass(kind, type):
        return ValueKind.CLASS
    if issubclass(kind, types.FunctionType):
        return ValueKind.FUNCTION
    if issubclass(kind, _WRAPPED):
        return ValueKind.WRAPPED
    if _is_generator(value, kind):
        return ValueKind.GENERATOR
    for collection, found in (
        ((list, tuple, deque), ValueKind.LIST),
        (dict, ValueKind.DICT),
        ((set, frozenset), ValueKind.SET),
    ):
        if issubclass(kind, collection):
            return found
    if issubclass(kind, DataLoader):
        return ValueKind.OPAQUE
    if has_hidden_progress(kind):
        return ValueKind.PROGRESS
    if issubclass(kind, _NAMESPACES) or any(map(is_user_class, kind.__mro__)):
        return ValueKind.OBJECT if _has_no_other_code(kind) else ValueKind.STEP
    if is_dataset(value) or issubclass(kind, (UserDict, UserList)):
        return ValueKind.STEP
    if _is_standard(kind):
        return ValueKind.WRAPPED if kind.__module__ == "multiprocessing.sharedctypes" else ValueKind.OPAQUE
    return ValueKind.STEP if is_step(value) else ValueKind.PASSED


def _has_no_other_code(kind: type) -> bool:
    return issubclass(kind, _NAMESPACES) or all(
        is_user_class(base)
        or (base.__name__ in _STATELESS_BASES and base.__module__.partition(".")[0] in _THEIR_PACKAGES)
        for base in kind.__mro__
    )


def _is_generator(value: Any, kind: type) -> bool:
    named = kind.__name__ in GENERATOR_CLASSES
    return issubclass(kind, random.Random) or (
        named and (hasattr(value, "bit_generator") or hasattr(value, "set_state"))
    )


def _is_standard(kind: type) -> bool:
    if kind.__module__ in sys.stdlib_module_names or kind.__module__ == "builtins":
        return True
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return isinstance(file, str) and file.startswith(STANDARD_FOLDERS) and "-packages" not in file
