"""Sans-I/O. Bounds that were reached: each is counted, and told in the log without flooding it.

A bound has the name of the setting that moves it, so that a line says what to change.
"""

from __future__ import annotations

import logging
from typing import Final

log = logging.getLogger("wsraw.gateway")

TELL_EVERY: Final = 10.0
"""Seconds between two lines about the same bound; those between are counted."""

CROWDED: Final = "memory_limit (80 %)"
"""The one bound that is no setting by itself."""

DONE: Final = {
    "max_connections": "refused a connection (503, raw: reset)",
    "max_connections_per_address": "refused a connection (429, raw: reset)",
    "silence_timeout": "cut off a client that has sent nothing",
    "handshake_timeout": "gave up a handshake (408)",
    "max_header_size": "refused a request (431)",
    "max_header_count": "refused a request (431)",
    "max_message_size": "closed a connection (1009)",
    "message_rate": "held up a connection, or closed it (1008)",
    "byte_rate": "held up a connection, or closed it (1008)",
    "idle_timeout": "closed a connection (1001)",
    "write_timeout": "closed a connection that does not read (1008)",
    "output_limit": "closed a connection that reads too slowly (1008)",
    "memory_limit": "closed one of the fullest connections (1013)",
    CROWDED: "accepts nobody for now, and the fullest are not read from",
    "pause_timeout": "closed a connection whose handlers are too slow (1013)",
    "worker_wait_timeout": "closed a connection that no worker came for (1013)",
}

ROUTINE: Final = frozenset({"idle_timeout"})
"""What is no news for whoever has set it."""


class Limits:
    """What was refused, closed or held up, by the setting that was the reason."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._last: dict[str, str] = {}

    def hit(self, name: str, now: float, who: str = "") -> None:
        """A bound was reached, by that peer."""
        self.counts[name] = self.counts.get(name, 0) + 1
        self._untold[name] = self._untold.get(name, 0) + 1
        self._last[name] = who
        if now - self._told_at.get(name, -TELL_EVERY) >= TELL_EVERY:
            self._tell(name, now)

    def tick(self, now: float) -> None:
        """Once a second: tell what has come since the last line."""
        for name in list(self._untold):
            if now - self._told_at[name] >= TELL_EVERY:
                self._tell(name, now)

    def _tell(self, name: str, now: float) -> None:
        count = self._untold.pop(name)
        last = self._last.pop(name)
        text = f"limit {name}: {DONE.get(name, 'reached')}"
        if count > 1:
            text += f", {count} times in {now - self._told_at[name]:.0f} s; the last one"
        if last:
            text += f": {last}"
        self._told_at[name] = now
        log.log(logging.INFO if name in ROUTINE else logging.WARNING, "%s", text)
