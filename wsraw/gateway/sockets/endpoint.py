"""I/O. One connection's socket: it reads, writes, waits and closes.

A socket outlives its connection a little: output is flushed, our side is shut down, and data from
the peer is read and discarded until the peer closes, too. Closing at once would answer that data
with a reset, which can destroy the last bytes we sent before the peer has read them (RFC 9112,
section 9.6; nginx calls it lingering close).
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable
from typing import Final, Protocol

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.delivery.read_policy import (
    Reading,
    is_answered,
    is_paused,
    may_read,
    must_wait,
)
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sockets.transport import MOST_OVERHEAD, PlainTransport, Transport
from wsraw.gateway.tls.handshake_queue import HandshakeQueue
from wsraw.gateway.totals import UNKNOWN
from wsraw.runtime.loop import Loop, Timer
from wsraw.runtime.selector import READ, WRITE
from wsraw.runtime.sockets import strerror, undelivered

READ_SIZE: Final = 64 * 1024
"""Bytes read from one connection in a turn, so that a fast peer does not hold up the others."""

LARGE_READ: Final = 256 * 1024
"""Bytes read in a turn from a WebSocket in the middle of a frame, because each read of it costs a
turn."""

LEAST_READ: Final = 4 * 1024
"""Bytes read first from a connection, and after a read with more frames than are parsed in a turn:
the cost of a read, and so the time that others wait, depends on frames and not on bytes."""

WRITES: Final = 32
"""Writes that a connection above its output limit gets before it counts as slow: some megabytes,
because the kernel takes more while a peer on the same machine reads."""

FEW: Final = 16
"""Frames of a read below which the next read of that connection may be GROWTH times as large."""

GROWTH: Final = 4
"""Factor by which reads may grow. A connection whose reads hold more frames than FEW, and fill
their portion, is not left to the selector, but queues with others like it: connections that send
little do not wait for it."""

GRAIN: Final = 1 / 8
"""Seconds to which far deadlines are rounded up, so that one turn pings dozens of idle connections,
each of which would otherwise wake the loop."""

PUNCTUAL: Final = 1.0
"""Seconds within which a deadline is kept exactly."""

NOT_WATCHED: Final = -1


class Handshake(Protocol):
    """Reads for an endpoint until its transport can carry data."""

    def read(self) -> object: ...
    def take_turn(self, data: bytes) -> object: ...


class Shared:
    """Data that all endpoints share: the loop, the registry, and lists of work for the end of the
    turn."""

    def __init__(self, loop: Loop, registry: Registry, settings: Settings) -> None:
        self.loop = loop
        self.registry = registry
        self.settings = settings
        self.handshakes = HandshakeQueue()
        self.dirty: dict[Connection, None] = registry.dirty
        """Connections with output to write, a close to finish or a deadline to arm."""
        self.ended: list[Endpoint] = []
        """Endpoints to close: never inside a callback."""
        self.read_queue: dict[Endpoint, None] = {}
        """Endpoints that have more to parse, or to read than others, in the order of their
        turns."""
        self.newcomer: Callable[[Connection], object] = _nobody_asks
        """Called with each client, and with each further request on a socket, before anything has
        come from it."""


def _nobody_asks(con: Connection) -> None:
    """The default of `newcomer`."""


class Endpoint:
    """A socket and the connection that uses it."""

    __slots__ = (
        "_is_busy",
        "_portion",
        "_timer",
        "_timer_at",
        "con",
        "eof",
        "handshake",
        "lingering",
        "reading",
        "shared",
        "sock",
        "transport",
        "watched",
        "writing",
    )

    def __init__(self, shared: Shared, sock: socket.socket, con: Connection) -> None:
        self.shared = shared
        self.sock = sock
        self.transport: Transport = PlainTransport(sock)
        self.handshake: Handshake | None = None
        """Set until TLS is established, or turns out not to be used."""
        self.con = con
        con.endpoint = self
        self.reading = True
        self.writing = False
        self.eof = False
        self.lingering = False
        self.watched = NOT_WATCHED
        self._timer: Timer | None = None
        self._timer_at = math.inf
        self._portion = LEAST_READ
        self._is_busy = False
        """The peer sends more than its share of a turn: it is read from in the read queue."""

    # --- readiness ---

    def handle(self, readable: bool, writable: bool) -> None:
        """Called by the loop. Closing waits for the end of the turn."""
        if writable:
            self.shared.dirty[self.con] = None
        if not self.reading:
            if not writable:
                self._check_error()
        elif readable:
            if self.handshake is not None:
                self.handshake.read()
            else:
                self.read()

    def read(self) -> None:
        """Read once, and pass the events on."""
        shared, con = self.shared, self.con
        flow = shared.registry.flow
        if (flow.full or flow.total > flow.check_above) and must_wait(flow, con):
            return
        if con.state is CLOSED and not self.lingering and is_answered(con):
            return
        now = shared.loop.now
        transport = self.transport
        data: bytes | None = None
        try:
            data = transport.recv(self._portion)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self.lost(error.strerror or str(error))
            return
        if data:
            if not self.lingering:
                self.receive(data, now)
        elif data is not None:
            self.eof = True
            shared.dirty[con] = None
            if not self.lingering:
                self.reading = False
                shared.registry.receive_eof(con, now)
        if transport.unsent:
            shared.dirty[con] = None
        if self.eof or self.lingering:
            return
        if transport.overhead > MOST_OVERHEAD:
            self._portion = LEAST_READ
            self._is_busy = True
            self.update_reading()
        if transport.has_more and data:
            # close_notify, or an error, came with the data: select does not report it.
            self.read()

    def receive(self, data: bytes, now: float) -> None:
        """Pass on bytes of the connection, and decide when it is read from next."""
        shared, con = self.shared, self.con
        size = len(data)
        connecting = con.state is CONNECTING
        events = con.receive_data(data, now)
        if connecting:
            self.after_opening(now)
        intake = con.intake
        if events or intake.half_closed:
            shared.registry.dispatch(con, events, now)
        elif not intake.parsed:
            if size >= LEAST_READ:
                # It was a part of something large: the next turn will bring more.
                shared.loop.give_way()
            shared.registry.flow.read_part(con, size)
        entry: Entry | None = con.entry  # type: ignore[assignment]
        if entry is not None:
            totals = entry.totals
            totals.reads.append(size)
            if len(events) != 1:
                totals.events += len(events) - 1
        if intake.has_more:
            # The rest is for later turns, after what others send then.
            self._portion = LEAST_READ
            self._is_busy = True
            shared.registry.flow.read_part(con, size)
            self.update_reading()
        elif size > self._portion // 2:
            parsed = intake.parsed
            if parsed < FEW:
                most = READ_SIZE if parsed or con.websocket is None else LARGE_READ
                self._portion = min(most, GROWTH * self._portion)
            else:
                self._is_busy = True
                self.update_reading()
        if con.output.size or con.state is not OPEN:
            shared.dirty[con] = None

    def after_opening(self, now: float) -> None:
        """Apply a pause from before the connection was open: it must not delay a handshake, whose
        deadline is running."""
        con = self.con
        if con.state is OPEN:
            self.shared.registry.flow.weigh(con)
        if is_paused(con):
            con.pause(now)
            self.update_reading()

    def _check_error(self) -> None:
        """Find out why the endpoint is called while it does not read: an error, or a hang-up.

        A hang-up is reported again and again, by a unix socket as soon as its peer has closed,
        whatever waits to be read. So the socket is not watched until we read or write again.
        """
        if self not in self.shared.read_queue:
            error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            is_unix = self.sock.family == getattr(socket, "AF_UNIX", None)
            if error or not (self.eof or is_unix):
                self.lost(strerror(error) if error else "connection reset by peer")
                return
        # Otherwise earlier data is still to be read, and then reading finds the same error. (Asking
        # for the error clears it.)
        self.shared.loop.unwatch(self.sock)
        self.watched = NOT_WATCHED

    def lost(self, why: str) -> None:
        self.eof = True
        self.reading = False
        now = self.shared.loop.now
        self.shared.registry.take(self.con, self.con.lost(why, now), now)
        self.shared.ended.append(self)

    # --- writing, once a turn ---

    def flush(self) -> None:
        """Write all output in one go; only the rest waits for writability."""
        con = self.con
        if (con.output.size or self.transport.unsent) and not self._write():
            return
        if con.state is CLOSED:
            self._finish()
            return
        if con.state is CLOSING and (
            con.intake.has_more or con.intake.half_closed or not self.reading
        ):
            # Further data does not make events any more, but the peer's close frame is still
            # expected.
            self.update_reading()
        if con.keepalive.deadline < self._timer_at:
            self._arm(con.keepalive.deadline)

    def _write(self) -> bool:
        """Write once; False if the socket has failed."""
        shared, con, transport = self.shared, self.con, self.transport
        output = con.output
        has_output = output.size > 0 and transport.established
        try:
            size = transport.write(output)
        except OSError as error:
            self.lost(error.strerror or str(error))
            return False
        if has_output:
            now = shared.loop.now
            events = con.written(size, now)
            if events:
                shared.registry.take(con, events, now)
            # Not an assertion, which would cost a call for each write.
            entry: Entry | None = con.entry  # type: ignore[assignment]
            if entry is not None:
                # Nearly always everything was written at once, and nothing else changes.
                entry.written += size
                entry.totals.writes.append(size)
                if output.size or entry.output_counted or entry.marks:
                    shared.registry.wrote(entry)
        if self.lingering and size:
            self._linger()
        writing = bool(transport.unsent) or (output.size > 0 and transport.established)
        if writing is not self.writing:
            self.writing = writing
            self.watch()
        return True

    def shut(self) -> None:
        """Tell a raw peer that nothing more comes, as its connection has decided; reading
        continues."""
        try:
            if self.transport.shut():
                self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.lost(error.strerror or str(error))
        self.shared.dirty[self.con] = None

    def write_out(self) -> None:
        """Write as much as the kernel takes, up to WRITES times."""
        output = self.con.output
        before = output.size + 1
        for _ in range(WRITES):
            if not 0 < output.size < before or self.con.state is CLOSED:
                break
            before = output.size
            self.flush()

    # --- the turn's work ---

    def update_reading(self) -> None:
        """Follow the read policy: read when there is something, queue, or wait."""
        if self.handshake is not None:
            self.reading = not self.eof
            self.watch()
            return
        reading = self._may_read()
        if reading is Reading.IN_TURN:
            self.shared.read_queue[self] = None
        self.reading = reading is Reading.YES
        self.watch()
        if self.reading and self.transport.has_more:
            self.shared.handshakes.waiting[self] = b""

    def _may_read(self) -> Reading:
        return may_read(self.con, eof=self.eof, lingering=self.lingering, is_busy=self._is_busy)

    def take_turn(self, data: bytes) -> None:
        """In the queue of handshakes: take one step, or read what came with the last bytes of the
        handshake."""
        if self.handshake is not None:
            self.handshake.take_turn(data)
        elif self.reading:
            self.read()

    def read_in_turn(self) -> None:
        """In the read queue: parse more of what was read, or read more, until it has no more than
        other connections; or resume after a pause."""
        shared, con = self.shared, self.con
        now = shared.loop.now
        flow = shared.registry.flow
        if self.lingering or is_paused(con) or (flow.full and must_wait(flow, con)):
            return
        if self._is_busy and not con.intake.has_more and not con.intake.paused:
            # Unless reading finds it busy again.
            self._is_busy = False
            if not self.eof:
                self.read()
        else:
            events = con.resume(now)
            if events or con.intake.half_closed:
                shared.registry.take(con, events, now)
            shared.dirty[con] = None
            if con.intake.has_more:
                shared.loop.give_way()
        self.update_reading()

    def watch(self) -> None:
        """Tell the loop what to wait for."""
        reading = self.reading and not self.eof
        wanted = (READ if reading else 0) | (WRITE if self.writing else 0)
        if wanted != self.watched:
            self.watched = wanted
            self.shared.loop.watch(self.sock, self.handle, read=reading, write=self.writing)

    # --- time ---

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        if when - self.shared.loop.now > PUNCTUAL:
            when = math.ceil(when / GRAIN) * GRAIN
        self._timer = self.shared.loop.call_at(when, self._handle_timer)

    def _handle_timer(self) -> None:
        shared, con = self.shared, self.con
        now = shared.loop.now
        self._timer = None
        self._timer_at = math.inf
        if self.lingering:
            if self._is_taking():
                self._linger()
                return
            if con.is_sending_answer:
                shared.registry.counters.hit("write_timeout", now, con.subject)
            shared.ended.append(self)
            return
        if con.keepalive.deadline <= now:
            # Also needed for a ping, whose deadline depends on it.
            is_taking = self._is_taking()
            if is_taking and con.state is CLOSING:
                con.keepalive.arm(con.keepalive.timeout, now)
            elif events := con.handle_timeout(now):
                shared.registry.take(con, events, now)
        shared.dirty[con] = None

    def _is_taking(self) -> bool:
        """Whether the peer has taken some of the kernel's data since the last look: then it is slow
        and not gone, and data from before a close is still on its way."""
        entry, left = entry_of(self.con), undelivered(self.sock)
        return entry is not None and left is not None and self.con.keepalive.look(entry.taken, left)

    # --- the end ---

    def _finish(self) -> None:
        """The connection has ended: write its last bytes, then close."""
        con, shared, transport = self.con, self.shared, self.transport
        self.handshake = None
        if con.ending.is_answered and self._go_on(con):
            return
        if con.ending.limit:
            limit, con.ending.limit = con.ending.limit, ""
            shared.registry.counters.hit(limit, shared.loop.now, con.subject)
        if not transport.established:
            con.output.drop()
        if con.output.reset:
            shared.ended.append(self)
            return
        try:
            is_written = not con.output.size and (con.output.ends_with_reset or transport.finish())
            if is_written and not (
                self.eof or con.output.ends_with_reset or self._peer_has_ended()
            ):
                self.sock.shutdown(socket.SHUT_WR)
            elif is_written:
                shared.ended.append(self)
                return
        except OSError:
            shared.ended.append(self)
            return
        self.writing = con.output.size > 0 or bool(transport.unsent)
        if not self.lingering:
            self.lingering = True
            self.reading = self._may_read() is Reading.YES
            self._linger()
        self.watch()

    def _go_on(self, con: Connection) -> bool:
        """A request is answered: begin with what follows on its socket, if that is allowed. While
        the response is being written, the peer is not read from."""
        shared = self.shared
        now = shared.loop.now
        successor = shared.registry.follow(con, now)
        if successor is None:
            if con.ending.successor is None or shared.registry.stopping:
                return False
            self.reading = False
            if not self.lingering:
                self.lingering = True
                self._linger()
            self.watch()
            return True
        self.lingering = False
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, math.inf
        self.con, successor.endpoint = successor, self
        shared.registry.flow.weigh(successor)
        shared.newcomer(successor)
        shared.registry.take(successor, successor.first_events(now), now)
        if self.eof:
            shared.registry.receive_eof(successor, now)
        shared.dirty[successor] = None
        self.update_reading()
        return True

    def _peer_has_ended(self) -> bool:
        """Whether the peer has already closed its WebSocket: then there is nothing to wait for,
        which saves a turn, a timer and three system calls for each client that leaves."""
        ws = self.con.websocket
        return ws is not None and ws.agreed

    def _linger(self) -> None:
        """Restart the clock of lingering: it runs while no data moves."""
        timeout = self.con.linger_timeout
        if timeout:
            self._arm(self.shared.loop.now + timeout)
        elif self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    def close(self) -> None:
        """Free the descriptor; with a reset if the connection asks for it, or if output is left."""
        con = self.con
        if self._timer is not None:
            # Otherwise the timer would keep all this until it is due: in an attack, that is most of
            # the memory.
            self._timer.cancel()
        self._leave()
        if con.entry is None:
            registry = self.shared.registry
            ending = con.ending
            totals = registry.totals_of(con, UNKNOWN, "")
            totals.count_end(ending.cause or UNKNOWN, ending.status)
        if con.output.reset or con.output.size or con.output.ends_with_reset:
            self.transport.reset()
        else:
            self.sock.close()
        self.shared.registry.flow.socket_closed(con)

    def _leave(self) -> None:
        shared = self.shared
        shared.read_queue.pop(self, None)
        shared.handshakes.waiting.pop(self, None)
        self.handshake = None
        shared.loop.unwatch(self.sock)

    # --- faults of our own ---

    def handle_fault(self, error: BaseException) -> None:
        """End the connection because of a bug in wsraw. Never raises, and closes nothing: that is
        done at the end of the turn, as always."""
        shared = self.shared
        shared.registry.fault(self.con, error, shared.loop.now)
        if self.con.state is CLOSED:
            shared.ended.append(self)

    def free(self, error: BaseException) -> None:
        """`close` has raised: free everything, even if parts of that raise."""
        registry = self.shared.registry
        registry.counters.fault(f"the socket of {self.con.label}", error, self.con.subject)
        for step in (self._leave, self.sock.close, lambda: registry.flow.socket_closed(self.con)):
            try:
                step()
            except Exception as another:
                registry.counters.fault(
                    f"the socket of {self.con.label}", another, self.con.subject
                )
