"""`plumb.operator`: facts about a function that a trace can't find out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

_HINT = "_plumb_operator"


@dataclass(frozen=True)
class Hint:
    """Known facts about an operator: its name, and whether its output depends only on its input (None if unknown)."""

    name: str | None = None
    deterministic: bool | None = None


@overload
def operator(function: F, /) -> F: ...


@overload
def operator(*, deterministic: bool | None = None, name: str | None = None) -> Callable[[F], F]: ...


def operator(
    function: F | None = None, /, *, deterministic: bool | None = None, name: str | None = None
) -> F | Callable[[F], F]:
    """Mark a function or method: a call of it is one operator, including all calls inside.

    The function is unchanged, and the mark costs nothing at run time.

    Args:
        function: The function or method; None if only settings are given, as in `@plumb.operator(name="decode")`.
        deterministic: False if neither its output nor values made from it may ever be stored. True is used only if
            plumb can't compare the function's results: if the function is seen to draw random numbers, or to return a
            different result the second time, that takes precedence. None if unknown.
        name: Name in the graph; None for the function's own.

    Returns:
        The function itself; a decorator if only settings are given.

    Raises:
        TypeError: `function` is no Python function.

    >>> import plumb, torch
    >>> @plumb.operator(name="denoise")
    ... def clean(sample):
    ...     return torch.fft.irfft(torch.fft.rfft(sample) * 0.5, n=len(sample))
    >>> class Waves(torch.utils.data.Dataset):
    ...     def __len__(self):
    ...         return 64
    ...     def __getitem__(self, index):
    ...         return clean(torch.arange(50_000) * float(index))
    >>> "denoise" in plumb.trace(Waves()).graph
    True
    """
    if function is None:
        return lambda marked: operator_with(marked, Hint(name, deterministic))
    return operator_with(function, Hint())


def operator_with(function: F, hint: Hint) -> F:
    """Set the hint on a function and return the function itself."""
    if not hasattr(function, "__code__"):
        raise TypeError(f"plumb.operator goes on a function or a method, not on {function!r}")
    setattr(function, _HINT, hint)
    return function


def hint_of(function: Any) -> Hint | None:
    """Return the hint on a function, or None."""
    found = getattr(function, "__dict__", {}).get(_HINT)
    return found if isinstance(found, Hint) else None
