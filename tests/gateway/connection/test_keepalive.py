from __future__ import annotations

import math

from tests.corpus import frame, tell
from tests.gateway.connection.connections import (
    HELLO,
    flush,
    go_on,
    websocket,
)
from wsraw.gateway.connection.connection import (
    PONGS_BELOW,
)
from wsraw.link.records import OnClose, OnError


def test_a_pong_keeps_the_connection_open() -> None:
    con = websocket(now=100.0)
    assert con.keepalive.deadline == 120.0
    con.receive_data(HELLO, 110.0)
    assert con.keepalive.deadline == 120.0
    assert con.handle_timeout(120.0) == []
    assert (con.keepalive.deadline, con.output.size) == (130.0, 0)
    assert con.handle_timeout(130.0) == []
    assert flush(con, 130.0) == b"\x89\x00"
    con.receive_data(frame(0x8A, b""), 131.0)
    assert con.handle_timeout(150.0) == []
    assert (con.keepalive.deadline, con.output.size) == (151.0, 0)


def test_pings_are_sent_at_the_interval() -> None:
    """The interval does not depend on how long a pong takes."""
    con = websocket(ping_interval=5, ping_timeout=20)
    for now in (5.0, 10.0, 15.0):
        assert con.keepalive.deadline == now
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"
        con.receive_data(frame(0x8A, b""), now)
    # From here on no pong comes: no further ping is sent, and the connection ends at its deadline.
    assert con.handle_timeout(20.0) == []
    flush(con, 20.0)
    assert con.handle_timeout(25.0) == []
    assert (con.keepalive.deadline, con.output.size) == (40.0, 0)
    assert tell(con.handle_timeout(40.0)) == ["error", "close 1011 ping-timeout"]


def test_a_due_ping_is_sent_by_one_timeout() -> None:
    """The pong comes shortly after the ping, and must not cause another wake-up."""
    con = websocket(ping_interval=20, ping_timeout=20)
    for now in (20.0, 40.0, 60.0):
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"
        con.receive_data(frame(0x8A, b""), now + 0.5)
        assert con.keepalive.deadline == now + 20.0
    # Any data from the client delays the next ping.
    con.receive_data(HELLO, 61.0)
    con.handle_timeout(80.0)
    assert (con.keepalive.deadline, con.output.size) == (81.0, 0)


def test_a_missing_pong_ends_the_connection() -> None:
    con = websocket()
    con.handle_timeout(20.0)
    flush(con, 20.0)
    error, close = con.handle_timeout(40.0)
    assert isinstance(error, OnError)
    assert close == OnClose(0, 7, 1011, "no answer to a ping", "ping-timeout")
    assert con.output.data_to_send()[2:4] == b"\x03\xf3"
    assert not con.output.reset


def test_the_time_for_a_pong_begins_when_the_ping_is_written() -> None:
    con = websocket()
    con.send(b"x" * 1000, "binary", True, 0.0)
    con.handle_timeout(20.0)
    con.written(500, 35.0)
    assert con.handle_timeout(40.0) == []
    assert con.keepalive.deadline == 55.0
    assert tell(con.handle_timeout(55.0)) == ["error", "close 1011 ping-timeout"]


def test_pings_can_be_switched_off() -> None:
    assert websocket(ping_interval=0).keepalive.deadline == math.inf
    con = websocket(ping_timeout=0)
    for now in (20.0, 40.0, 60.0):
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"


def test_a_flood_of_pings_does_not_fill_the_output() -> None:
    con = websocket()
    pings = frame(0x89, b"p" * 125) * 100
    for _ in range(100):
        con.receive_data(pings, 0.0)
        go_on(con)
    assert con.output.size < PONGS_BELOW + len(pings)
    con.receive_data(frame(0x89, b"latest"), 0.0)
    con.written(con.output.size, 0.0)
    assert con.output.data_to_send() == b"\x8a\x06latest"
