"""Sans-I/O. Who has taken none of its output, and to and from whom nothing goes.

Both are found by looking now and then: a timer for each connection would cost every message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import CONNECTING, OPEN
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import Entry

LOOKS: Final = 10
"""How often idle connections are looked for within idle_timeout; once a second at most."""


class Deadlines:
    """Tells whose time is up; asked once a second."""

    def __init__(self, settings: Settings) -> None:
        self._write_timeout = settings.write_timeout
        self._idle_timeout = settings.idle_timeout
        self._look_at = 0.0

    def slow_readers(self, flow: Flow, now: float) -> list[Entry]:
        """Those that have taken nothing for write_timeout, while something waits for them."""
        late = []
        for entry, (known, since) in flow.unwritten.items():
            taken = entry.written - entry.skipped
            con = entry.con
            if taken != known or con.state is CONNECTING:
                flow.unwritten[entry] = (taken, now)
            elif 0 < self._write_timeout <= now - since and (con.state is OPEN or con.half_closed):
                late.append(entry)
        return late

    def idle(self, entries: Mapping[int, Entry], now: float) -> list[Entry]:
        """Accepted connections without data either way for idle_timeout; what is being handled, or
        waits for anybody but the client, is not idle."""
        timeout = self._idle_timeout
        if not timeout or now < self._look_at:
            return []
        self._look_at = now + timeout / LOOKS
        late = []
        for entry in entries.values():
            if (
                entry.active
                or entry.pauses
                or entry.in_flight
                or entry.parked
                or entry.output_counted
            ):
                entry.active = False
                entry.idle_since = now
            elif now - entry.idle_since >= timeout:
                con = entry.con
                if con.state is OPEN and not con.opened:
                    late.append(entry)
        return late
