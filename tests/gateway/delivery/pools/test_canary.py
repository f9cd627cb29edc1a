from __future__ import annotations

from typing import Any

import pytest

from tests.corpus import frame
from tests.gateway.delivery.test_dispatcher import established
from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import CLOSING, Connection
from wsraw.gateway.delivery.dispatcher import REASSIGNED
from wsraw.gateway.delivery.pools import canary
from wsraw.link import records as rec
from wsraw.link.records import Attach, Detach, OnClose, OnConnect, OnMessage, Open, State

NEW = 7
"""The supervisor's number for the worker with new handlers."""


class Trial:
    """A gateway with an old worker, and connections that this worker knows."""

    def __init__(self, connections: int = 40, **settings: str) -> None:
        self.harness = Harness(**settings)
        self.old = self.harness.worker()
        self.cons = established(self.harness, connections)
        self.pool = self.harness.registry.pool()

    def begin(self, share: float = 0.5, number: int = NEW, *, shield: bool = False) -> LinkedWorker:
        """A worker with new handlers becomes ready, and takes its share."""
        harness = self.harness
        numbers = sorted({number, *(self.pool.canary.numbers if self.pool.canary else ())})
        canary.change(harness.registry, rec.Canary("default", numbers, 0.0, shield))
        harness.sessions.tokens.add(f"token {number}", number)
        new = harness.worker(token=f"token {number}", instance=f"new {number}")
        canary.change(harness.registry, rec.Canary("default", numbers, share, shield))
        harness.turn()
        harness.turn()
        return new

    def end(self) -> None:
        canary.change(self.harness.registry, rec.Canary("default", []))
        self.harness.turn()

    def say(self, *cons: Connection) -> None:
        for con in cons:
            self.harness.say(con, b"x")
        self.harness.turn()

    def chosen(self) -> list[Connection]:
        """The connections of the canary."""
        assert self.pool.canary is not None
        return [con for con in self.cons if entry_of(con).pool is self.pool.canary.own]


def handled(harness: Harness, *, state: bytes = b"") -> list[list[Any]]:
    """The messages that each worker handles until none is left."""
    workers = harness.linked_workers
    seen: list[list[Any]] = [[] for _ in workers]
    busy = True
    while busy:
        busy = False
        for worker, ours in zip(workers, seen, strict=True):
            for event in worker.events:
                busy = True
                ours += [event] * (type(event) is OnMessage)
                worker.ack(event, commands=(State(event.con, state),) if state else ())
        harness.turn()
    return seen


def of(events: list[Any]) -> set[int]:
    return {event.con for event in events}


def check_books(harness: Harness) -> None:
    """Check that the pools' counts match their connections and events."""
    registry = harness.registry
    for pool in registry.pools.values():
        ours = [entry for entry in registry.entries.values() if entry.pool is pool]
        assert pool.connections == len(ours)
        assert pool.totals.parked == sum(len(entry.parked) for entry in ours)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_connections_moves_with_its_state(share: float) -> None:
    trial = Trial(200)
    trial.say(*trial.cons)
    handled(trial.harness, state=b"state")
    new = trial.begin(share)
    ours = {con.id for con in trial.chosen()}
    assert len(ours) == pytest.approx(200 * share, abs=200 * 0.05)
    attached = [record for record in new.take(Attach) if record.state == b"state"]
    assert {record.con for record in attached} == ours
    trial.say(*trial.cons)
    by_old, by_new = handled(trial.harness)
    assert of(by_new) == ours
    assert of(by_old) == {con.id for con in trial.cons} - ours
    check_books(trial.harness)


def test_new_connections_are_shared_in_the_same_way() -> None:
    trial = Trial(0)
    new = trial.begin(0.25)
    for _ in range(200):
        trial.harness.raw(b"", protocol="raw")
    trial.harness.turn()
    handled(trial.harness)
    assert new.heard
    assert trial.pool.canary is not None
    assert trial.pool.canary.own.connections == pytest.approx(50, abs=10)
    check_books(trial.harness)


def test_until_its_share_is_told_a_canary_serves_nobody() -> None:
    trial = Trial()
    new = trial.begin(0.0)
    assert not trial.chosen()
    trial.say(*trial.cons)
    assert not new.events


def test_a_connection_moves_when_its_events_are_handled() -> None:
    """Events stay in order, and only one worker at a time holds the connection."""
    trial = Trial(4)
    trial.say(*trial.cons)
    new = trial.begin(1.0)
    assert not trial.chosen()
    trial.say(*trial.cons)
    assert not new.events
    trial.old.work()
    assert trial.chosen() == trial.cons
    trial.say(*trial.cons)
    assert of(handled(trial.harness)[1]) == {con.id for con in trial.cons}


def test_parked_events_move_too() -> None:
    trial = Trial(4)
    trial.old.worker.window.limit = trial.old.worker.window.largest = 1
    for con in trial.cons:
        for n in range(3):
            trial.harness.say(con, b"%d" % n)
    trial.harness.turn()
    trial.begin()
    by_old, by_new = handled(trial.harness)
    assert by_new
    for con in trial.cons:
        seen = [event.data for event in by_old + by_new if event.con == con.id]
        assert seen == [b"0", b"1", b"2"]
    check_books(trial.harness)


def test_many_connections_move_in_as_many_turns_as_they_need() -> None:
    trial = Trial(0)
    trial.cons = established(trial.harness, 3 * REASSIGNED)
    trial.begin(1.0)
    for _ in range(3):
        trial.harness.turn()
    assert len(trial.chosen()) == 3 * REASSIGNED


def test_sticky_pools_give_new_connections_alone() -> None:
    trial = Trial(dispatch="sticky")
    new = trial.begin(1.0)
    assert not trial.chosen()
    trial.say(*trial.cons)
    assert not new.events
    trial.harness.raw(b"", protocol="raw")
    trial.harness.turn()
    assert [type(event) for event in new.events] == [OnConnect]


def test_what_a_worker_opens_is_its_own() -> None:
    """The opened connection belongs to its worker, whichever share its id falls into."""
    trial = Trial(0)
    new = trial.begin(0.5)
    for worker in (trial.old, new):
        for con in worker.link._ids[0][:10]:
            worker.say(Open(con, "127.0.0.1:9", "raw"))
    trial.harness.turn()
    for entry in trial.harness.registry.entries.values():
        assert entry.holder is not None
        assert trial.harness.registry.pool_of(entry.holder) is entry.pool


@pytest.mark.parametrize("way", ["promoted", "rolled back"])
def test_at_the_end_of_a_canary_all_workers_are_one_pool_again(way: str) -> None:
    trial = Trial()
    new = trial.begin()
    trial.say(*trial.cons)
    trial.end()
    harness = trial.harness
    assert list(harness.registry.pools) == ["default"]
    check_books(harness)
    leaves, stays = (trial.old, new) if way == "promoted" else (new, trial.old)
    harness.sessions.drain(leaves.worker, 10.0)
    harness.turn()
    handled(harness)
    trial.say(*trial.cons)
    by_one = handled(harness)[harness.linked_workers.index(stays)]
    assert of(by_one) == {con.id for con in trial.cons}
    check_books(harness)
    assert not harness.registry.flow.total


def test_what_waits_for_a_canary_is_served_by_the_pool_at_its_end() -> None:
    """The canary's only worker has died, so events that it handled in part are suspects."""
    trial = Trial()
    new = trial.begin()
    ours = trial.chosen()
    trial.say(*ours[:1])
    (event,) = new.events
    trial.harness.sessions.end(new.worker, trial.harness.now, died=True)
    trial.say(*ours)
    trial.end()
    trial.harness.turn()
    seen = trial.old.work()
    assert {each.con for each in seen if type(each) is OnMessage} == {con.id for con in ours}
    first = next(each for each in seen if each.con == event.con)
    assert (first.data, first.delivery) == (b"x", 2)
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


# --- with a shield ---


def test_a_failed_event_and_those_behind_it_go_to_the_old_workers() -> None:
    """The events stay in order, with the state that the connection had before."""
    trial = Trial()
    trial.say(*trial.cons)
    handled(trial.harness, state=b"before")
    new = trial.begin(1.0, shield=True)
    assert new.link.is_shielded
    (con, other) = trial.chosen()[:2]
    for data in (b"1", b"2", b"3"):
        trial.harness.say(con, data)
    trial.say(other)
    first, second, _ = new.events
    assert (first.data, second.data) == (b"1", b"2")
    entry = entry_of(con)
    assert entry.parked, "a connection takes half a window"
    new.give_back(first)
    trial.harness.turn()
    (attached,) = trial.old.take(Attach)
    assert (attached.con, attached.state) == (con.id, b"before")
    trial.harness.say(con, b"4")
    seen = [event for event in trial.old.work() if event.con == con.id]
    assert [(event.data, event.delivery) for event in seen] == [
        (b"1", 2), (b"2", 1), (b"3", 1), (b"4", 1),
    ]  # fmt: skip
    assert entry.pool is trial.pool, "it stays there"
    assert [record.con for record in new.take(Detach)] == [con.id]
    assert [event.con for event in new.work()] == [other.id]
    assert trial.pool.canary is not None
    assert trial.pool.canary.own.totals.given_back == 1
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


@pytest.mark.parametrize("what", ["connect", "verdict", "close"])
def test_the_beginning_and_the_end_of_a_connection_can_be_given_back(what: str) -> None:
    trial = Trial(0, **({"verdict": "handlers"} if what == "verdict" else {}))
    new = trial.begin(0.999, shield=True)
    con = trial.harness.websocket() if what == "verdict" else trial.harness.raw(b"", protocol="raw")
    trial.harness.turn()
    if what == "close":
        new.ack()
        trial.harness.registry.take(con, con.lost("reset", trial.harness.now), trial.harness.now)
        trial.harness.turn()
        new.ack(*new.events[:-1])
    (event,) = new.events
    assert type(event) is (OnClose if what == "close" else OnConnect)
    new.give_back(event)
    trial.harness.turn()
    (again,) = trial.old.events
    assert (type(again), again.delivery) == (type(event), 2)
    assert con.undecided == (what == "verdict")
    trial.old.ack()
    assert not con.undecided
    check_books(trial.harness)
    if what == "close":
        assert not trial.harness.registry.entries


def test_what_is_given_back_after_the_end_goes_to_the_others_too() -> None:
    """The worker gives the event back while the canary ends and its worker is drained."""
    trial = Trial()
    new = trial.begin(shield=True)
    (con,) = trial.chosen()[:1]
    trial.say(con)
    trial.end()
    trial.harness.sessions.drain(new.worker, 10.0)
    new.give_back(new.events[0])
    assert [event.delivery for event in trial.old.work() if event.con == con.id] == [2]
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


def begin_message(trial: Trial, con: Connection, linked: LinkedWorker) -> None:
    """Let a worker answer the first fragment of a message with the first fragment of its own."""
    trial.harness.say(con, frame(0x01, b"one"))
    trial.harness.turn()
    linked.ack(commands=(rec.Send(con.id, b"one", "text", False),))


def test_a_connection_moves_when_the_message_to_it_is_finished() -> None:
    trial = Trial(0)
    con = trial.harness.websocket()
    trial.harness.turn()
    trial.old.ack()
    begin_message(trial, con, trial.old)
    new = trial.begin(1.0)
    trial.harness.say(con, frame(0x80, b"two"))
    trial.harness.turn()
    assert not new.events
    trial.old.ack(commands=(rec.Send(con.id, b"two", "text", True),))
    trial.harness.turn()
    trial.harness.say(con, frame(0x81, b"three"))
    trial.harness.turn()
    assert [event.data for event in new.events] == [b"three"]


def test_an_event_that_is_given_back_amid_a_message_closes_its_connection() -> None:
    """No other worker can continue the message that was sent in part."""
    trial = Trial(0)
    new = trial.begin(1.0, shield=True)
    con = trial.harness.websocket()
    trial.harness.turn()
    new.ack()
    begin_message(trial, con, new)
    trial.harness.say(con, frame(0x80, b"two"))
    trial.harness.turn()
    new.give_back(new.events[0])
    trial.harness.turn()
    assert (con.state, con.ending.cause) == (CLOSING, "handler")
    check_books(trial.harness)


def test_only_workers_with_a_shield_may_give_back_and_only_what_they_have() -> None:
    trial = Trial()
    assert "only a worker whose welcome has the limit shield" in trial.old.refused(rec.GiveBack(1))
    new = trial.begin(shield=True)
    assert new.refused(rec.GiveBack(99)) == "give_back: event 99 is not in flight"
    (con,) = trial.chosen()[:1]
    trial.say(con)
    (event,) = new.events
    new.give_back(event)
    assert "is not in flight" in new.refused(rec.GiveBack(event.seq))
    new.say_raw(rec.Ack(event.seq, event.seq))
    assert new.worker.session.dropped == 1, "nor is it acked"
    plain = Trial()
    assert not plain.begin().link.is_shielded


def test_messages_of_a_connection_that_was_closed_meanwhile_are_dropped() -> None:
    trial = Trial()
    new = trial.begin(shield=True)
    (con,) = trial.chosen()[:1]
    trial.say(con)
    (event,) = new.events
    trial.old.say(rec.Close(con.id))
    new.give_back(event)
    assert [type(each) for each in trial.old.work() if each.con == con.id] == [OnClose]
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


def test_what_a_dead_worker_had_goes_to_the_old_workers() -> None:
    """The events do not go to another worker of the canary, shielded or not."""
    trial = Trial()
    first = trial.begin(number=NEW)
    second = trial.begin(number=NEW + 1)
    ours = trial.chosen()
    trial.say(*ours)
    held = {entry.id for entry in first.worker.connections}
    assert held
    trial.harness.sessions.end(first.worker, trial.harness.now, died=True)
    trial.harness.turn()
    assert {event.con for event in second.events if type(event) is OnMessage}.isdisjoint(held)
    seen = trial.old.work()
    assert held <= {event.con for event in seen}
    second.work()
    trial.say(*ours)
    assert {event.con for event in second.work()}.isdisjoint(held), "they stay there"
    check_books(trial.harness)


def test_the_supervisor_is_told_at_once_that_the_canary_has_raised() -> None:
    trial = Trial()
    new = trial.begin()
    told = trial.harness.sessions.to_supervisor
    told.clear()
    trial.old.say(rec.Stats("on_message", 1, 0.1, 1))
    new.say(rec.Stats("on_message", 1, 0.1, 0))
    trial.harness.turn()
    assert told == []
    for _ in range(2):
        new.say(rec.Stats("on_message", 1, 0.1, 1))
    trial.harness.turn()
    assert told == [rec.Raised()]


def raised(new: LinkedWorker, count: int = 1) -> None:
    new.say(rec.Stats("on_message", count, 0.1, count))


def test_a_canary_that_raises_gets_nothing_new_until_the_supervisor_has_looked() -> None:
    """So a version that raises at each event fails at no more events than it has in flight."""
    trial = Trial()
    new = trial.begin()
    ours = trial.chosen()
    trial.say(*ours)
    first = len(new.events)
    assert 0 < first < len(ours)
    raised(new)
    new.ack()
    trial.harness.turn()
    assert not new.events
    canary.change(trial.harness.registry, rec.Canary("default", [NEW], 0.5))
    trial.harness.turn()
    assert new.events, "it goes on"
    # The next check comes when it has raised twice as often, so that the supervisor is not asked
    # all the time.
    for total, is_held in ((2, True), (3, False), (5, True)):
        new.work()
        canary.change(trial.harness.registry, rec.Canary("default", [NEW], 0.5))
        trial.say(*ours)
        raised(new, total - trial.pool.canary.raised if trial.pool.canary is not None else 0)
        trial.harness.turn()
        new.ack()
        trial.harness.turn()
        assert bool(new.events) != is_held, total
    trial.say(*ours)
    assert not new.events
    trial.harness.now += canary.HELD
    trial.harness.turn()
    assert len(new.work()) > 0, "or the supervisor does not answer"
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


def test_events_that_wait_for_the_supervisor_go_to_the_old_workers_after_a_rollback() -> None:
    trial = Trial()
    new = trial.begin()
    ours = trial.chosen()
    trial.say(*ours)
    held = of(new.events)
    raised(new)
    trial.harness.turn()
    trial.end()
    new.ack()
    trial.harness.turn()
    assert not new.events, "it is about to leave"
    assert of(trial.old.work()) == of_cons(ours) - held
    trial.harness.sessions.drain(new.worker, 10.0)
    check_books(trial.harness)
    assert not trial.harness.registry.flow.total


def of_cons(cons: list[Connection]) -> set[int]:
    return {con.id for con in cons}


def test_the_canary_of_an_unknown_pool_and_an_end_without_one_do_nothing() -> None:
    trial = Trial(1)
    canary.change(trial.harness.registry, rec.Canary("other", [1], 0.5))
    trial.end()
    assert list(trial.harness.registry.pools) == ["default"]


def test_closes_are_counted_for_the_canary_alone() -> None:
    trial = Trial()
    new = trial.begin()
    (one,) = trial.chosen()[:1]
    trial.harness.registry.take(one, one.lost("reset", trial.harness.now), trial.harness.now)
    new.work()
    assert trial.pool.canary is not None
    assert trial.pool.canary.own.totals.closed == {"lost": 1}
    assert trial.pool.totals.closed == {}
    trial.end()
    assert trial.pool.totals.closed == {"lost": 1}


def test_frames_in_the_middle_of_a_message_are_of_the_same_connection() -> None:
    trial = Trial(0)
    web = trial.harness.websocket()
    trial.old.work()
    trial.harness.say(web, frame(0x01, b"a"))
    trial.old.work()
    new = trial.begin(1.0)
    trial.harness.say(web, frame(0x80, b"b"))
    trial.harness.turn()
    assert [event.data for event in new.events] == [b"b"]
