from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config import units


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("65536", 65536),
        ("7B", 7),
        ("256KiB", 256 << 10),
        ("256 kib", 256 << 10),
        (" 1MiB ", 1 << 20),
        ("1.5GiB", 3 << 29),
        ("1KB", 1000),
        ("1kB", 1000),
        ("2MB", 2_000_000),
        ("3GB", 3_000_000_000),
    ],
)
def test_sizes_are_parsed_with_their_units(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "K", "1K", "1M", "1 TiB", "-1", "+1", "1e3", "1_000", "0x10", "1.", ".5KiB", "1.5",
     "1.1KiB", "1  KiB", "KiB1", "1KiBs", "٣", "1" * 13, "nan", "1s"],
)  # fmt: skip
def test_text_that_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'") as caught:
        units.parse_size(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("20", 20.0),
        ("0.5", 0.5),
        ("30s", 30.0),
        ("30 s", 30.0),
        ("100ms", 0.1),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
    ],
)
def test_times_are_parsed_with_their_units(text: str, seconds: float) -> None:
    assert units.parse_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "soon", "-1", "inf", "nan", "1e3", "5M", "5 S", "1y", "1m30s", "1KiB", "²s"]
)
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time; write a number of seconds"):
        units.parse_time(text)


@given(st.integers(0, 1 << 39))
def test_a_shown_size_is_read_as_the_same(size: int) -> None:
    assert units.parse_size(units.show_size(size)) == size


@given(st.integers(0, 10**9), st.integers(0, 10**6))
def test_a_shown_time_is_read_as_the_same(seconds: int, millionths: int) -> None:
    time = seconds + millionths / 10**6
    assert units.parse_time(units.show_time(time)) == pytest.approx(time, abs=1e-9)


def test_sizes_and_times_are_shown_in_their_largest_whole_unit() -> None:
    assert [units.show_size(size) for size in (0, 1, 1024, 1000, 1 << 20, 3 << 30, 1025)] == [
        "0", "1", "1KiB", "1000", "1MiB", "3GiB", "1025"
    ]  # fmt: skip
    assert [units.show_time(time) for time in (0.0, 20.0, 0.1, 120.5)] == [
        "0s", "20s", "0.1s", "120.5s"
    ]  # fmt: skip


@given(st.text())
def test_any_text_is_parsed_as_a_size_or_time_or_refused(text: str) -> None:
    for parse in (units.parse_size, units.parse_time):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "write" in str(error) or "whole" in str(error)
