"""Sans-I/O. How long handlers take, and how often they raise: what a worker tells in `stats`.

Most calls are those of on_message, and quick. So they are counted in bulk where a shell can do
that, and one by one only if they take longer than QUICK.

The clock is that of the caller, in seconds.
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
"""Seconds. Calls that take no longer are all in the first bucket of the histogram."""

HURRY: Final = 0.05
"""Seconds between two `stats` while handlers raise. New handlers on trial that raise are to be
noticed before they have cost many clients."""

NAMES: Final[dict[type, str]] = {
    OnConnect: "on_connect",
    OnMessage: "on_message",
    OnRequest: "on_request",
    OnError: "on_error",
    OnClose: "on_close",
    OnJoin: "on_join",
    OnLeave: "on_leave",
}
"""Handlers by the events that they are for."""


class _Figures:
    """Calls of one handler that the gateway has not been told of."""

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
        """`events`: names of the handlers of events that there are."""
        self.due_at = math.inf
        """When `stats` are to be sent; infinity: there is nothing new."""
        self._hurried_at = -math.inf
        """When some were due last because a handler had raised."""
        self.clock: Callable[[], float] = float
        """That of the shell, for those who have none."""
        self.urgent: Callable[[], object] = lambda: None
        """Called when a handler has raised: the gateway is to be told soon."""
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
        """Note one of the events that the next `handled` is about: a message that took longer than
        QUICK."""
        self._slow += 1
        self._messages.count_slow(seconds)

    def other(self, kind: type, seconds: float) -> None:
        """Count one of the events that the next `handled` is about, which is not a message."""
        self._others += 1
        self._others_took += seconds
        self.called(NAMES[kind], seconds)

    def skipped(self) -> None:
        """One of the events that the next `handled` is about was not for a handler."""
        self._others += 1

    def handled(self, calls: int, seconds: float, now: float) -> None:
        """Count that many events, which took so long together. If the session has changed meanwhile
        `calls` may be wrong: then only what was unusual is counted."""
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
        """Count calls of on_message that have taken so long, and forget them."""
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
        """Count an exception of a handler; of what has another name there are no figures."""
        figures = self._handlers.get(name)
        if figures is not None:
            figures.exceptions += 1

    # --- what the gateway is told ---

    def hurry(self, now: float) -> float:
        """A handler has raised: say it at once, unless that was just done. Returns when."""
        when = max(now, self._hurried_at + HURRY)
        if when < self.due_at:
            self.due_at = self._hurried_at = when
        return self.due_at

    def take(self) -> list[Stats]:
        """What is new."""
        found = []
        for name, each in self._handlers.items():
            if each.calls or each.exceptions:
                if name not in self._missing:
                    fields = each.calls, each.seconds, each.exceptions, each.slower
                    found.append(Stats(name, *fields))
                each.clear()
        return found
