from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.corpus import CASES, OFFER, UPGRADE, Case, frame, run, tell
from tests.gateway.connection.connections import (
    HELLO,
    accept,
    deflated,
    dial,
    flush,
    raw,
    websocket,
)
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
)
from wsraw.gateway.websocket.shared import frame_message
from wsraw.link.records import OnClose, OnConnect, OnError, OnMessage

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
    # The peer may read as slowly as all others: only write_timeout ends the connection.
    assert con.keepalive.deadline == math.inf
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
    # The timeout runs from the first byte: sending slowly does not extend it.
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


@pytest.mark.parametrize("for_a_limit", [True, False])
def test_only_a_close_for_a_limit_takes_from_the_system_what_was_sent(for_a_limit: bool) -> None:
    con = websocket()
    if for_a_limit:
        con.close_now(1008, "", "write-timeout", "reads nothing", 0.0)
    else:
        con.close(1000, "", "handler", 0.0)
    flush(con)
    assert [type(event) for event in con.handle_timeout(10.0)] == [OnClose]
    assert con.output.reset is for_a_limit


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


# --- random histories ---

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
