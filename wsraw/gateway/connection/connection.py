"""Sans-I/O. One connection, accepted or opened, raw or WebSocket.

Bytes, EOF and time in, events out; what handlers want in, bytes out. What it does with them depends
on its phase: accepting.py and verdict.py until an accepted connection is open, dialing.py until an
opened one is, phases.py from then on. Its states are in states.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from wsraw.config.settings import Settings
from wsraw.gateway.connection.intake import Intake
from wsraw.gateway.connection.keepalive import Keepalive
from wsraw.gateway.connection.output import Output
from wsraw.gateway.connection.rate_limit import RateLimit
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
from wsraw.gateway.counters import FAULT
from wsraw.gateway.http import answer_problem
from wsraw.gateway.totals import ConnectionTotals
from wsraw.gateway.websocket.deflate import FramingKey
from wsraw.gateway.websocket.heads import Head
from wsraw.gateway.websocket.shared import RAW_KEY
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.open_options import Opening
from wsraw.link.records import (
    DEFAULT_POOL,
    Event,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Reject,
    Respond,
)
from wsraw.runtime.log.line import Subject
from wsraw.runtime.printable import without_secrets

__all__ = [
    "CLOSED",
    "CLOSING",
    "CONNECTING",
    "OPEN",
    "PONGS_BELOW",
    "SNIFFING",
    "TRANSITIONS",
    "Connection",
    "ConnectionState",
    "Step",
]

PONGS_BELOW: Final = 64 * 1024
"""Unwritten bytes above which a peer's pings are answered only once they have gone."""


class Ending:
    """Why and how a connection ends or has ended."""

    __slots__ = (
        "cause",
        "code",
        "is_answered",
        "is_told",
        "limit",
        "reason",
        "status",
        "successor",
    )

    def __init__(self, code: int = 0, reason: str = "", cause: str = "", limit: str = "") -> None:
        self.code = code
        self.reason = reason
        self.cause = cause
        self.limit = limit
        """The setting that has ended it; the endpoint counts it."""
        self.is_told = False
        """The on_error has been told, and the on_close is still to come."""
        self.is_answered = False
        """It was a request, and no event tells its end."""
        self.status = 0
        """The status of a response that ends it and is not counted yet; 0 for none."""
        self.successor: Callable[[int, float], Connection] | None = None
        """Makes the connection that goes on with its socket, from an id and the time."""


_NOT_ENDED: Final = Ending()


class EntryView(Protocol):
    """What a connection sees of its entry, the `Entry` of gateway/delivery/."""

    gone: bool
    pauses: int
    totals: ConnectionTotals


class Connection:
    """One connection, from its first byte to its last."""

    __slots__ = (
        "about",
        "address_key",
        "announced",
        "ending",
        "endpoint",
        "entry",
        "id",
        "inf",
        "intake",
        "keepalive",
        "kept",
        "opened",
        "output",
        "phase",
        "pool",
        "rate_limit",
        "settings",
        "state",
        "undecided",
        "websocket",
    )

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], phase: Phase, opened: bool
    ) -> None:
        self.id = con_id
        self.settings = settings
        self.about = about
        """What we know of it: peer, proxy, scheme, listener, target, subprotocol, params."""
        self.opened = opened
        """A handler has opened it; else a listener has accepted it."""
        self.pool = DEFAULT_POOL
        """Of an accepted one: whose workers serve it."""
        self.inf: dict[str, str] = {}
        """The head of its handshake, for handlers; empty until it is known what it is."""
        self.state = CONNECTING if opened else SNIFFING
        self.phase = phase
        self.websocket: WebSocket | None = None
        self.output = Output()
        self.intake = Intake()
        self.keepalive = Keepalive()
        self.rate_limit: RateLimit | None = None
        self.ending = _NOT_ENDED
        self.announced = opened
        """A handler knows of it: its end is to be told."""
        self.undecided = False
        """A handler may still accept or reject the client (on_connect)."""
        self.address_key: bytes | None = None
        """What it counts as for max_connections_per_address; None: not at all."""
        self.kept = 0
        """Bytes that it takes beside its events and its output, as the flow has counted them. Of
        one whose entry is gone its output is in there."""
        self.endpoint: object | None = None
        """Whoever has its socket now: an `Endpoint` of gateway/sockets/, or what stands in for it
        where there is no network. What matters here is whether there is one."""
        self.entry: EntryView | None = None
        """None until the first event."""

    @classmethod
    def ended(cls, con_id: int, settings: Settings) -> Connection:
        """A connection that has ended with an earlier gateway."""
        con = cls(con_id, settings, {}, _CLOSED, opened=True)
        con.state = CLOSED
        return con

    # --- what it is ---

    @property
    def kind(self) -> str:
        """`raw`, `websocket` or `http` (a request for handlers), once it is known."""
        if self.websocket is not None:
            return "websocket"
        return self.inf["Protocol"] if self.inf else ""

    @property
    def can_be_told(self) -> bool:
        """Whether its peer can be told why it ends: in a close frame, or a response."""
        return self.websocket is not None or self.kind == "http"

    @property
    def target(self) -> str:
        """What an opened connection was opened to."""
        target: str = self.about.get("target", "") if self.opened else ""
        return target

    @property
    def subject(self) -> Subject:
        """What a line of the log about it says."""
        return Subject(self.id, self.about.get("peer") or without_secrets(self.target))

    @property
    def label(self) -> str:
        return self.subject.label

    @property
    def needs_verdict(self) -> bool:
        """Whether handlers accept or reject it: the setting `verdict`, for accepted connections."""
        return self.settings.verdict == "handlers" and not self.opened

    @property
    def unfinished(self) -> int:
        """Bytes that have come and are not an event yet."""
        ws = self.websocket
        parser = ws.unfinished if ws is not None else self.phase.unfinished
        return parser + len(self.intake.unparsed)

    # --- until it is open: what the socket's side tells ---

    def first_events(self, now: float) -> list[Event]:
        """The events of an accepted connection before it has sent anything; with a listener for
        TLS there are none yet."""
        return self.phase.first_events(self, now)

    def turn_away(self, answer: bytes) -> list[Event]:
        """The TLS handshake of an accepted connection has failed; `answer` is the last that its
        peer gets. No handler hears of it."""
        if self.state is CLOSED:
            return []
        self.output.append(answer)
        return self.end(1002, "", "protocol-error")

    def connected(self, now: float) -> list[Event]:
        """What was dialled is connected: TCP, and TLS where it is wanted."""
        return self.phase.connected(self, now)

    def connect_failed(self, message: str, now: float) -> list[Event]:
        """What was to be dialled could not be; `message` says why, for the handler."""
        return self.phase.connect_failed(self, message)

    # --- what the socket's side tells ---

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        self.keepalive.heard = now
        if self.rate_limit is None:
            return self.phase.receive_data(self, data, now)
        was_open = self.state is OPEN
        events = self.phase.receive_data(self, data, now)
        if was_open:
            self._charge(self.rate_limit, len(data), events, now)
        elif self.state is OPEN:
            # The head of a request, which max_header_size bounds, is none of what a client sends.
            size = sum([len(event.data) for event in events if type(event) is OnMessage])
            self._charge(self.rate_limit, min(size, len(data)), events, now)
        return events

    def _charge(self, limit: RateLimit, size: int, events: list[Event], now: float) -> None:
        # Frames that are not messages are work all the same.
        count = self.intake.parsed or sum([type(event) is OnMessage for event in events])
        if limit.charge(size, count, now) and self.state is OPEN:
            limit.overdrawn[self.id] = None

    def receive_eof(self, now: float) -> list[Event]:
        intake = self.intake
        if intake.unparsed or intake.has_more:
            intake.eof = True
            return []
        return self.phase.receive_eof(self, now)

    def receive_held_eof(self, now: float) -> list[Event]:
        """The peer had shut its side before all that it sent was parsed: now it may be."""
        intake = self.intake
        return self.receive_eof(now) if intake.eof and not intake.has_more else []

    def lost(self, message: str, now: float) -> list[Event]:
        if self.state is CLOSED:
            return []
        self.cut()
        return self.phase.lost(self, message)

    def drained(self, now: float) -> list[Event]:
        """All that a half-closed peer has sent is handled."""
        return self.phase.drained(self, now)

    def handle_timeout(self, now: float) -> list[Event]:
        if now < self.keepalive.deadline:
            return []
        self.keepalive.deadline = math.inf
        return self.phase.handle_timeout(self, now)

    def pause(self, now: float) -> None:
        """Nothing is read for now: no clock that waits for the peer runs (rule 7), but for that of
        a handshake, and that of a close."""
        if not self.intake.paused and self.state is OPEN:
            self.intake.paused = True
            self.keepalive.deadline = math.inf

    def resume(self, now: float) -> list[Event]:
        """Reading goes on. Always to be called when it is allowed: this brings out what was kept
        back unparsed, and that can be so without a pause."""
        intake, keepalive = self.intake, self.keepalive
        if intake.paused:
            intake.paused = False
            keepalive.heard = now
            if self.state is not CLOSED and self.state is not CLOSING:
                keepalive.arm(keepalive.timeout, now)
        intake.parsed = 0
        if not (intake.unparsed or intake.has_more):
            return []
        events = self.phase.resume(self, now)
        if self.rate_limit is not None and intake.parsed:
            self._charge(self.rate_limit, 0, events, now)
        return events

    def written(self, size: int, now: float) -> list[Event]:
        """The first `size` bytes of `output.data_to_send` have been written."""
        output, keepalive = self.output, self.keepalive
        output.take_written(size)
        if keepalive.ping_unwritten and size:
            keepalive.written(size, now)
        if keepalive.holds_pongs and output.size <= PONGS_BELOW and self.websocket is not None:
            keepalive.holds_pongs = False
            self.websocket.answer_ping()
            self.collect(self.websocket)
        if self.state is CLOSING and size:
            return self.phase.written(self, now)
        return []

    # --- what handlers want ---

    def accept(
        self, subprotocol: str | None, headers: Sequence[tuple[str, str]], now: float
    ) -> tuple[list[Event], str | None]:
        """on_connect accepts it. Also returns why that cannot be; then it was answered with 500.

        To be called while `undecided` only.
        """
        self.undecided = False
        return self.phase.accept(self, subprotocol, headers, now)

    def reject(self, reject: Reject, now: float) -> tuple[list[Event], str | None]:
        """on_connect rejects it. Also returns why that answer cannot be given; then it was 500.

        A raw client gets the body, or a reset. To be called while `undecided` only.
        """
        self.undecided = False
        why = answer_problem(reject.status, reject.reason, reject.headers, reject.body)
        if why is not None:
            reject = Reject(self.id, 500)
        return self.phase.reject(self, reject, now), why

    def send(self, data: bytes, type_: str, final: bool, now: float) -> str | None:
        """Queue a frame, or bytes. Returns why it is refused, or None; or UNFINISHED: it is large,
        or waits for a large one, and has to be sent again in a later turn.

        To a connection that is over it is a no-op: the normal race. Before an opened one is open it
        waits. A refusal in the middle of a fragmented message leaves that message cut short: close.
        """
        ws = self.websocket
        if self.state is OPEN and ws is not None and final:
            frame = ws.writer.plain_frame(data, type_)
            if frame is not None:
                output = self.output
                output.chunks.append(frame)
                output.size += len(frame)
                if type(frame) is Head:
                    output.append(data)
                return None
        return self.phase.send(self, data, type_, final)

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

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Close in order. A WebSocket's on_close comes with the peer's close frame, or in time.

        Raises ValueError for a code that `close_refusal` refuses.
        """
        return self.phase.close(self, code, reason, cause, now)

    def close_now(
        self, code: int, reason: str, cause: str, message: str, now: float
    ) -> list[Event]:
        """Close without writing what waits, but tell why: a WebSocket gets its close frame."""
        if self.state is not OPEN or self.websocket is None:
            return self.abort(code, reason, cause, message, now)
        self.output.drop_waiting()
        events = self.close(code, reason, cause, now)
        self.ending.is_told = True
        return [OnError(0, self.id, message), *events]

    def abort(self, code: int, reason: str, cause: str, message: str, now: float) -> list[Event]:
        """End at once, with a reset: what is queued is not written any more."""
        self.cut()
        if self.state is CLOSED:
            return []
        if self.ending.is_told:
            # Why it ends was told already; a second on_error would be out of order.
            return self.end(1006, "", self.ending.cause)
        return self.end(code, reason, cause, message)

    @property
    def is_shut(self) -> bool:
        """Whether its peer was told so."""
        return self.phase.is_shut

    def shut(self) -> None:
        """Send nothing more, and go on reading: the socket of a raw connection gets a FIN."""
        self.phase.shut(self)

    # --- what phases do ---

    def step(self, step: Step) -> None:
        """Move on. Raises KeyError for a step that the table does not have."""
        self.state = TRANSITIONS[self.state, step]

    def announce(self) -> list[Event]:
        """The on_connect."""
        self.announced = True
        self.undecided = self.needs_verdict
        return [OnConnect(0, self.id, self.inf, self.undecided, about=self.about)]

    def half_close(self, phase: Phase) -> None:
        """Handle first what has come; then the phase ends the connection."""
        self.step(Step.HALF_CLOSED)
        self.phase = phase
        self.intake.half_closed = True

    def collect(self, ws: WebSocket) -> None:
        """Queue what the WebSocket has to write."""
        for chunk in ws.output:
            self.output.append(chunk)
        ws.output.clear()

    def cut(self) -> None:
        """End with a reset; nothing more is written."""
        self.output.reset = True
        self.output.drop()

    def end(
        self, code: int, reason: str, cause: str, message: str = "", limit: str = ""
    ) -> list[Event]:
        """Enter CLOSED: on_close, with an on_error before it where there is a message. `limit` is
        the setting that is the reason."""
        # A handler that gets the end without an on_connect before must learn here what ended.
        about = self.about if self.opened and self.state is CONNECTING else {}
        self.step(Step.END)
        self.phase = _CLOSED
        self.ending = Ending(code, reason, cause, limit or self.ending.limit)
        self.keepalive.deadline = math.inf
        self.undecided = False
        self.intake.clear()
        self.output.take_early()
        if self.websocket is not None:
            self.websocket.release()
        if not self.announced:
            return []
        end: list[Event] = [OnClose(0, self.id, code, reason, cause, about=about)]
        return [OnError(0, self.id, message, about=about), *end] if message else end

    def force_end(self) -> None:
        """End without the steps of an end, as those have failed: a fault of our own."""
        self.state = CLOSED
        self.phase = _CLOSED
        self.ending = Ending(1011, "", FAULT)
        self.keepalive.deadline = math.inf
        self.undecided = False
        self.intake.clear()
        self.output = Output()
        self.output.reset = True


class Phase:
    """What a connection does in one part of its life; a subclass for each part.

    What a phase has no use for it ignores, and this class ignores all: it is the phase of a
    connection that is closed. Methods without a docstring have that of the same name in
    `Connection`.
    """

    __slots__ = ()

    # --- accepting.py ---

    def first_events(self, con: Connection, now: float) -> list[Event]:
        return []

    def expect_tls(self, con: Connection, now: float) -> None:
        """An accepted connection has begun with TLS: limit the time of the handshake."""

    def secured(self, con: Connection, now: float) -> list[Event]:
        """The TLS handshake of an accepted connection is complete, or the listener does not require
        it and the peer speaks none: from here on the peer may send."""
        return []

    @property
    def awaits_header(self) -> bool:
        """Whether a PROXY header may come, in front of TLS and all else."""
        return False

    def receive_header(self, con: Connection, data: bytes, now: float) -> tuple[list[Event], bytes]:
        """While `awaits_header`: take the first bytes, give events and the bytes behind the header.
        For a caller that looks at those itself (TLS); `receive_data` takes both."""
        return [], data

    # --- dialing.py ---

    @property
    def opening(self) -> Opening | None:
        """What is to be dialled; None once that is over."""
        return None

    def connected(self, con: Connection, now: float) -> list[Event]:
        return []

    def connect_failed(self, con: Connection, message: str) -> list[Event]:
        return []

    # --- requests/phases.py ---

    @property
    def unfinished(self) -> int:
        """Bytes of a request that is not complete."""
        return 0

    def respond(
        self, con: Connection, respond: Respond, now: float
    ) -> tuple[list[Event], str | None]:
        """A handler answers a request. Also returns why it cannot."""
        return [], None

    @property
    def is_answering(self) -> bool:
        """Whether a response has begun and is not whole."""
        return False

    def pass_on(self, con: Connection, now: float) -> list[Event]:
        """Handlers have a request, and do not answer it."""
        return []

    # --- verdict.py ---

    def accept(
        self,
        con: Connection,
        subprotocol: str | None,
        headers: Sequence[tuple[str, str]],
        now: float,
    ) -> tuple[list[Event], str | None]:
        """A raw client, or one that has left, is not told."""
        return [], None

    def reject(self, con: Connection, reject: Reject, now: float) -> list[Event]:
        return []

    # --- all ---

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        con.intake.parsed = 0
        return []

    def resume(self, con: Connection, now: float) -> list[Event]:
        """Go on with the bytes that were kept back."""
        return []

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        return []

    def lost(self, con: Connection, message: str) -> list[Event]:
        return con.end(1006, "", "lost", message)

    def drained(self, con: Connection, now: float) -> list[Event]:
        return []

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        return []

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        return None

    @property
    def is_shut(self) -> bool:
        return False

    def shut(self, con: Connection) -> None:
        """Tell the peer that nothing more comes: only an open raw connection can."""

    def written(self, con: Connection, now: float) -> list[Event]:
        """In CLOSING: some output was written."""
        return []

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        return []


_CLOSED: Final = Phase()
