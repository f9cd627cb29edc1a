"""Sans-I/O. One connection, accepted or opened, raw or WebSocket: what is wanted of it.

Bytes, EOF and time in, events out (standing.py; accepting.py and dialing.py until it stands);
intents in, bytes out (here). Its states are in states.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Self

from wsraw.config.addresses import Address, Listen
from wsraw.config.settings import Settings
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection.accepting import Accepting
from wsraw.gateway.connection.dialing import Dialling
from wsraw.gateway.connection.standing import PONGS_BELOW, Standing
from wsraw.gateway.connection.states import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    SNIFFING,
    TRANSITIONS,
    ConnectionState,
    Step,
)
from wsraw.gateway.connection.verdict import EARLY_LIMIT, Asking
from wsraw.gateway.counters import Counters
from wsraw.gateway.http import answer_problem
from wsraw.gateway.websocket.messages import UNFINISHED, RefusedError
from wsraw.gateway.websocket.shared import RAW_KEY, FramingKey
from wsraw.gateway.websocket.websocket import close_refusal
from wsraw.link.open_options import Opening
from wsraw.link.records import Event, OnError
from wsraw.link.rules import OF_ANSWERS, header_problem

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "GOOD_ENDS",
    "OPEN",
    "PONGS_BELOW",
    "SNIFFING",
    "TRANSITIONS",
    "Connection",
    "ConnectionState",
    "Step",
]

GOOD_ENDS: Final = (1000, 1001)
"""Close codes that end a raw connection with FIN; any other is a fault, and resets it."""


class Connection(Standing):
    """One connection. Bytes, EOF and time in, events out; intents in, bytes out."""

    __slots__ = ("_close_asked", "_failed")

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], opened: bool
    ) -> None:
        super().__init__(con_id, settings, about, opened)
        self._close_asked: tuple[int, str, str] | None = None
        """A handler has closed it before it stands; what it sent until then goes first."""
        self._failed = False
        """Its on_error has been told, and its on_close is still to come."""

    @classmethod
    def accepted(
        cls,
        con_id: int,
        listen: Listen,
        settings: Settings,
        about: dict[str, Any],
        now: float,
        entrance: AdmissionPolicy | None = None,
        address: Address | str | None = None,
    ) -> Self:
        """A connection that a listener has accepted, from that address (or `unix`);
        `opened_events` comes next."""
        self = cls(con_id, settings, about, opened=False)
        self.address = address
        self.beginning = Accepting(
            self, listen, entrance or AdmissionPolicy(settings, Counters()), now
        )
        return self

    @classmethod
    def dialled(
        cls, con_id: int, asked: Opening, settings: Settings, about: dict[str, Any], now: float
    ) -> Connection:
        """A connection that a worker has asked for; the shell dials what is `asked`."""
        self = cls(con_id, settings, about, opened=True)
        self.target = about["target"] = asked.shown
        about["kind"] = asked.kind
        self.beginning = Dialling(self, asked, now)
        return self

    @classmethod
    def buried(cls, con_id: int, settings: Settings) -> Connection:
        """What stands for a connection that ended with an earlier gateway."""
        self = cls(con_id, settings, {}, opened=True)
        self.state = CLOSED
        return self

    # --- what the shell tells ---

    def opened_events(self, now: float) -> list[Event]:
        """The events of an accepted connection before it has sent anything; with a listener for
        TLS there are none yet."""
        beginning = self.beginning
        return beginning.opened(now) if isinstance(beginning, Accepting) else []

    def expect_tls(self, now: float) -> None:
        """An accepted connection has begun with TLS."""
        beginning = self.beginning
        if isinstance(beginning, Accepting):
            beginning.expect_tls(now)

    def secured(self, now: float) -> list[Event]:
        """TLS stands below an accepted connection, or the listener does not need it and the peer
        speaks none: from here on it may send."""
        beginning = self.beginning
        return beginning.secured(now) if isinstance(beginning, Accepting) else []

    def turn_away(self, answer: bytes) -> list[Event]:
        """TLS does not come to stand below an accepted connection; `answer` is the last that its
        peer gets. No handler hears of it."""
        if self.state is CLOSED:
            return []
        self.output.append(answer)
        return self.end(1002, "", "protocol-error")

    @property
    def awaits_header(self) -> bool:
        """Whether a PROXY header may come, in front of TLS and all else."""
        beginning = self.beginning
        return isinstance(beginning, Accepting) and beginning.awaits_header

    def receive_header(self, data: bytes, now: float) -> tuple[list[Event], bytes]:
        """While `awaits_header`: take the first bytes, give events and the bytes behind the header.
        For who has to look at those (TLS) before `receive_data` does; it would do both."""
        beginning = self.beginning
        assert isinstance(beginning, Accepting)
        return beginning.receive_header(data, now)

    def connected(self, now: float) -> list[Event]:
        """TCP, and TLS where it is wanted, stand to what we have dialled."""
        beginning = self.beginning
        if not isinstance(beginning, Dialling):
            return []
        return beginning.connected(now) + self.close_as_asked(now)

    @property
    def asked(self) -> Opening | None:
        """What is to be dialled, for the shell; None when that is over."""
        beginning = self.beginning
        return beginning.asked if isinstance(beginning, Dialling) else None

    def connect_failed(self, message: str, now: float) -> list[Event]:
        """It could not be dialled; `message` says why, for the handler."""
        beginning = self.beginning
        return beginning.failed(message) if isinstance(beginning, Dialling) else []

    def lost(self, message: str, now: float) -> list[Event]:
        """The socket has failed."""
        if self.state is CLOSED:
            return []
        self.cut()
        if self.state is CONNECTING and self.opened:
            return self.end(1006, "", "connect-failed", message)
        ws = self.websocket
        if self.half_closed and ws is not None:
            return self.end(ws.close_code, ws.close_reason, self.close_cause, ws.error)
        if self.close_cause:
            # We were waiting for its close frame; how it leaves without is no news.
            return self.end(1006, "", self.close_cause)
        return self.end(1006, "", "lost", message)

    def handle_timeout(self, now: float) -> list[Event]:
        """`deadline` has come."""
        if now < self.deadline:
            return []
        self.deadline = math.inf
        if self.beginning is not None:
            return self.beginning.handle_timeout(now)
        if self.state is OPEN:
            return self._keep_alive(now)
        if self.state is CLOSING:
            self.cut()
            return self.end(1006, "", self.close_cause or "close-timeout")
        return []

    # --- intents: before it stands ---

    @property
    def is_full(self) -> bool:
        """Before the verdict: more has come than is kept; do not read."""
        return self.state is CONNECTING and len(self._held) >= EARLY_LIMIT

    def accept(
        self, subprotocol: str | None, headers: Mapping[str, str], now: float
    ) -> tuple[list[Event], str | None]:
        """on_connect lets it in. Also returns why that cannot be; then it was answered with 500.

        To be called while `undecided` only.
        """
        self.undecided = False
        beginning, ws = self.beginning, self.websocket
        if not isinstance(beginning, Asking) or ws is None:
            return [], None
        why = header_problem(headers.items(), OF_ANSWERS) or None
        if subprotocol and subprotocol not in ws.offered:
            why = f"subprotocol {subprotocol!r} is none that the client offers"
        if why is not None:
            return beginning.reject(500, "", {}, b"", now), why
        return beginning.accept(subprotocol, headers, now), None

    def reject(
        self, status: int, reason: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> tuple[list[Event], str | None]:
        """on_connect does not. Also returns why that answer cannot be given; then it was 500.

        A raw client gets the body, or a reset. To be called while `undecided` only.
        """
        self.undecided = False
        why = answer_problem(status, reason, headers, body)
        beginning = self.beginning
        if isinstance(beginning, Asking):
            if why is not None:
                status, reason, headers, body = 500, "", {}, b""
            return beginning.reject(status, reason, headers, body, now), why
        if self.state is CLOSED:
            return [], why
        if why is None and body:
            self.output.append(body)
            return self.end(1000, "", "rejected"), None
        self.cut()
        return self.end(1008, "", "rejected"), why

    # --- intents ---

    def send(self, data: bytes, type_: str, final: bool, now: float) -> str | None:
        """Queue a frame, or bytes. Returns why it is refused, or None; or UNFINISHED: it is large,
        or waits for a large one, and has to be sent again in a later turn.

        To a connection that is over it is a no-op: the normal race. Before an opened one stands it
        waits. A refusal in the middle of a fragmented message leaves that message cut short: close.
        """
        state, ws = self.state, self.websocket
        if state is OPEN and ws is not None and final:
            frame = ws.writer.plain_frame(data, type_)
            if frame is not None:
                output = self.output
                output.chunks.append(frame)
                output.size += len(frame)
                return None
        if state is CLOSED or self._close_asked is not None:
            return None
        if ws is None:
            if self.kind == "raw":
                self.output.append(data)
            return None
        if state is CLOSING and not self.half_closed:
            return None
        writer = ws.writer
        if writer.is_making:
            return self._go_on_with(writer.go_on() if writer.makes(data) else None)
        try:
            opcode = writer.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        if state is not CONNECTING:
            return self._go_on_with(writer.frame(opcode, data, final))
        self.output.keep_early(opcode, data, final)
        return None

    def _go_on_with(self, frame: bytes | None) -> str | None:
        if frame is None:
            return UNFINISHED
        self.output.append(frame)
        return None

    @property
    def is_making(self) -> bool:
        """Whether a large frame is being made for it."""
        return self.websocket is not None and self.websocket.writer.is_making

    @property
    def framing_key(self) -> FramingKey | None:
        """Connections of the same key take the same `frame_message`; None: use `send`."""
        if self.websocket is None:
            return RAW_KEY
        return self.websocket.writer.framing_key if self.state is OPEN else None

    def send_framed(self, framed: bytes) -> None:
        """Queue what `frame_message` has made for our `framing_key`."""
        if self.state is OPEN or (self.websocket is None and self.state is not CLOSED):
            self.output.append_shared(framed)

    def close_refusal(self, code: int) -> str | None:
        """Why a handler may not close with this code, or None: it may."""
        return close_refusal(code)

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Close in order. A WebSocket's on_close comes with the peer's close frame, or in time.

        Raises ValueError for a code that `close_refusal` refuses.
        """
        state, ws = self.state, self.websocket
        if state is OPEN and ws is not None:
            ws.close(code, reason)
            self.collect(ws)
            self.step(Step.CLOSE_SENT)
            self.close_cause = cause
            self.paused = False
            self.arm(self.settings.close_timeout, now)
            return self._receive_while_closing(b"") + self.eof_as_held(now)
        if state is CONNECTING and cause == "handler" and self._is_worth_waiting:
            self._close_asked = self._close_asked or (code, reason, cause)
            return []
        if self.beginning is not None:
            return self.beginning.close(code, reason, cause, now)
        if state is CLOSED or (state is CLOSING and ws is not None):
            return []
        self.ends_with_reset = code not in GOOD_ENDS and self.kind == "raw"
        return self.end(code, reason, cause)

    @property
    def _is_worth_waiting(self) -> bool:
        # Who closes without rejecting wants a close frame, with its code, and that needs the 101.
        return bool(self.undecided or self.output.size or self.output.early)

    def close_as_asked(self, now: float) -> list[Event]:
        """It stands, perhaps: then do what was asked before."""
        if self._close_asked is None or self.state is not OPEN:
            return []
        asked, self._close_asked = self._close_asked, None
        return self.close(*asked, now)

    def close_now(
        self, code: int, reason: str, cause: str, message: str, now: float
    ) -> list[Event]:
        """Close without writing what waits, but tell why: a WebSocket gets its close frame."""
        if self.state is not OPEN or self.websocket is None:
            return self.abort(code, reason, cause, message, now)
        self.output.drop_waiting()
        self._failed = True
        return [OnError(0, self.id, message), *self.close(code, reason, cause, now)]

    def abort(self, code: int, reason: str, cause: str, message: str, now: float) -> list[Event]:
        """End at once, with a reset: what is queued is not written any more."""
        self.cut()
        if self.state is CLOSED:
            return []
        if self._failed:
            # It ends for what it was told to end for; a second on_error would be out of order.
            return self.end(1006, "", self.close_cause)
        return self.end(code, reason, cause, message)

    # --- bytes out ---

    def written(self, size: int, now: float) -> list[Event]:
        """The shell has written the first `size` bytes of `data_to_send`."""
        self.output.take_written(size)
        ws = self.websocket
        if self._ping_unwritten and size:
            self._ping_unwritten = max(0, self._ping_unwritten - size)
            self._ping_sent = now
        if self._holds_pongs and self.output.size <= PONGS_BELOW and ws is not None:
            self._holds_pongs = False
            ws.answer_ping()
            self.collect(ws)
        if self.state is CLOSING and size:
            if self._drained and not self.output.size:
                return self.end(1000, "", "eof")
            if self._drained or (ws is not None and not self.half_closed):
                self.arm(self.timeout, now)
        return []
