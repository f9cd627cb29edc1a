"""Sans-I/O. One connection's life, accepted or opened, raw or WebSocket.

::

    SNIFFING ──raw───────────────▶ OPEN ──close sent, half-closed──▶ CLOSING
        │                            ▲  │                               │
        └─upgrade─▶ CONNECTING ─stands┘ └──────────▶ CLOSED ◀───────────┘

1. An accepted connection begins in SNIFFING, one that we open in CONNECTING.
2. CONNECTING lasts until the connection can carry data: TCP for an opened raw one, the 101 for a
   WebSocket.
3. CLOSING waits for something: a WebSocket for the close frame that answers ours, a raw connection
   that the peer has half-closed for its events to be handled and for its output to be written.
4. CLOSED is entered once, from anywhere, and on_close comes with it. Output may be left; the shell
   sees to that, or cuts it off where `reset` is set.

on_connect comes first and on_close last, each at most once. An accepted connection that ends before
its on_connect gives no event at all; an opened one is known to its handler from the beginning, so
its end is always told.

Nothing that a peer does raises. A step that the table does not have is our own mistake, and does.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final, Self

from wsraw.gateway.output import Output
from wsraw.gateway.sniff import Sniffer, Verdict
from wsraw.gateway.websocket import (
    RAW_KEY,
    DataFrame,
    RefusedError,
    WebSocket,
    close_refusal,
    http_answer,
)
from wsraw.messages import Event, OnClose, OnConnect, OnError, OnMessage, Open
from wsraw.settings import Listen, Settings

SLICE: Final = 4 * 1024
"""Compressed bytes parsed at a time; deflate can make a thousand times as many of them."""

PONGS_BELOW: Final = 64 * 1024
"""Unwritten bytes above which a peer's pings are answered only once they have gone."""


class ConnectionState(Enum):
    """Where a connection is in its life."""

    SNIFFING = "sniffing"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Step(Enum):
    """What moves a connection from one state to another."""

    RAW = "raw"
    UPGRADE = "upgrade"
    STANDS = "stands"
    CLOSE_SENT = "close sent"
    HALF_CLOSED = "half-closed"
    END = "end"


# The members of an Enum class cost a look-up each; these are asked for each message.
SNIFFING: Final = ConnectionState.SNIFFING
CONNECTING: Final = ConnectionState.CONNECTING
OPEN: Final = ConnectionState.OPEN
CLOSING: Final = ConnectionState.CLOSING
CLOSED: Final = ConnectionState.CLOSED

TRANSITIONS: Final[dict[tuple[ConnectionState, Step], ConnectionState]] = {
    (SNIFFING, Step.RAW): OPEN,
    (SNIFFING, Step.UPGRADE): CONNECTING,
    (SNIFFING, Step.END): CLOSED,
    (CONNECTING, Step.STANDS): OPEN,
    (CONNECTING, Step.END): CLOSED,
    (OPEN, Step.CLOSE_SENT): CLOSING,
    (OPEN, Step.HALF_CLOSED): CLOSING,
    (OPEN, Step.END): CLOSED,
    (CLOSING, Step.END): CLOSED,
}

GOOD_ENDS: Final = (1000, 1001)
"""Close codes that end a raw connection with FIN; any other is a fault, and resets it."""

_FAILURES: Final = {1007: "invalid-data", 1009: "too-big"}


class Connection(Output):
    """One connection. Bytes, EOF and time in, events out; intents in, bytes out."""

    __slots__ = (
        "_announced",
        "_announces_raw",
        "_close_asked",
        "_drained",
        "_early",
        "_eof_held",
        "_failed",
        "_held",
        "_last_heard",
        "_listen",
        "_ping_sent",
        "_ping_unwritten",
        "_sliced",
        "_sniffer",
        "_tcp_stands",
        "_timeout",
        "_websocket",
        "_wrong",
        "about",
        "close_cause",
        "close_code",
        "close_reason",
        "deadline",
        "early_size",
        "ends_with_reset",
        "half_closed",
        "id",
        "inf",
        "kind",
        "limit",
        "opened",
        "paused",
        "reset",
        "route",
        "settings",
        "shell",
        "state",
        "target",
    )

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], opened: bool
    ) -> None:
        super().__init__()
        self.id = con_id
        self.settings = settings
        self.about = about
        """What we know of it: peer, listener, target, subprotocol."""
        self.opened = opened
        self.kind = ""
        """`raw` or `websocket`, once it is known."""
        self.inf: dict[str, str] = {}
        self.target = ""
        self.close_code = 0
        self.close_reason = ""
        self.close_cause = ""
        self.deadline = math.inf
        """When `handle_timeout` is due. Messages do not move it; it is found out of date then."""
        self.half_closed = False
        """A raw peer has sent EOF; what it sent is still being handled."""
        self.paused = False
        self.ends_with_reset = False
        """To be reset once all is written: a raw peer has no other way to hear of a fault."""
        self.reset = False
        """To be cut off at once: no more is written, and the peer gets a reset."""
        self.limit = ""
        """The setting whose bound has ended it, for the shell to count."""
        self.shell: Any = None
        """For the owner of the socket."""
        self.route: Any = None
        """For the router."""
        self.state = CONNECTING if opened else SNIFFING
        self._announced = opened
        self._announces_raw = False
        """An opened raw connection has no on_connect (the seed); one that reconnects needs it."""
        self._tcp_stands = not opened
        self._listen: Listen | None = None
        self._sniffer: Sniffer | None = None
        self._websocket: WebSocket | None = None
        self._timeout = 0.0
        self._wrong = ""
        self._early: list[tuple[int, bytes, bool]] = []
        self.early_size = 0
        """Bytes that wait for an opened WebSocket to stand; they count as output."""
        self._close_asked: tuple[int, str, str] | None = None
        self._last_heard = 0.0
        self._ping_sent = -math.inf
        self._ping_unwritten = 0
        self._sliced = False
        self._held = b""
        self._eof_held = False
        self._drained = False
        self._failed = False
        """Its on_error has been told, and its on_close is still to come."""

    @classmethod
    def accepted(
        cls, con_id: int, listen: Listen, settings: Settings, about: dict[str, Any], now: float
    ) -> Self:
        """A connection that a listener has accepted; `opened_events` comes next."""
        self = cls(con_id, settings, about, opened=False)
        self._listen = listen
        self._sniffer = Sniffer(settings.max_header_size, settings.max_header_count)
        self._timeout = (
            settings.handshake_timeout
            if listen.protocol == "websocket"
            else listen.first_byte_timeout or settings.silence_timeout
        )
        self._arm(now)
        return self

    @classmethod
    def dialled(
        cls, con_id: int, open_: Open, settings: Settings, about: dict[str, Any], now: float
    ) -> Connection:
        """A connection that a worker has asked for; the shell dials `target`.

        What is wrong with its options is told like a failure to connect.
        """
        self = cls(con_id, settings, about, opened=True)
        self.target = open_.target
        about["target"] = open_.target
        self._announces_raw = bool(open_.options.get("reconnect"))
        timeout = open_.options.get("connect_timeout", settings.connect_timeout)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
            self._wrong = "the option connect_timeout must be a number of seconds"
            timeout = settings.connect_timeout
        self._timeout = float(timeout)
        if open_.protocol == "websocket" or open_.target.startswith("ws://"):
            self.kind = "websocket"
            try:
                self._websocket = WebSocket.client(settings, open_)
            except ValueError as error:
                self._wrong = str(error)
        else:
            self.kind = "raw"
            self.inf = {"Protocol": "raw"}
            if open_.protocol != "raw":
                self._wrong = f"protocol {open_.protocol!r} is neither raw nor websocket"
        self._arm(now)
        return self

    @classmethod
    def buried(cls, con_id: int, settings: Settings) -> Connection:
        """What stands for a connection that ended with an earlier gateway."""
        self = cls(con_id, settings, {}, opened=True)
        self.state = CLOSED
        return self

    @property
    def who(self) -> str:
        """How the log calls it."""
        peer = self.about.get("peer") or self.target
        return f"connection {self.id} ({peer})" if peer else f"connection {self.id}"

    @property
    def unfinished(self) -> int:
        """Bytes that have come and are no event yet."""
        parser = self._websocket.unfinished if self._websocket is not None else 0
        return parser + len(self._held)

    # --- how it begins ---

    def opened_events(self, now: float) -> list[Event]:
        """The events of an accepted connection before it has sent anything."""
        if self._listen is not None and self._listen.protocol == "raw":
            return self._become_raw(b"")
        return []

    def connected(self, now: float) -> list[Event]:
        """TCP stands to what we have dialled."""
        if self.state is not CONNECTING or self._tcp_stands:
            return []
        self._tcp_stands = True
        if self._wrong:
            self.drop_output()
            return self._end(1006, "", "connect-failed", self._wrong)
        if self._websocket is None:
            return self._stand(now) + self._close_as_asked(now)
        self._websocket.connect()
        self._collect(self._websocket)
        return []

    def connect_failed(self, message: str, now: float) -> list[Event]:
        """It could not be dialled; `message` says why, for the handler."""
        if self.state is not CONNECTING:
            return []
        self.drop_output()
        return self._end(1006, "", "connect-failed", self._wrong or message)

    def _become_raw(self, data: bytes) -> list[Event]:
        self._step(Step.RAW)
        self.kind = "raw"
        self.inf = {"Protocol": "raw"}
        self._sniffer = None
        self._timeout = 0.0
        self.deadline = math.inf
        events = self._announce()
        if data:
            events.append(OnMessage(0, self.id, data, "raw"))
        return events

    def _announce(self) -> list[Event]:
        self._announced = True
        return [OnConnect(0, self.id, self.inf, about=self.about)]

    def _stand(self, now: float) -> list[Event]:
        """An opened connection, or a handshake, is through."""
        self._step(Step.STANDS)
        events: list[Event] = []
        ws = self._websocket
        if ws is not None:
            self.inf = ws.inf
            self._sliced = ws.deflates
            if ws.subprotocol is not None:
                self.about["subprotocol"] = ws.subprotocol
            events = self._announce()
            for opcode, data, final in self._early:
                self.append(ws.frame(opcode, data, final))
            self._early.clear()
            self.early_size = 0
        elif self._announces_raw:
            events = self._announce()
        self._timeout = self.settings.ping_interval if ws is not None else 0.0
        self._last_heard = now
        self._arm(now)
        return events

    def _close_as_asked(self, now: float) -> list[Event]:
        """Its handler has closed it before it stood; what was sent until then goes first."""
        if self._close_asked is None or self.state is not OPEN:
            return []
        return self.close(*self._close_asked, now)

    # --- bytes in ---

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the peer."""
        self._last_heard = now
        state = self.state
        if state is OPEN:
            ws = self._websocket
            if ws is None:
                return [OnMessage(0, self.id, data, "raw")]
            if self._sliced:
                self._held += data
                return [] if self.paused else self._parse_held(now)
            events = self._to_events(ws.receive_data(data))
            if ws.output or ws.ended:
                self._after_frames(ws, events)
            return events
        if state is SNIFFING:
            return self._sniff(data, now)
        if state is CONNECTING:
            return self._receive_response(data, now)
        if state is CLOSING:
            return self._receive_while_closing(data)
        return []

    def _to_events(self, frames: list[DataFrame]) -> list[Event]:
        con = self.id
        return [OnMessage(0, con, data, kind, final) for data, kind, final in frames]

    def _after_frames(self, ws: WebSocket, events: list[Event]) -> None:
        self._collect(ws)
        if self.output_size > PONGS_BELOW:
            ws.hold_pongs = True
        if not ws.ended:
            return
        cause = "peer"
        if ws.error:
            cause = _FAILURES.get(ws.close_code, "protocol-error")
            if ws.close_code == 1009:
                self.limit = "max_message_size"
        events += self._end(ws.close_code, ws.close_reason, cause, ws.error)

    def _collect(self, ws: WebSocket) -> None:
        for chunk in ws.output:
            self.append(chunk)
        ws.output.clear()

    def _parse_held(self, now: float) -> list[Event]:
        """Slice by slice, until more is on its way to handlers than may be."""
        ws = self._websocket
        assert ws is not None
        held = self._held
        events: list[Event] = []
        size = start = 0
        while start < len(held) and size <= self.settings.high_water_mark:
            frames = ws.receive_data(held[start : start + SLICE])
            start += SLICE
            size += sum([len(data) for data, _, _ in frames])
            events += self._to_events(frames)
            if ws.output or ws.ended:
                self._after_frames(ws, events)
                if self.state is CLOSED:
                    return events
        self._held = held[start:]
        if self._eof_held and not self._held:
            events += self.receive_eof(now)
        return events

    def _receive_while_closing(self, data: bytes) -> list[Event]:
        """After our close frame only the peer's is of interest (RFC 6455, section 5.5.1)."""
        ws = self._websocket
        if ws is None or self.half_closed:
            return []
        for start in range(0, len(data), SLICE):
            ws.receive_data(data[start : start + SLICE])
        self._collect(ws)
        if not ws.ended:
            return []
        if ws.error:
            return self._end(1006, "", self.close_cause)
        return self._end(ws.close_code, ws.close_reason, self.close_cause)

    def receive_eof(self, now: float) -> list[Event]:
        """The peer has shut its side."""
        state = self.state
        if self._held:
            self._eof_held = True
            return []
        if state is SNIFFING:
            sniffer = self._sniffer
            assert sniffer is not None
            if sniffer.verdict is Verdict.HTTP:
                return self._answer(400, "the request is not complete")
            if not sniffer.buffer or self._only_websocket():
                return self._end(1006, "", "lost")
            return self._become_raw(bytes(sniffer.buffer)) + self.receive_eof(now)
        if state is CONNECTING:
            message = "the connection was closed before it stood"
            if self._websocket is not None:
                self._websocket.receive_eof()
                message = self._websocket.error
            return self._end(1006, "", "connect-failed", message)
        if state is CLOSED or self.half_closed:
            return []
        if self._websocket is not None:
            # Without a close frame: 1006 (RFC 6455, section 7.1.5), also as answer to our own.
            return self._end(1006, "", self.close_cause or "lost")
        self._step(Step.HALF_CLOSED)
        self.half_closed = True
        return []

    def drained(self, now: float) -> list[Event]:
        """All that a half-closed peer has sent is handled: it ends when its output is written."""
        if not self.half_closed or self.state is not CLOSING:
            return []
        if not self.output_size:
            return self._end(1000, "", "eof")
        if not self._drained:
            self._drained = True
            self._timeout = self.settings.close_timeout
            self._arm(now)
        return []

    def lost(self, message: str, now: float) -> list[Event]:
        """The socket has failed."""
        if self.state is CLOSED:
            return []
        self._cut()
        if self.state is CONNECTING:
            return self._end(1006, "", "connect-failed", message)
        if self.close_cause:
            # We were waiting for its close frame; how it leaves without is no news.
            return self._end(1006, "", self.close_cause)
        return self._end(1006, "", "lost", message)

    # --- what an accepted connection is ---

    def _sniff(self, data: bytes, now: float) -> list[Event]:
        sniffer, listen = self._sniffer, self._listen
        assert sniffer is not None
        assert listen is not None
        if not sniffer.buffer:
            self._timeout = self.settings.handshake_timeout
            self._arm(now)
        verdict = sniffer.receive_data(data)
        if verdict is Verdict.UNKNOWN or verdict is Verdict.HTTP:
            return []
        if verdict is Verdict.WEBSOCKET:
            return self._upgrade(sniffer, now)
        if verdict is Verdict.TOO_BIG:
            self.limit = "max_header_size"
            return self._answer(431, "the request head is too long")
        if verdict is Verdict.TOO_MANY:
            self.limit = "max_header_count"
            return self._answer(431, "the request has too many headers")
        if self._only_websocket():
            if verdict is Verdict.PLAIN_HTTP:
                return self._answer(426, "a WebSocket is needed here")
            self._cut()
            return self._end(1002, "", "protocol-error")
        if verdict is Verdict.PLAIN_HTTP and listen.plain_http == "reject":
            return self._answer(426, "a WebSocket is needed here")
        if verdict is Verdict.PLAIN_HTTP and listen.plain_http == "health":
            return self._answer(200, "ok")
        return self._become_raw(bytes(sniffer.buffer))

    def _only_websocket(self) -> bool:
        return self._listen is not None and self._listen.protocol == "websocket"

    def _upgrade(self, sniffer: Sniffer, now: float) -> list[Event]:
        self._step(Step.UPGRADE)
        self.kind = "websocket"
        self._websocket = ws = WebSocket.server(self.settings, self.settings.subprotocols)
        ws.accept(bytes(sniffer.buffer[: sniffer.head_size]))
        self._collect(ws)
        if not ws.opened:
            return self._end(1002, "", "protocol-error")
        self._sniffer = None
        events = self._stand(now)
        rest = bytes(sniffer.buffer[sniffer.head_size :])
        return events + self.receive_data(rest, now) if rest else events

    def _answer(self, status: int, text: str) -> list[Event]:
        self.append(http_answer(status, text))
        return self._end(1002, "", "protocol-error")

    def _receive_response(self, data: bytes, now: float) -> list[Event]:
        ws = self._websocket
        if ws is None:
            return []
        for start in range(0, len(data), SLICE):
            frames = ws.receive_data(data[start : start + SLICE])
            if ws.opened:
                events = self._stand(now) + self._to_events(frames)
                if ws.output or ws.ended:
                    self._after_frames(ws, events)
                rest = data[start + SLICE :]
                if rest:
                    events += self.receive_data(rest, now)
                return events + self._close_as_asked(now)
            if ws.ended:
                return self._end(1006, "", "connect-failed", ws.error)
        return []

    # --- time ---

    def _arm(self, now: float) -> None:
        self.deadline = now + self._timeout if self._timeout else math.inf

    def handle_timeout(self, now: float) -> list[Event]:
        """`deadline` has come."""
        if now < self.deadline:
            return []
        self.deadline = math.inf
        state = self.state
        if state is OPEN:
            return self._keep_alive(now)
        if state is SNIFFING:
            return self._sniffed_enough()
        if state is CONNECTING:
            self.drop_output()
            message = f"timed out after {self._timeout:g} s"
            cause = "handshake-timeout" if self._tcp_stands else "connect-failed"
            return self._end(1006, "", cause, message)
        if state is CLOSING:
            self._cut()
            return self._end(1006, "", self.close_cause or "close-timeout")
        return []

    def _sniffed_enough(self) -> list[Event]:
        sniffer = self._sniffer
        assert sniffer is not None
        if sniffer.verdict is Verdict.HTTP:
            self.limit = "handshake_timeout"
            return self._answer(408, "the request did not come in time")
        if self._only_websocket():
            self.limit = "handshake_timeout"
            self._cut()
            return self._end(1006, "", "handshake-timeout")
        if not sniffer.buffer and not (self._listen and self._listen.first_byte_timeout):
            self.limit = "silence_timeout"
            self._cut()
            return self._end(1006, "", "handshake-timeout")
        return self._become_raw(bytes(sniffer.buffer))

    def _keep_alive(self, now: float) -> list[Event]:
        ws, settings = self._websocket, self.settings
        assert ws is not None
        if self._last_heard < self._ping_sent and settings.ping_timeout:
            # The clock of a ping runs from when it was written; a slow reader is not a dead one.
            due = self._ping_sent + settings.ping_timeout
            if now < due:
                self.deadline = due
                return []
            ws.close(1011, "no answer to a ping")
            self._collect(ws)
            message = f"no answer to a ping for {settings.ping_timeout:g} s"
            return self._end(1011, "no answer to a ping", "ping-timeout", message)
        due = self._last_heard + settings.ping_interval
        if now < due:
            self.deadline = due
            return []
        ws.ping()
        self._collect(ws)
        self._ping_sent = now
        self._ping_unwritten = self.output_size
        self.deadline = now + (settings.ping_timeout or settings.ping_interval)
        return []

    def pause(self, now: float) -> None:
        """The shell does not read for now: no clock that waits for the peer runs (rule 7)."""
        if not self.paused and self.state is not CLOSING:
            self.paused = True
            self.deadline = math.inf

    def resume(self, now: float) -> list[Event]:
        """The shell reads again. Always call it when reading is allowed: it brings out what was
        held back unparsed, and that can be so without a pause."""
        if self.paused:
            self.paused = False
            self._last_heard = now
            if self.state is not CLOSED and self.state is not CLOSING:
                self._arm(now)
        return self._parse_held(now) if self._held else []

    # --- intents ---

    def send(self, data: bytes, type_: str, final: bool, now: float) -> str | None:
        """Queue a frame, or bytes. Returns why it is refused, or None.

        To a connection that is over it is a no-op: the normal race. Before an opened one stands it
        waits. A refusal in the middle of a fragmented message leaves that message cut short: close.
        """
        state, ws = self.state, self._websocket
        if state is CLOSED or self._close_asked is not None:
            return None
        if ws is None:
            if self.kind == "raw":
                self.append(data)
            return None
        if state is CLOSING:
            return None
        try:
            opcode = ws.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        if state is OPEN:
            self.append(ws.frame(opcode, data, final))
        else:
            self._early.append((opcode, data, final))
            self.early_size += len(data)
        return None

    @property
    def framing_key(self) -> int | None:
        """Connections of the same key take the same `frame_message`; None: use `send`."""
        if self._websocket is None:
            return RAW_KEY
        return self._websocket.framing_key if self.state is OPEN else None

    def send_framed(self, framed: bytes) -> None:
        """Queue what `frame_message` has made for our `framing_key`."""
        if self.state is OPEN or (self._websocket is None and self.state is not CLOSED):
            self.append(framed)

    def close_refusal(self, code: int) -> str | None:
        """Why a handler may not close with this code, or None: it may."""
        return close_refusal(code)

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Close in order. A WebSocket's on_close comes with the peer's close frame, or in time.

        Raises ValueError for a code that `close_refusal` refuses.
        """
        state, ws = self.state, self._websocket
        if state is OPEN and ws is not None:
            ws.close(code, reason)
            self._collect(ws)
            self._step(Step.CLOSE_SENT)
            self.close_cause = cause
            self.paused = False
            self._timeout = self.settings.close_timeout
            self._arm(now)
            held, self._held = self._held, b""
            events = self._receive_while_closing(held)
            return events + self.receive_eof(now) if self._eof_held else events
        if state is CONNECTING and (self.output_size or self._early) and cause == "handler":
            self._close_asked = self._close_asked or (code, reason, cause)
            return []
        if state is CLOSED or (state is CLOSING and ws is not None):
            return []
        if state is CONNECTING:
            self._cut()
            return self._end(1006, "", cause)
        self.ends_with_reset = code not in GOOD_ENDS and self.kind == "raw"
        return self._end(code, reason, cause)

    def close_now(
        self, code: int, reason: str, cause: str, message: str, now: float
    ) -> list[Event]:
        """Close without writing what waits, but tell why: a WebSocket gets its close frame."""
        if self.state is not OPEN or self._websocket is None:
            return self.abort(code, reason, cause, message, now)
        self.drop_waiting()
        self._failed = True
        return [OnError(0, self.id, message), *self.close(code, reason, cause, now)]

    def abort(self, code: int, reason: str, cause: str, message: str, now: float) -> list[Event]:
        """End at once, with a reset: what is queued is not written any more."""
        self._cut()
        if self.state is CLOSED:
            return []
        if self._failed:
            # It ends for what it was told to end for; a second on_error would be out of order.
            return self._end(1006, "", self.close_cause)
        return self._end(code, reason, cause, message)

    # --- bytes out ---

    def written(self, size: int, now: float) -> list[Event]:
        """The shell has written the first `size` bytes of `data_to_send`."""
        self.take_written(size)
        ws = self._websocket
        if ws is not None:
            if self._ping_unwritten and size:
                self._ping_unwritten = max(0, self._ping_unwritten - size)
                self._ping_sent = now
            if ws.hold_pongs and self.output_size <= PONGS_BELOW:
                ws.hold_pongs = False
                self._collect(ws)
        if self.state is CLOSING and size:
            if self._drained and not self.output_size:
                return self._end(1000, "", "eof")
            if self._drained or ws is not None:
                self._arm(now)
        return []

    # --- how it ends ---

    def _cut(self) -> None:
        self.reset = True
        self.drop_output()

    def _end(self, code: int, reason: str, cause: str, message: str = "") -> list[Event]:
        self._step(Step.END)
        self.deadline = math.inf
        self.close_code, self.close_reason, self.close_cause = code, reason, cause
        self._sniffer = None
        self._held = b""
        self._early.clear()
        self.early_size = 0
        if self._websocket is not None:
            self._websocket.release()
        if not self._announced:
            return []
        end: list[Event] = [OnClose(0, self.id, code, reason, cause)]
        return [OnError(0, self.id, message), *end] if message else end

    def _step(self, step: Step) -> None:
        try:
            self.state = TRANSITIONS[self.state, step]
        except KeyError:
            raise RuntimeError(
                f"connection {self.id}: {step.value} in state {self.state.value}"
            ) from None
