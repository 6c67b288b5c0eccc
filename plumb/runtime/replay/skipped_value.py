"""Placeholder for the result of a skipped call. It may be passed on, and be a receiver; any other use raises."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any


class SkippedUsed(BaseException):
    """A skipped value was used. As a BaseException it passes the user's own handlers."""


def _refuse(*given: Any, **_: Any) -> Any:
    for value in given[:1]:
        if type(value) is SkippedValue:
            object.__getattribute__(value, "_note_use")()
    raise SkippedUsed


def _method(value: SkippedValue, name: str) -> SkippedValue:
    """Return the skipped value itself for its method, which may be called where that call is skipped as well."""
    return value if name in object.__getattribute__(value, "_methods") else _refuse(value)


LOOKED_UP_ON_TYPES = (
    *("setattr", "delattr", "dir", "repr", "str", "format", "bytes", "hash", "sizeof"),
    *("bool", "len", "length_hint", "iter", "next", "reversed", "contains", "getitem", "setitem", "delitem", "call"),
    *("eq", "ne", "lt", "le", "gt", "ge", "int", "float", "complex", "index", "round", "trunc", "floor", "ceil"),
    *("neg", "pos", "abs", "invert", "enter", "exit", "await", "aiter", "anext", "fspath", "buffer"),
    *("copy", "deepcopy", "reduce", "reduce_ex", "getstate", "torch_function", "array_ufunc", "array_function"),
    *(
        prefix + name
        for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul")
        for prefix in ("", "r", "i")
    ),
    *(prefix + name for name in ("and", "or", "xor", "lshift", "rshift") for prefix in ("", "r", "i")),
)
"""Special methods that Python, numpy and torch look up on the type, past `__getattribute__`."""


class SkippedValue:
    """Value without attributes except `methods`: any other use is recorded and raises SkippedUsed."""

    __slots__ = ("_methods", "_note_use")

    def __init__(self, methods: Collection[str], note_use: Callable[[], None]) -> None:
        object.__setattr__(self, "_methods", methods)
        object.__setattr__(self, "_note_use", note_use)

    # numpy reads these from the type; without them it would treat the value as an object array
    __array__ = __array_interface__ = __array_struct__ = property(_refuse)

    __getattribute__ = _method


for _name in LOOKED_UP_ON_TYPES:
    setattr(SkippedValue, f"__{_name}__", _refuse)
