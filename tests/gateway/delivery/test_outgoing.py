from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.uri import parse_uri

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import Connection, ConnectionState
from wsraw.gateway.delivery.outgoing import (
    AT_ONCE,
    BROADCAST_TIME,
    FRAGMENT_TIMEOUT,
    LEAST_SHARE,
    MOST_BROADCASTS,
    MOST_SHARE,
    SHARE,
)
from wsraw.gateway.websocket.deflate import DEFLATED, DEFLATED_AT_ONCE
from wsraw.gateway.websocket.shared import Framed
from wsraw.link.batches import LARGEST_BATCH
from wsraw.link.records import (
    Close,
    Join,
    Leave,
    Mark,
    OnClose,
    OnError,
    Open,
    Publish,
    Reached,
    Send,
)


class Client:
    """A third-party WebSocket client at the other end of a connection."""

    def __init__(self, harness: Harness, deflate: bool = False, bits: int | None = None) -> None:
        """`bits` is the size of the window that the client asks the server for."""
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=bits)
        extensions = [factory] if deflate else None
        self.protocol = ClientProtocol(parse_uri("ws://h/"), extensions=extensions)
        self.harness = harness
        self.protocol.send_request(self.protocol.connect())
        self.con = harness.raw(b"".join(self.protocol.data_to_send()))
        self.read()
        assert bool(self.protocol.extensions) == deflate

    def read(self) -> list[tuple[str, bytes, bool]]:
        """The frames that have arrived: opcode, data, final."""
        self.protocol.receive_data(self.harness.write(self.con))
        return [
            (event.opcode.name, bytes(event.data), event.fin)
            for event in self.protocol.events_received()
            if isinstance(event, Frame)
        ]


def pieces(con: int, *datas: bytes, kind: str = "text", finish: bool = True) -> list[Send]:
    last = len(datas) - 1
    return [Send(con, data, kind, finish and n == last) for n, data in enumerate(datas)]


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def linked_workers(harness: Harness) -> tuple[LinkedWorker, LinkedWorker]:
    return harness.worker(), harness.worker()


@pytest.fixture
def client(harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker]) -> Client:
    client = Client(harness)
    for linked in linked_workers:
        linked.work()
    return client


def refused(linked: LinkedWorker, *records: Any) -> str:
    return " ".join(linked.refused(record) for record in records)


# --- fragmented messages of two workers ---


def test_a_fragmented_message_arrives_in_its_pieces(
    linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    linked_workers[0].say(*pieces(client.con.id, b"a", b"", b"b"))
    assert client.read() == [("TEXT", b"a", False), ("CONT", b"", False), ("CONT", b"b", True)]


def test_messages_of_other_workers_wait_behind_a_fragmented_one(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    begin, middle, end = pieces(con, b"a", b"b", b"c")
    one.say(begin)
    two.say(Send(con, b"late 1", "text"))
    one.say(middle)
    two.say(Send(con, b"late 2", "binary"))
    assert client.read() == [("TEXT", b"a", False), ("CONT", b"b", False)]
    assert harness.registry.flow.total > 12, "what waits counts"
    one.say(end)
    assert client.read() == [
        ("CONT", b"c", True), ("TEXT", b"late 1", True), ("BINARY", b"late 2", True),
    ]  # fmt: skip
    assert harness.registry.flow.total == 0
    assert not harness.registry.outgoing.fragmented


def test_late_fragments_wait_for_one_another(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    three = harness.worker()
    begin, end = pieces(con, b"1a", b"1b")
    one.say(begin)
    for late in pieces(con, b"2a", b"2b", b"2c")[:2]:
        two.say(late)
    three.say(Send(con, b"3", "text"))
    one.say(end)
    assert client.read() == [
        ("TEXT", b"1a", False),
        ("CONT", b"1b", True),
        ("TEXT", b"2a", False),
        ("CONT", b"2b", False),
    ]
    two.say(Send(con, b"2c", "text"))
    assert client.read() == [("CONT", b"2c", True), ("TEXT", b"3", True)]
    assert harness.registry.flow.total == 0


def test_a_worker_s_own_fragments_do_not_wait(
    linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    one, _ = linked_workers
    for n in range(3):
        one.say(*pieces(client.con.id, b"%d" % n, b"x"))
    assert [frame[1] for frame in client.read()] == [b"0", b"x", b"1", b"x", b"2", b"x"]


def test_a_published_message_waits_behind_a_fragmented_one(
    linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    begin, end = pieces(con, b"a", b"b")
    one.say(Join(con, "g"), begin)
    two.say(Publish("g", b"published", "text"))
    assert client.read() == [("TEXT", b"a", False)]
    one.say(end)
    assert client.read() == [("CONT", b"b", True), ("TEXT", b"published", True)]


def test_fragments_to_a_raw_connection_are_sent_at_once(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker]
) -> None:
    con = harness.raw()
    one, two = linked_workers
    one.say(Send(con.id, b"a", "binary", False))
    two.say(Send(con.id, b"b", "text", True))
    one.say(Send(con.id, b"c", "binary", True))
    assert harness.write(con) == b"abc"
    assert not harness.registry.outgoing.fragmented


@pytest.mark.parametrize(
    "second",
    [Send(0, b"\xff", "text", True), Send(0, b"x", "binary", True), Send(0, b"\xe2", "text")],
    ids=["not UTF-8", "another type", "a code point cut"],
)
def test_a_continuation_that_is_refused_ends_the_connection(
    harness: Harness,
    linked_workers: tuple[LinkedWorker, LinkedWorker],
    client: Client,
    second: Send,
) -> None:
    """The fragments that were sent cannot be taken back, and the client could not parse later
    messages.
    """
    second.con = con = client.con.id
    one, two = linked_workers
    one.say(Send(con, b"a", "text", False))
    two.say(Send(con, b"late", "text"))
    assert refused(one, second)
    assert client.con.state is not ConnectionState.OPEN
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert harness.registry.flow.total == 0, "what waited behind it is in no account any more"


def test_a_first_piece_that_is_refused_begins_nothing(
    linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    assert refused(one, Send(con, b"\xff", "text", False))
    two.say(Send(con, b"not late", "text"))
    assert client.read() == [("TEXT", b"not late", True)]


def test_a_code_point_may_be_cut_by_a_piece(
    linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    euro = "€".encode()
    linked_workers[0].say(*pieces(client.con.id, euro[:1], euro[1:]))
    assert [frame[1] for frame in client.read()] == [euro[:1], euro[1:]]


def test_a_worker_that_leaves_in_the_middle_ends_the_connection(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    one, two = linked_workers
    one.say(*pieces(client.con.id, b"a", finish=False))
    two.say(Send(client.con.id, b"late", "text"))
    one.link.bye()
    one.flush()
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert client.con.ending.cause == "worker-died"
    assert not harness.registry.outgoing.fragmented
    assert harness.registry.flow.total == 0


def test_a_worker_that_left_before_its_late_piece_had_its_turn(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    begin, end = pieces(con, b"a", b"b")
    one.say(begin)
    two.say(*pieces(con, b"never", finish=False))
    two.link.bye()
    two.flush()
    one.say(end)
    one.say(Send(con, b"mine", "text"))
    client.read()
    harness.run(3.0)
    over = client.con.state is not ConnectionState.OPEN
    assert over or not entry_of(client.con).fragment, "nobody is there to finish it"


def test_a_message_must_be_finished_in_time(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    con = client.con.id
    one, two = linked_workers
    one.say(*pieces(con, b"a", finish=False))
    harness.run(FRAGMENT_TIMEOUT)
    one.say(Send(con, b"b", "text", False))
    two.say(Send(con, b"late", "text"))
    assert client.con.state is ConnectionState.OPEN
    harness.run(1.0)
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert not harness.registry.outgoing.fragmented
    assert harness.registry.flow.total == 0


def test_messages_that_wait_behind_a_fragmented_one_are_bounded(
    linked_workers: tuple[LinkedWorker, LinkedWorker],
) -> None:
    harness = Harness(output_limit=2000)
    one, two = harness.worker(), harness.worker()
    con = Client(harness).con
    for linked in (one, two):
        linked.work()
    one.say(*pieces(con.id, b"a", finish=False))
    for _ in range(50):
        two.say(Send(con.id, b"x" * 100, "text"))
        assert harness.registry.flow.total < 4000, (
            "it waits for a connection that is on its way out"
        )
    assert con.ending.cause == "overflow"
    harness.hang_up(con)
    seen = [event for linked in (one, two) for event in linked.work()]
    assert [type(event) for event in seen] == [OnError, OnClose], "told once"
    assert harness.registry.flow.total == 0


def test_a_worker_forgets_connections_that_are_over(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker]
) -> None:
    one, two = linked_workers
    for _ in range(5):
        client = Client(harness)
        one.say(*pieces(client.con.id, b"a", b"b"))
        harness.hang_up(client.con)
        for linked in linked_workers:
            linked.work()
    assert not harness.registry.entries
    assert not one.worker.ties
    assert not two.worker.ties


# --- groups: framed once ---


def framings(members: Iterable[Connection]) -> int:
    """The number of frames that members share for their last message."""
    last = [con.output.chunks[-1] for con in members]
    return len({id(chunk) for chunk in last if type(chunk) is Framed})


def test_a_published_message_is_framed_once_for_all_that_are_alike(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker]
) -> None:
    clients = [Client(harness) for _ in range(5)]
    deflating = [Client(harness, deflate=True) for _ in range(5)]
    raws = [harness.raw() for _ in range(5)]
    members = [*raws, *(client.con for client in clients + deflating)]
    for con in members:
        linked_workers[0].say(Join(con.id, "g"))
    text = b"hello " * 1000
    linked_workers[1].say(Publish("g", text, "text"))
    assert framings(members) == 3
    for con in raws:
        assert harness.write(con) == text
    for client in clients + deflating:
        assert client.read() == [("TEXT", text, True)]


def test_a_published_message_is_compressed_once_for_each_window() -> None:
    """Members that have agreed on the same window get the same bytes."""
    harness = Harness()
    linked = harness.worker()
    windows = (9, 10, 12)
    clients = [Client(harness, deflate=True, bits=bits) for bits in windows * 4]
    plain = [Client(harness) for _ in range(4)]
    for client in clients + plain:
        linked.say(Join(client.con.id, "g"))
    text = b" ".join(b"%d" % (n * n) for n in range(2000))
    for _ in range(2):
        linked.say(Publish("g", text, "text"))
        assert framings(client.con for client in clients) == len(windows)
        assert framings(client.con for client in clients + plain) == len(windows) + 1
        last = [client.con.output.chunks[-1] for client in clients]
        assert max(map(len, last)) < len(text)
        for n, frame in enumerate(last):
            assert frame is last[n % len(windows)]
    for client in clients + plain:
        assert client.read() == [("TEXT", text, True)] * 2


def test_with_context_takeover_a_message_is_compressed_for_each_member() -> None:
    harness = Harness(deflate_context_takeover=True)
    linked = harness.worker()
    clients = [Client(harness, deflate=True) for _ in range(3)]
    for client in clients:
        linked.say(Join(client.con.id, "g"))
    text = b"hello " * 1000
    linked.say(Send(clients[0].con.id, text, "text"))
    for _ in range(3):
        linked.say(Publish("g", text, "text"))
    assert framings(client.con for client in clients) == 0
    assert clients[0].read() == [("TEXT", text, True)] * 4
    for client in clients[1:]:
        assert client.read() == [("TEXT", text, True)] * 3


def test_a_published_message_is_masked_for_each_opened_websocket(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker]
) -> None:
    one, _ = linked_workers
    con = one.link.new_id()
    one.say(Open(con, "ws://h/", "websocket"), Join(con, "g"))
    one.say(Publish("g", b"early", "text"))
    [entry] = harness.registry.to_dial
    assert entry.con.framing_key is None
    assert entry.con.state is ConnectionState.CONNECTING


def test_members_that_have_closed_get_nothing(
    harness: Harness, linked_workers: tuple[LinkedWorker, LinkedWorker], client: Client
) -> None:
    one, _ = linked_workers
    raw = harness.raw()
    for con in (raw, client.con):
        one.say(Join(con.id, "g"))
        harness.hang_up(con)
    assert refused(one, Publish("g", b"x", "text")) == ""
    assert raw.output.size == client.con.output.size == 0


# --- the bound of the output ---

LIMIT = 1000


def joined(harness: Harness, *cons: Connection) -> LinkedWorker:
    linked = harness.worker()
    linked.work()
    for con in cons:
        linked.say(Join(con.id, "g"))
    return linked


def test_by_default_overflow_closes_the_connection(harness: Harness) -> None:
    harness = Harness(output_limit=LIMIT)
    slow, quick = harness.raw(), harness.raw()
    linked = joined(harness, slow, quick)
    for n in range(20):
        linked.say(Publish("g", b"%03d" % n + b"x" * 97))
        harness.write(quick)
        harness.now += 0.2
    harness.turn()
    assert (slow.ending.code, slow.ending.cause, slow.output.reset) == (1008, "overflow", True)
    assert quick.state is ConnectionState.OPEN
    assert [type(event) for event in linked.work()] == [OnError, OnClose]


@pytest.mark.parametrize("size", range(70, 110))
@pytest.mark.parametrize("kind", ["raw", "websocket"])
def test_drop_newest_keeps_the_oldest_messages_whole(kind: str, size: int) -> None:
    """The sizes do not matter; a frame's head counts, too."""
    harness = Harness(output_limit=LIMIT, overflow="drop-newest")
    client = Client(harness) if kind == "websocket" else None
    con = client.con if client else harness.raw()
    linked = joined(harness, con)
    messages = [b"%03d" % n + b"x" * (size - 3) for n in range(20)]
    for message in messages:
        linked.say(Publish("g", message))
    assert con.state is ConnectionState.OPEN
    assert con.output.size <= LIMIT
    kept = 20 - harness.registry.outgoing.dropped
    assert kept >= LIMIT // (size + 2)
    if client:
        assert [frame[1] for frame in client.read()] == messages[:kept]
    else:
        assert harness.write(con) == b"".join(messages[:kept])


@pytest.mark.parametrize("written", [0, 1, 150])
def test_drop_oldest_keeps_the_newest_messages_whole(written: int) -> None:
    harness = Harness(output_limit=LIMIT, overflow="drop-oldest")
    client = Client(harness)
    linked = joined(harness, client.con)
    messages = [b"%03d" % n + b"x" * 95 for n in range(30)]
    for message in messages[:10]:
        linked.say(Publish("g", message))
    client.protocol.receive_data(harness.write(client.con, written))
    for message in messages[10:]:
        linked.say(Publish("g", message))
    assert client.con.state is ConnectionState.OPEN
    assert client.con.output.size <= LIMIT
    got = [frame[1] for frame in client.read()]
    begun = written // 100 + (written % 100 > 0)
    assert got[:begun] == messages[:begun], "what has been written in part stays"
    assert got[begun:] == messages[30 - len(got[begun:]) :]
    assert harness.registry.outgoing.dropped == 30 - len(got) > 0


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_a_message_sent_to_one_connection_is_never_dropped(policy: str) -> None:
    harness = Harness(output_limit=LIMIT, overflow=policy)
    con = harness.raw()
    linked = joined(harness, con)
    linked.say(Send(con.id, b"x" * LIMIT))
    linked.say(Send(con.id, b"x"))
    assert con.output.size == LIMIT + 1
    assert con.state is ConnectionState.OPEN
    harness.now += AT_ONCE + 0.1
    linked.say(Send(con.id, b"x"))
    harness.turn()
    assert con.ending.cause == "overflow"


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_a_published_message_larger_than_the_bound_is_dropped(policy: str) -> None:
    harness = Harness(output_limit=LIMIT, overflow=policy)
    con = harness.raw()
    linked = joined(harness, con)
    linked.say(Publish("g", b"x" * (LIMIT + 1)))
    assert con.state is ConnectionState.OPEN
    assert con.output.size == 0


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_frames_that_build_on_one_another_are_not_dropped_and_their_reader_is_not_closed(
    policy: str,
) -> None:
    """With context takeover, a message in the middle of the queue cannot be dropped, so new
    messages are.
    """
    harness = Harness(
        output_limit=LIMIT, overflow=policy, deflate_context_takeover=True, deflate_from=1
    )
    client = Client(harness, deflate=True)
    linked = joined(harness, client.con)
    messages = [random.Random(n).randbytes(60) for n in range(40)]
    for message in messages:
        linked.say(Publish("g", message, "binary"))
        harness.turn()
        harness.now += AT_ONCE / 4
    assert client.con.state is ConnectionState.OPEN
    assert client.con.output.size <= LIMIT
    kept = 40 - harness.registry.outgoing.dropped
    assert 0 < kept < 40
    assert [frame[1] for frame in client.read()] == messages[:kept]
    linked.say(Publish("g", b"again", "binary"))
    assert [frame[1] for frame in client.read()] == [b"again"]


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_behind_a_message_in_fragments_published_messages_are_dropped_above_the_bound(
    policy: str,
) -> None:
    harness = Harness(output_limit=LIMIT, overflow=policy)
    client = Client(harness)
    linked = joined(harness, client.con)
    begin, end = pieces(client.con.id, b"a", b"b")
    linked.say(begin)
    messages = [b"%03d" % n + b"x" * 95 for n in range(40)]
    for message in messages:
        linked.say(Publish("g", message))
        harness.turn()
        harness.now += AT_ONCE / 4
    assert client.con.state is ConnectionState.OPEN
    linked.say(end)
    kept = 40 - harness.registry.outgoing.dropped
    assert 0 < kept < 40
    assert [frame[1] for frame in client.read()] == [b"a", b"b", *messages[:kept]]


def test_a_mark_is_reached_although_something_before_it_was_dropped() -> None:
    harness = Harness(output_limit=LIMIT, overflow="drop-oldest")
    con = harness.raw()
    linked = joined(harness, con)
    for _ in range(10):
        linked.say(Publish("g", b"x" * 100))
    linked.say(Mark(con.id, 1))
    linked.say(Publish("g", b"y" * 100))
    harness.write(con)
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 1)]


# --- shares: what is large holds up nobody (Ratchet #966, ws #617, workerman #852) ---


def large(size: int = 6 * DEFLATED_AT_ONCE) -> bytes:
    """Text that compresses well, and is too long to be compressed in one turn."""
    return b" ".join(b"%d" % (n * n) for n in range(size))[:size]


class Slow(Harness):
    """A harness that takes turns one by one."""

    def receive(self, identity: bytes, data: bytes) -> None:
        self.sessions.receive(identity, data, self.now)


def test_a_large_group_gets_a_message_over_several_turns() -> None:
    harness = Slow()
    cons = [harness.raw() for _ in range(300)]
    other = harness.raw()
    linked = joined(harness, *cons)
    linked.say(Publish("g", b"to all"), Send(other.id, b"to one"))
    assert other.output.size, "nobody else waits for them"
    turns = 0
    while any(not con.output.size for con in cons):
        before = sum(con.output.size > 0 for con in cons)
        harness.registry.dirty.clear()
        assert harness.sessions.backlog.go_on(0.0)
        assert sum(con.output.size > 0 for con in cons) - before <= SHARE
        turns += 1
    assert turns >= 4
    assert not harness.sessions.is_busy or not harness.sessions.backlog.go_on(0.0)
    assert {harness.write(con) for con in cons} == {b"to all"}


def go_on(harness: Harness) -> None:
    """Take a turn, in which all queued output is written."""
    harness.registry.dirty.clear()
    harness.sessions.backlog.go_on(harness.now)


def test_a_small_group_does_not_wait_for_a_large_one() -> None:
    """Messages stay in order for the members of both groups."""
    harness = Slow()
    cons = [harness.raw() for _ in range(300)]
    others = [harness.raw() for _ in range(5)]
    linked = joined(harness, *cons)
    linked.work()
    for con in (*others, cons[0], cons[-1]):
        linked.say(Join(con.id, "small"))
    linked.say(Publish("g", b"large,"), Publish("small", b"small,"), Publish("g", b"end"))
    assert [harness.write(con) for con in others] == [b"small,"] * 5
    assert not cons[-2].output.size
    assert harness.write(cons[-1]) == b"large,small,"
    while harness.registry.outgoing.broadcasts:
        go_on(harness)
    assert harness.write(cons[-1]) == b"end"
    assert harness.write(cons[0]) == b"large,small,end"
    assert harness.write(cons[-2]) == b"large,end"


def test_large_groups_take_turns() -> None:
    """A group of 200 members must not wait for one of 2,000."""
    harness = Slow()
    many, few = [harness.raw() for _ in range(2000)], [harness.raw() for _ in range(200)]
    linked = joined(harness, *many)
    for con in few:
        linked.say(Join(con.id, "few"))
    linked.say(Publish("g", b"x"), Publish("few", b"y"))
    turns = 0
    while not all(con.output.size for con in few):
        go_on(harness)
        turns += 1
    assert turns <= 2 * 200 / SHARE + 2
    assert not many[-1].output.size


def test_a_message_that_waits_for_members_is_counted_once() -> None:
    harness = Slow()
    cons = [harness.raw() for _ in range(300)]
    linked = joined(harness, *cons)
    before = harness.registry.flow.accounted
    data = b"x" * 100_000
    linked.say(Publish("g", data))
    waiting = harness.registry.flow.accounted - before
    assert len(data) < waiting < 3 * len(data), "as it came, and as it is sent"
    while harness.registry.outgoing.broadcasts:
        go_on(harness)
    for con in cons:
        assert harness.write(con) == data
    assert harness.registry.flow.shared == 0


def test_the_share_of_a_turn_follows_the_time_of_a_write() -> None:
    outgoing = Harness().registry.outgoing
    for seconds, share in ((BROADCAST_TIME / 64, 64), (1.0, LEAST_SHARE), (0.0, MOST_SHARE)):
        for _ in range(20):
            outgoing.pace(seconds)
        assert share - 1 <= outgoing.share <= share
    before = outgoing.share
    outgoing.pace(1.0)
    assert outgoing.share >= before // 2, "once it may have waited for the core"


def test_a_member_whose_kernel_is_full_is_not_written_to() -> None:
    harness = Harness()
    cons = [harness.raw() for _ in range(2)]
    linked = joined(harness, *cons)
    full = cons[0]
    for con in cons:
        con.endpoint = object()
    linked.say(Publish("g", b"x"))
    assert set(harness.registry.dirty) >= set(cons)
    harness.write(cons[1])
    # Output that was written in part waits until the kernel has room.
    harness.registry.dirty.clear()
    harness.registry.wrote(entry_of(full))
    linked.say(Publish("g", b"yy"))
    assert cons[1] in harness.registry.dirty
    assert full not in harness.registry.dirty
    assert entry_of(full).output_counted == 3


@pytest.mark.parametrize("overflow", ["close", "drop-oldest", "drop-newest"])
def test_members_that_never_read_delay_nobody(overflow: str) -> None:
    """The other members get each message in the same number of turns; those that never read
    reach their limit.
    """

    def turns_of(slow: int) -> tuple[list[int], list[Connection]]:
        harness = Slow(output_limit=5000, overflow=overflow)
        asleep = [harness.raw() for _ in range(slow)]
        awake = [harness.raw() for _ in range(250)]
        mixed = asleep + awake
        random.Random(1).shuffle(mixed)
        linked = joined(harness, *mixed)
        linked.work()
        for con in mixed:
            con.endpoint = object()
        took = []
        for n in range(60):
            harness.now += 1.0
            harness.registry.flow.now = harness.now
            data = b"%060d" % n * 10
            linked.say(Publish("g", data))
            turns = 0
            while not all(con.output.size for con in awake):
                turns += 1
                go_on(harness)
                harness.registry.outgoing.close_overflowing(harness.now)
            took.append(turns)
            while harness.registry.outgoing.broadcasts:
                go_on(harness)
            assert {harness.write(con) for con in awake} == {data}
            # Handlers are told which connections were closed.
            linked.work()
        return took, asleep

    alone, _ = turns_of(0)
    beside, asleep = turns_of(50)
    assert len(asleep) == 50
    more = 1 + 50 // SHARE
    assert max(beside) <= max(alone) + more
    if overflow == "close":
        # Closed members cost nothing.
        assert beside[-1] == alone[-1]
        assert {con.ending.cause for con in asleep} == {"overflow"}
    else:
        assert {con.state for con in asleep} == {ConnectionState.OPEN}
        assert max(con.output.size for con in asleep) <= 5000


def test_members_may_leave_while_a_message_is_being_published() -> None:
    """The members at the time of the publish get the message; those that have left meanwhile do
    no harm.
    """
    harness = Slow()
    cons = [harness.raw() for _ in range(300)]
    linked = joined(harness, *cons)
    late = harness.raw()
    linked.work()
    linked.say(Publish("g", b"x"), Leave(cons[-1].id, "g"), Join(late.id, "g"))
    harness.hang_up(cons[-2])
    linked.work()
    while harness.sessions.backlog.go_on(0.0):
        harness.registry.dirty.clear()
    assert harness.write(cons[-1]) == b"x"
    assert harness.write(late) == b""
    assert not harness.registry.outgoing.broadcasts


@pytest.mark.parametrize("seed", range(20))
def test_each_member_gets_published_messages_in_order(seed: int) -> None:
    """Two workers publish to large groups, send and close, with turns in between."""
    choose = random.Random(seed)
    harness = Slow()
    cons = [harness.raw() for _ in range(150)]
    one, two = joined(harness, *cons), harness.worker()
    expected: dict[int, bytes] = {con.id: b"" for con in cons}
    for n in range(60):
        linked = choose.choice((one, two))
        data = b"%d," % n
        if choose.random() < 0.5:
            linked.say(Publish("g", data))
            for con in cons:
                expected[con.id] += data
        else:
            con = choose.choice(cons)
            linked.say(Send(con.id, data))
            expected[con.id] += data
        while choose.random() < 0.3 or len(harness.registry.outgoing.broadcasts) >= MOST_BROADCASTS:
            harness.sessions.backlog.go_on(0.0)
            harness.registry.dirty.clear()
    last = choose.choice(cons)
    one.say(Publish("g", b"last"), Close(last.id))
    assert last.state is ConnectionState.CLOSED
    while harness.sessions.backlog.go_on(0.0):
        harness.registry.dirty.clear()
    for con in cons:
        assert harness.write(con) == expected[con.id] + b"last"


def test_a_worker_that_publishes_too_much_waits_alone() -> None:
    harness = Slow()
    cons = [harness.raw() for _ in range(1000)]
    one, two = joined(harness, *cons), harness.worker()
    other = harness.raw()
    two.work()
    one.say(*[Publish("g", b"%02d" % n) for n in range(40)], Send(other.id, b"one"))
    assert len(harness.registry.outgoing.broadcasts) == MOST_BROADCASTS
    assert not other.output.size
    two.say(Send(other.id, b"two"))
    assert harness.write(other) == b"two"
    turns = 0
    while harness.sessions.backlog.go_on(0.0):
        harness.registry.dirty.clear()
        turns += 1
    assert harness.write(other) == b"one"
    assert turns < 40 * 1000 / SHARE / 4, "those on their way together are one write"
    assert harness.write(cons[-1]) == b"".join(b"%02d" % n for n in range(40))


@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("way", ["send", "publish"])
def test_a_large_message_is_compressed_piece_by_piece(takeover: bool, way: str) -> None:
    """A message of 40 MiB once delayed all clients for two seconds."""
    harness = Slow(deflate_context_takeover=takeover)
    one, two = harness.worker(), harness.worker()
    client, other = Client(harness, deflate=True), Client(harness)
    for linked in (one, two):
        linked.work()
    con = client.con.id
    one.say(Join(con, "g"))
    data = large()
    command = Send(con, data, "text") if way == "send" else Publish("g", data, "text")
    one.say(command, Send(other.con.id, b"o", "text"), Send(con, b"1", "text"))
    two.say(Send(con, b"2", "text"))
    two.say(Publish("g", b"3", "text"))
    assert other.read() == [("TEXT", b"o", True)], "others of that batch do not wait"
    turns = 0
    while harness.sessions.is_busy and harness.sessions.backlog.go_on(0.0):
        harness.registry.dirty.clear()
        turns += 1
    assert turns >= len(data) // DEFLATED
    assert client.read() == [("TEXT", part, True) for part in (data, b"1", b"2", b"3")]
    assert harness.registry.flow.total == 0


def test_a_close_comes_after_the_large_message_before_it() -> None:
    harness = Slow()
    linked = harness.worker()
    client = Client(harness, deflate=True)
    linked.work()
    data = large()
    sent = (Send(client.con.id, data, "text"), Close(client.con.id, 4000, "bye"))
    linked.say(*sent, Send(client.con.id, b"never", "text"))
    assert client.con.state is ConnectionState.OPEN
    while harness.sessions.backlog.go_on(0.0):
        pass
    client.protocol.receive_data(harness.write(client.con))
    frames = [event for event in client.protocol.events_received() if isinstance(event, Frame)]
    assert [frame.opcode.name for frame in frames] == ["TEXT", "CLOSE"]
    assert bytes(frames[0].data) == data
    assert harness.registry.flow.total == 0


@pytest.mark.parametrize("end", ["reset", "session"])
def test_a_large_message_is_finished_after_its_session_has_ended(end: str) -> None:
    harness = Slow()
    one, two = harness.worker(), harness.worker()
    client = Client(harness, deflate=True)
    for linked in (one, two):
        linked.work()
    data = large()
    one.say(Send(client.con.id, data, "text"))
    if end == "reset":
        harness.hang_up(client.con)
        one.work()
        two.work()
    else:
        harness.sessions.end(one.worker, 0.0, died=True)
    while harness.sessions.backlog.go_on(0.0):
        pass
    assert not harness.registry.outgoing.compressing
    if end == "session":
        assert client.read() == [("TEXT", data, True)]
    assert harness.registry.flow.total == 0


# --- slow clients, and clients that are sent much at once ---


@pytest.mark.parametrize("count", [10, 60])
def test_a_fast_client_gets_much_that_is_sent_at_once(count: int) -> None:
    harness = Harness(output_limit=4 << 20)
    con = harness.raw()
    linked = joined(harness, con)
    sent = [bytes([n]) * 1_000_000 for n in range(count)]
    linked.say(*(Send(con.id, data) for data in sent))
    got = bytearray()
    while con.output.size:
        got += harness.write(con, 300_000)
        harness.now += 0.5
        if harness.now % 5 == 0:
            # More output is allowed meanwhile, as long as the queue does not grow.
            linked.say(Send(con.id, b"x"))
            sent.append(b"x")
    assert bytes(got) == b"".join(sent)
    linked.say(*(Send(con.id, data) for data in sent[:count]))
    assert con.state is ConnectionState.OPEN, "and again, once it has taken that"


@pytest.mark.parametrize("taken", [0, 400, 900])
def test_a_client_that_reads_less_than_is_sent_is_slow(taken: int) -> None:
    harness = Harness(output_limit=10_000)
    con = harness.raw()
    linked = joined(harness, con)
    most = 0
    for _ in range(2000):
        linked.say(Send(con.id, b"x" * 100))
        harness.turn()
        harness.now += 0.01
        if harness.now % 0.1 < 0.01:
            harness.write(con, taken)
        most = max(most, con.output.size)
        if con.state is not ConnectionState.OPEN:
            break
    assert con.ending.cause == "overflow"
    assert most <= 10_000 + 2 * 100 / 0.01


def test_no_connection_has_more_output_than_one_batch_above_the_limit() -> None:
    harness = Harness(output_limit=10_000)
    con = harness.raw()
    linked = joined(harness, con)
    for _ in range(66):
        linked.say(Send(con.id, bytes(1 << 20)))
    harness.turn()
    assert con.ending.cause == "overflow"


def test_a_connection_above_the_limit_that_its_handler_has_closed_gets_its_last_bytes() -> None:
    harness = Harness(output_limit=10_000)
    con = harness.raw()
    linked = joined(harness, con)
    data = bytes(LARGEST_BATCH + 10_001)
    linked.say(Send(con.id, data), Close(con.id))
    harness.turn()
    assert con.ending.cause == "handler"
    assert harness.write(con) == data
