"""Data that is not a record of ours is refused with a reason; records of older versions are
read.
"""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.gateway.frozen.fields import FILE, fields
from wsraw.gateway.frozen.records import (
    FORMAT,
    FrozenError,
    Header,
    IntakeState,
    decode,
    encode,
)

HEADER = Header(FORMAT, "1.0", 3)


def changed(*fields: object, end: int = 4) -> bytes:
    there = msgspec.msgpack.decode(encode(HEADER))
    return msgspec.msgpack.encode([*there[:end], *fields])


def test_a_record_comes_back() -> None:
    assert decode(encode(HEADER)) == HEADER


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"\xc1", "invalid"),
        (b"\x90", "array"),
        (changed("more"), "length 3, got 4"),
        (changed(end=3), "length 4, got 3"),
        (changed("x", end=3), r"Expected `int`, got `str` - at `\$\[3\]`"),
        (msgspec.msgpack.encode(["unknown", 1]), "unknown"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_place(data: bytes, why: str) -> None:
    with pytest.raises(FrozenError, match=f"(?i)of the running gateway: .*{why}"):
        decode(data)


class Longer(IntakeState):
    """The same record in a later version."""

    more: int = 5


def test_a_record_of_an_older_version_is_read_and_one_of_a_newer_is_not() -> None:
    old = IntakeState(b"x", False, 0, False, False, True)
    new = msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=Longer)
    assert (new.unparsed, new.more) == (b"x", 5)
    with pytest.raises(msgspec.ValidationError, match="at most length 6, got 7"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(new), type=IntakeState)


def test_records_have_the_fields_that_they_had_and_perhaps_more() -> None:
    """A record that another version has frozen is read by the positions of its fields."""
    known, now = json.loads(FILE.read_text("utf-8")), fields()
    for name, before in known.items():
        names = [field.rstrip("=") for field in before]
        assert [field.rstrip("=") for field in now[name]][: len(names)] == names, name
        new = now[name][len(names) :]
        assert all(field.endswith("=") for field in new), f"{name}: what is appended has a default"
    assert set(now) == set(known), "python -m tests.gateway.frozen.fields"
