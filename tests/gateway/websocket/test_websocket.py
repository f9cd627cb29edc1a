"""WebSocket, with the protocol of the library websockets as the other end."""

from __future__ import annotations

import random
import re
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.protocol import Protocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from tests.corpus import UPGRADE, frame
from wsraw.config.settings import Settings
from wsraw.gateway.http import http_answer
from wsraw.gateway.websocket.deflate import PLAIN_KEY, STEP
from wsraw.gateway.websocket.messages import RefusedError
from wsraw.gateway.websocket.shared import frame_message
from wsraw.gateway.websocket.websocket import WebSocket, close_refusal
from wsraw.link.open_options import check
from wsraw.link.records import Open

OFFER = ClientPerMessageDeflateFactory(client_max_window_bits=True)


def take(ws: WebSocket) -> bytes:
    data = b"".join(ws.output)
    ws.output.clear()
    return data


def accept(ws: WebSocket, head: bytes) -> None:
    if ws.receive_head(head):
        ws.let_in()


def send(ws: WebSocket, data: bytes, kind: str, final: bool) -> str | None:
    """Queue a frame; returns why it is refused."""
    try:
        opcode = ws.writer.check(data, kind, final)
    except RefusedError as why:
        return str(why)
    ws.output.append(ws.writer.frame_at_once(opcode, data, final))
    return None


def served(settings: Settings, deflate: bool = False, **options: Any) -> tuple[WebSocket, Protocol]:
    """The server is ours."""
    peer = ClientProtocol(
        parse_uri("ws://example.com/chat"), extensions=[OFFER] if deflate else None, **options
    )
    peer.send_request(peer.connect())
    ws = WebSocket(settings)
    assert ws.receive_head(b"".join(peer.data_to_send()))
    ws.choose(["a", "b"])
    ws.let_in()
    peer.receive_data(take(ws))
    peer.events_received()
    assert ws.opened
    return ws, peer


def opened(settings: Settings, deflate: bool = False, **options: Any) -> tuple[WebSocket, Protocol]:
    """The client is ours."""
    peer = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()] if deflate else None)
    ws = WebSocket.client(settings, check(Open(1, "ws://example.com/chat", options=options)))
    peer.receive_data(take(ws))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    peer.send_response(peer.accept(request))
    ws.receive_data(b"".join(peer.data_to_send()))
    assert ws.opened
    return ws, peer


SIDES = [served, opened]
each_side = pytest.mark.parametrize("connect", SIDES)
plain_and_deflate = pytest.mark.parametrize("deflate", [False, True])


def said(peer: Protocol, ws: WebSocket) -> list[tuple[str, bytes, bool]]:
    """The messages that the peer has received."""
    peer.receive_data(take(ws))
    frames = [event for event in peer.events_received() if isinstance(event, Frame)]
    return [(f.opcode.name, bytes(f.data), f.fin) for f in frames]


def heard(peer: Protocol, ws: WebSocket) -> list[tuple[bytes, str, bool]]:
    frames = ws.receive_data(b"".join(peer.data_to_send()))
    while ws.busy:
        frames += ws.receive_data(b"")
    return frames


# --- data ---


@each_side
@plain_and_deflate
@given(
    message=st.text(max_size=50) | st.binary(max_size=50),
    times=st.sampled_from([1, 5, 100, 2000]),
    borders=st.lists(st.integers(0, 60), max_size=4),
)
def test_a_message_in_any_fragments_passes_both_ways(
    connect: Any, deflate: bool, message: str | bytes, times: int, borders: list[int]
) -> None:
    ws, peer = connect(Settings(), deflate)
    kind = "text" if isinstance(message, str) else "binary"
    data = times * (message.encode() if isinstance(message, str) else message)
    parts, last = [], 0
    for border in sorted(borders):
        parts.append(data[last : last + border])
        last += border
    parts.append(data[last:])

    for i, part in enumerate(parts):
        assert send(ws, part, kind, i == len(parts) - 1) is None
    frames = said(peer, ws)
    assert b"".join(part for _, part, _ in frames) == data
    assert [name for name, _, _ in frames] == [kind.upper(), *["CONT"] * (len(parts) - 1)]
    assert [final for _, _, final in frames] == [*[False] * (len(parts) - 1), True]

    for i, part in enumerate(parts):
        final = i == len(parts) - 1
        if i:
            peer.send_continuation(part, final)
        elif kind == "text":
            peer.send_text(part, final)
        else:
            peer.send_binary(part, final)
    received = heard(peer, ws)
    assert b"".join(part for part, _, _ in received) == data
    assert {k for _, k, _ in received} == {kind}
    assert [final for _, _, final in received] == [*[False] * (len(parts) - 1), True]
    if kind == "text":
        for part, _, _ in received:
            part.decode()
    assert not ws.ended


@each_side
def test_the_setting_whole_joins_fragments(connect: Any) -> None:
    ws, peer = connect(Settings(messages="whole"))
    for message in ("grün".encode(), b"second"):
        peer.send_text(message[:3], fin=False)
        peer.send_ping(b"")
        peer.send_continuation(message[3:], fin=True)
        assert heard(peer, ws) == [(message, "text", True)]


def test_deflate_keeps_no_context() -> None:
    ws, peer = served(Settings(), deflate=True)
    (extension,) = peer.extensions
    assert extension.remote_no_context_takeover  # type: ignore[attr-defined]
    assert extension.local_no_context_takeover  # type: ignore[attr-defined]
    data = b"compress me " * 200
    send(ws, data, "text", True)
    assert sum(map(len, ws.output)) < 200
    assert said(peer, ws) == [("TEXT", data, True)]
    send(ws, b"too short", "text", True)
    assert ws.output == [b"\x81\x09too short"]


def test_deflate_can_be_switched_off() -> None:
    for connect in SIDES:
        ws, peer = connect(Settings(deflate=False), deflate=True)
        assert not peer.extensions
        assert ws._codec is None


def compressed(data: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def test_a_bomb_is_not_inflated() -> None:
    bomb = frame(0xC2, compressed(bytes(64 << 20)))
    assert len(bomb) < 70_000
    ws, _ = served(Settings(), deflate=True)
    assert ws.receive_data(bomb) == []
    steps = 1
    while ws.busy:
        assert ws.receive_data(b"") == []
        steps += 1
    assert ws.close_code == 1009
    assert steps == 1 + Settings().max_message_size // STEP


def test_a_bomb_behind_a_full_message_is_not_inflated() -> None:
    # A remaining limit of 0 would mean no limit to the library.
    deflater = zlib.compressobj(9, wbits=-15)
    first = deflater.compress(bytes(1000)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    rest = (deflater.compress(bytes(64 << 20)) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
    ws, _ = served(Settings(max_message_size=1000), deflate=True)
    assert ws.receive_data(frame(0x42, first)) == [(bytes(1000), "binary", False)]
    assert ws.receive_data(frame(0x80, rest)) == []
    assert ws.close_code == 1009


def takeover(**fields: Any) -> Settings:
    return Settings(deflate_context_takeover=True, deflate_from=0, **fields)


@each_side
def test_a_kept_context_makes_the_second_message_shorter(connect: Any) -> None:
    ws, peer = connect(takeover(), deflate=True)
    message = b'{"user": "somebody", "text": "something", "room": "anywhere"}'
    sizes = []
    for _ in range(3):
        send(ws, message, "text", True)
        sizes.append(sum(map(len, ws.output)))
        assert said(peer, ws) == [("TEXT", message, True)]
        peer.send_text(message)
        assert heard(peer, ws) == [(message, "text", True)]
    assert sizes[1] < sizes[0] / 2
    # The frames refer to data that only this connection was sent.
    assert ws.writer.framing_key is None
    ws.release()
    assert ws._codec is not None
    assert ws._codec._deflater is None


@each_side
def test_a_window_of_8_bits_is_agreed_on_and_not_used(connect: Any) -> None:
    # The library cannot negotiate this, so the peer is made by hand.
    settings = Settings(deflate_from=0)
    if connect is served:
        ws = WebSocket(settings)
        accept(
            ws,
            UPGRADE % b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8\r\n",
        )
        assert b"server_max_window_bits=8" in take(ws)
        assert ws.writer.framing_key == PLAIN_KEY
        prefix = b"\x81\x05"
    else:
        ws = WebSocket.client(settings, check(Open(1, "h:1", "websocket")))
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", take(ws))
        assert key is not None
        ws.receive_data(
            b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: permessage-deflate; "
            b"server_no_context_takeover; client_max_window_bits=8\r\n\r\n"
            % accept_key(key[1].decode()).encode()
        )
        prefix = b"\x81\x85"
    assert ws.opened
    assert ws._codec is not None
    send(ws, b"aaaaa", "text", True)
    assert take(ws).startswith(prefix)


def test_a_client_may_be_opened_without_deflate() -> None:
    for settings in (Settings(), Settings(deflate=False)):
        for asked, expected in ((False, False), (True, True), (None, settings.deflate)):
            options = {} if asked is None else {"deflate": asked}
            ws = WebSocket.client(settings, check(Open(1, "h:1", "websocket", options=options)))
            assert (b"permessage-deflate" in take(ws)) is expected


def test_an_extension_that_was_not_offered_fails_the_handshake() -> None:
    for asked in (True, False):
        options = {"deflate": asked}
        ws = WebSocket.client(Settings(), check(Open(1, "h:1", "websocket", options=options)))
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", take(ws))
        assert key is not None
        # The answer has no server_no_context_takeover.
        ws.receive_data(
            b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
            % accept_key(key[1].decode()).encode()
        )
        assert ws.ended
        assert not ws.opened
        assert "extension" in ws.error.lower()


@each_side
def test_control_frames_are_never_compressed(connect: Any) -> None:
    ws, peer = connect(Settings(deflate_from=0), deflate=True)
    peer.send_ping(b"ping")
    assert heard(peer, ws) == []
    ws.ping()
    ws.close(1000, "bye")
    assert [name for name, _, _ in said(peer, ws)] == ["PONG", "PING", "CLOSE"]
    assert peer.close_rcvd is not None
    assert peer.close_rcvd.reason == "bye"


@pytest.mark.parametrize("keep", [False, True])
def test_data_that_does_not_shrink_may_be_as_long_as_the_limit(keep: bool) -> None:
    data = random.Random(1).randbytes(100_000)
    ws, peer = served(
        Settings(max_message_size=len(data), deflate_context_takeover=keep), deflate=True
    )
    peer.send_binary(data)
    assert heard(peer, ws) == [(data, "binary", True)]
    peer.send_binary(data + b"x")
    assert heard(peer, ws) == []
    assert ws.close_code == 1009


@pytest.mark.parametrize("keep", [False, True])
def test_a_bomb_in_fragments_costs_no_more_than_the_limit(keep: bool) -> None:
    """Each fragment is below the limit, and refers to a window full of zeros."""
    limit = 1 << 20
    settings = Settings(max_message_size=limit, messages="whole", deflate_context_takeover=keep)
    ws, _ = served(settings, deflate=True)
    deflater = zlib.compressobj(9, wbits=-12)
    part = deflater.compress(bytes(limit // 2)) + deflater.flush(zlib.Z_SYNC_FLUSH)
    tracemalloc.start()
    try:
        for n in range(100):
            ws.receive_data(frame(0x00 if n else 0x42, part))
        assert tracemalloc.get_traced_memory()[1] < 5 * limit
    finally:
        tracemalloc.stop()
    assert ws.close_code == 1009


@each_side
def test_the_number_of_fragments_has_no_limit(connect: Any) -> None:
    ws, peer = connect(Settings(messages="whole"))
    peer.send_binary(b"", fin=False)
    for _ in range(65_536):
        peer.send_continuation(b"x", fin=False)
    peer.send_continuation(b"", fin=True)
    assert heard(peer, ws) == [(b"x" * 65_536, "binary", True)]


# --- control frames ---


@each_side
def test_a_ping_is_answered_and_a_flood_of_them_once(connect: Any) -> None:
    ws, peer = connect(Settings())
    peer.send_ping(b"one")
    assert heard(peer, ws) == []
    assert said(peer, ws) == [("PONG", b"one", True)]
    ws.hold_pongs = True
    for i in range(1000):
        peer.send_ping(b"%d" % i)
    heard(peer, ws)
    assert not ws.output
    ws.answer_ping()
    assert said(peer, ws) == [("PONG", b"999", True)]
    assert not ws.hold_pongs
    ws.answer_ping()
    assert said(peer, ws) == []


@each_side
def test_our_ping_reaches_the_peer(connect: Any) -> None:
    ws, peer = connect(Settings())
    ws.ping()
    assert said(peer, ws) == [("PING", b"", True)]
    assert heard(peer, ws) == []
    assert not ws.output


@each_side
def test_a_close_frame_of_the_peer_is_answered_and_ends_the_connection(connect: Any) -> None:
    ws, peer = connect(Settings())
    peer.send_close(4001, "grün")
    assert heard(peer, ws) == []
    assert (ws.ended, ws.close_code, ws.close_reason, ws.error) == (True, 4001, "grün", "")
    peer.receive_data(take(ws))
    assert peer.close_sent == peer.close_rcvd
    assert ws.receive_data(b"anything") == []


@each_side
def test_our_close_frame_is_answered_by_the_peer(connect: Any) -> None:
    ws, peer = connect(Settings())
    ws.close(1000, "ü" * 100)
    peer.receive_data(take(ws))
    assert peer.close_rcvd is not None
    # Cutting at 123 bytes would split the 62nd letter.
    assert peer.close_rcvd.reason == "ü" * 61
    assert not ws.ended
    heard(peer, ws)
    assert (ws.ended, ws.close_code) == (True, 1000)


@each_side
def test_eof_without_a_close_frame_is_code_1006(connect: Any) -> None:
    ws, _ = connect(Settings())
    ws.receive_eof()
    assert (ws.ended, ws.close_code) == (True, 1006)


@pytest.mark.parametrize("code", [1000, 1001, 1007, 1011, 1012, 1013, 1014, 3000, 4999])
def test_a_code_that_may_be_sent_reaches_the_peer(code: int) -> None:
    ws, peer = served(Settings())
    assert close_refusal(code) is None
    ws.close(code, "")
    peer.receive_data(take(ws))
    assert peer.close_rcvd is not None
    assert peer.close_rcvd.code == code


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 70000])
def test_a_code_that_may_not_be_sent_is_refused(code: int) -> None:
    ws, _ = served(Settings())
    assert close_refusal(code) is not None
    with pytest.raises(ValueError, match=str(code)):
        ws.close(code, "")
    assert not ws.output


@each_side
def test_an_invalid_frame_ends_the_connection(connect: Any) -> None:
    ws, _ = connect(Settings())
    ws.receive_data(b"\xff" * 100)
    assert ws.ended
    assert ws.error


# --- data that must not be sent ---


def test_data_that_cannot_be_sent_is_refused() -> None:
    ws, peer = served(Settings())
    assert "UTF-8" in (send(ws, b"\xff", "text", True) or "")
    assert "raw" in (send(ws, b"", "raw", True) or "")
    assert send(ws, b"still fine", "text", True) is None
    assert said(peer, ws) == [("TEXT", b"still fine", True)]


@pytest.mark.parametrize("before", [b"", frame(0x89, b""), frame(0x01, b"a") + frame(0x80, b"")])
@pytest.mark.parametrize("text", [b"abcd", "grün".encode()])
@pytest.mark.parametrize("bad", [b"\xff\xff", b"ab\xffcd"])
def test_a_text_is_checked_whole_after_one_that_came_in_two_reads(
    before: bytes, text: bytes, bad: bytes
) -> None:
    wire = frame(0x81, text)
    for cut in range(len(wire)):
        ws, _ = served(Settings())
        frames = ws.receive_data(before + wire[:cut]) + ws.receive_data(wire[cut:])
        assert frames[-1] == (text, "text", True)
        assert ws.receive_data(frame(0x81, bad)) == []
        assert ws.close_code == 1007


def test_a_code_point_may_be_cut_between_frames_but_not_left_out() -> None:
    ws, peer = served(Settings())
    assert send(ws, b"\xc3", "text", False) is None
    assert send(ws, b"\xbc", "text", True) is None
    assert len(said(peer, ws)) == 2
    assert send(ws, b"\xc3", "text", False) is None
    assert "UTF-8" in (send(ws, b"", "text", True) or "")


@pytest.mark.parametrize(("kind", "data"), [("text", b"\xff"), ("binary", b"x")])
def test_nothing_follows_a_message_cut_short(kind: str, data: bytes) -> None:
    ws, _ = served(Settings())
    send(ws, b"begin", "text", False)
    assert send(ws, data, kind, True) is not None
    for again in ("text", "binary"):
        assert send(ws, b"x", again, True) is not None
    assert len(ws.output) == 1
    assert ws.writer.framing_key is None


# --- framed once ---


def test_servers_with_the_same_window_share_frames() -> None:
    for deflate in (False, True):
        ws, peer = served(Settings(), deflate)
        assert ws.writer.framing_key is not None
        assert (ws.writer.framing_key == PLAIN_KEY) is not deflate
        assert ws.writer.framing_key == served(Settings(), deflate)[0].writer.framing_key
        ws.output.append(frame_message(ws.writer.framing_key, b"news", "text"))
        assert said(peer, ws) == [("TEXT", b"news", True)]


def test_frames_are_not_shared_with_clients_or_within_a_message() -> None:
    client, _ = opened(Settings())
    assert client.writer.framing_key is None
    ws, _ = served(Settings())
    send(ws, b"begin", "text", False)
    assert ws.writer.framing_key is None
    send(ws, b"end", "text", True)
    assert ws.writer.framing_key == PLAIN_KEY


# --- handshakes ---


def test_a_server_shows_the_request_as_it_was_sent() -> None:
    ws = WebSocket(Settings())
    accept(ws, UPGRADE % b"x-ONE: 1\r\nX-One: 2\r\nProtocol: raw\r\nurl: /fake\r\nB: \xe9\r\n")
    assert ws.inf == {
        "method": "GET",
        "url": "/chat",
        "Host": "server.example.com",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "x-ONE": "1, 2",
        "Protocol": "websocket server",
        "B": "é",
    }


def test_the_first_of_our_subprotocols_that_is_offered_is_chosen() -> None:
    for offered, chosen in (["c", "b", "a"], "a"), (["c"], None), (None, None):
        ws, peer = served(Settings(), subprotocols=offered)
        assert ws.subprotocol == peer.subprotocol == chosen


def test_the_request_of_a_client_has_what_was_asked_for() -> None:
    open_ = Open(
        1,
        "ws://example.com:81/path?q=1",
        "websocket",
        orig="http://localhost",
        options={"headers": {"Authorization": "Basic eA=="}, "subprotocols": ["a", "b"]},
    )
    ws = WebSocket.client(Settings(deflate=False), check(open_))
    lines = take(ws).decode().split("\r\n")
    assert lines[0] == "GET /path?q=1 HTTP/1.1"
    for line in (
        "Host: example.com:81",
        "Origin: http://localhost",
        "Authorization: Basic eA==",
        "Sec-WebSocket-Protocol: a, b",
        "Sec-WebSocket-Version: 13",
    ):
        assert lines.count(line) == 1


@pytest.mark.parametrize(
    ("target", "url", "host", "path", "header"),
    [
        ("127.0.0.1:80", "/", "", "/", "127.0.0.1"),
        ("127.0.0.1:80", "/x?y", "a.example", "/x?y", "a.example"),
        ("ws://h", "/", "", "/", "h"),
        ("ws://h?q", "/", "", "/?q", "h"),
        ("ws://[::1]:80/p", "/url", "", "/url", "[::1]"),
        ("unix:/run/x", "", "", "/", "localhost"),
        ("tcp://h:1", "/", "", "/", "h:1"),
    ],
)
def test_the_request_names_the_host_and_the_path_of_the_target(
    target: str, url: str, host: str, path: str, header: str
) -> None:
    ws = WebSocket.client(Settings(), check(Open(1, target, "websocket", url, host)))
    request = take(ws)
    assert request.startswith(f"GET {path} HTTP/1.1\r\n".encode())
    assert f"\r\nHost: {header}\r\n".encode() in request


@pytest.mark.parametrize(
    "fields",
    [
        {"url": "/a b"},
        {"url": "/a\r\nX: y"},
        {"url": "no-slash"},
        {"url": "/é"},
        {"host": "a\r\nX: y"},
        {"orig": "€"},
        {"options": {"headers": {"X": "a\nb"}}},
        {"options": {"headers": {"X Y": "a"}}},
        {"options": {"headers": {"X": 1}}},
        {"options": {"headers": {1: "a"}}},
        {"options": {"headers": ["X"]}},
        {"options": {"headers": {"connection": "close"}}},
        {"options": {"deflate": "yes"}},
        {"options": {"subprotocols": "chat"}},
        {"options": {"subprotocols": ["a b"]}},
        {"options": {"subprotocols": [1]}},
    ],
)
def test_a_request_that_would_not_be_valid_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        WebSocket.client(Settings(), check(Open(1, "h:1", "websocket", **fields)))


def test_frames_right_behind_the_answer_are_received() -> None:
    peer = ServerProtocol()
    ws = WebSocket.client(Settings(), check(Open(1, "h:1", "websocket")))
    peer.receive_data(take(ws))
    request = peer.events_received()[0]
    assert isinstance(request, Request)
    response = peer.accept(request)
    response.headers["X-Mine"] = "1"
    peer.send_response(response)
    peer.send_ping(b"p")
    peer.send_text(b"hello")
    answer = b"".join(peer.data_to_send())
    received = []
    for i in range(len(answer)):
        received += ws.receive_data(answer[i : i + 1])
    assert received == [(b"hello", "text", True)]
    assert ws.inf["X-Mine"] == "1"
    assert ws.inf["Protocol"] == "websocket client"
    assert "method" not in ws.inf
    assert said(peer, ws) == [("PONG", b"p", True)]


@pytest.mark.parametrize("name", ["Sec-WebSocket-Protocol", "sec-websocket-extensions"])
@pytest.mark.parametrize("value", ["", " ", ",", " , ,"])
def test_an_empty_list_of_subprotocols_or_extensions_is_ignored(name: str, value: str) -> None:
    """Some clients and servers send an empty header; both roles accept that."""
    field = f"{name}: {value}\r\n".encode()
    for wire in (UPGRADE % field, UPGRADE % (field + b"X: y\r\n" + field)):
        server = WebSocket(Settings(subprotocols=("chat",)))
        assert server.receive_head(wire)
        assert server.offered == []
        server.let_in()
        assert server.opened
        assert (server.subprotocol, server._codec) == (None, None)
    both = b"Sec-WebSocket-Protocol: chat\r\n" + b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    server = WebSocket(Settings())
    assert server.receive_head(UPGRADE % (field + both))
    assert server.offered == ["chat"]
    server.let_in()
    assert server._codec is not None
    for options in ({"subprotocols": ["chat"]}, {"deflate": False}):
        client = answered(b"HTTP/1.1 101 OK", field, options=options)
        assert client.opened
        assert (client.subprotocol, client._codec) == (None, None)


def answered(status: bytes, fields: bytes = b"", end: bytes = b"\r\n", **given: Any) -> WebSocket:
    ws = WebSocket.client(Settings(), check(Open(1, "h:1", "websocket", **given)))
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", take(ws))
    assert key is not None
    accept = accept_key(key[1].decode()).encode()
    head = b"%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n"
    wire = (head % (status, accept) + fields + b"\r\n").replace(b"\r\n", end) + b"\x81\x01a"
    received = []
    for i in range(len(wire)):
        received += ws.receive_data(wire[i : i + 1])
    assert received == [(b"a", "text", True)] * ws.opened
    return ws


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_an_answer_may_lack_a_reason_and_have_lone_line_feeds(end: bytes) -> None:
    """Clients should be lenient (RFC 9112, section 4), and other libraries accept this."""
    for status in (b"HTTP/1.1 101", b"HTTP/1.1 101 ", b"HTTP/1.1 101 Switching Protocols"):
        assert answered(status, b"X: y\r\n", end).inf["X"] == "y"
    assert "404" in answered(b"HTTP/1.1 404", b"Content-Length: 0\r\n", end).error
    for status in (b"HTTP/1.1", b"HTTP/1.1 1010", b"HTTP/1.1 ", b"HTTP/2 101"):
        assert not answered(status, b"", end).opened


def test_several_cookie_fields_are_one_list() -> None:
    """Proxies pass several cookie headers on from HTTP/2 and 3 (RFC 9113, section 8.2.3)."""
    ws = WebSocket(Settings())
    accept(ws, UPGRADE % b"cookie: a=b\r\nX: 1\r\nCookie: c=d; e=f\r\nx: 2\r\n")
    assert (ws.inf["cookie"], ws.inf["X"]) == ("a=b; c=d; e=f", "1, 2")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
        b"HTTP/1.1 404 Not Found\r\n\r\nno",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n",
        b"",
    ],
)
def test_a_server_that_refuses_ends_the_connection_with_an_error(answer: bytes) -> None:
    ws = WebSocket.client(Settings(), check(Open(1, "h:1", "websocket")))
    ws.receive_data(answer)
    ws.receive_eof()
    assert ws.ended
    assert ws.error
    assert not ws.opened


def test_a_short_answer_has_its_status_fields_and_text() -> None:
    head, _, body = http_answer(426, "grün", ("X", "1")).partition(b"\r\n\r\n")
    assert body == "grün\n".encode()
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 426 Upgrade Required"
    assert b"Content-Length: 6" in lines
    assert b"Upgrade: websocket" in lines
    assert b"X: 1" in lines


@given(st.lists(st.binary(max_size=40) | st.builds(frame, st.integers(0, 255), st.binary())))
def test_garbage_never_raises(pieces: list[bytes]) -> None:
    for connect in SIDES:
        ws, _ = connect(Settings(max_message_size=100), deflate=True)
        for piece in pieces:
            ws.receive_data(piece)
        ws.receive_eof()


@given(st.binary(max_size=200), st.lists(st.binary(max_size=40)))
def test_a_garbage_answer_never_raises(begin: bytes, pieces: list[bytes]) -> None:
    for start in (b"", b"HTTP/1.1 101 \r\nUpgrade: websocket\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        ws = WebSocket.client(Settings(), check(Open(1, "h:1", "websocket")))
        for piece in (start + begin, *pieces):
            ws.receive_data(piece)
        ws.receive_eof()
        assert ws.ended
