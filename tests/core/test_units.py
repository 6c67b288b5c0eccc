import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumb.core.units import format_bytes, format_rate, format_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8GiB", 8 * 2**30),
        ("10MiB", 10 * 2**20),
        ("512MB", 512 * 10**6),
        ("1.5 GiB", 3 * 2**29),
        (" 4g ", 4 * 2**30),
        ("2T", 2 * 2**40),
        ("64kib", 2**16),
        ("1048576B", 2**20),
        ("7 B", 7),
        ("0", 0),
    ],
)
def test_a_size_in_any_usual_spelling(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1GiB", "8 gigs", "1e9", "nan", "inf", "1.GiB", "8Gi B", "٣GiB", "8\nx"])
def test_what_is_not_a_size_gets_one_line_that_says_how_to_write_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size: write it like 8GiB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["64", "1048576", " 8 ", "1.5"])
def test_a_number_without_a_unit_is_refused_and_told_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"has no unit: write [0-9.]+GiB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


def test_a_size_that_no_host_has_is_refused() -> None:
    with pytest.raises(ValueError, match="more than any host has"):
        parse_size(f"{10**300}GiB")


@given(st.integers(0, 2**60))
def test_a_formatted_size_reads_back_to_three_digits(size: int) -> None:
    assert parse_size(format_bytes(size).replace(",", "")) == pytest.approx(size, rel=0.006, abs=0.5)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_size(text) >= 0
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1023.9 * 2**10, "1 MiB"),
        (8 * 2**30, "8 GiB"),
        (23.54 * 2**30, "23.5 GiB"),
        (5000 * 2**40, "5,000 TiB"),
        (math.inf, "no limit known"),
    ],
)
def test_format_bytes(size: float, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 samples/s"),
        (0.0421, "0.0421 samples/s"),
        (9.302, "9.3 samples/s"),
        (843.4, "843 samples/s"),
        (17206, "17,206 samples/s"),
    ],
)
def test_format_rate(rate: float, text: str) -> None:
    assert format_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ns"),
        (1e-5, "10 µs"),
        (0.00217, "2.17 ms"),
        (0.9996, "1 s"),
        (23.44, "23.4 s"),
        (59.99, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3600, "1 h 0 min"),
    ],
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
