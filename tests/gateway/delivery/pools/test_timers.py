from __future__ import annotations

from wsraw.gateway.delivery.pools.timers import ASK_AGAIN, EARLY, MOST_TIMERS, PoolTimers
from wsraw.link.states import DRAINING, GONE, READY, LinkState

T = ("pool", "t")


class Session:
    def __init__(self) -> None:
        self.state: LinkState = READY


def made() -> tuple[PoolTimers[Session], Session, Session]:
    return PoolTimers(), Session(), Session()


def test_one_worker_at_a_time_calls_a_timer_at_its_interval() -> None:
    timers, one, two = made()
    assert timers.ask(T, 10.0, one, 100.0) == 10.0
    assert timers.ask(T, 10.0, two, 104.0) == 6.0
    assert timers.ask(T, 10.0, two, 110.0) == 0.0
    assert timers.ask(T, 10.0, one, 110.0) == 10.0
    assert timers.ask(T, 10.0, two, 112.0) == 8.0
    assert timers.ask(T, 10.0, one, 120.0) == 0.0


def test_a_timer_stays_in_step_and_missed_calls_are_skipped() -> None:
    timers, one, _ = made()
    timers.ask(T, 10.0, one, 0.0)
    assert timers.ask(T, 10.0, one, 13.0) == 0.0
    assert timers.ask(T, 10.0, one, 14.0) == 6.0
    assert timers.ask(T, 10.0, one, 20.0 - EARLY / 2) == 0.0
    assert timers.ask(T, 10.0, one, 95.0) == 0.0
    assert timers.ask(T, 10.0, one, 96.0) == 9.0


def test_no_other_worker_calls_a_timer_while_a_call_lasts() -> None:
    timers, one, two = made()
    timers.ask(T, 10.0, one, 0.0)
    assert timers.ask(T, 10.0, one, 10.0) == 0.0
    assert timers.ask(T, 10.0, two, 25.0) == ASK_AGAIN
    assert timers.ask(T, 0.5, two, 25.0) == 0.5
    # Asking for the next call tells the gateway that the last call is over.
    assert timers.ask(T, 10.0, one, 25.0) == 0.0


def test_another_worker_calls_a_timer_when_its_caller_has_died() -> None:
    timers, one, two = made()
    timers.ask(T, 10.0, one, 0.0)
    assert timers.ask(T, 10.0, one, 10.0) == 0.0
    one.state = GONE
    assert timers.ask(T, 10.0, two, 12.0) == 8.0
    assert timers.ask(T, 10.0, two, 20.0) == 0.0


def test_a_worker_that_drains_gets_no_turn() -> None:
    timers, one, two = made()
    timers.ask(T, 10.0, one, 0.0)
    one.state = DRAINING
    assert timers.ask(T, 10.0, one, 10.0) == ASK_AGAIN
    assert timers.ask(T, 10.0, two, 10.0) == 0.0


def test_timers_do_not_know_each_other_and_are_bounded() -> None:
    timers, one, two = made()
    for name in ("a", "b"):
        timers.ask(("pool", name), 10.0, one, 0.0)
    assert timers.ask(("pool", "a"), 10.0, one, 10.0) == 0.0
    assert timers.ask(("other", "a"), 10.0, two, 10.0) == 10.0
    assert timers.ask(("pool", "b"), 10.0, two, 10.0) == 0.0
    for n in range(MOST_TIMERS):
        timers.ask(("pool", f"{n}"), 10.0, one, 11.0)
    assert len(timers._timers) == MOST_TIMERS
    assert ("pool", "a") not in timers._timers
