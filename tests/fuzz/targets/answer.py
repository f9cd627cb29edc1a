"""The answer of a server to a WebSocket that we open."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from tests.fuzz.oracles import check_life, outcome, pieces
from tests.fuzz.websockets_pair import ACCEPT, AGREED, ANSWER, asked
from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CONNECTING, OPEN, Connection
from wsraw.link.records import OnClose

SETTINGS = [Settings(), Settings(deflate=False, messages="whole")]
MOST = 1 << 21
"""Bytes of an answer that may be held: 128 lines of 8 KiB, and a body of 1 MiB."""

GOOD = ANSWER % (ACCEPT, b"")
SEEDS = [
    b"\0" + GOOD,
    b"\0" + GOOD + b"\x81\x05hello\x88\x02\x03\xe8",
    b"\0" + ANSWER % (ACCEPT, AGREED) + b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00",
    b"\1" + GOOD + b"\x01\x01a\x80\x01b",
    b"\0HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello",
    b"\0HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\0HTTP/1.1 301 Moved\r\nLocation: /there\r\n\r\n",
    b"\0HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\nno end",
    b"\0HTTP/1.0 200 OK\r\n\r\nwelcome",
    b"\0SSH-2.0-OpenSSH_9.6\r\n",
]
WORDS = [
    ACCEPT,
    b"HTTP/1.1 ",
    b" 101 ",
    b"\r\n\r\n",
    b"Upgrade: websocket\r\n",
    b"Connection: Upgrade\r\n",
    b"Sec-WebSocket-Accept: ",
    b"Sec-WebSocket-Protocol: chat\r\n",
    AGREED,
    b"; server_max_window_bits=9",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Encoding: gzip\r\n",
    b"ffffffffffffffffff\r\n",
    b"A: b\r\n" * 130,
    b"a" * 9000,
]


def feed(settings: Settings, data: bytes, cut: bool) -> tuple[Connection, list[Any]]:
    con = asked(settings)
    events: list[Any] = []
    for piece in pieces(data) if cut else (data,) if data else ():
        some = con.receive_data(piece, 0.0)
        # Data that one turn has held back comes in the next turns, as in the gateway.
        while some or con.intake.has_more:
            events += some
            some = con.resume(0.0)
    events += con.drained(0.0)
    return con, events


def run(data: bytes) -> Hashable:
    number, data = (data[0] % 2, data[1:]) if data else (0, b"")
    con, events = feed(SETTINGS[number], data, False)
    again, others = feed(SETTINGS[number], data, True)
    assert (others, again.state) == (events, con.state)
    assert con.state is CONNECTING or con.kind == "websocket"
    assert con.unfinished < MOST
    before = con.state
    check_life(con, events)
    result = outcome(con, events)
    if before is OPEN:
        assert con.inf["Protocol"] == "websocket client"
    if before is not CLOSED:
        events += con.receive_eof(0.0) + con.resume(0.0)
        assert con.state is CLOSED
        check_life(con, events)
    assert type(events[-1]) is OnClose
    return number, before, result
