from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.gateway.admission.sniffer import MAX_HEAD, MAX_HEADERS, MAX_LINE, Finding, Sniffer

GET = b"GET / HTTP/1.1\r\n"
UPGRADE = GET + b"Upgrade: websocket\r\n\r\n"

VERDICTS = [
    (b"", Finding.UNKNOWN),
    (b"G", Finding.UNKNOWN),
    (b"GET ", Finding.UNKNOWN),
    (b"GET / HTTP/1.1", Finding.UNKNOWN),
    (b"g", Finding.RAW),
    (b"GET\n", Finding.RAW),
    (b"GET  HTTP/1.1\r\n", Finding.RAW),
    (b"GET / HTTP/1.1 \r\n", Finding.RAW),
    (b"GET / HTTP/1.11\r\n", Finding.RAW),
    (b"GET / http/1.1\r\n", Finding.RAW),
    (b"GET / HTTP/1.1\r\r\n", Finding.RAW),
    (b"GET /a b HTTP/1.1\r\n", Finding.RAW),
    (GET, Finding.HTTP),
    (b"GET / HTTP/1.1\n", Finding.HTTP),
    (b"GET /\xe9 HTTP/1.1\n", Finding.HTTP),
    (GET + b"\r", Finding.HTTP),
    (GET + b"\r\n", Finding.PLAIN_HTTP),
    (GET + b"\n", Finding.PLAIN_HTTP),
    (GET + b"A: b\n\r\n", Finding.PLAIN_HTTP),
    (GET + b"Upgrade: websockets\r\n\r\n", Finding.PLAIN_HTTP),
    (GET + b"X-Upgrade: websocket\r\n\r\n", Finding.PLAIN_HTTP),
    (GET + b"A: b\r\n\r\nUpgrade: websocket\r\n\r\n", Finding.PLAIN_HTTP),
    (UPGRADE, Finding.WEBSOCKET),
    (GET + b"upgrade:h2c,WEBSOCKET \n\n", Finding.WEBSOCKET),
    (GET + b"Upgrade: h2c\r\nUpgrade: websocket\r\n\r\n", Finding.WEBSOCKET),
    # Only a GET begins a WebSocket (RFC 6455, section 4.1).
    (b"POST / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", Finding.PLAIN_HTTP),
    (b"OPTIONS * HTTP/1.0\r\n\r\n", Finding.PLAIN_HTTP),
    (b"CONNECT a:443 HTTP/1.1\r\n\r\n", Finding.PLAIN_HTTP),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\n", Finding.HTTP),
    (b"OPTIONS", Finding.UNKNOWN),
    # Raw protocols whose first words are, or begin like, an HTTP method. They count as raw as soon
    # as the difference shows, at the end of their first line at the latest.
    (b"PI", Finding.RAW),
    (b"PING\r\n", Finding.RAW),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Finding.RAW),
    (b"POST\r\n", Finding.RAW),
    (b"POSTS ", Finding.RAW),
    (b"GETSET a b\r\n", Finding.RAW),
    (b"GET key\r\n", Finding.RAW),
    (b"PUT 0 0 3\r\n", Finding.RAW),
    (b"DELETE key\n", Finding.RAW),
    (b"HELO a.example\r\n", Finding.RAW),
    (b"OPTIONS sip:a@b SIP/2.0\r\n", Finding.RAW),
    (b"OPTIONS rtsp://a/ RTSP/1.0\r\n", Finding.RAW),
    (b"CONNECT\naccept-version:1.2\n", Finding.RAW),
    (b"TRACE me\n", Finding.RAW),
    (b"post / HTTP/1.1\r\n", Finding.RAW),
    (b"PROPFIND / HTTP/1.1\r\n", Finding.RAW),
]


@pytest.mark.parametrize(("data", "finding"), VERDICTS)
def test_the_verdict_is_the_same_for_whole_data_and_single_bytes(
    data: bytes, finding: Finding
) -> None:
    assert Sniffer().receive_data(data) is finding
    sniffer = Sniffer()
    for i in range(len(data)):
        sniffer.receive_data(data[i : i + 1])
    assert sniffer.finding is finding
    assert sniffer.buffer == data


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", Finding.UNKNOWN),
        (b"PROPF", Finding.UNKNOWN),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", Finding.PLAIN_HTTP),
        (b"VERSION-CONTROL / HTTP/1.1\r\n\r\n", Finding.PLAIN_HTTP),
        (UPGRADE, Finding.WEBSOCKET),
        (b"hello", Finding.RAW),
        (b"Ge", Finding.RAW),
        (b"-", Finding.RAW),
        (b"PING\r", Finding.RAW),
        (b"\x16\x03", Finding.RAW),
        (b"PRI * HTTP/2.0\r\n", Finding.RAW),
        (b"A" * 32, Finding.UNKNOWN),
        (b"A" * 33, Finding.RAW),
    ],
)
def test_a_websocket_listener_recognizes_every_method(data: bytes, finding: Finding) -> None:
    assert Sniffer(any_method=True).receive_data(data) is finding
    sniffer = Sniffer(any_method=True)
    for i in range(len(data)):
        sniffer.receive_data(data[i : i + 1])
    assert sniffer.finding is finding


def of_length(size: int, line: bytes = b"GET /%s HTTP/1.1\r\n") -> bytes:
    return line % (b"a" * (size - len(line) + 2))


def test_a_line_one_byte_above_the_longest_is_too_big() -> None:
    assert Sniffer().receive_data(of_length(MAX_LINE)) is Finding.HTTP
    assert Sniffer().receive_data(of_length(MAX_LINE + 1)) is Finding.TOO_BIG
    sniffer = Sniffer()
    assert sniffer.receive_data(of_length(MAX_LINE + 1)[: MAX_LINE - 1]) is Finding.UNKNOWN
    assert sniffer.receive_data(b"\r") is Finding.TOO_BIG


@pytest.mark.parametrize("size", range(MAX_LINE - 2, MAX_LINE + 30))
def test_no_target_makes_a_request_raw(size: int) -> None:
    """Otherwise a page could choose such a target, and send data to handlers."""
    request = of_length(size, b"POST /%s HTTP/1.1\r\n") + b"Origin: https://evil.example\r\n\r\n"
    finding = Finding.PLAIN_HTTP if size <= MAX_LINE else Finding.TOO_BIG
    assert Sniffer().receive_data(request) is finding


@pytest.mark.parametrize(
    "line", [b"POST a b", b"GET  /", b"GET \t", b"PUT / HTTQ", b"PUT / HTTP/2"]
)
def test_a_long_line_that_is_not_a_request_is_raw(line: bytes) -> None:
    assert Sniffer().receive_data(line + b"a" * MAX_LINE) is Finding.RAW


def test_a_head_one_byte_above_the_longest_is_too_big() -> None:
    lines = of_length(MAX_LINE, b"A: %s\r\n")
    lines += of_length(MAX_HEAD - len(UPGRADE) - MAX_LINE, b"A: %s\r\n")
    head = GET + b"Upgrade: websocket\r\n" + lines
    longest = head + b"\r\n"
    assert len(longest) == MAX_HEAD
    assert Sniffer().receive_data(longest + b"behind") is Finding.WEBSOCKET
    assert Sniffer().receive_data(head + b"a\r\n\r\n") is Finding.TOO_BIG
    assert Sniffer().receive_data(GET + b"a" * 10 * MAX_HEAD) is Finding.TOO_BIG


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_header_line_of_a_handshake_one_byte_above_the_longest_is_too_big(end: bytes) -> None:
    line = b"A: " + b"a" * (MAX_LINE - 5)
    for more, finding in ((b"", Finding.WEBSOCKET), (b"a", Finding.TOO_BIG)):
        head = end.join([GET.strip(), b"Upgrade: websocket", line + more, b"B: b", b"", b""])
        assert Sniffer().receive_data(head) is finding
    # A request that is not a handshake is raw or plain HTTP, whatever its headers are.
    head = end.join([GET.strip(), line + b"a", b"", b""])
    assert Sniffer().receive_data(head) is Finding.PLAIN_HTTP


def test_the_bounds_of_the_head_can_be_set() -> None:
    head = GET + b"A: b\r\n" * 3 + b"\r\n"
    assert Sniffer(len(head)).receive_data(head) is Finding.PLAIN_HTTP
    assert Sniffer(len(head) - 1).receive_data(head) is Finding.TOO_BIG
    assert Sniffer(len(head)).receive_data(head[:-1]) is Finding.HTTP
    # A first line that is longer than the limit of the head is HTTP, too.
    assert Sniffer(1024).receive_data(of_length(2000)) is Finding.TOO_BIG


def test_one_header_above_the_most_is_too_many() -> None:
    head = UPGRADE[:-2] + b"A: b\r\n" * (MAX_HEADERS - 1) + b"\r\n"
    assert Sniffer().receive_data(head) is Finding.WEBSOCKET
    assert Sniffer().receive_data(head[:-2] + b"A: b\n\r\n") is Finding.TOO_BIG


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
    assert (cut.finding, cut.head_size, cut.buffer) == (whole.finding, whole.head_size, data)
