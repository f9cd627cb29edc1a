"""Sans-I/O. A connection with an HTTP request for handlers.

To handlers each request is a connection of its own, with its own id: one event, one response, and
the end. Its socket then goes on with the next one (`Ending.successor`), which begins as an accepted
connection does, in accepting.py. So nothing that a handler does late reaches the wrong response,
and behind a proxy, where the requests of many clients share a socket, each has its own peer, route
and state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from wsraw.gateway.admission.routes import Found
from wsraw.gateway.connection.connection import SNIFFING, Connection, Phase, Step
from wsraw.gateway.http import answer_for, http_answer
from wsraw.link.records import Event, OnRequest, Reject, Respond

if TYPE_CHECKING:
    from wsraw.gateway.connection.requests.exchange import Exchange

Following = Callable[[int, float, bytes], Connection]
"""Makes the connection of the next request from an id, the time, and the bytes of it that have
come."""

_ERRORS = {"poison": 500, "worker-died": 503}


class Receiving(Phase):
    """The head of a request has come, and its body is incomplete."""

    __slots__ = ("_exchange", "_following", "_pools")

    def __init__(self, exchange: Exchange, pools: list[Found], following: Following) -> None:
        self._exchange = exchange
        self._pools = pools
        self._following = following

    def begin(self, con: Connection, data: bytes, now: float) -> list[Event]:
        """Read the bytes behind the head."""
        con.phase = self
        con.keepalive.arm(con.settings.handshake_timeout, now)
        events = self.receive_data(con, data, now)
        if con.state is SNIFFING:
            con.output.append(self._exchange.interim())
        return events

    @property
    def unfinished(self) -> int:
        return self._exchange.unfinished

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        from wsraw.gateway.connection.requests.exchange import RequestError

        con.intake.parsed = 0
        exchange = self._exchange
        try:
            exchange.receive_data(data)
        except RequestError as error:
            method = self._exchange.method
            return refuse(con, method, error.status, str(error), limit=error.limit)
        con.intake.has_more = exchange.has_more
        if not exchange.is_complete:
            # The deadline is for each pause: a large body may take as long as it needs.
            con.keepalive.arm(con.settings.handshake_timeout, now)
            return []
        con.intake.unparsed = exchange.take_rest()
        con.step(Step.UPGRADE)
        con.inf = exchange.inf()
        con.about.update(exchange.facts())
        body = exchange.take_body()
        return Answering(exchange, body, self._pools, self._following).begin(con, body)

    def resume(self, con: Connection, now: float) -> list[Event]:
        return self.receive_data(con, b"", now) + con.receive_held_eof(now)

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        return refuse(con, self._exchange.method, 400, "the request is not complete")

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        why = "the request did not come in time"
        return refuse(con, self._exchange.method, 408, why, limit="handshake_timeout")

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        return refuse(con, self._exchange.method, 503, reason or "not now")


class Answering(Phase):
    """Handlers have the request, and answer it."""

    __slots__ = ("_body", "_exchange", "_following", "_is_begun", "_pools")

    def __init__(
        self, exchange: Exchange, body: bytes, pools: list[Found], following: Following
    ) -> None:
        self._exchange = exchange
        self._pools = pools[1:]
        self._body = body if self._pools else b""
        self._following = following
        self._is_begun = False

    def begin(self, con: Connection, body: bytes) -> list[Event]:
        """The on_request event."""
        con.phase = self
        con.keepalive.deadline = math.inf
        con.announced = con.undecided = True
        return [OnRequest(0, con.id, con.inf, body, about=con.about)]

    # --- the response ---

    def respond(
        self, con: Connection, respond: Respond, now: float
    ) -> tuple[list[Event], str | None]:
        """Begin the response, or send it whole. Also returns why it cannot be sent; then the client
        gets 500, or a reset if a response has begun already."""
        if self._is_begun:
            # A worker that has died began the response: what it sent cannot be taken back.
            con.cut()
            why = f"connection {con.id} has a response already"
            return con.end(1006, "", "protocol-error"), why
        headers = [(str(name), str(value)) for name, value in respond.headers]
        try:
            head = self._exchange.respond(
                respond.status,
                respond.reason,
                headers,
                respond.body,
                respond.final,
            )
        except ValueError as error:
            return self._fail(con, 500), str(error)
        self._is_begun = True
        if con.entry is not None:
            con.entry.totals.count_response(respond.status)
        con.undecided = False
        con.output.append(head)
        return self._end(con) if respond.final else [], None

    @property
    def is_answering(self) -> bool:
        return self._is_begun

    def accept(
        self,
        con: Connection,
        subprotocol: str | None,
        headers: Sequence[tuple[str, str]],
        now: float,
    ) -> tuple[list[Event], str | None]:
        con.undecided = True
        return [], f"connection {con.id} is an HTTP request, which is answered by `respond`"

    def reject(self, con: Connection, reject: Reject, now: float) -> list[Event]:
        headers = list(reject.headers.items())
        body = reject.body or f"{reject.reason}\n".encode()
        respond = Respond(con.id, reject.status, headers, body, reason=reject.reason)
        return self.respond(con, respond, now)[0]

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        if not self._is_begun:
            return f"connection {con.id} is an HTTP request: a `respond` comes before its body"
        try:
            con.output.append(self._exchange.send(data, final))
        except ValueError as error:
            con.cut()
            con.announced = False
            con.end(1006, "", "protocol-error")
            con.ending.is_answered = True
            return str(error)
        if final:
            self._end(con)
        return None

    def _end(self, con: Connection) -> list[Event]:
        """The response is complete."""
        rest = con.intake.unparsed
        # Its handlers know, because they have sent it.
        con.announced = False
        con.end(1000, "", "answered")
        con.ending.is_answered = True
        if self._exchange.keeps_alive:
            con.ending.successor = partial(_follow, self._following, rest)
        return []

    def pass_on(self, con: Connection, now: float) -> list[Event]:
        """Handlers have not answered: the next pool gets the request, or the client gets 404."""
        if not self._pools:
            headers = [("Content-Type", "text/plain; charset=utf-8")]
            respond = Respond(con.id, 404, headers, b"nothing is served here\n")
            return self.respond(con, respond, now)[0]
        rest, inf, about = con.intake.unparsed, con.inf, con.about
        con.announced = False
        con.end(1000, "", "answered")
        con.ending.is_answered = True
        con.ending.successor = partial(self._hand_over, con, inf, about, rest)
        return []

    def _hand_over(
        self,
        old: Connection,
        inf: dict[str, str],
        about: dict[str, object],
        rest: bytes,
        con_id: int,
        now: float,
    ) -> Connection:
        found = self._pools[0]
        phase = Answering(self._exchange, self._body, self._pools, self._following)
        con = Connection(con_id, found.settings, about, _Again(phase, self._body), opened=False)
        con.pool = found.pool
        con.step(Step.UPGRADE)
        con.inf = inf
        con.address_key = old.address_key
        con.intake.unparsed = rest
        return con

    # --- the end ---

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        """Keep the next requests until this one is answered."""
        con.intake.unparsed += data
        return []

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """If nothing was sent yet, the client gets an error; otherwise it sees that something is
        missing. A handler that closes the connection means the same."""
        if self._is_begun:
            con.cut()
            return con.end(1006, "", cause)
        if cause == "handler":
            return self._fail(con, 500 if code == 1011 else 503, cause)
        return self._fail(con, _ERRORS.get(cause, 503), cause)

    def _fail(self, con: Connection, status: int, cause: str = "protocol-error") -> list[Event]:
        return refuse(con, self._exchange.method, status, "", cause)


class _Again(Phase):
    """A request that another pool has passed on, and that is not dispatched yet."""

    __slots__ = ("_body", "_phase")

    def __init__(self, phase: Answering, body: bytes) -> None:
        self._phase = phase
        self._body = body

    def first_events(self, con: Connection, now: float) -> list[Event]:
        return self._phase.begin(con, self._body)


def _follow(following: Following, rest: bytes, con_id: int, now: float) -> Connection:
    return following(con_id, now, rest)


def refuse(
    con: Connection,
    method: str,
    status: int,
    text: str,
    cause: str = "protocol-error",
    limit: str = "",
) -> list[Event]:
    """Answer a request with an error of the gateway's own, and close."""
    texts = {500: "the server has failed", 503: "the server cannot answer now"}
    answer = http_answer(status, text or texts.get(status, "the request was refused"))
    con.output.append(answer_for(method.encode(), answer))
    events = con.end(1006, "", cause, limit=limit)
    con.ending.status = status
    return events
