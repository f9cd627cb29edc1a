"""Sans-I/O. Who has taken none of its output, and to and from whom nothing goes.

Both are found by looking now and then: a timer for each connection would cost every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wsraw.gateway.connection import CONNECTING, OPEN
from wsraw.gateway.flow import Flow
from wsraw.gateway.route import Route
from wsraw.settings import Settings

LOOKS: Final = 10
"""How often idle connections are looked for within idle_timeout; once a second at most."""


class Patience:
    """Tells whose time is up; asked once a second."""

    def __init__(self, settings: Settings) -> None:
        self._write_timeout = settings.write_timeout
        self._idle_timeout = settings.idle_timeout
        self._look_at = 0.0

    def slow_readers(self, flow: Flow, now: float) -> list[Route]:
        """Those that have taken nothing for write_timeout, while something waits for them."""
        late = []
        for route, (known, since) in flow.unwritten.items():
            taken = route.written - route.skipped
            con = route.con
            if taken != known or con.state is CONNECTING:
                flow.unwritten[route] = (taken, now)
            elif 0 < self._write_timeout <= now - since and (con.state is OPEN or con.half_closed):
                late.append(route)
        return late

    def idle(self, routes: Mapping[int, Route], now: float) -> list[Route]:
        """Accepted connections without data either way for idle_timeout; what is being handled, or
        waits for anybody but the client, is not idle."""
        timeout = self._idle_timeout
        if not timeout or now < self._look_at:
            return []
        self._look_at = now + timeout / LOOKS
        late = []
        for route in routes.values():
            if (
                route.active
                or route.pauses
                or route.in_flight
                or route.parked
                or route.output_counted
            ):
                route.active = False
                route.idle_since = now
            elif now - route.idle_since >= timeout:
                con = route.con
                if con.state is OPEN and not con.opened:
                    late.append(route)
        return late
