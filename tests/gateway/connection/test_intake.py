from __future__ import annotations

import math
import tracemalloc

import pytest
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.corpus import OFFER, UPGRADE, frame, tell
from tests.gateway.connection.connections import (
    HELLO,
    accept,
    deflated,
    dial,
    flush,
    go_on,
    raw,
    websocket,
)
from wsraw.gateway.connection.connection import (
    CLOSED,
    CLOSING,
    OPEN,
)
from wsraw.gateway.websocket.frames import MOST_FRAMES
from wsraw.link.records import Event, OnClose, OnMessage

FLOODS = {
    "messages": (frame(0x81, b""), MOST_FRAMES),
    "pings": (frame(0x89, b""), MOST_FRAMES),
    "pongs": (frame(0x8A, b""), MOST_FRAMES),
    "fragments": (frame(0x00, b""), MOST_FRAMES),
}


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("state", ["open", "behind the request", "held", "closing"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_bounded_number_of_frames_is_parsed_in_a_turn(
    kind: str, state: str, deflate: bool
) -> None:
    one, most = FLOODS[kind]
    count = 64 * 1024 // len(one)
    flood = one * count
    begin = frame(0x01, b"") if kind == "fragments" else b""
    if state == "behind the request":
        con = accept(deflate=deflate)
        con.receive_data(UPGRADE % (OFFER if deflate else b"") + begin + flood, 0.0)
    else:
        con = websocket(deflate=deflate)
        con.receive_data(begin, 0.0)
        if state == "held":
            con.pause(0.0)
            if deflate:
                con.receive_data(flood, 0.0)
                con.resume(0.0)
            else:
                con.resume(0.0)
                con.receive_data(flood, 0.0)
        elif state == "closing":
            con.receive_data(flood, 0.0)
            con.close(1000, "", "handler", 0.0)
        else:
            con.receive_data(flood, 0.0)
    seen = con.intake.parsed
    while con.intake.has_more:
        assert 0 < con.intake.parsed <= most + MOST_FRAMES
        con.resume(0.0)
        seen += con.intake.parsed
    if state != "closing":
        assert seen == count + (state == "behind the request" and bool(begin))
    assert con.state is (CLOSING if state == "closing" else OPEN)


@pytest.mark.parametrize("deflate", [False, True])
def test_a_flood_gives_the_same_events_as_a_trickle(deflate: bool) -> None:
    wire = b"".join(
        frame(0x81, b"%d" % n)
        + (frame(0x89, b"") * (n % 3) + frame(0x01, b"a")) * (n % 2)
        + frame(0x80, b"b") * (n % 2)
        for n in range(300)
    )
    # Each round has a fragmented message in two halves, with n % 3 pings before each half.
    wire += frame(0x88, b"\x03\xe8")
    at_once, trickle = websocket(deflate=deflate), websocket(deflate=deflate)
    events = at_once.receive_data(wire, 0.0) + go_on(at_once)
    bit_by_bit: list[Event] = []
    for n in range(0, len(wire), 7):
        bit_by_bit += trickle.receive_data(wire[n : n + 7], 0.0) + go_on(trickle)
    assert tell(events) == tell(bit_by_bit)
    assert at_once.state is CLOSED
    assert b"".join(at_once.output.chunks) == b"".join(trickle.output.chunks)


def test_an_end_of_file_behind_a_flood_is_handled_after_all_its_frames() -> None:
    con = websocket()
    events = con.receive_data(HELLO * 1000, 0.0)
    assert con.receive_eof(0.0) == []
    events += go_on(con)
    assert tell(events) == ["text hello"] * 1000 + ["close 1006 lost"]


def test_a_close_finds_the_close_frame_of_the_peer_behind_a_flood() -> None:
    con = websocket()
    con.receive_data(frame(0x89, b"") * 1000 + frame(0x88, b"\x03\xe8"), 0.0)
    assert con.close(4000, "", "handler", 0.0) == []
    assert con.intake.has_more
    assert tell(go_on(con)) == ["close 1000 handler"]


def test_a_close_finds_the_end_of_file_of_the_peer_behind_a_flood() -> None:
    con = websocket()
    con.receive_data(frame(0x89, b"") * 1000, 0.0)
    con.receive_eof(0.0)
    assert con.close(4000, "", "handler", 0.0) == []
    assert tell(go_on(con)) == ["close 1006 handler"]


def test_a_connection_that_ends_in_the_middle_of_a_flood_has_no_more_events() -> None:
    con = websocket()
    con.receive_data(HELLO * 1000, 0.0)
    assert con.intake.has_more
    con.lost("reset", 0.0)
    assert not con.intake.has_more
    assert con.resume(0.0) == []
    assert con.unfinished == 0


def test_no_deadline_runs_while_reading_is_paused() -> None:
    con = websocket()
    con.handle_timeout(20.0)
    con.pause(21.0)
    assert con.keepalive.deadline == math.inf
    assert con.resume(500.0) == []
    assert con.keepalive.deadline == 520.0
    con.handle_timeout(520.0)
    # The keepalive has begun anew: the ping from before the pause is forgotten.
    assert con.state is OPEN


def test_resuming_a_raw_connection_sets_no_deadline() -> None:
    con = raw(handshake_timeout=10)
    con.pause(0.0)
    con.resume(1.0)
    assert con.keepalive.deadline == math.inf


def test_a_pause_does_not_stop_the_clock_of_a_handshake() -> None:
    con = accept(handshake_timeout=10)
    con.receive_data(b"GE", 0.0)
    con.pause(5.0)
    assert con.keepalive.deadline == 10.0


def test_a_closing_connection_is_not_paused() -> None:
    con = websocket()
    con.close(1000, "", "handler", 0.0)
    con.pause(0.0)
    assert (con.intake.paused, con.keepalive.deadline) == (False, 10.0)
    con = websocket()
    con.pause(0.0)
    con.close(1000, "", "handler", 0.0)
    assert (con.intake.paused, con.keepalive.deadline) == (False, 10.0)


def test_a_large_compressed_message_is_inflated_in_portions() -> None:
    # The 60 KB inflate to 60 MB, so a pause after each portion limits the memory.
    message = deflated(1 << 20)
    count = 60_000 // len(message)
    con = websocket(deflate=True)
    events = con.receive_data(message * count, 0.0)
    portions = []
    while con.intake.has_more:
        portions.append(len(events))
        con.pause(0.0)
        assert con.receive_data(b"", 0.0) == []
        events = con.resume(0.0)
    portions.append(len(events))
    assert sum(portions) == count
    assert max(portions) == 1
    assert len(portions) >= count * 8, "each turn inflates an eighth of a message"
    assert con.state is OPEN


def test_frames_behind_a_large_message_wait_for_it() -> None:
    con = websocket(deflate=True)
    con.output.append(b"")
    flush(con)
    large = deflated(300_000)
    wire = large + frame(0x89, b"ping") + HELLO + frame(0x88, b"\x03\xe8")
    events = con.receive_data(wire, 0.0)
    assert events == []
    assert con.intake.has_more
    assert con.output.size == 0, "not even the pong comes before it"
    assert con.receive_eof(0.0) == []
    while con.intake.has_more:
        events += con.resume(0.0)
    assert [type(event) for event in events] == [OnMessage, OnMessage, OnClose]
    assert len(events[0].data) == 300_000
    assert con.state is CLOSED


def test_a_close_does_not_inflate_the_rest_of_a_message() -> None:
    con = websocket(deflate=True)
    con.receive_data(deflated(1 << 20) + frame(0x88, b"\x03\xe8"), 0.0)
    assert con.intake.has_more
    assert tell(con.close(4000, "", "handler", 0.0)) == ["close 1000 handler"]
    assert not con.intake.has_more
    assert con.unfinished == 0


def test_bytes_received_while_paused_are_parsed_after_the_pause() -> None:
    con = websocket(deflate=True)
    con.pause(0.0)
    assert con.receive_data(HELLO, 0.0) == []
    assert con.receive_eof(0.0) == []
    assert tell(con.resume(1.0)) == ["text hello", "close 1006 lost"]


def test_a_close_finds_the_close_frame_of_the_peer_in_held_bytes() -> None:
    con = websocket(deflate=True)
    con.pause(0.0)
    con.receive_data(HELLO + frame(0x88, b"\x03\xe8"), 0.0)
    assert tell(con.close(4000, "", "handler", 0.0)) == ["close 1000 handler"]


def test_a_close_finds_the_end_of_file_of_the_peer_behind_held_bytes() -> None:
    con = websocket(deflate=True)
    con.pause(0.0)
    con.receive_data(HELLO, 0.0)
    con.receive_eof(0.0)
    assert tell(con.close(4000, "", "handler", 0.0)) == ["close 1006 handler"]


@pytest.mark.parametrize("state", ["closing", "closing with held", "connecting"])
def test_bombs_are_inflated_in_portions_in_every_state(state: str) -> None:
    message = deflated(1 << 20)
    bombs = message * (60_000 // len(message))
    if state == "connecting":
        con = dial(protocol="websocket")
        con.connected(0.0)
        peer = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()])
        peer.receive_data(flush(con))
        request = peer.events_received()[0]
        assert isinstance(request, Request)
        peer.send_response(peer.accept(request))
        response = b"".join(peer.data_to_send())
        peer.send_binary(bytes(1 << 20))
        message = b"".join(peer.data_to_send())
        bombs = response + message * (60_000 // len(message))
    else:
        con = websocket(deflate=True)
        if state == "closing with held":
            con.pause(0.0)
            con.receive_data(bombs, 0.0)
            bombs = b""
        else:
            con.close(1000, "", "handler", 0.0)
    tracemalloc.start()
    try:
        events = con.receive_data(bombs, 0.0) if bombs else con.close(1000, "", "handler", 0.0)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert con.state is (OPEN if state == "connecting" else CLOSING)
    while con.intake.has_more:
        events += con.resume(0.0)
    expected = 60_000 // len(message) if state == "connecting" else 0
    assert sum(isinstance(event, OnMessage) for event in events) == expected
