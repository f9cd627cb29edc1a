from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

import pytest

from wsraw.config.settings import LARGEST_MESSAGE
from wsraw.link import ends
from wsraw.link import records as rec
from wsraw.link.ends import (
    FIRST_WINDOW,
    IDS_LOW,
    LARGEST_BATCH,
    LARGEST_REMOTE_BATCH,
    LARGEST_WINDOW,
    LATE_AFTER,
    LONGEST_ROUND_TRIP,
    RECORD_COST,
    ROOM_FOR_ACKS,
    ROUND_TRIPS,
    STUCK_AFTER,
    WINDOW_BYTES,
    WORK_AHEAD,
    GatewayLink,
    LinkState,
    WorkerLink,
)

SESSION = 9
CON = 1 << rec.ID_EPOCH_SHIFT | 5


def message(con: int = CON, data: bytes = b"x") -> rec.OnMessage:
    return rec.OnMessage(0, con, data, "raw")


def worker_end(**changes: Any) -> WorkerLink:
    asked: dict[str, Any] = {"pool": "p", "token": "t", "instance": "i", "language": "l"}
    return WorkerLink(**{**asked, **changes})


def hello(**changes: Any) -> rec.Hello:
    asked: dict[str, Any] = {
        "version": rec.PROTOCOL_VERSION, "pool": "p", "instance": "i", "language": "l",
        "token": "t", "window": LARGEST_WINDOW, "concurrency": 1,
    }  # fmt: skip
    return rec.Hello(**{**asked, **changes})


def gateway_end(**changes: Any) -> GatewayLink:
    end = GatewayLink(b"id", rec.gateway_decoder())
    end.welcome(hello(**changes), SESSION, 1, range(100, 200))
    end.data_to_send()
    return end


def sent(end: WorkerLink | GatewayLink) -> list[Any] | None:
    """What an end sends now: its session, then its records."""
    data = end.data_to_send()
    if data is None:
        return None
    decoder = rec.gateway_decoder() if isinstance(end, WorkerLink) else rec.worker_decoder()
    session, records, wrong = decoder.decode(data)
    assert not wrong
    return [session, *records]


def to_worker(*records: rec.Record, session: int = SESSION) -> bytes:
    return rec.encode([session, *records])


def to_gateway(*records: rec.Record, session: int = SESSION) -> bytes:
    return rec.encode([session, *records])


WELCOME = rec.Welcome(1, SESSION, 1, 100, 5000, 10)


def ready_worker() -> WorkerLink:
    end = worker_end()
    end.receive(ends.who())
    end.data_to_send()
    end.receive(to_worker(WELCOME))
    return end


# --- the life of a session, worker end ---

EVENT = rec.OnMessage(1, CON, b"x", "raw")


def who(end: WorkerLink) -> object:
    return end.receive(ends.who())


def welcome(end: WorkerLink) -> object:
    return end.receive(to_worker(WELCOME))


def drain(end: WorkerLink) -> object:
    return end.receive(to_worker(rec.Drain(1.0), session=end.session or SESSION))


def bye(end: WorkerLink) -> object:
    return end.bye()


N, R, D, G = LinkState.NEW, LinkState.READY, LinkState.DRAINING, LinkState.GONE

LISTED = {
    (N, welcome): R,
    (R, welcome): R,
    (R, who): N,
    (R, drain): D,
    (R, bye): G,
    (D, who): N,
    (D, welcome): R,
    (D, bye): G,
}
"""All moves; in every other pair of state and step the state stays."""

STEPS = (who, welcome, drain, bye)


def worker_in(state: LinkState) -> WorkerLink:
    if state is N:
        return worker_end()
    end = ready_worker()
    if state is D:
        drain(end)
    elif state is G:
        bye(end)
    assert end.state is state
    return end


@pytest.mark.parametrize(("state", "step"), LISTED)
def test_listed_moves(state: LinkState, step: Callable[[WorkerLink], object]) -> None:
    end = worker_in(state)
    step(end)
    assert end.state is LISTED[state, step]


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (state, step)
        for state in LinkState
        for step in STEPS
        if (state, step) not in LISTED and (state, step) != (N, bye)
    ],
)
def test_all_other_moves_stay(state: LinkState, step: Callable[[WorkerLink], object]) -> None:
    end = worker_in(state)
    step(end)
    assert end.state is state


def test_who_after_bye_is_not_answered() -> None:
    """A gateway forgets a session that said bye; asked again, the worker must not come back."""
    end = ready_worker()
    end.bye()
    assert sent(end) == [SESSION, rec.Bye()]
    end.receive(ends.who())
    assert sent(end) is None


def test_a_worker_that_says_bye_unasked_says_no_hello() -> None:
    end = worker_end()
    end.receive(ends.who())
    end.bye()
    assert not any(isinstance(record, rec.Hello) for record in sent(end) or ())
    assert end.state is G


# --- the dialog, worker end ---


def test_who_is_answered_with_hello_once() -> None:
    end = worker_end(window=50, concurrency=3)
    assert sent(end) is None
    end.receive(ends.who())
    assert sent(end) == [0, rec.Hello(1, "p", "i", "l", "t", 50, 3, [])]
    assert sent(end) is None


def test_hello_says_what_is_still_held() -> None:
    end = ready_worker()
    end.receive(
        to_worker(
            rec.OnConnect(1, CON, {}),
            rec.Attach(CON + 1, None, b"", 0),
            rec.Attach(CON + 2, {}, b"", 0),
            rec.Detach(CON + 1),
        )
    )
    own = end.new_id()
    end.receive(ends.who())
    assert sent(end) == [0, hello(held=sorted([CON, CON + 2, own]))]


def test_what_it_has_handled_the_end_of_is_held_no_more() -> None:
    """Should the gateway die before its detach comes, the next one would tell the end again."""
    end = ready_worker()
    other = CON + 1
    end.receive(to_worker(rec.OnConnect(1, CON, {}), rec.OnConnect(2, other, {})))
    [event] = end.receive(to_worker(rec.OnClose(3, CON, 1000, "", "peer")))
    assert end.held == {CON, other}, "not yet handled"
    end.done(end.outbox(event))
    assert end.held == {other}


def test_an_end_that_was_handled_too_late_is_told_again() -> None:
    end = ready_worker()
    [event] = end.receive(to_worker(rec.OnClose(3, CON, 1000, "", "peer")))
    outbox = end.outbox(event)
    end.receive(ends.who())
    assert not end.done(outbox)
    assert end.held == {CON}


@pytest.mark.parametrize(
    "event", [rec.OnError(1, CON, "refused"), rec.OnClose(1, CON, 1006, "", "connect-failed")]
)
def test_one_known_from_another_event_than_on_connect_is_held(event: rec.Event) -> None:
    end = ready_worker()
    end.receive(to_worker(event))
    end.receive(ends.who())
    assert sent(end) == [0, hello(held=[CON])]


def test_a_question_older_than_the_session_is_not_answered() -> None:
    end = ready_worker()
    end.receive(ends.who())
    end.receive(to_worker(rec.Welcome(1, SESSION + 1, 1, 100, 5000, 10), session=SESSION + 1))
    assert end.session == SESSION + 1
    assert end.data_to_send() is None


def test_events_and_notices_are_passed_on_in_order() -> None:
    end = ready_worker()
    records = [
        rec.Attach(CON, {}, b"s", 1),
        EVENT,
        rec.OnClose(2, CON, 1000, "", "peer"),
        rec.Detach(CON),
    ]
    assert end.receive(to_worker(*records)) == records
    assert end.receive(to_worker(EVENT, EVENT)) == [EVENT, EVENT]


def test_welcome_is_passed_on() -> None:
    assert worker_end().receive(to_worker(WELCOME)) == [WELCOME]


@pytest.mark.parametrize("session", [0, SESSION - 1, SESSION + 1])
def test_what_another_session_says_is_dropped(session: int) -> None:
    end = ready_worker()
    assert end.receive(to_worker(EVENT, session=session)) == []
    assert end.receive(to_worker(rec.OnConnect(1, CON, {}), session=session)) == []
    assert end.held == set()


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", rec.encode([True]), b"\x91" * 10_000])
def test_a_worker_survives_what_is_no_batch(data: bytes) -> None:
    end = ready_worker()
    assert end.receive(data) == []
    assert end.state is R


def test_an_unknown_notice_is_ignored() -> None:
    end = ready_worker()
    assert end.receive(rec.encode([SESSION, ["a later version's"], EVENT])) == [EVENT]


def test_a_refusal_reaches_who_has_no_session() -> None:
    [refused] = worker_end().receive(ends.refusal("wrong token"))
    assert refused == rec.Refused(0, 0, "wrong token")


# --- outboxes ---


def test_commands_travel_with_their_ack() -> None:
    end = ready_worker()
    outbox = end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"a"))
    assert sent(end) is None, "the handler has not returned"
    assert end.done(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"a"), rec.Ack(1, 1)]
    assert sent(end) is None


def test_acks_in_a_row_are_one_record() -> None:
    end = ready_worker()
    for seq in (4, 5, 6, 9, 8, 10):
        end.done(ends.Outbox(SESSION, rec.OnError(seq, 1, "")))
    assert sent(end) == [SESSION, rec.Ack(4, 6), rec.Ack(9, 9), rec.Ack(8, 8), rec.Ack(10, 10)]


def test_what_cannot_be_encoded_is_left_out_with_a_warning() -> None:
    end = ready_worker()
    for seq in (4, 5, 6):
        outbox = ends.Outbox(SESSION, rec.OnError(seq, CON, ""))
        outbox.records = [rec.Send(CON, b"%d" % seq), rec.Join(CON, object() if seq == 5 else "g")]  # type: ignore[arg-type]
        end.done(outbox)
    end.command(rec.Leave(CON, "\ud800"))
    end.bye()
    with pytest.warns(RuntimeWarning, match="(join|leave) cannot be encoded"):
        assert sent(end) == [
            SESSION,
            *(rec.Send(CON, b"4"), rec.Join(CON, "g"), rec.Send(CON, b"6"), rec.Join(CON, "g")),
            *(rec.Ack(4, 6), rec.Bye()),
        ]
    assert sent(end) is None


def test_nothing_is_forgotten_before_it_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    end = ready_worker()
    end.command(rec.Send(CON, b"a"))
    end.done(ends.Outbox(SESSION, rec.OnError(4, CON, "")))
    with monkeypatch.context() as patch:

        def fail(batch: object) -> bytes:
            if isinstance(batch, list):
                raise MemoryError
            return b""

        patch.setattr(ends, "encode", fail)
        with pytest.raises(MemoryError):
            end.data_to_send()
    assert sent(end) == [SESSION, rec.Send(CON, b"a"), rec.Ack(4, 4)]


@pytest.mark.parametrize("asked", [True, False], ids=["who, welcome", "welcome"])
def test_an_outbox_dies_with_its_session(asked: bool) -> None:
    end = ready_worker()
    outbox, done = end.outbox(EVENT), end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"late"))
    end.done(done)
    end.command(rec.Send(CON, b"early"))
    if asked:
        end.receive(ends.who())
        assert [type(record) for record in sent(end) or ()] == [int, rec.Hello]
    end.receive(to_worker(rec.Welcome(1, SESSION + 1, 1, 9000, 9999, 10), session=SESSION + 1))
    assert sent(end) is None, "what was not yet sent belonged to the old session"
    assert not end.done(outbox)
    end.flush(outbox)
    assert sent(end) is None


def test_flush_sends_ahead_and_only_once() -> None:
    end = ready_worker()
    outbox = end.outbox(EVENT)
    outbox.records.append(rec.Send(CON, b"a"))
    end.flush(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"a")]
    outbox.records.append(rec.Send(CON, b"b"))
    end.done(outbox)
    assert sent(end) == [SESSION, rec.Send(CON, b"b"), rec.Ack(1, 1)]


def test_a_command_of_no_event_needs_a_session() -> None:
    end = ready_worker()
    assert end.command(rec.Join(CON, "g"))
    assert sent(end) == [SESSION, rec.Join(CON, "g")]
    assert not worker_end().command(rec.Join(CON, "g"))
    end.bye()
    assert not end.command(rec.Join(CON, "g"))


def test_bye_is_the_last_record_behind_all_acks() -> None:
    end = ready_worker()
    end.command(rec.Join(CON, "g"))
    end.done(end.outbox(EVENT))
    end.bye()
    assert sent(end) == [SESSION, rec.Join(CON, "g"), rec.Ack(1, 1), rec.Bye()]


def test_a_handler_that_returns_after_bye_changes_nothing() -> None:
    end = ready_worker()
    early, late = end.outbox(EVENT), end.outbox(EVENT)
    early.records.append(rec.Send(CON, b"early"))
    end.bye()
    end.done(early)
    assert (sent(end) or [])[-1] == rec.Bye()
    end.done(late)
    assert sent(end) is None


# --- ids for open ---


def test_ids_come_from_the_range_and_more_are_asked_for_in_time() -> None:
    end = worker_end()
    end.receive(to_worker(rec.Welcome(1, SESSION, 1, 100, 100 + 4095, 10)))
    ids = [end.new_id() for _ in range(4096 - IDS_LOW - 1)]
    assert sent(end) is None
    ids.append(end.new_id())
    assert sent(end) == [SESSION, rec.Query(0, "ids")]
    assert end.receive(to_worker(rec.Answer(0, [9000, 9001]))) == [], "that was no shell's question"
    ids += [end.new_id() for _ in range(IDS_LOW + 2)]
    assert ids == [*range(100, 4196), 9000, 9001]
    with pytest.raises(LookupError):
        end.new_id()


def test_no_ids_without_a_session() -> None:
    with pytest.raises(LookupError):
        worker_end().new_id()
    end = ready_worker()
    end.receive(ends.who())
    with pytest.raises(LookupError):
        end.new_id()


def test_the_answer_to_a_shell_is_passed_on() -> None:
    assert ready_worker().receive(to_worker(rec.Answer(1, [2, 3]))) == [rec.Answer(1, [2, 3])]


@pytest.mark.parametrize("value", [None, 5, [], [1], ["a", "b"], [1, 2, 3], {"a": 1}])
def test_a_worker_survives_a_wrong_answer(value: Any) -> None:
    assert ready_worker().receive(to_worker(rec.Answer(0, value))) == []


# --- batches have a largest size ---


def limited(batch: int) -> WorkerLink:
    end = ready_worker()
    end.receive(ends.who())
    end.data_to_send()
    welcome = rec.Welcome(1, SESSION, 1, 100, 5000, 10, {"batch": batch})
    end.receive(to_worker(welcome))
    return end


def filled(end: WorkerLink, seq: int, *sizes: int) -> ends.Outbox:
    outbox = end.outbox(rec.OnMessage(seq, CON, b"x", "raw"))
    for size in sizes:
        outbox.records.append(rec.Send(CON, bytes(size)))
        outbox.size += size + RECORD_COST
    return outbox


def test_a_worker_learns_how_large_a_batch_may_be() -> None:
    for is_far, batch in ((False, LARGEST_BATCH), (True, LARGEST_REMOTE_BATCH)):
        end = GatewayLink(b"id", rec.gateway_decoder())
        end.is_far = is_far
        end.welcome(hello(), SESSION, 1, range(100, 200))
        worker = worker_end()
        worker.receive(end.data_to_send() or b"")
        assert worker.room == batch - ROOM_FOR_ACKS


def test_events_that_do_not_fit_into_one_batch_go_in_several_each_with_its_commands() -> None:
    end = limited(100_000 + ROOM_FOR_ACKS)
    for seq, size in enumerate((60_000, 60_000, 10, 10, 99_000), 1):
        assert end.done(filled(end, seq, size))
    assert end.command(rec.Send(CON, b"last"), 4 + RECORD_COST)
    batches = []
    while (batch := sent(end)) is not None:
        batches.append([type(r).__name__ + str(getattr(r, "last", "")) for r in batch[1:]])
    assert batches == [["Send", "Ack1"], ["Send"] * 3 + ["Ack4"], ["Send", "Send", "Ack5"]]


def test_what_is_sealed_ends_with_its_session() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    for seq in (1, 2, 3):
        end.done(filled(end, seq, 500))
    end.receive(ends.who())
    assert isinstance((sent(end) or [])[1], rec.Hello)
    assert sent(end) is None


def test_a_bye_comes_last_of_all_batches() -> None:
    end = limited(1000 + ROOM_FOR_ACKS)
    for seq in (1, 2):
        end.done(filled(end, seq, 500))
    end.bye()
    first, second = sent(end) or [], sent(end) or []
    assert [type(r) for r in first[1:]] == [rec.Send, rec.Ack]
    assert [type(r) for r in second[1:]] == [rec.Send, rec.Ack, rec.Bye]


def test_the_fullest_batch_fits() -> None:
    """Commands up to the room, and as many acks as can be."""
    end = limited(LARGEST_REMOTE_BATCH)
    seqs = range(1, 2 * LARGEST_WINDOW, 2)
    for seq in seqs:
        end.done(filled(end, (1 << 53) + seq, 0))
    left = end.room - len(seqs) * RECORD_COST - RECORD_COST
    assert end.command(rec.Send(CON, bytes(left)), left + RECORD_COST)
    batch = end.data_to_send() or b""
    assert end.data_to_send() is None
    assert 0.5 * LARGEST_REMOTE_BATCH < len(batch) <= LARGEST_REMOTE_BATCH


def test_the_largest_message_fits_both_ways() -> None:
    assert worker_end().room >= LARGEST_MESSAGE + RECORD_COST


def test_a_large_event_goes_alone() -> None:
    """With all that a worker is told of other connections in a turn it might not fit."""
    end = gateway_end()
    end.notice(rec.Detach(1))
    end.deliver(message(data=bytes(WINDOW_BYTES)), None, WINDOW_BYTES + 256, 0.0)
    end.notice(rec.Detach(2))
    end.notice(rec.Detach(3))
    batches = [sent(end), sent(end), sent(end), sent(end)]
    kinds = [[type(r) for r in batch[1:]] if batch else None for batch in batches]
    assert kinds == [[rec.Detach], [rec.OnMessage], [rec.Detach, rec.Detach], None]


# --- gateway end: the dialog ---


def test_welcome_begins_the_session() -> None:
    end = GatewayLink(b"id", rec.gateway_decoder())
    assert end.state is N
    end.welcome(hello(window=50, concurrency=3), SESSION, 2, range(100, 200))
    limits = {"state": rec.STATE_LIMIT, "window_bytes": WINDOW_BYTES, "batch": LARGEST_BATCH}
    assert sent(end) == [SESSION, rec.Welcome(1, SESSION, 2, 100, 199, 50, limits)]
    assert (end.state, end.window, end.concurrency) == (R, FIRST_WINDOW, 3)


@pytest.mark.parametrize(
    ("window", "concurrency", "largest", "first", "hands"),
    [
        (0, 0, 1, 1, 1),
        (-5, -5, 1, 1, 1),
        (2, 1, 2, 2, 1),
        (2**40, 2**40, LARGEST_WINDOW, FIRST_WINDOW, LARGEST_WINDOW),
    ],
)
def test_what_hello_asks_for_is_bounded(
    window: int, concurrency: int, largest: int, first: int, hands: int
) -> None:
    end = gateway_end(window=window, concurrency=concurrency)
    assert (end.largest, end.window, end.concurrency) == (largest, first, hands)


def test_before_hello_only_hello_is_heard() -> None:
    end = GatewayLink(b"id", rec.gateway_decoder())
    late = to_gateway(rec.Send(CON, b"x"), rec.Ack(1, 1), session=SESSION - 1)
    assert end.receive(late) == []
    assert end.receive(to_gateway(rec.Ack(1, 1), hello(), session=0)) == [hello()]
    with pytest.raises(rec.LinkError):
        end.receive(b"\xc1")


def test_events_are_numbered_without_gaps_and_keep_their_place() -> None:
    end = gateway_end()
    one, two = message(), message()
    end.deliver(one, None, 1, 0.0)
    end.notice(rec.Attach(CON, {}, b"", 0))
    end.deliver(two, None, 1, 0.0)
    assert (one.seq, two.seq) == (1, 2)
    assert sent(end) == [SESSION, one, rec.Attach(CON, {}, b"", 0), two]
    assert sent(end) is None


def test_drain_is_said_once() -> None:
    end = gateway_end()
    end.drain(3.0)
    end.drain(3.0)
    assert end.state is D
    assert sent(end) == [SESSION, rec.Drain(3.0)]


@pytest.mark.parametrize("state", [N, D, G])
def test_only_a_ready_session_drains(state: LinkState) -> None:
    end = gateway_end()
    end.state = state
    end.drain(3.0)
    assert (end.state, sent(end)) == (state, None)


def test_the_end_gives_back_in_order_what_was_in_flight() -> None:
    end = gateway_end()
    for owner in "abcd":
        end.deliver(message(), owner, 10, 0.0)
    end.acked(rec.Ack(2, 2))
    assert [flight.owner for flight in end.end()] == ["a", "c", "d"]
    assert (end.state, end.in_flight, end.in_flight_bytes) == (G, {}, 0)
    assert sent(end) is None, "nobody is there to hear it"


# --- gateway end: fencing ---


def in_flight(count: int) -> GatewayLink:
    end = gateway_end()
    for _ in range(count):
        end.deliver(message(), None, 1, 0.0)
    end.data_to_send()
    return end


@pytest.mark.parametrize(
    "acks",
    [
        [(1, 1)], [(1, 3)], [(3, 3), (1, 2)], [(2, 2)], [],
    ],
)  # fmt: skip
def test_a_batch_that_acks_what_is_held_is_taken(acks: list[tuple[int, int]]) -> None:
    end = in_flight(3)
    records = [rec.Send(CON, b"x"), *(rec.Ack(*ack) for ack in acks)]
    assert end.receive(to_gateway(*records)) == records
    assert (end.batches, end.dropped) == (1, 0)


@pytest.mark.parametrize(
    "acks",
    [
        [(0, 0)], [(4, 4)], [(0, 1)], [(1, 4)], [(3, 2)], [(1, 1), (1, 1)], [(1, 2), (2, 3)],
        [(2, 3), (1, 2)], [(1, 2**64 - 1)], [(-1, 2**64 - 1)], [(-(2**63), 2**64 - 1)], [(-2, -1)],
        [(1, 3), (1, 3)],
    ],
)  # fmt: skip
def test_a_batch_that_acks_what_is_not_held_is_dropped_whole(acks: list[tuple[int, int]]) -> None:
    end = in_flight(3)
    batch = to_gateway(rec.Send(CON, b"x"), *(rec.Ack(*ack) for ack in acks))
    assert end.receive(batch) == []
    assert (end.batches, end.dropped, len(end.in_flight)) == (0, 1, 3)


def test_a_seq_is_acked_once() -> None:
    end = in_flight(3)
    end.acked(rec.Ack(1, 2))
    assert end.receive(to_gateway(rec.Ack(2, 2))) == []
    assert end.receive(to_gateway(rec.Ack(3, 3))) == [rec.Ack(3, 3)]


def test_a_hello_in_a_session_that_stands_is_heard() -> None:
    """The worker knows nothing of that session any more."""
    end = in_flight(1)
    assert end.receive(to_gateway(rec.Ack(1, 1), hello(), session=0)) == [hello()]
    assert end.receive(to_gateway(rec.Ack(1, 1), session=0)) == []
    assert len(end.in_flight) == 1


@pytest.mark.parametrize("session", [SESSION - 1, SESSION + 1, -1, 2**64 - 1])
def test_a_batch_of_another_session_is_dropped_whole(session: int) -> None:
    end = in_flight(1)
    assert end.receive(to_gateway(rec.Ack(1, 1), session=session)) == []
    assert end.dropped == 1


def test_wrong_records_are_refused_by_batch_and_index() -> None:
    end = in_flight(1)
    end.receive(to_gateway())
    assert end.receive(rec.encode([SESSION, rec.Ack(1, 1), ["nope"], rec.Bye()])) == [
        rec.Ack(1, 1),
        None,
        rec.Bye(),
    ]
    said = sent(end)
    assert said is not None
    assert (said[1].batch, said[1].index) == (2, 1)


def test_a_wrong_ack_is_no_ack() -> None:
    end = in_flight(1)
    assert end.receive(rec.encode([SESSION, ["ack", "1", "1"], rec.Send(CON, b"x")]))[0] is None
    assert len(end.in_flight) == 1


# --- the window ---


def test_the_window_bounds_events() -> None:
    end = gateway_end()
    for _ in range(FIRST_WINDOW):
        assert end.has_room(1)
        end.deliver(message(), None, 1, 0.0)
    assert not end.has_room(1)
    end.acked(rec.Ack(2, 2))
    assert end.has_room(1)


def test_the_window_bounds_bytes_but_one_event_may_always_go() -> None:
    end = gateway_end()
    assert end.has_room(10 * WINDOW_BYTES)
    end.deliver(message(), None, WINDOW_BYTES - 10, 0.0)
    assert end.has_room(10)
    assert not end.has_room(11)
    end.acked(rec.Ack(1, 1))
    assert end.in_flight_bytes == 0
    assert end.has_room(WINDOW_BYTES + 1)


ROUND_TRIP = 0.0003
"""Between two processes of one machine."""


class Simulation:
    """A worker with so many hands, each busy for `service` seconds with an event; time is a number.

    Events are supplied as fast as the window lets them, or `gap` seconds apart. One turn of the
    gateway is one arrival of acks.
    """

    def __init__(
        self,
        service: float,
        hands: int = 1,
        gap: float = 0.0,
        round_trip: float = ROUND_TRIP,
    ) -> None:
        self.end = gateway_end(concurrency=hands)
        self.end.is_far = round_trip > ROUND_TRIP
        self.service = service
        self.round_trip = round_trip
        self.now = 0.0
        self._gap = gap
        self._next_event = 0.0
        self._hands = [0.0] * hands
        self._acks: list[tuple[float, int]] = []
        self.windows: list[int] = []

    def turn(self) -> None:
        end = self.end
        while end.has_room(1) and self._next_event <= self.now:
            self._next_event = self.now + self._gap
            event = message()
            end.deliver(event, None, 1, self.now)
            start = max(heapq.heappop(self._hands), self.now + self.round_trip / 2)
            heapq.heappush(self._hands, start + self.service)
            # A worker sends what it has before the next handler if that is older than 1 ms.
            heapq.heappush(self._acks, (start + self.service + self.round_trip / 2, event.seq))
        end.data_to_send()
        self.now = max(self.now, self._acks[0][0]) if self._acks else self._next_event
        # Acks that arrive within one turn of the loop are seen together.
        until = self.now + 0.0001
        while self._acks and self._acks[0][0] <= until:
            seq = heapq.heappop(self._acks)[1]
            end.acked(rec.Ack(seq, seq))
        self.now = until
        end.measure(self.now)
        self.windows.append(end.window)

    def run(self, turns: int = 300) -> int:
        for _ in range(turns):
            self.turn()
        return self.end.window


@pytest.mark.parametrize(
    ("service", "hands", "at_least", "at_most"),
    [
        (5e-6, 1, 500, 1500),
        (0.001, 1, 4, 7),
        (0.050, 1, 1, 1),
        (0.100, 100, 100, 120),
        (0.001, 10, 40, 70),
    ],
    ids=["5 µs", "1 ms", "50 ms", "100 async handlers of 100 ms", "10 of 1 ms"],
)
def test_the_window_finds_five_milliseconds_of_work(
    service: float, hands: int, at_least: int, at_most: int
) -> None:
    simulation = Simulation(service, hands)
    simulation.run()
    assert all(at_least <= window <= at_most for window in simulation.windows[-50:])


def test_async_handlers_that_wait_serve_a_thousand_events_a_second() -> None:
    """Latency taken for service time would strangle them to ten."""
    simulation = Simulation(0.100, 100)
    simulation.run()
    begin, first = simulation.now, simulation.end._next_seq
    simulation.run(500)
    served = simulation.end._next_seq - first
    assert served / (simulation.now - begin) > 900


def test_the_window_at_most_doubles_per_round_trip() -> None:
    simulation = Simulation(5e-6)
    simulation.run(200)
    pairs = zip([FIRST_WINDOW, *simulation.windows], simulation.windows, strict=False)
    assert all(after <= 2 * before for before, after in pairs)


def test_the_window_grows_once_in_a_round_trip() -> None:
    end = gateway_end()
    for _ in range(4):
        end.deliver(message(), None, 1, 0.0)
    windows = []
    for seq in (1, 2, 3, 4):
        end.acked(rec.Ack(seq, seq))
        end.measure(seq * 1e-5)
        windows.append(end.window)
    assert windows == [8, 8, 8, 8], "these four were sent before the first growth"


def test_the_window_falls_at_once() -> None:
    simulation = Simulation(5e-6)
    simulation.run(200)
    assert simulation.end.window > 500
    end, now = simulation.end, simulation.now
    first = next(iter(end.in_flight), end._next_seq)
    while end.has_room(1):
        end.deliver(message(), None, 1, now)
    end.acked(rec.Ack(first, first))
    end.measure(now + 0.050)
    end.acked(rec.Ack(first + 1, first + 1))
    end.measure(now + 0.100)
    assert end.window == 1


def test_a_worker_that_was_empty_may_raise_the_window_but_never_lower_it() -> None:
    """One event a round trip tells how long the way is, not how long the handler takes."""
    end = gateway_end()
    now = 0.0
    for seq in range(1, 20):
        end.deliver(message(), None, 1, now)
        now += 0.030
        end.acked(rec.Ack(seq, seq))
        end.measure(now)
        now += 1.0
    assert end.window == FIRST_WINDOW


def test_an_event_sent_in_the_turn_of_the_ack_does_not_make_a_slow_worker_fast() -> None:
    """The last ack empties the worker, and in the same turn, before it is measured, its next event
    goes out (a raw connection's on_close): that turn holds no time, and yet one ack."""
    end = gateway_end()
    now = 0.0
    for seq in range(1, 40):
        if seq == 1:
            end.deliver(message(), None, 1, now)
        now += 0.050
        end.acked(rec.Ack(seq, seq))
        end.deliver(message(), None, 1, now)
        end.measure(now)
    assert end.service_time == pytest.approx(0.050)
    assert end.window <= FIRST_WINDOW


def test_a_turn_without_acks_teaches_nothing() -> None:
    end = gateway_end()
    end.deliver(message(), None, 1, 0.0)
    end.measure(5.0)
    assert (end.window, end.service_time) == (FIRST_WINDOW, 0.0)


def test_the_window_stays_below_what_the_worker_asked_for() -> None:
    end = gateway_end(window=10)
    simulation = Simulation(5e-6)
    simulation.end = end
    assert simulation.run() == 10


# --- far away ---


def rate(simulation: Simulation, seconds: float) -> float:
    """Events a second, in the seconds to come."""
    begin, first = simulation.now, simulation.end._next_seq
    while simulation.now < begin + seconds:
        simulation.turn()
    return (simulation.end._next_seq - first) / (simulation.now - begin)


@pytest.mark.parametrize("round_trip", [0.01, 0.1, 0.3], ids=["10 ms", "100 ms", "300 ms"])
@pytest.mark.parametrize(("service", "hands"), [(0.001, 1), (0.050, 1), (0.020, 10)])
def test_a_worker_far_away_is_kept_busy(round_trip: float, service: float, hands: int) -> None:
    simulation = Simulation(service, hands, round_trip=round_trip)
    rate(simulation, 8.0)
    # 300 ms for 20 ms of work: there the spacing is coarse.
    assert rate(simulation, 3.0) > (0.9 if round_trip < 0.3 else 0.4) * hands / service
    # What is on its way, twice as much at most, and the work ahead.
    way = simulation.end.round_trip + WORK_AHEAD
    assert simulation.end.window <= 2 * (hands + way * hands / service)


def test_a_network_that_becomes_slower_is_found_out() -> None:
    simulation = Simulation(0.001, round_trip=0.02)
    assert rate(simulation, 3.0) > 900
    simulation.round_trip = 0.1
    rate(simulation, 5.0)
    assert rate(simulation, 3.0) > 900


def test_the_window_of_one_that_is_far_away_does_not_grow_unused() -> None:
    """Its twin is the first one: there the window is what holds it up."""
    simulation = Simulation(0.001, gap=0.05, round_trip=0.1)
    rate(simulation, 10.0)
    assert simulation.end.window <= 2 * FIRST_WINDOW


def test_the_way_to_a_worker_far_away_does_not_make_it_stuck() -> None:
    end = gateway_end()
    end.is_far = True
    end.deliver(message(), None, 1, 1.0)
    end.acked(rec.Ack(1, 1))
    end.measure(1.1)
    assert end.round_trip == pytest.approx(0.1)
    end.service_time = 0.001
    end.deliver(message(), None, 1, 2.0)
    assert not end.is_late(2.1)
    assert end.is_late(2.1 + LATE_AFTER + 0.001)
    assert not end.is_stuck(2.1)
    assert end.is_stuck(2.1 + STUCK_AFTER + 0.001)


def test_a_long_handler_is_no_long_way() -> None:
    """The quickest of some events says how far it is, and no handler makes it farther than that."""
    end = gateway_end()
    end.is_far = True
    now = 0.0
    for seq, took in enumerate((0.03, 60.0, 2.0, 2.0), 1):
        end.deliver(message(), None, 1, now)
        end.acked(rec.Ack(seq, seq))
        end.measure(now + took)
        now += 100.0
        assert end.round_trip == pytest.approx(0.03)
    for seq in range(5, 5 + ROUND_TRIPS):
        end.deliver(message(), None, 1, now)
        end.acked(rec.Ack(seq, seq))
        end.measure(now + 2.0)
        now += 100.0
    assert end.round_trip == LONGEST_ROUND_TRIP


# --- stuck ---


def test_a_plain_worker_is_stuck_after_20_ms() -> None:
    end = gateway_end()
    assert not end.is_stuck(99.0)
    end.deliver(message(), None, 1, 1.0)
    assert not end.is_stuck(1.0 + STUCK_AFTER - 0.001)
    assert end.is_stuck(1.0 + STUCK_AFTER + 0.001)


def test_a_plain_worker_is_stuck_since_its_last_ack() -> None:
    """What waits behind the first one has not been begun."""
    end = gateway_end()
    end.deliver(message(), None, 1, 1.0)
    end.deliver(message(), None, 1, 1.0)
    end.acked(rec.Ack(1, 1))
    end.measure(1.019)
    assert not end.is_stuck(1.030)
    assert end.is_stuck(1.019 + 4 * 0.019 + 0.001)


def test_a_slow_handler_may_take_four_times_its_time() -> None:
    end = gateway_end()
    end.service_time = 0.050
    end.deliver(message(), None, 1, 1.0)
    assert not end.is_stuck(1.199)
    assert end.is_stuck(1.201)


def test_an_async_worker_with_a_free_hand_is_not_stuck() -> None:
    end = gateway_end(concurrency=2)
    end.deliver(message(), None, 1, 1.0)
    assert not end.is_stuck(99.0)
    end.deliver(message(), None, 1, 98.0)
    assert end.is_stuck(99.0), "its oldest event is 98 s old, and no hand is free"


def test_an_async_worker_is_stuck_by_its_oldest_event_whatever_else_it_acks() -> None:
    end = gateway_end(concurrency=2)
    for _ in range(4):
        end.deliver(message(), None, 1, 1.0)
    end.acked(rec.Ack(2, 2))
    end.measure(1.015)
    assert end.is_stuck(1.0 + 4 * end.service_time + 0.001)


# --- both ends ---


def test_both_ends_through_a_session_and_the_next() -> None:
    worker = worker_end()
    for session in (1, 2):
        gateway = GatewayLink(b"id", rec.gateway_decoder())
        worker.receive(ends.who())
        [said] = gateway.receive(worker.data_to_send() or b"")
        gateway.welcome(said, session, 1, range(100, 200))
        worker.receive(gateway.data_to_send() or b"")
        assert worker.session == gateway.session == session
        gateway.deliver(message(), "owner", 1, 0.0)
        [event] = worker.receive(gateway.data_to_send() or b"")
        outbox = worker.outbox(event)
        outbox.records.append(rec.Send(event.con, event.data))
        worker.done(outbox)
        gateway.drain(1.0)
        worker.receive(gateway.data_to_send() or b"")
        assert worker.state is gateway.state is D
        worker.bye()
        records = gateway.receive(worker.data_to_send() or b"")
        assert records == [rec.Send(CON, b"x"), rec.Ack(1, 1), rec.Bye()]
        assert [flight.owner for flight in gateway.acked(records[1])] == ["owner"]
        worker = worker_end()
