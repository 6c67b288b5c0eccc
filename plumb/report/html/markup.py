"""HTML and SVG elements as values: text that is not markup is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Union

_VOID = {"meta", "link", "br"}
Content = Union[str, "Markup", None]


class Markup(str):
    """HTML text that needs no escaping."""

    __slots__ = ()


def tag(name: str, /, *content: Content, **attributes: str | float | None) -> Markup:
    """Return an element. In attribute names, `_` becomes `-`, and one at the end is dropped; None omits the attribute.

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
    """Concatenate the parts, escaped if they are no markup; None is skipped."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts if part is not None))


def _text(value: str | float) -> str:
    """Return a value's text, coordinates with two decimals because more would not be visible."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
