"""`plumb help` explains every word of a report, in the words of docs/glossary.md."""

from pathlib import Path

import pytest

from plumb.core.config import CacheChoice, Config
from plumb.report.glossary import WORDS, explained
from plumb.report.wording import short


def test_the_page_has_the_same_meanings():
    page = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
    section = page.partition("## Words of reports")[2].partition("\n## ")[0]
    rows = [tuple(line.strip("| ").split(" | ")) for line in section.splitlines() if line.startswith("| ")]
    assert dict(rows[1:]) == WORDS


def test_each_part_of_a_configuration_is_explained():
    store = CacheChoice("decode", "memory", 1, 1.0)
    full = Config(2, 4, True, True, 8, 2, False, True, store, ("normalize",), start_method="spawn")
    assert [part for part in short(full).split(", ") if not explained(part)] == []
    assert list(explained("no workers")) == ["no workers", "workers"]


@pytest.mark.parametrize(
    ("question", "term"),
    [
        ("PREFETCH", "prefetch"),
        ("it waits for data 41% of its time", "waits for data"),
        ("worker", "workers"),
        ("in turns with yours", "in turns"),
        ("presistent", "persistent"),
    ],
)
def test_words_are_found_as_they_stand_in_a_report(question, term):
    assert term in explained(question)


def test_the_command(plumb):
    asked = plumb("help", "pinned")
    assert (asked.code, asked.err) == (0, "")
    assert "pin_memory=True" in asked.out
    every = plumb("help")
    assert all(term in " ".join(every.out.split()) for term in WORDS if len(term) < 20)
    assert plumb("help", "tune").out == plumb("tune", "--help").out
    unknown = plumb("help", "xylophone")
    assert (unknown.code, len(unknown.err.splitlines())) == (2, 1)
