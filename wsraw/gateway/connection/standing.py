"""Sans-I/O. The connection that stands: its bytes in, its pings, its pauses."""

from __future__ import annotations

import math
from typing import Any, Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.states import CLOSED, CLOSING, CONNECTING, OPEN, Life, Step
from wsraw.gateway.websocket.deflate import STEP
from wsraw.gateway.websocket.frames import MOST_FRAMES, TOO_BIG
from wsraw.gateway.websocket.messages import DataFrame
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.records import Event, OnMessage

SLICE: Final = 4 * 1024
"""Bytes of a compressed connection that are parsed at a time; deflate can make a thousand times as
many of them."""

PONGS_BELOW: Final = 64 * 1024
"""Unwritten bytes above which a peer's pings are answered only once they have gone."""

EARLY: Final = 1 / 32
"""Of its interval: so much earlier a ping may go out. The peer's last word is its pong, a moment
after our ping; to wait for that moment again would be a second timer for each ping."""

_FAILURES: Final = {1007: "invalid-data", 1009: "too-big"}


class Standing(Life):
    """Bytes, EOF and time in, events out."""

    __slots__ = (
        "_drained",
        "_eof_held",
        "_holds_pongs",
        "_last_heard",
        "_ping_sent",
        "_ping_unwritten",
        "_sliced",
        "half_closed",
        "parsed",
        "paused",
        "stood_at",
    )

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], opened: bool
    ) -> None:
        super().__init__(con_id, settings, about, opened)
        self.half_closed = False
        """A raw peer has sent EOF, or the peer of a WebSocket has broken the protocol: no more is
        read, and what came before is still being handled."""
        self.parsed = 0
        """Frames of any kind that came of the last `receive_data` or `resume`: a measure of the
        work that a peer makes. Raw connections have none."""
        self.paused = False
        self.stood_at = math.inf
        """When an opened connection, or a WebSocket, could carry data."""
        self._last_heard = 0.0
        self._ping_sent = -math.inf
        self._ping_unwritten = 0
        self._holds_pongs = False
        self._sliced = False
        self._eof_held = False
        self._drained = False

    @property
    def unfinished(self) -> int:
        """Bytes that have come and are no event yet."""
        parser = self.websocket.unfinished if self.websocket is not None else 0
        return parser + len(self._held)

    @property
    def contexts_size(self) -> int:
        """Bytes that compression keeps."""
        return self.websocket.contexts_size if self.websocket is not None else 0

    # --- it begins to stand ---

    def become_raw(self, data: bytes) -> list[Event]:
        """An accepted connection is raw; `data` has come already."""
        self.step(Step.RAW)
        self.kind = "raw"
        self.inf = {"Protocol": "raw"}
        self.beginning = None
        self.arm(0.0, 0.0)
        events = self.announce()
        if data:
            events.append(OnMessage(0, self.id, data, "raw"))
        return events

    def stand(self, announces: bool, now: float) -> list[Event]:
        """An opened connection, or a handshake, is through: what was sent until now may go."""
        self.step(Step.STANDS)
        self.beginning = None
        ws = self.websocket
        if ws is not None:
            self.inf = ws.inf
            # What came too early is parsed when reading goes on, and before what comes then.
            self._sliced = ws.deflates or bool(self._held)
            self.undecided = False
            if ws.subprotocol is not None:
                self.about["subprotocol"] = ws.subprotocol
            for opcode, data, final in self.output.take_early():
                self.output.append(ws.writer.frame_at_once(opcode, data, final))
        self._last_heard = self.stood_at = now
        self.arm(self.settings.ping_interval if ws is not None else 0.0, now)
        return self.announce() if announces else []

    # --- bytes in ---

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the peer."""
        self._last_heard = now
        state = self.state
        if state is OPEN:
            ws = self.websocket
            if ws is None:
                return [OnMessage(0, self.id, data, "raw")]
            if self._sliced:
                self._held += data
                if self.paused:
                    self.parsed = 0
                    return []
                return self._parse_held(now)
            events = self.to_events(ws.receive_data(data))
            self.parsed = ws.parsed
            if ws.output or ws.ended or ws.busy:
                self.has_more = ws.busy
                self.after_frames(ws, events)
            return events
        self.parsed = 0
        if self.beginning is not None:
            return self.beginning.receive_data(data, now) + self.close_as_asked(now)
        if state is CLOSING:
            return self._receive_while_closing(data)
        return []

    def close_as_asked(self, now: float) -> list[Event]:
        """What a handler has asked for before it stood is for the connection to know."""
        return []

    def hold(self, data: bytes) -> None:
        """Keep bytes that cannot be parsed yet."""
        self._held += data

    def to_events(self, frames: list[DataFrame]) -> list[Event]:
        """Frames are messages."""
        con = self.id
        return [OnMessage(0, con, data, kind, final) for data, kind, final in frames]

    def after_frames(self, ws: WebSocket, events: list[Event]) -> None:
        """What came beside them: answers to pings, the end."""
        self.collect(ws)
        if self.output.size > PONGS_BELOW:
            self._holds_pongs = ws.hold_pongs = True
        if ws.error:
            # What came before is handled, and answered, before the close frame goes out.
            self.step(Step.HALF_CLOSED)
            self.half_closed = True
            self.close_cause = _FAILURES.get(ws.close_code, "protocol-error")
            self.limit = "max_message_size" if ws.close_code == TOO_BIG else ""
            self.deadline = math.inf
            self._held = b""
            self.has_more = False
        elif ws.ended:
            events += self.end(ws.close_code, ws.close_reason, "peer")

    def _parse_held(self, now: float) -> list[Event]:
        """Slice by slice, until a turn's share is parsed or inflated, or more is on its way to
        handlers than may be."""
        ws = self.websocket
        assert ws is not None
        held = self._held
        events: list[Event] = []
        size = start = 0
        self.parsed = 0
        share = min(STEP, self.settings.high_water_mark)
        while size <= share and self.parsed < MOST_FRAMES and (ws.busy or start < len(held)):
            if ws.busy:
                frames = ws.receive_data(b"")
            else:
                frames = ws.receive_data(held[start : start + SLICE])
                start += SLICE
            self.parsed += ws.parsed
            size += sum([len(data) for data, _, _ in frames])
            events += self.to_events(frames)
            if ws.output or ws.ended:
                self.after_frames(ws, events)
                if ws.ended:
                    return events
            if ws.busy:
                break
        self._held = held[start:]
        self.has_more = ws.busy or bool(self._held)
        self._sliced = ws.deflates or bool(self._held)
        return events + self.eof_as_held(now)

    def _receive_while_closing(self, data: bytes) -> list[Event]:
        """After our close frame only the peer's is of interest (RFC 6455, section 5.5.1)."""
        ws = self.websocket
        if ws is None or self.half_closed:
            return []
        ws.skip_data()
        self.parsed = 0
        held = self._held + data
        start = 0
        while self.parsed < MOST_FRAMES and not ws.ended and (ws.busy or start < len(held)):
            if ws.busy:
                ws.receive_data(b"")
            else:
                ws.receive_data(held[start : start + SLICE])
                start += SLICE
            self.parsed += ws.parsed
        self._held = held[start:]
        self.has_more = ws.busy or bool(self._held)
        self.collect(ws)
        if not ws.ended:
            return []
        if ws.error:
            return self.end(1006, "", self.close_cause)
        return self.end(ws.close_code, ws.close_reason, self.close_cause)

    def receive_eof(self, now: float) -> list[Event]:
        """The peer has shut its side."""
        if self._held or self.has_more:
            self._eof_held = True
            return []
        if self.beginning is not None:
            return self.beginning.receive_eof(now)
        if self.state is CLOSED or self.half_closed:
            return []
        if self.websocket is not None:
            # Without a close frame: 1006 (RFC 6455, section 7.1.5), also as answer to our own.
            return self.end(1006, "", self.close_cause or "lost")
        self.step(Step.HALF_CLOSED)
        self.half_closed = True
        return []

    def drained(self, now: float) -> list[Event]:
        """All that a half-closed peer has sent is handled: a WebSocket ends for what was wrong,
        a raw connection when its output is written."""
        ws = self.websocket
        if not self.half_closed or self.state is not CLOSING:
            return []
        if ws is not None:
            ws.close(ws.close_code, ws.close_reason)
            self.collect(ws)
            return self.end(ws.close_code, ws.close_reason, self.close_cause, ws.error)
        if not self.output.size:
            return self.end(1000, "", "eof")
        if not self._drained:
            self._drained = True
            self.arm(self.settings.close_timeout, now)
        return []

    # --- time ---

    def _keep_alive(self, now: float) -> list[Event]:
        ws, settings = self.websocket, self.settings
        assert ws is not None
        if self._last_heard < self._ping_sent and settings.ping_timeout:
            # The clock of a ping runs from when it was written; a slow reader is not a dead one.
            due = self._ping_sent + settings.ping_timeout
            if now < due:
                self.deadline = due
                return []
            ws.close(1011, "no answer to a ping")
            self.collect(ws)
            self.limit = "ping_timeout"
            message = f"no answer to a ping for {settings.ping_timeout:g} s"
            return self.end(1011, "no answer to a ping", "ping-timeout", message)
        interval = settings.ping_interval
        due = self._last_heard + interval
        if now < due - EARLY * interval:
            self.deadline = due
            return []
        ws.ping()
        self.collect(ws)
        self._ping_sent = now
        self._ping_unwritten = self.output.size
        self.deadline = now + min(interval, settings.ping_timeout or math.inf)
        return []

    def pause(self, now: float) -> None:
        """The shell does not read for now: no clock that waits for the peer runs (rule 7). Those of
        a handshake do, and that of a close."""
        if not self.paused and self.state is OPEN:
            self.paused = True
            self.deadline = math.inf

    def resume(self, now: float) -> list[Event]:
        """The shell reads again. Always call it when reading is allowed: it brings out what was
        held back unparsed, and that can be so without a pause."""
        if self.paused:
            self.paused = False
            self._last_heard = now
            if self.state is not CLOSED and self.state is not CLOSING:
                self.arm(self.timeout, now)
        self.parsed = 0
        if self.state is CONNECTING or not (self._held or self.has_more):
            # What comes before the verdict is parsed after it.
            return []
        if self.state is not CLOSING:
            return self._parse_held(now)
        return self._receive_while_closing(b"") + self.eof_as_held(now)

    def eof_as_held(self, now: float) -> list[Event]:
        """The peer had shut its side before all of what it said was parsed: now it is."""
        return self.receive_eof(now) if self._eof_held and not self.has_more else []
