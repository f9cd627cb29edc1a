"""Batches to and from workers; dispatching, flow control and output have tests of their own."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import frame
from tests.gateway.harness import Harness, LinkedWorker, entry_of, hello, is_over
from wsraw.gateway.connection.connection import ConnectionState
from wsraw.gateway.delivery.deadlines import MOST_ENDED
from wsraw.gateway.delivery.entry import PAUSED_OWN, Worker
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
    Detach,
    Drain,
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
"""An id of this gateway that no connection was given."""

OLD = (1 << ID_EPOCH_SHIFT) + 5


# --- the walk of one message ---


def test_a_message_is_delivered_and_its_answer_is_sent() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw(b"hello")
    harness.turn()
    connect, message = linked.events
    assert (type(connect), connect.con, connect.inf) == (OnConnect, con.id, {"Protocol": "raw"})
    assert (type(message), message.con, message.data) == (OnMessage, con.id, b"hello")
    linked.ack(connect)
    linked.ack(message, commands=(Send(con.id, b"answer"),))
    assert con in harness.registry.dirty
    assert harness.write(con) == b"answer"
    harness.hang_up(con)
    harness.turn()
    error, close = linked.events
    assert (type(error), type(close), close.cause) == (OnError, OnClose, "lost")
    linked.ack()
    assert not harness.registry.entries
    assert harness.registry.flow.total == 0
    assert entry_of(con).gone


def test_a_silent_connection_is_not_registered() -> None:
    harness = Harness()
    con = harness.raw(b"")
    harness.hang_up(con)
    assert con.entry is None
    assert not harness.registry.entries


def test_events_of_a_forgotten_connection_are_ignored() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    entry = entry_of(con)
    harness.turn()
    linked.ack()
    harness.registry.forget(entry)
    harness.say(con, b"more")
    harness.turn()
    assert linked.events == []
    assert harness.registry.flow.total == 0


def test_ids_are_never_used_twice() -> None:
    harness = Harness()
    ids = [harness.raw().id]
    linked = harness.worker()
    ids.append(linked.link.new_id())
    ids.append(harness.raw().id)
    ids.append(harness.worker().link.new_id())
    assert len(set(ids)) == 4
    assert all(n >> ID_EPOCH_SHIFT == 1 for n in ids)


# --- sessions ---


def test_an_identity_is_asked_once_until_its_hello() -> None:
    harness = Harness()
    for _ in range(3):
        harness.receive(b"\0a", b"")
    harness.receive(b"\0b", encode([5, Send(1, b"late")]))
    assert harness.sessions.replies == [(b"\0a", who()), (b"\0b", who())]


def test_an_identity_without_a_hello_is_forgotten_and_asked_again() -> None:
    harness = Harness()
    harness.receive(b"\0a", b"")
    harness.sessions.tick(HELLO_TIMEOUT)
    assert harness.sessions.workers
    harness.sessions.tick(HELLO_TIMEOUT + 1)
    assert not harness.sessions.workers
    harness.receive(b"\0a", b"")
    assert len(harness.sessions.replies) == 2


def test_an_identity_with_a_hello_is_not_forgotten() -> None:
    harness = Harness()
    linked = harness.worker()
    harness.run(HELLO_TIMEOUT + 5)
    assert linked.worker.session.state is LinkState.READY


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
    harness = Harness()
    harness.receive(b"\0a", said)
    [(identity, refusal)] = harness.sessions.replies
    _, [refused], _ = worker_decoder().decode(refusal)
    assert (identity, type(refused)) == (b"\0a", Refused)
    assert refused.why
    harness.sessions.replies.clear()
    harness.receive(b"\0a", encode([0, hello()]))
    harness.receive(b"\0a", b"")
    assert (harness.sessions.workers, harness.sessions.replies) == ({}, [])


def test_banned_identities_are_bounded() -> None:
    harness = Harness()
    for n in range(BANNED_KEPT + 1):
        harness.receive(b"\0%d" % n, b"\xc1")
    harness.sessions.replies.clear()
    harness.receive(b"\0%d" % BANNED_KEPT, b"")
    assert not harness.sessions.replies
    harness.receive(b"\x000", b"")
    assert harness.sessions.replies


def test_garbage_in_a_session_ends_it_and_kills_a_spawned_worker() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    con = harness.raw()
    harness.turn()
    harness.receive(linked.identity, b"\xc1")
    assert is_over(linked)
    kinds = [type(record) for record in harness.sessions.to_supervisor]
    assert kinds == [Ready, Kill, Left]
    other = harness.worker()
    harness.turn()
    assert [type(event) for event in other.events] == [OnConnect], "one suspect at a time"
    assert other.events[0].con == con.id


def test_a_batch_of_an_earlier_session_is_dropped_whole() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    harness.receive(linked.identity, encode([linked.link.session + 7, Send(con.id, b"x")]))
    harness.receive(linked.identity, encode([linked.link.session, Send(con.id, b"x"), Ack(1, 9)]))
    assert con.output.size == 0
    assert linked.worker.session.dropped == 2


def test_the_same_process_on_a_new_link_ends_its_old_session() -> None:
    harness = Harness()
    linked = harness.worker(instance="same")
    con = harness.raw()
    harness.turn()
    again = harness.worker(instance="same")
    assert is_over(linked)
    harness.turn()
    assert [event.delivery for event in again.events] == [2, 2], "both at once: nobody died"
    again.ack(commands=(Send(con.id, b"x"),))
    assert harness.write(con) == b"x"


def test_a_hello_on_the_same_link_begins_a_new_session() -> None:
    """A worker that is asked twice drops its events, some of which handlers may have begun."""
    harness = Harness()
    linked = harness.worker()
    harness.raw()
    harness.turn()
    old = linked.worker
    linked.heard.clear()
    harness.receive(linked.identity, encode([0, hello()]))
    assert old.session.state is LinkState.GONE
    assert linked.worker is not old
    assert [(type(event), event.delivery) for event in linked.work()] == [
        (OnConnect, 2),
        (OnMessage, 2),
    ]
    assert not linked.worker.window.in_flight


def test_a_hello_behind_other_records_is_ignored() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(Query(1, "members"), hello())
    harness.turn()
    assert linked.worker.session.state is LinkState.READY
    assert [refused.index for refused in linked.take(Refused)] == [1]


def test_a_bye_ends_the_session_and_is_reported_to_the_supervisor() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    linked.link.bye()
    linked.flush()
    assert is_over(linked)
    assert harness.sessions.to_supervisor == [Ready(3), Left(3)]
    assert harness.sessions.numbered(3) is None


@pytest.mark.parametrize(
    "behind",
    [Ack(1, 1), Send(OLD, b"x"), Bye(), Query(1, "members"), Join(OLD, "g"), 5],
    ids=lambda record: type(record).__name__,
)
def test_records_behind_a_bye_are_ignored(behind: Any) -> None:
    harness = Harness()
    linked = harness.worker()
    harness.raw()
    harness.turn()
    linked.say_raw(Bye(), behind)
    assert is_over(linked)
    other = harness.worker()
    harness.turn()
    assert [type(event) for event in other.events] == [OnConnect, OnMessage]
    assert len(harness.registry.flow.changed) == 0


def test_an_open_behind_bye_opens_nothing() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say_raw(Bye(), Open(linked.link.new_id(), "h:1"))
    assert not harness.registry.entries
    assert not harness.registry.to_dial


def test_a_drained_worker_gets_nothing_new() -> None:
    harness = Harness()
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    worker = harness.sessions.numbered(3)
    assert worker is not None
    harness.sessions.drain(worker, 5.0)
    harness.raw()
    harness.turn()
    assert linked.take(Drain) == [Drain(5.0)]
    assert linked.events == []
    assert harness.sessions.numbered(3) is worker


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
    linked = Harness().worker()
    assert "never given out" in linked.refused(with_id(record, con))


@pytest.mark.parametrize("record", ABOUT_A_CONNECTION, ids=lambda record: type(record).__name__)
def test_commands_for_a_closed_id_are_ignored_and_counted(record: Record) -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    harness.hang_up(con)
    linked.work()
    assert linked.refused(with_id(record, con.id)) == ""
    assert not harness.registry.entries
    assert linked.take(Reached) == ([Reached(con.id, 1, False)] if isinstance(record, Mark) else [])


def test_commands_for_an_id_of_an_earlier_gateway_are_ignored() -> None:
    harness = Harness()
    harness.registry.ids.epoch = 2
    assert harness.worker().refused(Send(OLD, b"x")) == ""


def test_refusals_name_batch_and_index_and_the_rest_applies() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.say_raw()
    linked.say_raw(Send(NEVER, b""), Send(con.id, b"x"), ["nope"], Ack(1, 2))
    harness.turn()
    assert [(refused.batch, refused.index) for refused in linked.take(Refused)] == [(2, 2), (2, 0)]
    assert harness.write(con) == b"x"
    assert not linked.worker.window.in_flight


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
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    refused = linked.refused(with_id(send, con.id))
    assert why in refused
    assert bool(refused) == bool(why)
    assert bool(con.output.size) != bool(why)


def test_a_close_sends_its_code() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    for code in (0, 999, 1005, 1006, 1015, 2000, 5000, -1, 2**63):
        assert linked.refused(Close(con.id, code)), code
    assert con.state is ConnectionState.OPEN
    assert linked.refused(Close(con.id, 4000, "done")) == ""
    assert con.state is ConnectionState.CLOSING


def test_only_on_close_is_delivered_for_a_closed_connection() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw(b"1")
    harness.turn()
    for data in (b"2", b"3", b"4", b"5"):
        harness.say(con, data)
    linked.ack(commands=(Close(con.id, 1000, "bye"),))
    harness.turn()
    [close] = linked.events
    assert (type(close), close.code, close.reason, close.cause) == (
        OnClose, 1000, "bye", "handler",
    )  # fmt: skip
    linked.ack()
    assert harness.registry.flow.total == 0


def test_closing_twice_is_closing_once() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.ack(commands=(Close(con.id), Close(con.id, 4000)))
    harness.turn()
    assert [type(event) for event in linked.events] == [OnClose]


# --- commands: state ---


def test_the_state_moves_with_its_connection() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.ack(commands=(State(con.id, b"s"),))
    linked.link.bye()
    linked.flush()
    other = harness.worker()
    harness.say(con, b"again")
    harness.turn()
    [attach] = other.take(Attach)
    assert (attach.con, attach.inf, attach.state, attach.version) == (
        con.id, {"Protocol": "raw"}, b"s", 1,
    )  # fmt: skip


def test_a_state_is_taken_only_from_the_worker_that_handles_an_event() -> None:
    harness = Harness()
    holder, other = harness.worker(), harness.worker()
    con = harness.raw()
    harness.turn()
    if not holder.events:
        holder, other = other, holder
    assert "only while an event" in other.refused(State(con.id, b"theirs"))
    assert holder.refused(State(con.id, b"mine")) == ""
    holder.ack()
    assert "only while an event" in holder.refused(State(con.id, b"late"))
    assert entry_of(con).state == b"mine"


def test_the_opener_may_set_the_state() -> None:
    harness = Harness()
    linked, other = harness.worker(), harness.worker()
    con = linked.link.new_id()
    assert linked.refused(Open(con, "127.0.0.1:1")) == ""
    assert linked.refused(State(con, b"x" * STATE_LIMIT)) == ""
    assert "at most" in linked.refused(State(con, b"x" * (STATE_LIMIT + 1)))
    assert "only while" in other.refused(State(con, b""))
    assert len(harness.registry.entries[con].state) == STATE_LIMIT


# --- commands: open ---


def opened(linked: LinkedWorker, **options: Any) -> int:
    con = linked.link.new_id()
    assert linked.refused(Open(con, "127.0.0.1:1", options=options)) == ""
    return con


def test_an_opened_connection_is_dialled_and_held_by_its_opener() -> None:
    harness = Harness()
    linked = harness.worker()
    con = opened(linked)
    [entry] = harness.registry.to_dial
    assert (entry.id, entry.con.target) == (con, "127.0.0.1:1")
    harness.registry.take(entry.con, entry.con.connect_failed("no route", 0.0), 0.0)
    harness.turn()
    assert [(type(e), e.con) for e in linked.events] == [(OnError, con), (OnClose, con)]
    assert linked.take(Attach) == [], "it knows what it has opened"
    linked.ack()
    assert not harness.registry.entries


@pytest.mark.parametrize("con", [NEVER, 0, -1, 5, 2**64 - 1])
def test_an_open_needs_an_id_of_the_range_of_its_session(con: int) -> None:
    harness = Harness()
    linked = harness.worker()
    theirs = harness.worker().link.new_id()
    for wrong in (con, theirs):
        assert "not of this session's range" in linked.refused(Open(wrong, "h:1"))
    assert not harness.registry.to_dial


def test_an_id_is_opened_once() -> None:
    linked = Harness().worker()
    con = opened(linked)
    assert "opened before" in linked.refused(Open(con, "h:1"))


@pytest.mark.parametrize("name", [5, [], {}, True, b"feed"])
def test_a_name_is_a_string(name: Any) -> None:
    linked = Harness().worker()
    con = linked.link.new_id()
    assert "must be a string" in linked.refused(Open(con, "h:1", options={"name": name}))


def test_a_second_open_of_a_name_returns_the_open_connection() -> None:
    harness = Harness()
    linked, other = harness.worker(), harness.worker()
    con = opened(linked, name="feed")
    asked = opened(other, name="feed")
    assert other.take(Opened) == [Opened(asked, con)]
    assert len(harness.registry.to_dial) == 1
    assert other.refused(Send(asked, b"by the other id")) == ""
    assert harness.registry.entries[con].con.output.size == len(b"by the other id")
    assert opened(other, name="another") in harness.registry.entries


def test_a_name_is_free_when_its_connection_is_gone() -> None:
    harness = Harness()
    linked = harness.worker()
    con = opened(linked, name="feed")
    asked = opened(linked, name="feed")
    harness.hang_up(harness.registry.entries[con].con)
    harness.turn()
    linked.ack()
    assert linked.refused(Send(asked, b"x")) == "", "closed: a no-op"
    linked.take(Opened)
    again = opened(linked, name="feed")
    assert linked.take(Opened) == []
    assert again in harness.registry.entries


def test_on_close_may_open_the_name_again() -> None:
    """Reconnecting needs this: the open command comes before the ack of the on_close that it
    answers.
    """
    harness = Harness()
    linked = harness.worker()
    con = opened(linked, name="feed")
    harness.hang_up(harness.registry.entries[con].con)
    harness.turn()
    again = linked.link.new_id()
    linked.ack(commands=(Open(again, "127.0.0.1:1", options={"name": "feed"}),))
    harness.turn()
    assert linked.take(Opened) == []
    assert [*harness.registry.entries] == [again]
    asked = opened(linked, name="feed")
    assert linked.take(Opened) == [Opened(asked, again)]


def test_an_unnamed_connection_opened_outside_an_event_ends_with_its_worker() -> None:
    harness = Harness()
    linked, other = harness.worker(), harness.worker()
    con = harness.raw()
    harness.turn()
    owned = opened(linked)
    named = opened(linked, name="feed")
    during = opened(linked, during=con.id)
    linked.ack() if linked.events else other.ack()
    linked.link.bye()
    linked.flush()
    harness.turn()
    assert [(type(e), e.con, e.cause) for e in other.events] == [(OnClose, owned, "owner-left")]
    other.ack()
    assert {*harness.registry.entries} == {con.id, named, during}


def test_a_connection_opened_by_an_event_is_coupled_to_its_connection() -> None:
    harness = Harness()
    linked = harness.worker()
    con, another = harness.raw(), harness.raw()
    harness.turn()
    entries = harness.registry.entries

    def couples(opened_id: int) -> set[int]:
        return {entry.id for entry in entries[opened_id].couples or ()}

    assert couples(opened(linked, during=con.id)) == {con.id}
    assert couples(opened(linked, during=con.id, couple=another.id)) == {another.id}
    assert couples(opened(linked, during=con.id, couple=None)) == set()
    assert couples(opened(linked)) == set()
    assert couples(opened(linked, couple=NEVER)) == set()


def test_an_opened_connection_is_not_coupled_to_itself() -> None:
    harness = Harness()
    linked = harness.worker()
    own = linked.link.new_id()
    linked.say(Open(own, "h:1", options={"during": own}))
    [entry] = harness.registry.to_dial
    assert entry.couples is None
    harness.registry.take(entry.con, entry.con.connect_failed("no", 0.0), 0.0)
    harness.turn()
    linked.ack()
    assert not harness.registry.entries


def test_a_connection_with_reconnect_reconnects_for_days() -> None:
    harness = Harness()
    linked = harness.worker()
    linked.say(Open(linked.link.new_id(), "h:1", options={"reconnect": True}))
    for _ in range(1100):
        [entry] = harness.registry.to_dial
        harness.registry.to_dial.clear()
        harness.now = max(harness.now, entry.dial_at)
        harness.registry.take(entry.con, entry.con.connect_failed("no", harness.now), harness.now)
        harness.turn()
        linked.ack()
    assert harness.registry.to_dial[0].dial_at - harness.now == LONGEST_DELAY


@pytest.mark.long
def test_ids_of_a_range_run_out_and_new_ranges_follow_without_end() -> None:
    harness = Harness()
    linked = harness.worker()
    for _ in range(9000):
        con = linked.link.new_id()
        linked.say(Open(con, "h:1"))
        [entry] = harness.registry.to_dial
        harness.registry.to_dial.clear()
        harness.registry.take(entry.con, entry.con.connect_failed("no", 0.0), 0.0)
        harness.turn()
        linked.ack()
    assert not harness.registry.entries
    assert len(linked.worker.ids) <= 2, "ranges that are used up are not kept"


def test_output_of_an_opening_connection_pauses_the_coupled_one() -> None:
    """Example: a proxy's client uploads faster than the upstream accepts the connection."""
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    upstream = opened(linked, during=con.id)
    linked.ack(commands=(Send(upstream, b"x" * 300_000),))
    assert entry_of(con).pauses


@pytest.mark.parametrize("protocol", ["websocket", "raw"])
def test_an_upload_to_an_opening_connection_is_not_lost(protocol: str) -> None:
    """Reading stops long before the limit at which a reader is closed or a send refused."""
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    upstream = linked.link.new_id()
    linked.ack(commands=(Open(upstream, "h:1", protocol, options={"during": con.id}),))
    sent = 0
    while not entry_of(con).pauses and sent < harness.settings.output_limit:
        harness.say(con, b"x" * 60_000)
        harness.turn()
        linked.ack(commands=(Send(upstream, b"x" * 60_000),))
        sent += 60_000
    assert sent <= 2 * harness.settings.high_water_mark


@pytest.mark.parametrize("end", ["upstream ends", "silence"])
def test_a_half_closed_client_gets_the_answer_of_a_connection_opened_for_it(end: str) -> None:
    """`nc -N` through a converter: the client has sent its request and half-closed before the
    upstream is open.
    """
    harness = Harness()
    linked = harness.worker()
    registry, con = harness.registry, harness.raw()
    harness.turn()
    upstream = opened(linked, during=con.id)
    there = registry.entries[upstream].con
    registry.receive_eof(con, harness.now)
    linked.work()
    harness.run(60.0)
    assert con.state is ConnectionState.CLOSING, "the upstream has the time of its connect_timeout"
    registry.take(there, there.connected(harness.now), harness.now)
    harness.run(harness.settings.close_timeout - 2)
    linked.say(Send(con.id, b"answer"))
    entry_of(con).written += con.output.size
    con.written(con.output.size, harness.now)
    harness.run(harness.settings.close_timeout - 2)
    assert con.state is ConnectionState.CLOSING
    if end == "silence":
        harness.run(4.0)
    else:
        registry.take(there, there.lost("reset", harness.now), harness.now)
        harness.run(1.0)
    assert con.ending.cause == "eof"
    assert not registry._unanswered


@pytest.mark.parametrize("options", [{"name": "feed"}, {"couple": None}])
def test_a_half_closed_client_does_not_wait_for_connections_opened_for_others(
    options: dict[str, Any],
) -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    opened(linked, during=con.id, **options)
    harness.registry.receive_eof(con, harness.now)
    linked.work()
    assert con.ending.cause == "eof"


# --- commands: groups, couple, mark, query ---


def test_a_published_message_reaches_the_members_of_its_group() -> None:
    harness = Harness()
    linked = harness.worker()
    one, two = harness.raw(), harness.raw()
    for con in (one, two):
        assert linked.refused(Join(con.id, "g")) == ""
    assert linked.refused(Publish("g", b"a")) == ""
    assert linked.refused(Publish("g", b"b", options={"except": [one.id]})) == ""
    assert linked.refused(Leave(two.id, "g")) == ""
    assert linked.refused(Publish("g", b"c")) == ""
    assert (harness.write(one), harness.write(two)) == (b"ac", b"ab")
    assert linked.refused(Publish("no such group", b"c")) == ""


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
    assert why in Harness().worker().refused(publish)


def test_a_couple_command_joins_two_connections() -> None:
    harness = Harness()
    linked = harness.worker()
    one, two = harness.raw(), harness.raw()
    assert linked.refused(Couple(one.id, two.id)) == ""
    assert linked.refused(Couple(one.id, one.id)) == ""
    assert entry_of(one).couples == {entry_of(two)}
    assert entry_of(two).couples == {entry_of(one)}


def test_a_mark_is_reached_when_the_output_before_it_is_written() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.say(Mark(con.id, 1), Send(con.id, b"1234"), Mark(con.id, 2), Send(con.id, b"5"))
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 1)]
    harness.write(con, 3)
    harness.turn()
    assert linked.take(Reached) == []
    harness.write(con, 1)
    harness.turn()
    assert linked.take(Reached) == [Reached(con.id, 2)]


def test_a_mark_of_a_worker_that_has_left_is_not_answered() -> None:
    harness = Harness()
    linked, other = harness.worker(), harness.worker()
    con = harness.raw()
    linked.say(Send(con.id, b"x"), Mark(con.id, 1))
    linked.link.bye()
    linked.flush()
    harness.write(con)
    harness.turn()
    assert linked.take(Reached) == other.take(Reached) == []


def test_queries_are_answered() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    linked.say(Join(con.id, "g"), Query(1, "members", "g"), Query(2, "members", "nobody"))
    harness.turn()
    assert linked.take(Answer) == [Answer(1, [con.id]), Answer(2, [])]
    assert "there is no query" in linked.refused(Query(3, "weather"))
    linked.say(Query(4, "ids"))
    harness.turn()
    [answer] = linked.take(Answer)
    first, last = answer.value
    assert linked.refused(Open(first, "h:1")) == ""
    assert linked.refused(Open(last, "h:1")) == ""
    assert linked.refused(Open(last + 1, "h:1")) != ""


# --- half-close ---


def test_a_half_closed_connection_gets_its_answers_before_the_end() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw(b"hi")
    harness.registry.receive_eof(con, 0.0)
    harness.turn()
    connect, message = linked.events
    linked.ack(connect)
    linked.ack(message, commands=(Send(con.id, b"answer"),))
    harness.turn()
    assert linked.events == []
    assert harness.write(con) == b"answer"
    harness.turn()
    [close] = linked.events
    assert (close.code, close.cause) == (1000, "eof")


def test_a_half_close_after_all_events_were_handled_ends_the_connection() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw(b"hi")
    harness.turn()
    linked.ack()
    harness.registry.receive_eof(con, 0.0)
    harness.turn()
    assert [(type(event), event.cause) for event in linked.events] == [(OnClose, "eof")]


def test_a_half_close_with_parked_events_waits_for_a_worker() -> None:
    harness = Harness()
    con = harness.raw(b"hi")
    harness.registry.receive_eof(con, 0.0)
    linked = harness.worker()
    harness.turn()
    assert [type(event) for event in linked.events] == [OnConnect, OnMessage]
    linked.ack()
    harness.turn()
    assert [type(event) for event in linked.events] == [OnClose]


def test_an_end_of_file_of_a_websocket_is_not_a_half_close() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.websocket()
    harness.registry.receive_eof(con, 0.0)
    harness.turn()
    assert [type(event) for event in linked.events] == [OnConnect, OnClose]
    assert linked.events[1].code == 1006


# --- the clock ---


def test_a_client_that_waits_too_long_for_a_worker_is_closed() -> None:
    harness = Harness(worker_wait_timeout=30.0)
    raw, websocket = harness.raw(), harness.websocket()
    harness.run(30.0)
    assert {raw.state, websocket.state} == {ConnectionState.OPEN}
    harness.run(1.0)
    assert raw.output.reset
    assert harness.write(websocket) == close_frame(1013, b"no worker is ready")
    assert not harness.registry.entries
    assert harness.registry.flow.total == 0
    harness.run(5.0)
    linked = harness.worker()
    harness.turn()
    assert linked.events == []


def close_frame(code: int, reason: bytes) -> bytes:
    return bytes((0x88, 2 + len(reason))) + code.to_bytes(2) + reason


@pytest.mark.parametrize("wait", [0.0, 1000.0])
def test_a_client_waits_for_a_worker_within_worker_wait_timeout(wait: float) -> None:
    harness = Harness(worker_wait_timeout=wait)
    harness.raw()
    harness.run(100.0)
    linked = harness.worker()
    harness.turn()
    assert len(linked.events) == 2


def test_a_client_that_a_worker_knows_is_not_closed_for_waiting() -> None:
    harness = Harness(worker_wait_timeout=30.0)
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    linked.ack()
    linked.link.bye()
    linked.flush()
    harness.say(con, b"more")
    harness.run(100.0)
    other = harness.worker()
    harness.turn()
    assert [event.data for event in other.events] == [b"more"]


def test_reading_that_stays_paused_closes_the_connection() -> None:
    harness = Harness(pause_timeout=120.0, handler_timeout=0.0)
    linked = harness.worker()
    con = harness.raw(b"x" * 300_000)
    harness.turn()
    assert entry_of(con).pauses
    harness.run(120.0)
    assert con.state is ConnectionState.OPEN
    harness.run(2.0)
    assert (con.ending.code, con.ending.cause) == (1013, "stalled")
    linked.ack()
    harness.turn()
    assert [type(event) for event in linked.events] == [OnClose]


def test_a_stalled_connection_is_counted_once() -> None:
    harness = Harness(pause_timeout=5.0, handler_timeout=0.0, close_timeout=0.0)
    harness.worker()
    con = harness.websocket()
    harness.say(con, frame(0x82, bytes(300_000)))
    harness.turn()
    assert entry_of(con).pauses
    # The handler hangs, and the client does not answer our close frame.
    harness.run(60.0)
    assert con.state is ConnectionState.CLOSING
    assert harness.registry.counters.counts == {"pause_timeout": 1}
    harness.hang_up(con)
    harness.run(60.0)
    assert con.state is ConnectionState.CLOSED
    assert harness.registry.counters.counts == {"pause_timeout": 1}


@pytest.mark.parametrize("case", ["no worker", "off", "stopping"])
def test_a_pause_that_no_handler_causes_does_not_close_the_connection(case: str) -> None:
    harness = Harness(pause_timeout=0.0 if case == "off" else 120.0, worker_wait_timeout=0.0)
    if case != "no worker":
        harness.worker()
    if case == "stopping":
        harness.registry.stop()
    con = harness.raw(b"x" * 300_000)
    assert entry_of(con).pauses
    harness.run(1000.0)
    assert con.state is ConnectionState.OPEN


def test_above_the_memory_limit_the_fullest_output_is_closed() -> None:
    harness = Harness(memory_limit=1_000_000)
    linked = harness.worker()
    cons = [harness.raw() for _ in range(3)]
    harness.turn()
    linked.ack()
    for con, size in zip(cons, (200_000, 700_000, 300_000), strict=True):
        linked.say(Send(con.id, b"x" * size))
        harness.registry.wrote(entry_of(con))
    harness.run(1.0)
    assert [con.ending.cause for con in cons] == ["", "memory", ""]
    assert cons[1].output.reset
    assert harness.registry.flow.total < 1_000_000, "what is thrown away weighs nothing"


def test_a_slow_reader_past_the_output_limit_is_closed() -> None:
    harness = Harness(output_limit=1000)
    linked = harness.worker()
    con = harness.raw(b"1")
    harness.turn()
    harness.say(con, b"2")
    harness.say(con, b"3")
    linked.ack(commands=(Send(con.id, b"x" * 1000), Send(con.id, b"x")))
    assert con.state is ConnectionState.OPEN
    harness.turn()
    harness.now += AT_ONCE + 0.1
    linked.ack(commands=(Send(con.id, b"x"),))
    harness.turn()
    assert (con.ending.code, con.ending.cause, con.output.reset) == (1008, "overflow", True)
    kinds = [type(event) for event in linked.events]
    assert kinds == [OnError, OnClose]
    linked.ack()
    assert harness.registry.flow.total == 0


def test_output_written_after_the_end_leaves_no_trace() -> None:
    """The entry of a raw connection is dropped while its last bytes are still being written."""
    for rest in (None, 10):
        harness = Harness()
        linked = harness.worker()
        con = harness.raw()
        harness.turn()
        linked.ack(commands=(Send(con.id, b"x" * 600_000), Close(con.id)))
        harness.write(con, 10)
        harness.turn()
        linked.ack()
        assert not harness.registry.entries
        harness.write(con, rest)
        harness.hang_up(con)
        assert harness.registry.flow.total == 0
        assert not harness.registry.flow.paused
        harness.deadlines.tick(1000.0)


# --- stop ---


def test_a_stop_lets_handlers_finish_before_it_closes_connections() -> None:
    harness = Harness()
    linked = harness.worker()
    con = harness.raw()
    harness.turn()
    harness.registry.stop()
    assert entry_of(con).pauses
    assert not harness.sessions.is_quiet()
    linked.ack(commands=(Send(con.id, b"x"),))
    assert harness.sessions.is_quiet()
    harness.registry.close_all(0.0)
    assert harness.registry.is_waited_for()
    harness.turn()
    [close] = linked.events
    assert (close.code, close.cause) == (1001, "going-away")
    linked.ack()
    assert not harness.registry.is_waited_for()
    assert harness.write(con) == b"x"


def test_a_stop_that_has_closed_connections_opens_none() -> None:
    harness = Harness()
    linked = harness.worker()
    first, second = linked.link.new_id(), linked.link.new_id()
    harness.registry.stop()
    linked.say(Open(first, "h:1"))
    assert first in harness.registry.entries, "what handlers still do is done"
    harness.registry.close_all(0.0)
    harness.turn()
    linked.ack(commands=(Open(second, "h:1"), Send(second, b"x")))
    assert second not in harness.registry.entries
    assert linked.refused(Open(second, "h:1"))
    assert not harness.registry.is_waited_for()


def test_a_stop_does_not_wait_for_events_that_no_worker_can_handle() -> None:
    harness = Harness()
    harness.raw()
    harness.registry.stop()
    assert harness.sessions.is_quiet()
    assert not harness.registry.is_waited_for()
    late = harness.raw()
    assert entry_of(late).pauses


# --- random batches of a worker ---

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
    harness = Harness(output_limit=8000, high_water_mark=2000)
    linked_workers = [harness.worker(), harness.worker()]
    connections = [harness.raw(), harness.websocket()]
    for kind, n, records in steps:
        con = connections[n % len(connections)]
        if kind == "batch":
            linked_workers[n % len(linked_workers)].say_raw(*records)
        elif kind == "raw":
            connections.append(harness.raw())
        elif kind == "say":
            harness.say(con, b"x" * 700 if con.kind == "raw" else b"\x82\x80abcd")
        elif kind == "hang up":
            harness.hang_up(con)
        elif kind == "eof":
            harness.registry.receive_eof(con, harness.now)
        elif kind == "turn":
            harness.turn()
        elif con.entry is not None:
            harness.write(con, 100)
        harness.run(1.0)
        entries = harness.registry.entries.values()
        assert all(entry.event_bytes >= 0 and entry.in_flight >= 0 for entry in entries)
        assert harness.registry.flow.total == sum(r.event_bytes + r.output_counted for r in entries)
    harness.worker().say(Join(connections[0].id, "g"))


def test_the_holder_of_a_connection_of_a_dead_gateway_is_told_its_end() -> None:
    """Only the holder knows the inf and the state; no other worker gets the event, however busy
    the holder is.
    """
    harness = Harness()
    harness.registry.ids.epoch = 2
    idle = harness.worker()
    held = [OLD + n for n in range(20)]
    harness.receive(b"\0x", encode([0, hello(window=2, held=held)]))
    worker = harness.sessions.workers[b"\0x"]
    heard = []
    while worker.window.in_flight or worker.bound:
        heard += [flight.event for flight in worker.window.in_flight.values()]
        first, *_, last = [*worker.window.in_flight, *worker.window.in_flight]
        harness.receive(b"\0x", encode([worker.session.number, Ack(first, last)]))
        harness.turn()
    assert [event.con for event in heard] == held
    assert idle.events == []
    assert not harness.registry.entries


@pytest.mark.parametrize("identity", [b"\0x", b"\0y"], ids=["asked twice", "on a new link"])
@pytest.mark.parametrize("window", [1, 100])
def test_a_holder_that_begins_anew_goes_on_with_the_ends_of_its_connections(
    identity: bytes, window: int
) -> None:
    """If the holder forgot the connections whose ends it has not handled, their inf and state
    would be lost, as no other worker has them.
    """
    harness = Harness()
    harness.registry.ids.epoch = 2
    idle = harness.worker()
    decoder = worker_decoder()
    held = [OLD + n for n in range(10)]

    def begin(identity: bytes) -> Worker:
        harness.receive(identity, encode([0, hello(window=window, held=held)]))
        return harness.sessions.workers[identity]

    def ack(worker: Worker, first: int, last: int) -> None:
        harness.receive(worker.session.identity, encode([worker.session.number, Ack(first, last)]))

    worker = begin(b"\0x")
    harness.turn()
    first, flight = next(iter(worker.window.in_flight.items()))
    ack(worker, first, first)
    # The worker is sent more ends, and has not handled them.
    harness.turn()
    worker = begin(identity)
    told: list[Any] = []
    while harness.registry.entries:
        harness.registry.dispatcher.dispatch(harness.registry.pool(), harness.now)
        data = worker.session.data_to_send()
        assert data is not None
        told += decoder.decode(data)[1]
        ack(worker, min(worker.window.in_flight), max(worker.window.in_flight))
    ends = [record.con for record in told if type(record) is OnClose]
    assert sorted([flight.event.con, *ends]) == held
    forgotten: list[int] = []
    for record in told:
        if type(record) is Detach:
            forgotten.append(record.con)
        elif type(record) is OnClose:
            assert record.con not in forgotten
    assert flight.event.con in forgotten, "that one it has handled"
    assert idle.events == []


def test_the_end_of_a_connection_whose_holder_died_is_told_to_another() -> None:
    harness = Harness()
    harness.registry.ids.epoch = 2
    linked = harness.worker()
    harness.receive(b"\0x", encode([0, hello(held=[OLD])]))
    harness.turn()
    harness.sessions.end(harness.sessions.workers[b"\0x"], harness.now, died=True)
    harness.turn()
    (close,) = linked.events
    assert (close.con, close.cause, close.delivery) == (OLD, "gateway-died", 2)


def test_a_recycle_that_was_not_done_is_requested_again() -> None:
    harness = Harness(max_events=10)
    harness.sessions.tokens.add("third", 3)
    linked = harness.worker(token="third")
    con = harness.raw()

    def asked(events: int) -> int:
        for _ in range(events):
            harness.say(con, b"x")
            linked.work()
        harness.run(1)
        return sum(isinstance(record, Recycle) for record in harness.sessions.to_supervisor)

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
    harness = Harness(**{setting: 10.0})
    registry = harness.registry
    deadlines = harness.deadlines
    linked = harness.worker() if cause != "no-worker" else None
    cons = [harness.raw(b"x", protocol="raw") for _ in range(2 * MOST_ENDED + 1)]
    if linked is not None:
        linked.work()
    for con in cons:
        if cause == "stalled":
            registry.flow.pause(entry_of(con), PAUSED_OWN)
        elif cause == "write-timeout":
            con.output.append(b"x")
            registry.flow.output_changed(entry_of(con))
    # The first check finds which connections are idle from now on.
    deadlines.tick(1.0)
    left = []
    deadlines.tick(12.0)
    moved = next(con for con in cons if con.state is not ConnectionState.CLOSED)
    if cause == "idle-timeout":
        entry_of(moved).received_at = 12.0
    elif cause == "write-timeout":
        moved.output.take_written(moved.output.size)
        registry.flow.output_changed(entry_of(moved))
    elif cause == "stalled":
        registry.flow.resume(entry_of(moved), PAUSED_OWN)
    while deadlines.late:
        left.append(sum(con.state is not ConnectionState.CLOSED for con in cons))
        deadlines.end_late(12.0)
    assert left in ([MOST_ENDED + 1, 1], [MOST_ENDED + 1, 2])
    stays = 0 if cause == "no-worker" else 1
    assert moved.ending.cause == ("" if stays else cause)
    assert all(con.ending.cause == cause for con in cons if con is not moved)
    assert registry.counters.counts == {setting: len(cons) - stays}
