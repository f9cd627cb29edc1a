"""Limits with a run and real clients: cases beyond the single one that test_limit_table.py has
for each row.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.deadline import eventually
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    UPGRADE,
    Serving,
    frame,
    linux,
    read_frame,
    read_head,
    receive_all,
    receive_exactly,
    serve,
)
from tests.running import wsraw

pytestmark = linux


@contextmanager
def limited(*options: str) -> Iterator[Serving]:
    with serve(ECHO, *options) as serving:
        yield serving


def assert_told(serving: Serving, **counts: int) -> None:
    eventually(lambda: serving.limit_counts() == counts, f"{counts}")
    for name in counts:
        assert serving.run.line(rf"warning gateway: limit {name}: ")
    table = wsraw("status", f"--run-dir={serving.folder}").stdout
    assert all(f"{name} {count}" in table for name, count in counts.items())


def ended(sock: socket.socket) -> str:
    """How a connection has ended."""
    try:
        return receive_all(sock).decode("latin-1")
    except ConnectionResetError:
        return "reset"


def close_code(sock: socket.socket) -> int:
    """The code of the first close frame; frames before it are skipped."""
    while True:
        first, data = read_frame(sock)
        if first == 0x88:
            return int.from_bytes(data[:2])


def web(serving: Serving, buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(TIMEOUT)
    sock.connect(serving.addresses[0])
    sock.sendall(UPGRADE)
    assert read_head(sock).startswith(b"HTTP/1.1 101 ")
    return sock


def test_connections_are_limited_in_total() -> None:
    with limited("--max-connections=2") as serving, serving.tcp() as one, web(serving):
        one.sendall(b"x")
        assert receive_exactly(one, 1) == b"x"
        with serving.tcp() as more:
            more.sendall(UPGRADE)
            told = ended(more)
        assert told.startswith("HTTP/1.1 503 ")
        assert "\r\nRetry-After: 5\r\n" in told
        with serving.tcp() as more:
            more.sendall(b"raw")
            assert ended(more) == "reset"
        assert_told(serving, max_connections=2)
        one.close()

        def in_again() -> bool:
            with serving.tcp() as more:
                more.sendall(b"raw")
                return ended_or(more, 3) == b"raw"

        eventually(in_again)


def ended_or(sock: socket.socket, size: int) -> bytes:
    try:
        return receive_exactly(sock, size)
    except ConnectionResetError:
        return b""


def own_address() -> str:
    """A non-loopback address of this machine; the look-up sends no packet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(sock.getsockname()[0])


@pytest.mark.skipif(not own_address(), reason="no network")
def test_connections_of_one_address_are_limited() -> None:
    listen = ["0.0.0.0:0"]
    with serve(ECHO, "--max-connections-per-address=1", listen=listen) as serving:
        _, port = serving.addresses[0]
        with socket.create_connection((own_address(), port), TIMEOUT) as one:
            one.sendall(b"x")
            assert receive_exactly(one, 1) == b"x"
            with socket.create_connection((own_address(), port), TIMEOUT) as more:
                more.sendall(UPGRADE)
                assert ended(more).startswith("HTTP/1.1 429 ")
            for _ in range(3):
                # Connections from this machine itself are not counted.
                with socket.create_connection(("127.0.0.1", port), TIMEOUT) as local:
                    local.sendall(b"y")
                    assert receive_exactly(local, 1) == b"y"
        assert_told(serving, max_connections_per_address=1)


def test_the_head_of_a_request_is_limited_in_size_and_time() -> None:
    options = ("--max-header-size=2KiB", "--handshake-timeout=300ms")
    with limited(*options) as serving:
        for head in (b"A: " + b"b" * 3000 + b"\r\n", b"A: b\r\n" * 100):
            with serving.tcp() as sock:
                sock.sendall(UPGRADE[:-2] + head + b"\r\n")
                assert ended(sock).startswith("HTTP/1.1 431 ")
        with serving.tcp() as sock:
            # The timeout runs from the first byte, however many more come. A first line that is
            # incomplete by then would make the client raw.
            begun = time.monotonic()
            sock.sendall(UPGRADE[:16])
            told = None
            try:
                for n in range(16, len(UPGRADE)):
                    sock.sendall(UPGRADE[n : n + 1])
                    if (told := drip(sock)) is not None:
                        break
            except ConnectionResetError:
                # A byte was on its way when the gateway closed the connection.
                told = b""
            assert time.monotonic() - begun < TIMEOUT
            assert told is not None, "it let us finish"
            assert not told or told.startswith(b"HTTP/1.1 408 ")
        assert_told(serving, max_header_size=2, handshake_timeout=1)


def drip(sock: socket.socket) -> bytes | None:
    """The bytes that arrive within a short time, or None."""
    sock.settimeout(0.05)
    try:
        return sock.recv(1000)
    except TimeoutError:
        return None


def test_an_idle_connection_is_closed() -> None:
    with limited("--idle-timeout=1s", "--ping-interval=100ms") as serving:
        with web(serving) as one, serving.tcp() as raw:
            raw.sendall(b"x")
            assert close_code(one) == 1001
            assert ended(raw) == "x"
        eventually(lambda: serving.limit_counts() == {"idle_timeout": 2})
        assert serving.run.line("info gateway: limit idle_timeout: ")


def test_messages_are_held_to_their_rate() -> None:
    """At 100 messages/s with a burst of 50, sending 150 messages takes a second."""
    with limited("--message-rate=100", "--rate-burst=0.5") as serving, web(serving) as sock:
        begun = time.monotonic()
        # Send all messages at once, so that they exceed the rate even if this process is slow.
        sock.sendall(frame(1, b"x") * 150)
        for _ in range(150):
            assert read_frame(sock) == (0x81, b"x")
        # The gateway may read all of them at once; the next message waits.
        sock.sendall(frame(1, b"y"))
        assert read_frame(sock) == (0x81, b"y")
        assert time.monotonic() - begun >= 0.9
        assert serving.limit_counts()["message_rate"] >= 1


def test_bytes_are_held_to_their_rate() -> None:
    with limited("--byte-rate=100KB") as serving, serving.tcp() as sock:
        begun = time.monotonic()
        sock.sendall(bytes(200_000))
        assert len(receive_exactly(sock, 200_000)) == 200_000
        sock.sendall(b"y")
        assert receive_exactly(sock, 1) == b"y"
        assert time.monotonic() - begun >= 0.8
        assert serving.limit_counts()["byte_rate"] >= 1


def test_with_rate_action_close_a_client_above_its_rate_is_closed() -> None:
    with limited("--message-rate=10", "--rate-action=close") as serving:
        with web(serving) as sock, serving.tcp() as raw:
            sock.sendall(frame(1, b"x") * 30)
            assert close_code(sock) == 1008
            with pytest.raises(OSError):
                for _ in range(1000):
                    raw.sendall(b"x")
                    receive_exactly(raw, 1) or pytest.fail("no reset")
        assert_told(serving, message_rate=2)


def test_a_client_that_would_wait_too_long_for_its_rate_is_closed() -> None:
    with limited("--message-rate=1", "--pause-timeout=5s") as serving, web(serving) as sock:
        sock.sendall(frame(1, b"x") * 100)
        assert close_code(sock) == 1008
        assert_told(serving, message_rate=1)


def test_a_client_that_does_not_read_is_closed_after_write_timeout() -> None:
    options = ("--write-timeout=1s", "--output-limit=16MiB", "--high-water-mark=8MiB")
    with limited(*options) as serving, web(serving, 4096) as sock, serving.ws() as other:
        send_until_full(sock)
        assert_told(serving, write_timeout=1)
        other.send("still served")
        assert other.recv(TIMEOUT) == "still served"


def send_until_full(sock: socket.socket) -> None:
    """Send until the kernel buffers are full: the answers are not read."""
    message = frame(2, bytes(500_000))
    # On a busy machine the gateway closes the connection before all data is sent.
    with suppress(OSError):
        for _ in range(14):
            sock.sendall(message)


def test_by_default_max_connections_leaves_a_reserve_of_descriptors(tmp_path: Any) -> None:
    """The default leaves a tenth of the descriptors, and those for workers; later clients are
    refused.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (120, 120))\n"
    )
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    with serve(ECHO, env={"PYTHONPATH": path}) as serving:
        most = serving.status()["gateway"]["max_connections"]
        assert 50 < most < 88
        socks = [serving.tcp() for _ in range(most)]
        for sock in socks:
            sock.sendall(b"x")
            assert receive_exactly(sock, 1) == b"x"
        with serving.tcp() as more:
            more.sendall(UPGRADE)
            assert ended(more).startswith("HTTP/1.1 503 ")
        assert_told(serving, max_connections=1)
        for sock in socks:
            sock.close()
