"""The gateway forwards between two connections: nothing is lost, duplicated or reordered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.gateway.connection.connection import Connection, ConnectionState
from wsraw.gateway.delivery.entry import PAUSED_OWN
from wsraw.link.records import (
    Close,
    Join,
    OnClose,
    OnConnect,
    OnMessage,
    Open,
    Publish,
    Send,
    Splice,
)

CLOSED = ConnectionState.CLOSED


class Peer:
    """The other end of a connection: raw, or a third-party WebSocket."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.con: Any = None
        self.protocol: Protocol | None = None
        self.bytes = b""
        self.frames: list[tuple[str, bytes, bool]] = []

    @classmethod
    def accepted(cls, harness: Harness, kind: str, deflate: bool = False) -> Peer:
        self = cls(harness)
        if kind == "raw":
            self.con = harness.raw(b"!")
            return self
        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        client = ClientProtocol(parse_uri("ws://h/"), extensions=extensions, max_size=None)
        client.send_request(client.connect())
        self.protocol = client
        self.con = harness.raw(b"".join(client.data_to_send()))
        self.read()
        return self

    @classmethod
    def opened(cls, harness: Harness, con: Connection, deflate: bool = False) -> Peer:
        """The connection that a handler has opened connects."""
        self = cls(harness)
        self.con = con
        harness.registry.take(con, con.connected(harness.now), harness.now)
        if con.websocket is not None:
            extensions = [ServerPerMessageDeflateFactory()] if deflate else None
            self.protocol = server = ServerProtocol(extensions=extensions, max_size=None)
            server.receive_data(harness.write(con))
            [request] = server.events_received()
            assert isinstance(request, Request)
            server.send_response(server.accept(request))
            self._flush()
        return self

    def read(self, size: int | None = None) -> None:
        """Receive what the gateway writes."""
        data = self.harness.write(self.con, size)
        if self.protocol is None:
            self.bytes += data
            return
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Frame) and event.opcode in (
                Opcode.TEXT,
                Opcode.BINARY,
                Opcode.CONT,
            ):
                self.frames.append((event.opcode.name, bytes(event.data), event.fin))
                self.bytes += event.data

    @property
    def closed_with(self) -> tuple[int, str]:
        """The close frame that has arrived."""
        assert self.protocol is not None
        close = self.protocol.close_rcvd
        return (close.code, close.reason) if close is not None else (0, "")

    def say(self, data: bytes, cut: int = 0) -> None:
        """Send bytes, or a message."""
        if self.con.state is CLOSED:
            return
        if self.protocol is None:
            self._feed(data, cut)
        else:
            self.protocol.send_binary(data)
            self._flush(cut)

    def send_frame(self, frame: Frame) -> None:
        assert self.protocol is not None
        self.protocol.send_frame(frame)
        self._flush()

    def close(self, code: int, reason: str = "") -> None:
        assert self.protocol is not None
        self.protocol.send_close(code, reason)
        self._flush()

    def _flush(self, cut: int = 0) -> None:
        assert self.protocol is not None
        self._feed(b"".join(self.protocol.data_to_send()), cut)

    def _feed(self, data: bytes, cut: int) -> None:
        for part in (data[:cut], data[cut:]):
            if part:
                self.harness.say(self.con, part)

    def resume(self) -> None:
        """Parse the data that was held back, as far as pauses allow."""
        con, harness = self.con, self.harness
        while con.intake.has_more and not entry_of(con).pauses:
            harness.registry.take(con, con.resume(harness.now), harness.now)

    def eof(self) -> None:
        self.harness.registry.receive_eof(self.con, self.harness.now)


class Pair:
    """A client, the connection that its handler has opened, and the worker of both."""

    def __init__(self, kinds: tuple[str, str], deflate: bool = False, **changes: Any) -> None:
        self.harness = Harness(**changes)
        self.worker = self.harness.worker()
        self.client = Peer.accepted(self.harness, kinds[0], deflate)
        self.harness.turn()
        self.target_id = self.worker.link.new_id()
        target = "ws://h:1/" if kinds[1] == "ws" else "tcp://h:1"
        kind = "websocket" if kinds[1] == "ws" else "raw"
        first = self.worker.events[0]
        asked = Open(self.target_id, target, kind, "/", "", "", {"during": self.client.con.id})
        self.worker.ack(first, commands=(asked,))
        self.worker.work()
        self.target_con = self.harness.registry.entries[self.target_id].con
        self.deflate = deflate
        self.target: Any = None

    def connect(self) -> None:
        self.target = Peer.opened(self.harness, self.target_con, self.deflate)
        self.harness.turn()

    def splice(self, **options: Any) -> None:
        record = Splice(self.client.con.id, self.target_id, options=options)
        assert self.worker.refused(record) == ""

    def spliced(self, **options: Any) -> tuple[Peer, Peer]:
        """Both peers, spliced."""
        self.connect()
        self.worker.work()
        self.splice(**options)
        return self.client, self.target

    def settle(self) -> None:
        for _ in range(6):
            self.worker.work()
            for peer in (self.client, self.target):
                if peer is not None:
                    peer.read()
                    peer.resume()


KINDS = [("raw", "raw"), ("ws", "raw"), ("raw", "ws"), ("ws", "ws")]
in_all_kinds = pytest.mark.parametrize("kinds", KINDS, ids="-".join)


@in_all_kinds
@pytest.mark.parametrize("deflate", [False, True])
def test_what_one_side_sends_the_other_one_gets(kinds: tuple[str, str], deflate: bool) -> None:
    pair = Pair(kinds, deflate)
    client, target = pair.spliced()
    for n in range(20):
        client.say(b"up%d " % n, n)
        target.say(b"down%d " % n, n)
        if n % 3 == 0:
            client.read()
            target.read()
    pair.settle()
    assert target.bytes == b"".join(b"up%d " % n for n in range(20))
    assert client.bytes == b"".join(b"down%d " % n for n in range(20))
    assert not pair.worker.take(OnMessage)


class Handler:
    """Handles events in order, and splices in the handler of one of them."""

    def __init__(self, pair: Pair, splice_at: int) -> None:
        self.pair = pair
        self.worker: LinkedWorker = pair.worker
        self.splice_at = splice_at
        self.seen: dict[int, bytes] = {pair.client.con.id: b"", pair.target_id: b""}
        self.messages = 0
        self.is_spliced = False

    def command(self, event: Any) -> Splice:
        return Splice(self.pair.client.con.id, self.pair.target_id, event.seq, event.seq)

    def handle(self, how_many: int) -> None:
        """Handle events; their acks and commands leave in one batch."""
        events = self.worker.events[:how_many]
        commands = []
        for event in events:
            if type(event) is not OnMessage or self.is_spliced:
                continue
            self.seen[event.con] += event.data
            self.messages += 1
            if self.messages >= self.splice_at:
                commands.append(self.command(event))
                self.is_spliced = True
        if events:
            self.worker.ack(*events, commands=tuple(commands))

    def splice_early(self) -> None:
        """Splice before the ack, as with flush(), while the handler still runs."""
        messages = [event for event in self.worker.events if type(event) is OnMessage]
        if messages and not self.is_spliced and messages[0] is self.worker.events[0]:
            self.worker.say(self.command(messages[0]))
            self.splice_at = self.messages + 1

    def die(self) -> None:
        """Die with unacked events; another worker gets them."""
        harness = self.pair.harness
        harness.sessions.end(self.worker.worker, harness.now, died=True)
        harness.linked_workers.remove(self.worker)
        self.worker = self.pair.worker = harness.worker()
        self.is_spliced = False
        harness.turn()


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["up", "down"]), st.integers(0, 9)),
        st.tuples(st.just("handle"), st.integers(1, 6)),
        st.tuples(st.sampled_from(["turn", "early", "connect", "die"]), st.just(0)),
        st.tuples(st.sampled_from(["read up", "read down"]), st.integers(1, 40)),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(KINDS), st.integers(1, 6), steps)
def test_nothing_is_lost_doubled_or_reordered_at_a_splice(
    kinds: tuple[str, str], splice_at: int, steps: list[tuple[str, int]]
) -> None:
    """The splice may come at any moment, and workers may die at any moment."""
    pair = Pair(kinds, max_deliveries=1000)
    handler = Handler(pair, splice_at)
    sent = {"up": b"", "down": b""}
    n = 0

    def step(what: str, number: int) -> None:
        nonlocal n
        if what in sent:
            peer = pair.client if what == "up" else pair.target
            if peer is not None:
                n += 1
                sent[what] += b"%s%d " % (what.encode(), n)
                peer.say(b"%s%d " % (what.encode(), n), number)
        elif what == "handle":
            handler.handle(number)
        elif what == "turn":
            pair.harness.turn()
        elif what == "early":
            handler.splice_early()
        elif what == "connect" and pair.target is None:
            pair.connect()
        elif what == "die":
            handler.die()
        elif what == "read up" and pair.target is not None:
            pair.target.read(number)
        elif what == "read down":
            pair.client.read(number)

    for what, number in steps:
        step(what, number)
    step("connect", 0)
    # There are enough messages for the splice to happen in any case.
    for _ in range(splice_at + 2):
        step("up", 0)
        step("turn", 0)
        handler.handle(100)
    for _ in range(3):
        step("up", 0)
        step("down", 0)
    for _ in range(10):
        step("turn", 0)
        handler.handle(100)
        pair.client.read()
        pair.target.read()
    assert handler.seen[pair.client.con.id] + pair.target.bytes == sent["up"]
    assert handler.seen[pair.target_id] + pair.client.bytes == sent["down"]
    for con in (pair.client.con, pair.target_con):
        entry = entry_of(con)
        assert (entry.event_bytes, entry.in_flight, len(entry.parked)) == (0, 0, 0)
    assert pair.harness.registry.flow.total == 0


def test_messages_of_a_handler_that_has_begun_come_first() -> None:
    """The sends of the handler reach the other side before data that came after its event."""
    pair = Pair(("raw", "raw"))
    pair.connect()
    pair.client.say(b"1")
    pair.harness.turn()
    pair.client.say(b"2")
    pair.harness.turn()
    first, second = pair.worker.events
    pair.worker.say(Splice(pair.client.con.id, pair.target_id, first.seq, first.seq))
    pair.client.say(b"3")
    pair.target.read()
    assert pair.target.bytes == b""
    pair.worker.ack(second)
    pair.harness.turn()
    pair.target.read()
    assert pair.target.bytes == b""
    pair.worker.ack(first)
    pair.harness.turn()
    pair.target.read()
    assert pair.target.bytes == b"23"


@in_all_kinds
def test_the_full_output_of_one_side_pauses_the_other(kinds: tuple[str, str]) -> None:
    pair = Pair(kinds, high_water_mark=10_000)
    client, target = pair.spliced()
    sent = 0
    while not entry_of(client.con).pauses:
        client.say(b"x" * 1000)
        sent += 1000
        assert sent < 20_000
    assert not entry_of(target.con).pauses
    target.say(b"answer")
    pair.harness.turn()
    target.read()
    assert not entry_of(client.con).pauses
    client.read()
    assert (len(target.bytes), client.bytes) == (sent, b"answer")


def test_own_output_pauses_nobody_once_it_is_spliced() -> None:
    """A peer that answers before it reads on would otherwise wait for ever."""
    pair = Pair(("raw", "raw"), high_water_mark=10_000)
    pair.connect()
    pair.worker.work()
    pair.worker.say(Send(pair.target_id, b"x" * 20_000))
    assert entry_of(pair.target_con).pauses == PAUSED_OWN
    pair.splice()
    assert not entry_of(pair.target_con).pauses
    pair.target.say(b"answer")
    pair.settle()
    assert pair.client.bytes == b"answer"


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_a_close_frame_goes_through_with_code_and_reason(code: int) -> None:
    pair = Pair(("ws", "ws"))
    client, target = pair.spliced()
    client.say(b"last words")
    client.close(code, "enough")
    pair.settle()
    assert target.bytes == b"last words"
    assert target.closed_with == (code, "enough")


def test_texts_and_fragments_stay_what_they_are() -> None:
    pair = Pair(("ws", "ws"))
    client, target = pair.spliced()
    frames = [(Opcode.TEXT, "grü", False), (Opcode.CONT, "ße", True), (Opcode.BINARY, "b", True)]
    for opcode, text, final in frames:
        client.send_frame(Frame(opcode, text.encode(), final))
    pair.settle()
    assert target.frames == [
        ("TEXT", "grü".encode(), False), ("CONT", "ße".encode(), True), ("BINARY", b"b", True)
    ]  # fmt: skip


def test_what_others_send_waits_for_the_end_of_a_forwarded_message() -> None:
    pair = Pair(("ws", "ws"))
    client, target = pair.spliced()
    pair.worker.say(Join(pair.target_id, "g"))
    client.send_frame(Frame(Opcode.TEXT, b"one ", False))
    pair.worker.say(Publish("g", b"news", "text"))
    target.read()
    pair.harness.run(60.0)
    client.send_frame(Frame(Opcode.CONT, b"message", True))
    pair.settle()
    assert [data for _, data, _ in target.frames] == [b"one ", b"message", b"news"]


def test_large_compressed_messages_hold_up_the_sender_and_stay_in_order() -> None:
    pair = Pair(("ws", "ws"), deflate=True, max_message_size=1 << 20)
    client, target = pair.spliced()
    messages = [bytes([n]) * 300_000 for n in range(6)]
    for message in messages:
        client.say(message)
    held = 0
    for _ in range(200):
        pair.settle()
        held += pair.target_con.is_making
        assert bool(entry_of(client.con).pauses) == pair.target_con.is_making
    assert held > len(messages)
    assert [data for _, data, _ in target.frames] == messages
    assert not entry_of(client.con).pauses


def test_raw_half_closes_go_through_and_both_sides_end_when_both_have_ended() -> None:
    pair = Pair(("raw", "raw"))
    client, target = pair.spliced()
    client.say(b"question")
    client.eof()
    splices = pair.harness.sessions.splices
    target.con.endpoint = object()
    assert splices.take_shut() == []
    target.read()
    assert target.bytes == b"question"
    assert splices.take_shut() == [target.con]
    pair.harness.run(600.0)
    target.say(b"answer")
    client.read()
    assert client.bytes == b"answer"
    target.say(b" and more")
    target.eof()
    assert client.con.state is not CLOSED
    client.read()
    target.read()
    pair.harness.turn()
    assert client.bytes == b"answer and more"
    assert (client.con.ending.cause, target.con.ending.cause) == ("eof", "eof")
    assert not client.con.output.reset
    closes = [each for each in pair.worker.work() if type(each) is OnClose]
    assert sorted(each.con for each in closes) == sorted((client.con.id, target.con.id))


def test_a_target_that_ends_closes_its_websocket_client_behind_its_last_bytes() -> None:
    pair = Pair(("ws", "raw"))
    client, target = pair.spliced()
    target.say(b"bye")
    target.eof()
    pair.settle()
    assert client.bytes == b"bye"
    assert client.closed_with[0] == 1000
    assert target.con.ending.cause == "eof"


def test_a_raw_client_that_has_sent_fin_gets_the_answer_of_its_websocket() -> None:
    pair = Pair(("raw", "ws"), close_timeout=5.0)
    client, target = pair.spliced()
    client.say(b"question")
    client.eof()
    pair.settle()
    pair.harness.run(3.0)
    target.say(b"answer")
    pair.settle()
    pair.harness.run(3.0)
    assert (client.bytes, client.con.state is CLOSED) == (b"answer", False)
    pair.harness.run(4.0)
    pair.settle()
    assert client.con.ending.cause == "eof"
    assert target.closed_with[0] == 1000


@in_all_kinds
@pytest.mark.parametrize("side", ["client", "target"])
def test_a_reset_ends_the_other_side_at_once(kinds: tuple[str, str], side: str) -> None:
    pair = Pair(kinds)
    client, target = pair.spliced()
    gone, other = (client, target) if side == "client" else (target, client)
    gone.say(b"before")
    pair.harness.hang_up(gone.con)
    pair.settle()
    assert other.bytes == b"before"
    if other.protocol is None:
        assert other.con.output.ends_with_reset
    else:
        assert other.closed_with[0] == (1001 if side == "client" else 1014)
    assert other.con.ending.cause == "spliced"


@in_all_kinds
def test_a_target_that_cannot_be_reached_ends_the_client(kinds: tuple[str, str]) -> None:
    pair = Pair(kinds)
    pair.splice()
    con = pair.target_con
    pair.client.say(b"lost")
    pair.harness.registry.take(con, con.connect_failed("refused", 0.0), 0.0)
    pair.settle()
    if kinds[0] == "raw":
        assert pair.client.con.output.ends_with_reset
    else:
        assert pair.client.closed_with[0] == 1014
        assert pair.client.closed_with[1] == "the target cannot be reached"


@in_all_kinds
def test_what_a_client_has_sent_before_it_left_reaches_a_target_that_opens_late(
    kinds: tuple[str, str],
) -> None:
    pair = Pair(kinds)
    pair.splice()
    pair.client.say(b"early")
    if kinds[0] == "ws":
        pair.client.close(1000)
    else:
        pair.client.eof()
    pair.connect()
    pair.settle()
    assert pair.target.bytes == b"early"


def test_a_connection_that_has_ended_before_it_is_spliced_ends_the_other() -> None:
    for is_forgotten in (False, True):
        pair = Pair(("ws", "raw"))
        con = pair.target_con
        pair.harness.registry.take(con, con.connect_failed("refused", 0.0), 0.0)
        if is_forgotten:
            pair.worker.work()
        pair.splice()
        pair.client.read()
        assert pair.client.closed_with[0] == 1014


def test_a_handler_that_closes_one_side_closes_both() -> None:
    pair = Pair(("ws", "ws"))
    client, target = pair.spliced()
    pair.worker.say(Close(client.con.id, 4000, "by the handler"))
    client.read()
    client._flush()
    pair.settle()
    assert target.closed_with == (4000, "by the handler")


def test_the_worker_of_a_splice_may_leave() -> None:
    """Both connections stay, and another worker gets their on_close."""
    pair = Pair(("raw", "raw"))
    client, target = pair.spliced()
    Handler(pair, 1).die()
    client.say(b"still there")
    pair.settle()
    assert target.bytes == b"still there"
    pair.harness.hang_up(client.con)
    closes = [each for each in pair.worker.work() if type(each) is OnClose]
    assert {each.con for each in closes} == {client.con.id, target.con.id}


def test_a_connection_opened_outside_events_stays_with_its_partner() -> None:
    pair = Pair(("raw", "raw"))
    con = pair.worker.link.new_id()
    pair.worker.say(Open(con, "tcp://h:2", "raw", "/", "", "", {}))
    assert pair.worker.refused(Splice(pair.client.con.id, con)) == ""
    Handler(pair, 1).die()
    assert pair.harness.registry.entries[con].con.state is not CLOSED


@pytest.mark.parametrize(
    ("framing", "stream", "messages"),
    [
        ("line", b"one\ntwo\r\nrest", [("TEXT", b"one"), ("TEXT", b"two"), ("TEXT", b"rest")]),
        ("length", b"\0\0\0\3one\0\0\0\0", [("BINARY", b"one"), ("BINARY", b"")]),
    ],
)
def test_a_raw_side_can_be_framed(
    framing: str, stream: bytes, messages: list[tuple[str, bytes]]
) -> None:
    for cut in range(len(stream)):
        pair = Pair(("raw", "ws"))
        client, target = pair.spliced(framing=framing)
        client.say(stream, cut)
        target.send_frame(Frame(Opcode.TEXT, b"an ", False))
        target.send_frame(Frame(Opcode.CONT, b"answer", True))
        client.eof()
        pair.settle()
        assert [(name, data) for name, data, _ in target.frames] == messages
        assert client.bytes == {"line": b"an answer\n", "length": b"\0\0\0\x09an answer"}[framing]


@pytest.mark.parametrize(
    ("framing", "data"),
    [("line", b"x" * 200), ("length", b"\0\0\1\0"), ("line", b"\xff\n")],
)
def test_bytes_that_cannot_be_messages_end_both_sides(framing: str, data: bytes) -> None:
    pair = Pair(("raw", "ws"), max_message_size=100)
    client, target = pair.spliced(framing=framing)
    client.say(data)
    pair.settle()
    assert client.con.output.reset
    assert target.closed_with[0] == 1001


@pytest.mark.parametrize(
    ("framing", "data", "cause", "counts"),
    [
        ("line", b"x" * 200, "too-big", {"max_message_size": 1}),
        ("length", b"\0\0\1\0", "too-big", {"max_message_size": 1}),
        ("line", b"\xff\n", "invalid-data", {}),
    ],
)
def test_the_cause_of_the_end_is_what_the_peer_has_sent(
    framing: str, data: bytes, cause: str, counts: dict[str, int]
) -> None:
    pair = Pair(("raw", "ws"), max_message_size=100)
    client, _ = pair.spliced(framing=framing)
    client.say(data)
    pair.settle()
    assert client.con.ending.cause == cause
    assert pair.harness.registry.counters.counts == counts


@pytest.mark.parametrize(
    ("framing", "data"), [("line", b"\xff\ngood\n"), ("length", b"\xff\xff\xff\xff")]
)
def test_nothing_is_forwarded_behind_what_cannot_be(
    framing: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds for later data in the same bytes, and for data that has waited for a handler."""
    pair = Pair(("raw", "ws"))
    pair.connect()
    pair.worker.work()
    for _ in range(3):
        pair.client.say(data)
    pair.splice(framing=framing)
    pair.settle()
    assert pair.client.con.state is CLOSED
    assert pair.target.frames == []
    assert caplog.text.count("cannot be forwarded") == 1


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize(
    ("kinds", "framing"),
    [(("raw", "ws"), "line"), (("raw", "ws"), "length"), (("ws", "raw"), "length")],
)
def test_parts_of_messages_count_in_the_memory_of_all(
    kinds: tuple[str, str], framing: str, closes: bool
) -> None:
    """A thousand clients that never finish a line would take a gigabyte."""
    pair = Pair(kinds)
    registry = pair.harness.registry
    client, target = pair.spliced(framing=framing)
    before = registry.flow.accounted
    for n in range(10):
        if kinds[0] == "ws":
            client.send_frame(Frame(Opcode.CONT if n else Opcode.BINARY, b"x" * 5000, False))
        else:
            client.say(b"x" * 5000 if n or framing == "line" else b"\0\1\0\0" + b"x" * 4996)
    pair.settle()
    registry.flow.check_memory(list(registry.entries.values()))
    assert before + 49_000 < registry.flow.accounted < before + 60_000
    assert target.bytes == b""
    if closes:
        # The handlers have not heard of the connection yet.
        registry.abort(entry_of(client.con), 1013, "memory", "", pair.harness.now)
    elif kinds[0] == "ws":
        client.send_frame(Frame(Opcode.CONT, b"", True))
    else:
        client.say(b"x" * (65_535 - 49_996) + b"\n")
    if not closes:
        pair.settle()
        assert len(target.bytes) > 49_996
    registry.flow.check_memory(list(registry.entries.values()))
    assert registry.flow.accounted < before + 10_000


def test_impossible_splices_are_refused() -> None:
    pair = Pair(("raw", "raw"))
    worker, client = pair.worker, pair.client.con.id
    third = worker.link.new_id()
    worker.say(Open(third, "tcp://h:2", "raw", "/", "", "", {}))
    assert "with itself" in worker.refused(Splice(client, client))
    assert "is not one of" in worker.refused(Splice(client, third, options={"framing": "x"}))
    assert "never given out" in worker.refused(Splice(client, 3))
    assert worker.refused(Splice(client, pair.target_id)) == ""
    assert worker.refused(Splice(pair.target_id, client)) == ""
    assert f"is spliced with {pair.target_id} already" in worker.refused(Splice(client, third))
    assert f"is spliced with {client} already" in worker.refused(Splice(third, pair.target_id))


def test_on_connect_of_a_spliced_connection_still_comes() -> None:
    pair = Pair(("ws", "ws"))
    pair.splice()
    pair.connect()
    assert [type(event) for event in pair.worker.work()] == [OnConnect]


@pytest.mark.parametrize("kind", ["raw", "ws"])
@pytest.mark.parametrize("with_which", ["client", "target"])
def test_a_refused_splice_closes_whoever_would_wait_for_it(kind: str, with_which: str) -> None:
    """A worker handles no more events of a connection that it has spliced."""
    pair = Pair(("ws", "raw"))
    client, target = pair.spliced()
    stranger = Peer.accepted(pair.harness, kind)
    pair.worker.work()
    # Not handled, so they would be lost if the connection stayed open.
    stranger.say(b"for the handler")
    pair.harness.turn()
    partner = client.con.id if with_which == "client" else pair.target_id
    assert "is spliced with" in pair.worker.refused(Splice(stranger.con.id, partner))
    stranger.read()
    if kind == "ws":
        assert stranger.closed_with == (1011, "it cannot be spliced")
    assert [event.con for event in pair.worker.work() if type(event) is OnClose] == (
        [stranger.con.id] if kind == "raw" else []
    )
    client.say(b"up")
    target.say(b"down")
    pair.settle()
    assert (target.bytes, client.bytes) == (b"up", b"down")


def test_a_splice_with_an_id_of_nobody_closes_the_other_one() -> None:
    harness = Harness()
    worker = harness.worker()
    client = Peer.accepted(harness, "ws")
    worker.work()
    assert "was never given out" in worker.refused(Splice(client.con.id, 3))
    client.read()
    assert client.closed_with == (1011, "it cannot be spliced")
