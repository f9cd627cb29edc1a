"""Events whose commands come in several batches: all commands take effect once, or none does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of, is_over
from wsraw.gateway.connection.connection import Connection, ConnectionState
from wsraw.gateway.delivery.outgoing import AT_ONCE
from wsraw.link.batches import EVENT_LIMIT, KEPT_COST, LARGEST_BATCH
from wsraw.link.records import (
    Ack,
    Bye,
    Hello,
    Kill,
    Left,
    OnClose,
    OnMessage,
    Part,
    Ready,
    Record,
    Refused,
    Send,
    encode,
    worker_decoder,
)

COUNT = 6
ANSWER = [b"<%d>" % n for n in range(COUNT)]
WHOLE = b"".join(ANSWER)


class Slow(Harness):
    """A harness that takes turns one by one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.sessions.backlog.share = 2

    def receive(self, identity: bytes, data: bytes) -> None:
        self.sessions.receive(identity, data, self.now)

    def apply(self) -> None:
        while self.sessions.backlog.go_on(self.now):
            pass


def asked(harness: Harness, linked: LinkedWorker, con: Connection, data: bytes) -> OnMessage:
    """The event of a message, in flight at that worker."""
    harness.say(con, data)
    harness.turn()
    [event] = [event for event in linked.events if event.con == con.id]
    assert isinstance(event, OnMessage)
    return event


def begin(harness: Harness, **worker: Any) -> tuple[LinkedWorker, Connection, OnMessage]:
    linked = harness.worker(**worker)
    con = harness.raw(b"", protocol="raw")
    linked.work()
    return linked, con, asked(harness, linked, con, b"go")


def batches(event: OnMessage, cuts: tuple[int, ...] = (2, 4)) -> list[list[Record]]:
    """The answer to an event, cut at these places: parts, and the batch with the ack."""
    starts = [0, *cuts]
    sends: list[Record] = [Send(event.con, data) for data in ANSWER]
    parts = [[*sends[a:b], Part(event.seq)] for a, b in zip(starts, cuts, strict=False)]
    return [*parts, [*sends[starts[-1] :], Ack(event.seq, event.seq)]]


def nothing_is_left(harness: Harness) -> bool:
    return harness.registry.flow.shared == harness.sessions.backlog.unread == 0


ALL_CUTS = [cuts for n in range(COUNT + 2) for cuts in combinations(range(COUNT + 1), n)]


@pytest.mark.parametrize("cuts", ALL_CUTS)
def test_an_answer_in_parts_is_sent_whole_when_its_ack_has_come(cuts: tuple[int, ...]) -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    *parts, last = batches(event, cuts)
    for part in parts:
        linked.say_raw(*part)
        harness.turn()
        assert not con.output.size
        assert entry_of(con).in_flight == 1
    assert harness.registry.flow.shared == linked.worker.session.parts.size
    linked.say_raw(*last)
    harness.apply()
    assert harness.write(con) == WHOLE
    assert not entry_of(con).in_flight
    assert nothing_is_left(harness)


def dies(harness: Slow, linked: LinkedWorker) -> None:
    harness.sessions.link_lost(linked.worker, harness.now)


def says_bye(harness: Slow, linked: LinkedWorker) -> None:
    linked.say_raw(Bye())


def has_a_new_link(harness: Slow, linked: LinkedWorker) -> None:
    harness.reconnect("same", 1)


def begins_anew(harness: Slow, linked: LinkedWorker) -> None:
    hello = Hello(1, "default", "same", "test", "token", 10, 1)
    harness.receive(linked.identity, encode([0, hello]))


def sends_garbage(harness: Slow, linked: LinkedWorker) -> None:
    harness.receive(linked.identity, b"\xc1")


def does_not_read(harness: Slow, linked: LinkedWorker) -> None:
    harness.sessions.end_unread(linked.worker, harness.now)


def hangs(harness: Slow, linked: LinkedWorker) -> None:
    harness.run(harness.settings.handler_timeout + 2)


def meets_a_bug(harness: Slow, linked: LinkedWorker) -> None:
    harness.sessions.fault(linked.worker, RuntimeError("of ours"), harness.now)


ENDS = (
    dies, says_bye, has_a_new_link, begins_anew, sends_garbage, does_not_read, hangs, meets_a_bug,
)  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("come", range(3))
@pytest.mark.parametrize("drained", [False, True])
def test_parts_whose_session_ends_are_dropped_and_the_event_is_answered_once(
    come: int, end: Callable[[Slow, LinkedWorker], None], drained: bool, faults: list[Any]
) -> None:
    harness = Slow()
    linked, con, event = begin(harness, instance="same")
    session = linked.link.session
    *parts, last = batches(event)
    for part in parts[:come]:
        linked.say_raw(*part)
    if drained:
        harness.sessions.drain(linked.worker, 5.0)
    end(harness, linked)
    harness.apply()
    assert not con.output.size
    assert nothing_is_left(harness)
    # Batches that were still on their way come too late, on either link.
    for batch in (*parts[come:], last):
        for identity in [worker.identity for worker in harness.linked_workers]:
            harness.receive(identity, encode([session, *batch]))
    assert not con.output.size
    assert nothing_is_left(harness)
    for gone in harness.linked_workers:
        if gone.identity in harness.sessions.workers:
            harness.sessions.end(gone.worker, harness.now)
    harness.linked_workers.clear()
    heir = harness.worker()
    harness.turn()
    [again] = [each for each in heir.events if type(each) is OnMessage]
    assert (again.data, again.delivery) == (b"go", 1 + (end is not says_bye))
    for batch in batches(again, (1, 3, 4)):
        heir.say_raw(*batch)
    harness.apply()
    assert harness.write(con) == WHOLE
    assert nothing_is_left(harness)
    assert bool(faults) == (end is meets_a_bug)


def test_a_worker_that_is_drained_between_two_parts_finishes() -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    first, second, last = batches(event)
    linked.say_raw(*first)
    harness.sessions.drain(linked.worker, 5.0)
    linked.say_raw(*second)
    linked.say_raw(*last, Bye())
    harness.apply()
    assert harness.write(con) == WHOLE
    assert is_over(linked)
    assert nothing_is_left(harness)


@pytest.mark.parametrize("end", [dies, says_bye, has_a_new_link, does_not_read])
def test_an_answer_that_has_come_whole_is_sent_whole_although_its_session_ends(
    end: Callable[[Slow, LinkedWorker], None],
) -> None:
    """A share of the answer is applied, or nothing yet, as it waits for another batch."""
    for behind in (False, True):
        harness = Slow()
        linked, con, event = begin(harness, instance="same")
        if behind:
            linked.say_raw(*(Send(con.id, b"-") for _ in range(9)))
        for batch in batches(event):
            linked.say_raw(*batch)
        assert linked.worker in harness.sessions.backlog.workers
        end(harness, linked)
        harness.apply()
        assert harness.write(con) == b"-" * 9 * behind + WHOLE
        assert nothing_is_left(harness)


def test_the_answer_of_another_worker_does_not_wait_for_parts() -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    other = harness.worker()
    other_con = harness.raw(b"", protocol="raw")
    harness.turn()
    *parts, last = batches(event)
    for part in parts:
        linked.say_raw(*part)
        other.say(Send(other_con.id, b"at once"))
        assert harness.write(other_con) == b"at once"
    # Commands outside any event do not wait, either.
    linked.say(Send(con.id, b"early "))
    linked.say_raw(*last)
    harness.apply()
    assert harness.write(con) == b"early " + WHOLE


WRONG: list[tuple[str, Callable[[OnMessage], list[Record]], str]] = [
    ("acked", lambda event: [Part(event.seq - 1)], "a part of event 1, which is not in flight"),
    ("future", lambda event: [Part(event.seq + 1)], "a part of event 3, which is not in flight"),
    ("none", lambda event: [Part(0)], "a part of event 0, which is not in flight"),
    ("bye", lambda event: [Bye(), Part(event.seq)], "bye in a part of event 2"),
]


@pytest.mark.parametrize(("name", "wrong", "why"), WRONG, ids=[name for name, *_ in WRONG])
def test_a_wrong_part_ends_its_session_with_an_answer_and_nothing_of_others_is_lost(
    name: str, wrong: Callable[[OnMessage], list[Record]], why: str
) -> None:
    harness = Slow()
    harness.sessions.tokens.add("third", 3)
    linked, con, event = begin(harness, token="third")
    assert event.seq == 2
    other = harness.worker()
    other_con = harness.raw(b"", protocol="raw")
    other.work()
    others = asked(harness, other, other_con, b"theirs")
    linked.say_raw(*batches(event)[0])
    linked.say_raw(Send(con.id, b"wrong"), *wrong(event))
    assert is_over(linked)
    [cut] = harness.sessions.cuts
    _, [refused], _ = worker_decoder().decode(cut.last)
    assert (cut.identity, refused.batch) == (linked.identity, 0)
    assert why in refused.why
    assert [type(record) for record in harness.sessions.to_supervisor] == [Ready, Kill, Left]
    other.ack(others, commands=(Send(other_con.id, b"answer"),))
    harness.apply()
    harness.turn()
    assert harness.write(other_con) == b"answer"
    [again] = [each for each in other.events if each.con == con.id]
    other.ack(again, commands=(Send(con.id, b"once"),))
    harness.apply()
    assert harness.write(con) == b"once"
    assert nothing_is_left(harness)


def test_more_in_parts_than_an_event_may_have_ends_the_session() -> None:
    harness = Harness()
    linked, con, event = begin(harness)
    data = bytes(LARGEST_BATCH - 1000)
    part = encode([linked.link.session, Send(con.id, data), Part(event.seq)])
    for _ in range(EVENT_LIMIT // LARGEST_BATCH):
        harness.receive(linked.identity, part)
    assert not is_over(linked)
    assert 0.99 * EVENT_LIMIT < harness.registry.flow.shared < EVENT_LIMIT
    harness.receive(linked.identity, part)
    assert is_over(linked)
    assert "268435456" in worker_decoder().decode(harness.sessions.cuts[0].last)[1][0].why
    assert nothing_is_left(harness)
    assert not con.output.size


@pytest.mark.parametrize("place", ["in the middle", "beside an ack"])
def test_a_part_in_another_place_is_refused_and_the_rest_applies(place: str) -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    sends = [Send(con.id, data) for data in ANSWER]
    if place == "in the middle":
        linked.say_raw(sends[0], Part(event.seq), sends[1])
        linked.say_raw(*sends[2:], Ack(event.seq, event.seq))
    else:
        linked.say_raw(*sends, Ack(event.seq, event.seq), Part(event.seq))
    harness.apply()
    harness.turn()
    [refused] = linked.take(Refused)
    assert refused.why.startswith("part: it is the last record")
    assert harness.write(con) == WHOLE
    assert not linked.worker.window.in_flight
    assert nothing_is_left(harness)


def test_a_record_that_is_refused_is_named_by_the_batch_of_its_part() -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    first = linked.worker.session.batches + 1
    never = Send((1 << 36) + 999_999, b"never given out")
    sends = [Send(con.id, data) for data in ANSWER]
    linked.say_raw(sends[0], sends[1], never, Part(event.seq))
    linked.say_raw(sends[2], ["send", "wrong"], *sends[3:], Part(event.seq))
    linked.say_raw(never, Ack(event.seq, event.seq))
    harness.apply()
    harness.turn()
    assert sorted((r.batch - first, r.index) for r in linked.take(Refused)) == [
        (0, 2), (1, 1), (2, 0),
    ]  # fmt: skip
    assert harness.write(con) == WHOLE


def test_a_client_is_not_let_in_by_an_ack_whose_part_could_not_be_read() -> None:
    """The unread part may have contained a reject."""
    harness = Slow(verdict="handlers")
    linked = harness.worker()
    con = harness.raw(
        b"GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    harness.turn()
    [event] = linked.events
    linked.say_raw(Send(con.id, b"x"), ["reject", con.id, "no number"], Part(event.seq))
    linked.say_raw(Ack(event.seq, event.seq))
    harness.apply()
    assert harness.write(con).startswith(b"HTTP/1.1 500")


def test_parts_count_in_the_memory_of_all_until_they_are_applied() -> None:
    harness = Slow()
    linked, con, event = begin(harness)
    flow = harness.registry.flow
    data = bytes(1 << 20)
    part = encode([linked.link.session, *(Send(con.id, data) for _ in range(8)), Part(event.seq)])
    for n in (1, 2):
        harness.receive(linked.identity, part)
        assert flow.shared == n * (len(part) + 8 * KEPT_COST)
    before = flow.accounted
    linked.say_raw(Ack(event.seq, event.seq))
    # Two parts are output now, and the others still wait.
    assert con.output.size == 2 * len(data)
    while True:
        harness.registry.flow.output_changed(entry_of(con))
        assert 0.9 * before < flow.accounted < 1.1 * before
        if not harness.sessions.backlog.go_on(harness.now):
            break
    assert con.output.size == 16 * len(data)
    assert nothing_is_left(harness)


def test_all_that_one_event_sends_may_be_output_at_once() -> None:
    """The output exceeds a batch, and the client reads. (Without parts it would be too much.)"""
    harness = Harness(output_limit=4 << 20)
    linked, con, event = begin(harness)
    data = bytes(1 << 20)
    parts = 96 // 48
    part = encode([linked.link.session, *(Send(con.id, data) for _ in range(48)), Part(event.seq)])
    for _ in range(parts):
        harness.receive(linked.identity, part)
    linked.say_raw(Ack(event.seq, event.seq))
    harness.turn()
    assert con.state is ConnectionState.OPEN
    assert len(harness.write(con)) == 96 * len(data)
    harness.now += AT_ONCE + 0.1
    for _ in range(96):
        linked.say(Send(con.id, data))
    harness.turn()
    assert con.ending.cause == "overflow"
    assert [type(each) for each in linked.events][-1] is OnClose
