"""Sans-I/O. What clients and workers cause: counted, and logged without flooding the log.

A limit that was reached and a client that was refused are counted under the setting that is the
reason, so that the log line says what to change. Log lines about workers belong to no setting.
"""

from __future__ import annotations

import logging
from typing import Final

from wsraw.runtime.log.line import NOTHING, Subject
from wsraw.runtime.printable import printable

log = logging.getLogger("wsraw.gateway")

TELL_EVERY: Final = 10.0
"""Seconds between two log lines about the same limit; hits between them are counted."""

FAULT: Final = "fault"
"""The name under which connections that a bug in wsraw has ended are counted."""

TRACEBACKS: Final = 5
"""Tracebacks of bugs that are logged at once; then one every TELL_EVERY seconds."""

BURST: Final = 20
"""Lines about workers, and lines about clients, that may be logged at once after a quiet time; then
one a second."""

WORKERS: Final = "workers"
CLIENTS: Final = "clients"
STRANGERS: Final = "strangers"
"""Who has caused a line that is not about a limit. STRANGERS have reached the workers' link without
being workers. Each source has lines of its own, so that a flood of one does not hide the others."""

CROWDED: Final = "memory_limit (80 %)"
LEFT: Final = "memory_limit (6 %)"
"""Names of limits that are a part of a setting."""

DONE: Final = {
    "max_connections": "refused a connection (503, raw: reset)",
    "max_connections_per_address": "refused a connection (429, raw: reset)",
    "silence_timeout": "disconnected a client that sent nothing",
    "handshake_timeout": "ended a handshake that took too long (408, before HTTP: reset)",
    "max_header_size": "refused a request (431)",
    "max_message_size": "closed a connection (1009), or refused a request (413)",
    "ping_timeout": "closed a connection that did not answer a ping (1011)",
    "message_rate": "paused a connection, or closed it (1008)",
    "byte_rate": "paused a connection, or closed it (1008)",
    "idle_timeout": "closed a connection (1001)",
    "write_timeout": "closed a connection that does not read (1008)",
    "output_limit": "closed a connection that reads too slowly (1008)",
    "memory_limit": "closed one of the fullest connections (1013), or opened none for a handler",
    LEFT: "dropped the messages of a client that left before a worker knew of it",
    CROWDED: "stopped accepting clients, and reading from the fullest connections",
    "pause_timeout": "closed a connection that was paused for too long (1013)",
    "worker_wait_timeout": "closed a connection because no worker was ready (1013)",
    "origins": "refused a request of a web page (403)",
    "hosts": "refused a request (421)",
    "routes": "refused a client (404, raw: reset)",
    "proxy_protocol": "reset a connection",
    "verdict": "on_connect has rejected a client",
    "verdict_timeout": "ended a handshake without a verdict (503)",
}

ROUTINE: Final = frozenset({"idle_timeout", "ping_timeout"})
"""Limits that are reached every day: clients fall silent, and networks lose them."""

UNTOLD: Final = frozenset({"verdict"})
"""Counted but not logged: the handler that has decided can do that."""


class _Lines:
    """Log lines of one kind: `burst` of them at once, then one every `interval` seconds."""

    __slots__ = ("_ahead", "_free_at", "_interval", "count", "last", "level", "since", "subject")

    def __init__(self, burst: int, interval: float) -> None:
        self._interval = interval
        self._ahead = (burst - 1) * interval
        self._free_at = 0.0
        """When a full burst is allowed again (the generic cell rate algorithm, GCRA)."""
        self.count = 0
        """Events since the last line."""
        self.last = ""
        """Text of the last event."""
        self.subject = NOTHING
        """Subject of the last event."""
        self.level = logging.WARNING
        self.since = 0.0
        """When the last line was written."""

    def is_due(self, now: float) -> bool:
        return self.count > 0 and now >= self._free_at - self._ahead

    def told(self, now: float) -> str:
        """Note that a line is written now; return what it says about those that were left out."""
        more = f" ({self.count - 1} more such lines were left out)" if self.count > 1 else ""
        self._free_at = max(now, self._free_at) + self._interval
        self.count = 0
        self.since = now
        return more


class Counters:
    """How often each limit was reached; decides how often that is logged."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._kinds: dict[str, _Lines] = {}
        self._said = {
            WORKERS: _Lines(BURST, 1.0),
            CLIENTS: _Lines(BURST, 1.0),
            STRANGERS: _Lines(1, TELL_EVERY),
        }
        self._faults = _Lines(TRACEBACKS, TELL_EVERY)
        self.now = 0.0
        """The loop's clock, for lines about workers; set by the owner."""

    def hit(self, name: str, now: float, subject: Subject = NOTHING, why: str = "") -> None:
        """Count a limit that `subject` has reached."""
        self.counts[name] = self.counts.get(name, 0) + 1
        if name in UNTOLD:
            return
        lines = self._kinds.get(name)
        if lines is None:
            lines = self._kinds[name] = _Lines(1, TELL_EVERY)
            lines.level = logging.INFO if name in ROUTINE else logging.WARNING
        lines.count += 1
        lines.subject, lines.last = subject, why
        if lines.is_due(now):
            self._tell_limit(name, lines, now)

    def fault(self, what: str, error: BaseException, subject: Subject = NOTHING) -> None:
        """Count a bug in wsraw that has raised an exception and has ended `what`."""
        self.counts[FAULT] = self.counts.get(FAULT, 0) + 1
        self._faults.count += 1
        if self._faults.is_due(self.now):
            text = "%s was ended by a bug in wsraw; please report it%s"
            more = self._faults.told(self.now)
            log.error(text, what, more, exc_info=error, extra=subject.extra())

    def say(self, level: str, text: str, *args: object, of: str = WORKERS) -> None:
        """Log a line about workers, clients or strangers, unless there are too many."""
        lines = self._said[of]
        lines.level = logging.getLevelNamesMapping()[level.upper()]
        lines.count += 1
        lines.last = text % args
        if lines.is_due(self.now):
            self._tell(lines, self.now)

    def tick(self, now: float) -> None:
        """Once a second, log what has been counted since the last line."""
        for name, lines in self._kinds.items():
            if lines.is_due(now):
                self._tell_limit(name, lines, now)
        for lines in self._said.values():
            if lines.is_due(now):
                self._tell(lines, now)

    def _tell_limit(self, name: str, lines: _Lines, now: float) -> None:
        text = f"limit {name}: {DONE.get(name, 'reached')}"
        if lines.count > 1:
            text += f", {lines.count} times in {now - lines.since:.0f} s; the last one"
        for said in (lines.subject.label, lines.last):
            if said:
                text += f": {said}"
        lines.told(now)
        log.log(lines.level, "%s", printable(text), extra=lines.subject.extra())

    @staticmethod
    def _tell(lines: _Lines, now: float) -> None:
        log.log(lines.level, "%s", printable(lines.last + lines.told(now)))
