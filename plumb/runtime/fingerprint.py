"""What the values at a cut depend on, in one digest: two runs that agree on it may share a store."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable
from types import FunctionType
from typing import Any

from plumb.config import Cut
from plumb.lengths import length_of
from plumb.runtime.content import Content, code_of

# Raised when values are stored in another form than before.
_FORMAT = 1
_LIBRARIES = ("numpy", "torch", "PIL")


def fingerprint(dataset: Any, cut: Cut, functions: Iterable[FunctionType]) -> str:
    """The digest, in hexadecimal, of all that is known to decide on a dataset's values at a cut.

    That is: the versions of Python and of libraries, the dataset's type, length, code and state, and the code of the
    `functions` that lead to the cut, with whatever of the user's code and values these refer to. Where something can't
    be told, such as an object without a way to pickle it, every call gives another fingerprint: what one run stores is
    never taken for what another needs.
    """
    libraries = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    torch = sys.modules.get("torch")
    number_format = None if torch is None else str(torch.get_default_dtype())
    content = Content()
    ordered = sorted(functions, key=lambda function: (function.__module__ or "", function.__qualname__))
    return content.digest(
        (
            (_FORMAT, platform.python_implementation(), sys.version, platform.machine(), libraries, number_format),
            (cut.way, cut.feeds),
            [(function.__qualname__, code_of(function)) for function in ordered],
            (type(dataset), length_of(dataset), dataset),
        )
    ).hex()
