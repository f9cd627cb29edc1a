from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.anything import commands, values
from wsraw.link.records import (
    Ack,
    Bye,
    Close,
    Command,
    Decoder,
    Event,
    Exited,
    FromGateway,
    FromSupervisor,
    LinkError,
    Notice,
    Publish,
    Record,
    Reject,
    Send,
    State,
    encode,
    gateway_decoder,
    session_of,
    worker_decoder,
)

ENDLESS = b"\xdd\xff\xff\xff\xff"
"""The head of an array of 4,294,967,295 items that do not follow."""


def batch(*records: Any, head: Any = 7) -> bytes:
    return encode([head, *records])


def with_options(options: bytes) -> bytes:
    """A batch with one `open` whose options are these bytes."""
    fields = b"".join(map(encode, ("open", 5, "t", "raw", "/", "", "")))
    return b"\x92\x07\x98" + fields + options


def decode(data: bytes) -> tuple[Any, list[Any], list[tuple[int, str]]]:
    return gateway_decoder().decode(data)


# --- well-formed batches ---


@pytest.mark.parametrize("struct", [*Command.__args__, *Event.__args__, *Notice.__args__])
def test_every_record_is_decoded_as_it_was_encoded(struct: type[Record]) -> None:
    samples: dict[Any, Any] = {"int": 5, "str": "x", "bytes": b"\xff", "float": 1.5, "Any": [1]}
    values = {
        field.name: samples[str(field.type).removeprefix("<class '").removesuffix("'>")]
        for field in msgspec.structs.fields(struct)
        if field.required and field.type in (int, str, bytes, float)
    }
    for field in msgspec.structs.fields(struct):
        if field.required and field.name not in values:
            values[field.name] = {"k": "v"}
    record = struct(**values)
    decoder = gateway_decoder() if struct in Command.__args__ else worker_decoder()
    assert decoder.decode(batch(record)) == (7, [record], [])


@pytest.mark.parametrize("unions", [(Event, Notice), (Command,), (FromSupervisor,), (FromGateway,)])
def test_a_tag_means_one_record_in_each_direction(unions: tuple[Any, ...]) -> None:
    tags = [struct.__struct_config__.tag for union in unions for struct in union.__args__]
    assert len(tags) == len(set(tags))


def test_a_batch_without_records_is_valid() -> None:
    assert decode(batch()) == (7, [], [])


def test_records_grow_by_appending_fields() -> None:
    newer = ["close", 5, 1000, "why", "a field of a later version"]
    assert decode(batch(newer)) == (7, [Close(5, 1000, "why")], [])
    assert decode(batch(["close", 5])) == (7, [Close(5, 1000, "")], [])


def test_a_batch_of_the_control_link_begins_with_its_token() -> None:
    decoder = Decoder(str, FromSupervisor)
    assert decoder.decode(batch(Exited(3, "x"), head="secret")) == (
        "secret",
        [Exited(3, "x")],
        [],
    )
    with pytest.raises(LinkError):
        decoder.decode(batch(Exited(3, "x"), head=7))


# --- batches with wrong records ---


@pytest.mark.parametrize(
    "wrong",
    [
        2,
        "bye",
        None,
        [],
        [1, 2],
        ["no such record"],
        ["close"],
        ["close", "5"],
        ["close", 5, "1000"],
        ["close", 5, 1000, b"bytes"],
        ["close", 2**64 - 1, 2.5],
        {"tag": "close", "con": 5},
        ["send", 5, 6],
        ["send", 5],
        ["state", None, b""],
        ["ack", 1],
    ],
)
def test_a_wrong_record_is_skipped_and_the_others_apply(wrong: Any) -> None:
    head, records, left_out = decode(batch(Ack(1, 1), wrong, Bye()))
    assert (head, records) == (7, [Ack(1, 1), None, Bye()])
    assert [index for index, _ in left_out] == [1]
    assert left_out[0][1]


def test_each_wrong_record_is_named_by_its_index() -> None:
    _, records, left_out = decode(batch(["x"], Bye(), 7, "y"))
    assert records == [None, Bye(), None, None]
    assert [index for index, _ in left_out] == [0, 2, 3]


@pytest.mark.parametrize(
    "options",
    [
        b"\x81\xa1a" + b"\x81\x81\x01\x02\x03",
        b"\x81\xa1a" + b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\x81\xa1a" + b"\xd7\xff" + b"\xff" * 8,
        b"\x81\xa2\xff\xfe\x01",
        b"\x81\x01\x01",
    ],
    ids=["map as key", "timestamp", "short timestamp", "key not UTF-8", "number as key"],
)
def test_impossible_options_make_a_wrong_record(options: bytes) -> None:
    _, records, left_out = decode(with_options(options))
    assert records == [None]
    assert len(left_out) == 1


def test_other_text_than_data_must_be_utf_8() -> None:
    _, records, left_out = decode(b"\x92\x07\x94\xa5close\x05\xcd\x03\xe8\xa2\xff\xfe")
    assert (records, len(left_out)) == ([None], 1)


# --- bytes that are not a batch ---


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        b"\x80",
        b"\x07",
        b"\xa1x",
        encode(["7", Bye()]),
        encode([True]),
        encode([7.0]),
        encode([None, Bye()]),
        encode([Bye(), 7]),
        encode({7: 8}),
        encode([7, Bye()])[:-1],
        encode([7, Bye()]) + b"\x00",
        ENDLESS,
        b"\x92\x07" + ENDLESS,
        with_options(b"\x81\xa1a" + ENDLESS * 500),
        b"\x91" * 100_000,
        b"\x92\x07" + b"\x91" * 100_000 + b"\x01",
        with_options(b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01"),
        b"\x92\x07\x93\xa4send\x05\xdb\xff\xff\xff\xff",
    ],
)
def test_bytes_that_are_not_a_batch_raise_link_error(data: bytes) -> None:
    with pytest.raises(LinkError):
        decode(data)


# --- the session number ---


@pytest.mark.parametrize("count", [1, 15, 16, 65_535, 65_536])
@pytest.mark.parametrize(
    "number", [0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**53 - 1, -1, -129]
)
def test_the_session_of_a_batch_is_read_without_decoding_it(number: int, count: int) -> None:
    assert session_of(batch(*[Bye()] * (count - 1), head=number)) == number


@pytest.mark.parametrize(
    "number",
    [
        b"\x07",
        # uint and int of 8 to 64 bits.
        *(bytes((first + n, *bytes((1 << n) - 1), 7)) for first in (0xCC, 0xD0) for n in range(4)),
    ],
)
@pytest.mark.parametrize("array", [b"\x92", b"\xdc\0\x02", b"\xdd\0\0\0\x02"])
def test_a_session_number_may_be_encoded_longer_than_necessary(array: bytes, number: bytes) -> None:
    assert session_of(array + number + encode(Bye())) == 7


@pytest.mark.parametrize("rest", [b"", b"\xc1", ENDLESS, bytes(64 << 20)])
def test_bytes_behind_the_session_number_are_not_read(rest: bytes) -> None:
    assert session_of(memoryview(b"\x92\x07" + rest)) == 7
    assert session_of(ENDLESS + b"\x07" + rest) == 7


@pytest.mark.parametrize(
    "data",
    [b"", b"\x91", b"\x92\xcf\0", b"\xdc\0", b"\x07", b"\xc1", b"\x81\x07\x08", b"\x92\xa0"]
    + [encode([head]) for head in ("7", True, 7.0, None, [7], {7: 7}, b"7")],
)
def test_a_batch_without_a_session_number_has_none(data: bytes) -> None:
    assert session_of(data) is None


# --- PHP, Lua and others: one string type ---


def str_head(size: int) -> bytes:
    if size < 32:
        return bytes((0xA0 | size,))
    if size < 1 << 8:
        return b"\xd9" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xda" + size.to_bytes(2, "big")
    return b"\xdb" + size.to_bytes(4, "big")


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536, 100_000])
@pytest.mark.parametrize("byte", [b"a", b"\xff"], ids=["UTF-8", "not UTF-8"])
def test_data_may_be_a_string_of_any_length(size: int, byte: bytes) -> None:
    data = byte * size
    record = b"\x93\xa4send\x05" + str_head(size) + data
    assert decode(b"\x92\x07" + record) == (7, [Send(5, data)], [])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["state", 5, "s"], State(5, b"s")),
        (["publish", "g", "s", "text"], Publish("g", b"s", "text")),
        (["reject", 5, 403, "no", {}, "s"], Reject(5, 403, "no", {}, b"s")),
        (["send", 5, "s", "text", False], Send(5, b"s", "text", False)),
    ],
)
def test_every_data_field_may_be_a_string(fields: list[Any], expected: Record) -> None:
    assert decode(batch(fields)) == (7, [expected], [])


def test_a_string_as_data_excuses_no_other_mistake() -> None:
    _, records, left_out = decode(batch(["send", "five", "data"]))
    assert (records, len(left_out)) == ([None], 1)


@pytest.mark.parametrize("extra", [10, 11, 65_530, 65_531, 70_000])
def test_string_data_is_accepted_beside_fields_of_a_later_version(extra: int) -> None:
    """The array head is written again with one, three or five bytes."""
    assert decode(batch(["send", 5, "s", "text", True, *[0] * extra])) == (
        7,
        [Send(5, b"s", "text", True)],
        [],
    )


def test_a_worker_does_not_accept_strings_as_data() -> None:
    """The gateway always writes `bin`, so a worker need not expect strings."""
    _, records, left_out = worker_decoder().decode(batch(["on_message", 1, 5, 6, "raw"]))
    assert (records, len(left_out)) == ([None], 1)


# --- random bytes ---


def check(data: bytes) -> None:
    session = session_of(data)
    for decoder in (gateway_decoder(), worker_decoder()):
        try:
            head, records, left_out = decoder.decode(data)
        except LinkError:
            continue
        assert type(head) is int
        assert head == session
        assert [i for i, record in enumerate(records) if record is None] == [i for i, _ in left_out]
        assert all(record is None or isinstance(record, Record) for record in records)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_raise_link_error(data: bytes) -> None:
    check(data)


@given(st.lists(commands | values, max_size=6))
def test_any_array_is_decoded_or_raises_link_error(records: list[Any]) -> None:
    check(batch(*records))


@given(st.lists(commands, min_size=1, max_size=3), st.data())
def test_a_damaged_batch_is_decoded_or_raises_link_error(
    records: list[Any], data: st.DataObject
) -> None:
    good = bytearray(batch(*records))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(good))
