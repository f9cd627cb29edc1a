"""Sans-I/O. Which pool or bridge serves a client: decided once, before its connection is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from wsraw.config import patterns, pools
from wsraw.config.addresses import Listen
from wsraw.config.origins import Hosts
from wsraw.config.settings import RouteSettings, Settings
from wsraw.link.records import STATIC_POOL


class Found(NamedTuple):
    """A pool that may serve a client."""

    pool: str
    settings: Settings
    """The run's settings, with the overrides of the pool."""
    params: dict[str, str]
    """The values of the parameters in the path."""
    subprotocol: str = ""
    """The subprotocol that the route selects; empty: the setting `subprotocols` decides."""


_NONE: Final[dict[str, str]] = {}


class _Rule:
    """One route, prepared for matching."""

    __slots__ = ("_host", "_path", "_route", "_settings", "for_raw", "for_request", "for_websocket")

    def __init__(self, route: RouteSettings, settings: Settings) -> None:
        self._route = route
        self._settings = settings
        self._path = patterns.Pattern(route.path) if route.path else None
        self._host = Hosts((route.host,)) if route.host else None
        self.for_websocket = route.kind in ("any", "websocket")
        self.for_request = (
            route.kind in ("any", "http")
            and not route.subprotocol
            and not pools.is_bridge(route.pool)
        )
        self.for_raw = route.kind in ("any", "raw") and not (
            route.path or route.host or route.subprotocol
        )

    def match(
        self, listener: str, segments: list[str] | None, host: str, offered: Sequence[str]
    ) -> Found | None:
        route, params = self._route, _NONE
        if self._path is not None:
            matched = self._path.match(segments) if segments is not None else None
            if matched is None:
                return None
            params = matched
        if (
            (route.subprotocol and route.subprotocol not in offered)
            or (route.listener and not pools.is_listener(route.listener, listener))
            or (self._host is not None and not self._host.allow(host))
        ):
            return None
        return Found(route.pool, self._settings, params, route.subprotocol)


class Routes:
    """The settings `pools` and `routes`, prepared for matching."""

    def __init__(self, settings: Settings) -> None:
        in_force = pools.in_force(settings)
        rules = [_Rule(route, in_force[route.pool]) for route in settings.routes]
        rules += [_Rule(each.route, in_force[each.pool]) for each in settings.bridges]
        self._for_raw = [rule for rule in rules if rule.for_raw]
        self._for_websocket = [rule for rule in rules if rule.for_websocket]
        self._for_request = [rule for rule in rules if rule.for_request]
        rest = pools.fallback(settings)
        self._rest = Found(rest, in_force[rest], _NONE) if rest is not None else None
        static = in_force.get(STATIC_POOL)
        self._static = Found(STATIC_POOL, static, _NONE) if static is not None else None

    def raw(self, listen: Listen) -> Found | None:
        """The pool of a raw client of this listener, or None."""
        found = (rule.match(listen.name, None, "", ()) for rule in self._for_raw)
        return next(filter(None, found), self._rest)

    def request(self, listen: Listen, target: str, host: str) -> list[Found]:
        """The pools that may answer an HTTP request, in order."""
        found = None
        if listen.plain_http == "handlers":
            segments = patterns.split(target) if self._for_request else None
            matches = (r.match(listen.name, segments, host, ()) for r in self._for_request)
            found = next(filter(None, matches), self._rest)
        return [each for each in (found, self._static) if each is not None]

    def websocket(
        self, listen: Listen, target: str, host: str, offered: Sequence[str]
    ) -> Found | None:
        """The pool of a WebSocket client, or None, from the target and Host of its request and the
        subprotocols that it offers."""
        segments = patterns.split(target) if self._for_websocket else None
        found = (rule.match(listen.name, segments, host, offered) for rule in self._for_websocket)
        return next(filter(None, found), self._rest)
