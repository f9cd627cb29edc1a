"""The connection object of handlers, with an owner that only records."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.link.records import ID_EPOCH_SHIFT, STATE_LIMIT, Close, Couple, Join, Leave, Record, Send
from wsraw.workers.connection import (
    ATTACHED,
    Connection,
    Message,
    decode_state,
    encode_state,
    parse_message,
    to_id,
    to_ids,
)
from wsraw.workers.questions import Asked


class Owner:
    epoch = 1

    def __init__(self) -> None:
        self.records: list[Record] = []

    def command(self, record: Record, size: int = 0) -> None:
        self.records.append(record)

    def serves(self, con: Connection) -> bool:
        return False

    def reads_state(self, con: Connection) -> None:
        pass

    def sets_state(self, con: Connection, data: bytes) -> None:
        pass

    def drained(self, con: Connection) -> Asked[bool]:
        raise NotImplementedError

    def buffered(self, con: Connection) -> Asked[int]:
        raise NotImplementedError


ID = 1 << ID_EPOCH_SHIFT | 7


@pytest.fixture
def con() -> Connection:
    return Connection(Owner(), ID)


def commands(con: Connection) -> list[Record]:
    owner = con._owner
    assert isinstance(owner, Owner)
    return owner.records


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [
        (("grün",), ("grün".encode(), "text", True)),
        ((b"\xff",), (b"\xff", "binary", True)),
        ((bytearray(b"\xff"),), (b"\xff", "binary", True)),
        ((memoryview(b"\xff"),), (b"\xff", "binary", True)),
        (("a", "binary"), (b"a", "binary", True)),
        ((b"a", "text"), (b"a", "text", True)),
        ((b"a", None, False), (b"a", "binary", False)),
        (("",), (b"", "text", True)),
        (({"data": b"a"},), (b"a", "binary", True)),
        (({"data": "a", "type": "binary", "final": False},), (b"a", "binary", False)),
        # The message of on_message can be sent as it is.
        (({"type": "text", "data": "a", "final": False},), (b"a", "text", False)),
        (({"data": b"a", "type": "raw"},), (b"a", "binary", True)),
        # An argument overrides a key of the mapping.
        (({"data": "a", "type": "text"}, "binary", False), (b"a", "binary", False)),
    ],
)
def test_send_sends_text_or_binary(
    con: Connection, arguments: tuple[Any, ...], sent: tuple[bytes, str, bool]
) -> None:
    con.send(*arguments)
    assert commands(con) == [Send(ID, *sent)]


@pytest.mark.parametrize(
    ("msg", "error"),
    [
        (None, TypeError),
        (1, TypeError),
        (["a"], TypeError),
        ({"data": None}, TypeError),
        ({}, ValueError),
        ({"data": "a", "kind": "text"}, ValueError),
        ({"text": "a"}, ValueError),
        ({"type": "text", "final": True}, ValueError),
        ({"data": "a", "type": "ping"}, ValueError),
        ("\ud800", ValueError),
    ],
)
def test_impossible_data_is_refused(con: Connection, msg: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        con.send(msg)
    assert commands(con) == []


@given(st.text() | st.binary())
def test_both_ways_to_send_give_the_same_records(data: Message) -> None:
    short, long = Connection(Owner(), ID), Connection(Owner(), ID)
    short.send(data)
    long.send({"data": data})
    assert commands(short) == commands(long)
    assert commands(short) == [Send(ID, *parse_message(data))]


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_close_sends_its_code_and_reason(con: Connection, code: int) -> None:
    con.close(code, "why")
    assert commands(con) == [Close(ID, code, "why")]
    assert con.closed


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, -1])
def test_close_codes_that_must_not_be_sent_are_refused(con: Connection, code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        con.close(code)
    assert commands(con) == []
    assert not con.closed


def test_groups_and_couples_send_their_commands(con: Connection) -> None:
    con.join("room")
    con.leave("room")
    con.couple(Connection(Owner(), ID + 1))
    con.couple(ID + 2)
    assert commands(con) == [
        Join(ID, "room"),
        Leave(ID, "room"),
        Couple(ID, ID + 1),
        Couple(ID, ID + 2),
    ]


def test_connections_are_equal_by_id(con: Connection) -> None:
    same, other = Connection(Owner(), ID), Connection(Owner(), ID + 1)
    assert con == same and hash(con) == hash(same)
    assert con != other and con != ID
    assert {con, same, other} == {con, other}


def test_a_connection_shows_what_is_known_about_it(con: Connection) -> None:
    assert (con.kind, con.peer, con.listener, con.subprotocol) == ("", "", "", None)
    assert con.target == ""
    con.inf = {"Protocol": "websocket client"}
    con.about = {"peer": "1.2.3.4:5", "listener": ":8000", "subprotocol": "chat"}
    assert (con.kind, con.peer, con.listener, con.subprotocol) == (
        "websocket",
        "1.2.3.4:5",
        ":8000",
        "chat",
    )
    assert repr(con) == f"<Connection {ID} websocket 1.2.3.4:5>"


def test_a_connection_of_another_epoch_is_closed(con: Connection) -> None:
    assert not con.closed
    con._flags |= ATTACHED
    assert not con.closed
    owner = con._owner
    assert isinstance(owner, Owner)
    owner.epoch = 2
    assert con.closed
    owner.epoch = 0
    assert not con.closed


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(values)
def test_a_state_is_read_back_as_it_was_set(value: Any) -> None:
    assert decode_state(encode_state(value)) == value


def test_a_connection_within_a_state_becomes_its_id(con: Connection) -> None:
    assert decode_state(encode_state([con, {"x": con}])) == [ID, {"x": ID}]


def test_a_state_has_a_largest_size() -> None:
    most = STATE_LIMIT - 3  # bin 16 has a head of three bytes.
    assert len(encode_state(b"x" * most)) == STATE_LIMIT
    with pytest.raises(ValueError, match=str(STATE_LIMIT)):
        encode_state(b"x" * (most + 1))


def test_a_connection_or_its_id_is_accepted_as_an_id(con: Connection) -> None:
    assert to_id(con) == to_id(ID) == ID
    assert to_ids([con, ID + 1]) == [ID, ID + 1]
    for wrong in (True, "1", None):
        with pytest.raises(TypeError):
            to_id(wrong)  # type: ignore[arg-type]
