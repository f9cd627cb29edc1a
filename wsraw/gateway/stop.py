"""I/O. How a gateway stops: it accepts no clients, handlers finish, remaining clients get 1001, and
workers leave."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import Stopped
from wsraw.link.states import NEW, READY
from wsraw.runtime.loop import Loop

LAST_WAIT: Final = 1.0
"""Seconds that clients have to close their side after everything was written to them."""


class ClientSockets(Protocol):
    """The part of `Sockets` that a stop uses."""

    @property
    def endpoints(self) -> Collection[object]: ...
    def close_listeners(self) -> None: ...
    def close_unannounced(self) -> None: ...
    def unwritten(self) -> bool: ...


class GracefulStop:
    """Phases, each of which lasts until it is done or the deadline has passed."""

    def __init__(
        self, loop: Loop, registry: Registry, sessions: Sessions, sockets: ClientSockets
    ) -> None:
        self._loop = loop
        self._registry = registry
        self._sessions = sessions
        self._sockets = sockets
        self.phases: list[Callable[[float], bool]] = []
        """The phases that are not done; while there are any, `advance` must be called in each
        turn."""
        self._deadline = 0.0
        self._written_at = 0.0

    def begin(self, deadline: float) -> None:
        """Take at most `deadline` seconds from now. A second call can only make it sooner."""
        when = self._loop.now + deadline
        if self.phases:
            when = min(when, self._deadline)
        self._deadline = when
        self._loop.wake_at(when)
        if self.phases:
            return
        self._sockets.close_listeners()
        self._registry.stop()
        self.phases = [self._finish_events, self._close_clients, self._drain_workers]

    def advance(self, now: float) -> bool:
        """Go through the phases as far as possible. After the last one, tell the supervisor, and
        return True."""
        while self.phases and self.phases[0](now):
            self.phases.pop(0)
        if self.phases:
            return False
        self._sessions.to_supervisor.append(Stopped())
        return True

    def _is_late(self, now: float) -> bool:
        return now >= self._deadline

    def _finish_events(self, now: float) -> bool:
        if not self._sessions.is_quiet() and not self._is_late(now):
            return False
        self._sockets.close_unannounced()
        self._registry.close_all(now)
        self._written_at = now
        return True

    def _close_clients(self, now: float) -> bool:
        if self._is_late(now):
            return True
        if self._registry.is_waited_for() or self._sockets.unwritten():
            self._written_at = now
            return False
        # A raw client that never closes its side must not delay the stop for long.
        if self._sockets.endpoints and now < self._written_at + LAST_WAIT:
            self._loop.wake_at(self._written_at + LAST_WAIT)
            return False
        return True

    def _drain_workers(self, now: float) -> bool:
        workers = [w for w in self._sessions.workers.values() if w.session.state is not NEW]
        for worker in workers:
            if worker.session.state is READY:
                self._sessions.drain(worker, max(0.0, self._deadline - now))
        return not workers or self._is_late(now)
