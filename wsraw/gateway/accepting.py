"""Sans-I/O. How an accepted connection begins: from its first byte until it is known what it is."""

from __future__ import annotations

from wsraw.gateway.http import http_answer
from wsraw.gateway.life import Step
from wsraw.gateway.sniff import Sniffer, Verdict
from wsraw.gateway.standing import Standing
from wsraw.gateway.websocket import WebSocket
from wsraw.messages import Event
from wsraw.settings import Listen


class Accepting:
    """Holds the first bytes until they say enough."""

    __slots__ = ("_con", "_listen", "_sniffer")

    def __init__(self, con: Standing, listen: Listen, now: float) -> None:
        self._con = con
        self._listen = listen
        self._sniffer = Sniffer()
        # Only a listener for WebSockets can blame those who say nothing.
        timeout = con.settings.handshake_timeout
        con.arm(timeout if self._only_websocket else listen.first_byte_timeout, now)

    @property
    def _only_websocket(self) -> bool:
        return self._listen.protocol == "websocket"

    def opened(self) -> list[Event]:
        """The events before anything has come."""
        return self._con.become_raw(b"") if self._listen.protocol == "raw" else []

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the client."""
        sniffer, con = self._sniffer, self._con
        if not sniffer.buffer:
            con.arm(con.settings.handshake_timeout, now)
        verdict = sniffer.receive_data(data)
        if verdict is Verdict.UNKNOWN or verdict is Verdict.HTTP:
            return []
        if verdict is Verdict.WEBSOCKET:
            return self._upgrade(now)
        if verdict is Verdict.TOO_BIG:
            return self._answer(431, "the request head is too long")
        if self._only_websocket:
            if verdict is Verdict.PLAIN_HTTP:
                return self._answer(426, "a WebSocket is needed here")
            con.cut()
            return con.end(1002, "", "protocol-error")
        if verdict is Verdict.PLAIN_HTTP and self._listen.plain_http == "reject":
            return self._answer(426, "a WebSocket is needed here")
        if verdict is Verdict.PLAIN_HTTP and self._listen.plain_http == "health":
            return self._answer(200, "ok")
        return con.become_raw(bytes(sniffer.buffer))

    def _upgrade(self, now: float) -> list[Event]:
        sniffer, con = self._sniffer, self._con
        con.step(Step.UPGRADE)
        con.kind = "websocket"
        con.websocket = ws = WebSocket.server(con.settings, con.settings.subprotocols)
        ws.accept(bytes(sniffer.buffer[: sniffer.head_size]))
        con.collect(ws)
        if not ws.opened:
            return con.end(1002, "", "protocol-error")
        events = con.stand(True, now)
        rest = bytes(sniffer.buffer[sniffer.head_size :])
        return events + con.receive_data(rest, now) if rest else events

    def _answer(self, status: int, text: str) -> list[Event]:
        self._con.append(http_answer(status, text))
        return self._con.end(1002, "", "protocol-error")

    def receive_eof(self, now: float) -> list[Event]:
        """The client has shut its side."""
        sniffer, con = self._sniffer, self._con
        if sniffer.verdict is Verdict.HTTP:
            return self._answer(400, "the request is not complete")
        if not sniffer.buffer or self._only_websocket:
            return con.end(1006, "", "lost")
        return con.become_raw(bytes(sniffer.buffer)) + con.receive_eof(now)

    def handle_timeout(self, now: float) -> list[Event]:
        """It has had the time to say what it is."""
        con = self._con
        if self._sniffer.verdict is Verdict.HTTP:
            return self._answer(408, "the request did not come in time")
        if self._only_websocket:
            con.cut()
            return con.end(1006, "", "handshake-timeout")
        return con.become_raw(bytes(self._sniffer.buffer))

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Nobody has heard of it."""
        return self._con.end(code, reason, cause)
