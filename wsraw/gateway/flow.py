"""Sans-I/O. What connections weigh, and which of them must not be read from just now.

Everything has a bound in bytes, and nothing is dropped: above the high-water mark reading from
that connection pauses and TCP passes the pressure on; below the low one it resumes. One account a
connection: parked events, events in flight, unwritten output. A frame or message that is not yet
complete counts for all together alone: a pause would keep it from ever completing. So do the
contexts of compression and what a connection takes by itself (weights.py): a pause would not free
them. A published message counts for each member's bounds, and once for all together.

What is in memory because somebody outside has caused it is in one of four sums: `total`, `weighed`,
`kept` and `shared`. Each connection is in there from its accept, or its open, until both its socket
and its place are gone; in between it may have no place, as nobody knows yet what it is, or nobody
needs it any more but its last bytes.

The total is judged when it grows, not only by the clock: in a second a few hundred clients can send
a gigabyte. Above CROWDED everybody's high-water mark is the low one; above the limit nobody is read
from, until what has come is handled, or closed.

Two connections that are coupled share their pressure: unwritten output of one pauses reading of the
other. There is no deadlock beyond TCP's own, as each pause depends only on the other's *output*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from wsraw.gateway.connection import CLOSED, CLOSING, Connection
from wsraw.gateway.framed import Framed
from wsraw.gateway.route import (
    PAUSED_COUPLED,
    PAUSED_FULL,
    PAUSED_MEMORY,
    PAUSED_OWN,
    PAUSED_STOPPING,
    Route,
)
from wsraw.gateway.weights import COUPLE, weight
from wsraw.settings import Settings

CROWDED: Final = 0.8
"""Share of the memory limit above which no new connections are taken and the fullest pause."""

RELIEVED: Final = 0.7
"""Share of the memory limit below which that ends."""

FULL_UNTIL: Final = 0.9
"""Share of the memory limit below which everybody is read from again, after it was reached."""

CROWDED_FOR: Final = 10.0
"""Seconds that new clients wait for room. Then the fullest outputs and unfinished messages go, if
they are the reason: a few hundred clients that read a byte a minute, or never finish what they have
begun to send, could keep all others out for ever."""

MOST_CLOSED: Final = 50
"""Connections that are closed for memory in a turn; if that is not enough, the next one goes on."""

GRAIN: Final = 1 / 64
"""Share of the memory limit by which the total must have grown to be judged again."""

WORTH_WEIGHING: Final = 4096
"""Bytes, incomplete or of compression, below which a connection is not looked at again; and of one
without a place, with its output, below which closing it would be of no use."""

OF_ITS_BYTES: Final = PAUSED_OWN | PAUSED_MEMORY
"""Pauses that end when the connection has little left. It may be crowded for hours."""

FRAME: Final = 256
"""Bytes of a published message beside its frame."""


def _unsettled(route: Route) -> int:
    """What closing the connection would free, and no handler has a claim to."""
    return route.output_counted + route.unfinished


def _first(sized: tuple[int, Connection]) -> int:
    return sized[0]


class Flow:
    """Accounts and pauses. The shell takes `changed` once a turn and applies `route.pauses`."""

    def __init__(self, settings: Settings, memory_limit: int) -> None:
        self._high = self.high = settings.high_water_mark
        self.low = min(settings.low_water_mark, settings.high_water_mark)
        self.memory_limit = memory_limit
        self._keeps_contexts = settings.deflate and settings.deflate_context_takeover
        self.total = 0
        """Bytes of events and output of all connections."""
        self.kept = 0
        """Bytes of what connections are, and of what handlers keep here for them."""
        self.shared = 0
        """Bytes of no single connection: published messages that wait for sockets, and what waits
        for workers that do not read."""
        self.strays: dict[Connection, None] = {}
        """Connections without a place: nobody knows yet what they are, or they are over and linger.
        """
        self.departed = 0
        """Bytes of those that clients have left behind before any worker heard of them."""
        self.weighed = 0
        """Bytes of incomplete messages and of compression, as last weighed."""
        self.judge_above: float = memory_limit * CROWDED
        """The total above which `judge_memory` is due. What is read as a part of something larger
        lowers it, until that is weighed."""
        self.due = False
        """`judge_memory` is to come before anything more is read."""
        self.crowded = False
        self._crowded_since = 0.0
        self.full = False
        """Nobody is read from."""
        self.changed: dict[Route, None] = {}
        self.paused: set[Route] = set()
        self.unfinished: set[Route] = set()
        """Connections whose last read has not completed a message."""
        self.unwritten: dict[Route, tuple[int, float]] = {}
        """Connections with output that the kernel has not taken: how far they were, and since
        when they are no further."""
        self.now = 0.0

    def add(self, route: Route, size: int) -> None:
        """Bytes of an event came into the account."""
        route.held += size
        self.total += size
        self.judge(route)
        if self.total > self.judge_above:
            self.due = True

    def judge(self, route: Route) -> None:
        """Pause it above the high-water mark."""
        if route.held + route.output_counted > self.high and not route.pauses & PAUSED_OWN:
            self.pause(route, PAUSED_OWN)

    def remove(self, route: Route, size: int) -> None:
        """Bytes of an event left the account."""
        route.held -= size
        self.total -= size
        self.relieve(route)

    @property
    def accounted(self) -> int:
        """Bytes in all accounts."""
        return self.total + self.weighed + self.kept + self.shared

    def settle(self, con: Connection) -> None:
        """A connection has come, or is something else than it was: weigh it anew."""
        route: Route | None = con.route
        if route is None:
            self.strays[con] = None
        else:
            self.strays.pop(con, None)
        size = weight(con)
        self._keep(size - con.kept)
        con.kept = size

    def keep(self, con: Connection, size: int) -> None:
        """A connection takes so many bytes more, or fewer."""
        con.kept += size
        self._keep(size)

    def keep_for(self, route: Route, size: int) -> None:
        """Handlers keep so many bytes more here for a connection, or fewer."""
        route.kept += size
        self._keep(size)

    def _keep(self, size: int) -> None:
        self.kept += size
        self.judge_above -= size
        if self.total > self.judge_above:
            self.due = True

    def share(self, frame: Framed) -> None:
        """A published message counts once, until the last connection has let go of it."""
        frame.freed = self._free
        self.hold(len(frame) + FRAME)

    def _free(self, size: int) -> None:
        self.hold(-size - FRAME)

    def hold(self, size: int) -> None:
        """So many bytes more, or fewer, are held for no single connection."""
        self.shared += size
        self.judge_above -= size
        if self.total > self.judge_above:
            self.due = True

    def leave(self, con: Connection) -> None:
        """Neither a socket nor a place is left of a connection."""
        self.strays.pop(con, None)
        self.keep(con, -con.kept)

    def relieve(self, route: Route) -> None:
        """Go on below the low-water mark."""
        if route.pauses & OF_ITS_BYTES and route.held + route.output_counted <= self.low:
            self.resume(route, OF_ITS_BYTES)

    def output_changed(self, route: Route) -> None:
        """The connection's unwritten output has grown or shrunk."""
        con = route.con
        own = con.own_size + con.early_size
        if route.gone:
            # Its last bytes may outlive it by a close_timeout.
            if con.shell is not None:
                self.keep(con, own - route.own_output)
                route.own_output = own
            return
        output = con.output_size + con.early_size
        self.total += own - route.own_output
        route.output_counted = output
        route.own_output = own
        if self.total > self.judge_above:
            self.due = True
        if not output:
            self.unwritten.pop(route, None)
        elif route not in self.unwritten:
            self.unwritten[route] = (route.written - route.skipped, self.now)
        if route.held + output > self.high:
            if not route.pauses & PAUSED_OWN:
                self.pause(route, PAUSED_OWN)
        elif route.pauses & OF_ITS_BYTES and route.held + output <= self.low:
            self.resume(route, OF_ITS_BYTES)
        if route.over != (output > (self.low if route.over else self.high)):
            route.over = not route.over
            for other in route.couples or ():
                self._judge_couples(other)

    def forget(self, route: Route) -> None:
        """The connection is gone: its bytes, its pauses and its couplings with it. Its socket may
        outlive it, and what waits for that."""
        con = route.con
        self.total -= route.held + route.own_output
        self.weighed -= route.unfinished
        self.judge_above += route.unfinished
        if con.shell is None:
            self.leave(con)
            route.own_output = 0
        else:
            self.strays[con] = None
            self.keep(con, route.own_output)
        route.held = route.output_counted = route.unfinished = 0
        for other in route.couples or ():
            if other.couples is not None:
                other.couples.discard(route)
                self.keep_for(other, -COUPLE)
                self._judge_couples(other)
        route.couples = None
        self.keep_for(route, -route.kept)
        self.changed.pop(route, None)
        self.paused.discard(route)
        self.unfinished.discard(route)
        self.unwritten.pop(route, None)

    def couple(self, one: Route, other: Route) -> None:
        """Join the flow control of two connections; with itself one is joined already."""
        if one is other:
            return
        for route, partner in ((one, other), (other, one)):
            if route.couples is None:
                route.couples = set()
            if partner not in route.couples:
                route.couples.add(partner)
                self.keep_for(route, COUPLE)
        self._judge_couples(one)
        self._judge_couples(other)

    def _judge_couples(self, route: Route) -> None:
        if any(other.over for other in route.couples or ()):
            self.pause(route, PAUSED_COUPLED)
        else:
            self.resume(route, PAUSED_COUPLED)

    def pause(self, route: Route, why: int) -> None:
        """Stop reading from a connection, for one more reason."""
        if not route.pauses:
            route.paused_since = self.now
            self.changed[route] = None
            self.paused.add(route)
        route.pauses |= why

    def resume(self, route: Route, why: int) -> None:
        """One reason less; reading goes on when none is left."""
        if route.pauses & why:
            route.pauses &= ~why
            if not route.pauses:
                self.changed[route] = None
                self.paused.discard(route)

    def read_part(self, route: Route, size: int) -> None:
        """Bytes were read that are no event yet."""
        self.unfinished.add(route)
        self.judge_above -= size
        if self.total > self.judge_above:
            self.due = True

    @property
    def wants_judgement(self) -> bool:
        """Whether `judge_memory` is due, or would find that there is room again."""
        if self.due:
            return True
        share = FULL_UNTIL if self.full else RELIEVED
        return self.crowded and self.accounted <= self.memory_limit * share

    def judge_memory(self, routes: Collection[Route]) -> list[Connection]:
        """When it is due, and once a second: pause the fullest while we are crowded, and everybody
        while we are full; give those to close (1013)."""
        limit = self.memory_limit
        self.weighed = self._weigh_unfinished(routes)
        total = self.accounted
        self.due = False
        self.full = total > limit * (FULL_UNTIL if self.full else 1.0)
        doomed: list[Connection] = []
        if total <= limit * (RELIEVED if self.crowded else CROWDED):
            if self.crowded:
                self._relieve()
        elif not self.crowded:
            self._crowd(routes)
        if self.full:
            doomed = self._fullest(routes, total - limit * FULL_UNTIL)
        elif self.crowded:
            self._relieve_from(PAUSED_FULL)
            excess = total - limit * RELIEVED
            if self.now - self._crowded_since > CROWDED_FOR and self._can_free(routes, excess):
                doomed = self._fullest(routes, excess)
        above = limit if self.crowded else limit * CROWDED
        self.judge_above = max(above, total + limit * GRAIN) - (total - self.total)
        return doomed

    def _can_free(self, routes: Collection[Route], size: float) -> bool:
        """Whether so much would be free without any output and unfinished messages. If events that
        wait for handlers are the reason, or the number of connections, those close nobody."""
        slow = sum(con.kept for con in self.strays if con.kept > WORTH_WEIGHING)
        return size <= slow + self.shared + sum(r.own_output + r.unfinished for r in routes)

    def _crowd(self, routes: Collection[Route]) -> None:
        self.crowded = True
        self._crowded_since = self.now
        self.high = self.low
        for route in routes:
            if route.held + route.output_counted > self.low:
                self.pause(route, PAUSED_MEMORY)

    def _relieve(self) -> None:
        self.crowded = False
        self.high = self._high
        self._relieve_from(PAUSED_MEMORY | PAUSED_FULL)

    def _relieve_from(self, why: int) -> None:
        for route in list(self.paused):
            self.resume(route, why)
            if not self.crowded and route.held + route.output_counted <= self.high:
                self.resume(route, PAUSED_OWN)

    def _fullest(self, routes: Collection[Route], excess: float) -> list[Connection]:
        """Those to close, until so much is free.

        First those without a place: no handler would miss them. Then those with most output and
        unfinished messages; of what a member shares with others it is known only afterwards what
        that frees. What connections keep counts only where that alone is too much: all else becomes
        less by itself, as handlers and clients go on.
        """
        doomed: dict[Connection, None] = {}
        strays = [(con.kept, con) for con in self.strays if con.kept > WORTH_WEIGHING]
        excess -= self._doom(strays, excess, doomed)
        full = [(_unsettled(route), route.con) for route in routes if _unsettled(route)]
        self._doom(full, excess, doomed)
        excess = self.kept - self.memory_limit * FULL_UNTIL
        if excess > 0:
            # Those that are over, or will be soon, take theirs along.
            there: list[tuple[int, Connection]] = []
            for route in routes:
                size = route.kept + route.con.kept
                if route.con in doomed or route.con.state in (CLOSING, CLOSED):
                    excess -= size
                else:
                    there.append((size, route.con))
            excess -= sum(con.kept for con in self.strays if con in doomed)
            self._doom(there, excess, doomed)
        return list(doomed)

    def _doom(
        self, sizes: list[tuple[int, Connection]], excess: float, doomed: dict[Connection, None]
    ) -> int:
        """Choose the largest, until so much would be free; returns how much would be."""
        freed = 0
        for size, con in sorted(sizes, key=_first, reverse=True):
            if freed >= excess:
                break
            if len(doomed) == MOST_CLOSED:
                self.due = True
                break
            doomed[con] = None
            freed += size
            if con.shared_size:
                # If it was not so much, the next turn goes on.
                self.due = True
        return freed

    def _weigh_unfinished(self, routes: Collection[Route]) -> int:
        """Bytes of incomplete messages and of compression. Those whose last reads were complete
        hold next to none, unless they keep contexts between messages."""
        total = 0
        for route in list(routes if self._keeps_contexts else self.unfinished):
            route.unfinished = route.con.unfinished + route.con.contexts_size
            if route.unfinished < WORTH_WEIGHING:
                self.unfinished.discard(route)
                route.unfinished = 0
            total += route.unfinished
        return total

    def stop_reading(self, routes: Iterable[Route]) -> None:
        """The gateway is stopping: nothing new comes in from anyone."""
        for route in routes:
            self.pause(route, PAUSED_STOPPING)
