"""Sans-I/O. Connections whose time is up, and the memory that all of them hold.

They are found by looking at them periodically: a timer for each connection would make every message
slower.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.counters import CROWDED
from wsraw.gateway.delivery.entry import PAUSED_COUPLED, PAUSED_OWN, Entry, entry_of
from wsraw.gateway.delivery.registry import Registry

LOOKS: Final = 10
"""How often idle connections are looked for within idle_timeout; once a second at most."""

MOST_ENDED: Final = 64
"""Connections that are ended in a turn because their time is up: connections that were opened
together are often late together."""


class Deadlines:
    """Once a second: check what depends on the clock, after all reading of the turn."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._settings = registry.settings
        self._look_at = 0.0
        """When idle connections are looked for again."""
        self.undelivered: Callable[[Connection], int | None] = lambda con: None
        """Returns how many bytes of a connection's output the kernel has and the peer does not have
        yet, where the system tells."""
        self._delivered: dict[Entry, int] = {}
        """For connections that may soon be late, because the kernel has not taken output for half
        of write_timeout: how many bytes their peers had."""
        self.late: deque[tuple[Callable[[Entry, float], None], Entry]] = deque()
        """Connections whose time is up, and the function that ends each, in this turn or a later
        one (`end_late`)."""

    def tick(self, now: float) -> None:
        """Find the connections whose time is up, and end them, some in each turn."""
        registry = self._registry
        registry.counters.now = now
        if not self.late:
            self.check_memory(now)
            registry.groups.history.tick(now)
            registry.check_unanswered(now)
            self._add(self._end_unfinished, registry.outgoing.unfinished(now))
            self._add(self._end_slow, self._slow_readers(now))
            self._add(self._end_idle, self._idle(now))
            paused = list(registry.flow.paused)
            self._add(self._end_stalled, [e for e in paused if self._is_stalled(e, now)])
            self._add(self._end_waiting, self._waiting(now))
            registry.counters.tick(now)
        self.end_late(now)

    def _add(self, end: Callable[[Entry, float], None], entries: Iterable[Entry]) -> None:
        self.late.extend([(end, entry) for entry in entries])

    def end_late(self, now: float) -> None:
        """End some of the connections whose time is up. Some may have made progress since they were
        found."""
        for _ in range(min(len(self.late), MOST_ENDED)):
            end, entry = self.late.popleft()
            # A connection may be late in more than one way.
            if not entry.gone:
                try:
                    end(entry, now)
                except Exception as error:
                    self._registry.fault(entry.con, error, now)

    # --- memory ---

    def check_memory(self, now: float) -> None:
        """Once a second, and whenever the flow asks for it: check whether all connections together
        hold too much."""
        registry, flow = self._registry, self._registry.flow
        crowded = flow.crowded
        largest = flow.check_memory(registry.entries.values())
        if flow.crowded and not crowded:
            registry.counters.hit(CROWDED, now)
        for con in largest:
            try:
                self._end_for_memory(con, now)
            except Exception as error:
                registry.fault(con, error, now)

    def _end_for_memory(self, con: Connection, now: float) -> None:
        registry = self._registry
        registry.count("memory_limit", con, now)
        why = "the server is out of memory"
        entry = entry_of(con)
        if entry is None or entry.gone or entry.unfinished > entry.output_counted:
            # Abort without a close frame: until the client had answered one, its data would still
            # be parsed.
            registry.take(con, con.abort(1013, "", "memory", why, now), now)
            registry.dirty[con] = None
        else:
            registry.abort(entry, 1013, "memory", why, now)

    # --- a message that is not finished ---

    def _end_unfinished(self, entry: Entry, now: float) -> None:
        if entry.fragment is not None:
            self._registry.outgoing.forget(entry)
            self._registry.close(entry, 1011, "a message was not finished", "handler", now)

    # --- write_timeout ---

    def _slow_readers(self, now: float) -> list[Entry]:
        """Connections that have taken nothing for write_timeout although output waits for them."""
        unwritten, timeout = self._registry.flow.unwritten, self._settings.write_timeout
        late = []
        for entry, (known, since) in unwritten.items():
            taken = entry.taken
            con = entry.con
            is_request = con.kind == "http"
            if taken != known or (con.state is CONNECTING and not is_request):
                unwritten[entry] = (taken, now)
                self._delivered.pop(entry, None)
            elif now - since < timeout / 2 or not timeout:
                continue
            elif self._is_coming_on(entry):
                # The kernel takes more when a third of its buffer is free: megabytes.
                unwritten[entry] = (taken, now)
            elif now - since >= timeout and (
                con.state is OPEN or con.intake.half_closed or is_request
            ):
                late.append(entry)
        for entry in [each for each in self._delivered if each not in unwritten]:
            del self._delivered[entry]
        return late

    def _is_coming_on(self, entry: Entry) -> bool:
        left = self.undelivered(entry.con)
        if left is None:
            return False
        delivered = entry.taken - left
        before = self._delivered.get(entry, delivered)
        self._delivered[entry] = delivered
        return delivered > before

    def _end_slow(self, entry: Entry, now: float) -> None:
        if entry in self._registry.flow.unwritten:
            message = f"the peer has read nothing for {self._settings.write_timeout:g} s"
            self._registry.end_for_limit(entry, "write_timeout", "write-timeout", message, now)

    # --- idle_timeout ---

    def _idle(self, now: float) -> list[Entry]:
        """Accepted connections without data in either direction for idle_timeout. A connection
        whose events are being handled, or wait for anything but the client, is not idle."""
        timeout = self._settings.idle_timeout
        if not timeout or now < self._look_at:
            return []
        self._look_at = now + timeout / LOOKS
        late = []
        for entry in self._registry.entries.values():
            if entry.pauses or entry.in_flight or entry.parked or entry.output_counted:
                entry.idle_since = now
            elif now - max(entry.idle_since, entry.carried_at) >= timeout:
                con = entry.con
                if (con.state is OPEN or con.kind == "http") and not con.opened:
                    late.append(entry)
        return late

    def _end_idle(self, entry: Entry, now: float) -> None:
        if now - max(entry.idle_since, entry.carried_at) >= self._settings.idle_timeout:
            self._registry.count("idle_timeout", entry.con, now)
            self._registry.close(entry, 1001, "idle", "idle-timeout", now)

    # --- pause_timeout ---

    def _is_stalled(self, entry: Entry, now: float) -> bool:
        if (not entry.pool.workers and entry.splice is None) or self._is_being_read(entry):
            # No worker can take its events, or the client takes the output in its own time.
            self._registry.flow.restart_pause(entry, now)
        timeout = self._settings.pause_timeout
        if self._registry.stopping or not 0 < timeout < now - entry.paused_since:
            return False
        con = entry.con
        # If it was told already, its handler still has what it sent.
        return con.state is not CLOSED and (con.state is not CLOSING or con.intake.half_closed)

    def _is_being_read(self, entry: Entry) -> bool:
        """Whether output, of the connection or of coupled ones, is the only reason of its pause,
        and the peers have taken some of it since: then write_timeout applies instead. Output that a
        handler sends at once may take minutes to download."""
        flow = self._registry.flow
        if entry.pauses & ~(PAUSED_OWN | PAUSED_COUPLED):
            return False
        readers = [other for other in entry.couples or () if other.over]
        if entry.pauses & PAUSED_OWN:
            if entry.event_bytes > flow.low:
                return False
            readers.append(entry)
        taken = (flow.unwritten.get(reader, (0, 0.0))[1] for reader in readers)
        return all(since > entry.paused_since for since in taken)

    def _end_stalled(self, entry: Entry, now: float) -> None:
        if entry.pauses and self._is_stalled(entry, now):
            self._registry.flow.restart_pause(entry, now)
            self._registry.count("pause_timeout", entry.con, now)
            self._registry.close(entry, 1013, "stalled", "stalled", now)

    # --- worker_wait_timeout ---

    def _waiting(self, now: float) -> list[Entry]:
        """New connections that have waited for a worker for too long; established ones stay
        open."""
        wait = self._settings.worker_wait_timeout
        late = []
        for pool in self._registry.pools.values():
            if wait and not pool.workers:
                waiting = (*pool.unheard, *pool.unheard_left)
                late += [entry for entry in waiting if now - entry.since > wait]
        return late

    def _end_waiting(self, entry: Entry, now: float) -> None:
        if entry.heard or entry.pool.workers:
            return
        con = entry.con
        self._registry.counters.hit("worker_wait_timeout", now, con.subject)
        if con.can_be_told:
            con.close(1013, "no worker is ready", "no-worker", now)
        else:
            con.abort(1013, "", "no-worker", "no worker is ready", now)
        self._registry.dirty[con] = None
        self._registry.forget(entry)
