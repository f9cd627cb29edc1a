"""Third-party clients against examples/echo.py: every message comes back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.deadline import UNIT
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    UPGRADE,
    Serving,
    frame,
    posix,
    read_frame,
    read_head,
    receive_all,
    receive_exactly,
    serve,
)
from tests.needs import curl
from tests.running import ROOT

MIB = 1 << 20
# `make node-peers` installs Node beside Python where the system has none.
NODE = shutil.which("node") or str(Path(sys.executable).parent / "node")
NODE_MODULES = ROOT / "build" / "node" / "node_modules"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


LISTEN = [
    "127.0.0.1:0",
    "raw://127.0.0.1:0",
    "ws://127.0.0.1:0",
    "127.0.0.1:0?plain_http=reject",
    "127.0.0.1:0?plain_http=health",
]
ANY, RAW, WS, REJECT, HEALTH, LAST = range(6)


@pytest.fixture(scope="module")
def echo() -> Iterator[Serving]:
    listen = [*LISTEN, "[::1]:0"] if has_ipv6() else LISTEN
    with serve(ECHO, workers=2, listen=listen) as serving:
        assert len(serving.addresses) == len(listen)
        yield serving


# --- WebSocket ---


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_come_back_in_order(echo: Serving, compression: str | None) -> None:
    messages: list[str | bytes] = ["", b"", "żółw 🐢", bytes(range(256)), "x" * 70_000, b"y" * MIB]
    messages += [f"message {n}" for n in range(500)]
    with echo.ws(compression=compression) as client:
        assert client.protocol.extensions or not compression
        for message in messages:
            client.send(message)
        assert [client.recv(TIMEOUT) for _ in messages] == messages


def test_without_deflate_the_offer_is_declined() -> None:
    with serve(ECHO, "--no-deflate") as serving, serving.ws(compression="deflate") as client:
        assert not client.protocol.extensions
        client.send("plain")
        assert client.recv(TIMEOUT) == "plain"


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_fragments_come_back_as_fragments(echo: Serving, compression: str | None) -> None:
    with echo.ws(compression=compression) as client:
        client.send(iter(["all ", "one ", "message"]))
        # The websockets library ends an iterable with an empty fragment.
        assert [part for part in client.recv_streaming() if part] == ["all ", "one ", "message"]
        client.send([b"\x00", b"\x01"])
        assert client.recv(TIMEOUT) == b"\x00\x01"


def test_a_code_point_cut_by_a_fragment_comes_back_whole(echo: Serving) -> None:
    with echo.tcp() as sock:
        sock.sendall(UPGRADE)
        read_head(sock)
        turtle = "🐢".encode()
        sock.sendall(frame(1, turtle[:2], final=False) + frame(0, turtle[2:]))
        got = b""
        while True:
            first, data = read_frame(sock)
            got += data
            if first & 0x80:
                break
        assert got == turtle


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_one_byte_above_the_limit_is_1009(echo: Serving, compression: str | None) -> None:
    with echo.ws(compression=compression) as client:
        client.send(b"z" * MIB)
        assert client.recv(TIMEOUT) == b"z" * MIB
        client.send(b"z" * (MIB + 1))
        with pytest.raises(ConnectionClosedError) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009


def test_pings_are_answered(echo: Serving) -> None:
    with echo.ws() as client:
        assert client.ping("are you there").wait(TIMEOUT)


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
def test_the_clients_close_is_answered_in_kind(echo: Serving, code: int) -> None:
    with echo.ws() as client:
        client.close(code, "enough")
        rcvd = client.protocol.close_rcvd
        assert rcvd is not None
        assert rcvd.code == code
        assert client.protocol.close_rcvd_then_sent is False


@pytest.mark.parametrize("deflate", ["on", "off"])
def test_a_client_of_node_gets_its_echoes(echo: Serving, deflate: str) -> None:
    if sys.platform == "win32" and not (NODE_MODULES.exists() and shutil.which(NODE)):
        pytest.skip("no make there, which installs it")
    if not NODE_MODULES.exists():
        pytest.fail("Node's ws is missing: run make node-peers")
    script = Path(__file__).parent / "node" / "echo.mjs"
    done = subprocess.run(
        [NODE, str(script), str(NODE_MODULES), echo.url(), deflate],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert ("permessage-deflate" in told["extensions"]) is (deflate == "on")
    assert told["messages"] == [True] * 7 + ["in two"]
    assert told["pong"] == "are you there"
    assert (told["code"], told["reason"]) == (4321, "done")


# --- the handshake, cut and glued ---


def test_a_handshake_and_a_frame_sent_byte_by_byte_are_answered(echo: Serving) -> None:
    with echo.tcp() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in UPGRADE + frame(1, b"slow"):
            sock.sendall(bytes([byte]))
        assert read_head(sock).startswith(b"HTTP/1.1 101 ")
        assert read_frame(sock) == (0x81, b"slow")


def test_frames_sent_with_the_handshake_are_answered(echo: Serving) -> None:
    with echo.tcp() as sock:
        sock.sendall(UPGRADE + frame(1, b"one") + frame(2, b"two") + frame(9, b"three"))
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in read_head(sock)
        # The gateway answers pings itself, so the pong may overtake the echoes.
        got = [read_frame(sock) for _ in range(3)]
        assert (0x8A, b"three") in got
        assert [data for first, data in got if first != 0x8A] == [b"one", b"two"]


def test_a_close_frame_sent_with_the_handshake_is_answered(echo: Serving) -> None:
    with echo.tcp() as sock:
        sock.sendall(UPGRADE + frame(8, b"\x03\xe8"))
        read_head(sock)
        assert read_frame(sock) == (0x88, b"\x03\xe8")
        assert receive_all(sock) == b""


# --- raw ---


def test_raw_data_comes_back(echo: Serving) -> None:
    with echo.tcp() as sock:
        for data in (b"\r\n", bytes(range(256)), b"GET lost\r\n", b"\n"):
            sock.sendall(data)
            assert receive_exactly(sock, len(data)) == data


def test_raw_data_sent_byte_by_byte_comes_back(echo: Serving) -> None:
    data = b"GET / is not the end of it\r\n" * 20
    with echo.tcp() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            sock.sendall(bytes([byte]))
        assert receive_exactly(sock, len(data)) == data


@pytest.mark.parametrize("data", [b"hi\n", b"G", b"GET ", b"x" * 300_000])
def test_a_half_closed_client_gets_its_answer_and_the_end(echo: Serving, data: bytes) -> None:
    with echo.tcp() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert receive_all(sock) == data


# --- listeners ---


def test_a_listener_for_raw_takes_an_upgrade_as_data(echo: Serving) -> None:
    with echo.tcp(RAW) as sock:
        sock.sendall(UPGRADE)
        assert receive_exactly(sock, len(UPGRADE)) == UPGRADE


def test_a_listener_for_websockets_serves_them_only(echo: Serving) -> None:
    with echo.ws(WS) as client:
        client.send("in")
        assert client.recv(TIMEOUT) == "in"
    with echo.tcp(WS) as sock:
        sock.sendall(b"hello\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    with echo.tcp(WS) as sock:
        sock.sendall(PLAIN)
        assert receive_all(sock).startswith(b"HTTP/1.1 426 ")


def test_clients_are_served_over_ipv6(echo: Serving) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with echo.ws(LAST) as client, echo.tcp(LAST) as sock:
        client.send("six")
        assert client.recv(TIMEOUT) == "six"
        sock.sendall(b"six")
        assert receive_exactly(sock, 3) == b"six"


@posix
def test_clients_are_served_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "echo.sock"
    with serve(ECHO, listen=[f"unix:{path}"]) as serving:
        with serving.tcp() as sock:
            sock.sendall(b"unix")
            assert receive_exactly(sock, 4) == b"unix"
        with serving.tcp() as sock:
            sock.sendall(UPGRADE + frame(1, b"web"))
            read_head(sock)
            assert read_frame(sock) == (0x81, b"web")
    assert not path.exists()


GREET = """
def on_connect(inf, con):
    con.send(inf["Protocol"] + "\\n")

def on_message(msg, con):
    return msg
"""


def test_a_silent_client_is_greeted_where_the_server_speaks_first(handlers) -> None:
    # The timeout is longer than any other client needs for its first byte on a busy machine.
    listen = [f"127.0.0.1:0?first_byte_timeout={2 * UNIT}"]
    with serve(handlers(GREET), listen=listen) as serving, serving.tcp() as sock:
        with serving.ws() as client:
            assert client.recv(TIMEOUT) == "websocket server\n"
        assert receive_exactly(sock, 4) == b"raw\n"
        # A GET that comes after the greeting is data.
        sock.sendall(UPGRADE)
        assert receive_exactly(sock, len(UPGRADE)) == UPGRADE


PLAIN = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_plain_http_is_raw_data_by_default(echo: Serving) -> None:
    with echo.tcp() as sock:
        sock.sendall(PLAIN)
        assert receive_exactly(sock, len(PLAIN)) == PLAIN


@pytest.mark.parametrize(
    ("listener", "options", "status"),
    [
        (REJECT, (), "426"),
        (HEALTH, (), "200"),
        (HEALTH, ("--head",), "200"),
        (WS, ("--request", "OPTIONS"), "426"),
    ],
)
@curl
def test_plain_http_is_answered_for_curl(
    echo: Serving, listener: int, options: tuple[str, ...], status: str
) -> None:
    host, port = echo.addresses[listener]
    url = f"http://{host}:{port}/"
    done = subprocess.run(
        ["curl", *options, "-s", "-o", os.devnull, "-w", "%{http_code}", url],
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, status), done.stderr
    with echo.ws(listener) as client:
        client.send("still a WebSocket")
        assert client.recv(TIMEOUT) == "still a WebSocket"


def test_an_unfinished_head_is_answered_with_408_and_never_taken_as_data() -> None:
    with serve(ECHO, "--handshake-timeout=0.3") as serving, serving.tcp() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nCookie: secret\r\n")
        answer = receive_all(sock)
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"secret" not in answer


def test_a_wrong_version_is_told_the_right_one(echo: Serving) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        echo.ws(additional_headers={"Sec-WebSocket-Version": "8"}),
    ):
        pass
    assert refused.value.response.status_code in (400, 426)


def test_the_handlers_close_reaches_the_client(handlers) -> None:
    text = """
    def on_message(msg, con):
        code, reason = msg["data"].split(" ", 1)
        con.close(int(code), reason)
    """
    with serve(handlers(text)) as serving:
        for code, reason in [(1000, "bye"), (3999, "za późno"), (1013, "")]:
            with serving.ws() as client:
                client.send(f"{code} {reason}")
                with pytest.raises(Exception) as closed:
                    client.recv(TIMEOUT)
                rcvd = closed.value.rcvd
                assert (rcvd.code, rcvd.reason) == (code, reason)
