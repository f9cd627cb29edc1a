"""Events whose commands come in several batches, at the gateway's end of a link."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import pytest

from tests.link.ends import CON, SESSION, gateway_end, message, sent, to_gateway
from wsraw.config.settings import LARGEST_MESSAGE
from wsraw.link import records as rec
from wsraw.link.batches import EVENT_LIMIT, KEPT_COST, LARGEST_BATCH, RECORD_COST
from wsraw.link.gateway_end import GatewayEnd
from wsraw.link.parts import Parts
from wsraw.link.window import WINDOW_BYTES

COMMANDS: list[rec.Record] = [
    rec.Send(CON, b"a"),
    rec.State(CON, b"b"),
    rec.Join(CON, "c"),
    rec.Send(CON, b"d", "text", False),
    rec.Close(CON),
]
CUTS = list(chain.from_iterable(combinations(range(6), n) for n in range(7)))
"""Every way to cut five commands, including before the first and after the last one."""


def in_flight(count: int) -> GatewayEnd[None]:
    end = gateway_end()
    for _ in range(count):
        end.deliver(message(), None, 1, 0.0)
    end.data_to_send()
    return end


def cut(seq: int, places: tuple[int, ...]) -> list[bytes]:
    """The batches of an event with COMMANDS; the last one has the ack."""
    starts = [0, *places]
    parts = [COMMANDS[start:end] for start, end in zip(starts, places, strict=False)]
    return [
        *(to_gateway(*part, rec.Part(seq)) for part in parts),
        to_gateway(*COMMANDS[starts[-1] :], rec.Ack(seq, seq)),
    ]


@pytest.mark.parametrize("places", CUTS)
def test_commands_are_given_with_the_ack_however_they_are_cut(places: tuple[int, ...]) -> None:
    end = in_flight(3)
    held: list[int] = []
    end.parts.hold = held.append
    *parts, last = cut(2, places)
    for part in parts:
        assert end.receive(part) == []
        assert sum(held) == end.parts.size >= 0
    assert end.receive(last) == [*COMMANDS, rec.Ack(2, 2)]
    assert (end.batches, end.dropped) == (len(places) + 1, 0)
    assert sum(held) == end.parts.size == 0
    # The next batch is not affected.
    end.window.take(rec.Ack(2, 2))
    assert end.receive(to_gateway(COMMANDS[0], rec.Ack(1, 1))) == [COMMANDS[0], rec.Ack(1, 1)]


@pytest.mark.parametrize("come", range(4))
def test_what_came_of_a_session_that_ends_is_dropped(come: int) -> None:
    end = in_flight(2)
    held: list[int] = []
    end.parts.hold = held.append
    for part in cut(1, (1, 3, 5))[:come]:
        assert end.receive(part) == []
    assert len(end.end()) == 2
    assert sum(held) == end.parts.size == 0
    assert not end.parts.kept


def test_parts_of_several_events_are_told_apart() -> None:
    end = in_flight(3)
    for n, seq in enumerate((2, 1, 2, 3)):
        assert end.receive(to_gateway(rec.Send(CON, b"%d" % n), rec.Part(seq))) == []
    own = rec.Send(CON, b"own")
    assert end.receive(to_gateway(own, rec.Ack(3, 3))) == [
        rec.Send(CON, b"3"), own, rec.Ack(3, 3),
    ]  # fmt: skip
    end.window.take(rec.Ack(3, 3))
    assert end.receive(to_gateway(own)) == [own], "of no event: it does not wait"
    whole = [*(rec.Send(CON, b"%d" % n) for n in range(3)), own, rec.Ack(1, 2)]
    assert end.receive(to_gateway(own, rec.Ack(1, 2))) == whole, "as they came"
    assert not end.parts.kept


def test_a_batch_that_is_dropped_whole_leaves_the_parts_waiting() -> None:
    end = in_flight(2)
    *parts, last = cut(2, (2,))
    for part in parts:
        end.receive(part)
    for wrong in (to_gateway(rec.Ack(1, 3)), to_gateway(rec.Ack(2, 2), session=SESSION + 1)):
        assert end.receive(wrong) == []
    assert end.receive(to_gateway(rec.Part(2), session=SESSION - 1)) == []
    assert end.dropped == 3
    assert end.receive(last) == [*COMMANDS, rec.Ack(2, 2)]


def test_an_ack_behind_a_bye_brings_no_part_to_its_end() -> None:
    """The ack is ignored, and the event comes again."""
    end = in_flight(2)
    for seq in (1, 2):
        assert end.receive(to_gateway(rec.Send(CON, b"%d" % seq), rec.Part(seq))) == []
    batch = [rec.Ack(1, 1), rec.Bye(), rec.Ack(2, 2)]
    assert end.receive(to_gateway(*batch)) == [rec.Send(CON, b"1"), *batch]


@pytest.mark.parametrize("seq", [0, -1, 1, 4, 2**53, 2**63 - 1, 2**64 - 1, -(2**63)])
def test_a_part_of_an_event_that_is_not_in_flight_is_no_batch(seq: int) -> None:
    end = in_flight(3)
    end.window.take(rec.Ack(1, 1))
    with pytest.raises(rec.LinkError, match=rf"a part of event {seq}, which is not in flight"):
        end.receive(to_gateway(rec.Send(CON, b"x"), rec.Part(seq)))


def test_a_part_has_no_bye() -> None:
    end = in_flight(1)
    with pytest.raises(rec.LinkError, match="bye in a part"):
        end.receive(to_gateway(rec.Bye(), rec.Part(1)))


@pytest.mark.parametrize(
    "batch",
    [
        [rec.Part(1), rec.Send(CON, b"x")],
        [rec.Send(CON, b"x"), rec.Ack(1, 1), rec.Part(2)],
        [rec.Part(1), rec.Ack(1, 1)],
    ],
)
def test_a_part_in_another_place_is_given_for_whoever_refuses_it(batch: list[Any]) -> None:
    """The acks beside the part count, and its commands do not wait."""
    end = in_flight(2)
    assert end.receive(to_gateway(*batch)) == batch
    assert not end.parts.kept


def test_a_part_without_commands_is_nothing() -> None:
    end = in_flight(1)
    for _ in range(1000):
        assert end.receive(to_gateway(rec.Part(1))) == []
    assert not end.parts.kept


def test_parts_of_an_event_may_have_as_much_as_the_limit_says() -> None:
    parts = Parts()
    per_batch = LARGEST_BATCH - RECORD_COST
    for n in range(EVENT_LIMIT // LARGEST_BATCH):
        parts.keep([rec.Send(CON, b"x"), rec.Part(7)], n, per_batch)
    left = EVENT_LIMIT - parts.size - KEPT_COST
    for size in (left + 1, LARGEST_BATCH):
        with pytest.raises(rec.LinkError, match="parts of more than 268435456 bytes, and no ack"):
            parts.keep([rec.Send(CON, b"x"), rec.Part(7)], 9, size)
    parts.keep([rec.Send(CON, b"x"), rec.Part(8)], 9, left)
    assert parts.size == EVENT_LIMIT


def test_refusals_name_the_batch_of_the_part() -> None:
    end = in_flight(1)
    send = rec.Send(CON, b"x")
    end.receive(to_gateway())
    assert end.receive(rec.encode([SESSION, ["nope"], send, rec.Part(1)])) == []
    assert end.receive(to_gateway(send, send, send, rec.Part(1))) == []
    assert end.receive(rec.encode([SESSION, send, ["nope"], rec.Ack(1, 1)])) == [
        None, send, send, send, send, send, None, rec.Ack(1, 1),
    ]  # fmt: skip
    for index in range(8):
        end.refuse(index, f"{index}")
    refused = [(r.batch, r.index, r.why) for r in (sent(end) or [])[1:]]
    assert [place for *place, why in refused if not why.isdigit()] == [[2, 0], [4, 1]]
    assert [tuple(place) for *place, why in refused if why.isdigit()] == [
        (2, 0), (2, 1), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2),
    ]  # fmt: skip
    end.window.take(rec.Ack(1, 1))
    end.receive(to_gateway(send))
    end.refuse(0, "")
    assert [(r.batch, r.index) for r in (sent(end) or [])[1:]] == [(5, 0)]


def test_the_largest_message_goes_to_a_worker_in_a_batch() -> None:
    end = gateway_end()
    end.notice(rec.Detach(1))
    event = message(data=bytes(LARGEST_MESSAGE))
    end.deliver(event, None, LARGEST_MESSAGE + 256, 0.0)
    end.notice(rec.Detach(2))
    assert [(sent(end) or [])[1] for _ in range(3)] == [rec.Detach(1), event, rec.Detach(2)]


def test_a_record_that_is_too_long_for_a_batch_goes_alone_and_once() -> None:
    """No such record exists, but a turn must end."""
    end = gateway_end()
    large = rec.Attach(1, None, bytes(LARGEST_BATCH + 1), 1)
    for record in (rec.Detach(1), large, rec.Detach(2)):
        end.notice(record)
    assert [(sent(end) or [None])[1:] for _ in range(4)] == [
        [rec.Detach(1)], [large], [rec.Detach(2)], [],
    ]  # fmt: skip


def test_no_batch_to_a_worker_is_longer_than_the_link_carries() -> None:
    """Connections are passed on with their states, thousands in a turn."""
    end = gateway_end()
    state = bytes(rec.STATE_LIMIT)
    notices = [rec.Attach(n, {"a": "b" * 1000}, state, 1) for n in range(2500)]
    for n, notice in enumerate(notices):
        end.notice(notice)
        if n == 1200:
            end.deliver(message(data=bytes(WINDOW_BYTES)), None, WINDOW_BYTES + 256, 0.0)
    got: list[Any] = []
    while (data := end.data_to_send()) is not None:
        assert len(data) <= LARGEST_BATCH
        session, records, wrong = rec.worker_decoder().decode(data)
        assert (session, wrong) == (SESSION, [])
        got += records
    assert [record.con for record in got if type(record) is rec.Attach] == list(range(2500))
    assert type(got[1201]) is rec.OnMessage
