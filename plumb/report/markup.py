"""HTML and SVG elements as values: whatever is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Union

_VOID = {"meta", "link", "br"}
Content = Union[str, "Markup", None]


class Markup(str):
    """Text that is HTML, and safe to put into HTML."""

    __slots__ = ()


def tag(name: str, /, *content: Content, **attributes: str | float | None) -> Markup:
    """An element. An attribute's `_` stands for `-`, one at its end for nothing; None is left out.

    >>> tag("b", "a < b", class_="x")
    '<b class="x">a &lt; b</b>'
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>" if name in _VOID else f"<{name}{given}>{join(content)}</{name}>")


def join(parts: Iterable[Content]) -> Markup:
    """The parts one after another; None is nothing."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts if part is not None))


def _text(value: str | float) -> str:
    """Coordinates with two decimals: more of them show nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
