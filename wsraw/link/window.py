"""Sans-I/O. Credit: how many events a worker may have in flight, and whether it takes too long.

The window is small: it holds what a worker does in 5 ms, so that a move or a drain has little to
wait for, and a death little to repeat. The time of an event is measured from the acks.

Time comes in as `now`, in seconds.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, Generic, TypeVar

from wsraw.link.records import Ack, Event, Lean

WORK_AHEAD: Final = 0.005
"""Seconds of work that may wait at a worker: enough to hide the round trip, and little to wait
for."""

FIRST_WINDOW: Final = 4
"""Events in flight at a worker of unknown speed."""

WINDOW_BYTES: Final = 1024 * 1024
"""Bytes in flight at one worker; one event is always allowed, whatever its size."""

LARGEST_WINDOW: Final = 10_000
"""Events in flight at one worker, however fast it is."""

LATE_AFTER: Final = 0.003
"""Seconds after which an event goes to an idle worker instead of waiting behind the one that takes
this long. Moving earlier costs more than it gains: at full load each round trip takes a
millisecond."""

STUCK_AFTER: Final = 0.020
"""Seconds: a worker whose oldest event is older than this, and than four of its usual events, gets
nothing new."""

ROUND_TRIPS: Final = 8
"""Samples of a round trip, each of an event that is alone at a remote worker; the fastest
counts."""

LONGEST_ROUND_TRIP: Final = 1.0
"""Seconds of the longest round trip; anything longer is time of the handler."""

Owner = TypeVar("Owner")


class InFlight(Lean, Generic[Owner]):
    """An unacked event at a worker, and the connection that it belongs to."""

    event: Event
    owner: Owner
    size: int
    sent_at: float
    left: bool = True
    """False, once the session is over, for an event that has never left the gateway."""


class RoundTrips:
    """The time to reach a worker and to hear from it."""

    __slots__ = ("_samples", "is_remote", "last", "sent_at")

    def __init__(self, is_remote: bool) -> None:
        self.is_remote = is_remote
        self.last = 0.0
        """Seconds from the send of an event that found the worker idle to its ack: the link in both
        directions, and the handler."""
        self._samples: deque[float] = deque(maxlen=ROUND_TRIPS)
        self.sent_at = 0.0
        """When the last acked event was sent."""

    def add(self, seconds: float) -> float:
        """Add the time of an event that found the worker idle; return the round trip. The handler
        took a part of that time, so the fastest of some samples counts, and old ones are forgotten,
        as networks change."""
        self._samples.append(min(seconds, LONGEST_ROUND_TRIP))
        return min(self._samples)


class Window(Generic[Owner]):
    """The unacked events of one worker, and how many more it may get."""

    def __init__(self, is_remote: bool = False) -> None:
        """`is_remote`: over a network, a worker is idle for the time of a round trip."""
        self.in_flight: dict[int, InFlight[Owner]] = {}
        """Events by seq; the one that has been handled, or not been heard of, for the longest time
        is first."""
        self.bytes = 0
        """Bytes in flight."""
        self.limit = FIRST_WINDOW
        """Events that may be in flight; 0 while it is closed."""
        self.byte_limit = WINDOW_BYTES
        self.largest = LARGEST_WINDOW
        self.concurrency = 1
        self.choked = False
        """The worker does not read: its queue is full."""
        self.next_seq = 1
        self.acked_events = 0
        self.service_time = 0.0
        self.samples: deque[float] = deque(maxlen=256)
        """Recent service times, in seconds, one for each turn that brought acks."""
        self.round_trip = 0.0
        """Seconds of a round trip; known only for a remote worker."""
        self.round_trips = RoundTrips(is_remote)
        self._busy_since = 0.0
        self._last_ack = 0.0
        self._acked = 0
        """Events acked since the last `measure`."""
        self._sample_since = 0.0
        self._was_empty = False
        self._last_acked_seq = 0
        self._grow_after = 0

    def begin(self, concurrency: int, largest: int) -> None:
        """The worker has announced its concurrency and window."""
        self.concurrency = max(1, min(concurrency, LARGEST_WINDOW))
        self.largest = max(1, min(largest, LARGEST_WINDOW))
        self.limit = min(FIRST_WINDOW, self.largest)

    # --- events out, acks in ---

    def has_room(self, size: int) -> bool:
        """Whether one more event of `size` bytes fits."""
        in_flight = len(self.in_flight)
        return (
            in_flight < self.limit
            and (not in_flight or self.bytes + size <= self.byte_limit)
            and not self.choked
        )

    def add(self, event: Event, owner: Owner, size: int, now: float) -> None:
        """Number an event and put it in flight. The caller has checked that there is room."""
        seq = event.seq = self.next_seq
        self.next_seq = seq + 1
        if not self.in_flight:
            self._busy_since = now
        self.in_flight[seq] = InFlight(event, owner, size, now)
        self.bytes += size

    def take(self, ack: Ack) -> list[InFlight[Owner]]:
        """Take the events of an ack out of flight, in order; all of them are in flight."""
        if not self._acked:
            # Done now, because an event that is sent later in this turn may begin a new busy time.
            self._was_empty = self._busy_since >= self._last_ack
            self._sample_since = self._busy_since if self._was_empty else self._last_ack
        pop = self.in_flight.pop
        taken = [pop(seq) for seq in range(ack.first, ack.last + 1)]
        self.bytes -= sum([flight.size for flight in taken])
        self._acked += len(taken)
        self.acked_events += len(taken)
        self._last_acked_seq = max(self._last_acked_seq, ack.last)
        if self.round_trips.is_remote:
            self.round_trips.sent_at = taken[-1].sent_at
        return taken

    def give_back(self, owner: Owner) -> list[InFlight[Owner]]:
        """Take the events of an owner out of flight, in order, although the first one was not
        handled: the worker will not handle it."""
        if not self._acked:
            self._was_empty = self._busy_since >= self._last_ack
            self._sample_since = self._busy_since if self._was_empty else self._last_ack
        seqs = sorted([seq for seq, each in self.in_flight.items() if each.owner is owner])
        taken = [self.in_flight.pop(seq) for seq in seqs]
        self.bytes -= sum([flight.size for flight in taken])
        self._acked += 1
        return taken

    def touch(self, owner: Owner, now: float) -> None:
        """The handler of this owner's event is known to be alive: restart its time."""
        # Other events of the same owner wait for the one that is handled; with a concurrency of 1,
        # all do.
        alone = self.concurrency == 1
        waiting = [seq for seq, each in self.in_flight.items() if alone or each.owner is owner]
        for seq in sorted(waiting):
            flight = self.in_flight.pop(seq)
            flight.sent_at = now
            self.in_flight[seq] = flight

    def hold_back(self, now: float) -> None:
        """Restart the time of events that cannot have been started: those behind another one of
        their connection, and those of more connections than are handled at a time.

        A worker continues with a connection that it is busy with, and otherwise takes events in
        order.
        """
        first: dict[Owner, int] = {}
        for seq, flight in self.in_flight.items():
            first[flight.owner] = min(seq, first.get(flight.owner, seq))
        if len(first) == len(self.in_flight) <= self.concurrency:
            return
        busy = dict(islice(first.items(), self.concurrency))
        behind: list[int] = []
        others: list[int] = []
        for seq, flight in self.in_flight.items():
            if busy.get(flight.owner) != seq:
                (behind if flight.owner in busy else others).append(seq)
        for seq in (*sorted(behind), *sorted(others)):
            flight = self.in_flight.pop(seq)
            flight.sent_at = now
            self.in_flight[seq] = flight

    def clear(self) -> list[InFlight[Owner]]:
        """The session is over: return the events that were in flight, in order."""
        flights = sorted(self.in_flight.values(), key=lambda flight: flight.event.seq)
        self.in_flight.clear()
        self.bytes = 0
        return flights

    # --- closed: for events that are given out one at a time, without asking for room ---

    @property
    def is_closed(self) -> bool:
        """Whether there is no room for anything."""
        return self.limit == 0

    def close(self) -> None:
        """From now on, have no room."""
        self.limit = 0

    def reopen(self) -> None:
        """Start again to learn how much the worker can take."""
        self.limit = min(FIRST_WINDOW, self.largest)

    # --- how long it takes ---

    def oldest_age(self, now: float) -> float:
        """Seconds for which the oldest event has been handled; 0 if there is none.

        With a concurrency of 1, an event starts when the one before it is acked; with a higher one,
        when it is sent.
        """
        if not self.in_flight:
            return 0.0
        oldest = next(iter(self.in_flight.values())).sent_at
        if self.concurrency == 1 and oldest < self._last_ack:
            oldest = self._last_ack
        return now - oldest

    def is_late(self, now: float) -> bool:
        """Whether its oldest event takes a little long while its concurrency is used up. A worker
        that is not late is not stuck either."""
        return (
            len(self.in_flight) >= self.concurrency
            and self.oldest_age(now) > LATE_AFTER + self.round_trip
        )

    def is_stuck(self, now: float) -> bool:
        """Whether its oldest event takes unusually long while its concurrency is used up."""
        return self.choked or (len(self.in_flight) >= self.concurrency and self.is_slow(now))

    def is_slow(self, now: float) -> bool:
        """Whether its oldest event takes unusually long."""
        return self.oldest_age(now) > max(STUCK_AFTER + self.round_trip, 4 * self.service_time)

    def measure(self, now: float) -> None:
        """Measure the service time from the acks since the last call; once a turn, because batches
        of one turn have the same `now`.

        The spacing of acks, not their latency: a hundred async handlers that wait 100 ms each serve
        a thousand events a second. If the worker was empty in between, the spacing includes a round
        trip; such a sample may raise the window, but never lower it.
        """
        if not self._acked:
            return
        spacing = max((now - self._sample_since) / self._acked, 1e-7)
        target = self.concurrency + int((WORK_AHEAD + self.round_trip) / spacing)
        if self._was_empty:
            self.round_trips.last = now - self._busy_since
        if self.round_trips.is_remote:
            target = self._remote_target(self.round_trips, target, now)
        target = min(self.largest, target)
        self.service_time = spacing
        self.samples.append(spacing)
        if self.is_closed:
            pass
        elif target < self.limit:
            if not self._was_empty:
                self.limit = target
        elif self._last_acked_seq >= self._grow_after:
            # At most doubled per round trip: all events sent since the last growth have been acked.
            self.limit = min(target, 2 * self.limit)
            self._grow_after = self.next_seq
        self._acked = 0
        self._last_ack = now

    def _remote_target(self, round_trips: RoundTrips, target: int, now: float) -> int:
        """The window of a remote worker. As long as only the window limits it, the spacing of its
        acks says nothing: all that fits is in transit, and comes back as soon as possible."""
        if self._was_empty:
            self.round_trip = round_trips.add(round_trips.last)
        is_full = len(self.in_flight) + self._acked >= self.limit
        if is_full and now - round_trips.sent_at < self.round_trip + WORK_AHEAD / 2:
            return max(target, 2 * self.limit)
        return target
