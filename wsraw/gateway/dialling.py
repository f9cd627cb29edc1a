"""Sans-I/O. How a connection begins that a worker has opened: dialled, then perhaps a handshake."""

from __future__ import annotations

from wsraw.gateway.standing import SLICE, Standing
from wsraw.gateway.websocket import WebSocket
from wsraw.messages import Event, Open


class Dialling:
    """What was asked for, until it stands. Wrong options are told like a failure to connect."""

    __slots__ = ("_announces_raw", "_con", "_tcp_stands", "_wrong", "options")

    def __init__(self, con: Standing, open_: Open, now: float) -> None:
        self._con = con
        self.options = open_.options
        self._tcp_stands = False
        self._wrong = ""
        self._announces_raw = bool(open_.options.get("reconnect"))
        """An opened raw connection has no on_connect (the seed); one that reconnects needs it."""
        timeout = open_.options.get("connect_timeout", con.settings.connect_timeout)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            self._wrong = "the option connect_timeout must be a number of seconds"
            timeout = con.settings.connect_timeout
        if open_.protocol == "websocket" or open_.target.startswith(("ws://", "wss://")):
            con.kind = "websocket"
            try:
                con.websocket = WebSocket.client(con.settings, open_)
            except ValueError as error:
                self._wrong = str(error)
        else:
            con.kind = "raw"
            con.inf = {"Protocol": "raw"}
            if open_.protocol != "raw":
                self._wrong = f"protocol {open_.protocol!r} is neither raw nor websocket"
        con.arm(float(timeout), now)

    def connected(self, now: float) -> list[Event]:
        """TCP stands, and TLS where it is wanted."""
        con = self._con
        if self._tcp_stands:
            return []
        self._tcp_stands = True
        if self._wrong:
            return self.failed(self._wrong)
        if con.websocket is None:
            return con.stand(self._announces_raw, now)
        con.websocket.connect()
        con.collect(con.websocket)
        return []

    def failed(self, message: str) -> list[Event]:
        """It could not be dialled."""
        self._con.drop_output()
        return self._con.end(1006, "", "connect-failed", self._wrong or message)

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
                return con.end(1006, "", "connect-failed", ws.error)
        return []

    def receive_eof(self, now: float) -> list[Event]:
        """The server has shut its side."""
        con = self._con
        message = "the connection was closed before it stood"
        if con.websocket is not None:
            con.websocket.receive_eof()
            message = con.websocket.error
        return con.end(1006, "", "connect-failed", message)

    def handle_timeout(self, now: float) -> list[Event]:
        """It has had the time to stand."""
        con = self._con
        con.drop_output()
        cause = "handshake-timeout" if self._tcp_stands else "connect-failed"
        return con.end(1006, "", cause, f"timed out after {con.timeout:g} s")

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Nobody wants it any more."""
        self._con.cut()
        return self._con.end(1006, "", cause)
