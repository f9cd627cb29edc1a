"""Sans-I/O. The phases that accepted and opened connections share: not open yet though handlers
know of the connection, open, and closing."""

from __future__ import annotations

import math
from typing import Final

from wsraw.gateway.connection.connection import (
    OPEN,
    PONGS_BELOW,
    Connection,
    Ending,
    Phase,
    Step,
)
from wsraw.gateway.connection.intake import Intake
from wsraw.gateway.websocket.frames import TOO_BIG
from wsraw.gateway.websocket.messages import UNFINISHED, DataFrame, RefusedError
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.records import Event, OnMessage, Reject

GOOD_ENDS: Final = (1000, 1001)
"""Close codes that end a raw connection with FIN; any other code reports a fault, and resets it."""

RAW_INF: Final = {"Protocol": "raw"}

FAILURES: Final = {1007: "invalid-data", 1009: "too-big"}
"""By close code, the cause of an end for data of the peer that is invalid or too long."""


def open_raw(con: Connection, data: bytes) -> list[Event]:
    """Open an accepted connection as raw; `data` has been received already."""
    con.step(Step.RAW)
    con.phase = _OPEN
    con.inf = RAW_INF
    con.keepalive.arm(0.0, 0.0)
    events = con.announce()
    if data:
        events.append(OnMessage(0, con.id, data, "raw"))
    return events


def establish(con: Connection, now: float) -> None:
    """The target is connected, or the handshake complete: send what handlers have queued."""
    con.step(Step.OPENED)
    con.phase = _OPEN
    con.keepalive.opened(now)
    ws = con.websocket
    if ws is None:
        con.keepalive.arm(0.0, now)
        return
    con.inf = ws.inf
    con.undecided = False
    if ws.subprotocol is not None:
        con.about["subprotocol"] = ws.subprotocol
    for opcode, data, final in con.output.take_early():
        con.output.append(ws.writer.frame_at_once(opcode, data, final))
    con.keepalive.arm(con.settings.ping_interval, now)


class Connecting(Phase):
    """A connection that is not open but known to handlers: their messages, and whether they close
    it, are kept until it is open."""

    __slots__ = ("_close_wanted",)

    def __init__(self) -> None:
        self._close_wanted: tuple[int, str, str] | None = None

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        """Keep a message until it can be framed."""
        ws = con.websocket
        if self._close_wanted is not None:
            return None
        if ws is None:
            con.output.append(data)
            return None
        try:
            opcode = ws.writer.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        con.output.keep_early(opcode, data, final)
        return None

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """A handler's close waits for what was sent before it. It also waits where the handler
        could have rejected the client: then it wants a close frame, and that needs the 101."""
        waits = con.undecided or con.output.size or con.output.early
        if cause in ("handler", "spliced") and waits:
            self._close_wanted = self._close_wanted or (code, reason, cause)
            return []
        return self.give_up(con, code, reason, cause)

    def give_up(self, con: Connection, code: int, reason: str, cause: str) -> list[Event]:
        con.cut()
        return con.end(1006, "", cause)

    def close_as_wanted(self, con: Connection, now: float) -> list[Event]:
        """If the connection is open now, carry out the close that a handler asked for before."""
        if self._close_wanted is None or con.state is not OPEN:
            return []
        return con.close(*self._close_wanted, now)


class _Raw(Phase):
    """A raw connection that can be written to."""

    __slots__ = ()

    def reject(self, con: Connection, reject: Reject, now: float) -> list[Event]:
        if reject.body:
            con.output.append(reject.body)
            return con.end(1000, "", "rejected")
        con.cut()
        return con.end(1008, "", "rejected")

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        con.output.append(data)
        return None

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        con.output.ends_with_reset = code not in GOOD_ENDS
        return con.end(code, reason, cause)


class _Open(_Raw):
    """A connection that carries messages in both directions."""

    __slots__ = ()

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        ws = con.websocket
        con_id = con.id
        if ws is None:
            return [OnMessage(0, con_id, data, "raw")]
        intake = con.intake
        if intake.paused or intake.unparsed:
            intake.unparsed += data
            intake.parsed = 0
            return [] if intake.paused else self.resume(con, now)
        events: list[Event] = [
            OnMessage(0, con_id, data, kind, final) for data, kind, final in ws.receive_data(data)
        ]
        intake.parsed = ws.parsed
        if ws.output or ws.ended or ws.busy:
            intake.has_more = ws.busy
            after_frames(con, ws, events)
        return events

    def resume(self, con: Connection, now: float) -> list[Event]:
        ws = con.websocket
        assert ws is not None
        events = to_events(con, _parse(con.intake, ws))
        if ws.output or ws.ended:
            after_frames(con, ws, events)
        return events if ws.ended else events + con.receive_held_eof(now)

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        if con.websocket is not None:
            # Without a close frame: 1006 (RFC 6455, section 7.1.5).
            return con.end(1006, "", "lost")
        con.half_close(_HalfClosed())
        return []

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        ws, keepalive, settings = con.websocket, con.keepalive, con.settings
        if ws is None:
            return []
        if keepalive.awaits_pong and settings.ping_timeout:
            if not keepalive.is_overdue(settings.ping_timeout, now):
                return []
            why = "no answer to a ping"
            ws.close(1011, why)
            con.collect(ws)
            message = f"{why} for {settings.ping_timeout:g} s"
            return con.end(1011, why, "ping-timeout", message, limit="ping_timeout")
        if keepalive.is_silent(settings.ping_interval, now):
            ws.ping()
            con.collect(ws)
            unwritten = con.output.size
            keepalive.pinged(unwritten, settings.ping_interval, settings.ping_timeout, now)
        return []

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        ws = con.websocket
        if ws is not None:
            return _send_frame(con, ws, data, type_, final)
        con.output.append(data)
        return None

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        ws = con.websocket
        if ws is None:
            return super().close(con, code, reason, cause, now)
        ws.close(code, reason)
        con.collect(ws)
        con.step(Step.CLOSE_SENT)
        con.phase = _CLOSING
        con.ending = Ending(cause=cause)
        con.intake.paused = False
        con.keepalive.arm(con.settings.close_timeout, now)
        return _CLOSING.resume(con, now)

    def shut(self, con: Connection) -> None:
        if con.websocket is None:
            con.phase = _SHUT


class _Shut(_Open):
    """A raw connection whose peer was told that nothing more comes, and may itself still send."""

    __slots__ = ()

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        return None

    @property
    def is_shut(self) -> bool:
        return True

    def shut(self, con: Connection) -> None:
        pass


class _Closing(Phase):
    """A WebSocket that waits for the answer to our close frame. All other frames are ignored (RFC
    6455, section 5.5.1)."""

    __slots__ = ()

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        ws = con.websocket
        assert ws is not None
        ws.skip_data()
        con.intake.unparsed += data
        _parse(con.intake, ws)
        con.collect(ws)
        if not ws.ended:
            return []
        if ws.error:
            return con.end(1006, "", con.ending.cause)
        return con.end(ws.close_code, ws.close_reason, con.ending.cause)

    def resume(self, con: Connection, now: float) -> list[Event]:
        return self.receive_data(con, b"", now) + con.receive_held_eof(now)

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        return con.end(1006, "", con.ending.cause)

    def lost(self, con: Connection, message: str) -> list[Event]:
        # A peer that leaves without sending its close frame is not worth reporting.
        return con.end(1006, "", con.ending.cause)

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        # The system may need longer to deliver the last output to a slow reader, and a reset would
        # discard it. A client that is closed for a limit gets no such time.
        if con.output.size or con.ending.is_told:
            con.cut()
        return con.end(1006, "", con.ending.cause)

    def written(self, con: Connection, now: float) -> list[Event]:
        con.keepalive.arm(con.keepalive.timeout, now)
        return []


class _HalfClosed(_Raw):
    """A raw connection whose peer has sent EOF; what it sent before is being handled."""

    __slots__ = ("_drained",)

    def __init__(self) -> None:
        self._drained = False
        """The connection ends when its output has been written."""

    def drained(self, con: Connection, now: float) -> list[Event]:
        if not con.output.size:
            return con.end(1000, "", "eof")
        # Its peer is not asked to close, but to read: write_timeout is its limit.
        self._drained = True
        return []

    def written(self, con: Connection, now: float) -> list[Event]:
        if self._drained and not con.output.size:
            return con.end(1000, "", "eof")
        return []


class _Violated(Phase):
    """A WebSocket whose peer has broken the protocol; what it sent before is being handled."""

    __slots__ = ()

    def lost(self, con: Connection, message: str) -> list[Event]:
        ws = con.websocket
        assert ws is not None
        return con.end(ws.close_code, ws.close_reason, con.ending.cause, ws.error)

    def drained(self, con: Connection, now: float) -> list[Event]:
        ws = con.websocket
        assert ws is not None
        ws.close(ws.close_code, ws.close_reason)
        con.collect(ws)
        return con.end(ws.close_code, ws.close_reason, con.ending.cause, ws.error)

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        assert con.websocket is not None
        return _send_frame(con, con.websocket, data, type_, final)


_OPEN: Final = _Open()
_SHUT: Final = _Shut()
_CLOSING: Final = _Closing()
_VIOLATED: Final = _Violated()


def _parse(intake: Intake, ws: WebSocket) -> list[DataFrame]:
    """Parse the bytes that wait, and those that the WebSocket has kept, up to a turn's share."""
    data, intake.unparsed = intake.unparsed, b""
    frames = ws.receive_data(data)
    intake.parsed = ws.parsed
    intake.has_more = ws.busy
    return frames


def to_events(con: Connection, frames: list[DataFrame]) -> list[Event]:
    con_id = con.id
    return [OnMessage(0, con_id, data, kind, final) for data, kind, final in frames]


def after_frames(con: Connection, ws: WebSocket, events: list[Event]) -> None:
    """Handle what came beside messages: pings to answer, and the end."""
    con.collect(ws)
    if con.output.size > PONGS_BELOW:
        con.keepalive.holds_pongs = ws.hold_pongs = True
    if ws.error:
        # Earlier messages are handled, and answered, before the close frame goes out.
        con.half_close(_VIOLATED)
        limit = "max_message_size" if ws.close_code == TOO_BIG else ""
        con.ending = Ending(cause=FAILURES.get(ws.close_code, "protocol-error"), limit=limit)
        con.keepalive.deadline = math.inf
        con.intake.clear()
    elif ws.ended:
        events += con.end(ws.close_code, ws.close_reason, "peer")


def _send_frame(con: Connection, ws: WebSocket, data: bytes, type_: str, final: bool) -> str | None:
    writer = ws.writer
    if writer.is_making:
        frame = writer.go_on(data)
    else:
        try:
            opcode = writer.check(data, type_, final)
        except RefusedError as why:
            return str(why)
        frame = writer.frame(opcode, data, final)
    if frame is None:
        return UNFINISHED
    con.output.append(frame)
    return None
