"""Simple values in words that are equal in another run: flags, numbers, texts, paths, small arrays."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import hashlib
import os
import re
import sys
import time
import types
from pathlib import PurePath
from typing import Any

_DIGEST_BYTES = 8
_LONGEST_WORDS = 64
# Longer texts are data.
_LONGEST_TEXT = 4096
_SMALL_ARRAY = 16
# Names specific to a run: folders of `tempfile`, addresses of objects, and numbers of `uuid`.
_OF_ONE_RUN = (
    re.compile(r"\btmp[a-z0-9_]{8}\b"),
    re.compile(r"\b0x[0-9a-f]{8,16}\b"),
    re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"),
)
_DATE = re.compile(
    r"(?P<year>20\d\d)[-_/.]?(?P<month>\d\d)[-_/.]?(?P<day>\d\d)[-_/T ]?\d\d[-_:h.]?\d\d([-_:m.]?\d\d)?([.,]\d+)?"
)
# A number this close to the present time, in seconds, milliseconds, microseconds or nanoseconds, is the time of this
# run.
_ABOUT_NOW_DAYS = 2
_ABOUT_NOW_SECONDS = _ABOUT_NOW_DAYS * 86_400.0
_TIME_UNITS = (1.0, 1e3, 1e6, 1e9)
_LARGEST_TIME = 1e20
_OF_THE_RUN = "#of this run"
_BY_REPR = (range, slice, type(Ellipsis), type(NotImplemented), decimal.Decimal, fractions.Fraction, datetime.timedelta)
_TIMES = (datetime.date, datetime.time)
_NUMBERS = frozenset((int, float, bool, type(None)))


def in_words(value: Any) -> str | None:
    """Return a simple value in words, None for any other value.

    Texts become digests that begin with `#`, because they may be secrets. Values that differ between any two runs
    become equal: names of temporary folders, addresses, times around now, and the number of this process.
    """
    kind = type(value)
    if value is None or kind is bool:
        return repr(value)
    if issubclass(kind, enum.Enum):
        return f"{kind.__qualname__}.{value._name_}"
    if issubclass(kind, int):
        return _number(int.__repr__(value), int.__index__(value))
    if issubclass(kind, float):
        return _number(float.__repr__(value), float.__add__(value, 0.0))
    if issubclass(kind, (str, bytes)):
        if (str.__len__(value) if issubclass(kind, str) else bytes.__len__(value)) > _LONGEST_TEXT:
            return None
        return _text(str.__str__(value) if issubclass(kind, str) else bytes.hex(value))
    if issubclass(kind, PurePath):
        return _text(PurePath.__str__(value))
    if issubclass(kind, re.Pattern):
        return _text(repr(value.pattern))
    if issubclass(kind, _TIMES):
        return f"#{kind.__name__}" if _is_about_now(value) else f"#{value.isoformat()}"
    if kind is complex or kind in _BY_REPR:
        return _short(repr(value))
    return _of_a_library(kind, value)


def is_plain(value: Any) -> bool:
    """Return whether a value is a number or a short text, for which `in_words` returns words."""
    kind = type(value)
    return kind in _NUMBERS or (kind is str and len(value) <= _LONGEST_TEXT)


def text_digest(text: str) -> str:
    """Return a digest of a text, in words that are no number."""
    return "#" + hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def module_name(name: str | None) -> str:
    """Return a module's name; the main module's is the same in spawned workers."""
    return "__main__" if name == "__mp_main__" else name or "?"


def kind_of(value: Any) -> str:
    """Return the name of a function or class, or of the class of any other object."""
    named = value if isinstance(value, (type, types.FunctionType)) else type(value)
    word = "class " if isinstance(value, type) else "function " if named is value else ""
    return f"{word}{module_name(named.__module__)}.{named.__qualname__}"


def shape_of(value: Any) -> str | None:
    """Return the kind, type and shape of an array, a tensor or an image; None for anything else."""
    numpy, torch, kind = sys.modules.get("numpy"), sys.modules.get("torch"), type(value)
    if (numpy is not None and issubclass(kind, numpy.ndarray)) or (
        torch is not None and issubclass(kind, torch.Tensor)
    ):
        shape = "x".join(map(str, value.shape)) or "scalar"
        return f"{kind.__name__} {str(value.dtype).removeprefix('torch.')} of {shape}"
    if kind.__module__.startswith("PIL.") and hasattr(kind, "getbands"):
        return f"{kind.__name__} {value.mode} of {value.size[0]}x{value.size[1]}"
    return None


def is_small_array(value: Any) -> str | None:
    """Return the content of an array or tensor with few elements, as a digest; None for any other."""
    numpy, torch, kind = sys.modules.get("numpy"), sys.modules.get("torch"), type(value)
    if numpy is not None and kind is numpy.ndarray and value.size <= _SMALL_ARRAY and not value.dtype.hasobject:
        return text_digest(repr(value.tolist()))
    if torch is not None and issubclass(kind, torch.Tensor) and _has_few_elements(value, torch):
        return text_digest(repr(value.tolist()))
    return None


def _has_few_elements(value: Any, torch: Any) -> bool:
    on_this_cpu = value.device.type == "cpu" and value.layout == torch.strided and not value.is_nested
    return on_this_cpu and not value.is_quantized and value.numel() <= _SMALL_ARRAY


def _number(words: str, plain: float) -> str:
    if plain == os.getpid() and type(plain) is int:
        return _OF_THE_RUN
    now = time.time()
    if abs(plain) < _LARGEST_TIME and any(abs(plain / unit - now) < _ABOUT_NOW_SECONDS for unit in _TIME_UNITS):
        return _OF_THE_RUN
    return _short(words)


def _text(text: str) -> str:
    for pattern in _OF_ONE_RUN:
        text = pattern.sub("#", text)
    return text_digest(_DATE.sub(_without_today, text))


def _without_today(match: re.Match[str]) -> str:
    """Return the replacement of a date and time in a text: one mark for all days around today."""
    try:
        day = datetime.date(*(int(match[group]) for group in ("year", "month", "day")))
    except ValueError:
        return match[0]
    return "#now" if abs((datetime.date.today() - day).days) <= _ABOUT_NOW_DAYS else match[0]


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST_WORDS else text_digest(words)


def _is_about_now(value: Any) -> bool:
    if isinstance(value, datetime.time):
        return False
    return abs((datetime.date.today() - datetime.date(value.year, value.month, value.day)).days) <= _ABOUT_NOW_DAYS


def _of_a_library(kind: type, value: Any) -> str | None:
    module = kind.__module__.partition(".")[0]
    if module not in ("numpy", "torch"):
        return None
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and issubclass(kind, numpy.generic):
        item = value.item()
        return text_digest(repr(value)) if isinstance(item, (numpy.generic, tuple)) else in_words(item)
    if numpy is not None and issubclass(kind, numpy.dtype):
        return str(value)
    if torch is not None and isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return str(value)
    return None
