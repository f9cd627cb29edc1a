"""HTTP requests for handlers, one after another: heads, bodies, chunks."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable

import h11

from tests.fuzz.oracles import pieces
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.link.records import Event, OnRequest, Respond

SETTINGS = Settings(max_message_size=1000)
LISTEN = Listen(name="test", plain_http="handlers", protocol="websocket")
MOST = 20
"""Requests on one connection."""

SEEDS = [
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    b"HEAD /a?b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nA: b\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n\r\n\r\n"
    b"DELETE / HTTP/1.1\r\nHost:x\r\n\r\n",
]
WORDS = [
    b"Content-Length: 3\r\n",
    b"Content-Length: 5, 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Host: x\r\n",
    b"\r\n ",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"ffffffffffffffffff\r\n",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.0",
]

Heard = list[tuple[str, str, bytes]]


def feed(parts: Iterable[bytes]) -> tuple[Heard, bytes, Connection]:
    """The requests of handlers, the client's output, and the last connection of the socket."""
    con = accepted(1, LISTEN, SETTINGS, {}, 0.0)
    heard: Heard = []
    output = bytearray()
    for part in parts:
        if con.state is CLOSED:
            break
        events = con.receive_data(part, 0.0)
        while True:
            while con.intake.has_more:
                events += con.resume(0.0)
            con, more = _answer(con, events, heard, output)
            if not more and not con.intake.has_more:
                break
            events = more
        output += b"".join(con.output.chunks)
        con.output.drop()
    return heard, bytes(output), con


def _answer(
    con: Connection, events: list[Event], heard: Heard, output: bytearray
) -> tuple[Connection, list[Event]]:
    """Answer the request if one has come, and continue with the socket."""
    for event in events:
        assert isinstance(event, OnRequest), "nothing but requests is for handlers"
        assert con.unfinished <= 70_000
        heard.append((event.inf["method"], event.inf["url"], event.body))
        ended, why = con.phase.respond(con, Respond(con.id, body=b"%d" % len(heard)), 0.0)
        assert (ended, why) == ([], None)
    output += b"".join(con.output.chunks)
    con.output.drop()
    if con.state is not CLOSED or con.ending.successor is None or len(heard) > MOST:
        return con, []
    con = con.ending.successor(con.id + 1, 0.0)
    return con, con.first_events(0.0)


def _lasting(output: bytes) -> bytes:
    """The output without the parts that vary: the date, and the 100 for a body that has not come
    yet.
    """
    return _PASSING.sub(b"", output)


_PASSING = re.compile(rb"Date: [^\r]*\r\n|HTTP/1\.1 100 Continue\r\n\r\n")


def run(data: bytes) -> Hashable:
    heard, output, con = feed([data])
    again, same, other = feed(pieces(data))
    assert (again, _lasting(same), other.state) == (heard, _lasting(output), con.state)
    statuses = []
    left = output
    methods = [method for method, _, _ in heard]
    while left:
        # The last answer may be an error for a request that no handler has got.
        client = h11.Connection(h11.CLIENT)
        method = methods.pop(0) if methods else ("HEAD" if data.rfind(b"HEAD") >= 0 else "GET")
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(left)
        event = client.next_event()
        while isinstance(event, h11.InformationalResponse):
            event = client.next_event()
        if event is h11.NEED_DATA:
            # A 100, after which the client has not continued.
            break
        assert isinstance(event, h11.Response), event
        statuses.append(event.status_code)
        if event.status_code != 200:
            assert (b"connection", b"close") in list(event.headers)
            assert con.state is CLOSED
            break
        while not isinstance(event, h11.EndOfMessage):
            event = client.next_event()
            assert event is not h11.NEED_DATA
        left = client.trailing_data[0]
    assert statuses[: len(heard)] == [200] * len(heard)
    return tuple(statuses), tuple(method for method, _, _ in heard), con.state
