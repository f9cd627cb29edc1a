"""Sans-I/O. Which event killed a worker: suspects are the events that were in flight when it died.

Each suspect is delivered again, one at a time, to a worker that has nothing else in flight: an ack
clears it, a death while it was alone is conclusive. After `max_deliveries` deaths, the last of them
alone, an event is poison. The others wait until those before them are cleared, a round trip each.

A lost link is not a death: networks fail, and the worker comes back. But an event may break the
link, for example by what its handler sends. So lost links are counted separately: an event is
delivered alone once one more would be enough, and is poison after `max_deliveries` lost links, the
last of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from wsraw.link.records import Event
from wsraw.link.window import InFlight, Owner


class Suspects:
    """Deaths and lost links by event, by its identity: each event is cleared before its memory is
    freed."""

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self.deaths: dict[int, int] = {}
        self.losses: dict[int, int] = {}

    def __contains__(self, event: Event) -> bool:
        return id(event) in self.deaths

    def clear(self, event: Event) -> None:
        """Forget an event that was handled or dropped."""
        self.deaths.pop(id(event), None)
        self.losses.pop(id(event), None)

    def suspect(self, event: Event) -> None:
        """Note an event whose worker is disconnected and perhaps not dead: no death is counted
        yet."""
        self.deaths.setdefault(id(event), 0)

    def confirm(self, events: Iterable[Event]) -> None:
        """Count a death for the events that are still suspects, because their worker did not come
        back."""
        for event in events:
            if id(event) in self.deaths:
                self.deaths[id(event)] += 1

    def forgive(self, events: Iterable[Event]) -> None:
        """Take back the death that was counted for the events that are still suspects: their worker
        has only lost its link, and is back."""
        for event in events:
            deaths = self.deaths.get(id(event), 0)
            if deaths > 1:
                self.deaths[id(event)] = deaths - 1
            else:
                self.deaths.pop(id(event), None)

    def blame(self, flight: InFlight[Owner], alone: bool, *, lost: bool = False) -> int:
        """Count a death of the event's worker, or a lost link; return how many there are if the
        event is poison, else 0."""
        key = id(flight.event)
        counts = self.losses if lost else self.deaths
        count = counts.get(key, 0) + 1
        if alone and count >= self._max_deliveries:
            self.clear(flight.event)
            return count
        counts[key] = count
        if lost and count >= self._max_deliveries - 1:
            self.suspect(flight.event)
        return 0
