"""The short way must never differ from the library's."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.checks import from_options
from wsraw.config.settings import Settings
from wsraw.gateway.admission.sniffer import Sniffer, Verdict
from wsraw.gateway.websocket import plain_request
from wsraw.gateway.websocket.websocket import WebSocket

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
FIELDS = {
    "Host": "a",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}
DEFLATE = from_options({"deflate_context_takeover": True})
PLAIN = from_options({"deflate": False})


def head(fields: list[tuple[str, str]], line: str = "GET /chat?a=b HTTP/1.1") -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in fields), "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def request(line: str = "GET /chat?a=b HTTP/1.1", /, **changes: str | None) -> bytes:
    """With underscores for hyphens; None leaves a field out."""
    fields = FIELDS | {name.replace("_", "-"): value for name, value in changes.items()}  # type: ignore[operator]
    return head([(name, value) for name, value in fields.items() if value is not None], line)


def outcome(request: bytes, settings: Settings, short: bool) -> tuple[object, ...]:
    ws = WebSocket.server(settings)
    with pytest.MonkeyPatch.context() as patch:
        if not short:
            patch.setattr(plain_request, "read", lambda head: None)
        if ws.receive_head(request):
            ws.choose(("two", "three"))
            ws.let_in(headers={"X-A": "b"})
    frames = ws.receive_data(b"\x81\x81abcd" + bytes([ord("x") ^ ord("a")])) if ws.opened else []
    # The library's own refusals say what time it is.
    output = [line for line in b"".join(ws.output).split(b"\r\n") if not line.startswith(b"Date: ")]
    return (
        *(ws.opened, ws.ended, ws.error, list(ws.inf.items()), ws.subprotocol, ws.offered),
        *(ws.deflates, output, frames),
    )


def same(request: bytes) -> None:
    sniffer = Sniffer(1 << 20, 1000)
    verdict = sniffer.receive_data(request)
    if verdict is not Verdict.WEBSOCKET or sniffer.head_size != len(request):
        # Nobody will ask what it says.
        return
    for settings in (DEFLATE, PLAIN):
        assert outcome(request, settings, short=True) == outcome(request, settings, short=False)


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
def test_what_everybody_sends_is_plain(name: str) -> None:
    found = plain_request.read(BROWSERS[name])
    assert found is not None
    assert found.inf["url"] == "/chat?a=b"
    assert found.key == KEY
    same(BROWSERS[name])


ODD = [
    request("GET /chat HTTP/1.0"),
    request("POST /chat HTTP/1.1"),
    request("get /chat HTTP/1.1"),
    request("GET  /chat HTTP/1.1"),
    request("GET /ch at HTTP/1.1"),
    request("GET /caf\xe9 HTTP/1.1"),
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
    request(Cookie="caf\xe9"),
    request(X="a\0b"),
    head([*FIELDS.items(), ("host", "b")]),
    head([*FIELDS.items(), ("X-A", "1"), ("x-a", "2")]),
    head([*FIELDS.items(), ("X A", "1")]),
    head([*FIELDS.items(), ("X-A", "x" * 9000)]),
    head([*FIELDS.items(), *((f"X-{n}", "1") for n in range(101))]),
    head([*FIELDS.items(), (" folded", "1")]),
    request().replace(b"\r\n", b"\n"),
    request().replace(b"Host: a", b"Host : a"),
    request().replace(b"Host: a", b"Host"),
    request()[:-2],
    request() + b"x",
    b"\r\n" + request(),
]


@pytest.mark.parametrize("wire", ODD)
def test_all_else_is_left_to_the_library(wire: bytes) -> None:
    assert plain_request.read(wire) is None
    same(wire)


@pytest.mark.parametrize(
    "wire",
    [
        request(Host=""),
        request(Host="a\t"),
        request(url="b", method="c", Protocol="d"),
        request(Sec_WebSocket_Extensions="foo; bar=1, permessage-deflate"),
        request(Sec_WebSocket_Extensions="permessage-deflate; server_max_window_bits=99"),
        request(Sec_WebSocket_Extensions="permessage-deflate; ="),
        request(Sec_WebSocket_Extensions=","),
        request(Sec_WebSocket_Extensions=""),
        request(Sec_WebSocket_Protocol=""),
        request(Sec_WebSocket_Protocol=" , "),
        head([*FIELDS.items(), ("Cookie", "a=b"), ("Cookie", "c=d")]),
        request("GET http://a/chat HTTP/1.1"),
        request("GET * HTTP/1.1"),
    ],
)
def test_what_is_plain_and_yet_strange(wire: bytes) -> None:
    same(wire)


fields = st.tuples(
    st.sampled_from([*FIELDS, *map(str.lower, FIELDS), "X-A", "Origin", "url", "Content-Length"]),
    st.sampled_from(["", "a", "websocket", "Upgrade", "13", KEY, "0", " a\t", "a, b", "\xe9"]),
)


@given(st.lists(fields, max_size=3), st.randoms(use_true_random=False))
def test_fields_of_all_kinds(more: list[tuple[str, str]], rng: random.Random) -> None:
    each = [*FIELDS.items(), *more]
    rng.shuffle(each)
    if rng.random() < 0.2:
        each.pop()
    same(head(each))


@given(st.sampled_from([*BROWSERS.values()]), st.data())
def test_a_byte_or_two_that_are_wrong(wire: bytes, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(wire) - 1))
        wire = wire[:at] + data.draw(st.binary(max_size=2)) + wire[at + 1 :]
    same(wire)
