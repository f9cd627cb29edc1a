from __future__ import annotations

from typing import Any

import pytest
from stage import Mate, Stage

from wsraw import messages as m
from wsraw.gateway import reopener as r
from wsraw.gateway.route import Route
from wsraw.opening import check

SLOW = check(
    m.Open(0, "ws://h:1/", options={"reconnect": True, "connect_timeout": r.STABLE_AFTER + 1})
)


class Reopening:
    """A worker that has opened a connection with `reconnect`; chance is at its highest."""

    def __init__(self, **options: Any) -> None:
        self.stage = Stage()
        self.mate: Mate = self.stage.worker()
        self.mate.say(
            m.Open(
                self.mate.link.new_id(), "h:1", "raw", "/", "h", "o",
                {"reconnect": True, **options},
            )
        )  # fmt: skip

    def next(self) -> Route:
        """The one that is to be dialled."""
        [route] = self.stage.router.to_dial
        self.stage.router.to_dial = []
        return route

    def fail(self, route: Route) -> None:
        router, now = self.stage.router, self.stage.now
        router.take(route.con, route.con.connect_failed("refused", now), now)
        self.stage.turn()

    def stand_and_fall(self, route: Route, after: float) -> None:
        router = self.stage.router
        router.take(route.con, route.con.connected(self.stage.now), self.stage.now)
        self.stage.now += after
        router.take(route.con, route.con.lost("reset", self.stage.now), self.stage.now)
        self.stage.turn()


def test_the_pauses_double_up_to_a_bound() -> None:
    at = Reopening(name="feed")
    route, waits = at.next(), []
    for _ in range(9):
        at.fail(route)
        before, route = route, at.next()
        waits.append(route.dial_at - at.stage.now)
        assert route.id != before.id
        assert route.con.about["reconnects"] == len(waits)
        at.stage.now = route.dial_at
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_chance_takes_up_to_half_of_a_pause() -> None:
    at = Reopening(name="feed")
    at.stage.router._reopener._random = lambda: 0.0
    at.fail(at.next())
    assert at.next().dial_at == r.FIRST_DELAY / 2


@pytest.mark.parametrize(("stood", "wait"), [(r.STABLE_AFTER + 1, 0.5), (1.0, 1.0)])
def test_who_stood_for_long_was_no_failure(stood: float, wait: float) -> None:
    at = Reopening(name="feed")
    at.fail(at.next())
    route = at.next()
    at.stage.now = route.dial_at
    at.stand_and_fall(route, stood)
    assert at.next().dial_at - at.stage.now == pytest.approx(wait)


@pytest.mark.parametrize("cause", ["connected", "connect_failed"])
def test_what_it_takes_to_fail_is_not_time_in_which_it_was_open(cause: str) -> None:
    """A server that accepts and never answers the handshake was asked twice a second for ever, as
    each try took as long as STABLE_AFTER."""
    at = Reopening(name="feed", connect_timeout=r.STABLE_AFTER + 1)
    router, waits = at.stage.router, []
    router.to_dial[0].reopening = r.Reopening(SLOW, 0)
    at.fail(at.next())
    for _ in range(4):
        route = at.next()
        waits.append(route.dial_at - at.stage.now)
        at.stage.now = route.dial_at
        if cause == "connected":
            router.take(route.con, route.con.connected(at.stage.now), at.stage.now)
        at.stage.now = route.con.deadline
        router.take(route.con, route.con.handle_timeout(at.stage.now), at.stage.now)
        at.stage.turn()
    assert waits == pytest.approx([0.5, 1.0, 2.0, 4.0])


def test_one_that_fails_says_who_it_is() -> None:
    """In on_error and on_close, where no on_connect has come before."""
    at = Reopening(name="feed")
    at.fail(at.next())
    at.mate.ack()
    at.fail(at.next())
    error, close = at.mate.events[-2:]
    about = {"target": "h:1", "kind": "raw", "reconnects": 1}
    assert isinstance(error, m.OnError)
    assert isinstance(close, m.OnClose)
    assert error.about == close.about == about


def test_the_name_the_worker_and_the_owner_are_the_successors() -> None:
    at = Reopening(name="feed")
    route = at.next()
    at.fail(route)
    successor = at.next()
    table = at.stage.router
    assert table.standing(table.pool(), "feed") is successor
    assert successor.holder is at.mate.end
    assert successor.heard
    unnamed = Reopening()
    one = unnamed.next()
    assert one.owner is unnamed.mate.end
    unnamed.fail(one)
    assert unnamed.next().owner is unnamed.mate.end


@pytest.mark.parametrize("cause", sorted(r.WANTED))
def test_an_end_that_somebody_wanted_is_one(cause: str) -> None:
    at = Reopening(name="feed")
    route = at.next()
    now = at.stage.now
    at.stage.router.take(route.con, route.con.connected(now), now)
    at.stage.router.take(route.con, route.con.close_now(1001, "", cause, "", now), now)
    at.stage.turn()
    assert at.stage.router.ended == []
    assert at.stage.router.to_dial == []


def test_nothing_is_opened_during_a_stop() -> None:
    at = Reopening(name="feed")
    route = at.next()
    at.stage.router.stopping = True
    at.fail(route)
    assert at.stage.router.to_dial == []
