"""Sans-I/O. How a connection begins that a worker has opened: dialled, then perhaps a handshake."""

from __future__ import annotations

from wsraw.gateway.connection.standing import SLICE, Standing
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.open_options import Opening
from wsraw.link.records import Event


class Dialling:
    """What was asked for, until it stands."""

    __slots__ = ("_con", "_tcp_stands", "asked")

    def __init__(self, con: Standing, asked: Opening, now: float) -> None:
        self._con = con
        self.asked = asked
        self._tcp_stands = False
        con.kind = asked.kind
        if asked.kind == "websocket":
            con.websocket = WebSocket.client(con.settings, asked)
        else:
            con.inf = {"Protocol": "raw"}
        timeout = con.settings.connect_timeout if asked.timeout is None else asked.timeout
        con.arm(float(timeout), now)

    def connected(self, now: float) -> list[Event]:
        """TCP stands, and TLS where it is wanted."""
        con = self._con
        if self._tcp_stands:
            return []
        self._tcp_stands = True
        if con.websocket is None:
            # An opened raw connection has no on_connect (the seed); one that reconnects needs it.
            return con.stand(self.asked.reconnect, now)
        con.websocket.connect()
        con.collect(con.websocket)
        return []

    def failed(self, message: str) -> list[Event]:
        """It could not be dialled."""
        self._con.output.drop()
        return self._con.end(1006, "", "connect-failed", message)

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the server's answer, and what is glued behind it."""
        con = self._con
        ws = con.websocket
        if ws is None:
            return []
        for start in range(0, len(data), SLICE):
            frames = ws.receive_data(data[start : start + SLICE])
            if ws.opened:
                events = con.stand(True, now) + con.to_events(frames)
                if ws.output or ws.ended:
                    con.after_frames(ws, events)
                # It may be large and compressed; then it goes on in the turns to come.
                con.has_more = ws.busy
                rest = data[start + SLICE :]
                return events + con.receive_data(rest, now) if rest else events
            if ws.ended:
                return self._refused(ws)
        return []

    def _refused(self, ws: WebSocket) -> list[Event]:
        con = self._con
        if ws.response is not None:
            con.about["response"] = ws.response.shown()
        return con.end(1006, "", "connect-failed", ws.error)

    def receive_eof(self, now: float) -> list[Event]:
        """The server has shut its side."""
        con = self._con
        ws = con.websocket
        if ws is not None:
            ws.receive_eof()
            return self._refused(ws)
        return con.end(1006, "", "connect-failed", "the connection was closed before it was open")

    def handle_timeout(self, now: float) -> list[Event]:
        """It has had the time to stand."""
        con = self._con
        con.output.drop()
        ws = con.websocket
        if ws is not None and self._tcp_stands:
            ws.receive_eof()
            if ws.response is not None:
                # It has refused us, and does not finish to say why.
                return self._refused(ws)
        cause = "handshake-timeout" if self._tcp_stands else "connect-failed"
        return con.end(1006, "", cause, f"timed out after {con.timeout:g} s")

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Nobody wants it any more."""
        self._con.cut()
        return self._con.end(1006, "", cause)
