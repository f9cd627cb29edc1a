"""Sans-I/O. A WebSocket's handshake that waits for the verdict of on_connect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.standing import Standing
from wsraw.gateway.http import answer, http_answer
from wsraw.link.records import Event

EARLY_LIMIT: Final = 8 * 1024
"""Bytes that a client may send before it is let in; beyond that it is not read from."""


class Asking:
    """The request is good; a handler says whether it is answered with the 101."""

    __slots__ = ("_con", "_entrance")

    def __init__(self, con: Standing, entrance: AdmissionPolicy, now: float) -> None:
        self._con = con
        self._entrance = entrance
        con.arm(con.settings.verdict_timeout, now)

    def accept(
        self, subprotocol: str | None, headers: Mapping[str, str], now: float
    ) -> list[Event]:
        """Let it in. What handlers have sent follows the 101."""
        con = self._con
        assert con.websocket is not None
        con.websocket.let_in(subprotocol, headers)
        con.collect(con.websocket)
        return con.stand(False, now) + con.close_as_asked(now)

    def reject(
        self, status: int, reason: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> list[Event]:
        """Send it away."""
        con = self._con
        self._entrance.rejected(now)
        con.output.append(answer(status, reason, headers, body))
        return con.end(1006, "", "rejected")

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes that come too early are kept; how to read them is known after the 101."""
        self._con.hold(data)
        return []

    def receive_eof(self, now: float) -> list[Event]:
        """It has not waited."""
        return self._con.end(1006, "", "lost")

    def handle_timeout(self, now: float) -> list[Event]:
        """The handler has not said anything in time."""
        con = self._con
        why = f"on_connect has not decided within {con.timeout:g} s"
        self._entrance.refuse("verdict_timeout", con.about, why, now)
        con.output.append(http_answer(503, "the server took too long to decide"))
        return con.end(1006, "", "verdict-timeout")

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """It will not come in; there is no close frame before the 101."""
        con = self._con
        status = 500 if code == 1011 else 503
        con.output.append(http_answer(status, reason or "not now"))
        return con.end(1006, "", cause)
