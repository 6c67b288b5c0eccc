"""What the values at a cut depend on, in one digest: two runs that agree on it may share a store."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from dataclasses import astuple
from types import FunctionType
from typing import Any

from plumb.config import Cut
from plumb.lengths import length_of
from plumb.runtime.content import Content, code_of, digest_of_part
from plumb.runtime.facts import facts_of

# Raised when values are stored in another form than before.
_FORMAT = 1
_LIBRARIES = ("numpy", "torch", "PIL")


def fingerprint(dataset: Any, cut: Cut, functions: Iterable[FunctionType]) -> str:
    """Return the digest, in hexadecimal, of all that is known to decide on a dataset's values at a cut.

    That is: the versions of Python and of libraries, the dataset's type, length, code and state, and the code of the
    `functions` that lead to the cut, with whatever of the user's code and values these refer to. Where something can't
    be told, such as an object without a way to pickle it, every call gives another fingerprint: what one run stores is
    never taken for what another needs.
    """
    return Content().digest(_all_of(dataset, cut, functions)).hex()


def fingerprint_of_part(dataset: Any, cut: Cut) -> tuple[str, bool]:
    """Return such a digest that takes bounded time, and whether it leaves out a part of the dataset.

    It is good for one process, which compares what it has made itself. Where nothing is left out, it is the whole one.
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
