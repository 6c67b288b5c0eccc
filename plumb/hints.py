"""`plumb.operator`: what a user knows of a function that samples go through, and a trace can't tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

F = TypeVar("F", bound=Callable[..., Any])

_HINT = "_plumb_operator"


@dataclass(frozen=True)
class Hint:
    """What is known of an operator: its name, and whether its output depends on its input alone; None for unknown."""

    name: str | None = None
    deterministic: bool | None = None


@overload
def operator(function: F, /) -> F: ...


@overload
def operator(*, deterministic: bool | None = None, name: str | None = None) -> Callable[[F], F]: ...


def operator(
    function: F | None = None, /, *, deterministic: bool | None = None, name: str | None = None
) -> F | Callable[[F], F]:
    """Tells plumb that a call of this function or method is one operator, whatever it calls in turn.

    Nothing about the function changes, and it costs nothing when it runs. `name` is what the graph calls it, its own
    name by default. With `deterministic=False`, neither its output nor what is made of it is ever stored.
    `deterministic=True` settles it only where plumb can't compare what the function returns: if it is seen to draw
    random numbers, or to return something else the second time, that is believed instead. Raises TypeError for what is
    no Python function.

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
    """The function itself, with the hint on it."""
    if not hasattr(function, "__code__"):
        raise TypeError(f"plumb.operator goes on a function or a method, not on {function!r}")
    setattr(function, _HINT, hint)
    return function


def hint_of(function: Any) -> Hint | None:
    """The hint on a function, if there is one."""
    found = getattr(function, "__dict__", {}).get(_HINT)
    return found if isinstance(found, Hint) else None
