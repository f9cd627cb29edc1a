from __future__ import annotations

import itertools
import math
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.corpus import CASES, OFFER, UPGRADE, Case, frame, run, tell
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    PONGS_BELOW,
    SNIFFING,
    TRANSITIONS,
    Connection,
    ConnectionState,
    Step,
)
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.websocket.frames import MOST_FRAMES
from wsraw.gateway.websocket.handshake import MOST_BODY, MOST_CHUNKS
from wsraw.gateway.websocket.shared import frame_message
from wsraw.link.open_options import check
from wsraw.link.records import Event, OnClose, OnConnect, OnError, OnMessage, Open

HELLO = frame(0x81, b"hello")


def accept(now: float = 0.0, protocol: Any = "any", **fields: Any) -> Connection:
    listen = {name: fields.pop(name) for name in list(fields) if name in Listen.__struct_fields__}
    return accepted(
        7, Listen(name="test", protocol=protocol, **listen), Settings(**fields), {}, now
    )


def dial(now: float = 0.0, protocol: str = "raw", **fields: Any) -> Connection:
    options = fields.pop("options", {})
    open_ = Open(8, "example.com:80", protocol, options=options)
    return dialed(8, check(open_), Settings(**fields), {}, now)


def raw(now: float = 0.0, **fields: Any) -> Connection:
    con = accept(now, **fields)
    assert tell(con.receive_data(b"hi", now)) == ["connect raw", "raw hi"]
    return con


def go_on(con: Connection) -> list[Event]:
    """The turns to come, in which nothing else happens."""
    events: list[Event] = []
    while con.intake.has_more:
        events += con.resume(0.0)
    return events


def flush(con: Connection, now: float = 0.0) -> bytes:
    data = b"".join(con.output.chunks)
    assert tell(con.written(len(data), now)) == []
    return data


def websocket(now: float = 0.0, deflate: bool = False, **fields: Any) -> Connection:
    con = accept(now, **fields)
    events = con.receive_data(UPGRADE % (OFFER if deflate else b""), now)
    assert tell(events) == ["connect websocket server"]
    flush(con, now)
    return con


def answer(con: Connection, now: float = 0.0, behind: bytes = b"") -> tuple[list[Event], Any]:
    """Let a server answer an opened WebSocket's request."""
    peer = ServerProtocol()
    peer.receive_data(flush(con, now))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    peer.send_response(peer.accept(request))
    return con.receive_data(b"".join(peer.data_to_send()) + behind, now), peer


def understood(peer: Any, data: bytes) -> list[tuple[str, bytes]]:
    peer.receive_data(data)
    return [(event.opcode.name, bytes(event.data)) for event in peer.events_received()]


# --- the corpus: any cut, same events ---


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_case_gives_the_same_events_for_whole_data_and_single_bytes(case: Case) -> None:
    events, output = run(case, [])
    assert events == case.expect
    for part in case.output:
        assert part in output
    if len(case.data) < 20_000:
        assert run(case, list(range(len(case.data)))) == (events, output)


@settings(max_examples=300)
@given(st.sampled_from(CASES), st.lists(st.integers(0, 500), max_size=8))
def test_a_case_gives_the_same_events_at_random_cuts(case: Case, cuts: list[int]) -> None:
    assert run(case, [cut for cut in cuts if cut < len(case.data)]) == run(case, [])


# --- the table ---


def reach(state: ConnectionState) -> Connection:
    con = accept()
    path = {
        SNIFFING: [],
        CONNECTING: [Step.UPGRADE],
        OPEN: [Step.RAW],
        CLOSING: [Step.RAW, Step.HALF_CLOSED],
        CLOSED: [Step.END],
    }
    for step in path[state]:
        con.step(step)
    assert con.state is state
    return con


@pytest.mark.parametrize(("state", "step"), list(itertools.product(ConnectionState, Step)))
def test_every_step_outside_the_table_raises(state: ConnectionState, step: Step) -> None:
    con = reach(state)
    if (state, step) in TRANSITIONS:
        con.step(step)
        assert con.state is TRANSITIONS[state, step]
    else:
        with pytest.raises(RuntimeError, match=step.value):
            con.step(step)
        assert con.state is state


# --- accepted, raw ---


def test_a_connection_to_a_raw_listener_is_open_at_once() -> None:
    con = accept(protocol="raw", first_byte_timeout=1)
    assert con.kind == ""
    assert tell(con.first_events(0.0)) == ["connect raw"]
    assert (con.state, con.kind, con.inf, con.keepalive.deadline) == (
        OPEN,
        "raw",
        {"Protocol": "raw"},
        math.inf,
    )
    assert con.send(b"220 hello", "text", True, 0.0) is None
    assert con.output.data_to_send() == b"220 hello"


@pytest.mark.parametrize("protocol", ["any", "websocket"])
def test_a_connection_to_other_listeners_waits_for_the_first_bytes(protocol: str) -> None:
    assert accept(protocol=protocol).first_events(0.0) == []


def test_on_connect_carries_the_facts_about_the_client() -> None:
    listen = Listen(name="test")
    con = accepted(7, listen, Settings(), {"peer": "1.2.3.4:5"}, 0.0)
    (event, _) = con.receive_data(b"x", 0.0)
    assert event == OnConnect(0, 7, {"Protocol": "raw"}, about={"peer": "1.2.3.4:5"})


def test_a_half_closed_connection_waits_for_handlers_and_output() -> None:
    con = raw()
    assert con.receive_eof(1.0) == []
    assert (con.state, con.intake.half_closed) == (CLOSING, True)
    assert con.receive_data(b"after EOF", 1.0) == []
    assert con.send(b"echo", "binary", True, 1.0) is None
    assert con.written(1, 1.0) == []
    assert con.keepalive.deadline == math.inf
    assert con.drained(2.0) == []
    assert con.written(2, 3.0) == []
    # Progress moves the deadline: a slow reader is not a dead one.
    assert con.keepalive.deadline == 13.0
    assert con.handle_timeout(12.9) == []
    assert con.written(1, 3.0) == [OnClose(0, 7, 1000, "", "eof")]
    assert (con.state, con.output.reset, con.drained(4.0), con.receive_eof(4.0)) == (
        CLOSED,
        False,
        [],
        [],
    )


def test_a_half_closed_connection_without_output_ends_when_handlers_are_done() -> None:
    con = raw()
    con.receive_eof(0.0)
    assert con.drained(0.0) == [OnClose(0, 7, 1000, "", "eof")]


def test_a_half_closed_connection_whose_output_is_not_read_ends_in_time() -> None:
    con = raw()
    con.send(b"x", "binary", True, 0.0)
    con.receive_eof(0.0)
    con.drained(1.0)
    assert con.handle_timeout(11.0) == [OnClose(0, 7, 1006, "", "close-timeout")]
    assert con.output.reset
    assert not con.output.size


def test_after_a_violation_a_websocket_can_be_answered_until_all_is_handled() -> None:
    con = websocket()
    con.receive_data(frame(0x81, b"a") + frame(0x89, b"p") + frame(0x83, b"") + b"more", 1.0)
    assert (con.state, con.intake.half_closed, con.unfinished, con.keepalive.deadline) == (
        CLOSING,
        True,
        0,
        math.inf,
    )
    assert flush(con) == b"\x8a\x01p"
    assert con.send(b"answer", "text", True, 2.0) is None
    assert con.send(b"begin", "text", False, 2.0) is None
    assert con.receive_data(frame(0x88, b""), 2.0) == con.receive_eof(2.0) == []
    assert flush(con, 3.0) == b"\x81\x06answer\x01\x05begin"
    assert con.keepalive.deadline == math.inf
    assert con.close(1000, "", "handler", 3.0) == []
    assert con.drained(4.0) == [
        OnError(0, 7, "invalid opcode"), OnClose(0, 7, 1002, "invalid opcode", "protocol-error")
    ]  # fmt: skip
    assert flush(con) == b"\x88\x10\x03\xeainvalid opcode"


def test_a_connection_that_is_lost_after_a_violation_ends_for_the_violation() -> None:
    con = websocket()
    con.receive_data(frame(0x83, b""), 1.0)
    error, close = con.lost("reset", 2.0)
    assert (error.message, close.cause) == ("invalid opcode", "protocol-error")
    assert con.output.reset
    assert not con.output.size


def test_handled_events_do_not_end_an_open_connection() -> None:
    con = raw()
    assert con.drained(0.0) == []
    assert con.state is OPEN


def test_a_raw_connection_closes_at_once_and_its_output_is_still_written() -> None:
    con = raw()
    con.send(b"bye", "text", True, 0.0)
    assert con.close(4000, "enough", "handler", 0.0) == [OnClose(0, 7, 4000, "enough", "handler")]
    assert (con.state, con.output.reset, con.output.data_to_send()) == (CLOSED, False, b"bye")
    assert con.receive_data(b"more", 0.0) == []
    assert con.send(b"late", "text", True, 0.0) is None
    con.send_framed(b"late")
    assert con.output.data_to_send() == b"bye"


def test_a_published_message_for_a_raw_connection_has_no_frame() -> None:
    con = raw()
    assert con.framing_key is not None
    con.send_framed(frame_message(con.framing_key, b"news", "text"))
    assert con.output.data_to_send() == b"news"


# --- accepted, what it is ---


def test_a_silent_client_is_cut_off() -> None:
    con = accept(silence_timeout=60.0)
    assert con.keepalive.deadline == 60.0
    assert con.handle_timeout(60.0) == []
    assert (con.state, con.output.reset, con.ending.limit) == (CLOSED, True, "silence_timeout")
    assert accept(silence_timeout=0.0).keepalive.deadline == math.inf


def test_the_first_byte_ends_the_silence() -> None:
    con = accept(silence_timeout=60.0, handshake_timeout=10.0)
    assert con.receive_data(b"G", 59.0) == []
    assert con.keepalive.deadline == 69.0
    assert tell(con.handle_timeout(69.0)) == ["connect raw", "raw G"]
    assert con.ending.limit == ""


@pytest.mark.parametrize(
    ("head", "status", "limit"),
    [
        (UPGRADE % (b"A: " + b"b" * 2000 + b"\r\n"), b"431", "max_header_size"),
        (UPGRADE % (b"A: b\r\n" * 95), b"101", ""),
        (UPGRADE % (b"A: b\r\n" * 96), b"431", "max_header_size"),
    ],
)
def test_a_head_beyond_its_bounds_is_refused(head: bytes, status: bytes, limit: str) -> None:
    con = accept(max_header_size=1024)
    con.receive_data(head, 0.0)
    assert b"".join(con.output.chunks).split()[1] == status
    assert con.ending.limit == limit


def test_a_refusal_names_the_setting_that_was_exceeded() -> None:
    con = accept()
    con.receive_data(UPGRADE[:50], 0.0)
    con.handle_timeout(10.0)
    assert con.ending.limit == "handshake_timeout"
    con = websocket(max_message_size=100)
    con.receive_data(frame(0x82, bytes(101)), 0.0)
    assert con.ending.limit == "max_message_size"


def test_a_silent_client_is_raw_after_first_byte_timeout() -> None:
    con = accept(now=5.0, first_byte_timeout=2)
    assert con.keepalive.deadline == 7.0
    assert con.handle_timeout(6.9) == []
    assert tell(con.handle_timeout(7.0)) == ["connect raw"]
    assert tell(con.receive_data(b"GET / HTTP/1.1\r\n\r\n", 8.0)) == [r"raw GET / HTTP/1.1\r\n\r\n"]
    assert con.keepalive.deadline == math.inf


@pytest.mark.parametrize(
    ("protocol", "begin", "told", "output"),
    [
        ("any", b"GE", ["connect raw", "raw GE"], b""),
        ("any", b"GET / HTTP/1.1\r\nCookie: a", [], b"HTTP/1.1 408 "),
        ("websocket", b"GET / HTTP/1.1\r\nCookie: a", [], b"HTTP/1.1 408 "),
        ("websocket", b"GE", [], b""),
        ("websocket", b"", [], b""),
    ],
)
def test_a_handshake_must_be_complete_in_time(
    protocol: str, begin: bytes, told: list[str], output: bytes
) -> None:
    con = accept(protocol=protocol, handshake_timeout=10)
    if begin:
        con.receive_data(begin[:1], 1.0)
        con.receive_data(begin[1:], 9.0)
    # It runs from the first byte: sending slowly does not move it.
    assert con.keepalive.deadline == (11.0 if begin else 10.0)
    assert tell(con.handle_timeout(11.0)) == told
    assert bytes(con.output.data_to_send()).startswith(output)
    assert con.state is (OPEN if told else CLOSED)
    assert con.output.reset is (protocol == "websocket" and not output)


def test_no_event_is_emitted_before_the_kind_of_client_is_known() -> None:
    for end in (
        lambda con: con.lost("reset", 0.0),
        lambda con: con.close(1001, "", "going-away", 0.0),
        lambda con: con.abort(1013, "", "memory", "full", 0.0),
    ):
        con = accept()
        con.receive_data(b"GET / HTTP/1.1\r\n", 0.0)
        assert end(con) == []
        assert con.state is CLOSED


# --- accepted, WebSocket ---


def test_messages_go_both_ways() -> None:
    con = websocket()
    assert (con.kind, con.state, con.inf["url"]) == ("websocket", OPEN, "/chat")
    assert con.receive_data(HELLO, 0.0) == [OnMessage(0, 7, b"hello", "text", True)]
    assert con.send(b"hi", "text", True, 0.0) is None
    assert flush(con) == b"\x81\x02hi"
    assert "UTF-8" in (con.send(b"\xff", "text", True, 0.0) or "")
    assert con.framing_key is not None
    con.send_framed(frame_message(con.framing_key, b"news", "text"))
    assert flush(con) == b"\x81\x04news"


def test_a_close_by_a_handler_waits_for_the_close_frame_of_the_peer() -> None:
    con = websocket()
    assert con.close(4000, "done", "handler", 1.0) == []
    assert (con.state, con.keepalive.deadline) == (CLOSING, 11.0)
    assert flush(con, 2.0) == b"\x88\x06\x0f\xa0done"
    assert con.keepalive.deadline == 12.0
    assert con.receive_data(HELLO, 3.0) == []
    con = websocket()
    con.close(4000, "", "handler", 1.0)
    events = con.receive_data(HELLO + frame(0x88, b"\x0f\xa0ok"), 3.0)
    assert events == [OnClose(0, 7, 4000, "ok", "handler")]


def test_closing_twice_is_closing_once() -> None:
    con = websocket()
    con.close(1000, "", "handler", 0.0)
    assert con.close(1001, "", "going-away", 0.0) == []
    assert flush(con) == b"\x88\x02\x03\xe8"
    assert con.framing_key is None
    con.send(b"late", "text", True, 0.0)
    con.send_framed(b"late")
    assert not con.output.size


@pytest.mark.parametrize("how", ["timeout", "eof", "lost", "garbage"])
def test_a_close_that_the_peer_does_not_answer_ends_in_time(how: str) -> None:
    con = websocket()
    con.close(1001, "", "going-away", 0.0)
    if how == "timeout":
        events = con.handle_timeout(10.0)
        assert con.output.reset
    elif how == "eof":
        events = con.receive_eof(1.0)
    elif how == "lost":
        events = con.lost("connection reset", 1.0)
    else:
        events = con.receive_data(b"\xff\xff", 1.0)
    assert events == [OnClose(0, 7, 1006, "", "going-away")]


def test_with_close_timeout_0_a_close_waits_without_end() -> None:
    con = websocket(close_timeout=0)
    con.close(1000, "", "handler", 0.0)
    assert con.keepalive.deadline == math.inf


def test_a_close_code_that_must_not_be_sent_raises() -> None:
    con = websocket()
    with pytest.raises(ValueError, match="1006"):
        con.close(1006, "", "handler", 0.0)
    assert con.state is OPEN


@pytest.mark.parametrize("make", [raw, websocket])
def test_abort_and_loss_reset_the_connection_and_report_the_cause(make: Any) -> None:
    for end, code, cause in (
        (lambda con: con.abort(1008, "", "overflow", "too slow", 0.0), 1008, "overflow"),
        (lambda con: con.lost("too slow", 0.0), 1006, "lost"),
    ):
        con = make()
        con.send(b"unwritten", "binary", True, 0.0)
        assert end(con) == [OnError(0, 7, "too slow"), OnClose(0, 7, code, "", cause)]
        assert con.output.reset
        assert not con.output.size
        assert (con.ending.code, con.ending.cause) == (code, cause)
        assert end(con) == []
        assert con.handle_timeout(1e9) == []


def test_an_abort_after_the_end_drops_the_output() -> None:
    con = raw()
    con.send(b"unwritten", "binary", True, 0.0)
    con.close(1000, "", "handler", 0.0)
    assert con.abort(1013, "", "memory", "full", 0.0) == []
    assert con.output.reset
    assert not con.output.size


def test_an_error_is_reported_once_even_if_the_closing_connection_is_aborted() -> None:
    con = websocket()
    con.send(b"unwritten", "binary", True, 0.0)
    assert con.close_now(1008, "", "overflow", "too slow", 0.0) == [OnError(0, 7, "too slow")]
    assert con.abort(1013, "", "memory", "full", 0.0) == [OnClose(0, 7, 1006, "", "overflow")]
    assert con.output.reset


# --- ping ---


def test_a_pong_keeps_the_connection_open() -> None:
    con = websocket(now=100.0)
    assert con.keepalive.deadline == 120.0
    con.receive_data(HELLO, 110.0)
    assert con.keepalive.deadline == 120.0
    assert con.handle_timeout(120.0) == []
    assert (con.keepalive.deadline, con.output.size) == (130.0, 0)
    assert con.handle_timeout(130.0) == []
    assert flush(con, 130.0) == b"\x89\x00"
    con.receive_data(frame(0x8A, b""), 131.0)
    assert con.handle_timeout(150.0) == []
    assert (con.keepalive.deadline, con.output.size) == (151.0, 0)


def test_pings_are_sent_at_the_interval() -> None:
    """However long the answer to one may take."""
    con = websocket(ping_interval=5, ping_timeout=20)
    for now in (5.0, 10.0, 15.0):
        assert con.keepalive.deadline == now
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"
        con.receive_data(frame(0x8A, b""), now)
    # Now there is none: no further ping, and the end in its time.
    assert con.handle_timeout(20.0) == []
    flush(con, 20.0)
    assert con.handle_timeout(25.0) == []
    assert (con.keepalive.deadline, con.output.size) == (40.0, 0)
    assert tell(con.handle_timeout(40.0)) == ["error", "close 1011 ping-timeout"]


def test_a_due_ping_is_sent_by_one_timeout() -> None:
    """The pong comes a moment after the ping: nobody waits for that moment again."""
    con = websocket(ping_interval=20, ping_timeout=20)
    for now in (20.0, 40.0, 60.0):
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"
        con.receive_data(frame(0x8A, b""), now + 0.5)
        assert con.keepalive.deadline == now + 20.0
    # Who has said something since is asked later.
    con.receive_data(HELLO, 61.0)
    con.handle_timeout(80.0)
    assert (con.keepalive.deadline, con.output.size) == (81.0, 0)


def test_a_missing_pong_ends_the_connection() -> None:
    con = websocket()
    con.handle_timeout(20.0)
    flush(con, 20.0)
    error, close = con.handle_timeout(40.0)
    assert isinstance(error, OnError)
    assert close == OnClose(0, 7, 1011, "no answer to a ping", "ping-timeout")
    assert con.output.data_to_send()[2:4] == b"\x03\xf3"
    assert not con.output.reset


def test_the_time_for_a_pong_begins_when_the_ping_is_written() -> None:
    con = websocket()
    con.send(b"x" * 1000, "binary", True, 0.0)
    con.handle_timeout(20.0)
    con.written(500, 35.0)
    assert con.handle_timeout(40.0) == []
    assert con.keepalive.deadline == 55.0
    assert tell(con.handle_timeout(55.0)) == ["error", "close 1011 ping-timeout"]


def test_pings_can_be_switched_off() -> None:
    assert websocket(ping_interval=0).keepalive.deadline == math.inf
    con = websocket(ping_timeout=0)
    for now in (20.0, 40.0, 60.0):
        assert con.handle_timeout(now) == []
        assert flush(con, now) == b"\x89\x00"


def test_a_flood_of_pings_does_not_fill_the_output() -> None:
    con = websocket()
    pings = frame(0x89, b"p" * 125) * 100
    for _ in range(100):
        con.receive_data(pings, 0.0)
        go_on(con)
    assert con.output.size < PONGS_BELOW + len(pings)
    con.receive_data(frame(0x89, b"latest"), 0.0)
    con.written(con.output.size, 0.0)
    assert con.output.data_to_send() == b"\x8a\x06latest"


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
    # A fragmented message in two halves, with pings in front of its first; n % 3 of those each.
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


# --- pause ---


def test_no_deadline_runs_while_reading_is_paused() -> None:
    con = websocket()
    con.handle_timeout(20.0)
    con.pause(21.0)
    assert con.keepalive.deadline == math.inf
    assert con.resume(500.0) == []
    assert con.keepalive.deadline == 520.0
    con.handle_timeout(520.0)
    # Anew: the ping of before the pause is forgotten, this is the next one.
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


def deflated_payload(size: int) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return (deflater.compress(bytes(size)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def deflated(size: int) -> bytes:
    return frame(0xC2, deflated_payload(size))


def test_a_large_compressed_message_is_inflated_in_portions() -> None:
    # 60 KB that are 60 MB: a pause after each portion bounds what is held.
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


# --- opened ---


def test_an_opened_raw_connection_has_no_on_connect() -> None:
    con = dial()
    assert (con.state, con.kind, con.opened, con.target) == (
        CONNECTING,
        "raw",
        True,
        "example.com:80",
    )
    assert con.about == {"target": "example.com:80", "kind": "raw"}
    con.send(b"early", "text", True, 0.0)
    assert con.connected(1.0) == []
    assert (con.state, con.output.data_to_send(), con.keepalive.deadline) == (
        OPEN,
        b"early",
        math.inf,
    )
    assert tell(con.receive_data(b"x", 1.0)) == ["raw x"]


def test_an_opened_websocket_exchanges_messages() -> None:
    con = dial(protocol="websocket")
    con.send(b"ear", "text", False, 0.0)
    con.send(b"ly", "text", True, 0.0)
    assert "UTF-8" in (con.send(b"\xff", "text", True, 0.0) or "")
    assert con.connected(1.0) == []
    assert con.state is CONNECTING
    events, peer = answer(con, 2.0, behind=b"\x81\x05hello")
    assert tell(events) == ["connect websocket client", "text hello"]
    assert con.inf["Sec-WebSocket-Accept"]
    assert con.keepalive.deadline == 22.0
    con.send(b"later", "text", True, 2.0)
    assert understood(peer, flush(con, 2.0)) == [
        ("TEXT", b"ear"),
        ("CONT", b"ly"),
        ("TEXT", b"later"),
    ]


def test_the_subprotocol_of_an_opened_websocket_is_reported() -> None:
    con = dial(protocol="websocket", options={"subprotocols": ["chat"]})
    con.connected(0.0)
    peer = ServerProtocol(subprotocols=["chat"])  # type: ignore[list-item]
    peer.receive_data(flush(con))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    peer.send_response(peer.accept(request))
    (event,) = con.receive_data(b"".join(peer.data_to_send()), 0.0)
    assert isinstance(event, OnConnect)
    assert event.about["target"] == "example.com:80"
    assert event.about["subprotocol"] == "chat"


@pytest.mark.parametrize("size", [5, 1 << 20])
@pytest.mark.parametrize("cut", [0, 1, 2, 7, -1])
def test_compressed_messages_right_behind_the_answer_of_a_server_are_inflated(
    cut: int, size: int
) -> None:
    """A server may speak before we have read that it lets us in, and in one packet with that."""
    con = dial(protocol="websocket", max_message_size=1 << 20)
    con.connected(0.0)
    server = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()], max_size=None)
    server.receive_data(flush(con))
    request = server.events_received()[0]
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    data = b"".join(server.data_to_send())
    for text in (b"first" * (size // 5), b"second"):
        server.send_text(text)
    frames = b"".join(server.data_to_send())
    head = len(data) + cut if cut >= 0 else len(data + frames)
    data += frames
    events = con.receive_data(data[:head], 0.0)
    events += con.receive_data(data[head:], 0.0) if data[head:] else []
    while con.intake.has_more:
        events += con.resume(0.0)
    texts = [event.data for event in events if isinstance(event, OnMessage)]
    assert texts == [b"first" * (size // 5), b"second"]
    assert con.state is OPEN


# --- what servers answer that refuse us ---

BODY = bytes(range(256)) * 1024


def refused(*parts: bytes, eof: bool = False, after: float = 0.0) -> tuple[str, Any]:
    """What on_error says, and con.response, of a server that answers so."""
    con = dial(protocol="websocket", connect_timeout=5.0)
    con.connected(0.0)
    flush(con)
    events: list[Event] = []
    for part in parts:
        events += con.receive_data(part, 0.0)
    if eof:
        events += con.receive_eof(0.0)
    if after:
        events += con.handle_timeout(after)
    error, close = events
    assert isinstance(error, OnError)
    assert isinstance(close, OnClose)
    assert error.about.get("response") == close.about.get("response")
    return error.message, error.about.get("response")


@pytest.mark.parametrize("length", [b"", b"Content-Length: %d\r\n" % len(BODY)])
def test_the_beginning_of_a_long_refusal_is_reported_at_once(length: bytes) -> None:
    head = b"HTTP/1.1 500 no\r\n" + length + b"\r\n"
    message, response = refused(head, BODY)
    assert message == "server rejected WebSocket connection: HTTP 500"
    assert (response["status"], response["body"]) == (500, BODY[:MOST_BODY])


def test_a_chunked_refusal_is_read() -> None:
    head = b"HTTP/1.1 401 no\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = head + b"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"
    for data in ([whole], [bytes((byte,)) for byte in whole[:-2]]):
        assert refused(*data)[1]["body"] == b"abc0123456789"
    assert refused(head, b"40000\r\n", BODY)[1]["body"] == BODY[:MOST_BODY]
    assert refused(head, b"3\r\nabc\r\nno size", eof=True)[1]["body"] == b"abc"
    for wrong in (b"-1\r\n", b"x\r\n", b"1\r\nabc", b"ffffffffffffffffffff\r\n"):
        assert refused(head, b"2\r\nok\r\n" + wrong)[1]["body"].startswith(b"ok")


def test_endless_chunks_take_time_in_proportion_to_their_number() -> None:
    head = b"HTTP/1.1 500 no\r\nTransfer-Encoding: chunked\r\n\r\n"
    _, response = refused(head, b"1\r\nx\r\n" * 2000)
    assert response["body"] == b"x" * MOST_CHUNKS


def test_an_unfinished_refusal_is_reported_when_the_time_is_up() -> None:
    message, response = refused(b"HTTP/1.1 403 no\r\nX: y\r\n\r\nbecause", after=5.0)
    assert message == "server rejected WebSocket connection: HTTP 403"
    assert response["body"] == b"because"
    message, response = refused(b"HTTP/1.1 403 no\r\nX: y\r\n", after=5.0)
    assert (message, response) == ("timed out after 5 s", None)


def test_a_refusal_in_http_1_0_is_read() -> None:
    _, response = refused(b"HTTP/1.0 404 no\r\n\r\nnothing here", eof=True)
    assert (response["status"], response["body"]) == (404, b"nothing here")
    assert "HTTP/1.0" in refused(b"HTTP/1.0 101 yes\r\n\r\n")[0]


def test_interim_answers_are_skipped() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    assert (
        refused(interim * 3 + b"HTTP/1.1 401 no\r\nContent-Length: 0\r\n\r\n")[1]["status"] == 401
    )
    assert refused(interim * 100)[1]["status"] == 103, "not for ever"
    con = dial(protocol="websocket")
    con.connected(0.0)
    con.receive_data(interim, 0.0)
    events, _ = answer(con)
    assert tell(events) == ["connect websocket client"]


def test_an_opened_raw_connection_that_reconnects_reports_that_it_is_open() -> None:
    con = dial(options={"reconnect": True})
    assert tell(con.connected(0.0)) == ["connect raw"]


def test_bytes_before_a_connection_is_open_are_ignored() -> None:
    assert dial().receive_data(b"x", 0.0) == []


def test_a_ws_target_is_opened_as_a_websocket() -> None:
    con = dialed(8, check(Open(8, "ws://h:1")), Settings(), {}, 0.0)
    assert con.kind == "websocket"


def test_data_sent_before_a_connection_is_open_is_bounded() -> None:
    con = dial(protocol="websocket", output_limit=10)
    assert con.send(b"0123456789", "binary", True, 0.0) is None
    assert con.send(b"a", "binary", True, 0.0) is None
    assert (con.output.early_size, con.output.size) == (11, 0), (
        "its bound is judged with the output"
    )


def test_an_opened_connection_reports_why_it_failed() -> None:
    con = dial()
    about = {"target": "example.com:80", "kind": "raw"}
    assert con.connect_failed("refused", 0.0) == [
        OnError(0, 8, "refused", about=about),
        OnClose(0, 8, 1006, "", "connect-failed", about=about),
    ]
    assert con.connect_failed("refused", 0.0) == []
    assert con.connected(0.0) == []
    con = dial(protocol="websocket")
    con.connected(0.0)
    assert tell(con.receive_data(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", 0.0)) == [
        "error",
        "close 1006 connect-failed",
    ]
    for end in (lambda con: con.receive_eof(0.0), lambda con: con.lost("reset", 0.0)):
        con = dial(protocol="websocket")
        con.connected(0.0)
        assert tell(end(con)) == ["error", "close 1006 connect-failed"]


@pytest.mark.parametrize(
    ("stands", "cause"), [(False, "connect-failed"), (True, "handshake-timeout")]
)
def test_a_connection_that_is_not_open_in_time_fails(stands: bool, cause: str) -> None:
    con = dial(protocol="websocket", options={"connect_timeout": 2.5})
    if stands:
        con.connected(1.0)
    assert con.keepalive.deadline == 2.5
    about = {"target": "example.com:80", "kind": "websocket"}
    assert con.handle_timeout(2.5) == [
        OnError(0, 8, "timed out after 2.5 s", about=about),
        OnClose(0, 8, 1006, "", cause, about=about),
    ]


def test_an_opening_connection_can_be_closed() -> None:
    for protocol in ("raw", "websocket"):
        con = dial(protocol=protocol)
        assert tell(con.close(1000, "", "handler", 0.0)) == ["close 1006 handler"]
        assert con.connected(1.0) == []


def test_data_sent_between_open_and_close_is_delivered() -> None:
    con = dial()
    con.send(b"data", "text", True, 0.0)
    assert con.close(1000, "", "handler", 0.0) == []
    con.send(b"late", "text", True, 0.0)
    assert con.connected(1.0) == [OnClose(0, 8, 1000, "", "handler")]
    assert con.output.data_to_send() == b"data"

    con = dial(protocol="websocket")
    con.send(b"data", "text", True, 0.0)
    assert con.close(4000, "", "handler", 0.0) == []
    con.connected(1.0)
    events, peer = answer(con, 2.0)
    assert tell(events) == ["connect websocket client"]
    assert con.state is CLOSING
    assert understood(peer, flush(con, 2.0)) == [("TEXT", b"data"), ("CLOSE", b"\x0f\xa0")]
    assert tell(con.receive_data(b"".join(peer.data_to_send()), 3.0)) == ["close 4000 handler"]


def test_a_stopping_gateway_does_not_wait_for_an_opening_connection() -> None:
    con = dial()
    con.send(b"data", "text", True, 0.0)
    assert tell(con.close(1001, "", "going-away", 0.0)) == ["close 1006 going-away"]


# --- whatever happens ---

happenings = st.one_of(
    st.tuples(st.just("receive_data"), st.binary(min_size=1, max_size=20)),
    st.tuples(
        st.just("receive_data"),
        st.sampled_from(
            [
                UPGRADE % b"",
                UPGRADE % OFFER,
                UPGRADE[:40],
                b"GET / HTTP/1.1\r\n\r\n",
                HELLO,
                frame(0x01, b"a"),
                frame(0x80, b"b"),
                frame(0x88, b"\x03\xe8"),
                frame(0x89, b""),
                deflated(10_000),
            ]
        ),
    ),
    st.tuples(
        st.just("send"), st.binary(max_size=9), st.sampled_from(["text", "binary"]), st.booleans()
    ),
    st.tuples(st.just("close"), st.sampled_from([1000, 4000]), st.just(""), st.just("handler")),
    st.tuples(st.just("abort"), st.just(1008), st.just(""), st.just("overflow"), st.just("why")),
    st.tuples(st.sampled_from(["lost", "connect_failed"]), st.just("why")),
    st.tuples(
        st.sampled_from(
            ["receive_eof", "drained", "pause", "resume", "handle_timeout", "connected", "written"]
        )
    ),
)


@settings(max_examples=500)
@given(
    st.sampled_from(["any", "raw", "websocket", "dial raw", "dial websocket"]),
    st.lists(st.tuples(happenings, st.integers(0, 30)), max_size=20),
)
def test_any_history_begins_with_on_connect_and_ends_with_on_close(
    kind: str, steps: list[tuple[Any, int]]
) -> None:
    limits = {"high_water_mark": 1000, "max_message_size": 20_000}
    dialled = kind.startswith("dial")
    con = dial(protocol=kind[5:], **limits) if dialled else accept(protocol=kind, **limits)
    events = con.first_events(0.0)
    now = 0.0
    for (name, *arguments), wait in steps:
        now += wait
        if name == "written":
            if con.state is CONNECTING and con.kind == "raw":
                continue
            arguments = [len(con.output.data_to_send())]
        happened = getattr(con, name)(*arguments, now)
        if isinstance(happened, list):
            events += happened
        assert con.output.size == sum(map(len, con.output.chunks)) - con.output._sent
    told = [word.split()[0] for word in tell(events)]
    if dialled:
        assert told[:1] != ["text"]
    elif told:
        assert told[0] == "connect"
    assert told.count("connect") <= 1
    assert told.count("close") <= 1
    if "close" in told:
        assert told[-1] == "close"
        assert con.state is CLOSED
        assert con.ending.cause
    elif con.state is CLOSED:
        assert not told
    if "error" in told:
        assert told[-2:] == ["error", "close"]
