from __future__ import annotations

import heapq

import pytest

from tests.link.ends import message
from wsraw.link import records as rec
from wsraw.link.window import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    LATE_AFTER,
    LONGEST_ROUND_TRIP,
    ROUND_TRIPS,
    STUCK_AFTER,
    WINDOW_BYTES,
    WORK_AHEAD,
    Window,
)


def begun(
    concurrency: int = 1, largest: int = LARGEST_WINDOW, is_remote: bool = False
) -> Window[None]:
    window: Window[None] = Window(is_remote)
    window.begin(concurrency, largest)
    return window


# --- room ---


def test_the_window_bounds_events() -> None:
    window = begun()
    for _ in range(FIRST_WINDOW):
        assert window.has_room(1)
        window.add(message(), None, 1, 0.0)
    assert not window.has_room(1)
    window.take(rec.Ack(2, 2))
    assert window.has_room(1)


def test_the_window_bounds_bytes_but_one_event_may_always_go() -> None:
    window = begun()
    assert window.has_room(10 * WINDOW_BYTES)
    window.add(message(), None, WINDOW_BYTES - 10, 0.0)
    assert window.has_room(10)
    assert not window.has_room(11)
    window.take(rec.Ack(1, 1))
    assert window.bytes == 0
    assert window.has_room(WINDOW_BYTES + 1)


ROUND_TRIP = 0.0003
"""The round trip between two processes of one machine, in seconds."""


class Simulation:
    """A worker that handles a number of events at the same time, each for `service` seconds; time
    is a number.

    Events come as fast as the window allows, or `gap` seconds apart. Each arrival of acks is one
    turn of the gateway.
    """

    def __init__(
        self,
        service: float,
        hands: int = 1,
        gap: float = 0.0,
        round_trip: float = ROUND_TRIP,
    ) -> None:
        self.window: Window[None] = Window(is_remote=round_trip > ROUND_TRIP)
        self.window.begin(hands, LARGEST_WINDOW)
        self.service = service
        self.round_trip = round_trip
        self.now = 0.0
        self._gap = gap
        self._next_event = 0.0
        self._hands = [0.0] * hands
        self._acks: list[tuple[float, int]] = []
        self.windows: list[int] = []

    def turn(self) -> None:
        window = self.window
        while window.has_room(1) and self._next_event <= self.now:
            self._next_event = self.now + self._gap
            event = message()
            window.add(event, None, 1, self.now)
            start = max(heapq.heappop(self._hands), self.now + self.round_trip / 2)
            heapq.heappush(self._hands, start + self.service)
            # Before the next handler a worker sends acks that are older than 1 ms.
            heapq.heappush(self._acks, (start + self.service + self.round_trip / 2, event.seq))
        self.now = max(self.now, self._acks[0][0]) if self._acks else self._next_event
        # Acks that arrive within one turn of the loop are handled together.
        until = self.now + 0.0001
        while self._acks and self._acks[0][0] <= until:
            seq = heapq.heappop(self._acks)[1]
            window.take(rec.Ack(seq, seq))
        self.now = until
        window.measure(self.now)
        self.windows.append(window.limit)

    def run(self, turns: int = 300) -> int:
        for _ in range(turns):
            self.turn()
        return self.window.limit


@pytest.mark.parametrize(
    ("service", "hands", "at_least", "at_most"),
    [
        (5e-6, 1, 500, 1500),
        (0.001, 1, 4, 7),
        (0.050, 1, 1, 1),
        (0.100, 100, 100, 120),
        (0.001, 10, 40, 70),
    ],
    ids=["5 µs", "1 ms", "50 ms", "100 async handlers of 100 ms", "10 of 1 ms"],
)
def test_the_window_finds_five_milliseconds_of_work(
    service: float, hands: int, at_least: int, at_most: int
) -> None:
    simulation = Simulation(service, hands)
    simulation.run()
    assert all(at_least <= window <= at_most for window in simulation.windows[-50:])


def test_async_handlers_that_wait_serve_a_thousand_events_a_second() -> None:
    """If latency counted as service time, the window would allow ten a second."""
    simulation = Simulation(0.100, 100)
    simulation.run()
    begin, first = simulation.now, simulation.window.next_seq
    simulation.run(500)
    served = simulation.window.next_seq - first
    assert served / (simulation.now - begin) > 900


def test_the_window_at_most_doubles_per_round_trip() -> None:
    simulation = Simulation(5e-6)
    simulation.run(200)
    pairs = zip([FIRST_WINDOW, *simulation.windows], simulation.windows, strict=False)
    assert all(after <= 2 * before for before, after in pairs)


def test_the_window_grows_once_in_a_round_trip() -> None:
    window = begun()
    for _ in range(4):
        window.add(message(), None, 1, 0.0)
    windows = []
    for seq in (1, 2, 3, 4):
        window.take(rec.Ack(seq, seq))
        window.measure(seq * 1e-5)
        windows.append(window.limit)
    assert windows == [8, 8, 8, 8], "these four were sent before the first growth"


def test_the_window_falls_at_once() -> None:
    simulation = Simulation(5e-6)
    simulation.run(200)
    assert simulation.window.limit > 500
    window, now = simulation.window, simulation.now
    first = next(iter(window.in_flight), window.next_seq)
    while window.has_room(1):
        window.add(message(), None, 1, now)
    window.take(rec.Ack(first, first))
    window.measure(now + 0.050)
    window.take(rec.Ack(first + 1, first + 1))
    window.measure(now + 0.100)
    assert window.limit == 1


def test_a_worker_that_was_empty_may_raise_the_window_but_never_lower_it() -> None:
    """One event for each round trip measures the latency, not the time of the handler."""
    window = begun()
    now = 0.0
    for seq in range(1, 20):
        window.add(message(), None, 1, now)
        now += 0.030
        window.take(rec.Ack(seq, seq))
        window.measure(now)
        now += 1.0
    assert window.limit == FIRST_WINDOW


def test_an_event_sent_in_the_turn_of_the_ack_does_not_make_a_slow_worker_fast() -> None:
    """The last ack empties the worker. In the same turn, before the measurement, its next event
    is sent (a raw connection's on_close). So that turn has one ack but takes no time.
    """
    window = begun()
    now = 0.0
    for seq in range(1, 40):
        if seq == 1:
            window.add(message(), None, 1, now)
        now += 0.050
        window.take(rec.Ack(seq, seq))
        window.add(message(), None, 1, now)
        window.measure(now)
    assert window.service_time == pytest.approx(0.050)
    assert window.limit <= FIRST_WINDOW


def test_a_turn_without_acks_teaches_nothing() -> None:
    window = begun()
    window.add(message(), None, 1, 0.0)
    window.measure(5.0)
    assert (window.limit, window.service_time) == (FIRST_WINDOW, 0.0)


def test_the_window_stays_below_what_the_worker_asked_for() -> None:
    window = begun(largest=10)
    simulation = Simulation(5e-6)
    simulation.window = window
    assert simulation.run() == 10


# --- remote workers ---


def rate(simulation: Simulation, seconds: float) -> float:
    """The events handled in a second, averaged over the next seconds."""
    begin, first = simulation.now, simulation.window.next_seq
    while simulation.now < begin + seconds:
        simulation.turn()
    return (simulation.window.next_seq - first) / (simulation.now - begin)


@pytest.mark.parametrize("round_trip", [0.01, 0.1, 0.3], ids=["10 ms", "100 ms", "300 ms"])
@pytest.mark.parametrize(("service", "hands"), [(0.001, 1), (0.050, 1), (0.020, 10)])
def test_a_remote_worker_is_kept_busy(round_trip: float, service: float, hands: int) -> None:
    simulation = Simulation(service, hands, round_trip=round_trip)
    rate(simulation, 8.0)
    # With 300 ms for 20 ms of work, the spacing is coarse.
    assert rate(simulation, 3.0) > (0.9 if round_trip < 0.3 else 0.4) * hands / service
    # The limit is at most twice the events that the hands, the way and the work ahead can hold.
    way = simulation.window.round_trip + WORK_AHEAD
    assert simulation.window.limit <= 2 * (hands + way * hands / service)


def test_a_network_that_becomes_slower_is_noticed() -> None:
    simulation = Simulation(0.001, round_trip=0.02)
    assert rate(simulation, 3.0) > 900
    simulation.round_trip = 0.1
    rate(simulation, 5.0)
    assert rate(simulation, 3.0) > 900


def test_the_window_of_a_remote_worker_does_not_grow_unused() -> None:
    """In the counterpart, the first of these tests, the window is the bottleneck."""
    simulation = Simulation(0.001, gap=0.05, round_trip=0.1)
    rate(simulation, 10.0)
    assert simulation.window.limit <= 2 * FIRST_WINDOW


def test_the_latency_of_a_remote_worker_does_not_make_it_stuck() -> None:
    window = begun(is_remote=True)
    window.add(message(), None, 1, 1.0)
    window.take(rec.Ack(1, 1))
    window.measure(1.1)
    assert window.round_trip == pytest.approx(0.1)
    window.service_time = 0.001
    window.add(message(), None, 1, 2.0)
    assert not window.is_late(2.1)
    assert window.is_late(2.1 + LATE_AFTER + 0.001)
    assert not window.is_stuck(2.1)
    assert window.is_stuck(2.1 + STUCK_AFTER + 0.001)


def test_a_long_handler_is_not_taken_for_latency() -> None:
    """The fastest of some events measures the latency, which no handler makes longer."""
    window = begun(is_remote=True)
    now = 0.0
    for seq, took in enumerate((0.03, 60.0, 2.0, 2.0), 1):
        window.add(message(), None, 1, now)
        window.take(rec.Ack(seq, seq))
        window.measure(now + took)
        now += 100.0
        assert window.round_trip == pytest.approx(0.03)
    for seq in range(5, 5 + ROUND_TRIPS):
        window.add(message(), None, 1, now)
        window.take(rec.Ack(seq, seq))
        window.measure(now + 2.0)
        now += 100.0
    assert window.round_trip == LONGEST_ROUND_TRIP


# --- given back ---


def test_what_is_given_back_is_all_that_is_in_flight_of_an_owner() -> None:
    """The worker has finished these events, so that the events after them do not look late."""
    window: Window[list[str]] = Window()
    window.begin(1, 100)
    one, other = ["one"], ["other"]
    for owner in (one, other, one, other):
        window.add(message(), owner, 10, 1.0)
    window.take(rec.Ack(2, 2))
    window.measure(1.001)
    assert [flight.event.seq for flight in window.give_back(one)] == [1, 3]
    window.measure(1.015)
    assert list(window.in_flight) == [4]
    assert window.bytes == 10
    assert window.acked_events == 1, "that was not handled"
    assert window.oldest_age(1.016) == pytest.approx(0.001)
    assert window.give_back(one) == []


# --- stuck ---


def test_a_plain_worker_is_stuck_after_20_ms() -> None:
    window = begun()
    assert not window.is_stuck(99.0)
    window.add(message(), None, 1, 1.0)
    assert not window.is_stuck(1.0 + STUCK_AFTER - 0.001)
    assert window.is_stuck(1.0 + STUCK_AFTER + 0.001)


def test_a_plain_worker_is_stuck_since_its_last_ack() -> None:
    """The worker has not begun the events after the first one."""
    window = begun()
    window.add(message(), None, 1, 1.0)
    window.add(message(), None, 1, 1.0)
    window.take(rec.Ack(1, 1))
    window.measure(1.019)
    assert not window.is_stuck(1.030)
    assert window.is_stuck(1.019 + 4 * 0.019 + 0.001)


def test_a_slow_handler_may_take_four_times_its_time() -> None:
    window = begun()
    window.service_time = 0.050
    window.add(message(), None, 1, 1.0)
    assert not window.is_stuck(1.199)
    assert window.is_stuck(1.201)


def test_an_async_worker_with_a_free_hand_is_not_stuck() -> None:
    window = begun(concurrency=2)
    window.add(message(), None, 1, 1.0)
    assert not window.is_stuck(99.0)
    window.add(message(), None, 1, 98.0)
    assert window.is_stuck(99.0), "its oldest event is 98 s old, and no hand is free"


def test_an_async_worker_is_stuck_by_its_oldest_event_whatever_else_it_acks() -> None:
    window = begun(concurrency=2)
    for _ in range(4):
        window.add(message(), None, 1, 1.0)
    window.take(rec.Ack(2, 2))
    window.measure(1.015)
    assert window.is_stuck(1.0 + 4 * window.service_time + 0.001)


def test_the_time_of_an_event_begins_when_the_one_before_it_of_its_connection_is_acked() -> None:
    window = begun(concurrency=2)
    for owner in ("a", "a", "a", "b"):
        window.add(message(), owner, 1, 1.0)
    for now in (2.0, 3.0):
        window.hold_back(now)
        assert [each.sent_at for _, each in sorted(window.in_flight.items())] == [
            1.0,
            now,
            now,
            1.0,
        ]
    assert window.oldest_age(3.5) == 2.5
    window.take(rec.Ack(1, 1))
    window.take(rec.Ack(4, 4))
    window.hold_back(4.0)
    assert [each.sent_at for each in window.in_flight.values()] == [3.0, 4.0]


def test_the_time_of_an_event_begins_when_the_worker_has_a_free_hand() -> None:
    window = begun(concurrency=2)
    for owner in ("a", "b", "c", "d", "a"):
        window.add(message(), owner, 1, 1.0)
    window.hold_back(2.0)
    assert [each.sent_at for _, each in sorted(window.in_flight.items())] == [1, 1, 2, 2, 2]
    # The worker continues with a; c must wait for b.
    window.take(rec.Ack(1, 1))
    window.hold_back(3.0)
    assert {seq: each.sent_at for seq, each in window.in_flight.items()} == {2: 1, 5: 2, 3: 3, 4: 3}
    window.take(rec.Ack(5, 5))
    window.hold_back(4.0)
    assert {seq: each.sent_at for seq, each in window.in_flight.items()} == {2: 1, 3: 3, 4: 4}


def test_events_that_are_all_begun_are_left_alone() -> None:
    window = begun(concurrency=3)
    for owner in ("a", "b", "c"):
        window.add(message(), owner, 1, 1.0)
    window.hold_back(9.0)
    assert [each.sent_at for each in window.in_flight.values()] == [1.0] * 3
