"""Sans-I/O. What connections weigh, and which of them must not be read from just now.

Everything has a bound in bytes, and nothing is dropped: above the high-water mark reading from
that connection pauses and TCP passes the pressure on; below the low one it resumes. One account a
connection: parked events, events in flight, unwritten output. A frame or message that is not yet
complete counts in the total alone: a pause would keep it from ever completing. So do the contexts
of compression: a pause would not free them.

Two connections that are coupled share their pressure: unwritten output of one pauses reading of the
other. There is no deadlock beyond TCP's own, as each pause depends only on the other's *output*.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from wsraw.gateway.route import (
    PAUSED_COUPLED,
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


WORTH_WEIGHING: Final = 4096
"""Bytes, incomplete or of compression, below which a connection is not looked at again."""


def _unsettled(route: Route) -> int:
    """What closing the connection would free, and no handler has a claim to."""
    return route.output_counted + route.unfinished


class Flow:
    """Accounts and pauses. The shell takes `changed` once a turn and applies `route.pauses`."""

    def __init__(self, settings: Settings, memory_limit: int) -> None:
        self.high = settings.high_water_mark
        self.low = min(settings.low_water_mark, settings.high_water_mark)
        self.memory_limit = memory_limit
        self._keeps_contexts = settings.deflate and settings.deflate_context_takeover
        self.total = 0
        """Bytes in all accounts."""
        self.crowded = False
        self.changed: set[Route] = set()
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
        route.held = route.output_counted = 0
        for other in route.couples or ():
            if other.couples is not None:
                other.couples.discard(route)
                self._judge_couples(other)
        route.couples = None
        self.changed.discard(route)
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
            self.changed.add(route)
            self.paused.add(route)
        route.pauses |= why

    def resume(self, route: Route, why: int) -> None:
        """One reason less; reading goes on when none is left."""
        if route.pauses & why:
            route.pauses &= ~why
            if not route.pauses:
                self.changed.add(route)
                self.paused.discard(route)

    def judge_memory(self, routes: Collection[Route]) -> list[Route]:
        """Once a second: pause the fullest while we are crowded; give those to close (1013)."""
        total = self.total + self._weigh_unfinished(routes)
        if total <= self.memory_limit * (RELIEVED if self.crowded else CROWDED):
            if self.crowded:
                self.crowded = False
                for route in list(self.paused):
                    self.resume(route, PAUSED_MEMORY)
            return []
        self.crowded = True
        for route in routes:
            if route.held + route.output_counted > self.low:
                self.pause(route, PAUSED_MEMORY)
        excess = total - self.memory_limit
        doomed = []
        if excess > 0:
            for route in sorted(routes, key=_unsettled, reverse=True):
                if excess <= 0 or not _unsettled(route):
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
