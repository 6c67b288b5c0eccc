"""Digest of what functions do: their instructions, names and constants, and those of the functions nested in them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

from plumb.instrument.ast_sites import function_id


def code_digest(functions: Iterable[FunctionType]) -> str:
    """Return a digest of the functions' code that depends neither on their order nor on where their files lie."""
    described = {repr((function_id(function), _described(function.__code__))) for function in functions}
    return hashlib.blake2b("".join(sorted(described)).encode(), digest_size=16).hexdigest()


def _described(code: CodeType) -> tuple[Any, ...]:
    constants = tuple(_described(const) if isinstance(const, CodeType) else _plain(const) for const in code.co_consts)
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants


def _plain(constant: Any) -> str:
    """Return a constant's text; sets are sorted, because their order differs between processes."""
    return repr(sorted(map(repr, constant))) if isinstance(constant, frozenset) else repr(constant)
