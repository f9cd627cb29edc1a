"""Sans-I/O. A client over the bound of its address, of which that was known too late to refuse it
as all others are (refusals.py): a proxy has said whose connection it is.

It is refused in the same way: who speaks HTTP is told, everybody else is reset.
"""

from __future__ import annotations

from typing import Final

from wsraw.gateway.admission.per_address import PATIENCE, RETRY_AFTER
from wsraw.gateway.admission.sniffer import speaks_http
from wsraw.gateway.connection.standing import Standing
from wsraw.gateway.http import answer_for, http_answer
from wsraw.link.records import Event

ANSWER: Final = http_answer(
    429, "too many connections from your address", ("Retry-After", str(RETRY_AFTER))
)

ENOUGH: Final = 8
"""Bytes that say whether they begin a request: the longest method, and a space."""


class TooMany:
    """Waits for the first bytes, and not for long."""

    __slots__ = ("_con", "_seen")

    def __init__(self, con: Standing, now: float) -> None:
        self._con = con
        self._seen = b""
        con.arm(PATIENCE, now)

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the client."""
        self._seen += data[:ENOUGH]
        speaks = speaks_http(self._seen)
        if not speaks:
            return self._reset() if speaks is False else []
        self._con.output.append(answer_for(self._seen, ANSWER))
        return self._con.end(1002, "", "protocol-error")

    def receive_eof(self, now: float) -> list[Event]:
        """The client has shut its side."""
        return self._reset()

    def handle_timeout(self, now: float) -> list[Event]:
        """Nobody knows what it is."""
        return self._reset()

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Nobody has heard of it."""
        return self._reset()

    def _reset(self) -> list[Event]:
        self._con.cut()
        return self._con.end(1006, "", "protocol-error")
