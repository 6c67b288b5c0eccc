"""A digest of code: the same in each run of one Python version, another where what the code does was changed."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from plumb.runtime.held import closed_over, named_globals
from plumb.trace.expand import is_user_class, is_user_code
from plumb.trace.sites import function_id

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


def code_digest(around: Iterable[FunctionType], inside: Iterable[FunctionType]) -> str:
    """The digest of functions that lead to a cut, by themselves, and of those that are not run where it is known.

    The latter are followed to all that the user's code in them names: functions, classes, and constants.
    """
    content = hashlib.blake2b(digest_size=16)
    for text in sorted({*map(_text, around), *_followed(inside)}):
        content.update(text.encode())
        content.update(b"\0")
    return content.hexdigest()


def _followed(functions: Iterable[FunctionType]) -> Iterator[str]:
    pending: list[Any] = list(functions)
    seen: set[int] = set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, FunctionType):
            yield _text(value)
            if is_user_code(value):
                pending += [*closed_over(value), *named_globals(value), getattr(value, "__wrapped__", None)]
        elif isinstance(value, functools.partial):
            yield f"{_plain(value.args)} {_plain(sorted(value.keywords.items()))}"
            pending += [value.func, *value.args, *value.keywords.values()]
        elif isinstance(value, (MethodType, staticmethod, classmethod)):
            pending.append(value.__func__)
        elif isinstance(value, property):
            pending.append(value.fget)
        elif isinstance(value, type) and is_user_class(value):
            pending += [*vars(value).values(), *value.__bases__]


def _text(function: FunctionType) -> str:
    """A function's name, instructions and names, and the plain values that it closes over, defaults to or reads."""
    names = [name for name in function.__code__.co_names if name in function.__globals__]
    read = [(name, _plain(function.__globals__[name])) for name in names] if is_user_code(function) else []
    values = [*closed_over(function), function.__defaults__, sorted((function.__kwdefaults__ or {}).items())]
    return f"{function_id(function)} {_code_text(function.__code__)} {read} {[_plain(value) for value in values]}"


def _code_text(code: CodeType) -> str:
    constants = [_code_text(item) if isinstance(item, CodeType) else _plain(item) for item in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}"


def _plain(value: Any) -> str:
    """A value as text, of which only what is the same in every run is shown."""
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_plain, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_plain, value))}]"
    return type(value).__name__
