"""Sans-I/O. What somebody outside has caused: counted, and told in the log without flooding it.

A bound that was reached and a client that was turned away have the name of the setting that is the
reason, so that a line says what to change. Lines about workers have no name.
"""

from __future__ import annotations

import logging
from typing import Final

from wsraw.runtime.printable import printable

log = logging.getLogger("wsraw.gateway")

TELL_EVERY: Final = 10.0
"""Seconds between two lines about the same bound; those between are counted."""

FAULT: Final = "fault"
"""What ends for a fault of our own is counted by this name."""

TRACEBACKS: Final = 5
"""Faults of our own whose tracebacks are written at once; then one in TELL_EVERY seconds."""

BURST: Final = 20
"""Lines about workers that are written at once, after a time without any; then one a second."""

CROWDED: Final = "memory_limit (80 %)"
LEFT: Final = "memory_limit (6 %)"
"""Bounds that are not settings by themselves."""

DONE: Final = {
    "max_connections": "refused a connection (503, raw: reset)",
    "max_connections_per_address": "refused a connection (429, raw: reset)",
    "silence_timeout": "disconnected a client that sent nothing",
    "handshake_timeout": "ended a handshake that took too long (408, before HTTP: reset)",
    "max_header_size": "refused a request (431)",
    "max_message_size": "closed a connection (1009)",
    "ping_timeout": "closed a connection that did not answer a ping (1011)",
    "message_rate": "paused a connection, or closed it (1008)",
    "byte_rate": "paused a connection, or closed it (1008)",
    "idle_timeout": "closed a connection (1001)",
    "write_timeout": "closed a connection that does not read (1008)",
    "output_limit": "closed a connection that reads too slowly (1008)",
    "memory_limit": "closed one of the fullest connections (1013), or opened none for handlers",
    LEFT: "dropped the messages of a client that left before a worker knew of it",
    CROWDED: "accepts no clients for now, and does not read from the fullest",
    "pause_timeout": "closed a connection whose handlers are too slow (1013)",
    "worker_wait_timeout": "closed a connection because no worker was ready (1013)",
    "origins": "refused a request of a web page (403)",
    "hosts": "refused a request (421)",
    "routes": "refused a client (404, raw: reset)",
    "proxy_protocol": "reset a connection",
    "verdict": "on_connect has rejected a client",
    "verdict_timeout": "ended a handshake without a verdict (503)",
}

ROUTINE: Final = frozenset({"idle_timeout", "ping_timeout"})
"""What happens every day: clients fall silent, and networks lose them."""

UNTOLD: Final = frozenset({"verdict"})
"""Counted, but no line in the log: that is for who has decided."""


class _Lines:
    """Lines of one kind: `burst` of them at once, then one in `interval` seconds."""

    __slots__ = ("_ahead", "_free_at", "_interval", "count", "last", "level", "since")

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._ahead = (burst - 1) * interval
        self._free_at = 0.0
        """When all of the burst is there again (GCRA, as ATM shapes its cells)."""
        self.count = 0
        """Of what has not been told yet."""
        self.last = ""
        self.level = logging.WARNING
        self.since = 0.0
        """When the last line was written."""

    def is_due(self, now: float) -> bool:
        return self.count > 0 and now >= self._free_at - self._ahead

    def told(self, now: float) -> None:
        self._free_at = max(now, self._free_at) + self._interval
        self.count = 0
        self.since = now


class Counters:
    """What was refused, closed or held up, by the setting that was the reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._kinds: dict[str, _Lines] = {}
        self._workers = _Lines(BURST, 1.0)
        self._faults = _Lines(TRACEBACKS, TELL_EVERY)
        self.now = 0.0
        """The loop's clock, for lines about workers; whoever owns this sets it."""

    def hit(self, name: str, now: float, who: str = "") -> None:
        """A bound was reached, by that peer."""
        self.counts[name] = self.counts.get(name, 0) + 1
        if name in UNTOLD:
            return
        lines = self._kinds.get(name)
        if lines is None:
            lines = self._kinds[name] = _Lines(1, TELL_EVERY)
            lines.level = logging.INFO if name in ROUTINE else logging.WARNING
        lines.count += 1
        lines.last = who
        if lines.is_due(now):
            self._tell_limit(name, lines, now)

    def fault(self, who: str, error: BaseException) -> None:
        """Something of ours has raised, and who it was about ends for that."""
        self.counts[FAULT] = self.counts.get(FAULT, 0) + 1
        lines = self._faults
        lines.count += 1
        if not lines.is_due(self.now):
            return
        more = f" ({lines.count - 1} more faults were not shown)" if lines.count > 1 else ""
        lines.told(self.now)
        text = "%s was ended by a bug in wsraw; please report it%s"
        log.error(text, who, more, exc_info=error)

    def say(self, level: str, text: str, *args: object) -> None:
        """Log a line that a worker can cause, or somebody who would be one; or leave it out."""
        lines = self._workers
        lines.level = logging.getLevelNamesMapping()[level.upper()]
        lines.count += 1
        lines.last = text % args
        if lines.is_due(self.now):
            self._tell_worker(self.now)

    def tick(self, now: float) -> None:
        """Once a second: tell what has come since the last line."""
        for name, lines in self._kinds.items():
            if lines.is_due(now):
                self._tell_limit(name, lines, now)
        if self._workers.is_due(now):
            self._tell_worker(now)

    def _tell_limit(self, name: str, lines: _Lines, now: float) -> None:
        text = f"limit {name}: {DONE.get(name, 'reached')}"
        if lines.count > 1:
            text += f", {lines.count} times in {now - lines.since:.0f} s; the last one"
        if lines.last:
            text += f": {lines.last}"
        lines.told(now)
        log.log(lines.level, "%s", printable(text))

    def _tell_worker(self, now: float) -> None:
        lines = self._workers
        more = f" ({lines.count - 1} more such lines were left out)" if lines.count > 1 else ""
        text = lines.last + more
        lines.told(now)
        log.log(lines.level, "%s", printable(text))
