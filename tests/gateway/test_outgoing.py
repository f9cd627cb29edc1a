from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from stage import Mate, Stage, route_of
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame
from websockets.uri import parse_uri

from wsraw import messages as m
from wsraw.gateway.connection import Connection, ConnectionState
from wsraw.gateway.framed import Framed
from wsraw.gateway.outgoing import FRAGMENT_TIMEOUT


class Client:
    """A WebSocket client that nobody here wrote, on the other side of a connection."""

    def __init__(self, stage: Stage, deflate: bool = False) -> None:
        extensions = [ClientPerMessageDeflateFactory()] if deflate else None
        self.protocol = ClientProtocol(parse_uri("ws://h/"), extensions=extensions)
        self.stage = stage
        self.protocol.send_request(self.protocol.connect())
        self.con = stage.raw(b"".join(self.protocol.data_to_send()))
        self.read()
        assert bool(self.protocol.extensions) == deflate

    def read(self) -> list[tuple[str, bytes, bool]]:
        """The frames that have come: opcode, data, final."""
        self.protocol.receive_data(self.stage.write(self.con))
        return [
            (event.opcode.name, bytes(event.data), event.fin)
            for event in self.protocol.events_received()
            if isinstance(event, Frame)
        ]


def pieces(con: int, *datas: bytes, kind: str = "text", finish: bool = True) -> list[m.Send]:
    last = len(datas) - 1
    return [m.Send(con, data, kind, finish and n == last) for n, data in enumerate(datas)]


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def mates(stage: Stage) -> tuple[Mate, Mate]:
    return stage.worker(), stage.worker()


@pytest.fixture
def client(stage: Stage, mates: tuple[Mate, Mate]) -> Client:
    client = Client(stage)
    for mate in mates:
        mate.work()
    return client


def refused(mate: Mate, *records: Any) -> str:
    return " ".join(mate.refused(record) for record in records)


# --- fragmented messages of two workers ---


def test_a_fragmented_message_arrives_in_its_pieces(
    mates: tuple[Mate, Mate], client: Client
) -> None:
    mates[0].say(*pieces(client.con.id, b"a", b"", b"b"))
    assert client.read() == [("TEXT", b"a", False), ("CONT", b"", False), ("CONT", b"b", True)]


def test_what_another_worker_sends_waits_behind_it(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    con = client.con.id
    one, two = mates
    begin, middle, end = pieces(con, b"a", b"b", b"c")
    one.say(begin)
    two.say(m.Send(con, b"late 1", "text"))
    one.say(middle)
    two.say(m.Send(con, b"late 2", "binary"))
    assert client.read() == [("TEXT", b"a", False), ("CONT", b"b", False)]
    assert stage.router.flow.total > 12, "what waits counts"
    one.say(end)
    assert client.read() == [
        ("CONT", b"c", True), ("TEXT", b"late 1", True), ("BINARY", b"late 2", True),
    ]  # fmt: skip
    assert stage.router.flow.total == 0
    assert not stage.router.outgoing.fragmented


def test_late_fragments_wait_for_one_another(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    con = client.con.id
    one, two = mates
    three = stage.worker()
    begin, end = pieces(con, b"1a", b"1b")
    one.say(begin)
    for late in pieces(con, b"2a", b"2b", b"2c")[:2]:
        two.say(late)
    three.say(m.Send(con, b"3", "text"))
    one.say(end)
    assert client.read() == [
        ("TEXT", b"1a", False),
        ("CONT", b"1b", True),
        ("TEXT", b"2a", False),
        ("CONT", b"2b", False),
    ]
    two.say(m.Send(con, b"2c", "text"))
    assert client.read() == [("CONT", b"2c", True), ("TEXT", b"3", True)]
    assert stage.router.flow.total == 0


def test_a_worker_s_own_fragments_do_not_wait(mates: tuple[Mate, Mate], client: Client) -> None:
    one, _ = mates
    for n in range(3):
        one.say(*pieces(client.con.id, b"%d" % n, b"x"))
    assert [frame[1] for frame in client.read()] == [b"0", b"x", b"1", b"x", b"2", b"x"]


def test_a_published_message_waits_too(mates: tuple[Mate, Mate], client: Client) -> None:
    con = client.con.id
    one, two = mates
    begin, end = pieces(con, b"a", b"b")
    one.say(m.Join(con, "g"), begin)
    two.say(m.Publish("g", b"published", "text"))
    assert client.read() == [("TEXT", b"a", False)]
    one.say(end)
    assert client.read() == [("CONT", b"b", True), ("TEXT", b"published", True)]


def test_raw_connections_know_no_fragments(stage: Stage, mates: tuple[Mate, Mate]) -> None:
    con = stage.raw()
    one, two = mates
    one.say(m.Send(con.id, b"a", "binary", False))
    two.say(m.Send(con.id, b"b", "text", True))
    one.say(m.Send(con.id, b"c", "binary", True))
    assert stage.write(con) == b"abc"
    assert not stage.router.outgoing.fragmented


@pytest.mark.parametrize(
    "second",
    [m.Send(0, b"\xff", "text", True), m.Send(0, b"x", "binary", True), m.Send(0, b"\xe2", "text")],
    ids=["not UTF-8", "another type", "a code point cut"],
)
def test_a_continuation_that_is_refused_ends_the_connection(
    stage: Stage, mates: tuple[Mate, Mate], client: Client, second: m.Send
) -> None:
    """The pieces that are out cannot be taken back, and what would follow could not be read."""
    second.con = con = client.con.id
    one, two = mates
    one.say(m.Send(con, b"a", "text", False))
    two.say(m.Send(con, b"late", "text"))
    assert refused(one, second)
    assert client.con.state is not ConnectionState.OPEN
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert stage.router.flow.total == 0, "what waited behind it is in no account any more"


def test_a_first_piece_that_is_refused_begins_nothing(
    mates: tuple[Mate, Mate], client: Client
) -> None:
    con = client.con.id
    one, two = mates
    assert refused(one, m.Send(con, b"\xff", "text", False))
    two.say(m.Send(con, b"not late", "text"))
    assert client.read() == [("TEXT", b"not late", True)]


def test_a_code_point_may_be_cut_by_a_piece(mates: tuple[Mate, Mate], client: Client) -> None:
    euro = "€".encode()
    mates[0].say(*pieces(client.con.id, euro[:1], euro[1:]))
    assert [frame[1] for frame in client.read()] == [euro[:1], euro[1:]]


def test_a_worker_that_leaves_in_the_middle_ends_the_connection(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    one, two = mates
    one.say(*pieces(client.con.id, b"a", finish=False))
    two.say(m.Send(client.con.id, b"late", "text"))
    one.link.bye()
    one.flush()
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert client.con.close_cause == "worker-died"
    assert not stage.router.outgoing.fragmented
    assert stage.router.flow.total == 0


def test_a_worker_that_left_before_its_late_piece_had_its_turn(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    con = client.con.id
    one, two = mates
    begin, end = pieces(con, b"a", b"b")
    one.say(begin)
    two.say(*pieces(con, b"never", finish=False))
    two.link.bye()
    two.flush()
    one.say(end)
    one.say(m.Send(con, b"mine", "text"))
    client.read()
    stage.run(3.0)
    over = client.con.state is not ConnectionState.OPEN
    assert over or not route_of(client.con).fragment, "nobody is there to finish it"


def test_a_message_must_be_finished_in_time(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    con = client.con.id
    one, two = mates
    one.say(*pieces(con, b"a", finish=False))
    stage.run(FRAGMENT_TIMEOUT)
    one.say(m.Send(con, b"b", "text", False))
    two.say(m.Send(con, b"late", "text"))
    assert client.con.state is ConnectionState.OPEN
    stage.run(1.0)
    client.read()
    assert client.protocol.close_rcvd.code == 1011
    assert not stage.router.outgoing.fragmented
    assert stage.router.flow.total == 0


def test_what_waits_behind_a_message_is_bounded(mates: tuple[Mate, Mate]) -> None:
    stage = Stage(output_limit=2000)
    one, two = stage.worker(), stage.worker()
    con = Client(stage).con
    for mate in (one, two):
        mate.work()
    one.say(*pieces(con.id, b"a", finish=False))
    for _ in range(50):
        two.say(m.Send(con.id, b"x" * 100, "text"))
        assert stage.router.flow.total < 4000, "it waits for a connection that is on its way out"
    assert con.close_cause == "overflow"
    stage.hang_up(con)
    seen = [event for mate in (one, two) for event in mate.work()]
    assert [type(event) for event in seen] == [m.OnError, m.OnClose], "told once"
    assert stage.router.flow.total == 0


def test_a_worker_forgets_connections_that_are_over(stage: Stage, mates: tuple[Mate, Mate]) -> None:
    one, two = mates
    for _ in range(5):
        client = Client(stage)
        one.say(*pieces(client.con.id, b"a", b"b"))
        stage.hang_up(client.con)
        for mate in mates:
            mate.work()
    assert not stage.router.routes
    assert not one.end.ties
    assert not two.end.ties


# --- groups: framed once ---


def framings(members: Iterable[Connection]) -> int:
    """How often their last message was framed for more than one."""
    return len({id(con.output[-1]) for con in members if type(con.output[-1]) is Framed})


def test_a_published_message_is_framed_once_for_all_that_are_alike(
    stage: Stage, mates: tuple[Mate, Mate]
) -> None:
    clients = [Client(stage) for _ in range(5)]
    deflating = [Client(stage, deflate=True) for _ in range(5)]
    raws = [stage.raw() for _ in range(5)]
    members = [*raws, *(client.con for client in clients + deflating)]
    for con in members:
        mates[0].say(m.Join(con.id, "g"))
    text = b"hello " * 1000
    mates[1].say(m.Publish("g", text, "text"))
    assert framings(members) == 3
    for con in raws:
        assert stage.write(con) == text
    for client in clients + deflating:
        assert client.read() == [("TEXT", text, True)]


def test_with_contexts_each_is_compressed_for_itself() -> None:
    stage = Stage(deflate_context_takeover=True)
    mate = stage.worker()
    clients = [Client(stage, deflate=True) for _ in range(3)]
    for client in clients:
        mate.say(m.Join(client.con.id, "g"))
    text = b"hello " * 1000
    mate.say(m.Send(clients[0].con.id, text, "text"))
    for _ in range(3):
        mate.say(m.Publish("g", text, "text"))
    assert framings(client.con for client in clients) == 0
    assert clients[0].read() == [("TEXT", text, True)] * 4
    for client in clients[1:]:
        assert client.read() == [("TEXT", text, True)] * 3


def test_an_opened_websocket_masks_for_itself(stage: Stage, mates: tuple[Mate, Mate]) -> None:
    one, _ = mates
    con = one.link.new_id()
    one.say(m.Open(con, "ws://h/", "websocket"), m.Join(con, "g"))
    one.say(m.Publish("g", b"early", "text"))
    [route] = stage.router.to_dial
    assert route.con.framing_key is None
    assert route.con.state is ConnectionState.CONNECTING


def test_members_that_have_closed_get_nothing(
    stage: Stage, mates: tuple[Mate, Mate], client: Client
) -> None:
    one, _ = mates
    raw = stage.raw()
    for con in (raw, client.con):
        one.say(m.Join(con.id, "g"))
        stage.hang_up(con)
    assert refused(one, m.Publish("g", b"x", "text")) == ""
    assert raw.output_size == client.con.output_size == 0


# --- the bound of the output ---

LIMIT = 1000


def joined(stage: Stage, *cons: Connection) -> Mate:
    mate = stage.worker()
    mate.work()
    for con in cons:
        mate.say(m.Join(con.id, "g"))
    return mate


def test_close_is_the_default(stage: Stage) -> None:
    stage = Stage(output_limit=LIMIT)
    slow, quick = stage.raw(), stage.raw()
    mate = joined(stage, slow, quick)
    for n in range(20):
        mate.say(m.Publish("g", b"%03d" % n + b"x" * 97))
        stage.write(quick)
    assert (slow.close_code, slow.close_cause, slow.reset) == (1008, "overflow", True)
    assert quick.state is ConnectionState.OPEN
    assert [type(event) for event in mate.work()] == [m.OnError, m.OnClose]


@pytest.mark.parametrize("size", range(70, 110))
@pytest.mark.parametrize("kind", ["raw", "websocket"])
def test_drop_newest_keeps_the_oldest_whole_and_closes_nobody(kind: str, size: int) -> None:
    """Whatever the sizes: a frame's head counts too."""
    stage = Stage(output_limit=LIMIT, overflow="drop-newest")
    client = Client(stage) if kind == "websocket" else None
    con = client.con if client else stage.raw()
    mate = joined(stage, con)
    messages = [b"%03d" % n + b"x" * (size - 3) for n in range(20)]
    for message in messages:
        mate.say(m.Publish("g", message))
    assert con.state is ConnectionState.OPEN
    assert con.output_size <= LIMIT
    kept = 20 - stage.router.outgoing.dropped
    assert kept >= LIMIT // (size + 2)
    if client:
        assert [frame[1] for frame in client.read()] == messages[:kept]
    else:
        assert stage.write(con) == b"".join(messages[:kept])


@pytest.mark.parametrize("written", [0, 1, 150])
def test_drop_oldest_keeps_the_newest_whole(written: int) -> None:
    stage = Stage(output_limit=LIMIT, overflow="drop-oldest")
    client = Client(stage)
    mate = joined(stage, client.con)
    messages = [b"%03d" % n + b"x" * 95 for n in range(30)]
    for message in messages[:10]:
        mate.say(m.Publish("g", message))
    client.protocol.receive_data(stage.write(client.con, written))
    for message in messages[10:]:
        mate.say(m.Publish("g", message))
    assert client.con.state is ConnectionState.OPEN
    assert client.con.output_size <= LIMIT
    got = [frame[1] for frame in client.read()]
    begun = written // 100 + (written % 100 > 0)
    assert got[:begun] == messages[:begun], "what has been written in part stays"
    assert got[begun:] == messages[30 - len(got[begun:]) :]
    assert stage.router.outgoing.dropped == 30 - len(got) > 0


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_what_was_sent_to_it_alone_is_never_dropped(policy: str) -> None:
    stage = Stage(output_limit=LIMIT, overflow=policy)
    con = stage.raw()
    mate = joined(stage, con)
    mate.say(m.Send(con.id, b"x" * LIMIT))
    assert con.state is ConnectionState.OPEN
    mate.say(m.Send(con.id, b"x"))
    assert con.close_cause == "overflow"


@pytest.mark.parametrize("policy", ["drop-newest", "drop-oldest"])
def test_a_published_message_larger_than_the_bound_is_dropped(policy: str) -> None:
    stage = Stage(output_limit=LIMIT, overflow=policy)
    con = stage.raw()
    mate = joined(stage, con)
    mate.say(m.Publish("g", b"x" * (LIMIT + 1)))
    assert con.state is ConnectionState.OPEN
    assert con.output_size == 0


def test_a_mark_is_reached_although_something_before_it_was_dropped() -> None:
    stage = Stage(output_limit=LIMIT, overflow="drop-oldest")
    con = stage.raw()
    mate = joined(stage, con)
    for _ in range(10):
        mate.say(m.Publish("g", b"x" * 100))
    mate.say(m.Mark(con.id, 1))
    mate.say(m.Publish("g", b"y" * 100))
    stage.write(con)
    stage.turn()
    assert mate.take(m.Reached) == [m.Reached(con.id, 1)]
