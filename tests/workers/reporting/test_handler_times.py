from __future__ import annotations

import math

import pytest

from wsraw.link.records import (
    HANDLER_BOUNDS,
    STATS_EVERY,
    OnClose,
    OnConnect,
    OnRequest,
    Stats,
)
from wsraw.link.rules import stats_refusal
from wsraw.workers.reporting.handler_times import HURRY, QUICK, HandlerTimes


def test_quick_messages_are_counted_in_bulk() -> None:
    times = HandlerTimes()
    times.handled(1000, 0.02, 5.0)
    times.handled(10, 0.5, 5.5)
    assert times.due_at == 5.0 + STATS_EVERY
    assert times.take() == [Stats("on_message", 1010, 0.52)]
    assert times.take() == [], "it is told once"


def test_a_slow_message_is_among_those_that_are_counted_in_bulk() -> None:
    times = HandlerTimes()
    times.slow_message(0.3)
    times.slow_message(0.0002)
    times.handled(50, 0.31, 0.0)
    slower = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert times.take() == [Stats("on_message", 50, 0.31, 0, slower)]
    assert HANDLER_BOUNDS[10] < 0.3 <= HANDLER_BOUNDS[11]


def test_what_is_no_message_is_taken_out_of_the_bulk() -> None:
    times = HandlerTimes()
    times.other(OnConnect, 0.25)
    times.other(OnClose, 0.00005)
    times.handled(12, 0.5, 0.0)
    connect, message, close = times.take()
    assert connect == Stats("on_connect", 1, 0.25, 0, [0] * 9 + [1]), "0.25 is not above 0.25"
    assert (message.handler, message.calls, message.slower) == ("on_message", 10, [])
    assert message.seconds == pytest.approx(0.24995)
    assert close == Stats("on_close", 1, 0.00005)


def test_a_handler_that_is_missing_and_a_skipped_event_are_not_calls() -> None:
    times = HandlerTimes(["on_message"])
    times.other(OnConnect, 0.25)
    times.skipped()
    times.handled(5, 0.375, 0.0)
    assert times.take() == [Stats("on_message", 3, 0.125)]
    times.handled(1, 0.0, 0.0)
    assert times.take() == [Stats("on_message", 1, 0.0)]


@pytest.mark.parametrize("calls", [-40, 0, 1])
def test_a_session_that_changes_meanwhile_makes_no_counts_that_cannot_be(calls: int) -> None:
    times = HandlerTimes()
    times.slow_message(2.0)
    times.other(OnRequest, 1.0)
    times.handled(calls, 2.5, 0.0)
    found = {each.handler: each for each in times.take()}
    assert {name: each.calls for name, each in found.items()} == {"on_message": 1, "on_request": 1}
    assert found["on_message"].seconds == 1.5
    assert not any(map(stats_refusal, found.values()))


@pytest.mark.parametrize("bound", range(len(HANDLER_BOUNDS)))
def test_a_time_above_a_bound_is_counted_there(bound: int) -> None:
    times = HandlerTimes()
    above = math.nextafter(HANDLER_BOUNDS[bound], math.inf)
    times.messages([above, HANDLER_BOUNDS[bound]])
    (found,) = times.take()
    assert found.calls == 2
    assert found.slower[bound] == 1
    assert sum(found.slower) == (2 if bound else 1)
    assert stats_refusal(found) is None


def test_one_call_at_a_time_comes_to_the_same() -> None:
    times = HandlerTimes()
    took = [0.00001, QUICK, 0.2]
    times.messages(took)
    assert took == []
    times.called("on_connect", 0.00002)
    times.called("every", 0.003)
    assert times.take() == [
        Stats("on_connect", 1, 0.00002),
        Stats("on_message", 3, 0.00001 + QUICK + 0.2, 0, [0] * 9 + [1]),
        Stats("every", 1, 0.003, 0, [0, 0, 0, 0, 1]),
    ]


def test_exceptions_are_counted_by_handler_and_told_without_a_call() -> None:
    times = HandlerTimes()
    for name in ("on_message", "on_message", "call_soon", "a task or callback of the handlers"):
        times.raised(name)
    assert times.take() == [Stats("on_message", 0, 0.0, 2), Stats("call_soon", 0, 0.0, 1)]


def test_stats_are_due_some_time_after_the_first_of_what_is_new() -> None:
    times = HandlerTimes()
    assert times.due_at == math.inf
    times.every = 3
    for now in (1.0, 2.0):
        times.handled(1, 0.0, now)
    assert times.due_at == 4.0


def test_an_exception_is_told_at_once_and_more_of_them_a_little_later() -> None:
    times = HandlerTimes()
    times.handled(1, 0.1, 10.0)
    assert times.due_at == 11.0
    assert times.hurry(10.5) == times.due_at == 10.5
    times.due_at = math.inf
    assert times.hurry(10.51) == pytest.approx(10.5 + HURRY)
    assert times.hurry(10.52) == times.due_at == pytest.approx(10.5 + HURRY)
    times.due_at = math.inf
    assert times.hurry(10.5 + HURRY) == pytest.approx(10.5 + 2 * HURRY)
    times.due_at = math.inf
    assert times.hurry(20.0) == 20.0
