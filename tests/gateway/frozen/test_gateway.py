"""A whole gateway is taken over, or refused with a reason. tests/gateway/model tests that
clients and workers do not notice, and test_links.py tests that with real sockets.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.corpus import OFFER, UPGRADE, frame
from tests.gateway.harness import HANDSHAKE, Harness
from tests.gateway.model.upgrades import Ends
from wsraw.config.addresses import Listen
from wsraw.gateway.cluster.cluster import Cluster
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.frozen.gateway import Parts, Thawing
from wsraw.gateway.frozen.records import (
    End,
    FrozenError,
    Header,
    Shared,
    Workers,
    decode,
    encode,
)
from wsraw.gateway.frozen.websocket import NOT_FLUSHED
from wsraw.link.records import (
    AGENT,
    Ack,
    Answer,
    Couple,
    Figures,
    Join,
    Mark,
    OnClose,
    OnLeave,
    OnMessage,
    Open,
    Query,
    Relay,
    Splice,
    State,
)

NOW, THERE = 10.0, 7000.0


class Sockets(Ends):
    """The ends of connections that have a socket and do not move."""

    def __init__(self, cons: list[Connection]) -> None:
        self.overdrawn = {}
        self._cons = cons

    def connections(self) -> list[Connection]:
        return self._cons

    def thaw_endpoint(self, con: Connection, state: object, sock: object) -> object:
        con.endpoint = sock
        return sock


class Moved:
    """A gateway and its successor."""

    def __init__(self, **settings: Any) -> None:
        self.harness = Harness(**settings)
        self.harness.now = NOW
        self.sockets = Sockets([])
        self.settings = settings

    def connect(self, *data: bytes, **listen: Any) -> Connection:
        harness = self.harness
        con = accepted(
            harness.registry.ids.new(), Listen(name="here", **listen), harness.settings, {}, NOW
        )
        con.endpoint = object()
        harness.registry.flow.weigh(con)
        self.sockets._cons.append(con)
        for part in data:
            harness.registry.take(con, con.receive_data(part, NOW), NOW)
        harness.turn()
        return con

    @property
    def parts(self) -> Parts:
        harness = self.harness
        return Parts(harness.registry, harness.sessions, harness.deadlines, self.sockets)

    def records(self) -> list[Any]:
        return list(self.parts.freeze(NOW))

    def next(self, **settings: Any) -> tuple[Harness, Thawing]:
        harness = Harness(**{**self.settings, **settings})
        harness.now = THERE
        parts = Parts(harness.registry, harness.sessions, harness.deadlines, Sockets([]))
        return harness, parts.thawing(THERE)

    def move(self, **settings: Any) -> Harness:
        harness, thawing = self.next(**settings)
        for data, sockets in self.records():
            thawing.take(data, sockets)
        thawing.finish()
        return harness


def test_all_tables_come_back() -> None:
    moved = Moved()
    linked = moved.harness.worker()
    first, second = moved.connect(b"hello"), moved.connect(HANDSHAKE)
    moved.harness.turn()
    linked.work()
    one = moved.harness.registry.ids.new_range(linked.worker)
    linked.say(
        Join(first.id, "room"),
        Join(second.id, "room"),
        Join(first.id, "hall"),
        Couple(first.id, second.id),
        Open(one[0], "127.0.0.1:1", options={"name": "feed", "reconnect": True}),
        State(one[0], b"state"),
        Query(1, "turn", "timer", 1000),
    )
    moved.harness.turn()
    before = moved.harness.registry
    after = moved.move().registry
    assert list(after.entries) == list(before.entries)
    assert [e.id for e in after.groups.members("room")] == [first.id, second.id]
    assert after.entries[first.id].groups == {"room", "hall"}
    assert after.entries[first.id].couples == {after.entries[second.id]}
    named = after.named(after.pool(), "feed")
    assert named is not None
    assert named.id == one[0]
    assert named.state == b"state"
    assert after.to_dial == [named]
    assert after.ids.next == before.ids.next
    assert after.flow.accounted == before.flow.accounted
    assert after.flow.check_above == before.flow.check_above
    assert after.pool().connections == before.pool().connections
    assert after.pool().sessions == 1
    assert [e.since - THERE for e in after.entries.values()] == [
        pytest.approx(e.since - NOW) for e in before.entries.values()
    ]


def clustered(harness: Harness, node: str) -> Cluster:
    harness.sessions.tokens.add("agent", AGENT)
    return Cluster(harness.registry, node, lambda record: None)


def test_a_member_that_is_gone_is_still_told() -> None:
    moved = Moved(presence=("room",))
    cluster = clustered(moved.harness, "here")
    worker = moved.harness.worker(events=("on_leave",))
    cluster.absent.tell(OnLeave, "room", [["there/77", "ann", "default"]])
    cluster.absent.dropped = 3
    harness, thawing = moved.next()
    after = clustered(harness, "here")
    for data, sockets in moved.records():
        thawing.take(data, sockets)
    thawing.finish()
    (entry,) = after.absent.entries
    assert (entry.con.about, after.absent.dropped) == ({"ref": "there/77", "user": "ann"}, 3)
    assert entry.in_flight == 1
    assert harness.sessions.workers[worker.identity].session.window.in_flight
    # The state of presence is sent again, as the setting may have changed.
    assert after._is_behind


@pytest.mark.parametrize("node", ["here", "elsewhere"])
def test_the_agent_of_a_cluster_goes_on_if_it_is_the_same_cluster(node: str) -> None:
    moved = Moved()
    cluster = clustered(moved.harness, "here")
    agent, asker = moved.harness.worker(token="agent", pool="cluster"), moved.harness.worker()
    agent.say(Figures({"nodes": ["there"]}))
    asker.say(Query(1, "count", "room"))
    moved.harness.turn()
    [asked] = agent.take(Relay)
    assert cluster._questions
    harness, thawing = moved.next()
    after = clustered(harness, node)
    for data, sockets in moved.records():
        thawing.take(data, sockets)
    thawing.finish()
    if node == "elsewhere":
        assert after.agent is None
        assert [cut.identity for cut in harness.sessions.cuts] == [agent.identity]
        assert list(harness.sessions.workers) == [asker.identity]
        return
    assert after.agent is harness.sessions.workers[agent.identity]
    assert not after.agent.session._out
    ref = asked.options["ref"]
    after.receive(Relay("answer", "room", options={"ref": ref, "answers": {"there": 5}}))
    [answer] = harness.sessions.workers[asker.identity].session._out
    assert isinstance(answer, Answer)
    assert answer.value == 5


def test_a_splice_goes_on_where_it_was() -> None:
    """The splice moves before its first bytes, and in the middle of a forwarded line."""
    moved = Moved()
    linked = moved.harness.worker()
    first, second = moved.connect(b"begun"), moved.connect(HANDSHAKE)
    moved.harness.turn()
    [begun] = [event for event in linked.events if type(event) is OnMessage]
    linked.ack(*[event for event in linked.events if type(event) is not OnMessage])
    options = {"framing": "line"}
    linked.say(Splice(first.id, second.id, begun.seq, begun.seq, options))
    registry = moved.harness.registry
    registry.take(first, first.receive_data(b"one\ntw", NOW), NOW)
    before = registry.entries[first.id]
    after = moved.move()
    entry = after.registry.entries[first.id]
    assert entry.splice is not None
    assert before.splice is not None
    assert [event.data for event in entry.splice.waiting] == [b"one\ntw"]
    assert [event.seq for event in entry.splice.begun] == [begun.seq]
    assert entry.event_bytes == before.event_bytes
    other = after.registry.entries[second.id]
    size = other.con.output.size
    after.sessions.splices.go_on(THERE)
    assert other.con.output.size == size
    worker = entry.holder
    assert worker is not None
    after.registry.dispatcher.acked(worker, Ack(begun.seq, begun.seq))
    after.sessions.splices.go_on(THERE)
    assert b"".join(other.con.output.chunks).endswith(b"\x81\x03one")
    again = Moved()
    again.harness = after
    again.sockets = Sockets([entry.con, other.con])
    third = again.move().registry.entries[first.id]
    assert third.splice is not None
    assert (bytes(third.splice.buffer), third.splice.flows) == (b"tw", True)


def test_a_changed_setting_holds_for_connections_that_were_there_before() -> None:
    moved = Moved(ping_interval=20.0)
    moved.harness.worker()
    con = moved.connect(HANDSHAKE)
    after = moved.move(ping_interval=5.0, max_message_size=1000, deflate=False)
    again = after.registry.entries[con.id].con
    assert again.settings.ping_interval == 5.0
    again.receive_data(frame(0x82, bytes(1001)), THERE)
    assert again.ending.cause == "too-big"


def test_a_message_that_is_under_way_keeps_its_limit() -> None:
    moved = Moved(max_message_size=5000, messages="whole")
    moved.harness.worker()
    con = moved.connect(HANDSHAKE, frame(0x02, bytes(3000)))
    after = moved.move(max_message_size=1000, messages="whole")
    [event] = after.registry.entries[con.id].con.receive_data(frame(0x80, bytes(1500)), THERE)
    assert isinstance(event, OnMessage)
    assert len(event.data) == 4500


def test_a_connection_that_cannot_be_moved_ends_for_its_handler() -> None:
    moved = Moved(deflate=True, deflate_context_takeover=True)
    linked = moved.harness.worker()
    con = _in_the_middle_of_a_block(moved)
    linked.work()
    assert moved.parts.unmovable() == [(con, NOT_FLUSHED)]
    after = moved.move()
    entry = after.registry.entries[con.id]
    assert entry.con.state is CLOSED
    [flight] = [parked for parked, _, _ in entry.parked]
    assert isinstance(flight, OnClose)
    assert (flight.code, flight.cause) == (1012, "upgrade")
    assert entry.queue is not None


def test_what_is_spliced_with_one_that_cannot_be_moved_ends_with_it() -> None:
    moved = Moved(deflate=True, deflate_context_takeover=True)
    linked = moved.harness.worker()
    raw = moved.connect(b"hello")
    con = _in_the_middle_of_a_block(moved)
    linked.work()
    linked.say(Splice(raw.id, con.id))
    moved.harness.turn()
    entry = moved.harness.registry.entries[con.id]
    assert entry.splice is not None
    assert entry.splice.flows
    after = moved.move()
    assert after.registry.entries[raw.id].con.ending.cause == "spliced"


def _in_the_middle_of_a_block(moved: Moved) -> Connection:
    packer = zlib.compressobj(wbits=-12)
    data = random.Random(1).randbytes(30_000).hex().encode()
    packed = packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)
    return moved.connect(UPGRADE % OFFER, frame(0x42, packed[:7001]))


def test_a_gateway_says_why_it_is_not_at_rest() -> None:
    moved = Moved()
    assert moved.parts.why_not() == ""
    moved.harness.sessions.replies.append((b"x", b""))
    assert "answers to workers" in moved.parts.why_not()
    moved.harness.registry.stop()
    assert moved.parts.why_not() == "it is stopping"


def test_freezing_changes_nothing_and_can_be_given_up() -> None:
    moved = Moved()
    linked = moved.harness.worker()
    con = moved.connect(b"hello")
    linked.say(Mark(con.id, 1), Join(con.id, "room"))
    frozen = moved.records()
    assert [record.data for record in moved.records()] == [record.data for record in frozen]
    assert [event.data for event in linked.work() if isinstance(event, OnMessage)] == [b"hello"]


def changed(moved: Moved, number: int, record: Any) -> list[Any]:
    records = moved.records()
    records[number] = records[number]._replace(data=encode(record))
    return records


@pytest.mark.parametrize(
    ("number", "change", "why"),
    [
        (0, lambda record: Header(2, "9.9", 1), "is of wsraw 9.9, whose state has format 2"),
        (0, lambda record: Header(1, "9.9", 2), "has epoch 2, and this one 1"),
        (0, lambda record: Workers([]), "does not say who it is"),
        (-1, lambda record: End(5, 1), "1 of 5 connections and 1 of 1 workers"),
        (-1, lambda record: Workers([]), "has not told all"),
        (-2, lambda record: _with(record, paused=[99]), "connection 99 is mentioned"),
        (-2, lambda record: _with_pool(record, workers=[7]), "worker 7 is mentioned"),
    ],
)
def test_what_does_not_fit_together_is_refused(number: int, change: Any, why: str) -> None:
    moved = Moved()
    moved.harness.worker()
    moved.connect(b"hello")
    _, thawing = moved.next()
    with pytest.raises(FrozenError, match=why):
        for data, sockets in changed(moved, number, change(decode(moved.records()[number].data))):
            thawing.take(data, sockets)
        thawing.finish()


def _with(shared: Shared, **fields: Any) -> Shared:
    for name, value in fields.items():
        setattr(shared.delivery, name, value)
    return shared


def _with_pool(shared: Shared, **fields: Any) -> Shared:
    for name, value in fields.items():
        setattr(shared.pools[0], name, value)
    return shared


def test_a_record_of_a_newer_version_is_refused_with_both_versions() -> None:
    moved = Moved()
    moved.connect(b"hello")
    records = moved.records()
    _, thawing = moved.next()
    thawing.take(encode(Header(1, "9.9", 1)), [])
    thawing.take(records[1].data, [])
    longer = msgspec.msgpack.decode(records[2].data)
    longer[1][0][0].append("news")
    with pytest.raises(FrozenError, match=r"'connections'.*at most.*it is of wsraw 9\.9, and"):
        thawing.take(msgspec.msgpack.encode(longer), records[2].sockets)


def test_sockets_that_nobody_has_are_refused() -> None:
    moved = Moved()
    moved.connect(b"hello")
    _, thawing = moved.next()
    with pytest.raises(FrozenError, match="more sockets"):
        for data, sockets in moved.records():
            thawing.take(data, [*sockets, object()])


def _values(value: Any, place: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """The paths of all values in a record."""
    yield place
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _values(each, (*place, number))


def _replaced(value: Any, place: tuple[int, ...], by: Any) -> Any:
    if not place:
        return by
    copy = list(value)
    copy[place[0]] = _replaced(value[place[0]], place[1:], by)
    return copy


def test_records_with_anything_wrong_in_them_are_refused_or_understood() -> None:
    """Whichever value of a record is changed, only FrozenError may be raised."""
    moved = Moved()
    linked = moved.harness.worker()
    first = moved.connect(b"hello")
    second = moved.connect(HANDSHAKE, frame(0x81, b"some text"), frame(0x81, b"more")[:7])
    linked.say(Join(first.id, "room"), Mark(second.id, 1))
    second.send(b"x" * 50, "text", True, NOW)
    records = moved.records()
    choose = random.Random(5)
    refused = 0
    for _ in range(600):
        number = choose.randrange(len(records))
        plain = msgspec.msgpack.decode(records[number].data)
        place = choose.choice(list(_values(plain)))
        by = choose.choice(
            (None, -1, 0, 1 << 62, 0.5, "", b"", [], [1], {}, True, "x", b"\xff" * 9)
        )
        data = msgspec.msgpack.encode(_replaced(plain, place, by))
        _, thawing = moved.next()
        try:
            for at, record in enumerate(records):
                thawing.take(data if at == number else record.data, record.sockets)
            thawing.finish()
        except FrozenError:
            refused += 1
    assert refused > 300
