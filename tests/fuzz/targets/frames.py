"""Bytes in place of frames; the first byte of an input chooses the role, compression and
settings.
"""

from __future__ import annotations

from collections.abc import Hashable

from tests.corpus import CASES, UPGRADE, frame
from tests.fuzz.frames import check

BEHIND = [
    case.data[case.data.index(b"\r\n\r\n") + 4 :][:1500]
    for case in CASES
    if case.data.startswith(UPGRADE[:20]) and b"\r\n\r\n" in case.data
]
NO_MASK = bytes(4)
SEEDS = [bytes((i % 16,)) + data for i, data in enumerate(BEHIND)] + [
    bytes((number,)) + data
    for number in range(16)
    for data in (
        frame(0x01, b"h\xc3", NO_MASK) + frame(0x89, b"p", NO_MASK) + frame(0x80, b"\xa9", NO_MASK),
        b"\x81\x05hello\x89\x00\x8a\x00\x02\x01x\x80\x7e\x00\x80" + b"y" * 128,
        frame(0x82, b"x" * 200) + frame(0x88, b"\x03\xe8bye", NO_MASK),
        # Each text is checked from its start, wherever the one before it was cut.
        frame(0x89, b"", NO_MASK) + frame(0x81, b"abcd", NO_MASK) + frame(0x81, b"\xff", NO_MASK),
    )
]
WORDS = [
    frame(head, data, NO_MASK)
    for head in (0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0x41)
    for data in (b"", b"\xc3", b"\x03\xe8", b"x" * 125)
] + [
    b"\x81\x01a",
    b"\x01\x01a",
    b"\x80\x00",
    b"\x89\x00" * 40,
    b"\x82\xfe\xff\xff" + NO_MASK,
    b"\x82\xff" + b"\x7f" + b"\xff" * 7 + NO_MASK,
    b"\xf0\x9f\x98\x80",
]


def run(data: bytes) -> Hashable:
    number = data[0] % 16 if data else 0
    _, _, result = check(number, data[1:])
    return number, result
