"""Sans-I/O. Timers that one worker of a pool calls at a time: whose turn it is.

Each worker that has such a timer asks when the timer is due. So nothing has to be done when a
worker dies or leaves: another one asks next.
"""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from wsraw.link.states import GONE, READY, LinkState

MOST_TIMERS: Final = 1000
"""Timers of all pools; if there are more, the one that was called least recently is forgotten."""

ASK_AGAIN: Final = 1.0
"""Seconds after which a worker asks again while a call takes longer than its interval."""

EARLY: Final = 0.001
"""Seconds by which a call may be early: clocks differ."""


class TimerCaller(Protocol):
    """The session of a worker that calls timers."""

    @property
    def state(self) -> LinkState: ...


S = TypeVar("S", bound=TimerCaller)


class _Timer(Generic[S]):
    """When a timer was last due, and the session of the worker that is calling it."""

    __slots__ = ("caller", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.caller: S | None = None


class PoolTimers(Generic[S]):
    """The timers of all pools."""

    def __init__(self) -> None:
        self._timers: dict[tuple[str, str], _Timer[S]] = {}
        """By pool and name; the timer that was called least recently comes first."""

    def ask(self, name: tuple[str, str], interval: float, session: S, now: float) -> float:
        """A worker asks to call a timer, and says that its last call is over. Returns the seconds
        after which it should ask again; 0: call it now. The first call comes after one interval."""
        timer = self._timers.get(name)
        if timer is None:
            if len(self._timers) >= MOST_TIMERS:
                del self._timers[next(iter(self._timers))]
            self._timers[name] = _Timer(now)
            return interval
        if timer.caller is session:
            timer.caller = None
        left = timer.since + interval - now
        if left > EARLY:
            return left
        if timer.caller is not None and timer.caller.state is not GONE:
            return min(interval, ASK_AGAIN)
        if session.state is not READY:
            # The worker drains, and would not call it.
            return ASK_AGAIN
        # In step with earlier calls; missed ones are skipped.
        timer.since = now if left < -interval else timer.since + interval
        timer.caller = session
        self._timers[name] = self._timers.pop(name)
        return 0.0
