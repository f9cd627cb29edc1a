"""I/O. One connection's socket: reads, writes, waits, closes. It decides nothing.

A socket outlives its connection a little: output is flushed, our side is shut, and what the peer
still sends is read and thrown away until it closes too. Closing at once would answer that data with
a reset, which can destroy the last bytes we sent before the peer has read them (RFC 9112, section
9.6; nginx calls it lingering close).
"""

from __future__ import annotations

import math
import os
import socket
import struct
import sys
from typing import Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.connection.output import GATHERED_FROM
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.read_policy import Reading, is_paused, may_read, must_wait
from wsraw.gateway.delivery.registry import Registry
from wsraw.runtime.loop import Loop, Timer

READ_SIZE: Final = 64 * 1024
"""Bytes read from one connection in a turn, so that a fast peer does not hold up the others."""

LEAST_READ: Final = 4 * 1024
"""The same at its beginning, and after a read that held more frames than are parsed in a turn: what
it costs, and so what the others wait, goes by frames and not by bytes."""

WRITES: Final = 32
"""Writes that a connection is given before it is found too slow: some megabytes, as the kernel goes
on taking them from us while a peer of the same machine reads."""

FEW: Final = 16
"""Frames of a read below which the next one of that connection may be GROWTH times as large."""

GROWTH: Final = 4
"""A connection whose reads hold more frames than that, and fill their portion, is not left to the
selector, but queues up with its kind (sockets.py): whoever says little does not wait for it."""

GRAIN: Final = 1 / 8
"""Seconds to which far deadlines are rounded up: so a turn pings dozens of idle connections,
where each would wake the loop for itself."""

PUNCTUAL: Final = 1.0
"""Seconds within which a deadline is kept as it is."""

# struct linger: two shorts on Windows, two ints elsewhere.
_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Owner:
    """What all endpoints share; sockets.py is the one who has it."""

    loop: Loop
    registry: Registry
    settings: Settings
    dirty: dict[Connection, None]
    doomed: list[Endpoint]
    going_on: dict[Endpoint, None]


class Endpoint:
    """A socket and the connection that lives on it."""

    __slots__ = (
        "_is_busy",
        "_owner",
        "_portion",
        "_timer",
        "_timer_at",
        "con",
        "eof",
        "lingering",
        "reading",
        "sock",
        "watched",
        "writing",
    )

    def __init__(self, owner: Owner, sock: socket.socket, con: Connection) -> None:
        self._owner = owner
        self.sock = sock
        self.con = con
        con.endpoint = self
        self.reading = True
        self.writing = False
        self.eof = False
        self.lingering = False
        self.watched: tuple[bool, bool] | None = None
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._portion = LEAST_READ
        self._is_busy = False
        """It sends more than its share of a turn: it is read from in `go_on`."""

    def is_on(self, sock: socket.socket) -> bool:
        """Whether it is this socket that it reads and writes."""
        return self.sock is sock

    # --- readiness ---

    def handle(self, readable: bool, writable: bool) -> None:
        """The loop's call. Closing waits for before_sleep."""
        if writable:
            self._owner.dirty[self.con] = None
        if readable:
            if self.reading:
                self._read()
            else:
                self._look_for_error()

    def _read(self) -> None:
        owner, con = self._owner, self.con
        flow = owner.registry.flow
        if (flow.full or flow.due) and must_wait(flow, con):
            return
        now = owner.loop.now
        try:
            data = self.sock.recv(self._portion)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error.strerror or str(error))
            return
        if self.lingering:
            if not data:
                self.eof = True
                owner.dirty[con] = None
            return
        if data:
            connecting = con.state is CONNECTING
            events = con.receive_data(data, now)
            if connecting:
                self.judge_standing(now)
            if events or con.half_closed:
                owner.registry.take(con, events, now)
            elif not con.parsed:
                if len(data) >= LEAST_READ:
                    # A part of something large: there will be more of it in the next turn.
                    owner.loop.give_way()
                flow.read_part(con, len(data))
            if con.has_more:
                # The rest is for the turns to come, and what comes then, too.
                self._portion = LEAST_READ
                self._is_busy = True
                flow.read_part(con, len(data))
                self.judge_reading()
            elif len(data) > self._portion // 2:
                if con.parsed < FEW:
                    self._portion = min(READ_SIZE, GROWTH * self._portion)
                else:
                    self._is_busy = True
                    self.judge_reading()
            if con.output.size or con.state is not OPEN:
                owner.dirty[con] = None
        else:
            self.eof = True
            self.reading = False
            owner.registry.receive_eof(con, now)
            owner.dirty[con] = None

    def judge_standing(self, now: float) -> None:
        """A pause does not hold up a handshake: its clock would run against us. It begins now."""
        con = self.con
        if con.state is OPEN:
            self._owner.registry.flow.settle(con)
        if is_paused(con):
            con.pause(now)
            self.judge_reading()

    def _look_for_error(self) -> None:
        """Not reading, and yet readable: an error, or the peer has hung up.

        A hang-up is reported for ever, and a unix socket does so as soon as its peer has closed,
        whatever still waits to be read: so it is not watched until we read or write again.
        """
        if self in self._owner.going_on:
            # What came before that is still to be read, and then the same is found. (Asking for
            # the error takes it away.)
            self._owner.loop.unwatch(self.sock)
            self.watched = None
            return
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        is_unix = self.sock.family == getattr(socket, "AF_UNIX", None)
        if error or not (self.eof or is_unix):
            self._lost(os.strerror(error) if error else "connection reset by peer")
        else:
            self._owner.loop.unwatch(self.sock)
            self.watched = None

    def _lost(self, why: str) -> None:
        self.eof = True
        self.reading = False
        con = self.con
        self._owner.registry.take(con, con.lost(why, self._owner.loop.now), self._owner.loop.now)
        self._owner.doomed.append(self)

    # --- writing, once a turn ---

    def flush(self) -> None:
        """Write what there is in one go; leftovers alone wait for writability."""
        owner, con = self._owner, self.con
        if con.output.size:
            now = owner.loop.now
            try:
                chunks = con.output.gathered() if con.output.size >= GATHERED_FROM else None
                if chunks is not None and hasattr(self.sock, "sendmsg"):
                    size = self.sock.sendmsg(chunks)
                else:
                    size = self.sock.send(con.output.data_to_send())
            except (BlockingIOError, InterruptedError):
                size = 0
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
            events = con.written(size, now)
            if events:
                owner.registry.take(con, events, now)
            entry = con.entry
            if entry is not None:
                assert isinstance(entry, Entry)
                # Nearly always everything was taken at once, and nobody need be told.
                entry.written += size
                if con.output.size or entry.output_counted or entry.marks:
                    owner.registry.wrote(entry)
            if self.lingering and size:
                self._linger()
            writing = con.output.size > 0
            if writing is not self.writing:
                self.writing = writing
                self.watch()
        if con.state is CLOSED:
            self._finish()
            return
        if con.state is CLOSING and (con.has_more or con.half_closed or not self.reading):
            # What comes now is no event any more, but the peer's close frame is waited for.
            self.judge_reading()
        if con.deadline < self._timer_at:
            self._arm(con.deadline)

    def write_out(self) -> None:
        """Write as much as the kernel takes, within reason; for those whose output is about to be
        too much."""
        con = self.con
        before = con.output.size + 1
        for _ in range(WRITES):
            if not 0 < con.output.size < before or con.state is CLOSED:
                break
            before = con.output.size
            self.flush()

    def judge_reading(self) -> None:
        """Do as the read policy says: read when there is something, or queue up, or wait."""
        reading = self._may_read()
        if reading is Reading.IN_TURN:
            self._owner.going_on[self] = None
        self.reading = reading is Reading.YES
        self.watch()

    def _may_read(self) -> Reading:
        return may_read(self.con, eof=self.eof, lingering=self.lingering, is_busy=self._is_busy)

    def go_on(self) -> None:
        """Its turn in the queue: what was read is parsed on, then more is read, until there is no
        more than others have; or a pause is over."""
        owner, con = self._owner, self.con
        now = owner.loop.now
        flow = owner.registry.flow
        if self.lingering or is_paused(con) or (flow.full and must_wait(flow, con)):
            return
        if self._is_busy and not con.has_more and not con.paused:
            # Unless it is found to be so again.
            self._is_busy = False
            if not self.eof:
                self._read()
        else:
            events = con.resume(now)
            if events or con.half_closed:
                owner.registry.take(con, events, now)
            owner.dirty[con] = None
            if con.has_more:
                owner.loop.give_way()
        self.judge_reading()

    def watch(self) -> None:
        """Tell the loop what we wait for now."""
        wanted = (self.reading and not self.eof, self.writing)
        if wanted != self.watched:
            self.watched = wanted
            self._owner.loop.watch(self.sock, self.handle, read=wanted[0], write=wanted[1])

    # --- time ---

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        if when - self._owner.loop.now > PUNCTUAL:
            when = math.ceil(when / GRAIN) * GRAIN
        self._timer = self._owner.loop.call_at(when, self._handle_timer)

    def _handle_timer(self) -> None:
        owner, con = self._owner, self.con
        now = owner.loop.now
        self._timer = None
        self._timer_at = math.inf
        if self.lingering:
            owner.doomed.append(self)
            return
        if con.deadline <= now:
            events = con.handle_timeout(now)
            if events:
                owner.registry.take(con, events, now)
        owner.dirty[con] = None

    # --- the end ---

    def _finish(self) -> None:
        """The connection is over; see to its last bytes."""
        con = self.con
        if con.limit:
            limit, con.limit = con.limit, ""
            self._owner.registry.limits.hit(limit, self._owner.loop.now, con.who)
        if con.reset or (
            not con.output.size and (self.eof or con.ends_with_reset or self._nothing_comes())
        ):
            self._owner.doomed.append(self)
            return
        if not self.lingering:
            self.lingering = True
            self.reading = self._may_read() is Reading.YES
            self.writing = con.output.size > 0
            self._linger()
        if not con.output.size:
            try:
                self.sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._owner.doomed.append(self)
                return
        self.watch()

    def _nothing_comes(self) -> bool:
        """Whether the peer has said by itself that it is done: then there is nothing to wait for,
        which saves a turn, a timer and three system calls for each client that leaves."""
        ws = self.con.websocket
        return ws is not None and ws.agreed

    def _linger(self) -> None:
        """The clock of the goodbye: it runs while nothing moves."""
        if self._owner.settings.close_timeout:
            self._arm(self._owner.loop.now + self._owner.settings.close_timeout)

    def close(self) -> None:
        """Free the descriptor; with a reset if the connection asks for it, or output is left."""
        con = self.con
        if self._timer is not None:
            # Else it would hold what is over until it is due: under an attack that is most of it.
            self._timer.cancel()
        self._owner.going_on.pop(self, None)
        self._owner.loop.unwatch(self.sock)
        if con.reset or con.output.size or con.ends_with_reset:
            reset(self.sock)
        else:
            self.sock.close()
        self._part()

    def _part(self) -> None:
        self._owner.registry.flow.socket_closed(self.con)

    # --- faults of our own ---

    def handle_fault(self, error: BaseException) -> None:
        """Something of ours has raised while this connection was handled, and it ends for that.
        Raises nothing, and closes nothing: that is for before_sleep, as ever."""
        owner = self._owner
        owner.registry.fault(self.con, error, owner.loop.now)
        if self.con.state is CLOSED:
            owner.doomed.append(self)

    def free(self, error: BaseException) -> None:
        """`close` has raised: let go of what there is, come what may."""
        self._owner.registry.limits.fault(f"the socket of {self.con.who}", error)
        for step in (self._forget, self.sock.close, self._part):
            try:
                step()
            except Exception as another:
                self._owner.registry.limits.fault(f"the socket of {self.con.who}", another)

    def _forget(self) -> None:
        self._owner.going_on.pop(self, None)
        self._owner.loop.unwatch(self.sock)


def reset(sock: socket.socket) -> None:
    """Close with a reset: a raw client has no other way to hear that it was not served."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass
    sock.close()
