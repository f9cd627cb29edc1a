from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.admission.sniffer import MAX_HEAD, MAX_HEADERS, MAX_LINE, Sniffer, Verdict

GET = b"GET / HTTP/1.1\r\n"
UPGRADE = GET + b"Upgrade: websocket\r\n\r\n"

VERDICTS = [
    (b"", Verdict.UNKNOWN),
    (b"G", Verdict.UNKNOWN),
    (b"GET ", Verdict.UNKNOWN),
    (b"GET / HTTP/1.1", Verdict.UNKNOWN),
    (b"g", Verdict.RAW),
    (b"GET\n", Verdict.RAW),
    (b"GET  HTTP/1.1\r\n", Verdict.RAW),
    (b"GET / HTTP/1.1 \r\n", Verdict.RAW),
    (b"GET / HTTP/1.11\r\n", Verdict.RAW),
    (b"GET / http/1.1\r\n", Verdict.RAW),
    (b"GET / HTTP/1.1\r\r\n", Verdict.RAW),
    (b"GET /a b HTTP/1.1\r\n", Verdict.RAW),
    (GET, Verdict.HTTP),
    (b"GET / HTTP/1.1\n", Verdict.HTTP),
    (b"GET /\xe9 HTTP/1.1\n", Verdict.HTTP),
    (GET + b"\r", Verdict.HTTP),
    (GET + b"\r\n", Verdict.PLAIN_HTTP),
    (GET + b"\n", Verdict.PLAIN_HTTP),
    (GET + b"A: b\n\r\n", Verdict.PLAIN_HTTP),
    (GET + b"Upgrade: websockets\r\n\r\n", Verdict.PLAIN_HTTP),
    (GET + b"X-Upgrade: websocket\r\n\r\n", Verdict.PLAIN_HTTP),
    (GET + b"A: b\r\n\r\nUpgrade: websocket\r\n\r\n", Verdict.PLAIN_HTTP),
    (UPGRADE, Verdict.WEBSOCKET),
    (GET + b"upgrade:h2c,WEBSOCKET \n\n", Verdict.WEBSOCKET),
    (GET + b"Upgrade: h2c\r\nUpgrade: websocket\r\n\r\n", Verdict.WEBSOCKET),
    # Only a GET begins a WebSocket (RFC 6455, section 4.1).
    (b"POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Verdict.PLAIN_HTTP),
    (b"OPTIONS * HTTP/1.0\r\n\r\n", Verdict.PLAIN_HTTP),
    (b"CONNECT a:443 HTTP/1.1\r\n\r\n", Verdict.PLAIN_HTTP),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\n", Verdict.HTTP),
    (b"OPTIONS", Verdict.UNKNOWN),
    # Raw protocols whose first words are, or begin as, a method of HTTP: raw as soon as that is
    # seen, and at the end of their first line at the latest.
    (b"PI", Verdict.RAW),
    (b"PING\r\n", Verdict.RAW),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict.RAW),
    (b"POST\r\n", Verdict.RAW),
    (b"POSTS ", Verdict.RAW),
    (b"GETSET a b\r\n", Verdict.RAW),
    (b"GET key\r\n", Verdict.RAW),
    (b"PUT 0 0 3\r\n", Verdict.RAW),
    (b"DELETE key\n", Verdict.RAW),
    (b"HELO a.example\r\n", Verdict.RAW),
    (b"OPTIONS sip:a@b SIP/2.0\r\n", Verdict.RAW),
    (b"OPTIONS rtsp://a/ RTSP/1.0\r\n", Verdict.RAW),
    (b"CONNECT\naccept-version:1.2\n", Verdict.RAW),
    (b"TRACE me\n", Verdict.RAW),
    (b"post / HTTP/1.1\r\n", Verdict.RAW),
    (b"PROPFIND / HTTP/1.1\r\n", Verdict.RAW),
]


@pytest.mark.parametrize(("data", "verdict"), VERDICTS)
def test_the_verdict_is_the_same_for_whole_data_and_single_bytes(
    data: bytes, verdict: Verdict
) -> None:
    assert Sniffer().receive_data(data) is verdict
    sniffer = Sniffer()
    for i in range(len(data)):
        sniffer.receive_data(data[i : i + 1])
    assert sniffer.verdict is verdict
    assert sniffer.buffer == data


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", Verdict.UNKNOWN),
        (b"PROPF", Verdict.UNKNOWN),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", Verdict.PLAIN_HTTP),
        (b"VERSION-CONTROL / HTTP/1.1\r\n\r\n", Verdict.PLAIN_HTTP),
        (UPGRADE, Verdict.WEBSOCKET),
        (b"hello", Verdict.RAW),
        (b"Ge", Verdict.RAW),
        (b"-", Verdict.RAW),
        (b"PING\r", Verdict.RAW),
        (b"\x16\x03", Verdict.RAW),
        (b"PRI * HTTP/2.0\r\n", Verdict.RAW),
        (b"A" * 32, Verdict.UNKNOWN),
        (b"A" * 33, Verdict.RAW),
    ],
)
def test_a_websocket_listener_recognizes_every_method(data: bytes, verdict: Verdict) -> None:
    assert Sniffer(any_method=True).receive_data(data) is verdict
    sniffer = Sniffer(any_method=True)
    for i in range(len(data)):
        sniffer.receive_data(data[i : i + 1])
    assert sniffer.verdict is verdict


def of_length(size: int, line: bytes = b"GET /%s HTTP/1.1\r\n") -> bytes:
    return line % (b"a" * (size - len(line) + 2))


def test_a_line_one_byte_above_the_longest_is_too_big() -> None:
    assert Sniffer().receive_data(of_length(MAX_LINE)) is Verdict.HTTP
    assert Sniffer().receive_data(of_length(MAX_LINE + 1)) is Verdict.TOO_BIG
    sniffer = Sniffer()
    assert sniffer.receive_data(of_length(MAX_LINE + 1)[: MAX_LINE - 1]) is Verdict.UNKNOWN
    assert sniffer.receive_data(b"\r") is Verdict.TOO_BIG


@pytest.mark.parametrize("size", range(MAX_LINE - 2, MAX_LINE + 30))
def test_no_target_makes_a_request_raw(size: int) -> None:
    """Else a page could choose one, and speak to handlers behind it."""
    request = of_length(size, b"POST /%s HTTP/1.1\r\n") + b"Origin: https://evil.example\r\n\r\n"
    verdict = Verdict.PLAIN_HTTP if size <= MAX_LINE else Verdict.TOO_BIG
    assert Sniffer().receive_data(request) is verdict


@pytest.mark.parametrize(
    "line", [b"POST a b", b"GET  /", b"GET \t", b"PUT / HTTQ", b"PUT / HTTP/2"]
)
def test_a_long_line_that_is_not_a_request_is_raw(line: bytes) -> None:
    assert Sniffer().receive_data(line + b"a" * MAX_LINE) is Verdict.RAW


def test_a_head_one_byte_above_the_longest_is_too_big() -> None:
    lines = of_length(MAX_LINE, b"A: %s\r\n")
    lines += of_length(MAX_HEAD - len(UPGRADE) - MAX_LINE, b"A: %s\r\n")
    head = GET + b"Upgrade: websocket\r\n" + lines
    longest = head + b"\r\n"
    assert len(longest) == MAX_HEAD
    assert Sniffer().receive_data(longest + b"behind") is Verdict.WEBSOCKET
    assert Sniffer().receive_data(head + b"a\r\n\r\n") is Verdict.TOO_BIG
    assert Sniffer().receive_data(GET + b"a" * 10 * MAX_HEAD) is Verdict.TOO_BIG


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_header_line_of_a_handshake_one_byte_above_the_longest_is_too_big(end: bytes) -> None:
    line = b"A: " + b"a" * (MAX_LINE - 5)
    for more, verdict in ((b"", Verdict.WEBSOCKET), (b"a", Verdict.TOO_BIG)):
        head = end.join([GET.strip(), b"Upgrade: websocket", line + more, b"B: b", b"", b""])
        assert Sniffer().receive_data(head) is verdict
    # What is no handshake is raw, or answered as plain HTTP is: whatever its lines are.
    head = end.join([GET.strip(), line + b"a", b"", b""])
    assert Sniffer().receive_data(head) is Verdict.PLAIN_HTTP


def test_the_bounds_of_the_head_can_be_set() -> None:
    head = GET + b"A: b\r\n" * 3 + b"\r\n"
    assert Sniffer(len(head)).receive_data(head) is Verdict.PLAIN_HTTP
    assert Sniffer(len(head) - 1).receive_data(head) is Verdict.TOO_BIG
    assert Sniffer(len(head)).receive_data(head[:-1]) is Verdict.HTTP
    # A first line beyond the bound of the head is HTTP all the same.
    assert Sniffer(1024).receive_data(of_length(2000)) is Verdict.TOO_BIG


def test_one_header_above_the_most_is_too_many() -> None:
    head = UPGRADE[:-2] + b"A: b\r\n" * (MAX_HEADERS - 1) + b"\r\n"
    assert Sniffer().receive_data(head) is Verdict.WEBSOCKET
    assert Sniffer().receive_data(head[:-2] + b"A: b\n\r\n") is Verdict.TOO_BIG


def test_the_size_of_the_head_is_known_when_it_is_complete() -> None:
    sniffer = Sniffer()
    sniffer.receive_data(UPGRADE + b"\x81\x80")
    assert sniffer.buffer[sniffer.head_size :] == b"\x81\x80"


heads = st.lists(
    st.sampled_from(b"GET |GE|POST |PROP-|FIND |/| HTTP/1.1|Upgrade: websocket|a: b".split(b"|"))
    | st.sampled_from([b"\r\n", b"\n", b"\r"])
    | st.binary(max_size=5)
).map(b"".join)


@given(heads | heads.map(lambda rest: GET + rest), st.lists(st.integers(0, 80)), st.booleans())
def test_the_verdict_does_not_depend_on_the_cuts(
    data: bytes, cuts: list[int], any_method: bool
) -> None:
    whole, cut = Sniffer(60, any_method), Sniffer(60, any_method)
    whole.receive_data(data)
    last = 0
    for end in [*sorted(cuts), len(data)]:
        if last < end <= len(data):
            cut.receive_data(data[last:end])
            last = end
    assert (cut.verdict, cut.head_size, cut.buffer) == (whole.verdict, whole.head_size, data)
