"""Output of `plumb cache`: the sample stores on this host, and those that were removed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from plumb.core.units import format_bytes, format_seconds
from plumb.runtime.store.catalog import FoundStore

_COLUMNS = ("dataset", "cut", "samples", "size", "tier", "used by", "last use", "folder")


def print_stores(stores: Sequence[FoundStore], now_seconds: float, console: Console) -> None:
    """Print one line per store; lines for files and pipes are never wrapped. `now_seconds` is since the epoch."""
    if not stores:
        console.print("There are no sample stores.")
        return
    rows = [_row(store, now_seconds) for store in stores]
    if not console.is_terminal:
        for row in rows:
            cells = zip(_COLUMNS, row, strict=True)
            console.print("; ".join(f"{name}: {cell}" for name, cell in cells), markup=False, soft_wrap=True)
        return
    table = Table(*_COLUMNS, box=None, header_style="dim", pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)


def print_cleared(removed: Sequence[FoundStore], left: Sequence[FoundStore], console: Console) -> None:
    """Print what was removed, and what could not be."""
    freed = sum(store.used_bytes for store in removed)
    console.print(
        f"Removed {_stores(len(removed))}: {format_bytes(freed)}." if removed else "There was none to remove."
    )
    for store in left:
        users = ", ".join(map(str, store.users))
        text = f"Left {store.folder}: it is in use by {users or 'another process'}."
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _stores(count: int) -> str:
    return "1 store" if count == 1 else f"{count:,} stores"


def _row(store: FoundStore, now_seconds: float) -> tuple[str, ...]:
    facts = store.facts
    return (
        facts.dataset,
        facts.cut,
        "damaged" if store.samples is None else f"{store.samples:,}",
        f"{format_bytes(store.used_bytes)} of {format_bytes(facts.budget_bytes)}",
        facts.tier,
        ", ".join(map(str, store.users)) or "nobody",
        f"{format_seconds(max(1.0, now_seconds - store.last_used_seconds))} ago",
        str(store.folder),
    )
