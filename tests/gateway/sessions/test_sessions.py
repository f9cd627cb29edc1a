"""Sessions at the gateway: when a worker counts, and what happens to its events when it is gone."""

from __future__ import annotations

import pytest

from tests.gateway.harness import TOKEN, Harness, LinkedWorker, entry_of, hello, is_over
from wsraw.config.settings import Settings
from wsraw.gateway.delivery.dispatcher import REASSIGNED
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import CANCEL_GRACE, COME_BACK, Sessions
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    Attach,
    Hello,
    Hung,
    Kill,
    Left,
    Mark,
    OnClose,
    OnConnect,
    OnMessage,
    Reached,
    Ready,
    Refused,
    Send,
    Who,
    encode,
)
from wsraw.link.states import LinkState


def test_a_worker_that_is_starting_takes_nothing_before_its_first_batch() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", starting=True)
    assert linked.worker.session.state is LinkState.READY
    harness.raw()
    harness.turn()
    assert linked.events == []
    assert harness.sessions.to_supervisor == []
    linked.link.started()
    linked.flush()
    harness.turn()
    assert [type(event) for event in linked.events] == [OnConnect, OnMessage]
    assert harness.sessions.to_supervisor == [Ready(3)]


def test_a_worker_that_is_not_starting_takes_events_at_once() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.link.started()
    assert linked.link.data_to_send() is None, "nothing to say"
    harness.raw()
    harness.turn()
    assert linked.events


def test_a_starting_worker_that_must_leave_takes_no_events() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", starting=True)
    harness.sessions.drain(linked.worker, 30.0)
    linked.link.started()
    linked.flush()
    harness.raw()
    harness.turn()
    assert linked.events == []
    assert harness.sessions.to_supervisor == [], "nor is it ready"


def test_a_worker_whose_start_fails_was_never_ready() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", starting=True)
    linked.link.bye()
    linked.flush()
    harness.turn()
    assert [type(news) for news in harness.sessions.to_supervisor] == [Left]


def test_a_starting_worker_is_not_told_the_end_of_connections_it_held() -> None:
    """A worker may open connections while it starts, before its gateway dies."""
    harness = Harness()
    linked = harness.worker(starting=True)
    linked.link.held.add(77)
    linked.link.receive(encode([0, Who()]))
    linked.flush()
    harness.turn()
    assert linked.events == []
    linked.link.started()
    linked.flush()
    harness.turn()
    assert [type(event) for event in linked.events] == [OnClose]


def test_a_sticky_connection_does_not_wait_for_a_worker_that_is_being_killed() -> None:
    harness = Harness(dispatch="sticky", handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    hangs = harness.worker(token="third")
    con = harness.raw()
    harness.turn()
    heir = harness.worker()
    harness.run(7.0)
    assert [type(letter) for letter in harness.sessions.to_supervisor] == [Ready, Kill]
    hangs.ack()
    harness.say(con, b"more")
    harness.turn()
    assert [event.data for event in heir.events] == [b"more"]


def test_session_numbers_of_different_gateways_differ() -> None:
    """An async handler may outlive its gateway, and its ack must not match an event of the next
    one.
    """
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
    harness = Harness(delivery=delivery)
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    assert linked.events
    linked.heard.clear()
    linked.link.receive(encode([0, Who()]))
    linked.flush()
    harness.turn()
    if delivery == "at-least-once":
        assert linked.events[0].delivery == 2
    else:
        assert [type(event) for event in linked.events] == [OnClose]
        assert con.ending.cause == "worker-died"


def test_quiet_connections_of_a_dead_worker_get_another_holder() -> None:
    harness = Harness()
    dead, heir = harness.worker(), harness.worker()
    cons = [harness.raw() for _ in range(6)]
    for _ in range(4):
        harness.turn()
        for linked in (dead, heir):
            linked.ack()
    orphans = {con.id for con in cons if con.entry.holder is dead.worker}
    assert orphans
    heir.heard.clear()
    harness.sessions.end(dead.worker, harness.now, died=True)
    assert harness.sessions.is_busy
    harness.turn()
    assert {attach.con for attach in heir.take(Attach)} == orphans
    assert not harness.sessions.is_busy
    assert all(con.entry.holder is heir.worker for con in cons)


def test_connections_of_a_dead_worker_are_given_away_over_several_turns() -> None:
    harness = Harness()
    dead = harness.worker(concurrency=1000)
    cons = [harness.raw() for _ in range(REASSIGNED + 1)]
    while not all(con.entry.heard and not con.entry.in_flight for con in cons):
        harness.turn()
        dead.ack()
    heir = harness.worker()
    harness.sessions.end(dead.worker, harness.now, died=True)
    harness.turn()
    assert len(heir.take(Attach)) == REASSIGNED
    harness.turn()
    assert len(heir.take(Attach)) == 1


@pytest.mark.parametrize("epoch", [0, 1])
def test_connections_that_a_worker_still_holds_end_once(epoch: int) -> None:
    harness = Harness()
    con = epoch << ID_EPOCH_SHIFT | 77
    held = []
    for _ in range(2):
        linked = harness.worker()
        # The hello lists what the worker holds, as if it had served the gateway before.
        linked.link.held.add(con)
        linked.link.receive(encode([0, Who()]))
        linked.flush()
        harness.turn()
        harness.turn()
        held.append(linked)
    told = [[type(event) for event in linked.events] for linked in held]
    if epoch == harness.registry.ids.epoch:
        assert told == [[], []], "of this gateway: it has moved or closed meanwhile"
        assert not held[0].link.held
    else:
        assert told == [[OnClose], []]
        assert held[0].events[0].cause == "gateway-died"
        held[0].ack()
        harness.turn()
        assert not held[0].link.held
    assert not held[1].link.held
    assert not harness.registry.entries


def test_slow_suspects_run_at_once_on_free_workers() -> None:
    """Async handlers mostly wait; a single worker would take as long as all of them together."""
    harness = Harness()
    dead = harness.worker(concurrency=100)
    for _ in range(2):
        harness.raw()
    harness.turn()
    heirs = [harness.worker(concurrency=100) for _ in range(3)]
    harness.sessions.end(dead.worker, harness.now, died=True)
    harness.turn()
    assert [len(heir.events) for heir in heirs] == [1, 0, 0]
    harness.now += 1.0
    harness.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0], "one is left for the others"
    harness.now += 1.0
    harness.turn()
    assert [len(heir.events) for heir in heirs] == [1, 1, 0]


@pytest.mark.parametrize("max_deliveries", [1, 2, 3, 5])
def test_an_event_whose_link_is_lost_each_time_is_poison(max_deliveries: int) -> None:
    """The link is lost, for example, when the commands of a handler exceed a batch. Other events
    that were in flight at the time are handled.
    """
    harness = Harness(max_deliveries=max_deliveries)
    linked = harness.worker(instance="same")
    cons = [harness.raw(b"", protocol="raw") for _ in range(3)]
    linked.work()
    for con in cons:
        harness.say(con, b"bad" if con is cons[1] else b"good")
    harness.turn()
    assert len(linked.events) == 3
    runs, handled = 0, []
    for n in range(20):
        if any(type(event) is OnMessage and event.data == b"bad" for event in linked.events):
            runs += 1
            linked = harness.reconnect("same", n)
        else:
            handled += linked.events
            linked.ack()
        harness.turn()
    assert runs == max(2, max_deliveries), "the first time it was not alone"
    [letter] = harness.sessions.dead_letters
    assert (letter["con"], letter["deaths"]) == (cons[1].id, 0)
    assert letter["lost_links"] == runs
    assert sorted(event.data for event in handled if type(event) is OnMessage) == [b"good"] * 2
    assert [event.cause for event in handled if type(event) is OnClose] == ["poison"]


def test_a_broken_network_makes_no_poison_of_handled_events() -> None:
    harness = Harness()
    linked = harness.worker(instance="same")
    con = harness.raw(b"", protocol="raw")
    linked.work()
    for n in range(9):
        harness.say(con, b"%d" % n)
        harness.turn()
        linked = harness.reconnect("same", n)
        assert [event.data for event in linked.work()] == [b"%d" % n]
    assert not harness.sessions.dead_letters


# --- many that kill at once ---


@pytest.mark.parametrize("unlucky", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_many_deadly_messages_leave_one_worker_for_other_connections(
    count: int, unlucky: bool
) -> None:
    """Twelve deadly messages come at once. Connections without suspects are served while the
    deadly messages are found; with a single worker, each time it has come back. Suspects are
    tried one after another.
    """
    harness = Harness()
    coming: list[float] = []
    for _ in range(count):
        harness.worker()
    victim = harness.raw(b"", protocol="raw")
    for linked in harness.linked_workers:
        linked.work()
    harness.turn()
    for linked in harness.linked_workers:
        linked.work()
    if unlucky:
        harness.say(victim, b"alive?")
    asked = unlucky
    deadly = [harness.raw(b"die", protocol="raw") for _ in range(12)]
    waited = longest = answered = 0
    for _ in range(400):
        harness.now += 0.1
        harness.registry.flow.now = harness.now
        if asked == answered and (len(coming) < count or unlucky):
            asked += 1
            waited = 0
            harness.say(victim, b"alive?")
        harness.turn()
        for linked in list(harness.linked_workers):
            if linked.identity not in harness.sessions.workers:
                continue
            for event in linked.events:
                if type(event) is OnMessage and event.data == b"die":
                    harness.sessions.end(linked.worker, harness.now, died=True)
                    harness.linked_workers.remove(linked)
                    coming.append(harness.now + 0.5)
                    break
                if type(event) is OnMessage and event.con == victim.id:
                    answered += 1
                linked.ack(event)
        for when in [when for when in coming if when <= harness.now]:
            coming.remove(when)
            harness.worker()
        waited += 1
        longest = max(longest, waited)
    assert len(harness.sessions.dead_letters) == len(deadly)
    assert not harness.registry.entries or set(harness.registry.entries) == {victim.id}
    # Deadly messages that were not tried yet are not suspects, either: each death may take a window
    # full of them.
    assert longest <= (35, 30, 30, 10)[count - 1], f"a stranger waited {longest / 10} s"


def test_a_token_lets_one_process_in() -> None:
    """A process that inherits the token of a spawned worker by a fork is not that worker."""
    harness = Harness()
    harness.sessions.tokens.add("seven", 7)
    linked = harness.worker(token="seven")
    child = harness.worker(token="seven")
    assert linked.worker.number == 7
    assert is_over(child)
    [told] = child.take(Refused)
    assert "worker 7" in told.why
    assert Kill(7, told.why) not in harness.sessions.to_supervisor
    # The same process on another link is accepted, and so is the next one after its exit.
    fresh = harness.worker(token="seven", instance=linked.worker.session.instance)
    assert fresh.worker.number == 7
    assert is_over(linked)


def test_a_hanging_worker_is_reported_with_its_event_before_it_is_killed() -> None:
    harness = Harness(handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    hangs = harness.worker(token="third")
    con = harness.raw()
    harness.turn()
    harness.sessions.to_supervisor.clear()
    event, *_ = hangs.events
    while not (told := hangs.take(Hung)):
        harness.run(1.0)
        assert harness.sessions.to_supervisor == []
        assert harness.now < 10.0
    assert told == [Hung(con.id, event.seq)]
    why = f"its on_connect of connection {con.id} has run for 6 s"
    harness.run(1.0)
    [kill] = harness.sessions.to_supervisor
    assert isinstance(kill, Kill)
    assert kill.why.startswith(why)
    assert kill.abort
    harness.run(3.0)
    assert harness.sessions.to_supervisor == [kill]


def test_a_worker_of_several_handlers_can_cancel_one_before_it_is_killed() -> None:
    harness = Harness(handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", concurrency=9)
    late, never = harness.raw(), harness.raw()
    harness.turn()
    harness.sessions.to_supervisor.clear()
    first, second = (event for event in linked.events if type(event) is OnConnect)
    linked.ack(*(event for event in linked.events if type(event) is OnMessage))
    harness.run(6.5)
    assert linked.take(Hung) == [Hung(late.id, first.seq), Hung(never.id, second.seq)]
    linked.ack(first)
    # The worker gets events of other connections meanwhile.
    other = harness.raw()
    harness.turn()
    assert {event.con for event in linked.events} == {never.id, other.id}
    linked.ack(*(event for event in linked.events if event.con == other.id))
    harness.run(CANCEL_GRACE - 2.0)
    assert linked.take(Hung) == []
    assert harness.sessions.to_supervisor == []
    harness.run(4.0)
    assert linked.take(Hung) == [Hung(never.id, second.seq)]
    [kill] = harness.sessions.to_supervisor
    assert isinstance(kill, Kill)


@pytest.mark.parametrize("concurrency", [1, 9])
def test_a_handler_that_waits_for_its_client_to_read_does_not_hang(concurrency: int) -> None:
    harness = Harness(handler_timeout=5.0, write_timeout=0.0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", concurrency=concurrency)
    con = harness.raw()
    harness.turn()
    connect, message = linked.events
    linked.ack(connect)
    linked.say(Send(con.id, bytes(10)), Mark(con.id, 1))
    harness.run(30.0)
    assert linked.take(Hung) == linked.take(Reached) == []
    harness.write(con)
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 1)]
    harness.run(4.0)
    assert linked.take(Hung) == []
    harness.run(4.0)
    assert linked.take(Hung) == [Hung(con.id, message.seq)]


def test_an_event_that_waits_behind_others_of_its_connection_does_not_hang() -> None:
    harness = Harness(handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", concurrency=2)
    linked.worker.window.limit = 9
    con = harness.raw()
    harness.turn()
    harness.registry.take(con, con.receive_data(b"more", harness.now), harness.now)
    harness.hang_up(con)
    harness.turn()
    events = list(linked.events)
    assert len(events) > 2
    for event in events:
        harness.run(4.0)
        assert linked.take(Hung) == []
        linked.ack(event)
    assert harness.sessions.to_supervisor[1:] == []


def test_an_event_that_waits_for_a_free_hand_does_not_hang() -> None:
    harness = Harness(handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", concurrency=2)
    linked.worker.window.limit = 9
    cons = [harness.raw() for _ in range(3)]
    harness.turn()
    first, second, third = (event for event in linked.events if type(event) is OnConnect)
    harness.run(4.0)
    linked.ack(first)
    # The worker continues with the message of the same connection, and the third event still waits.
    harness.run(3.0)
    assert linked.take(Hung) == [Hung(cons[1].id, second.seq)]
    linked.ack(second)
    linked.ack(*(event for event in linked.events if event.con != cons[2].id))
    assert [event.con for event in linked.events] == [cons[2].id] * 2
    harness.run(4.0)
    assert linked.take(Hung) == []
    harness.run(3.0)
    assert linked.take(Hung) == [Hung(cons[2].id, third.seq)]


def test_a_mark_that_is_reached_at_once_begins_the_time_anew_too() -> None:
    harness = Harness(handler_timeout=5.0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third", concurrency=9)
    con = harness.raw()
    harness.turn()
    connect, message = linked.events
    linked.ack(connect)
    for ref in range(1, 5):
        harness.run(4.0)
        linked.say(Mark(con.id, ref))
        harness.turn()
        assert linked.take(Reached) == [Reached(con.id, ref)]
        assert linked.take(Hung) == []
    harness.run(7.0)
    assert linked.take(Hung) == [Hung(con.id, message.seq)]
    linked.say(Mark(con.id, 5))
    harness.run(4.0)
    # The handler is reported again, and has its time to cancel again.
    harness.run(3.0)
    assert linked.take(Hung) == [Hung(con.id, message.seq)]
    harness.run(CANCEL_GRACE - 2.0)
    assert linked.take(Hung) == []


def test_a_hanging_worker_started_by_hand_is_reported() -> None:
    harness = Harness(handler_timeout=5.0)
    hangs = harness.worker()
    con = harness.raw()
    harness.turn()
    event, *_ = hangs.events
    harness.run(7.0)
    assert hangs.identity not in harness.sessions.workers
    assert hangs.take(Hung) == [Hung(con.id, event.seq)]


# --- a lost link on this machine ---


def lose(harness: Harness, linked: LinkedWorker) -> None:
    harness.sessions.link_lost(linked.worker, harness.now)


def test_a_worker_that_comes_back_has_not_died() -> None:
    """Losing the link many times makes no event a suspect."""
    harness = Harness(handler_timeout=0)
    linked = harness.worker()
    con = harness.raw()
    instance = linked.link._hello.instance
    for n in range(5):
        harness.turn()
        assert entry_of(con).in_flight == 2
        lose(harness, linked)
        assert harness.registry.dispatcher.suspects.deaths
        linked = harness.reconnect(instance, n)
        assert not harness.registry.dispatcher.suspects.deaths
    harness.turn()
    assert [event.delivery for event in linked.events] == [6, 6]
    assert not harness.sessions.dead_letters
    linked.ack()
    assert not entry_of(con).in_flight


@pytest.mark.parametrize("is_late", [False, True])
def test_a_worker_that_comes_back_too_late_has_died(is_late: bool) -> None:
    harness = Harness(handler_timeout=0)
    linked = harness.worker()
    harness.raw()
    harness.turn()
    lose(harness, linked)
    harness.run(COME_BACK + (2 if is_late else -2))
    harness.reconnect(linked.link._hello.instance, 1)
    assert bool(harness.registry.dispatcher.suspects.deaths) is is_late


def test_a_process_that_has_exited_does_not_come_back() -> None:
    harness = Harness(handler_timeout=0)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    harness.raw()
    harness.turn()
    lose(harness, linked)
    assert harness.sessions._lost
    harness.sessions.exited(3)
    assert not harness.sessions._lost, "nor are its events kept for that"
    assert len(harness.registry.dispatcher.suspects.deaths) == 2


def test_what_a_process_has_handled_in_part_before_its_hello_and_its_exit_comes_again() -> None:
    """The worker has read `who` in a session, as after a link that was thought lost, and then
    died.
    """
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    harness.raw()
    harness.turn()
    assert {event.delivery for event in linked.events} == {1}
    harness.sessions.exited(3)
    harness.receive(linked.identity, encode([0, hello(token="third")]))
    assert linked.identity not in harness.sessions.workers
    assert harness.worker().events[0].delivery == 2


def test_an_event_that_is_no_suspect_any_more_waits_for_nobody_in_particular() -> None:
    harness = Harness(handler_timeout=0)
    linked = harness.worker()
    cons = [harness.raw() for _ in range(2)]
    harness.turn()
    lose(harness, linked)
    back = harness.reconnect(linked.link._hello.instance, 1)
    harness.turn()
    assert sorted({event.con for event in back.events}) == [con.id for con in cons], "not alone"
    assert not harness.registry.pool().suspects
