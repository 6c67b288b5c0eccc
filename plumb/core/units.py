"""Sizes, rates and times: parsed from a command line, and formatted for people."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any

_BINARY = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_MOST_BYTES = 2**60
# A bare letter is binary, as in docker, ulimit and SLURM.
_LETTERS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_BYTES_PER_UNIT = {name.lower(): size for name, size in (_BINARY | _DECIMAL | _LETTERS).items()}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `8GiB`, `512MB`, `1.5 G` or `1048576B`; parts of a byte are dropped.

    `GiB` and `G` are 2**30 bytes, `GB` is 10**9. Raises ValueError with a one-line message, also for a number without a
    unit, except 0.

    >>> parse_size("8GiB") == 8 * 2**30
    True
    >>> parse_size("512MB")
    512000000
    """
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _BYTES_PER_UNIT:
        raise ValueError(f"{text!r} is not a size: write it like 8GiB, 512MB or 1048576B")
    size = int(Decimal(match[1]) * _BYTES_PER_UNIT[match[2].lower()])
    if not match[2] and size:
        raise ValueError(f"{text.strip()} has no unit: write {match[1]}GiB, {match[1]}MiB or {match[1]}B")
    if size > _MOST_BYTES:
        raise ValueError(f"{text.strip()} is more than any host has: write a size up to 1048576TiB")
    return size


def is_number(given: Any) -> bool:
    """Return whether something that a user passed is a real number, of Python or NumPy; truth values are none."""
    return isinstance(given, Real) and not isinstance(given, bool)


def format_bytes(size: float) -> str:
    """Format a number of bytes in a suitable binary unit, to three digits; infinity is 'no limit known'.

    >>> format_bytes(1.5 * 2**30)
    '1.5 GiB'
    """
    if math.isinf(size):
        return "no limit known"
    for name, unit in _BINARY.items():
        value = size / unit
        if value < 1023.5 or name == "TiB":
            break
    return f"{_three_digits(value)} {name}"


def format_rate(samples_per_second: float) -> str:
    """Format a throughput, to three digits or whole samples.

    >>> format_rate(1165.2)
    '1,165 samples/s'
    """
    return f"{_three_digits(samples_per_second)} samples/s"


def format_pairs(count: int) -> str:
    """Format a number of pairs of measured windows.

    >>> format_pairs(1)
    '1 pair of measurements'
    """
    return f"{count} pair{'' if count == 1 else 's'} of measurements"


def format_seconds(seconds: float) -> str:
    """Format a time in a suitable unit, to three digits, from nanoseconds to hours.

    >>> format_seconds(0.00217)
    '2.17 ms'
    >>> format_seconds(125)
    '2 min 5 s'
    """
    for unit, name in ((1e-9, "ns"), (1e-6, "µs"), (1e-3, "ms"), (1.0, "s")):
        if seconds < 999.5 * unit and not (name == "s" and seconds >= 59.95):
            return f"{_three_digits(seconds / unit)} {name}"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _three_digits(value: float) -> str:
    """Format a number for people: three significant digits below 1,000, whole numbers above, no trailing zeros."""
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
