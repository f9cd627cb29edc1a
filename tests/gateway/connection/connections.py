"""Connections in all states, for the tests of this folder."""

from __future__ import annotations

import zlib
from typing import Any

from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.corpus import OFFER, UPGRADE, frame, tell
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import (
    Connection,
)
from wsraw.gateway.connection.dialing import dialed
from wsraw.link.open_options import check
from wsraw.link.records import Event, Open

HELLO = frame(0x81, b"hello")


def accept(now: float = 0.0, protocol: Any = "any", **fields: Any) -> Connection:
    listen = {name: fields.pop(name) for name in list(fields) if name in Listen.__struct_fields__}
    return accepted(
        7, Listen(name="test", protocol=protocol, **listen), Settings(**fields), {}, now
    )


def dial(now: float = 0.0, protocol: str = "raw", **fields: Any) -> Connection:
    options = fields.pop("options", {})
    open_ = Open(8, "example.com:80", protocol, options=options)
    return dialed(8, check(open_), Settings(**fields), {}, now)


def raw(now: float = 0.0, **fields: Any) -> Connection:
    con = accept(now, **fields)
    assert tell(con.receive_data(b"hi", now)) == ["connect raw", "raw hi"]
    return con


def go_on(con: Connection) -> list[Event]:
    """Run the turns that remain, while nothing else happens."""
    events: list[Event] = []
    while con.intake.has_more:
        events += con.resume(0.0)
    return events


def flush(con: Connection, now: float = 0.0) -> bytes:
    data = b"".join(con.output.chunks)
    assert tell(con.written(len(data), now)) == []
    return data


def websocket(now: float = 0.0, deflate: bool = False, **fields: Any) -> Connection:
    con = accept(now, **fields)
    events = con.receive_data(UPGRADE % (OFFER if deflate else b""), now)
    assert tell(events) == ["connect websocket server"]
    flush(con, now)
    return con


def answer(con: Connection, now: float = 0.0, behind: bytes = b"") -> tuple[list[Event], Any]:
    """Answer the handshake of a WebSocket that a handler has opened."""
    peer = ServerProtocol()
    peer.receive_data(flush(con, now))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    peer.send_response(peer.accept(request))
    return con.receive_data(b"".join(peer.data_to_send()) + behind, now), peer


def understood(peer: Any, data: bytes) -> list[tuple[str, bytes]]:
    peer.receive_data(data)
    return [(event.opcode.name, bytes(event.data)) for event in peer.events_received()]


def deflated_payload(size: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return (deflater.compress(bytes(size)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflated(size: int) -> bytes:
    return frame(0xC2, deflated_payload(size))
