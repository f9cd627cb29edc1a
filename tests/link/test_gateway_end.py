from __future__ import annotations

import pytest

from tests.link.ends import CON, SESSION, gateway_end, hello, message, sent, to_gateway, worker_end
from wsraw.link import records as rec
from wsraw.link.batches import EVENT_LIMIT, LARGEST_BATCH
from wsraw.link.gateway_end import GatewayEnd, who
from wsraw.link.states import DRAINING, GONE, NEW, READY, LinkState
from wsraw.link.window import FIRST_WINDOW, LARGEST_WINDOW, WINDOW_BYTES

# --- the dialog ---


def test_welcome_begins_the_session() -> None:
    end = GatewayEnd(b"id", rec.gateway_decoder())
    assert end.state is NEW
    end.welcome(hello(window=50, concurrency=3), SESSION, 2, range(100, 200))
    limits = {
        "state": rec.STATE_LIMIT,
        "window_bytes": WINDOW_BYTES,
        "batch": LARGEST_BATCH,
        "event": EVENT_LIMIT,
        "stats": rec.STATS_EVERY,
    }
    assert sent(end) == [SESSION, rec.Welcome(1, SESSION, 2, 100, 199, 50, limits)]
    assert (end.state, end.window.limit, end.window.concurrency) == (READY, FIRST_WINDOW, 3)


@pytest.mark.parametrize(
    ("window", "concurrency", "largest", "first", "hands"),
    [
        (0, 0, 1, 1, 1),
        (-5, -5, 1, 1, 1),
        (2, 1, 2, 2, 1),
        (2**40, 2**40, LARGEST_WINDOW, FIRST_WINDOW, LARGEST_WINDOW),
    ],
)
def test_the_limits_requested_by_a_hello_are_bounded(
    window: int, concurrency: int, largest: int, first: int, hands: int
) -> None:
    end = gateway_end(window=window, concurrency=concurrency)
    credit = end.window
    assert (credit.largest, credit.limit, credit.concurrency) == (largest, first, hands)


def test_before_hello_only_hello_is_heard() -> None:
    end = GatewayEnd(b"id", rec.gateway_decoder())
    late = to_gateway(rec.Send(CON, b"x"), rec.Ack(1, 1), session=SESSION - 1)
    assert end.receive(late) == []
    assert end.receive(to_gateway(rec.Ack(1, 1), hello(), session=0)) == [hello()]
    with pytest.raises(rec.LinkError):
        end.receive(b"\xc1")


def test_events_are_numbered_without_gaps() -> None:
    end = gateway_end()
    one, two = message(), message()
    end.deliver(one, None, 1, 0.0)
    end.notice(rec.Attach(CON, {}, b"", 0))
    end.deliver(two, None, 1, 0.0)
    assert (one.seq, two.seq) == (1, 2)
    assert sent(end) == [SESSION, one, rec.Attach(CON, {}, b"", 0), two]
    assert sent(end) is None


def test_events_of_batches_that_were_taken_back_have_not_left() -> None:
    end = gateway_end()
    batches = []
    for number in range(4):
        end.deliver(message(), number, 1, 0.0)
        end.notice(rec.Attach(CON, {}, b"", 0))
        batches.append(end.data_to_send() or b"")
    end.notice(rec.Detach(CON))
    batches.insert(2, end.data_to_send() or b"")
    end.deliver(message(), 4, 1, 0.0)
    # Take back the last three batches; the first of them has no event.
    end.take_back(batches[2:])
    left = {flight.owner: flight.left for flight in end.end()}
    assert left == {0: True, 1: True, 2: False, 3: False, 4: False}


def test_batches_of_an_earlier_session_say_nothing_about_this_one() -> None:
    """Such batches waited for a worker that did not read, and that has said hello again."""
    old = gateway_end()
    old.deliver(message(), None, 1, 0.0)
    batch = old.data_to_send() or b""
    end = GatewayEnd[str](b"id", rec.gateway_decoder())
    end.welcome(hello(), SESSION + 1, 2, range(100, 200))
    end.deliver(message(), "a", 1, 0.0)
    assert end.data_to_send()
    end.take_back([batch, rec.encode([0, rec.Who()])])
    assert [flight.left for flight in end.end()] == [True]


def test_a_drain_is_sent_once() -> None:
    end = gateway_end()
    end.drain(3.0)
    end.drain(3.0)
    assert end.state is DRAINING
    assert sent(end) == [SESSION, rec.Drain(3.0)]


@pytest.mark.parametrize("state", [NEW, DRAINING, GONE])
def test_only_a_ready_session_drains(state: LinkState) -> None:
    end = gateway_end()
    end.state = state
    end.drain(3.0)
    assert (end.state, sent(end)) == (state, None)


def test_the_end_of_a_session_returns_the_events_in_flight_in_order() -> None:
    end = gateway_end()
    for owner in "abcd":
        end.deliver(message(), owner, 10, 0.0)
    end.window.take(rec.Ack(2, 2))
    assert [flight.owner for flight in end.end()] == ["a", "c", "d"]
    assert (end.state, end.window.in_flight, end.window.bytes) == (GONE, {}, 0)
    assert sent(end) is None, "nobody is there to hear it"


# --- large events ---


def test_a_large_event_goes_alone() -> None:
    """Together with the records of other connections in a turn, the event might not fit."""
    end = gateway_end()
    end.notice(rec.Detach(1))
    end.deliver(message(data=bytes(WINDOW_BYTES)), None, WINDOW_BYTES + 256, 0.0)
    end.notice(rec.Detach(2))
    end.notice(rec.Detach(3))
    batches = [sent(end), sent(end), sent(end), sent(end)]
    kinds = [[type(r) for r in batch[1:]] if batch else None for batch in batches]
    assert kinds == [[rec.Detach], [rec.OnMessage], [rec.Detach, rec.Detach], None]


# --- fencing ---


def in_flight(count: int) -> GatewayEnd:
    end = gateway_end()
    for _ in range(count):
        end.deliver(message(), None, 1, 0.0)
    end.data_to_send()
    return end


@pytest.mark.parametrize(
    "acks",
    [
        [(1, 1)], [(1, 3)], [(3, 3), (1, 2)], [(2, 2)], [(2, 2), (3, 3), (1, 1)], [],
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
        [(1, 3), (1, 3)], [(1, 1), (2, 2), (2, 2)], [(1, 1), (2, 2), (3, 3), (1, 1)],
    ],
)  # fmt: skip
def test_a_batch_that_acks_what_is_not_held_is_dropped_whole(acks: list[tuple[int, int]]) -> None:
    end = in_flight(3)
    batch = to_gateway(rec.Send(CON, b"x"), *(rec.Ack(*ack) for ack in acks))
    assert end.receive(batch) == []
    assert (end.dropped, len(end.window.in_flight)) == (1, 3)


def test_a_seq_is_acked_once() -> None:
    end = in_flight(3)
    end.window.take(rec.Ack(1, 2))
    assert end.receive(to_gateway(rec.Ack(2, 2))) == []
    assert end.receive(to_gateway(rec.Ack(3, 3))) == [rec.Ack(3, 3)]


def test_a_hello_within_a_session_is_accepted() -> None:
    """The worker has forgotten its old session."""
    end = in_flight(1)
    assert end.receive(to_gateway(rec.Ack(1, 1), hello(), session=0)) == [hello()]
    assert end.receive(to_gateway(rec.Ack(1, 1), session=0)) == []
    assert len(end.window.in_flight) == 1


@pytest.mark.parametrize("session", [SESSION - 1, SESSION + 1, -1, 2**64 - 1])
def test_a_batch_of_another_session_is_dropped_whole(session: int) -> None:
    end = in_flight(1)
    assert end.receive(to_gateway(rec.Ack(1, 1), session=session)) == []
    assert end.dropped == 1


def test_a_dropped_batch_of_this_session_is_counted_as_its_worker_counts_it() -> None:
    end = in_flight(1)
    end.receive(to_gateway(rec.Ack(1, 1), session=SESSION - 1))
    assert end.receive(to_gateway(rec.Send(CON, b"x"), rec.Ack(7, 7))) == []
    end.receive(to_gateway(rec.Send(CON, b"x")))
    end.refuse(0, "it is wrong")
    said = sent(end)
    assert said is not None
    assert (said[-1].batch, said[-1].index) == (2, 0)


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


def test_a_wrong_ack_is_refused() -> None:
    end = in_flight(1)
    assert end.receive(rec.encode([SESSION, ["ack", "1", "1"], rec.Send(CON, b"x")]))[0] is None
    assert len(end.window.in_flight) == 1


# --- both ends ---


def test_both_ends_go_through_a_session_and_the_next() -> None:
    worker = worker_end()
    for session in (1, 2):
        gateway = GatewayEnd(b"id", rec.gateway_decoder())
        worker.receive(who())
        [said] = gateway.receive(worker.data_to_send() or b"")
        gateway.welcome(said, session, 1, range(100, 200))
        worker.receive(gateway.data_to_send() or b"")
        assert worker.session == gateway.number == session
        gateway.deliver(message(), "owner", 1, 0.0)
        [event] = worker.receive(gateway.data_to_send() or b"")
        outbox = worker.outbox(event)
        outbox.records.append(rec.Send(event.con, event.data))
        worker.done(outbox)
        gateway.drain(1.0)
        worker.receive(gateway.data_to_send() or b"")
        assert worker.state is gateway.state is DRAINING
        worker.bye()
        records = gateway.receive(worker.data_to_send() or b"")
        assert records == [rec.Send(CON, b"x"), rec.Ack(1, 1), rec.Bye()]
        assert [flight.owner for flight in gateway.window.take(records[1])] == ["owner"]
        worker = worker_end()
