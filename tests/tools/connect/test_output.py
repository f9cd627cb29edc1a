from __future__ import annotations

from wsraw.tools.connect.output import MOST_OF_A_DUMP, dump


def test_few_bytes_are_shown_in_one_line() -> None:
    assert dump(b"") == "binary, 0 bytes"
    assert dump(b"a") == "binary, 1 byte: 61"
    assert dump(b"\x00\xff") == "binary, 2 bytes: 00 ff"


def test_more_bytes_are_shown_in_rows_with_their_characters() -> None:
    data = bytes(range(32)) + b"abc"
    assert dump(data).splitlines() == [
        "binary, 35 bytes",
        "  000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  ................",
        "  000010  10 11 12 13 14 15 16 17 18 19 1a 1b 1c 1d 1e 1f  ................",
        "  000020  61 62 63                                         abc",
    ]


def test_of_many_bytes_the_rest_is_counted() -> None:
    lines = dump(bytes(MOST_OF_A_DUMP + 5)).splitlines()
    assert len(lines) == 1 + MOST_OF_A_DUMP // 16 + 1
    assert lines[-1] == "  (5 bytes more; with --json all are shown)"
