"""Progress of standard objects that keep their state to themselves: iterators, running digests, files in memory."""

from __future__ import annotations

import contextvars
import gc
import io
import itertools
import operator
import sys
import types
from typing import Any

from plumb.instrument.byte_windows import brief

_HASHES = ("_hashlib", "_md5", "_sha1", "_sha2", "_sha256", "_sha512", "_sha3", "_blake2")
_MODULES = frozenset(("builtins", "itertools", "_csv", *_HASHES))
_FILES = (io.BytesIO, io.StringIO)
# Newer Pythons warn when a class of itertools is asked how it would be pickled.
_MAY_ASK_ITERTOOLS = sys.version_info < (3, 12)
_DEEPEST = 4


def has_hidden_progress(kind: type) -> bool:
    """Return whether a class's objects change with use, which no attribute shows; never for the user's classes."""
    if kind in (*_FILES, contextvars.ContextVar):
        return True
    if kind.__module__ not in _MODULES:
        return False
    return hasattr(kind, "__next__") or (hasattr(kind, "digest") and hasattr(kind, "update"))


def is_single_pass(value: Any) -> bool:
    """Return whether what is read from an object can't be read again: it is an iterator of Python's own."""
    return has_hidden_progress(type(value)) and hasattr(type(value), "__next__") and not isinstance(value, _FILES)


def progress_of(value: Any, depth: int = 0) -> Any:
    """Return a summary of how far an object is, to be compared with a later one; reading it changes nothing."""
    if isinstance(value, _FILES):
        return None if value.closed else value.tell()
    if isinstance(value, contextvars.ContextVar):
        return brief(value.get(None))
    if hasattr(value, "digest"):
        return value.digest()
    if isinstance(value, types.GeneratorType):
        frame = value.gi_frame
        # The values of its variables: asked for as a dictionary, they would be kept alive.
        return None if frame is None else (frame.f_lasti, _parts(gc.get_referents(value), depth))
    left = operator.length_hint(value, -1)
    return left, getattr(value, "line_num", None), _state(value, depth)


def _state(value: Any, depth: int) -> Any:
    if isinstance(value, itertools.count):
        return repr(value)
    if type(value).__module__ == "builtins" or (type(value).__module__ == "itertools" and _MAY_ASK_ITERTOOLS):
        try:
            return _parts(value.__reduce__(), depth)
        except Exception:
            pass
    return _parts(gc.get_referents(value), depth)


def _parts(values: Any, depth: int) -> tuple[Any, ...]:
    """Return summaries of what an object refers to, at any depth of tuples."""
    found = []
    for value in values:
        if type(value) is tuple:
            found.append(_parts(value, depth))
        elif depth < _DEEPEST and has_hidden_progress(type(value)):
            found.append(progress_of(value, depth + 1))
        else:
            found.append(brief(value))
    return tuple(found)
