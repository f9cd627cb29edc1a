"""Sans-I/O. Which pool a client belongs to: asked once for each connection, before it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from wsraw.config import patterns, pools
from wsraw.config.addresses import Listen
from wsraw.config.origins import Hosts
from wsraw.config.settings import RouteSettings, Settings


class Found(NamedTuple):
    """Where a client belongs."""

    pool: str
    settings: Settings
    """Those of the run, with the pool's own in place."""
    params: dict[str, str]
    """The values of the path's names."""
    subprotocol: str = ""
    """To be agreed on."""


_NONE: Final[dict[str, str]] = {}


class _Rule:
    """One route, compiled."""

    __slots__ = ("_host", "_path", "_said", "_settings", "for_raw", "for_websocket")

    def __init__(self, said: RouteSettings, settings: Settings) -> None:
        self._said = said
        self._settings = settings
        self._path = patterns.Pattern(said.path) if said.path else None
        self._host = Hosts((said.host,)) if said.host else None
        self.for_websocket = said.kind != "raw"
        self.for_raw = said.kind != "websocket" and not (said.path or said.host or said.subprotocol)

    def takes_raw(self, listener: str) -> Found | None:
        said = self._said
        if said.listener and not pools.is_listener(said.listener, listener):
            return None
        return Found(said.pool, self._settings, _NONE)

    def takes_websocket(
        self, listener: str, segments: list[str] | None, host: str, offered: Sequence[str]
    ) -> Found | None:
        said, params = self._said, _NONE
        if self._path is not None:
            matched = self._path.match(segments) if segments is not None else None
            if matched is None:
                return None
            params = matched
        if (
            (said.subprotocol and said.subprotocol not in offered)
            or (said.listener and not pools.is_listener(said.listener, listener))
            or (self._host is not None and not self._host.allow(host))
        ):
            return None
        return Found(said.pool, self._settings, params, said.subprotocol)


class Routes:
    """The settings `pools` and `routes`, at work."""

    def __init__(self, settings: Settings) -> None:
        in_force = pools.in_force(settings)
        rules = [_Rule(route, in_force[route.pool]) for route in settings.routes]
        self._for_raw = [rule for rule in rules if rule.for_raw]
        self._for_websocket = [rule for rule in rules if rule.for_websocket]
        rest = pools.fallback(settings)
        self._rest = Found(rest, in_force[rest], _NONE) if rest is not None else None

    def raw(self, listen: Listen) -> Found | None:
        """The pool of a raw client of that listener, or None: there is none for it."""
        for rule in self._for_raw:
            found = rule.takes_raw(listen.name)
            if found is not None:
                return found
        return self._rest

    def websocket(
        self, listen: Listen, target: str, host: str, offered: Sequence[str]
    ) -> Found | None:
        """The same for a WebSocket: by its request's target, by the Host that it was opened under,
        by the subprotocols that it offers."""
        if self._for_websocket:
            segments = patterns.split(target)
            for rule in self._for_websocket:
                found = rule.takes_websocket(listen.name, segments, host, offered)
                if found is not None:
                    return found
        return self._rest
