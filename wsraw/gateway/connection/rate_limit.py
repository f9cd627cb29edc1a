"""Sans-I/O. A connection whose peer may send so many messages and bytes a second, and no more.

A class of its own: where no rate is set, nothing is asked for a message.
"""

from __future__ import annotations

from typing import Any

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import OPEN, Connection
from wsraw.gateway.connection.token_bucket import Bucket
from wsraw.link.records import Event, OnMessage


class RatedConnection(Connection):
    """Counts what comes; who sends too much is put into `overdrawn`, for the shell to see to."""

    __slots__ = ("_bytes", "_counting", "_messages", "overdrawn", "owes", "too_many")

    def __init__(
        self, con_id: int, settings: Settings, about: dict[str, Any], opened: bool
    ) -> None:
        super().__init__(con_id, settings, about, opened)
        self.overdrawn: dict[RatedConnection, None] | None = None
        self.owes = 0.0
        """Seconds until it may send again."""
        self.too_many = ""
        """The setting that it has passed."""
        self._messages: Bucket | None = None
        self._bytes: Bucket | None = None
        self._counting = False

    def rate(self, overdrawn: dict[RatedConnection, None], now: float) -> None:
        """Begin to count; `overdrawn` is shared by all connections."""
        settings = self.settings
        self.overdrawn = overdrawn
        burst = settings.rate_burst
        if settings.message_rate:
            rate = settings.message_rate
            self._messages = Bucket(rate, max(1.0, rate * burst), now)
        if settings.byte_rate:
            self._bytes = Bucket(settings.byte_rate, settings.byte_rate * burst, now)

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the peer."""
        if self._counting:
            # What stands behind a handshake comes here twice.
            return super().receive_data(data, now)
        self._counting = True
        events = super().receive_data(data, now)
        self._counting = False
        self._charge(len(data), events, now)
        return events

    def resume(self, now: float) -> list[Event]:
        """Reading goes on; what was held back unparsed comes now."""
        events = super().resume(now)
        if self.parsed:
            self._charge(0, events, now)
        return events

    def _charge(self, size: int, events: list[Event], now: float) -> None:
        owes = 0.0
        if self._bytes is not None:
            owes = self._bytes.take(size, now)
            self.too_many = "byte_rate"
        if self._messages is not None:
            # Frames that are no messages are work all the same.
            count = self.parsed or sum([type(event) is OnMessage for event in events])
            waits = self._messages.take(count, now)
            if waits > owes:
                owes = waits
                self.too_many = "message_rate"
        if owes and self.state is OPEN and self.overdrawn is not None:
            self.owes = owes
            self.overdrawn[self] = None
