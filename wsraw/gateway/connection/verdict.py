"""Sans-I/O. A WebSocket's handshake that waits for the verdict of on_connect."""

from __future__ import annotations

from collections.abc import Sequence

from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.connection.phases import Connecting, establish
from wsraw.gateway.http import answer, http_answer
from wsraw.link.records import Event, Reject
from wsraw.link.rules import OF_ANSWERS, header_problem


class AwaitingVerdict(Connecting):
    """The request is valid; a handler decides whether it is answered with a 101."""

    __slots__ = ("_policy",)

    def __init__(self, policy: AdmissionPolicy) -> None:
        super().__init__()
        self._policy = policy

    def accept(
        self,
        con: Connection,
        subprotocol: str | None,
        headers: Sequence[tuple[str, str]],
        now: float,
    ) -> tuple[list[Event], str | None]:
        """Answer with the 101, followed by what handlers have sent."""
        ws = con.websocket
        assert ws is not None
        why = header_problem(headers, OF_ANSWERS) or None
        if subprotocol and subprotocol not in ws.offered:
            why = f"the client does not offer the subprotocol {subprotocol!r}"
        if why is not None:
            return self.reject(con, Reject(con.id, 500), now), why
        ws.let_in(subprotocol, headers)
        con.collect(ws)
        establish(con, now)
        return self.close_as_wanted(con, now), None

    def reject(self, con: Connection, reject: Reject, now: float) -> list[Event]:
        self._policy.refuse("verdict", con.about, "rejected by a handler", now)
        con.output.append(answer(reject.status, reject.reason, reject.headers, reject.body))
        return _ended(con, reject.status, "rejected")

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        """Keep bytes that come too early: how to read them is known only after the 101."""
        con.intake.unparsed += data
        return []

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        return con.end(1006, "", "lost")

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        why = f"on_connect has not decided within {con.keepalive.timeout:g} s"
        self._policy.refuse("verdict_timeout", con.about, why, now)
        con.output.append(http_answer(503, "the server took too long to decide"))
        return _ended(con, 503, "verdict-timeout")

    def give_up(self, con: Connection, code: int, reason: str, cause: str) -> list[Event]:
        """Answer with an error: there is no close frame before the 101."""
        status = 500 if code == 1011 else 503
        con.output.append(http_answer(status, reason or "not now"))
        return _ended(con, status, cause)


def _ended(con: Connection, status: int, cause: str) -> list[Event]:
    """The response has been given."""
    events = con.end(1006, "", cause)
    con.ending.status = status
    return events
