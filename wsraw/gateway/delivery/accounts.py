"""Sans-I/O. Flow control: how many bytes wait for each connection, and which are paused.

Every queue is bounded in bytes, and nothing is dropped: above the high-water mark the gateway stops
reading from a connection, and TCP makes its peer wait; below the low-water mark it reads again. A
connection's account holds its parked events, its events in flight and its unwritten output. An
incomplete message counts in the total only: a pause would keep it from ever completing. So do
compression contexts and the connection itself: a pause would not free them. A published message
counts in the account of each member, and once in the total.

All memory that clients and handlers can make the gateway use is in one of four sums: `total`,
`weighed`, `kept` and `shared`. A connection is counted from its accept, or its open, until both its
socket and its entry are gone. It may have no entry: before it is known what it is, and while its
last bytes are written.

The sum is checked when it grows, and once a second: within a second a few hundred clients can send
a gigabyte. Above CROWDED the low-water mark is used as the high-water mark; above the limit no
connection is read until enough has been handled or closed.

Coupled connections share their flow control: unwritten output of one pauses reading from the other.
That adds no deadlock to those that TCP has, as each pause depends on the other's *output* only.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from operator import itemgetter
from typing import Any, Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CLOSING, Connection
from wsraw.gateway.delivery.entry import (
    PAUSED_COUPLED,
    PAUSED_FULL,
    PAUSED_OWN,
    Entry,
    Pause,
    entry_of,
)
from wsraw.gateway.websocket.shared import Framed

CROWDED: Final = 0.8
"""Share of the memory limit above which no connection is accepted and the fullest are paused."""

RELIEVED: Final = 0.7
"""Share of the memory limit below which clients are accepted again, and those pauses end."""

FULL_UNTIL: Final = 0.9
"""Share of the memory limit below which all connections are read again after the limit was
reached."""

CROWDED_FOR: Final = 10.0
"""Seconds that new clients wait for room. Then, if output and unfinished messages fill the memory,
the connections with most of them are closed: else a few hundred clients that read a byte a minute,
or never finish a message, could keep all others out for ever."""

MOST_CLOSED: Final = 50
"""Connections that are closed in a turn to free memory; the next turn closes more if needed."""

GRAIN: Final = 1 / 64
"""Share of the memory limit by which the total must grow before memory is checked again."""

WORTH_WEIGHING: Final = 4096
"""Bytes of incomplete messages and compression below which a connection is not weighed again. A
connection without an entry is not closed to free fewer bytes than that."""

FRAME: Final = 256
"""Bytes of a published message beside its frame."""

# What a connection takes of memory beside its events and its output: measured, and compared with a
# real process in test_accounts_measured.py. Where the allocator decides, these are rather high.

SOCKET: Final = 2048
"""Bytes of a connection that has sent nothing."""

PLACE: Final = 1536
"""Further bytes for its entry: since its on_connect, or since a handler opened it."""

WEBSOCKET: Final = 3072
"""Further bytes of a WebSocket."""

TLS: Final = 18 * 1024
"""Further bytes that OpenSSL keeps of a connection."""

TLS_HANDSHAKE: Final = 28 * 1024
"""Further bytes during the TLS handshake."""

EARLY: Final = 2
"""Bytes for each byte received before the protocol is known, and for each byte of a handler's
request to open a connection until it is open: both are kept in pieces and as a whole."""

TEXT: Final = 3
"""Bytes for each byte of a head. Handlers get the head as text, made from copies whose memory is
not completely reused."""

NOT_ASCII: Final = 5
"""Bytes for each byte of a head that is not ASCII: Python also keeps its UTF-8."""

FIELD: Final = 128
"""Bytes for each field of a head beside its text."""

STATE: Final = 64
"""Bytes of con.state, without its data."""

MEMBER: Final = 320
"""Bytes of a connection in a group, without the group's name."""

STALLED: Final = 1.0
"""Seconds without a byte taken after which a client is called slow. This only informs operators."""

MARK: Final = 96
"""Bytes of a mark that is not reached yet."""

COUPLE: Final = 64
"""Bytes for each coupling of two connections, on each side."""


class Flow:
    """Accounts and pauses. `Sockets` takes `changed` once a turn and applies `entry.pauses`."""

    def __init__(self, settings: Settings, memory_limit: int) -> None:
        self._high = self.high = settings.high_water_mark
        self.low = self.high // 4
        self.memory_limit = memory_limit
        self._keeps_contexts = settings.deflate and settings.deflate_context_takeover
        self.total = 0
        """Bytes of events and output of all connections."""
        self.kept = 0
        """Bytes of the connections themselves, of data that handlers store in them, and of the
        history of groups."""
        self.shared = 0
        """Bytes that belong to no single connection: published messages that wait for sockets, and
        data for workers that do not read."""
        self.without_entry: dict[Connection, None] = {}
        """Connections that have sent nothing yet, and ended ones whose sockets linger."""
        self.weighed = 0
        """Bytes of incomplete messages and of compression, at the last check."""
        self.check_above: float = memory_limit * CROWDED
        """The total above which `check_memory` must run before anything more is read. All other
        counted memory lowers it, and so do reads of incomplete messages until these are weighed."""
        self.crowded = False
        self._crowded_since = 0.0
        self.full = False
        """The limit is reached: no open connection is read."""
        self.changed: dict[Entry, None] = {}
        self.paused: dict[Entry, None] = {}
        """Connections that are not read from; the one that has been paused longest comes first."""
        self.unfinished: set[Entry] = set()
        """Connections whose last read did not complete a message."""
        self.unwritten: dict[Entry, tuple[int, float]] = {}
        """Connections with output that the kernel has not taken: how many bytes it had taken at the
        last look, and since when it has taken no more."""
        self.now = 0.0

    def add(self, entry: Entry, size: int) -> None:
        """Add bytes of an event to the account; a negative size removes them."""
        entry.event_bytes += size
        self.total += size
        self.check_marks(entry)

    def check_marks(self, entry: Entry) -> None:
        """Pause a connection above the high-water mark; resume it below the low one, also while
        memory is crowded, perhaps for hours."""
        waiting = entry.event_bytes
        if entry.splice is None:
            # For a spliced connection, the account holds what the other side sends: pausing for it
            # would block for ever a peer that answers before it reads on.
            waiting += entry.output_counted
        if waiting > self.high:
            if not entry.pauses & PAUSED_OWN:
                self.pause(entry, PAUSED_OWN)
        elif waiting <= self.low:
            self.resume(entry, PAUSED_OWN)

    @property
    def accounted(self) -> int:
        """Bytes in all accounts."""
        return self.total + self.weighed + self.kept + self.shared

    def weigh(self, con: Connection) -> None:
        """Count the memory of a new or changed connection."""
        if con.entry is None:
            self.without_entry[con] = None
        else:
            self.without_entry.pop(con, None)
        self.keep(con, weight(con) - con.kept)

    def keep(self, owner: Connection | Entry, size: int) -> None:
        """Count bytes that a connection takes beside its account, or that handlers store in its
        entry (state, groups, marks); a negative size removes them."""
        owner.kept += size
        self.kept += size
        self.check_above -= size

    def store(self, size: int) -> None:
        """Count bytes that are kept for no single connection and do not wait to be sent: the
        history of groups."""
        self.kept += size
        self.check_above -= size

    def share(self, frame: Framed) -> None:
        """Count a published message once, until no connection has it in its output."""
        frame.freed = self._free
        self.hold(len(frame) + FRAME)

    def _free(self, size: int) -> None:
        self.hold(-size - FRAME)

    def hold(self, size: int) -> None:
        """Count bytes that wait for no single connection."""
        self.shared += size
        self.check_above -= size

    def socket_closed(self, con: Connection) -> None:
        """Forget the output of a connection whose socket is closed."""
        con.endpoint = None
        con.output.drop()
        entry = entry_of(con)
        if entry is None or entry.gone:
            self._leave(con)
            con.entry = None
        else:
            self.output_changed(entry)

    def _leave(self, con: Connection) -> None:
        """Forget a connection: neither its socket nor its entry is left."""
        self.without_entry.pop(con, None)
        self.keep(con, -con.kept)

    def output_changed(self, entry: Entry) -> None:
        """Count the output of a connection anew: it has grown or shrunk."""
        con = entry.con
        own = con.output.own_size
        if entry.gone:
            # Its last bytes may outlive the connection by a close_timeout.
            if con.endpoint is not None:
                self.keep(con, own - entry.output_memory)
                entry.output_memory = own
            return
        output = con.output.waiting
        self.total += own - entry.output_memory
        entry.output_counted = output
        entry.output_memory = own
        if not output:
            self.unwritten.pop(entry, None)
        elif entry not in self.unwritten:
            self.unwritten[entry] = (entry.taken, self.now)
        self.check_marks(entry)
        if entry.over != (output > (self.low if entry.over else self.high)):
            entry.over = not entry.over
            for other in entry.couples or ():
                self._check_couples(other)

    def is_slow(self, entry: Entry) -> bool:
        """Whether a client does not read its output: much of it waits, or the kernel has taken
        nothing for a while."""
        if entry.con.output.waiting > self.low:
            return True
        _, since = self.unwritten.get(entry, (0, self.now))
        return self.now - since >= STALLED

    def forget(self, entry: Entry) -> None:
        """Remove the account, pauses and couplings of an entry. Its socket may outlive it, with its
        output."""
        con = entry.con
        self.total -= entry.event_bytes + entry.output_memory
        self.weighed -= entry.unfinished
        self.check_above += entry.unfinished
        if con.endpoint is None:
            self._leave(con)
            entry.output_memory = 0
        else:
            self.without_entry[con] = None
            self.keep(con, entry.output_memory)
        entry.event_bytes = entry.output_counted = entry.unfinished = 0
        for other in entry.couples or ():
            if other.couples is not None:
                other.couples.discard(entry)
                self.keep(other, -COUPLE)
                self._check_couples(other)
        entry.couples = None
        self.keep(entry, -entry.kept)
        self.changed.pop(entry, None)
        self.paused.pop(entry, None)
        self.unfinished.discard(entry)
        self.unwritten.pop(entry, None)

    def couple(self, one: Entry, other: Entry) -> None:
        """Join the flow control of two connections."""
        if one is other:
            return
        for entry, partner in ((one, other), (other, one)):
            if entry.couples is None:
                entry.couples = set()
            if partner not in entry.couples:
                entry.couples.add(partner)
                self.keep(entry, COUPLE)
        self._check_couples(one)
        self._check_couples(other)

    def _check_couples(self, entry: Entry) -> None:
        if any(other.over for other in entry.couples or ()):
            self.pause(entry, PAUSED_COUPLED)
        else:
            self.resume(entry, PAUSED_COUPLED)

    def pause(self, entry: Entry, why: Pause) -> None:
        """Add a reason not to read from a connection."""
        if not entry.pauses:
            entry.paused_since = self.now
            self.changed[entry] = None
            self.paused[entry] = None
        entry.pauses |= why

    def resume(self, entry: Entry, why: Pause) -> None:
        """Remove a reason; reading resumes when none is left."""
        if entry.pauses & why:
            entry.pauses &= ~why
            if not entry.pauses:
                self.changed[entry] = None
                self.paused.pop(entry, None)

    def restart_pause(self, entry: Entry, now: float) -> None:
        """Restart the clock of a pause, and keep the order of `paused`."""
        entry.paused_since = now
        if entry in self.paused:
            self.paused[entry] = self.paused.pop(entry)

    def read_part(self, con: Connection, size: int) -> None:
        """Count bytes that were read and do not make an event yet."""
        entry = entry_of(con)
        if entry is None:
            self.keep(con, EARLY * size)
            return
        self.unfinished.add(entry)
        self.check_above -= size

    @property
    def is_check_due(self) -> bool:
        """Whether `check_memory` is due, or could end pauses."""
        share = FULL_UNTIL if self.full else RELIEVED
        return self.total > self.check_above or (
            self.crowded and self.accounted <= self.memory_limit * share
        )

    def check_memory(self, entries: Collection[Entry]) -> list[Connection]:
        """Pause the fullest connections while memory is crowded, and all while it is full. Returns
        the connections to close (1013)."""
        limit = self.memory_limit
        self.weighed = self._weigh_unfinished(entries)
        total = self.accounted
        self.full = total > limit * (FULL_UNTIL if self.full else 1.0)
        was_crowded = self.crowded
        self.crowded = total > limit * (RELIEVED if was_crowded else CROWDED)
        if self.crowded and not was_crowded:
            self._crowded_since = self.now
            self.high = self.low
            for entry in entries:
                self.check_marks(entry)
        elif was_crowded and not self.full:
            self._resume_all()
        above = limit if self.crowded else limit * CROWDED
        self.check_above = max(above, total + limit * GRAIN) - (total - self.total)
        if self.full:
            return self._fullest(entries, total - limit * FULL_UNTIL)
        excess = total - limit * RELIEVED
        is_late = self.crowded and self.now - self._crowded_since > CROWDED_FOR
        return self._fullest(entries, excess) if is_late and self._can_free(entries, excess) else []

    def _can_free(self, entries: Collection[Entry], size: float) -> bool:
        """Whether closing can free `size` bytes: whether all output and unfinished messages
        together are that much. If the reason is events that wait for handlers, or the number of
        connections, nothing is closed."""
        slow = sum(con.kept for con in self.without_entry if con.kept > WORTH_WEIGHING)
        return size <= slow + self.shared + sum(r.output_memory + r.unfinished for r in entries)

    def _resume_all(self) -> None:
        """Memory is not full any more, or not even crowded: end the pauses that this has caused."""
        if not self.crowded:
            self.high = self._high
        for entry in list(self.paused):
            self.resume(entry, PAUSED_FULL)
            if not self.crowded and entry.event_bytes + entry.output_counted <= self.high:
                self.resume(entry, PAUSED_OWN)

    def _fullest(self, entries: Collection[Entry], excess: float) -> list[Connection]:
        """The connections to close to free `excess` bytes.

        First come those without an entry, which no handler knows; then those with most output and
        unfinished messages. How much shared output a close frees is known only afterwards. What
        connections keep counts only if that alone is too much: everything else shrinks by itself as
        handlers and clients continue.
        """
        to_close: dict[Connection, None] = {}
        closable = [(con.kept, con) for con in self.without_entry if con.kept > WORTH_WEIGHING]
        excess -= self._choose(closable, excess, to_close)
        # What a close frees without losing an event.
        full = [(entry.output_counted + entry.unfinished, entry.con) for entry in entries]
        self._choose([each for each in full if each[0]], excess, to_close)
        excess = self.kept - self.memory_limit * FULL_UNTIL
        if excess > 0:
            # Connections that have ended, or will soon, free their memory anyway.
            there: list[tuple[int, Connection]] = []
            for entry in entries:
                size = entry.kept + entry.con.kept
                if entry.con in to_close or entry.con.state in (CLOSING, CLOSED):
                    excess -= size
                else:
                    there.append((size, entry.con))
            excess -= sum(con.kept for con in self.without_entry if con in to_close)
            self._choose(there, excess, to_close)
        return list(to_close)

    def _choose(
        self, sizes: list[tuple[int, Connection]], excess: float, to_close: dict[Connection, None]
    ) -> int:
        """Choose the largest connections until `excess` bytes would be free; return how many bytes
        would be."""
        freed = 0
        for size, con in sorted(sizes, key=itemgetter(0), reverse=True):
            if freed >= excess:
                break
            if len(to_close) == MOST_CLOSED:
                self.check_above = -math.inf
                break
            to_close[con] = None
            freed += size
            if con.output.shared_size:
                # A close may free less: then the next turn closes more connections.
                self.check_above = -math.inf
        return freed

    def _weigh_unfinished(self, entries: Collection[Entry]) -> int:
        """Bytes of incomplete messages and of compression. A connection whose last read completed a
        message holds almost none, unless it keeps a compression context."""
        total = 0
        for entry in list(entries if self._keeps_contexts else self.unfinished):
            entry.unfinished = entry.con.unfinished
            if entry.con.websocket is not None:
                entry.unfinished += entry.con.websocket.contexts_size
            if entry.splice is not None:
                entry.unfinished += len(entry.splice.buffer)
            if entry.unfinished < WORTH_WEIGHING:
                self.unfinished.discard(entry)
                entry.unfinished = 0
            total += entry.unfinished
        return total


def weight(con: Connection) -> int:
    """Bytes of memory that a connection takes in its present state."""
    size = SOCKET
    if con.entry is not None:
        size += PLACE
    if con.websocket is not None:
        size += WEBSOCKET
    asked = con.phase.opening if con.opened else None
    if asked is not None:
        size += EARLY * size_of(asked)
    about = con.about
    if "tls" in about:
        size += TLS + size_of(about["tls"])
    for name in ("params", "repeated"):
        if name in about:
            size += size_of(about[name])
    return size + size_of_head(con.inf)


def size_of_head(inf: Mapping[str, str]) -> int:
    """Bytes of a request head as handlers see it."""
    if not inf:
        return 0
    text = "".join([*inf, *inf.values()])
    return FIELD * len(inf) + len(text) * (TEXT if text.isascii() else NOT_ASCII)


def size_of(value: Any) -> int:
    """Bytes of plain data: options of `open`, facts about a connection."""
    size = 0
    values = [value]
    while values:
        value = values.pop()
        size += STATE
        if isinstance(value, str):
            size += len(value) * (1 if value.isascii() else NOT_ASCII)
        elif isinstance(value, bytes):
            size += len(value)
        elif isinstance(value, dict):
            size += FIELD * len(value)
            values += value.keys()
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
    return size
