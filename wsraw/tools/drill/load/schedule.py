"""Sans-I/O. When each message is due: the clients take turns at a fixed rate."""

from __future__ import annotations

from collections.abc import Iterator


class Schedule:
    """Numbered slots for one message each: slot n belongs to client n % clients, and is due at n /
    rate."""

    def __init__(self, clients: int, rate: float, seconds: float) -> None:
        self.started = 0.0
        self._clients = clients
        self._rate = rate
        self._slots = max(1, int(seconds * rate))
        self._next = 0

    @property
    def is_over(self) -> bool:
        return self._next >= self._slots

    @property
    def next_due(self) -> float:
        return self._due(self._next)

    def _due(self, slot: int) -> float:
        return self.started + slot / self._rate

    def due(self, now: float) -> Iterator[tuple[int, float]]:
        """Take the slots that are due: the client's number, and since when its message is due."""
        end = min(int((now - self.started) * self._rate) + 1, self._slots)
        for slot in range(self._next, end):
            # First, so that a client that connects meanwhile begins with a later round.
            self._next = slot + 1
            yield slot % self._clients, self._due(slot)

    def next_round(self, client: int) -> int:
        """The first round in which this client still has a slot."""
        return (self._next - client + self._clients - 1) // self._clients

    def due_in_round(self, client: int, number: int) -> float:
        """When the message of this client and round was due."""
        return self._due(number * self._clients + client)
