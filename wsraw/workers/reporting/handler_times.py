"""Sans-I/O. How long handlers take, and how often they raise: the figures that a worker reports in
`stats`.

Most calls are short ones of on_message. So these are counted in bulk where a shell can do that, and
one by one only if they take longer than QUICK.

The caller provides the clock, in seconds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Collection
from typing import Final

from wsraw.link.records import (
    HANDLER_BOUNDS,
    HANDLERS,
    STATS_EVERY,
    OnClose,
    OnConnect,
    OnError,
    OnJoin,
    OnLeave,
    OnMessage,
    OnRequest,
    Stats,
)

QUICK: Final = HANDLER_BOUNDS[0]
"""Seconds. Calls up to this are all in the first bucket of the histogram."""

HURRY: Final = 0.05
"""Seconds between two `stats` while handlers raise. New handlers on trial that raise must be
noticed before they have affected many clients."""

NAMES: Final[dict[type, str]] = {
    OnConnect: "on_connect",
    OnMessage: "on_message",
    OnRequest: "on_request",
    OnError: "on_error",
    OnClose: "on_close",
    OnJoin: "on_join",
    OnLeave: "on_leave",
}
"""Names of handlers by the types of their events."""


class _Figures:
    """Calls of one handler that were not reported to the gateway yet."""

    __slots__ = ("calls", "exceptions", "seconds", "slower")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.exceptions = 0
        self.slower: list[int] = []

    def count_slow(self, seconds: float) -> None:
        """Count a call that took longer than QUICK."""
        index = bisect_left(HANDLER_BOUNDS, seconds) - 1
        self.slower += [0] * (index + 1 - len(self.slower))
        self.slower[index] += 1


class HandlerTimes:
    """Counts calls, and makes `stats` of them."""

    def __init__(self, events: Collection[str] = tuple(NAMES.values())) -> None:
        """`events`: names of the existing event handlers."""
        self.due_at = math.inf
        """When `stats` must be sent; infinity: there is nothing new."""
        self._hurried_at = -math.inf
        """When `stats` were last due because a handler had raised."""
        self.clock: Callable[[], float] = float
        """The clock of the shell, for callers without one."""
        self.urgent: Callable[[], object] = lambda: None
        """Called when a handler has raised: the gateway must be told soon."""
        self.every = STATS_EVERY
        """Seconds between two `stats`, as the gateway wants them."""
        self._handlers = {name: _Figures() for name in HANDLERS}
        self._missing = set(NAMES.values()) - set(events)
        self._messages = self._handlers["on_message"]
        self._slow = 0
        self._others = 0
        self._others_took = 0.0
        """Since the last `handled`: slow calls of on_message, other calls, and their time."""

    # --- a shell that counts in bulk ---

    def slow_message(self, seconds: float) -> None:
        """Note a message that took longer than QUICK, among the events of the next `handled`."""
        self._slow += 1
        self._messages.count_slow(seconds)

    def other(self, kind: type, seconds: float) -> None:
        """Count an event that is not a message, among the events of the next `handled`."""
        self._others += 1
        self._others_took += seconds
        self.called(NAMES[kind], seconds)

    def skipped(self) -> None:
        """Count an event that no handler got, among the events of the next `handled`."""
        self._others += 1

    def handled(self, calls: int, seconds: float, now: float) -> None:
        """Count this many events, which took this long together. If the session has changed
        meanwhile, `calls` may be wrong: then only unusual events are counted."""
        if self._slow or self._others or calls < 1:
            calls = max(calls - self._others, self._slow)
            seconds = max(seconds - self._others_took, 0.0)
            self._slow = self._others = 0
            self._others_took = 0.0
        messages = self._messages
        messages.calls += calls
        messages.seconds += seconds
        if self.due_at == math.inf:
            self.due_at = now + self.every

    # --- a shell that measures each call ---

    def messages(self, took: list[float]) -> None:
        """Count calls of on_message with these times, and clear the list."""
        messages = self._messages
        messages.calls += len(took)
        messages.seconds += sum(took)
        if took and max(took) > QUICK:
            for seconds in took:
                if seconds > QUICK:
                    messages.count_slow(seconds)
        took.clear()

    def called(self, name: str, seconds: float) -> None:
        """Count a call of a handler."""
        figures = self._handlers[name]
        figures.calls += 1
        figures.seconds += seconds
        if seconds > QUICK:
            figures.count_slow(seconds)

    def raised(self, name: str) -> None:
        """Count an exception of a handler; other names have no figures."""
        figures = self._handlers.get(name)
        if figures is not None:
            figures.exceptions += 1

    # --- what the gateway is told ---

    def hurry(self, now: float) -> float:
        """A handler has raised: report it at once, unless that was just done. Returns when."""
        when = max(now, self._hurried_at + HURRY)
        if when < self.due_at:
            self.due_at = self._hurried_at = when
        return self.due_at

    def take(self) -> list[Stats]:
        """The figures since the last call."""
        found = []
        for name, each in self._handlers.items():
            if each.calls or each.exceptions:
                if name not in self._missing:
                    fields = each.calls, each.seconds, each.exceptions, each.slower
                    found.append(Stats(name, *fields))
                each.clear()
        return found
