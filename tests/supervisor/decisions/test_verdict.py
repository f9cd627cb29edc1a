"""The verdict on new handlers that are on trial."""

from __future__ import annotations

import random

import pytest

from wsraw.supervisor.decisions.verdict import (
    BY_HANDLERS,
    CHANCE,
    ENOUGH_CALLS,
    NOTHING,
    Handled,
    Kind,
    slower,
    verdict,
)


def handled(
    calls: int = 0,
    exceptions: int = 0,
    seconds: float = 0.0,
    *,
    events: int = 0,
    closed: int = 0,
    given_back: int = 0,
) -> Handled:
    name = "on_message"
    closes = {"handler": closed} if closed else {}
    figures = {name: calls}, {name: exceptions}, {name: seconds}
    return Handled(*figures, events, closes, given_back)


GOOD = handled(1000, 0, 0.1, events=1000)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (handled(), handled(), ""),
        (GOOD, handled(100, 0), ""),
        (GOOD, handled(100, 1), "on_message raised an exception in 100 calls; the old workers"),
        (handled(), handled(1, 1), "on_message raised an exception in 1 call; the old workers"),
        # The calls that raised may not have been reported yet.
        (GOOD, handled(0, 2), "on_message raised 2 exceptions in 2 calls; the old workers"),
        # The new workers raise as often as the old ones.
        (handled(10_000, 100), handled(1000, 10), ""),
        (handled(10_000, 100), handled(1000, 21), ""),
        (handled(10_000, 100), handled(1000, 22), "raised 22 exceptions in 1,000 calls; the old"),
        (handled(100_000, 10_000), handled(10_000, 1_097), ""),
        (handled(100_000, 10_000), handled(10_000, 1_098), "raised 1,098 exceptions in 10,000"),
        # One more exception is chance if the old workers raise some.
        (handled(10_000, 10), handled(100, 1), ""),
        (handled(10_000, 10), handled(100, 3), "on_message raised 3 exceptions in 100 calls"),
        # Handlers that only the new version has.
        (GOOD, Handled({"on_start": 3}, {"on_start": 0}, {"on_start": 0.0}), ""),
        (GOOD, Handled({"every": 3}, {"every": 3}, {"every": 0.0}), "every raised 3 exceptions"),
        (handled(events=1000), handled(events=1000, closed=5), ""),
        (
            handled(events=1000),
            handled(events=1000, closed=6),
            "they ended 6 connections (handler) in 1,000 events; the old workers 0 in 1,000",
        ),
        (handled(), handled(events=10, closed=1), ""),
        # Workers that do not report their exceptions.
        (GOOD, Handled(events=7, given_back=1), "they gave back an event and handled 7"),
        (GOOD, Handled(events=7, given_back=2), "they gave back 2 events and handled 7"),
        (GOOD, handled(7, 0, given_back=2), ""),
    ],
)
def test_faults_are_compared_with_those_of_the_old_workers(
    old: Handled, new: Handled, why: str
) -> None:
    found = verdict(old, new)
    assert (found is not None) == bool(why)
    if found is not None:
        assert why in found.why
        assert found.kind is (Kind.CLOSES if "ended" in why else Kind.EXCEPTIONS)


def test_each_cause_is_compared_with_itself() -> None:
    """Handlers that end many connections on purpose do not hide other handlers that stall."""
    old = Handled(events=1000, closed={"handler": 500})
    assert verdict(old, Handled(events=1000, closed={"handler": 510})) is None
    found = verdict(old, Handled(events=1000, closed={"handler": 400, "stalled": 20}))
    assert found is not None
    assert found.why == (
        "they ended 20 connections (stalled) in 1,000 events; the old workers 0 in 1,000"
    )


def test_what_the_old_workers_raised_before_the_trial_is_known() -> None:
    """A first exception of the new version is no reason to roll back if the old version raises,
    too, and has only been lucky since the trial began.
    """
    before = handled(100_000, 100)
    assert verdict(handled(500), handled(50, 1), before) is None
    assert verdict(handled(), handled(50, 1), before) is None
    assert verdict(handled(500), handled(50, 3), before) is not None
    # An outage that is over does not excuse new exceptions.
    outage = handled(100_000, 50_000)
    assert verdict(handled(10_000), handled(1000, 5), outage) is not None
    assert verdict(handled(events=500), handled(events=500, closed=9), NOTHING) is not None
    known = handled(events=1000, closed=20)
    assert verdict(handled(events=500), handled(events=500, closed=9), known) is None


def test_few_good_versions_are_rolled_back() -> None:
    """The probability of each check alone is CHANCE."""
    seed = random.Random(7)
    trials, wrong = 4000, 0
    for _ in range(trials):
        rate = seed.choice((0.001, 0.01, 0.1))
        calls = seed.choice((50, 500))
        faults = sum(seed.random() < rate for _ in range(calls))
        old = round(100_000 * rate)
        wrong += verdict(handled(100_000, old), handled(calls, faults)) is not None
    assert wrong <= 3 * CHANCE * trials


def test_a_version_whose_handlers_take_longer_is_slow() -> None:
    old, new = handled(1000, 0, 2.0), handled(100, 0, 0.5)
    found = slower(old, new)
    assert found == (
        Kind.SLOW,
        "on_message takes 5 ms a call on average; with the old workers 2 ms",
    )
    assert not slower(old, handled(100, 0, 0.39))
    assert not slower(old, handled(ENOUGH_CALLS - 1, 0, 5.0)), "too few to tell"
    assert not slower(handled(99, 0, 0.1), new)
    assert not slower(handled(1000, 0, 0.01), handled(100, 0, 0.09)), "both are fast"


def test_only_what_handlers_do_counts_as_their_doing() -> None:
    causes = {"peer": 5, "lost": 5, "ping-timeout": 5, **dict.fromkeys(BY_HANDLERS, 1)}
    report = {
        "acked": 7,
        "closed": causes,
        "handlers": {"on_close": {"calls": 3, "exceptions": 2, "seconds": 1.5}},
        "given_back": 4,
    }
    found = Handled.of(report)
    by_handlers = dict.fromkeys(BY_HANDLERS, 1)
    assert found == Handled({"on_close": 3}, {"on_close": 2}, {"on_close": 1.5}, 7, by_handlers, 4)
    assert found.since(Handled()) == found
    assert not any(found.since(found).closed.values())
    assert found.since(found).given_back == found.since(found).events == 0
    assert Handled.of({}) == Handled()
