from __future__ import annotations

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of, is_over
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.sessions.backlog import SHARE
from wsraw.link.records import (
    OnMessage,
    Send,
    encode,
)


class Slow(Harness):
    """A harness that takes turns one by one."""

    def receive(self, identity: bytes, data: bytes) -> None:
        self.sessions.receive(identity, data, self.now)


def half_applied(harness: Slow, count: int = 1000) -> tuple[LinkedWorker, Connection]:
    """A worker whose handler has sent that many messages to a connection and returned."""
    linked = harness.worker(instance="same")
    con = harness.raw(b"", protocol="raw")
    linked.work()
    harness.say(con, b"go")
    harness.turn()
    [event] = linked.events
    linked.ack(event, commands=tuple(Send(con.id, b"%03d" % n) for n in range(count)))
    assert 0 < con.output.size < 3 * count
    assert entry_of(con).in_flight == 1, "its ack stands behind its commands"
    return linked, con


WHOLE = b"".join(b"%03d" % n for n in range(1000))


def test_a_large_batch_is_applied_in_order_over_several_turns() -> None:
    harness = Slow()
    linked, con = half_applied(harness)
    other = harness.worker()
    other_con = harness.raw(b"", protocol="raw")
    harness.turn()
    # The next batches of this worker wait; those of others do not.
    linked.say(Send(con.id, b"end"))
    other.say(Send(other_con.id, b"at once"))
    assert harness.write(other_con) == b"at once"
    got, turns = harness.write(con), 0
    while harness.sessions.backlog.go_on(harness.now):
        harness.registry.dirty.clear()
        more = harness.write(con)
        assert len(more) <= 3 * SHARE + 3
        got += more
        turns += 1
    assert got == WHOLE + b"end"
    assert turns > 1000 // SHARE - 5
    assert not entry_of(con).in_flight
    linked.work()
    other.work()
    assert harness.registry.flow.shared == harness.sessions.backlog.unread == 0


@pytest.mark.parametrize("way", ["death", "bye", "new link", "drain", "unread"])
def test_a_received_batch_is_applied_whole_although_its_session_ends(way: str) -> None:
    harness = Slow()
    linked, con = half_applied(harness)
    worker, sessions, registry = linked.worker, harness.sessions, harness.registry
    if way == "bye":
        linked.say(Send(con.id, b"end"))
        linked.link.bye()
        linked.flush()
    elif way == "death":
        sessions.end(worker, harness.now, died=True)
    elif way == "new link":
        harness.reconnect("same", 1)
    elif way == "drain":
        sessions.drain(worker, 5.0)
    else:
        sessions.end_unread(worker, harness.now)
    while sessions.backlog.go_on(harness.now):
        pass
    assert harness.write(con) == WHOLE + b"end" * (way == "bye")
    heir = harness.worker()
    assert not [event for event in heir.work() if type(event) is OnMessage], "once"
    assert registry.flow.shared == sessions.backlog.unread == 0
    assert worker not in sessions.backlog.workers


def test_a_worker_whose_batch_is_not_applied_yet_is_not_taken_for_hanging() -> None:
    harness = Slow(handler_timeout=10.0)
    linked, con = half_applied(harness)
    harness.now += 30.0
    harness.registry.flow.now = harness.now
    harness.tick()
    assert not linked.worker.hung
    while harness.sessions.backlog.go_on(harness.now):
        pass
    assert harness.write(con) == WHOLE


def test_records_behind_a_bye_or_a_fault_are_ignored() -> None:
    for last in (encode([0, ["bye"]]), b"\xc1"):
        harness = Slow()
        linked, con = half_applied(harness)
        if last == b"\xc1":
            harness.receive(linked.identity, last)
        else:
            linked.say_raw(["bye"])
        linked.say_raw(["send", con.id, b"late"])
        while harness.sessions.backlog.go_on(harness.now):
            pass
        assert harness.write(con) == WHOLE
        assert is_over(linked)
        assert harness.registry.flow.shared == harness.sessions.backlog.unread == 0


def test_an_ordinary_batch_is_applied_in_one_turn() -> None:
    """Under full load a worker acks hundreds of events in a batch."""
    harness = Slow()
    linked = harness.worker()
    linked.worker.window.limit = linked.worker.window.largest = 10_000
    cons = [harness.raw(b"x", protocol="raw") for _ in range(500)]
    harness.turn()
    for event in linked.events:
        outbox = linked.link.outbox(event)
        outbox.records.append(Send(event.con, b"y"))
        linked.link.done(outbox)
    linked.flush()
    assert all(con.output.size for con in cons)
    assert not harness.sessions.backlog.workers
