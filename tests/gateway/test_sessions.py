"""Sessions as the router sees them: when a worker counts, and what becomes of what it held."""

from __future__ import annotations

import pytest
from stage import TOKEN, Stage

from wsraw import messages as m
from wsraw.gateway.dispatch import REHOMED
from wsraw.gateway.router import Router
from wsraw.link import LinkState
from wsraw.settings import Settings


def test_a_worker_that_is_starting_takes_nothing_before_its_first_batch() -> None:
    stage = Stage()
    stage.router.spawned(m.Spawned(3, "third", 0))
    mate = stage.worker(token="third", starting=True)
    assert mate.end.state is LinkState.READY
    stage.raw()
    stage.turn()
    assert mate.events == []
    assert stage.router.to_supervisor == []
    mate.link.started()
    mate.flush()
    stage.turn()
    assert [type(event) for event in mate.events] == [m.OnConnect, m.OnMessage]
    assert stage.router.to_supervisor == [m.Ready(3)]


def test_one_that_is_not_takes_events_at_once() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.link.started()
    assert mate.link.data_to_send() is None, "nothing to say"
    stage.raw()
    stage.turn()
    assert mate.events


def test_one_that_must_leave_before_it_has_started_takes_nothing() -> None:
    stage = Stage()
    stage.router.spawned(m.Spawned(3, "third", 0))
    mate = stage.worker(token="third", starting=True)
    stage.router.drain(mate.end, 30.0)
    mate.link.started()
    mate.flush()
    stage.raw()
    stage.turn()
    assert mate.events == []
    assert stage.router.to_supervisor == [], "nor is it ready"


def test_one_that_is_starting_is_not_told_of_the_end_of_what_it_held() -> None:
    """It may open connections while it starts, and the gateway die."""
    stage = Stage()
    mate = stage.worker(starting=True)
    mate.link.held.add(77)
    mate.link.receive(m.encode([0, m.Who()]))
    mate.flush()
    stage.turn()
    assert mate.events == []
    mate.link.started()
    mate.flush()
    stage.turn()
    assert [type(event) for event in mate.events] == [m.OnClose]


def test_a_sticky_connection_does_not_wait_for_one_that_is_to_be_killed() -> None:
    stage = Stage(dispatch="sticky", handler_timeout=5.0)
    stage.router.spawned(m.Spawned(3, "third", 0))
    hangs = stage.worker(token="third")
    con = stage.raw()
    stage.turn()
    heir = stage.worker()
    stage.run(7.0)
    assert [type(letter) for letter in stage.router.to_supervisor] == [m.Ready, m.Kill]
    hangs.ack()
    stage.say(con, b"more")
    stage.turn()
    assert [event.data for event in heir.events] == [b"more"]


def test_no_session_has_the_number_of_one_of_another_gateway() -> None:
    """An async handler may outlive its gateway; what it acks then is nobody's."""
    numbers = []
    for epoch in (1, 2):
        router = Router(Settings(), epoch, 1 << 30)
        router.spawned(m.Spawned(0, TOKEN, 0))
        for instance in ("a", "b"):
            hello = m.Hello(m.PROTOCOL_VERSION, "default", instance, "test", TOKEN, 1, 1)
            router.receive(instance.encode(), m.encode([0, hello]), 0.0)
        numbers += [worker.session for worker in router.workers.values()]
    assert len(set(numbers)) == 4
    assert max(numbers) < 2**53, "every language must be able to hold it"


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_what_a_worker_had_that_begins_anew_may_be_handled_in_part(delivery: str) -> None:
    stage = Stage(delivery=delivery)
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    assert mate.events
    mate.heard.clear()
    mate.link.receive(m.encode([0, m.Who()]))
    mate.flush()
    stage.turn()
    if delivery == "at-least-once":
        assert mate.events[0].delivery == 2
    else:
        assert [type(event) for event in mate.events] == [m.OnClose]
        assert con.close_cause == "worker-died"


def test_quiet_connections_of_a_dead_worker_get_another_holder() -> None:
    stage = Stage()
    dead, heir = stage.worker(), stage.worker()
    cons = [stage.raw() for _ in range(6)]
    for _ in range(4):
        stage.turn()
        for mate in (dead, heir):
            mate.ack()
    orphans = {con.id for con in cons if con.route.holder is dead.end}
    assert orphans
    heir.heard.clear()
    stage.router.end_session(dead.end, stage.now, died=True)
    assert stage.router.is_restless
    stage.turn()
    assert {attach.con for attach in heir.take(m.Attach)} == orphans
    assert not stage.router.is_restless
    assert all(con.route.holder is heir.end for con in cons)


def test_many_are_given_away_over_several_turns() -> None:
    stage = Stage()
    dead = stage.worker(concurrency=1000)
    cons = [stage.raw() for _ in range(REHOMED + 1)]
    while not all(con.route.heard and not con.route.in_flight for con in cons):
        stage.turn()
        dead.ack()
    heir = stage.worker()
    stage.router.end_session(dead.end, stage.now, died=True)
    stage.turn()
    assert len(heir.take(m.Attach)) == REHOMED
    stage.turn()
    assert len(heir.take(m.Attach)) == 1


@pytest.mark.parametrize("epoch", [0, 1])
def test_what_a_worker_still_holds_is_buried_once_or_forgotten(epoch: int) -> None:
    stage = Stage()
    con = epoch << m.ID_EPOCH_SHIFT | 77
    held = []
    for _ in range(2):
        mate = stage.worker()
        # As if it had lived under the gateway before: a hello that lists what it holds.
        mate.link.held.add(con)
        mate.link.receive(m.encode([0, m.Who()]))
        mate.flush()
        stage.turn()
        stage.turn()
        held.append(mate)
    told = [[type(event) for event in mate.events] for mate in held]
    if epoch == stage.router.epoch:
        assert told == [[], []], "of this gateway: it has moved or closed meanwhile"
        assert not held[0].link.held
    else:
        assert told == [[m.OnClose], []]
        assert held[0].events[0].cause == "gateway-died"
        held[0].ack()
        stage.turn()
        assert not held[0].link.held
    assert not held[1].link.held
    assert not stage.router.routes


def test_slow_suspects_do_not_wait_for_one_another_while_workers_are_free() -> None:
    """Async handlers wait; one worker alone would take as long as all of them together."""
    stage = Stage()
    dead = stage.worker(concurrency=100)
    for _ in range(2):
        stage.raw()
    stage.turn()
    heirs = [stage.worker(concurrency=100) for _ in range(3)]
    stage.router.end_session(dead.end, stage.now, died=True)
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 0, 0]
    stage.now += 1.0
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0], "one is left for the others"
    stage.now += 1.0
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0]
