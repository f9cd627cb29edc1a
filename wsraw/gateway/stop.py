"""I/O. How a gateway stops: it accepts no clients, handlers finish, remaining clients get 1001, and
workers leave."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Protocol

from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.outgoing import Broadcast
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import Send, Stopped
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


class _Remainder:
    """What workers have sent by now, and what that publishes. Afterwards they may go on to send
    without end, from timers or from other programs, and a stop does not wait for that."""

    def __init__(self, registry: Registry, sessions: Sessions) -> None:
        self._outgoing = registry.outgoing
        self._backlog = sessions.backlog
        self._batches = self._backlog.ends()
        self._is_applied = False
        self._broadcasts: set[Broadcast] = set()
        self._compressing: dict[Entry, Send] = {}

    def is_done(self) -> bool:
        """Whether all of that is applied, and on its way to clients."""
        if not all(self._backlog.is_applied(*each) for each in self._batches.items()):
            return False
        outgoing = self._outgoing
        compressing = {entry: send for entry, (_, send) in outgoing.compressing.items()}
        if not self._is_applied:
            self._is_applied = True
            self._broadcasts = set(outgoing.broadcasts)
            self._compressing = compressing
        return self._broadcasts.isdisjoint(outgoing.broadcasts) and all(
            compressing.get(entry) is not send for entry, send in self._compressing.items()
        )


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
        self._remainder: _Remainder | None = None

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
        if not (self._sessions.is_quiet() or self._is_late(now) or self._is_finished()):
            return False
        self._sockets.close_unannounced()
        self._registry.close_all(now)
        self._written_at = now
        return True

    def _is_finished(self) -> bool:
        """Whether all events are handled, and what workers had sent by then is on its way."""
        if self._sessions.has_events():
            return False
        if self._remainder is None:
            self._remainder = _Remainder(self._registry, self._sessions)
        return self._remainder.is_done()

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
