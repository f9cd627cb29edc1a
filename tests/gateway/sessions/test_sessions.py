"""Sessions at the gateway: when a worker counts, and what becomes of what it held."""

from __future__ import annotations

import pytest
from stage import TOKEN, Mate, Stage, entry_of, is_over

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.dispatcher import REASSIGNED
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.backlog import SHARE
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    Attach,
    Hello,
    Hung,
    Kill,
    Left,
    OnClose,
    OnConnect,
    OnMessage,
    Ready,
    Refused,
    Send,
    Who,
    encode,
)
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd


def test_a_worker_that_is_starting_takes_nothing_before_its_first_batch() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third", starting=True)
    assert mate.worker.session.state is LinkState.READY
    stage.raw()
    stage.turn()
    assert mate.events == []
    assert stage.sessions.to_supervisor == []
    mate.link.started()
    mate.flush()
    stage.turn()
    assert [type(event) for event in mate.events] == [OnConnect, OnMessage]
    assert stage.sessions.to_supervisor == [Ready(3)]


def test_a_worker_that_is_not_starting_takes_events_at_once() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.link.started()
    assert mate.link.data_to_send() is None, "nothing to say"
    stage.raw()
    stage.turn()
    assert mate.events


def test_a_starting_worker_that_must_leave_takes_no_events() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third", starting=True)
    stage.sessions.drain(mate.worker, 30.0)
    mate.link.started()
    mate.flush()
    stage.raw()
    stage.turn()
    assert mate.events == []
    assert stage.sessions.to_supervisor == [], "nor is it ready"


def test_a_worker_whose_start_fails_was_never_ready() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third", starting=True)
    mate.link.bye()
    mate.flush()
    stage.turn()
    assert [type(news) for news in stage.sessions.to_supervisor] == [Left]


def test_a_starting_worker_is_not_told_the_end_of_connections_it_held() -> None:
    """It may open connections while it starts, and the gateway die."""
    stage = Stage()
    mate = stage.worker(starting=True)
    mate.link.held.add(77)
    mate.link.receive(encode([0, Who()]))
    mate.flush()
    stage.turn()
    assert mate.events == []
    mate.link.started()
    mate.flush()
    stage.turn()
    assert [type(event) for event in mate.events] == [OnClose]


def test_a_sticky_connection_does_not_wait_for_a_worker_that_is_being_killed() -> None:
    stage = Stage(dispatch="sticky", handler_timeout=5.0)
    stage.sessions.tokens.add("third", 3)
    hangs = stage.worker(token="third")
    con = stage.raw()
    stage.turn()
    heir = stage.worker()
    stage.run(7.0)
    assert [type(letter) for letter in stage.sessions.to_supervisor] == [Ready, Kill]
    hangs.ack()
    stage.say(con, b"more")
    stage.turn()
    assert [event.data for event in heir.events] == [b"more"]


def test_session_numbers_of_different_gateways_differ() -> None:
    """An async handler may outlive its gateway; what it acks then is nobody's."""
    numbers = []
    for epoch in (1, 2):
        sessions = Sessions(Registry(Settings(), epoch, 1 << 30))
        sessions.tokens.add(TOKEN, 0)
        for instance in ("a", "b"):
            hello = Hello(PROTOCOL_VERSION, "default", instance, "test", TOKEN, 1, 1)
            sessions.receive(instance.encode(), encode([0, hello]), 0.0)
        numbers += [worker.session.number for worker in sessions.workers.values()]
    assert len(set(numbers)) == 4
    assert max(numbers) < 2**53, "every language must be able to hold it"


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_events_of_a_worker_that_begins_a_new_session_count_as_partly_handled(
    delivery: str,
) -> None:
    stage = Stage(delivery=delivery)
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    assert mate.events
    mate.heard.clear()
    mate.link.receive(encode([0, Who()]))
    mate.flush()
    stage.turn()
    if delivery == "at-least-once":
        assert mate.events[0].delivery == 2
    else:
        assert [type(event) for event in mate.events] == [OnClose]
        assert con.ending.cause == "worker-died"


def test_quiet_connections_of_a_dead_worker_get_another_holder() -> None:
    stage = Stage()
    dead, heir = stage.worker(), stage.worker()
    cons = [stage.raw() for _ in range(6)]
    for _ in range(4):
        stage.turn()
        for mate in (dead, heir):
            mate.ack()
    orphans = {con.id for con in cons if con.entry.holder is dead.worker}
    assert orphans
    heir.heard.clear()
    stage.sessions.end(dead.worker, stage.now, died=True)
    assert stage.sessions.is_busy
    stage.turn()
    assert {attach.con for attach in heir.take(Attach)} == orphans
    assert not stage.sessions.is_busy
    assert all(con.entry.holder is heir.worker for con in cons)


def test_connections_of_a_dead_worker_are_given_away_over_several_turns() -> None:
    stage = Stage()
    dead = stage.worker(concurrency=1000)
    cons = [stage.raw() for _ in range(REASSIGNED + 1)]
    while not all(con.entry.heard and not con.entry.in_flight for con in cons):
        stage.turn()
        dead.ack()
    heir = stage.worker()
    stage.sessions.end(dead.worker, stage.now, died=True)
    stage.turn()
    assert len(heir.take(Attach)) == REASSIGNED
    stage.turn()
    assert len(heir.take(Attach)) == 1


@pytest.mark.parametrize("epoch", [0, 1])
def test_connections_that_a_worker_still_holds_end_once(epoch: int) -> None:
    stage = Stage()
    con = epoch << ID_EPOCH_SHIFT | 77
    held = []
    for _ in range(2):
        mate = stage.worker()
        # As if it had lived under the gateway before: a hello that lists what it holds.
        mate.link.held.add(con)
        mate.link.receive(encode([0, Who()]))
        mate.flush()
        stage.turn()
        stage.turn()
        held.append(mate)
    told = [[type(event) for event in mate.events] for mate in held]
    if epoch == stage.registry.ids.epoch:
        assert told == [[], []], "of this gateway: it has moved or closed meanwhile"
        assert not held[0].link.held
    else:
        assert told == [[OnClose], []]
        assert held[0].events[0].cause == "gateway-died"
        held[0].ack()
        stage.turn()
        assert not held[0].link.held
    assert not held[1].link.held
    assert not stage.registry.entries


def test_slow_suspects_run_at_once_on_free_workers() -> None:
    """Async handlers wait; one worker alone would take as long as all of them together."""
    stage = Stage()
    dead = stage.worker(concurrency=100)
    for _ in range(2):
        stage.raw()
    stage.turn()
    heirs = [stage.worker(concurrency=100) for _ in range(3)]
    stage.sessions.end(dead.worker, stage.now, died=True)
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 0, 0]
    stage.now += 1.0
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0], "one is left for the others"
    stage.now += 1.0
    stage.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0]


def again(stage: Stage, mate: Mate, n: int) -> Mate:
    """The process of that worker on a new link, as when ZeroMQ has cut the old one."""
    link = WorkerEnd(pool="default", token=TOKEN, instance="same", language="test")
    other = Mate(stage, link, b"\0again%d" % n)
    stage.mates.append(other)
    stage.receive(other.identity, b"")
    stage.turn()
    stage.turn()
    return other


@pytest.mark.parametrize("max_deliveries", [1, 2, 3, 5])
def test_an_event_whose_link_is_lost_each_time_is_poison(max_deliveries: int) -> None:
    """As when its handler's commands are more than ZeroMQ carries, in whatever language. Those that
    were in flight beside it are handled."""
    stage = Stage(max_deliveries=max_deliveries)
    mate = stage.worker(instance="same")
    cons = [stage.raw(b"", protocol="raw") for _ in range(3)]
    mate.work()
    for con in cons:
        stage.say(con, b"bad" if con is cons[1] else b"good")
    stage.turn()
    assert len(mate.events) == 3
    runs, handled = 0, []
    for n in range(20):
        if any(type(event) is OnMessage and event.data == b"bad" for event in mate.events):
            runs += 1
            mate = again(stage, mate, n)
        else:
            handled += mate.events
            mate.ack()
        stage.turn()
    assert runs == max(2, max_deliveries), "the first time it was not alone"
    [letter] = stage.sessions.dead_letters
    assert (letter["con"], letter["deaths"]) == (cons[1].id, 0)
    assert letter["lost_links"] == runs
    assert sorted(event.data for event in handled if type(event) is OnMessage) == [b"good"] * 2
    assert [event.cause for event in handled if type(event) is OnClose] == ["poison"]


def test_a_broken_network_makes_no_poison_of_handled_events() -> None:
    stage = Stage()
    mate = stage.worker(instance="same")
    con = stage.raw(b"", protocol="raw")
    mate.work()
    for n in range(9):
        stage.say(con, b"%d" % n)
        stage.turn()
        mate = again(stage, mate, n)
        assert [event.data for event in mate.work()] == [b"%d" % n]
    assert not stage.sessions.dead_letters


# --- many that kill at once ---


@pytest.mark.parametrize("unlucky", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_many_deadly_messages_leave_one_worker_for_other_connections(
    count: int, unlucky: bool
) -> None:
    """Twelve at once; whoever is beyond suspicion is served while they are found out. With a worker
    alone, each time that one has come back. Whose event was with one that died is tried in turn."""
    stage = Stage()
    coming: list[float] = []
    for _ in range(count):
        stage.worker()
    victim = stage.raw(b"", protocol="raw")
    for mate in stage.mates:
        mate.work()
    stage.turn()
    for mate in stage.mates:
        mate.work()
    if unlucky:
        stage.say(victim, b"alive?")
    asked = unlucky
    deadly = [stage.raw(b"die", protocol="raw") for _ in range(12)]
    waited = longest = answered = 0
    for _ in range(400):
        stage.now += 0.1
        stage.registry.flow.now = stage.now
        if asked == answered and (len(coming) < count or unlucky):
            asked += 1
            waited = 0
            stage.say(victim, b"alive?")
        stage.turn()
        for mate in list(stage.mates):
            if mate.identity not in stage.sessions.workers:
                continue
            for event in mate.events:
                if type(event) is OnMessage and event.data == b"die":
                    stage.sessions.end(mate.worker, stage.now, died=True)
                    stage.mates.remove(mate)
                    coming.append(stage.now + 0.5)
                    break
                if type(event) is OnMessage and event.con == victim.id:
                    answered += 1
                mate.ack(event)
        for when in [when for when in coming if when <= stage.now]:
            coming.remove(when)
            stage.worker()
        waited += 1
        longest = max(longest, waited)
    assert len(stage.sessions.dead_letters) == len(deadly)
    assert not stage.registry.entries or set(stage.registry.entries) == {victim.id}
    # Those that nobody has tried yet are beyond suspicion, too: a window full of them a death.
    assert longest <= (35, 30, 30, 10)[count - 1], f"a stranger waited {longest / 10} s"


def test_a_token_lets_one_process_in() -> None:
    """A process that inherits the token of a spawned worker, by a fork, is not that worker."""
    stage = Stage()
    stage.sessions.tokens.add("seven", 7)
    mate = stage.worker(token="seven")
    child = stage.worker(token="seven")
    assert mate.worker.number == 7
    assert is_over(child)
    [told] = child.take(Refused)
    assert "worker 7" in told.why
    assert Kill(7, told.why) not in stage.sessions.to_supervisor
    # The same process on another link is let in, and so is the next one, after its exit.
    fresh = stage.worker(token="seven", instance=mate.worker.session.instance)
    assert fresh.worker.number == 7
    assert is_over(mate)


def test_a_hanging_worker_is_reported_with_its_event_before_it_is_killed() -> None:
    stage = Stage(handler_timeout=5.0)
    stage.sessions.tokens.add("third", 3)
    hangs = stage.worker(token="third", concurrency=9)
    con = stage.raw()
    stage.turn()
    stage.sessions.to_supervisor.clear()
    event, *_ = hangs.events
    while not (told := hangs.take(Hung)):
        stage.run(1.0)
        assert stage.sessions.to_supervisor == []
        assert stage.now < 10.0
    assert told == [Hung(con.id, event.seq)]
    why = f"its on_connect of connection {con.id} has run for 6 s"
    stage.run(1.0)
    [kill] = stage.sessions.to_supervisor
    assert isinstance(kill, Kill)
    assert kill.why.startswith(why)
    assert kill.abort
    stage.run(3.0)
    assert stage.sessions.to_supervisor == [kill]


def test_a_hanging_worker_started_by_hand_is_reported() -> None:
    stage = Stage(handler_timeout=5.0)
    hangs = stage.worker(concurrency=9)
    con = stage.raw()
    stage.turn()
    event, *_ = hangs.events
    stage.run(7.0)
    assert hangs.identity not in stage.sessions.workers
    assert hangs.take(Hung) == [Hung(con.id, event.seq)]


# --- large batches are applied in shares ---


class Slow(Stage):
    """Turns are taken one by one."""

    def receive(self, identity: bytes, data: bytes) -> None:
        self.sessions.receive(identity, data, self.now)


def half_applied(stage: Slow, count: int = 1000) -> tuple[Mate, Connection]:
    """A worker whose handler has sent that many messages to a connection, and returned."""
    mate = stage.worker(instance="same")
    con = stage.raw(b"", protocol="raw")
    mate.work()
    stage.say(con, b"go")
    stage.turn()
    [event] = mate.events
    mate.ack(event, commands=tuple(Send(con.id, b"%03d" % n) for n in range(count)))
    assert 0 < con.output.size < 3 * count
    assert entry_of(con).in_flight == 1, "its ack stands behind its commands"
    return mate, con


WHOLE = b"".join(b"%03d" % n for n in range(1000))


def test_a_large_batch_is_applied_in_order_over_several_turns() -> None:
    stage = Slow()
    mate, con = half_applied(stage)
    other = stage.worker()
    stranger = stage.raw(b"", protocol="raw")
    stage.turn()
    # What this worker says next waits, and what others say does not.
    mate.say(Send(con.id, b"end"))
    other.say(Send(stranger.id, b"at once"))
    assert stage.write(stranger) == b"at once"
    got, turns = stage.write(con), 0
    while stage.sessions.backlog.go_on(stage.now):
        stage.registry.dirty.clear()
        more = stage.write(con)
        assert len(more) <= 3 * SHARE + 3
        got += more
        turns += 1
    assert got == WHOLE + b"end"
    assert turns > 1000 // SHARE - 5
    assert not entry_of(con).in_flight
    mate.work()
    other.work()
    assert stage.registry.flow.shared == stage.sessions.backlog.unread == 0


@pytest.mark.parametrize("way", ["death", "bye", "new link", "drain", "overwhelmed"])
def test_a_received_batch_is_applied_whole_although_its_session_ends(way: str) -> None:
    stage = Slow()
    mate, con = half_applied(stage)
    worker, sessions, registry = mate.worker, stage.sessions, stage.registry
    if way == "bye":
        mate.say(Send(con.id, b"end"))
        mate.link.bye()
        mate.flush()
    elif way == "death":
        sessions.end(worker, stage.now, died=True)
    elif way == "new link":
        again(stage, mate, 1)
    elif way == "drain":
        sessions.drain(worker, 5.0)
    else:
        sessions.end_unread(worker, stage.now)
    while sessions.backlog.go_on(stage.now):
        pass
    assert stage.write(con) == WHOLE + b"end" * (way == "bye")
    heir = stage.worker()
    assert not [event for event in heir.work() if type(event) is OnMessage], "once"
    assert registry.flow.shared == sessions.backlog.unread == 0
    assert worker not in sessions.backlog.workers


def test_a_worker_whose_batch_is_not_applied_yet_is_not_taken_for_hanging() -> None:
    stage = Slow(handler_timeout=10.0)
    mate, con = half_applied(stage)
    stage.now += 30.0
    stage.registry.flow.now = stage.now
    stage.tick()
    assert not mate.worker.hung
    while stage.sessions.backlog.go_on(stage.now):
        pass
    assert stage.write(con) == WHOLE


def test_records_behind_a_bye_or_a_fault_are_ignored() -> None:
    for last in (encode([0, ["bye"]]), b"\xc1"):
        stage = Slow()
        mate, con = half_applied(stage)
        if last == b"\xc1":
            stage.receive(mate.identity, last)
        else:
            mate.say_raw(["bye"])
        mate.say_raw(["send", con.id, b"late"])
        while stage.sessions.backlog.go_on(stage.now):
            pass
        assert stage.write(con) == WHOLE
        assert is_over(mate)
        assert stage.registry.flow.shared == stage.sessions.backlog.unread == 0


def test_an_ordinary_batch_is_applied_in_one_turn() -> None:
    """Under full load a worker acks hundreds of events in a batch."""
    stage = Slow()
    mate = stage.worker()
    mate.worker.window.limit = mate.worker.window.largest = 10_000
    cons = [stage.raw(b"x", protocol="raw") for _ in range(500)]
    stage.turn()
    for event in mate.events:
        outbox = mate.link.outbox(event)
        outbox.records.append(Send(event.con, b"y"))
        mate.link.done(outbox)
    mate.flush()
    assert all(con.output.size for con in cons)
    assert not stage.sessions.backlog.workers
