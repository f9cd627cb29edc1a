"""Sans-I/O. One connection, accepted or opened, raw or WebSocket.

Bytes, EOF and time in, events out; commands of handlers in, bytes out. What a connection does with
them depends on its phase: accepting.py and verdict.py until an accepted connection is open,
dialing.py until an opened one is, phases.py from then on. Its states are in states.py.
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
"""Unwritten bytes above which pings are answered only once no more than this many are left."""


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
        """The setting whose limit has ended the connection; the endpoint counts it."""
        self.is_told = False
        """The on_error has been told, and the on_close is still to come."""
        self.is_answered = False
        """The connection was a request, and no event reports its end."""
        self.status = 0
        """The status of a response that ends the connection and is not counted yet; 0 for none."""
        self.successor: Callable[[int, float], Connection] | None = None
        """Makes the connection that continues on the same socket, from an id and the time."""


_NOT_ENDED: Final = Ending()


class EntryView(Protocol):
    """The part of an `Entry` (gateway/delivery/) that a connection uses."""

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
        """Facts for handlers: peer, proxy, scheme, listener, target, subprotocol, params."""
        self.opened = opened
        """A handler has opened it; else a listener has accepted it."""
        self.pool = DEFAULT_POOL
        """For an accepted connection: the pool whose workers serve it."""
        self.inf: dict[str, str] = {}
        """The head of the handshake, for handlers; empty until it is known what the client
        speaks."""
        self.state = CONNECTING if opened else SNIFFING
        self.phase = phase
        self.websocket: WebSocket | None = None
        self.output = Output()
        self.intake = Intake()
        self.keepalive = Keepalive()
        self.rate_limit: RateLimit | None = None
        self.ending = _NOT_ENDED
        self.announced = opened
        """A handler knows of the connection: it will be told the end."""
        self.undecided = False
        """A handler may still accept or reject the client (on_connect)."""
        self.address_key: bytes | None = None
        """The key under which max_connections_per_address counts it; None: it is not counted."""
        self.kept = 0
        """Bytes that the connection takes beside its events and its output, as counted by the flow.
        If its entry is gone, its output is included."""
        self.endpoint: object | None = None
        """The present owner of the socket: an `Endpoint` of gateway/sockets/, or what replaces it
        without a network. Here it only matters whether the socket has an owner."""
        self.entry: EntryView | None = None
        """None until the first event."""

    @classmethod
    def ended(cls, con_id: int, settings: Settings) -> Connection:
        """A connection that has ended in an earlier gateway."""
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
        """Whether the peer can be told why the connection ends: in a close frame, or a response."""
        return self.websocket is not None or self.kind == "http"

    @property
    def is_sending_answer(self) -> bool:
        """Whether it was a request whose response is complete, and waits for the client to read
        it."""
        return self.ending.is_answered and self.output.size > 0

    @property
    def linger_timeout(self) -> float:
        """After the end: seconds without progress until the socket is closed. The client of a
        request may read its response as slowly as all output; everything else is a close."""
        settings = self.settings
        return settings.write_timeout if self.is_sending_answer else settings.close_timeout

    @property
    def target(self) -> str:
        """The target of an opened connection."""
        target: str = self.about.get("target", "") if self.opened else ""
        return target

    @property
    def subject(self) -> Subject:
        """How a log line names the connection."""
        return Subject(self.id, self.about.get("peer") or without_secrets(self.target))

    @property
    def label(self) -> str:
        return self.subject.label

    @property
    def needs_verdict(self) -> bool:
        """Whether handlers accept or reject the client: the setting `verdict`, for accepted
        connections."""
        return self.settings.verdict == "handlers" and not self.opened

    @property
    def unfinished(self) -> int:
        """Bytes that were received and do not make an event yet."""
        ws = self.websocket
        parser = ws.unfinished if ws is not None else self.phase.unfinished
        return parser + len(self.intake.unparsed)

    # --- until it is open: what the socket's side tells ---

    def first_events(self, now: float) -> list[Event]:
        """The events of an accepted connection before it has sent anything: those of a raw one if
        its listener is for raw clients alone, and neither TLS nor a PROXY header may come first."""
        return self.phase.first_events(self, now)

    def turn_away(self, answer: bytes) -> list[Event]:
        """The TLS handshake of an accepted connection has failed. `answer` is the last thing that
        the peer gets. No handler is told."""
        if self.state is CLOSED:
            return []
        self.output.append(answer)
        return self.end(1002, "", "protocol-error")

    def connected(self, now: float) -> list[Event]:
        """The dialled target is connected: TCP, and TLS if it is wanted."""
        return self.phase.connected(self, now)

    def connect_failed(self, message: str, now: float) -> list[Event]:
        """Connecting to the target has failed; `message` tells the handler why."""
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
            # The head of a request is bounded by max_header_size, and does not count as data of the
            # client.
            size = sum([len(event.data) for event in events if type(event) is OnMessage])
            self._charge(self.rate_limit, min(size, len(data)), events, now)
        return events

    def _charge(self, limit: RateLimit, size: int, events: list[Event], now: float) -> None:
        # Frames that are not messages are work, too.
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
        """Handle an EOF that came before all data was parsed, as it may be parsed now."""
        intake = self.intake
        return self.receive_eof(now) if intake.eof and not intake.has_more else []

    def lost(self, message: str, now: float) -> list[Event]:
        if self.state is CLOSED:
            return []
        self.cut()
        return self.phase.lost(self, message)

    def drained(self, now: float) -> list[Event]:
        """All that a half-closed peer has sent has been handled."""
        return self.phase.drained(self, now)

    def handle_timeout(self, now: float) -> list[Event]:
        if now < self.keepalive.deadline:
            return []
        self.keepalive.deadline = math.inf
        return self.phase.handle_timeout(self, now)

    def pause(self, now: float) -> None:
        """Nothing is read for now, so no deadline that waits for the peer runs (rule 7), except
        those of a handshake and of a close."""
        if not self.intake.paused and self.state is OPEN:
            self.intake.paused = True
            self.keepalive.deadline = math.inf

    def resume(self, now: float) -> list[Event]:
        """Go on reading. To be called whenever reading is allowed: it handles bytes that were kept
        unparsed, and there may be some without a pause."""
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
        """on_connect accepts the client. Also returns why that is impossible; then the client got
        500. To be called only while `undecided`."""
        self.undecided = False
        return self.phase.accept(self, subprotocol, headers, now)

    def reject(self, reject: Reject, now: float) -> tuple[list[Event], str | None]:
        """on_connect rejects the client. Also returns why that answer is impossible; then it was
        500. A raw client gets the body, or a reset. To be called only while `undecided`."""
        self.undecided = False
        why = answer_problem(reject.status, reject.reason, reject.headers, reject.body)
        if why is not None:
            reject = Reject(self.id, 500)
        return self.phase.reject(self, reject, now), why

    def send(self, data: bytes, type_: str, final: bool, now: float) -> str | None:
        """Queue a frame, or bytes. Returns why the data is refused, or None; or UNFINISHED: the
        data is large, or waits for a large frame, and has to be sent again in a later turn.

        If the connection is over, nothing happens: this race is normal. If an opened connection is
        not open yet, the data waits. A refusal in the middle of a fragmented message leaves that
        message cut short: close.
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
        """Whether a large frame is being made for the connection."""
        return self.websocket is not None and self.websocket.writer.is_making

    @property
    def framing_key(self) -> FramingKey | None:
        """Connections with the same key take the same `frame_message`; None: use `send`."""
        if self.websocket is None:
            return RAW_KEY
        return self.websocket.writer.framing_key if self.state is OPEN else None

    def send_framed(self, framed: bytes) -> None:
        """Queue what `frame_message` has made for this connection's `framing_key`."""
        if self.state is OPEN or (self.websocket is None and self.state is not CLOSED):
            self.output.append_shared(framed)

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Close in order. The on_close of a WebSocket comes with the peer's close frame, or after a
        timeout. Raises ValueError for a code that `close_refusal` refuses."""
        return self.phase.close(self, code, reason, cause, now)

    def close_now(
        self, code: int, reason: str, cause: str, message: str, now: float
    ) -> list[Event]:
        """Close without writing the output that waits; a WebSocket still gets its close frame."""
        if self.state is not OPEN or self.websocket is None:
            return self.abort(code, reason, cause, message, now)
        self.output.drop_waiting()
        events = self.close(code, reason, cause, now)
        self.ending.is_told = True
        return [OnError(0, self.id, message), *events]

    def abort(self, code: int, reason: str, cause: str, message: str, now: float) -> list[Event]:
        """End at once, with a reset: queued output is not written any more."""
        self.cut()
        if self.state is CLOSED:
            return []
        if self.ending.is_told:
            # Why the connection ends was told already; a second on_error would be out of order.
            return self.end(1006, "", self.ending.cause)
        return self.end(code, reason, cause, message)

    @property
    def is_shut(self) -> bool:
        """Whether the peer was told that nothing more will be sent."""
        return self.phase.is_shut

    def shut(self) -> None:
        """Send nothing more, and continue to read: a raw connection sends a FIN."""
        self.phase.shut(self)

    # --- what phases do ---

    def step(self, step: Step) -> None:
        """Change the state by a step. Raises KeyError for a step that the table does not have."""
        self.state = TRANSITIONS[self.state, step]

    def announce(self) -> list[Event]:
        """The on_connect event."""
        self.announced = True
        self.undecided = self.needs_verdict
        return [OnConnect(0, self.id, self.inf, self.undecided, about=self.about)]

    def half_close(self, phase: Phase) -> None:
        """First handle what has been received; then the phase ends the connection."""
        self.step(Step.HALF_CLOSED)
        self.phase = phase
        self.intake.half_closed = True

    def collect(self, ws: WebSocket) -> None:
        """Queue the bytes that the WebSocket has to write."""
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
        """Enter CLOSED: on_close, after an on_error if there is a message. `limit` is the setting
        that is the reason."""
        # A handler that gets an end without an on_connect must learn here what has ended.
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
        """End without the steps of a normal end, because those have failed: a bug in wsraw."""
        self.state = CLOSED
        self.phase = _CLOSED
        self.ending = Ending(1011, "", FAULT)
        self.keepalive.deadline = math.inf
        self.undecided = False
        self.intake.clear()
        self.output = Output()
        self.output.reset = True


class Phase:
    """What a connection does in one part of its life; there is a subclass for each part. A phase
    ignores what it has no use for, and this class ignores everything: it is the phase of a closed
    connection. Methods without a docstring have that of the same method of `Connection`."""

    __slots__ = ()

    # --- accepting.py ---

    def first_events(self, con: Connection, now: float) -> list[Event]:
        return []

    def expect_tls(self, con: Connection, now: float) -> None:
        """The client has begun with TLS: limit the time of the handshake."""

    def secured(self, con: Connection, now: float) -> list[Event]:
        """The TLS handshake of an accepted connection is complete, or the listener does not require
        it and the client does not use TLS: from now on the client may send."""
        return []

    @property
    def awaits_header(self) -> bool:
        """Whether a PROXY header may come, before TLS and everything else."""
        return False

    def receive_header(self, con: Connection, data: bytes, now: float) -> tuple[list[Event], bytes]:
        """While `awaits_header`: take the first bytes; return events and the bytes behind the
        header. For callers that examine those bytes themselves (TLS); `receive_data` does both."""
        return [], data

    # --- dialing.py ---

    @property
    def opening(self) -> Opening | None:
        """The target to dial, until the connection is open or has ended; else None."""
        return None

    def connected(self, con: Connection, now: float) -> list[Event]:
        return []

    def connect_failed(self, con: Connection, message: str) -> list[Event]:
        return []

    # --- requests/phases.py ---

    @property
    def unfinished(self) -> int:
        """Bytes of an incomplete request."""
        return 0

    def respond(
        self, con: Connection, respond: Respond, now: float
    ) -> tuple[list[Event], str | None]:
        """A handler answers a request. Also returns why that is impossible."""
        return [], None

    @property
    def is_answering(self) -> bool:
        """Whether a response has begun and is not complete."""
        return False

    def pass_on(self, con: Connection, now: float) -> list[Event]:
        """A request's handlers do not answer it."""
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
        """Go on with the bytes that were kept."""
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
        """Tell the peer that nothing more comes: only an open raw connection can do that."""

    def written(self, con: Connection, now: float) -> list[Event]:
        """In CLOSING: some output has been written."""
        return []

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        return []


_CLOSED: Final = Phase()
