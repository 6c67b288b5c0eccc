"""Fingerprint of the values at a cut: runs with the same fingerprint may share a store."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from dataclasses import astuple
from types import FunctionType
from typing import Any

from plumb.core.config import Cut
from plumb.core.sized import length_of
from plumb.instrument.content_digest import Content, code_of, digest_of_part
from plumb.instrument.dataset_facts import facts_of

# Increased when the stored form of values changes.
_FORMAT = 1
_LIBRARIES = ("numpy", "torch", "PIL")


def fingerprint(dataset: Any, cut: Cut, functions: Iterable[FunctionType]) -> str:
    """Return the digest, in hexadecimal, of everything known to determine a dataset's values at a cut.

    It covers the versions of Python and of libraries, the dataset's type, length, code and state, and the code of the
    `functions` that lead to the cut, with the user's code and values to which these refer. If a part can't be digested,
    such as an object that can't be pickled, every call returns another fingerprint, so that one run's store is never
    used by another.
    """
    return Content().digest(_all_of(dataset, cut, functions)).hex()


def fingerprint_of_part(dataset: Any, cut: Cut) -> tuple[str, bool]:
    """Return such a digest in bounded time, and whether it leaves out a part of the dataset.

    It is for one process, which compares its own values only. If nothing is left out, it is the whole digest.
    """
    digest, is_partial = digest_of_part(_all_of(dataset, cut, ()))
    return digest.hex(), is_partial


def _all_of(dataset: Any, cut: Cut, functions: Iterable[FunctionType]) -> Any:
    libraries = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    torch = sys.modules.get("torch")
    number_format = None if torch is None else str(torch.get_default_dtype())
    ordered = sorted(functions, key=lambda function: (function.__module__ or "", function.__qualname__))
    return (
        (_FORMAT, platform.python_implementation(), sys.version, platform.machine(), libraries, number_format),
        (cut.way, cut.feeds),
        # Also what code reads of other modules.
        astuple(facts_of({"dataset": dataset})),
        [(function.__qualname__, code_of(function)) for function in ordered],
        (type(dataset), length_of(dataset), dataset),
    )
