"""Sans-I/O. What connections weigh, and which of them must not be read from just now.

Everything has a bound in bytes, and nothing is dropped: above the high-water mark reading from
that connection pauses and TCP passes the pressure on; below the low one it resumes. One account a
connection: parked events, events in flight, unwritten output. A frame or message that is not yet
complete counts in the total alone: a pause would keep it from ever completing. So do the contexts
of compression: a pause would not free them.

The total is judged when it grows, not only by the clock: in a second a few hundred clients can send
a gigabyte. Above CROWDED everybody's high-water mark is the low one; above the limit nobody is read
from, until what has come is handled, or closed.

Two connections that are coupled share their pressure: unwritten output of one pauses reading of the
other. There is no deadlock beyond TCP's own, as each pause depends only on the other's *output*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from wsraw.gateway.route import (
    PAUSED_COUPLED,
    PAUSED_FULL,
    PAUSED_MEMORY,
    PAUSED_OWN,
    PAUSED_STOPPING,
    Route,
)
from wsraw.settings import Settings

CROWDED: Final = 0.8
"""Share of the memory limit above which no new connections are taken and the fullest pause."""

RELIEVED: Final = 0.7
"""Share of the memory limit below which that ends."""

FULL_UNTIL: Final = 0.9
"""Share of the memory limit below which everybody is read from again, after it was reached."""

MOST_CLOSED: Final = 50
"""Connections that are closed for memory in a turn; if that is not enough, the next one goes on."""

GRAIN: Final = 1 / 64
"""Share of the memory limit by which the total must have grown to be judged again."""

WORTH_WEIGHING: Final = 4096
"""Bytes, incomplete or of compression, below which a connection is not looked at again."""


def _unsettled(route: Route) -> int:
    """What closing the connection would free, and no handler has a claim to."""
    return route.output_counted + route.unfinished


class Flow:
    """Accounts and pauses. The shell takes `changed` once a turn and applies `route.pauses`."""

    def __init__(self, settings: Settings, memory_limit: int) -> None:
        self._high = self.high = settings.high_water_mark
        self.low = min(settings.low_water_mark, settings.high_water_mark)
        self.memory_limit = memory_limit
        self._keeps_contexts = settings.deflate and settings.deflate_context_takeover
        self.total = 0
        """Bytes in all accounts."""
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

    def relieve(self, route: Route) -> None:
        """Go on below the low-water mark."""
        if route.pauses & PAUSED_OWN and route.held + route.output_counted <= self.low:
            self.resume(route, PAUSED_OWN)

    def output_changed(self, route: Route) -> None:
        """The connection's unwritten output has grown or shrunk."""
        if route.gone:
            # Its last bytes may outlive it by a close_timeout; they are in no account any more.
            return
        output = route.con.output_size + route.con.early_size
        self.total += output - route.output_counted
        route.output_counted = output
        if self.total > self.judge_above:
            self.due = True
        if not output:
            self.unwritten.pop(route, None)
        elif route not in self.unwritten:
            self.unwritten[route] = (route.written - route.skipped, self.now)
        if route.held + output > self.high:
            if not route.pauses & PAUSED_OWN:
                self.pause(route, PAUSED_OWN)
        elif route.pauses & PAUSED_OWN and route.held + output <= self.low:
            self.resume(route, PAUSED_OWN)
        if route.over != (output > (self.low if route.over else self.high)):
            route.over = not route.over
            for other in route.couples or ():
                self._judge_couples(other)

    def forget(self, route: Route) -> None:
        """The connection is gone: its bytes, its pauses and its couplings with it."""
        self.total -= route.held + route.output_counted
        self.weighed -= route.unfinished
        self.judge_above += route.unfinished
        route.held = route.output_counted = route.unfinished = 0
        for other in route.couples or ():
            if other.couples is not None:
                other.couples.discard(route)
                self._judge_couples(other)
        route.couples = None
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
            route.couples.add(partner)
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
        return self.crowded and self.total + self.weighed <= self.memory_limit * share

    def judge_memory(self, routes: Collection[Route]) -> list[Route]:
        """When it is due, and once a second: pause the fullest while we are crowded, and everybody
        while we are full; give those to close (1013)."""
        limit = self.memory_limit
        self.weighed = self._weigh_unfinished(routes)
        total = self.total + self.weighed
        self.due = False
        self.full = total > limit * (FULL_UNTIL if self.full else 1.0)
        doomed: list[Route] = []
        if total <= limit * (RELIEVED if self.crowded else CROWDED):
            if self.crowded:
                self._relieve()
        elif not self.crowded:
            self._crowd(routes)
        if self.full:
            doomed = self._fullest(routes, total - limit * FULL_UNTIL)
        elif self.crowded:
            self._relieve_from(PAUSED_FULL)
        above = limit if self.crowded else limit * CROWDED
        self.judge_above = max(above, total + limit * GRAIN) - self.weighed
        return doomed

    def _crowd(self, routes: Collection[Route]) -> None:
        self.crowded = True
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

    def _fullest(self, routes: Collection[Route], excess: float) -> list[Route]:
        """Those to close, until so much is free."""
        doomed: list[Route] = []
        for route in sorted(routes, key=_unsettled, reverse=True):
            if excess <= 0 or not _unsettled(route):
                break
            if len(doomed) == MOST_CLOSED:
                self.due = True
                break
            doomed.append(route)
            excess -= _unsettled(route)
        return doomed

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
