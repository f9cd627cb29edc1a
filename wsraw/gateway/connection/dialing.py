"""Sans-I/O. A connection that a handler has opened: dialled, then perhaps a handshake."""

from __future__ import annotations

from typing import Any

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.phases import (
    RAW_INF,
    Connecting,
    after_frames,
    establish,
    to_events,
)
from wsraw.gateway.websocket.handshake import ClientHandshake
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.open_options import Opening
from wsraw.link.records import Event


def dialed(
    con_id: int, opening: Opening, settings: Settings, about: dict[str, Any], now: float
) -> Connection:
    """A connection that a handler has opened; its target is in `opening`, to be dialled."""
    con = Connection(con_id, settings, about, _Dialing(opening), opened=True)
    about["target"] = opening.shown
    about["kind"] = opening.kind
    if opening.kind == "websocket":
        con.websocket = WebSocket.client(settings, opening)
    else:
        con.inf = RAW_INF
    timeout = opening.connect_timeout
    if timeout is None:
        timeout = settings.connect_timeout
    con.keepalive.arm(float(timeout), now)
    return con


class _Dialing(Connecting):
    """The phase until TCP is connected, and the handshake of a WebSocket is complete."""

    __slots__ = ("_is_connected", "_opening")

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self._opening = opening
        self._is_connected = False

    @property
    def opening(self) -> Opening | None:
        return self._opening

    def connected(self, con: Connection, now: float) -> list[Event]:
        if self._is_connected:
            return []
        self._is_connected = True
        ws = con.websocket
        if ws is not None:
            con.collect(ws)
            return []
        establish(con, now)
        # An opened raw connection has no on_connect, unless it reconnects or belongs to a bridge.
        opening = self._opening
        is_told = opening.reconnect or opening.preface is not None
        events = con.announce() if is_told else []
        return events + self.close_as_wanted(con, now)

    def connect_failed(self, con: Connection, message: str) -> list[Event]:
        con.output.drop()
        return con.end(1006, "", "connect-failed", message)

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        """Bytes of the server's answer, and of what follows it."""
        ws = con.websocket
        if ws is None:
            return []
        handshake = ws.handshake
        frames = ws.receive_data(data)
        if ws.opened:
            several = handshake.repeated if isinstance(handshake, ClientHandshake) else {}
            if several:
                con.about["repeated"] = several
            establish(con, now)
            events = con.announce() + to_events(con, frames)
            # The following bytes may be many and compressed; the next turns go on with them.
            con.intake.has_more = ws.busy
            if ws.output or ws.ended:
                after_frames(con, ws, events)
            return events + self.close_as_wanted(con, now)
        return self._refused(con, ws) if ws.ended else []

    def _refused(self, con: Connection, ws: WebSocket) -> list[Event]:
        if ws.response is not None:
            con.about["response"] = ws.response.shown()
        return con.end(1006, "", "connect-failed", ws.error)

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        ws = con.websocket
        if ws is not None:
            ws.receive_eof()
            return self._refused(con, ws)
        return con.end(1006, "", "connect-failed", "the connection was closed before it was open")

    def lost(self, con: Connection, message: str) -> list[Event]:
        return con.end(1006, "", "connect-failed", message)

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        con.output.drop()
        ws = con.websocket
        if ws is not None and self._is_connected:
            ws.receive_eof()
            if ws.response is not None:
                # The server has refused us, and does not finish its explanation.
                return self._refused(con, ws)
        cause = "handshake-timeout" if self._is_connected else "connect-failed"
        return con.end(1006, "", cause, f"timed out after {con.keepalive.timeout:g} s")
