"""Both sides of the handshake, compared with the library websockets."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.http11 import Response
from websockets.uri import parse_uri

from tests import library
from wsraw.config.settings import Settings
from wsraw.gateway.websocket.handshake import (
    MOST_BODY,
    MOST_FIELDS,
    MOST_HEAD,
    ClientHandshake,
    HandshakeError,
    ServerHandshake,
    accept_key,
    to_inf,
)
from wsraw.link.open_options import check
from wsraw.link.records import Open

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
Fields = list[tuple[str, str]]


def head(fields: Fields, line: str = "GET /chat?a=b HTTP/1.1") -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields), "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def request(line: str = "GET /chat?a=b HTTP/1.1", /, **changes: str | None) -> bytes:
    """Header names have underscores for hyphens; None leaves a header out."""
    fields = FIELDS | {name.replace("_", "-"): value for name, value in changes.items()}  # type: ignore[operator]
    return head([(name, value) for name, value in fields.items() if value is not None], line)


def ours(request: bytes) -> tuple[int, Fields, list[str]]:
    """The status of our answer; for 101 also the request's headers and subprotocols."""
    try:
        handshake = ServerHandshake(request, Settings())
    except HandshakeError as error:
        return error.status, [], []
    assert b"\r\nSec-WebSocket-Accept: " in handshake.answer(None, ())
    inf = [(n, v) for n, v in handshake.inf.items() if n not in ("method", "url", "Protocol")]
    return 101, inf, handshake.offered


BROWSERS = {
    "Chromium": request(
        Connection="Upgrade", Pragma="no-cache", Cache_Control="no-cache", Origin="http://a",
        User_Agent="Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)",
        Accept_Encoding="gzip, deflate, br", Cookie="a=b; c=d",
        Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits",
    ),
    "Firefox": request(
        Connection="keep-alive, Upgrade", Accept="*/*", Sec_Fetch_Mode="websocket",
        Sec_WebSocket_Extensions="permessage-deflate", Sec_WebSocket_Protocol="one, two",
    ),
    "ws": request(Sec_WebSocket_Protocol="one,two"),
    "curl": request(Upgrade="WebSocket", Connection="upgrade", Accept="*/*", User_Agent="curl/8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROWSERS)
def test_a_request_of_a_browser_is_accepted(name: str) -> None:
    assert ours(BROWSERS[name]) == library.library_answer(BROWSERS[name])
    handshake = ServerHandshake(BROWSERS[name], Settings())
    assert (handshake.inf["method"], handshake.inf["url"]) == ("GET", "/chat?a=b")
    assert accept_key(KEY).encode() in handshake.answer(None, ())
    assert (handshake.terms is not None) is (name in ("Chromium", "Firefox"))


ODD = [
    request("GET /chat HTTP/1.0"),
    request("POST /chat HTTP/1.1"),
    request("get /chat HTTP/1.1"),
    request("GET  /chat HTTP/1.1"),
    request("GET /ch at HTTP/1.1"),
    request("GET /caf\xe9 HTTP/1.1"),
    request("GET http://a/chat HTTP/1.1"),
    request("GET * HTTP/1.1"),
    *(request(**{name.replace("-", "_"): None}) for name in FIELDS),
    request(Upgrade="websocket, h2c"),
    request(Upgrade="h2c"),
    request(Connection="close"),
    request(Connection="close, Upgrade"),
    request(Connection="Upgrade,"),
    request(Sec_WebSocket_Key=KEY[:-1]),
    request(Sec_WebSocket_Key="A" * 22),
    request(Sec_WebSocket_Key="A" * 24),
    request(Sec_WebSocket_Key="!" * 22 + "=="),
    request(Sec_WebSocket_Version="8"),
    request(Sec_WebSocket_Version="13, 8"),
    request(Content_Length="0"),
    request(Content_Length="5"),
    request(Transfer_Encoding="chunked"),
    request(Sec_WebSocket_Protocol="one,,two"),
    request(Sec_WebSocket_Protocol="one two"),
    request(Sec_WebSocket_Protocol=""),
    request(Sec_WebSocket_Protocol=" , "),
    request(Sec_WebSocket_Extensions="foo; bar=1, permessage-deflate"),
    request(Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=99"),
    request(Sec_WebSocket_Extensions='permessage-deflate; server_max_window_bits="1\\5"'),
    request(Sec_WebSocket_Extensions='permessage-deflate; server_max_window_bits="1,5"'),
    request(Sec_WebSocket_Extensions='permessage-deflate; server_max_window_bits="'),
    request(Sec_WebSocket_Extensions="permessage-deflate; ="),
    request(Sec_WebSocket_Extensions="permessage-deflate;"),
    request(Sec_WebSocket_Extensions=";a"),
    request(Sec_WebSocket_Extensions="a b"),
    request(Sec_WebSocket_Extensions=","),
    request(Sec_WebSocket_Extensions=""),
    request(Host=""),
    request(Host="a\t"),
    request(url="b", method="c", Protocol="d"),
    request(Cookie="caf\xe9"),
    request(X="a\0b"),
    request(X="a\rb"),
    head([*FIELDS.items(), ("host", "b")]),
    head([*FIELDS.items(), ("Origin", "a"), ("origin", "a")]),
    head([*FIELDS.items(), ("X-A", "1"), ("x-a", "2")]),
    head([*FIELDS.items(), ("Cookie", "a=b"), ("Cookie", "c=d")]),
    head([*FIELDS.items(), ("X A", "1")]),
    head([*FIELDS.items(), ("X\xe9", "1")]),
    head([*FIELDS.items(), (" folded", "1")]),
    request().replace(b"\r\n", b"\n"),
    request().replace(b"Host: a", b"Host : a"),
    request().replace(b"Host: a", b"Host"),
    request().replace(b"Host: a", b"Host:a"),
]


@pytest.mark.parametrize("wire", ODD)
def test_an_odd_request_is_judged_as_the_library_does(wire: bytes) -> None:
    assert ours(wire) == library.library_answer(wire)


@pytest.mark.parametrize("wire", [request()[:-2], request() + b"x", b"\r\n" + request(), b""])
def test_bytes_that_are_not_one_complete_head_are_refused(wire: bytes) -> None:
    assert ours(wire)[0] == 400


def test_more_fields_and_longer_lines_than_the_library_takes_are_read() -> None:
    """The settings limit the number of headers, and have checked it before."""
    assert ours(head([*FIELDS.items(), ("X-A", "x" * 9000)]))[0] == 101
    assert ours(head([*FIELDS.items(), *((f"X-{n}", "1") for n in range(200))]))[0] == 101


field = st.tuples(
    st.sampled_from([*FIELDS, *map(str.lower, FIELDS), "X-A", "Origin", "url", "Content-Length"]),
    st.sampled_from(["", "a", "websocket", "Upgrade", "13", KEY, "0", " a\t", "a, b"]),
)


@given(st.lists(field, max_size=3), st.randoms(use_true_random=False))
def test_any_fields_are_judged_as_the_library_does(more: Fields, rng: random.Random) -> None:
    each = [*FIELDS.items(), *more]
    rng.shuffle(each)
    if rng.random() < 0.2:
        each.pop()
    assert ours(head(each)) == library.library_answer(head(each))


def test_handlers_see_fields_as_spelled_and_joined() -> None:
    sent = [("x-ONE", "1"), ("X-One", "2"), ("url", "/fake"), ("B", "é")]
    expected = {"url": "/real", "x-ONE": "1, 2", "B": "é"}
    assert to_inf({"url": "/real"}, sent) == expected


# --- client ---


def client(**given: object) -> ClientHandshake:
    opening = check(Open(1, "ws://h:1/", "websocket", options=dict(given)))
    return ClientHandshake(Settings(), opening)


def answer(handshake: ClientHandshake, line: str, fields: Fields) -> bytes:
    """A server's answer, with the right key where a header asks for it."""
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", handshake.request)
    assert key is not None
    accept = accept_key(key[1].decode())
    return head([(name, value.replace("ACCEPT", accept)) for name, value in fields], line)


def finish(handshake: ClientHandshake, wire: bytes, size: int) -> str:
    """The error in an answer that is read in pieces of that size; "" if there is none."""
    try:
        for at in range(0, len(wire), size):
            rest = handshake.receive_data(wire[at : at + size])
            if rest is not None:
                assert rest == wire[at : at + size][len(wire) - at :]
                return ""
        handshake.receive_eof()
    except HandshakeError as error:
        return str(error)
    raise AssertionError("neither good nor bad")


GOOD_ANSWER = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "ACCEPT"}
answer_field = st.tuples(
    st.sampled_from([*GOOD_ANSWER, "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "X"]),
    st.sampled_from(
        ["a", "b", "a, b", "websocket", "Upgrade", "close, upgrade", "ACCEPT", "permessage-deflate"]
    ),
)


@given(
    st.lists(answer_field, max_size=2),
    st.sampled_from([101, 101, 101, 200, 404]),
    st.sampled_from([None, *GOOD_ANSWER]),
)
def test_any_answer_is_judged_as_the_library_does(
    more: Fields, status: int, without: str | None
) -> None:
    ours = client(subprotocols=["a", "c"], deflate=True)
    theirs = ClientProtocol(
        parse_uri("ws://h:1/"),
        extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)],
        subprotocols=["a", "c"],  # type: ignore[list-item]
    )
    fields = [(n, v) for n, v in GOOD_ANSWER.items() if n != without] + more
    wire = answer(ours, f"HTTP/1.1 {status} ", fields)
    accept = accept_key(theirs.key)
    right = Headers((n, v.replace("ACCEPT", accept)) for n, v in fields)
    try:
        theirs.process_response(Response(status, "", right))
    except Exception:
        wanted = False
    else:
        # Without server_no_context_takeover the answer does not match our offer.
        wanted = ("Sec-WebSocket-Extensions", "permessage-deflate") not in more
    assert (finish(ours, wire, 1 << 20) == "") is wanted
    if wanted:
        assert ours.subprotocol == theirs.subprotocol


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_an_answer_may_be_cut_anywhere(size: int) -> None:
    for end in ("\r\n", "\n"):
        handshake = client()
        wire = answer(handshake, "HTTP/1.1 101", [*GOOD_ANSWER.items()])
        wire = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + wire
        assert finish(handshake, wire.replace(b"\r\n", end.encode()), size) == ""
        assert handshake.response is not None
        assert handshake.unfinished == 0


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    ("rest", "body"),
    [
        (b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (b"Content-Length: 3\r\n\r\nab", b"ab"),
        (b"Content-Length: 99999999999999999999\r\n\r\nab", b"ab"),
        (b"\r\nabc", b"abc"),
        (b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nabX\r\n1\r\nc\r\n", b"ab"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nz\r\n", b"ab"),
        (b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n" + b"1" * 300, b"ab"),
        (b"Transfer-Encoding: chunked\r\n\r\nffff\r\nab", b"ab"),
        (b"Content-Length: 100000\r\n\r\n" + b"x" * 100_000, b"x" * MOST_BODY),
        (b"\r\n" + b"x" * 100_000, b"x" * MOST_BODY),
    ],
)
def test_a_refusal_is_read_as_far_as_handlers_get_it(rest: bytes, body: bytes, size: int) -> None:
    handshake = client()
    assert "404" in finish(handshake, b"HTTP/1.1 404 Not Found\r\nX: a\r\nx: b\r\n" + rest, size)
    assert handshake.response is not None
    shown = handshake.response.shown()
    assert (shown["status"], shown["body"], shown["headers"]["X"]) == (404, body, "a, b")


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH_9.6\n",
        b"HTTP/1.1 1010\r\n",
        b"HTTP/1.1 \r\n",
        b"HTTP/2 101\r\n",
        b"HTTP/1.1 101 OK\r\nX y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * (MOST_FIELDS + 1) + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * MOST_HEAD,
        b"x" * (MOST_HEAD + 1),
    ],
)
def test_bytes_that_are_not_http_are_refused_without_waiting_for_more(wire: bytes) -> None:
    handshake = client()
    with pytest.raises(HandshakeError):
        handshake.receive_data(wire)
    assert handshake.response is None


def test_an_answer_of_http_1_0_opens_nothing() -> None:
    handshake = client()
    wire = answer(handshake, "HTTP/1.0 101 OK", [*GOOD_ANSWER.items()])
    assert "HTTP/1.0" in finish(handshake, wire, 1 << 20)


def test_the_key_is_another_one_each_time() -> None:
    assert client().request != client().request
