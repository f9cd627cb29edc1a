"""Sans-I/O. Events that were in flight at a worker when it died, or when its link was lost: which
of them was it?

In a batch nobody can tell. So all of them are suspects, and each is given again, one at a time, to
a worker that holds nothing else: an ack clears it, a death while it was alone is conclusive. After
`max_deliveries` deaths, the last of them alone, an event is poison. The innocent ones wait for as
long as it takes to clear those before them, which is a round trip each.

A lost link is not a death: networks break, and the worker comes back. But an event may break the
link, by what its handler sends for example. So the losses of an event are counted by themselves. It
goes alone once one more is enough, and is poison after `max_deliveries` of them, the last of them
alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from wsraw.link.records import Event
from wsraw.link.window import InFlight, Owner


class Suspects:
    """Deaths by event. Events are told apart as objects: each is cleared before it is freed."""

    def __init__(self, max_deliveries: int) -> None:
        self._max_deliveries = max_deliveries
        self._deaths: dict[int, int] = {}
        self._losses: dict[int, int] = {}

    def __bool__(self) -> bool:
        return bool(self._deaths or self._losses)

    def __contains__(self, event: Event) -> bool:
        return id(event) in self._deaths

    def clear(self, event: Event) -> None:
        """It was handled, or nobody will hear it any more."""
        self._deaths.pop(id(event), None)
        self._losses.pop(id(event), None)

    def suspect(self, event: Event) -> None:
        """Its worker is out of sight, and perhaps not dead: no death yet."""
        self._deaths.setdefault(id(event), 0)

    def confirm(self, events: Iterable[Event]) -> None:
        """That worker has not come back: a death for those of them that are still suspects."""
        for event in events:
            if id(event) in self._deaths:
                self._deaths[id(event)] += 1

    def died(self, flight: InFlight[Owner], alone: bool) -> int:
        """A worker died that held it. The count of deaths if that makes it poison, else 0."""
        deaths = self._deaths.get(id(flight.event), 0) + 1
        if alone and deaths >= self._max_deliveries:
            self.clear(flight.event)
            return deaths
        self._deaths[id(flight.event)] = deaths
        return 0

    def lost(self, flight: InFlight[Owner], alone: bool) -> int:
        """The link of a worker that held it was lost, and that worker lives. The count of losses if
        that makes it poison, else 0."""
        key = id(flight.event)
        losses = self._losses.get(key, 0) + 1
        if alone and losses >= self._max_deliveries:
            self.clear(flight.event)
            return losses
        self._losses[key] = losses
        if losses >= self._max_deliveries - 1:
            self.suspect(flight.event)
        return 0
