"""`plumb help`: explains the words of reports."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from plumb.core.errors import CommandError
from plumb.report.glossary import WORDS, explained
from plumb.report.output import console


def explain(words: list[str]) -> None:
    """Print the meaning of words of a report, or of all without any. Raise CommandError if there is none."""
    question = " ".join(words)
    found = explained(question) if words else WORDS
    if not found:
        raise CommandError(f"no report has the words {question!r}; plumb help lists those that are explained", 2)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    table.add_column(overflow="fold", style="bold", max_width=24)
    table.add_column(overflow="fold")
    for term, meaning in found.items():
        table.add_row(Text(term), Text(meaning))
    console().print(table)
