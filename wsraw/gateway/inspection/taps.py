"""Sans-I/O. A tap on one connection: it reports what goes through the connection, and changes
nothing.

While a connection is traced, its phase, its WebSocket's reader and writer, and its output are
replaced by ones that report. So traces cost other connections nothing. Whatever does not pass these
(which worker has its events, pauses, groups, what the client has taken) is found by comparing, at
the end of each turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from wsraw.gateway.connection.connection import CLOSED, Connection, Phase
from wsraw.gateway.connection.output import Output
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.inspection.facts import PAUSES, path_of
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.gateway.websocket.watched import copy, split_frame, unwatch, watch
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.open_options import Opening
from wsraw.link.records import Event, OnConnect, OnError, OnMessage, OnRequest, Reject, Respond
from wsraw.runtime.printable import shown_url

IN: Final = "<"
OUT: Final = ">"
STATE: Final = "="
WRONG: Final = "!"
"""Signs of lines: about what the client sends, what it is sent, how the connection changes, and
problems."""

SHOWN: Final = ("host", "origin", "user-agent", "sec-websocket-version", "sec-websocket-extensions")
"""Headers whose values are shown. Others may hold secrets; even Sec-WebSocket-Protocol may hold a
token."""

OUTPUT: Final = (
    "_headed",
    "_sent",
    "chunks",
    "early",
    "early_size",
    "encrypted",
    "ends_with_reset",
    "reset",
    "shared_size",
    "size",
)
"""Attributes of an Output."""

NOT_LAST: Final = ", more follows"

Note = Callable[[str, str, int, bytes, str], object]
"""Reports the sign of a line, what has happened, the number of bytes, the bytes, and a text."""


class Tap:
    """Reports to `note` what happens to a connection, from the making of the tap to `close`."""

    def __init__(self, con: Connection, note: Note) -> None:
        self.con = con
        self.note = note
        self.phase = TappedPhase(con.phase, note)
        self._seen = Seen(con)
        self._is_over = False
        con.phase = self.phase
        output = TappedOutput(con, note)
        copy(con.output, output, OUTPUT)
        con.output = output
        self._ws: WebSocket | None = None
        self._watch_websocket()
        self.tell_beginning(note)

    def tell_beginning(self, note: Note) -> None:
        """Report the present state of the connection."""
        con = self.con
        note(STATE, "trace", 0, b"", f"from here on: {con.kind or 'unknown'}, {con.state.value}")

    def _watch_websocket(self) -> None:
        ws = self.con.websocket
        if ws is not None and self._ws is None:
            self._ws = ws
            watch(ws, self._note_frame)

    def _note_frame(self, is_in: bool, kind: str, final: bool, size: int, data: bytes) -> None:
        text = kind if final else f"{kind}{NOT_LAST}"
        if kind == "close" and len(data) > 1:
            text, data = f"close {int.from_bytes(data[:2], 'big')}", data[2:]
        self.note(IN if is_in else OUT, "frame", size, data, text)

    def look(self) -> bool:
        """The turn is over: report what has changed. False: nothing more can happen."""
        con = self.con
        if con.state is not CLOSED:
            if con.phase is not self.phase:
                # Something has changed the connection's phase from outside.
                self.phase.inner = con.phase
                con.phase = self.phase
            self._watch_websocket()
        self._seen.tell_changes(con, self.note)
        entry = self._seen.entry
        return con.endpoint is not None or (entry is not None and not entry.gone)

    def close(self) -> None:
        """Leave the connection as it would be without a tap."""
        con = self.con
        if con.phase is self.phase:
            con.phase = self.phase.inner
        if self._ws is not None:
            unwatch(self._ws)
        if isinstance(con.output, TappedOutput):
            output = Output()
            copy(con.output, output, OUTPUT)
            con.output = output


class Seen:
    """The last reported values of a connection."""

    def __init__(self, con: Connection) -> None:
        self.entry: Entry | None = entry_of(con)
        self._state = con.state
        self._at = ""
        self._pauses = 0
        self._groups: set[str] = set()
        self._spliced = 0
        self._version = 0
        self._waiting = 0
        self._skipped = 0
        entry = self.entry
        if entry is not None:
            self._groups = set(entry.groups or ())
            self._version = entry.version
            self._skipped = entry.skipped

    def tell_changes(self, con: Connection, note: Note) -> None:
        """Report values that differ from the last call."""
        if con.state is not self._state:
            self._state = con.state
            note(STATE, "state", 0, b"", con.state.value)
            if con.state is CLOSED:
                end = con.ending
                reason = f" {end.reason}" if end.reason else ""
                # Handlers are told the end only if they knew the connection, and never the end of a
                # request.
                known = con.kind != "http" and (self.entry or entry_of(con)) is not None
                name = "on_close" if known else "end"
                note(STATE, name, 0, b"", f"{end.code}{reason}, cause {end.cause}")
        waiting = con.output.waiting
        if waiting != self._waiting:
            self._waiting = waiting
            note(OUT, "output", waiting, b"", "waits for the client" if waiting else "all written")
        if self.entry is None:
            entry = entry_of(con)
            self.entry = entry if entry is not None and not entry.gone else None
        if self.entry is not None:
            self._tell_of_entry(self.entry, note)

    def _tell_of_entry(self, entry: Entry, note: Note) -> None:
        holder = entry.holder.name if entry.holder is not None else "no worker"
        at = f"{holder}: {entry.in_flight} in flight, {len(entry.parked)} parked"
        if at != self._at:
            self._at = at
            note(STATE, "events", entry.event_bytes, b"", at)
        if entry.pauses != self._pauses:
            self._pauses = entry.pauses
            whys = [why for bit, why in PAUSES.items() if entry.pauses & bit]
            note(STATE, "reading", 0, b"", f"paused: {'; '.join(whys)}" if whys else "goes on")
        groups = entry.groups or set()
        if groups != self._groups:
            for name in sorted(groups - self._groups):
                note(STATE, "join", 0, b"", name)
            for name in sorted(self._groups - groups):
                note(STATE, "leave", 0, b"", name)
            self._groups = set(groups)
        spliced = entry.splice.other if entry.splice is not None else 0
        if spliced != self._spliced:
            self._spliced = spliced
            note(STATE, "splice", 0, b"", f"with connection {spliced}")
        if entry.version != self._version:
            self._version = entry.version
            note(STATE, "con.state", len(entry.state), b"", "")
        if entry.skipped != self._skipped:
            note(OUT, "dropped", entry.skipped - self._skipped, b"", "it reads too slowly")
            self._skipped = entry.skipped


class TappedOutput(Output):
    """Reports published messages, which pass through no other part of the connection."""

    __slots__ = ("_con", "_note")

    def __init__(self, con: Connection, note: Note) -> None:
        super().__init__()
        self._con = con
        self._note = note

    def append_shared(self, chunk: bytes) -> None:
        """Queue the chunk, and report it."""
        super().append_shared(chunk)
        if self._con.websocket is None:
            self._note(OUT, "published", len(chunk), bytes(chunk), "raw")
            return
        kind, size, data = split_frame(chunk)
        self._note(OUT, "published", size, b"" if kind.startswith("compressed") else data, kind)


class TappedPhase(Phase):
    """Does what the phase of the connection does, and reports it."""

    __slots__ = ("_note", "inner")

    def __init__(self, inner: Phase, note: Note) -> None:
        self.inner = inner
        self._note = note

    def _enter(self, con: Connection) -> Phase:
        """Put the real phase in its place while it works: it may change the connection's phase."""
        con.phase = self.inner
        return self.inner

    def _leave(self, con: Connection, events: list[Event]) -> list[Event]:
        self.inner = con.phase
        con.phase = self
        for event in events:
            if type(event) is OnMessage:
                text = event.type if event.final else f"{event.type}{NOT_LAST}"
                self._note(IN, "on_message", len(event.data), event.data, text)
            elif type(event) is OnConnect:
                self._note(STATE, "on_connect", 0, b"", _head(con))
            elif type(event) is OnRequest:
                self._note(IN, "on_request", len(event.body), event.body, _head(con))
            elif type(event) is OnError:
                self._note(WRONG, "on_error", 0, b"", event.message)
            # The end is reported when the turn is over: not all ends come from a phase.
        return events

    def first_events(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).first_events(con, now))

    def expect_tls(self, con: Connection, now: float) -> None:
        self._enter(con).expect_tls(con, now)
        self._note(IN, "TLS", 0, b"", "handshake")
        self._leave(con, [])

    def secured(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).secured(con, now))

    @property
    def awaits_header(self) -> bool:
        return self.inner.awaits_header

    def receive_header(self, con: Connection, data: bytes, now: float) -> tuple[list[Event], bytes]:
        events, rest = self._enter(con).receive_header(con, data, now)
        return self._leave(con, events), rest

    @property
    def opening(self) -> Opening | None:
        return self.inner.opening

    def connected(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).connected(con, now))

    def connect_failed(self, con: Connection, message: str) -> list[Event]:
        return self._leave(con, self._enter(con).connect_failed(con, message))

    @property
    def unfinished(self) -> int:
        return self.inner.unfinished

    def respond(
        self, con: Connection, respond: Respond, now: float
    ) -> tuple[list[Event], str | None]:
        text = f"{respond.status} {respond.reason}".rstrip()
        more = "" if respond.final else NOT_LAST
        self._note(OUT, "respond", len(respond.body), respond.body, f"{text}{more}")
        events, why = self._enter(con).respond(con, respond, now)
        if why is not None:
            self._note(WRONG, "refused", 0, b"", why)
        return self._leave(con, events), why

    @property
    def is_answering(self) -> bool:
        return self.inner.is_answering

    def pass_on(self, con: Connection, now: float) -> list[Event]:
        self._note(STATE, "passed on", 0, b"", "no handler has answered")
        return self._leave(con, self._enter(con).pass_on(con, now))

    def accept(
        self,
        con: Connection,
        subprotocol: str | None,
        headers: Sequence[tuple[str, str]],
        now: float,
    ) -> tuple[list[Event], str | None]:
        self._note(STATE, "accept", 0, b"", subprotocol or "")
        events, why = self._enter(con).accept(con, subprotocol, headers, now)
        if why is not None:
            self._note(WRONG, "refused", 0, b"", why)
        return self._leave(con, events), why

    def reject(self, con: Connection, reject: Reject, now: float) -> list[Event]:
        self._note(STATE, "reject", 0, b"", f"{reject.status} {reject.reason}")
        return self._leave(con, self._enter(con).reject(con, reject, now))

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).receive_data(con, data, now))

    def resume(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).resume(con, now))

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        self._note(IN, "end", 0, b"", "the client sends no more")
        return self._leave(con, self._enter(con).receive_eof(con, now))

    def lost(self, con: Connection, message: str) -> list[Event]:
        self._note(WRONG, "lost", 0, b"", message)
        return self._leave(con, self._enter(con).lost(con, message))

    def drained(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).drained(con, now))

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).handle_timeout(con, now))

    def send(self, con: Connection, data: bytes, type_: str, final: bool) -> str | None:
        is_begun = con.is_making
        if not is_begun:
            text = type_ if final else f"{type_}{NOT_LAST}"
            self._note(OUT, "send", len(data), data, text)
        why = self._enter(con).send(con, data, type_, final)
        if why is not None and why != UNFINISHED:
            self._note(WRONG, "refused", 0, b"", why)
        self._leave(con, [])
        return why

    @property
    def is_shut(self) -> bool:
        return self.inner.is_shut

    def shut(self, con: Connection) -> None:
        self._enter(con).shut(con)
        self._leave(con, [])

    def written(self, con: Connection, now: float) -> list[Event]:
        return self._leave(con, self._enter(con).written(con, now))

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        text = f"{code} {reason}".rstrip()
        self._note(STATE, "close", 0, b"", f"{text}, cause {cause}")
        return self._leave(con, self._enter(con).close(con, code, reason, cause, now))


def _head(con: Connection) -> str:
    """The data of on_connect, without what may be secret."""
    inf = con.inf
    parts = [inf.get("Protocol", "")]
    if "url" in inf:
        parts.append(f"{inf.get('method', '')} {path_of(con)}".lstrip())
    for name, value in inf.items():
        if name not in ("Protocol", "url", "method"):
            lower = name.lower()
            shown = shown_url(value)[1:-1] if lower in SHOWN else "..."
            parts.append(f"{name[:100]}: {shown}")
    return "; ".join(parts)[:2000]
