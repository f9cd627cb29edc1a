from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.sessions import reconnect as r
from wsraw.link.open_options import check
from wsraw.link.records import OnClose, OnError, Open

SLOW = check(
    Open(0, "ws://h:1/", options={"reconnect": True, "connect_timeout": r.STABLE_AFTER + 1})
)


class Reopening:
    """A worker that has opened a connection with `reconnect`; the random delay is at its
    maximum.
    """

    def __init__(self, **options: Any) -> None:
        self.harness = Harness()
        self.linked: LinkedWorker = self.harness.worker()
        self.linked.say(
            Open(
                self.linked.link.new_id(), "h:1", "raw", "/", "h", "o",
                {"reconnect": True, **options},
            )
        )  # fmt: skip

    def next(self) -> Entry:
        """The entry that is to be dialed."""
        [entry] = self.harness.registry.to_dial
        self.harness.registry.to_dial = []
        return entry

    def fail(self, entry: Entry) -> None:
        registry, now = self.harness.registry, self.harness.now
        registry.take(entry.con, entry.con.connect_failed("refused", now), now)
        self.harness.turn()

    def stand_and_fall(self, entry: Entry, after: float) -> None:
        registry = self.harness.registry
        registry.take(entry.con, entry.con.connected(self.harness.now), self.harness.now)
        self.harness.now += after
        registry.take(entry.con, entry.con.lost("reset", self.harness.now), self.harness.now)
        self.harness.turn()


def test_pauses_between_attempts_double_up_to_a_bound() -> None:
    at = Reopening(name="feed")
    entry, waits = at.next(), []
    for _ in range(9):
        at.fail(entry)
        before, entry = entry, at.next()
        waits.append(entry.dial_at - at.harness.now)
        assert entry.id != before.id
        assert entry.con.about["reconnects"] == len(waits)
        at.harness.now = entry.dial_at
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_jitter_shortens_a_pause_by_half_at_most() -> None:
    at = Reopening(name="feed")
    at.harness.sessions._random = lambda: 0.0
    at.fail(at.next())
    assert at.next().dial_at == r.FIRST_DELAY / 2


@pytest.mark.parametrize(("stood", "wait"), [(r.STABLE_AFTER + 1, 0.5), (1.0, 1.0)])
def test_a_connection_that_was_open_for_long_resets_the_pauses(stood: float, wait: float) -> None:
    at = Reopening(name="feed")
    at.fail(at.next())
    entry = at.next()
    at.harness.now = entry.dial_at
    at.stand_and_fall(entry, stood)
    assert at.next().dial_at - at.harness.now == pytest.approx(wait)


@pytest.mark.parametrize("cause", ["connected", "connect_failed"])
def test_the_duration_of_a_failed_attempt_does_not_count_as_open(cause: str) -> None:
    """A server that accepts connections and never answers the handshake was once dialed twice a
    second for ever, as each attempt took as long as STABLE_AFTER.
    """
    at = Reopening(name="feed", connect_timeout=r.STABLE_AFTER + 1)
    registry, waits = at.harness.registry, []
    registry.to_dial[0].reopening = r.Reopening(SLOW, 0)
    at.fail(at.next())
    for _ in range(4):
        entry = at.next()
        waits.append(entry.dial_at - at.harness.now)
        at.harness.now = entry.dial_at
        if cause == "connected":
            registry.take(entry.con, entry.con.connected(at.harness.now), at.harness.now)
        at.harness.now = entry.con.keepalive.deadline
        registry.take(entry.con, entry.con.handle_timeout(at.harness.now), at.harness.now)
        at.harness.turn()
    assert waits == pytest.approx([0.5, 1.0, 2.0, 4.0])


def test_a_failed_connection_reports_its_id_and_name() -> None:
    """on_error and on_close report them, although no on_connect has come before."""
    at = Reopening(name="feed")
    at.fail(at.next())
    at.linked.ack()
    at.fail(at.next())
    error, close = at.linked.events[-2:]
    about = {"target": "h:1", "kind": "raw", "reconnects": 1}
    assert isinstance(error, OnError)
    assert isinstance(close, OnClose)
    assert error.about == close.about == about


def test_a_reopened_connection_inherits_name_worker_and_owner() -> None:
    at = Reopening(name="feed")
    entry = at.next()
    at.fail(entry)
    successor = at.next()
    registry = at.harness.registry
    assert registry.named(registry.pool(), "feed") is successor
    assert successor.holder is at.linked.worker
    assert successor.heard
    unnamed = Reopening()
    one = unnamed.next()
    assert one.owner is unnamed.linked.worker
    unnamed.fail(one)
    assert unnamed.next().owner is unnamed.linked.worker


@pytest.mark.parametrize("cause", sorted(r.WANTED))
def test_a_wanted_close_is_not_reconnected(cause: str) -> None:
    at = Reopening(name="feed")
    entry = at.next()
    now = at.harness.now
    at.harness.registry.take(entry.con, entry.con.connected(now), now)
    at.harness.registry.take(entry.con, entry.con.close_now(1001, "", cause, "", now), now)
    at.harness.turn()
    assert at.harness.registry.ended == []
    assert at.harness.registry.to_dial == []


def test_no_connection_is_reopened_during_a_stop() -> None:
    at = Reopening(name="feed")
    entry = at.next()
    at.harness.registry.stop()
    at.fail(entry)
    assert at.harness.registry.to_dial == []
