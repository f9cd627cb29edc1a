"""Sans-I/O. The in-memory counterpart of a connection's socket (gateway/sockets/endpoint.py)."""

from __future__ import annotations

import math

from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.delivery.entry import entry_of
from wsraw.gateway.delivery.read_policy import (
    Reading,
    is_answered,
    is_paused,
    may_read,
    must_wait,
)
from wsraw.gateway.delivery.registry import Registry

READ_SIZE = 64 * 1024


class Pipe:
    """Carries bytes to and from one connection."""

    def __init__(self, registry: Registry, con: Connection) -> None:
        self.con = con
        self.incoming = bytearray()
        """Bytes that the peer has sent and the gateway has not read."""
        self.outgoing = bytearray()
        """Bytes that the gateway has written and the peer has not read."""
        self.peer_closed = False
        """The peer sends nothing more."""
        self.shut = False
        """The gateway sends nothing more."""
        self.closed = False
        self.was_reset = False
        self.blocked = False
        """The peer does not read, and the kernel's buffers are full."""
        self._registry = registry
        self._eof = False
        self.reading = True
        self._lingering = False
        self._linger_until = math.inf
        con.endpoint = self
        registry.flow.weigh(con)

    @property
    def deadline(self) -> float:
        """When `handle_timeout` is due."""
        return self._linger_until if self._lingering else self.con.keepalive.deadline

    def step(self, now: float) -> bool:
        """Read once and write once; return whether anything has moved."""
        before = len(self.incoming), len(self.outgoing), self._eof, self.shut, self.closed
        con = self.con
        flow = self._registry.flow
        goes_on = con.intake.has_more and not (is_paused(con) or must_wait(flow, con))
        if goes_on:
            self._registry.take(con, con.resume(now), now)
            self.update_reading()
        self._read(now)
        self.flush(now)
        return goes_on or before != (
            len(self.incoming), len(self.outgoing), self._eof, self.shut, self.closed
        )  # fmt: skip

    def _read(self, now: float) -> None:
        con, registry = self.con, self._registry
        waits = self.incoming or (self.peer_closed and not self._eof)
        if self.closed or not self.reading or not waits or must_wait(registry.flow, con):
            return
        if is_answered(con) and not self._lingering:
            return
        data = bytes(self.incoming[:READ_SIZE])
        del self.incoming[:READ_SIZE]
        if self._lingering:
            self._eof = not data
        elif data:
            connecting = con.state is CONNECTING
            events = con.receive_data(data, now)
            if connecting and con.state is OPEN:
                registry.flow.weigh(con)
            registry.take(con, events, now)
            if con.intake.has_more or not (events or con.intake.parsed):
                registry.flow.read_part(con, len(data))
            if is_paused(con):
                con.pause(now)
            self.update_reading()
        else:
            self._eof = True
            self.reading = False
            registry.receive_eof(con, now)

    def flush(self, now: float) -> None:
        """Write what the peer takes, and close if that was the last output."""
        con = self.con
        if self.closed:
            return
        if con.output.size and not self.blocked:
            data = bytes(con.output.data_to_send())
            self.outgoing += data
            self._registry.take(con, con.written(len(data), now), now)
            entry = entry_of(con)
            if entry is not None:
                entry.written += len(data)
                self._registry.wrote(entry)
        if con.state is CLOSED:
            self._finish(now)
        elif con.state is CLOSING and (con.intake.half_closed or not self.reading):
            self.update_reading()

    def apply_pause(self, now: float) -> None:
        """Pause reading, or resume it."""
        con, flow = self.con, self._registry.flow
        if self.closed or self._lingering:
            return
        if con.entry is not None and con.entry.pauses:
            con.pause(now)
        elif not (is_paused(con) or (flow.full and must_wait(flow, con))):
            self._registry.take(con, con.resume(now), now)
        self.update_reading()

    def update_reading(self) -> None:
        """Follow the read policy."""
        reading = may_read(self.con, eof=self._eof, lingering=self._lingering)
        self.reading = reading is Reading.YES

    def lost(self, why: str, now: float) -> None:
        """The network has failed, or the peer has reset the connection."""
        self.incoming.clear()
        if not self.closed:
            self._registry.take(self.con, self.con.lost(why, now), now)
            self._close()

    def handle_timeout(self, now: float) -> None:
        """The `deadline` has come."""
        if self.closed or now < self.deadline:
            return
        if self._lingering:
            self._close()
        else:
            self._registry.take(self.con, self.con.handle_timeout(now), now)

    def _finish(self, now: float) -> None:
        con = self.con
        if con.ending.is_answered:
            successor = self._registry.follow(con, now)
            if successor is not None:
                self.con, successor.endpoint = successor, self
                self._registry.flow.weigh(successor)
                self._registry.take(successor, successor.first_events(now), now)
                if self._eof:
                    self._registry.receive_eof(successor, now)
                self.update_reading()
                return
            if con.ending.successor is not None and con.output.size:
                return
        if con.output.reset or (not con.output.size and (self._eof or con.output.ends_with_reset)):
            self._close()
            return
        if not self._lingering:
            self._lingering = True
            self.update_reading()
            self._linger_until = now + (con.linger_timeout or math.inf)
        if not con.output.size:
            self.shut = True

    def _close(self) -> None:
        con = self.con
        self.closed = True
        self.was_reset = bool(con.output.reset or con.output.size or con.output.ends_with_reset)
        self._registry.flow.socket_closed(con)
