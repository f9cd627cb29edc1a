"""Frames for both roles: feeding them, and checking the result."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from tests.fuzz.oracles import check_life, outcome, pieces
from tests.fuzz.websockets_pair import accepted, dialled
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CLOSING, OPEN, PONGS_BELOW, Connection
from wsraw.gateway.websocket.deflate import STEP
from wsraw.link.records import OnClose, OnConnect, OnMessage

SETTINGS = [
    Settings(max_message_size=size, messages=messages, high_water_mark=8192)
    for size in (1000, 1 << 16)
    for messages in ("frames", "whole")
]


def make(number: int) -> Connection:
    """A connection. The lowest bits choose the role, compression, and the settings."""
    settings = SETTINGS[number >> 2 & 3]
    start = dialled if number & 1 else accepted
    return start(settings, bool(number & 2))


def feed(con: Connection, chunks: Iterable[bytes]) -> list[Any]:
    """Feed all chunks as the gateway does: data that is held back is parsed as soon as allowed."""
    events: list[Any] = []
    settings = con.settings
    for chunk in chunks:
        some = con.receive_data(chunk, 0.0)
        while True:
            # The events of one read or turn may exceed the mark.
            size = sum(len(event.data) for event in some if type(event) is OnMessage)
            assert size <= max(
                len(chunk), settings.high_water_mark + STEP + settings.max_message_size
            )
            events += some
            held = con.unfinished
            some = con.resume(0.0)
            if not some and con.unfinished == held:
                break
        events += con.drained(0.0)
    return events


def check(number: int, data: bytes) -> tuple[Connection, list[Any], Hashable]:
    """Feed the data whole and cut; returns the connection at its end, its events, and the
    outcome.
    """
    con, again = make(number), make(number)
    events = feed(con, (data,) if data else ())
    others = feed(again, pieces(data))
    assert others == events
    assert again.state is con.state
    output = b"".join(con.output.chunks)
    # Masks are random, so for frames that we mask only the lengths can be compared.
    other = b"".join(again.output.chunks)
    assert (len(other) == len(output)) if con.opened else (other == output)
    assert con.state in (OPEN, CLOSING, CLOSED)
    assert con.unfinished <= con.settings.max_message_size + 14
    assert con.output.size <= len(data) + PONGS_BELOW
    # The on_connect came with the handshake.
    events.insert(0, OnConnect(0, con.id, {}))
    check_life(con, events)
    result = outcome(con, events)
    if con.state is not CLOSED:
        end = con.receive_eof(0.0) + con.resume(0.0)
        assert con.state is CLOSED
        assert [type(event) for event in end] == [OnClose]
        assert not con.unfinished
        check_life(con, events + end)
    return con, events[1:], result
