"""Which connections go through a pump, and when they are closed."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import RESTART, UPGRADE, Registry
from wsraw.gateway.sockets.endpoint import Endpoint


class _Pump(NamedTuple):
    since: float
    """When the gateway became a pump, on the clock that all processes share."""
    endpoints: set[Endpoint]


class Pumps:
    """The pumps of all earlier gateways of this run. Their connections are closed, a few each
    second, when `upgrade_linger` is over; a pump ends with its last connection."""

    def __init__(
        self,
        registry: Registry,
        endpoints: Collection[Endpoint],
        linger: float,
        spread: float,
    ) -> None:
        """`endpoints`: all open endpoints."""
        self._registry = registry
        self._endpoints = endpoints
        self._linger = linger
        self._spread = spread
        self._pumps: dict[int, _Pump] = {}
        """The pumps by pid."""

    def add(self, pid: int, since: float, endpoints: Iterable[Endpoint]) -> None:
        self._pumps[pid] = _Pump(since, set(endpoints))

    def told(self) -> list[tuple[int, float, list[int]]]:
        """Pid, start time and connection ids of each pump, for the next gateway."""
        self._forget()
        return [
            (pid, pump.since, [endpoint.con.id for endpoint in pump.endpoints])
            for pid, pump in self._pumps.items()
        ]

    def report(self, clock: float) -> list[dict[str, Any]]:
        """For `wsraw status`. `clock`: the time that all processes share."""
        self._forget()
        return [
            {"pid": pid, "connections": len(pump.endpoints), "age": clock - pump.since}
            for pid, pump in self._pumps.items()
        ]

    def _forget(self) -> None:
        """Forget connections that have ended, and pumps without connections."""
        for pid, pump in list(self._pumps.items()):
            pump.endpoints.intersection_update(self._endpoints)
            if not pump.endpoints:
                del self._pumps[pid]

    def tick(self, now: float, clock: float) -> None:
        """Once a second: close some connections whose time is over. `now` is the loop's time,
        `clock` the one that all processes share."""
        self._forget()
        for pump in self._pumps.values():
            late = clock - pump.since - self._linger
            if late >= 0:
                left = max(1.0, self._spread - late)
                for endpoint in list(pump.endpoints)[: math.ceil(len(pump.endpoints) / left)]:
                    self._close(endpoint, now)

    def _close(self, endpoint: Endpoint, now: float) -> None:
        con = endpoint.con
        text = "wsraw was upgraded; connect again"
        try:
            if isinstance(con.entry, Entry):
                self._registry.close(con.entry, RESTART, text, UPGRADE, now)
            else:
                con.close(RESTART, text, UPGRADE, now)
                self._registry.dirty[con] = None
        except Exception as error:
            self._registry.fault(con, error, now)
