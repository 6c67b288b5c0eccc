"""A digest of what functions do: their instructions, names and constants, and those of what is defined in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from plumb.trace.sites import function_id


def code_digest(functions: Iterable[FunctionType]) -> str:
    """A digest of the code of functions, the same whatever their order and wherever their files are."""
    described = {repr((function_id(function), _described(function.__code__))) for function in functions}
    return hashlib.blake2b("".join(sorted(described)).encode(), digest_size=16).hexdigest()


def _described(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(_described(const) if isinstance(const, CodeType) else _plain(const) for const in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _plain(constant: Any) -> str:
    """A constant's text: that of a set doesn't depend on the order in which this process happens to keep it."""
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
