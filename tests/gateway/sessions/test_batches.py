"""Batches in and out; dispatch, flow and outgoing have tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
from corpus import frame
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import TOKEN, Mate, Stage, entry_of, is_over

from wsraw.gateway.connection.connection import ConnectionState
from wsraw.gateway.delivery.deadlines import MOST_ENDED
from wsraw.gateway.delivery.entry import PAUSED_MEMORY
from wsraw.gateway.delivery.outgoing import AT_ONCE
from wsraw.gateway.sessions.reconnect import LONGEST_DELAY
from wsraw.gateway.sessions.sessions import BANNED_KEPT, HELLO_TIMEOUT
from wsraw.link.gateway_end import who
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    STATE_LIMIT,
    Accept,
    Ack,
    Answer,
    Attach,
    Bye,
    Close,
    Couple,
    Drain,
    Hello,
    Join,
    Kill,
    Leave,
    Left,
    Mark,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Opened,
    Publish,
    Query,
    Reached,
    Ready,
    Record,
    Recycle,
    Refused,
    Reject,
    Send,
    Splice,
    State,
    encode,
    worker_decoder,
)
from wsraw.link.states import LinkState

NEVER = 1 << ID_EPOCH_SHIFT | 999_999
"""An id of this gateway that nobody was given."""

OLD = (1 << ID_EPOCH_SHIFT) + 5


def hello(**changes: Any) -> Hello:
    asked: dict[str, Any] = {
        "version": 1, "pool": "default", "instance": "x", "language": "l", "token": TOKEN,
        "window": 100, "concurrency": 1,
    }  # fmt: skip
    return Hello(**{**asked, **changes})


# --- the walk of one message ---


def test_a_message_is_delivered_and_its_answer_is_sent() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw(b"hello")
    stage.turn()
    connect, message = mate.events
    assert (type(connect), connect.con, connect.inf) == (OnConnect, con.id, {"Protocol": "raw"})
    assert (type(message), message.con, message.data) == (OnMessage, con.id, b"hello")
    mate.ack(connect)
    mate.ack(message, commands=(Send(con.id, b"answer"),))
    assert con in stage.registry.dirty
    assert stage.write(con) == b"answer"
    stage.hang_up(con)
    stage.turn()
    error, close = mate.events
    assert (type(error), type(close), close.cause) == (OnError, OnClose, "lost")
    mate.ack()
    assert not stage.registry.entries
    assert stage.registry.flow.total == 0
    assert entry_of(con).gone


def test_a_silent_connection_is_not_registered() -> None:
    stage = Stage()
    con = stage.raw(b"")
    stage.hang_up(con)
    assert con.entry is None
    assert not stage.registry.entries


def test_events_of_a_forgotten_connection_are_ignored() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    entry = entry_of(con)
    stage.turn()
    mate.ack()
    stage.registry.forget(entry)
    stage.say(con, b"more")
    stage.turn()
    assert mate.events == []
    assert stage.registry.flow.total == 0


def test_ids_are_never_used_twice() -> None:
    stage = Stage()
    ids = [stage.raw().id]
    mate = stage.worker()
    ids.append(mate.link.new_id())
    ids.append(stage.raw().id)
    ids.append(stage.worker().link.new_id())
    assert len(set(ids)) == 4
    assert all(n >> ID_EPOCH_SHIFT == 1 for n in ids)


# --- sessions ---


def test_an_identity_is_asked_once_until_its_hello() -> None:
    stage = Stage()
    for _ in range(3):
        stage.receive(b"\0a", b"")
    stage.receive(b"\0b", encode([5, Send(1, b"late")]))
    assert stage.sessions.replies == [(b"\0a", who()), (b"\0b", who())]


def test_an_identity_without_a_hello_is_forgotten_and_asked_again() -> None:
    stage = Stage()
    stage.receive(b"\0a", b"")
    stage.sessions.tick(HELLO_TIMEOUT)
    assert stage.sessions.workers
    stage.sessions.tick(HELLO_TIMEOUT + 1)
    assert not stage.sessions.workers
    stage.receive(b"\0a", b"")
    assert len(stage.sessions.replies) == 2


def test_an_identity_with_a_hello_is_not_forgotten() -> None:
    stage = Stage()
    mate = stage.worker()
    stage.run(HELLO_TIMEOUT + 5)
    assert mate.worker.session.state is LinkState.READY


@pytest.mark.parametrize(
    "said",
    [
        encode([0, hello(token="wrong")]),
        encode([0, hello(token="")]),
        encode([0, hello(version=0)]),
        encode([0, hello(version=2)]),
        b"\xc1",
        encode(["no session"]),
        encode([]),
    ],
)
def test_a_refused_worker_is_told_and_then_dropped_unread(said: bytes) -> None:
    stage = Stage()
    stage.receive(b"\0a", said)
    [(identity, refusal)] = stage.sessions.replies
    _, [refused], _ = worker_decoder().decode(refusal)
    assert (identity, type(refused)) == (b"\0a", Refused)
    assert refused.why
    stage.sessions.replies.clear()
    stage.receive(b"\0a", encode([0, hello()]))
    stage.receive(b"\0a", b"")
    assert (stage.sessions.workers, stage.sessions.replies) == ({}, [])


def test_banned_identities_are_bounded() -> None:
    stage = Stage()
    for n in range(BANNED_KEPT + 1):
        stage.receive(b"\0%d" % n, b"\xc1")
    stage.sessions.replies.clear()
    stage.receive(b"\0%d" % BANNED_KEPT, b"")
    assert not stage.sessions.replies
    stage.receive(b"\x000", b"")
    assert stage.sessions.replies


def test_garbage_in_a_session_ends_it_and_kills_a_spawned_worker() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third")
    con = stage.raw()
    stage.turn()
    stage.receive(mate.identity, b"\xc1")
    assert is_over(mate)
    kinds = [type(record) for record in stage.sessions.to_supervisor]
    assert kinds == [Ready, Kill, Left]
    other = stage.worker()
    stage.turn()
    assert [type(event) for event in other.events] == [OnConnect], "one suspect at a time"
    assert other.events[0].con == con.id


def test_a_batch_of_an_earlier_session_is_dropped_whole() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    stage.receive(mate.identity, encode([mate.link.session + 7, Send(con.id, b"x")]))
    stage.receive(mate.identity, encode([mate.link.session, Send(con.id, b"x"), Ack(1, 9)]))
    assert con.output.size == 0
    assert mate.worker.session.dropped == 2


def test_the_same_process_on_a_new_link_ends_its_old_session() -> None:
    stage = Stage()
    mate = stage.worker(instance="same")
    con = stage.raw()
    stage.turn()
    again = stage.worker(instance="same")
    assert is_over(mate)
    stage.turn()
    assert [event.delivery for event in again.events] == [2, 2], "both at once: nobody died"
    again.ack(commands=(Send(con.id, b"x"),))
    assert stage.write(con) == b"x"


def test_a_hello_on_the_same_link_begins_a_new_session() -> None:
    """A worker that was asked twice has thrown away what it had; some of it may have been begun."""
    stage = Stage()
    mate = stage.worker()
    stage.raw()
    stage.turn()
    old = mate.worker
    mate.heard.clear()
    stage.receive(mate.identity, encode([0, hello()]))
    assert old.session.state is LinkState.GONE
    assert mate.worker is not old
    assert [(type(event), event.delivery) for event in mate.work()] == [
        (OnConnect, 2),
        (OnMessage, 2),
    ]
    assert not mate.worker.window.in_flight


def test_a_hello_behind_other_records_is_ignored() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.say_raw(Query(1, "members"), hello())
    stage.turn()
    assert mate.worker.session.state is LinkState.READY
    assert [refused.index for refused in mate.take(Refused)] == [1]


def test_a_bye_ends_the_session_and_is_reported_to_the_supervisor() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third")
    mate.link.bye()
    mate.flush()
    assert is_over(mate)
    assert stage.sessions.to_supervisor == [Ready(3), Left(3)]
    assert stage.sessions.numbered(3) is None


@pytest.mark.parametrize(
    "behind",
    [Ack(1, 1), Send(OLD, b"x"), Bye(), Query(1, "members"), Join(OLD, "g"), 5],
    ids=lambda record: type(record).__name__,
)
def test_records_behind_a_bye_are_ignored(behind: Any) -> None:
    stage = Stage()
    mate = stage.worker()
    stage.raw()
    stage.turn()
    mate.say_raw(Bye(), behind)
    assert is_over(mate)
    other = stage.worker()
    stage.turn()
    assert [type(event) for event in other.events] == [OnConnect, OnMessage]
    assert len(stage.registry.flow.changed) == 0


def test_an_open_behind_bye_opens_nothing() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.say_raw(Bye(), Open(mate.link.new_id(), "h:1"))
    assert not stage.registry.entries
    assert not stage.registry.to_dial


def test_a_drained_worker_gets_nothing_new() -> None:
    stage = Stage()
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third")
    worker = stage.sessions.numbered(3)
    assert worker is not None
    stage.sessions.drain(worker, 5.0)
    stage.raw()
    stage.turn()
    assert mate.take(Drain) == [Drain(5.0)]
    assert mate.events == []
    assert stage.sessions.numbered(3) is worker


# --- commands: ids ---

ABOUT_A_CONNECTION = [
    Send(0, b"x"), Close(0), State(0, b""), Join(0, "g"), Leave(0, "g"), Couple(0, 0),
    Mark(0, 1),
]  # fmt: skip


def with_id(record: Record, con: int) -> Any:
    for field in ("con", "other"):
        if hasattr(record, field):
            setattr(record, field, con)
    return record


@pytest.mark.parametrize("record", ABOUT_A_CONNECTION, ids=lambda record: type(record).__name__)
@pytest.mark.parametrize("con", [NEVER, 0, 5, -1, 2 << ID_EPOCH_SHIFT | 1, 2**64 - 1, -(2**63)])
def test_an_id_that_was_never_given_out_is_refused(record: Record, con: int) -> None:
    mate = Stage().worker()
    assert "never given out" in mate.refused(with_id(record, con))


@pytest.mark.parametrize("record", ABOUT_A_CONNECTION, ids=lambda record: type(record).__name__)
def test_commands_for_a_closed_id_are_ignored_and_counted(record: Record) -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    stage.hang_up(con)
    mate.work()
    assert mate.refused(with_id(record, con.id)) == ""
    assert not stage.registry.entries
    assert mate.take(Reached) == ([Reached(con.id, 1)] if isinstance(record, Mark) else [])


def test_commands_for_an_id_of_an_earlier_gateway_are_ignored() -> None:
    stage = Stage()
    stage.registry.ids.epoch = 2
    assert stage.worker().refused(Send(OLD, b"x")) == ""


def test_refusals_name_batch_and_index_and_the_rest_applies() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    mate.say_raw()
    mate.say_raw(Send(NEVER, b""), Send(con.id, b"x"), ["nope"], Ack(1, 2))
    stage.turn()
    assert [(refused.batch, refused.index) for refused in mate.take(Refused)] == [(2, 2), (2, 0)]
    assert stage.write(con) == b"x"
    assert not mate.worker.window.in_flight


def test_records_that_are_not_implemented_are_refused() -> None:
    assert "not supported" in Stage().worker().refused(Splice(OLD, OLD))


# --- commands: send, close ---


@pytest.mark.parametrize(
    ("send", "why"),
    [
        (Send(0, b"x", "raw"), "neither text nor binary"),
        (Send(0, b"\xff", "text"), "not UTF-8"),
        (Send(0, b"x", "text"), ""),
        (Send(0, b"\xff", "binary"), ""),
    ],
)
def test_a_send_reaches_a_websocket(send: Send, why: str) -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.websocket()
    refused = mate.refused(with_id(send, con.id))
    assert why in refused
    assert bool(refused) == bool(why)
    assert bool(con.output.size) != bool(why)


def test_a_close_sends_its_code() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.websocket()
    for code in (0, 999, 1005, 1006, 1015, 2000, 5000, -1, 2**63):
        assert mate.refused(Close(con.id, code)), code
    assert con.state is ConnectionState.OPEN
    assert mate.refused(Close(con.id, 4000, "done")) == ""
    assert con.state is ConnectionState.CLOSING


def test_only_on_close_is_delivered_for_a_closed_connection() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw(b"1")
    stage.turn()
    for data in (b"2", b"3", b"4", b"5"):
        stage.say(con, data)
    mate.ack(commands=(Close(con.id, 1000, "bye"),))
    stage.turn()
    [close] = mate.events
    assert (type(close), close.code, close.reason, close.cause) == (
        OnClose, 1000, "bye", "handler",
    )  # fmt: skip
    mate.ack()
    assert stage.registry.flow.total == 0


def test_closing_twice_is_closing_once() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    mate.ack(commands=(Close(con.id), Close(con.id, 4000)))
    stage.turn()
    assert [type(event) for event in mate.events] == [OnClose]


# --- commands: state ---


def test_the_state_moves_with_its_connection() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    mate.ack(commands=(State(con.id, b"s"),))
    mate.link.bye()
    mate.flush()
    other = stage.worker()
    stage.say(con, b"again")
    stage.turn()
    [attach] = other.take(Attach)
    assert (attach.con, attach.inf, attach.state, attach.version) == (
        con.id, {"Protocol": "raw"}, b"s", 1,
    )  # fmt: skip


def test_a_state_is_taken_only_from_the_worker_that_handles_an_event() -> None:
    stage = Stage()
    holder, other = stage.worker(), stage.worker()
    con = stage.raw()
    stage.turn()
    if not holder.events:
        holder, other = other, holder
    assert "only while an event" in other.refused(State(con.id, b"theirs"))
    assert holder.refused(State(con.id, b"mine")) == ""
    holder.ack()
    assert "only while an event" in holder.refused(State(con.id, b"late"))
    assert entry_of(con).state == b"mine"


def test_the_opener_may_set_the_state() -> None:
    stage = Stage()
    mate, other = stage.worker(), stage.worker()
    con = mate.link.new_id()
    assert mate.refused(Open(con, "127.0.0.1:1")) == ""
    assert mate.refused(State(con, b"x" * STATE_LIMIT)) == ""
    assert "at most" in mate.refused(State(con, b"x" * (STATE_LIMIT + 1)))
    assert "only while" in other.refused(State(con, b""))
    assert len(stage.registry.entries[con].state) == STATE_LIMIT


# --- commands: open ---


def opened(mate: Mate, **options: Any) -> int:
    con = mate.link.new_id()
    assert mate.refused(Open(con, "127.0.0.1:1", options=options)) == ""
    return con


def test_an_opened_connection_is_dialled_and_held_by_its_opener() -> None:
    stage = Stage()
    mate = stage.worker()
    con = opened(mate)
    [entry] = stage.registry.to_dial
    assert (entry.id, entry.con.target) == (con, "127.0.0.1:1")
    stage.registry.take(entry.con, entry.con.connect_failed("no route", 0.0), 0.0)
    stage.turn()
    assert [(type(e), e.con) for e in mate.events] == [(OnError, con), (OnClose, con)]
    assert mate.take(Attach) == [], "it knows what it has opened"
    mate.ack()
    assert not stage.registry.entries


@pytest.mark.parametrize("con", [NEVER, 0, -1, 5, 2**64 - 1])
def test_an_open_needs_an_id_of_the_range_of_its_session(con: int) -> None:
    stage = Stage()
    mate = stage.worker()
    theirs = stage.worker().link.new_id()
    for wrong in (con, theirs):
        assert "not of this session's range" in mate.refused(Open(wrong, "h:1"))
    assert not stage.registry.to_dial


def test_an_id_is_opened_once() -> None:
    mate = Stage().worker()
    con = opened(mate)
    assert "opened before" in mate.refused(Open(con, "h:1"))


@pytest.mark.parametrize("name", [5, [], {}, True, b"feed"])
def test_a_name_is_a_string(name: Any) -> None:
    mate = Stage().worker()
    con = mate.link.new_id()
    assert "must be a string" in mate.refused(Open(con, "h:1", options={"name": name}))


def test_a_second_open_of_a_name_returns_the_open_connection() -> None:
    stage = Stage()
    mate, other = stage.worker(), stage.worker()
    con = opened(mate, name="feed")
    asked = opened(other, name="feed")
    assert other.take(Opened) == [Opened(asked, con)]
    assert len(stage.registry.to_dial) == 1
    assert other.refused(Send(asked, b"by the other id")) == ""
    assert stage.registry.entries[con].con.output.size == len(b"by the other id")
    assert opened(other, name="another") in stage.registry.entries


def test_a_name_is_free_when_its_connection_is_gone() -> None:
    stage = Stage()
    mate = stage.worker()
    con = opened(mate, name="feed")
    asked = opened(mate, name="feed")
    stage.hang_up(stage.registry.entries[con].con)
    stage.turn()
    mate.ack()
    assert mate.refused(Send(asked, b"x")) == "", "closed: a no-op"
    mate.take(Opened)
    again = opened(mate, name="feed")
    assert mate.take(Opened) == []
    assert again in stage.registry.entries


def test_on_close_may_open_the_name_again() -> None:
    """The way to reconnect: the command stands before the ack of the on_close that it answers."""
    stage = Stage()
    mate = stage.worker()
    con = opened(mate, name="feed")
    stage.hang_up(stage.registry.entries[con].con)
    stage.turn()
    again = mate.link.new_id()
    mate.ack(commands=(Open(again, "127.0.0.1:1", options={"name": "feed"}),))
    stage.turn()
    assert mate.take(Opened) == []
    assert [*stage.registry.entries] == [again]
    asked = opened(mate, name="feed")
    assert mate.take(Opened) == [Opened(asked, again)]


def test_an_unnamed_connection_opened_outside_an_event_ends_with_its_worker() -> None:
    stage = Stage()
    mate, other = stage.worker(), stage.worker()
    con = stage.raw()
    stage.turn()
    owned = opened(mate)
    named = opened(mate, name="feed")
    during = opened(mate, during=con.id)
    mate.ack() if mate.events else other.ack()
    mate.link.bye()
    mate.flush()
    stage.turn()
    assert [(type(e), e.con, e.cause) for e in other.events] == [(OnClose, owned, "owner-left")]
    other.ack()
    assert {*stage.registry.entries} == {con.id, named, during}


def test_a_connection_opened_by_an_event_is_coupled_to_its_connection() -> None:
    stage = Stage()
    mate = stage.worker()
    con, another = stage.raw(), stage.raw()
    stage.turn()
    entries = stage.registry.entries

    def couples(opened_id: int) -> set[int]:
        return {entry.id for entry in entries[opened_id].couples or ()}

    assert couples(opened(mate, during=con.id)) == {con.id}
    assert couples(opened(mate, during=con.id, couple=another.id)) == {another.id}
    assert couples(opened(mate, during=con.id, couple=None)) == set()
    assert couples(opened(mate)) == set()
    assert couples(opened(mate, couple=NEVER)) == set()


def test_an_opened_connection_is_not_coupled_to_itself() -> None:
    stage = Stage()
    mate = stage.worker()
    own = mate.link.new_id()
    mate.say(Open(own, "h:1", options={"during": own}))
    [entry] = stage.registry.to_dial
    assert entry.couples is None
    stage.registry.take(entry.con, entry.con.connect_failed("no", 0.0), 0.0)
    stage.turn()
    mate.ack()
    assert not stage.registry.entries


def test_a_connection_with_reconnect_reconnects_for_days() -> None:
    stage = Stage()
    mate = stage.worker()
    mate.say(Open(mate.link.new_id(), "h:1", options={"reconnect": True}))
    for _ in range(1100):
        [entry] = stage.registry.to_dial
        stage.registry.to_dial.clear()
        stage.now = max(stage.now, entry.dial_at)
        stage.registry.take(entry.con, entry.con.connect_failed("no", stage.now), stage.now)
        stage.turn()
        mate.ack()
    assert stage.registry.to_dial[0].dial_at - stage.now == LONGEST_DELAY


def test_ids_of_a_range_run_out_and_new_ranges_follow_without_end() -> None:
    stage = Stage()
    mate = stage.worker()
    for _ in range(9000):
        con = mate.link.new_id()
        mate.say(Open(con, "h:1"))
        [entry] = stage.registry.to_dial
        stage.registry.to_dial.clear()
        stage.registry.take(entry.con, entry.con.connect_failed("no", 0.0), 0.0)
        stage.turn()
        mate.ack()
    assert not stage.registry.entries
    assert len(mate.worker.ids) <= 2, "ranges that are used up are not kept"


def test_output_of_an_opening_connection_pauses_the_coupled_one() -> None:
    """A proxy's client that uploads faster than the upstream answers the dial."""
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    upstream = opened(mate, during=con.id)
    mate.ack(commands=(Send(upstream, b"x" * 300_000),))
    assert entry_of(con).pauses


@pytest.mark.parametrize("protocol", ["websocket", "raw"])
def test_an_upload_to_an_opening_connection_is_not_lost(protocol: str) -> None:
    """It stops long before the bound at which a reader is closed or a send refused."""
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    upstream = mate.link.new_id()
    mate.ack(commands=(Open(upstream, "h:1", protocol, options={"during": con.id}),))
    sent = 0
    while not entry_of(con).pauses and sent < stage.settings.output_limit:
        stage.say(con, b"x" * 60_000)
        stage.turn()
        mate.ack(commands=(Send(upstream, b"x" * 60_000),))
        sent += 60_000
    assert sent <= 2 * stage.settings.high_water_mark


@pytest.mark.parametrize("end", ["upstream ends", "silence"])
def test_a_half_closed_client_gets_the_answer_of_a_connection_opened_for_it(end: str) -> None:
    """`nc -N` through a converter: the question is there and the client has said all, before its
    upstream is open."""
    stage = Stage()
    mate = stage.worker()
    registry, con = stage.registry, stage.raw()
    stage.turn()
    upstream = opened(mate, during=con.id)
    there = registry.entries[upstream].con
    registry.receive_eof(con, stage.now)
    mate.work()
    stage.run(60.0)
    assert con.state is ConnectionState.CLOSING, "the upstream has the time of its connect_timeout"
    registry.take(there, there.connected(stage.now), stage.now)
    stage.run(stage.settings.close_timeout - 2)
    mate.say(Send(con.id, b"answer"))
    entry_of(con).written += con.output.size
    con.written(con.output.size, stage.now)
    stage.run(stage.settings.close_timeout - 2)
    assert con.state is ConnectionState.CLOSING
    if end == "silence":
        stage.run(4.0)
    else:
        registry.take(there, there.lost("reset", stage.now), stage.now)
        stage.run(1.0)
    assert con.ending.cause == "eof"
    assert not registry._unanswered


@pytest.mark.parametrize("options", [{"name": "feed"}, {"couple": None}])
def test_a_half_closed_client_does_not_wait_for_connections_opened_for_others(
    options: dict[str, Any],
) -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    opened(mate, during=con.id, **options)
    stage.registry.receive_eof(con, stage.now)
    mate.work()
    assert con.ending.cause == "eof"


# --- commands: groups, couple, mark, query ---


def test_a_published_message_reaches_the_members_of_its_group() -> None:
    stage = Stage()
    mate = stage.worker()
    one, two = stage.raw(), stage.raw()
    for con in (one, two):
        assert mate.refused(Join(con.id, "g")) == ""
    assert mate.refused(Publish("g", b"a")) == ""
    assert mate.refused(Publish("g", b"b", options={"except": [one.id]})) == ""
    assert mate.refused(Leave(two.id, "g")) == ""
    assert mate.refused(Publish("g", b"c")) == ""
    assert (stage.write(one), stage.write(two)) == (b"ac", b"ab")
    assert mate.refused(Publish("no such group", b"c")) == ""


@pytest.mark.parametrize(
    ("publish", "why"),
    [
        (Publish("g", b"", "raw"), "neither text nor binary"),
        (Publish("g", b"\xff", "text"), "not UTF-8"),
        (Publish("g", b"", options={"except": 5}), "list of connection ids"),
        (Publish("g", b"", options={"except": ["a"]}), "list of connection ids"),
    ],
)
def test_a_wrong_publish_is_refused(publish: Publish, why: str) -> None:
    assert why in Stage().worker().refused(publish)


def test_a_couple_command_joins_two_connections() -> None:
    stage = Stage()
    mate = stage.worker()
    one, two = stage.raw(), stage.raw()
    assert mate.refused(Couple(one.id, two.id)) == ""
    assert mate.refused(Couple(one.id, one.id)) == ""
    assert entry_of(one).couples == {entry_of(two)}
    assert entry_of(two).couples == {entry_of(one)}


def test_a_mark_is_reached_when_the_output_before_it_is_written() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    mate.say(Mark(con.id, 1), Send(con.id, b"1234"), Mark(con.id, 2), Send(con.id, b"5"))
    stage.turn()
    assert mate.take(Reached) == [Reached(con.id, 1)]
    stage.write(con, 3)
    stage.turn()
    assert mate.take(Reached) == []
    stage.write(con, 1)
    stage.turn()
    assert mate.take(Reached) == [Reached(con.id, 2)]


def test_a_mark_of_a_worker_that_has_left_is_not_answered() -> None:
    stage = Stage()
    mate, other = stage.worker(), stage.worker()
    con = stage.raw()
    mate.say(Send(con.id, b"x"), Mark(con.id, 1))
    mate.link.bye()
    mate.flush()
    stage.write(con)
    stage.turn()
    assert mate.take(Reached) == other.take(Reached) == []


def test_queries_are_answered() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    mate.say(Join(con.id, "g"), Query(1, "members", "g"), Query(2, "members", "nobody"))
    stage.turn()
    assert mate.take(Answer) == [Answer(1, [con.id]), Answer(2, [])]
    assert "there is no query" in mate.refused(Query(3, "weather"))
    mate.say(Query(4, "ids"))
    stage.turn()
    [answer] = mate.take(Answer)
    first, last = answer.value
    assert mate.refused(Open(first, "h:1")) == ""
    assert mate.refused(Open(last, "h:1")) == ""
    assert mate.refused(Open(last + 1, "h:1")) != ""


# --- half-close ---


def test_a_half_closed_connection_gets_its_answers_before_the_end() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw(b"hi")
    stage.registry.receive_eof(con, 0.0)
    stage.turn()
    connect, message = mate.events
    mate.ack(connect)
    mate.ack(message, commands=(Send(con.id, b"answer"),))
    stage.turn()
    assert mate.events == []
    assert stage.write(con) == b"answer"
    stage.turn()
    [close] = mate.events
    assert (close.code, close.cause) == (1000, "eof")


def test_a_half_close_after_all_events_were_handled_ends_the_connection() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw(b"hi")
    stage.turn()
    mate.ack()
    stage.registry.receive_eof(con, 0.0)
    stage.turn()
    assert [(type(event), event.cause) for event in mate.events] == [(OnClose, "eof")]


def test_a_half_close_with_parked_events_waits_for_a_worker() -> None:
    stage = Stage()
    con = stage.raw(b"hi")
    stage.registry.receive_eof(con, 0.0)
    mate = stage.worker()
    stage.turn()
    assert [type(event) for event in mate.events] == [OnConnect, OnMessage]
    mate.ack()
    stage.turn()
    assert [type(event) for event in mate.events] == [OnClose]


def test_an_end_of_file_of_a_websocket_is_not_a_half_close() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.websocket()
    stage.registry.receive_eof(con, 0.0)
    stage.turn()
    assert [type(event) for event in mate.events] == [OnConnect, OnClose]
    assert mate.events[1].code == 1006


# --- the clock ---


def test_a_client_that_waits_too_long_for_a_worker_is_closed() -> None:
    stage = Stage(worker_wait_timeout=30.0)
    raw, websocket = stage.raw(), stage.websocket()
    stage.run(30.0)
    assert {raw.state, websocket.state} == {ConnectionState.OPEN}
    stage.run(1.0)
    assert raw.output.reset
    assert stage.write(websocket) == close_frame(1013, b"no worker is ready")
    assert not stage.registry.entries
    assert stage.registry.flow.total == 0
    stage.run(5.0)
    mate = stage.worker()
    stage.turn()
    assert mate.events == []


def close_frame(code: int, reason: bytes) -> bytes:
    return bytes((0x88, 2 + len(reason))) + code.to_bytes(2) + reason


@pytest.mark.parametrize("wait", [0.0, 1000.0])
def test_a_client_waits_for_a_worker_within_worker_wait_timeout(wait: float) -> None:
    stage = Stage(worker_wait_timeout=wait)
    stage.raw()
    stage.run(100.0)
    mate = stage.worker()
    stage.turn()
    assert len(mate.events) == 2


def test_a_client_that_a_worker_knows_is_not_closed_for_waiting() -> None:
    stage = Stage(worker_wait_timeout=30.0)
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    mate.ack()
    mate.link.bye()
    mate.flush()
    stage.say(con, b"more")
    stage.run(100.0)
    other = stage.worker()
    stage.turn()
    assert [event.data for event in other.events] == [b"more"]


def test_reading_that_stays_paused_closes_the_connection() -> None:
    stage = Stage(pause_timeout=120.0, handler_timeout=0.0)
    mate = stage.worker()
    con = stage.raw(b"x" * 300_000)
    stage.turn()
    assert entry_of(con).pauses
    stage.run(120.0)
    assert con.state is ConnectionState.OPEN
    stage.run(2.0)
    assert (con.ending.code, con.ending.cause) == (1013, "stalled")
    mate.ack()
    stage.turn()
    assert [type(event) for event in mate.events] == [OnClose]


def test_a_stalled_connection_is_counted_once() -> None:
    stage = Stage(pause_timeout=5.0, handler_timeout=0.0, close_timeout=0.0)
    stage.worker()
    con = stage.websocket()
    stage.say(con, frame(0x82, bytes(300_000)))
    stage.turn()
    assert entry_of(con).pauses
    # Its handler hangs, and it does not answer our close frame.
    stage.run(60.0)
    assert con.state is ConnectionState.CLOSING
    assert stage.registry.counters.counts == {"pause_timeout": 1}
    stage.hang_up(con)
    stage.run(60.0)
    assert con.state is ConnectionState.CLOSED
    assert stage.registry.counters.counts == {"pause_timeout": 1}


@pytest.mark.parametrize("case", ["no worker", "off", "stopping"])
def test_a_pause_that_no_handler_causes_does_not_close_the_connection(case: str) -> None:
    stage = Stage(pause_timeout=0.0 if case == "off" else 120.0, worker_wait_timeout=0.0)
    if case != "no worker":
        stage.worker()
    if case == "stopping":
        stage.registry.stop()
    con = stage.raw(b"x" * 300_000)
    assert entry_of(con).pauses
    stage.run(1000.0)
    assert con.state is ConnectionState.OPEN


def test_above_the_memory_limit_the_fullest_output_is_closed() -> None:
    stage = Stage(memory_limit=1_000_000)
    mate = stage.worker()
    cons = [stage.raw() for _ in range(3)]
    stage.turn()
    mate.ack()
    for con, size in zip(cons, (200_000, 700_000, 300_000), strict=True):
        mate.say(Send(con.id, b"x" * size))
        stage.registry.wrote(entry_of(con))
    stage.run(1.0)
    assert [con.ending.cause for con in cons] == ["", "memory", ""]
    assert cons[1].reset
    assert stage.registry.flow.total < 1_000_000, "what is thrown away weighs nothing"


def test_a_slow_reader_past_the_output_limit_is_closed() -> None:
    stage = Stage(output_limit=1000)
    mate = stage.worker()
    con = stage.raw(b"1")
    stage.turn()
    stage.say(con, b"2")
    stage.say(con, b"3")
    mate.ack(commands=(Send(con.id, b"x" * 1000), Send(con.id, b"x")))
    assert con.state is ConnectionState.OPEN
    stage.turn()
    stage.now += AT_ONCE + 0.1
    mate.ack(commands=(Send(con.id, b"x"),))
    stage.turn()
    assert (con.ending.code, con.ending.cause, con.output.reset) == (1008, "overflow", True)
    kinds = [type(event) for event in mate.events]
    assert kinds == [OnError, OnClose]
    mate.ack()
    assert stage.registry.flow.total == 0


def test_output_written_after_the_end_leaves_no_trace() -> None:
    """A raw connection is forgotten while its last bytes are still on their way."""
    for rest in (None, 10):
        stage = Stage()
        mate = stage.worker()
        con = stage.raw()
        stage.turn()
        mate.ack(commands=(Send(con.id, b"x" * 600_000), Close(con.id)))
        stage.write(con, 10)
        stage.turn()
        mate.ack()
        assert not stage.registry.entries
        stage.write(con, rest)
        stage.hang_up(con)
        assert stage.registry.flow.total == 0
        assert not stage.registry.flow.paused
        stage.deadlines.tick(1000.0)


# --- stop ---


def test_a_stop_lets_handlers_finish_before_it_closes_connections() -> None:
    stage = Stage()
    mate = stage.worker()
    con = stage.raw()
    stage.turn()
    stage.registry.stop()
    assert entry_of(con).pauses
    assert not stage.sessions.is_quiet()
    mate.ack(commands=(Send(con.id, b"x"),))
    assert stage.sessions.is_quiet()
    stage.registry.close_all(0.0)
    assert stage.registry.is_waited_for()
    stage.turn()
    [close] = mate.events
    assert (close.code, close.cause) == (1001, "going-away")
    mate.ack()
    assert not stage.registry.is_waited_for()
    assert stage.write(con) == b"x"


def test_a_stop_does_not_wait_for_events_that_no_worker_can_handle() -> None:
    stage = Stage()
    stage.raw()
    stage.registry.stop()
    assert stage.sessions.is_quiet()
    assert not stage.registry.is_waited_for()
    late = stage.raw()
    assert entry_of(late).pauses


# --- anything a worker may say ---

numbers = st.sampled_from([0, 1, 2, 5, -1, NEVER, 2**63, 2**64 - 1]) | st.integers(0, 9)
cons = st.integers(0, 4).map(lambda n: (1 << ID_EPOCH_SHIFT) + n) | numbers
anything: Any = (
    st.none()
    | st.booleans()
    | st.sampled_from([5, 2.5, "", "name", "x\r\ny", b"\xff", [], {}, [1]])
)
options = st.dictionaries(
    st.sampled_from(
        ["name", "during", "couple", "except", "headers", "subprotocols", "connect_timeout"]
    ),
    anything | cons | st.dictionaries(st.text(), anything, max_size=2) | st.lists(cons, max_size=2),
    max_size=4,
)
text = st.sampled_from(
    ["", "g", "text", "binary", "raw", "websocket", "ws://h/x", "h:1", "a b\r\n"]
)
data = st.sampled_from([b"", b"x", b"\xff", b"x" * 5000])
commands = st.one_of(
    st.builds(Ack, numbers, numbers),
    st.builds(Send, cons, data, text, st.booleans()),
    st.builds(Open, cons, text, text, text, text, text, options),
    st.builds(Close, cons, st.sampled_from([1000, 4000, 0, 2**63]), text),
    st.builds(State, cons, data),
    st.builds(Join, cons, text),
    st.builds(Leave, cons, text),
    st.builds(Publish, text, data, text, options),
    st.builds(Couple, cons, cons),
    st.builds(Splice, cons, cons),
    st.builds(Mark, cons, numbers),
    st.builds(Query, numbers, text | st.sampled_from(["ids", "members"]), text),
    st.builds(Accept, cons),
    st.builds(Reject, cons, numbers),
    st.builds(hello),
    st.builds(Bye),
    anything,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["batch", "raw", "say", "hang up", "eof", "turn", "write"]),
                  st.integers(0, 3), st.lists(commands, max_size=5)),
        max_size=12,
    )
)  # fmt: skip
def test_no_batch_of_a_worker_raises_or_breaks_the_accounts(steps: list[Any]) -> None:
    stage = Stage(output_limit=8000, high_water_mark=2000)
    mates = [stage.worker(), stage.worker()]
    connections = [stage.raw(), stage.websocket()]
    for kind, n, records in steps:
        con = connections[n % len(connections)]
        if kind == "batch":
            mates[n % len(mates)].say_raw(*records)
        elif kind == "raw":
            connections.append(stage.raw())
        elif kind == "say":
            stage.say(con, b"x" * 700 if con.kind == "raw" else b"\x82\x80abcd")
        elif kind == "hang up":
            stage.hang_up(con)
        elif kind == "eof":
            stage.registry.receive_eof(con, stage.now)
        elif kind == "turn":
            stage.turn()
        elif con.entry is not None:
            stage.write(con, 100)
        stage.run(1.0)
        entries = stage.registry.entries.values()
        assert all(entry.held >= 0 and entry.in_flight >= 0 for entry in entries)
        assert stage.registry.flow.total == sum(r.held + r.output_counted for r in entries)
    stage.worker().say(Join(connections[0].id, "g"))


def test_the_holder_of_a_connection_of_a_dead_gateway_is_told_its_end() -> None:
    """It alone knows the inf and the state: no other one, however busy it is."""
    stage = Stage()
    stage.registry.ids.epoch = 2
    idle = stage.worker()
    held = [OLD + n for n in range(20)]
    stage.receive(b"\0x", encode([0, hello(window=2, held=held)]))
    worker = stage.sessions.workers[b"\0x"]
    heard = []
    while worker.window.in_flight or worker.bound:
        heard += [flight.event for flight in worker.window.in_flight.values()]
        first, *_, last = [*worker.window.in_flight, *worker.window.in_flight]
        stage.receive(b"\0x", encode([worker.session.number, Ack(first, last)]))
        stage.turn()
    assert [event.con for event in heard] == held
    assert idle.events == []
    assert not stage.registry.entries


def test_the_end_of_a_connection_whose_holder_died_is_told_to_another() -> None:
    stage = Stage()
    stage.registry.ids.epoch = 2
    mate = stage.worker()
    stage.receive(b"\0x", encode([0, hello(held=[OLD])]))
    stage.turn()
    stage.sessions.end(stage.sessions.workers[b"\0x"], stage.now, died=True)
    stage.turn()
    (close,) = mate.events
    assert (close.con, close.cause, close.delivery) == (OLD, "gateway-died", 2)


def test_a_recycle_that_was_not_done_is_requested_again() -> None:
    stage = Stage(max_events=10)
    stage.sessions.tokens.add("third", 3)
    mate = stage.worker(token="third")
    con = stage.raw()

    def asked(events: int) -> int:
        for _ in range(events):
            stage.say(con, b"x")
            mate.work()
        stage.run(1)
        return sum(isinstance(record, Recycle) for record in stage.sessions.to_supervisor)

    assert asked(5) == 0
    assert asked(7) == 1
    assert asked(0) == 1, "not each second"
    assert asked(2) == 2


@pytest.mark.parametrize(
    ("setting", "cause"),
    [
        ("pause_timeout", "stalled"),
        ("idle_timeout", "idle-timeout"),
        ("write_timeout", "write-timeout"),
        ("worker_wait_timeout", "no-worker"),
    ],
)
def test_many_expired_connections_are_closed_over_several_turns(setting: str, cause: str) -> None:
    stage = Stage(**{setting: 10.0})
    registry = stage.registry
    deadlines = stage.deadlines
    mate = stage.worker() if cause != "no-worker" else None
    cons = [stage.raw(b"x", protocol="raw") for _ in range(2 * MOST_ENDED + 1)]
    if mate is not None:
        mate.work()
    for con in cons:
        if cause == "stalled":
            registry.flow.pause(entry_of(con), PAUSED_MEMORY)
        elif cause == "write-timeout":
            con.output.append(b"x")
            registry.flow.output_changed(entry_of(con))
    # The first look finds out who is idle from now on.
    deadlines.tick(1.0)
    left = []
    deadlines.tick(12.0)
    moved = next(con for con in cons if con.state is not ConnectionState.CLOSED)
    if cause == "idle-timeout":
        entry_of(moved).active = True
    elif cause == "write-timeout":
        moved.output.take_written(moved.output.size)
        registry.flow.output_changed(entry_of(moved))
    elif cause == "stalled":
        registry.flow.resume(entry_of(moved), PAUSED_MEMORY)
    while deadlines.is_behind:
        left.append(sum(con.state is not ConnectionState.CLOSED for con in cons))
        deadlines.end_late(12.0)
    assert left in ([MOST_ENDED + 1, 1], [MOST_ENDED + 1, 2])
    stays = 0 if cause == "no-worker" else 1
    assert moved.ending.cause == ("" if stays else cause)
    assert all(con.ending.cause == cause for con in cons if con is not moved)
    assert registry.counters.counts == {setting: len(cons) - stays}
