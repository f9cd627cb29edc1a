"""Check each row of the table in docs/limits.md: what the client sees, what is counted, and what
is logged.
"""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from websockets.exceptions import ConnectionClosed

from tests.authority import server_file
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
from tests.running import ROOT, wsraw
from wsraw.gateway.counters import CROWDED, DONE, LEFT, ROUTINE, UNTOLD

pytestmark = linux

HEADER = b"PROXY TCP4 203.0.113.9 198.51.100.2 4711 443\r\n"

ECHOES = """
from wsraw import every, publish

@every(0.3)
def push():
    publish("more", bytes(2_000_000))

def on_message(msg, con):
    if msg["data"] == "more":
        con.join("more")
    return msg

def on_close(con):
    print("ended", con.close_code, con.close_cause)
"""

# on_close may see the code 1006: these clients do not answer the close frame of the gateway.
SLEEPS = """
import asyncio

async def on_connect(inf, con):
    if inf.get("url") == "/reject":
        con.reject(402, "Pay first")
    if inf.get("url") == "/wait":
        await asyncio.sleep(60)

slow = True

async def on_message(msg, con):
    global slow
    if slow:
        slow = False
        await asyncio.sleep(3)

def on_close(con):
    print("ended", con.close_code, con.close_cause)
"""

ANSWERS = """
def on_request(request, con):
    return b""
"""


# --- what clients see ---


def status_of(sock: socket.socket) -> str:
    """The status of an HTTP answer, or `reset`, or `FIN`."""
    try:
        data = receive_all(sock)
    except ConnectionResetError:
        return "reset"
    if not data:
        return "FIN"
    assert data.startswith(b"HTTP/1.1 "), data
    return data[9:12].decode() + (" later" if b"\r\nRetry-After: 5\r\n" in data else "")


def asked(serving: Serving, request: bytes, n: int = 0) -> str:
    """The status of the answer to a request."""
    with serving.tcp(n) as sock:
        sock.sendall(request)
        return status_of(sock)


def web(serving: Serving, buffer: int = 0) -> socket.socket:
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.settimeout(TIMEOUT)
    sock.connect(serving.addresses[0])
    sock.sendall(UPGRADE)
    assert read_head(sock).startswith(b"HTTP/1.1 101 ")
    return sock


def code_of(sock: socket.socket) -> int:
    """The code of the close frame; frames before it are skipped."""
    while True:
        first, data = read_frame(sock)
        if first == 0x88:
            return int.from_bytes(data[:2])


def flood(sock: socket.socket, size: int) -> None:
    """Send that many bytes of messages, or fewer if the gateway closes the connection first."""
    with contextlib.suppress(OSError):
        for _ in range(size // 60_000):
            sock.sendall(frame(2, bytes(60_000)))


def gateway(serving: Serving) -> dict[str, Any]:
    shown: dict[str, Any] = serving.status()["gateway"]
    return shown


# --- the rows ---


def max_connections(serving: Serving) -> None:
    with serving.tcp() as one:
        one.sendall(b"x")
        assert receive_exactly(one, 1) == b"x"
        assert asked(serving, UPGRADE) == "503 later"
        assert asked(serving, b"raw") == "reset"


def max_connections_per_address(serving: Serving) -> None:
    with serving.tcp() as one:
        one.sendall(HEADER + b"x")
        assert receive_exactly(one, 1) == b"x"
        assert asked(serving, HEADER + UPGRADE) == "429 later"
        assert asked(serving, HEADER + b"raw") == "reset"


def silence_timeout(serving: Serving) -> None:
    assert asked(serving, b"") == "reset"


def handshake_timeout(serving: Serving) -> None:
    assert asked(serving, UPGRADE[:-2]) == "408"
    with serving.tcp() as sock:
        sock.sendall(b"GET /")
        assert receive_exactly(sock, 5) == b"GET /"
    assert asked(serving, b"\x16\3\1", 1) == "reset"


def max_header_size(serving: Serving) -> None:
    assert asked(serving, UPGRADE[:-2] + b"A: " + b"b" * 3000 + b"\r\n\r\n") == "431"


def many_headers(serving: Serving) -> None:
    assert asked(serving, UPGRADE[:-2] + b"A: b\r\n" * 100 + b"\r\n") == "431"


def long_lines(serving: Serving) -> None:
    assert asked(serving, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n") == "431"
    assert asked(serving, UPGRADE[:-2] + b"Cookie: " + b"a" * 9000 + b"\r\n\r\n") == "431"


def max_message_size(serving: Serving) -> None:
    with serving.ws(compression="deflate") as client:
        client.send("x" * 1024)
        assert client.recv(TIMEOUT) == "x" * 1024
        client.send("x" * 1025)
        with pytest.raises(ConnectionClosed) as caught:
            client.recv(TIMEOUT)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1009


def request_bodies(serving: Serving) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\n"
    assert asked(serving, head + b"Content-Length: 1025\r\n\r\n") == "413"
    chunk = b"401\r\n" + b"x" * 1025
    assert asked(serving, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk) == "413"


def held_up(serving: Serving) -> None:
    """The burst is answered at once; the message after it waits."""
    with web(serving) as sock:
        began = time.monotonic()
        sock.sendall(frame(1, b"x" * 100) * 10)
        for _ in range(10):
            assert read_frame(sock) == (0x81, b"x" * 100)
        sock.sendall(frame(1, b"y"))
        assert read_frame(sock) == (0x81, b"y")
        assert time.monotonic() - began > 0.3


def closed_for_its_rate(serving: Serving) -> None:
    with web(serving) as sock:
        sock.sendall(frame(1, b"x" * 100) * 10)
        assert code_of(sock) == 1008
    serving.run.line(r"ended \d+ rate\b")


def idle_timeout(serving: Serving) -> None:
    with web(serving) as sock, serving.tcp() as raw:
        raw.sendall(b"x")
        assert receive_exactly(raw, 1) == b"x"
        assert code_of(sock) == 1001
        assert status_of(raw) == "FIN"
    serving.run.line(r"ended \d+ idle-timeout\b", 2)


def ping_timeout(serving: Serving) -> None:
    with web(serving) as sock:
        assert read_frame(sock)[0] == 0x89
        assert code_of(sock) == 1011
    serving.run.line(r"ended \d+ ping-timeout\b")


def write_timeout(serving: Serving) -> None:
    with web(serving, 4096) as sock:
        flood(sock, 6_000_000)
        serving.run.line(r"ended \d+ write-timeout\b")
    with serving.tcp() as raw:
        raw.sendall(b"x")
        assert receive_exactly(raw, 1) == b"x"


def output_limit(serving: Serving) -> None:
    with web(serving, 4096) as sock:
        # The output grows by many small sends.
        sock.sendall(frame(1, b"more"))
        serving.run.line(r"ended \d+ overflow\b")


def high_water_mark(serving: Serving) -> None:
    with web(serving, 4096) as sock:
        messages = 100
        sock.settimeout(0.2)
        sent = 0

        def is_paused() -> bool:
            nonlocal sent
            with contextlib.suppress(TimeoutError):
                while True:
                    sent += sock.send(frame(2, bytes(100_000))[sent % 100_014 :])
            return bool(gateway(serving)["paused"] == 1)

        # The client does not read its answers, so the gateway stops reading after a while.
        eventually(is_paused)
        sock.settimeout(TIMEOUT)
        for _ in range(min(messages, sent // 100_014)):
            assert read_frame(sock) == (0x82, bytes(100_000))
        eventually(lambda: gateway(serving)["paused"] == 0)


def pause_timeout(serving: Serving) -> None:
    with web(serving) as sock:
        flood(sock, 600_000)
        assert code_of(sock) == 1013
    serving.run.line(r"ended \d+ stalled\b")


def memory_limit(serving: Serving) -> None:
    """Send messages that never end. Later clients wait until there is room."""
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(serving.tcp())
            sock.settimeout(1)
            with contextlib.suppress(OSError):
                # The gateway is full: it closes this connection, or does not read from it, or does
                # not accept it.
                sock.sendall(UPGRADE + frame(2, bytes(1 << 20))[:-1])
        serving.run.line(re.escape(f"limit {CROWDED}: "))
        serving.run.line(r"ended \d+ memory\b")
    with web(serving) as sock:
        sock.sendall(frame(1, b"x"))
        assert read_frame(sock) == (0x81, b"x")


def left_behind(serving: Serving) -> None:
    """The last messages of a client while no worker is there: beyond a limit they are not kept."""
    with web(serving) as sock:
        sock.sendall(frame(2, bytes(100_000)) + frame(8, (1000).to_bytes(2)))
        assert code_of(sock) == 1000


def worker_wait_timeout(serving: Serving) -> None:
    with web(serving) as sock:
        assert code_of(sock) == 1013
    assert asked(serving, b"raw") == "reset"


def origins(serving: Serving) -> None:
    origin = b"Origin: https://evil.example\r\n\r\n"
    assert asked(serving, UPGRADE[:-2] + origin) == "403"


def hosts(serving: Serving) -> None:
    assert asked(serving, UPGRADE.replace(b"localhost", b"evil.example")) == "421"


def routes(serving: Serving) -> None:
    assert asked(serving, UPGRADE.replace(b"GET /", b"GET /elsewhere")) == "404"
    assert asked(serving, b"raw") == "reset"


def proxy_protocol(serving: Serving) -> None:
    assert asked(serving, HEADER + UPGRADE) == "reset"


def verdict(serving: Serving) -> None:
    assert asked(serving, UPGRADE.replace(b"GET /", b"GET /reject")) == "402"


def verdict_timeout(serving: Serving) -> None:
    assert asked(serving, UPGRADE.replace(b"GET /", b"GET /wait")) == "503"


class Case(NamedTuple):
    """A row, by the name of its limit, and a run in which a client reaches the limit."""

    limit: str
    sees: str
    """The close codes and causes in the row, in order."""
    act: Callable[[Serving], None]
    options: Sequence[str]
    counts: dict[str, int]
    handlers: str | Path | None = ECHO
    listen: Sequence[str] = ()
    workers: int = 1


PROXIED = ["--proxy-protocol=required", "--trusted-proxies=127.0.0.1"]
SLOW = ["--high-water-mark=8MiB", "--max-message-size=8MiB"]

CASES = [
    Case(
        "max_connections", "503",
        max_connections, ["--max-connections=1"], {"max_connections": 2},
    ),
    Case(
        "max_connections_per_address", "429",
        max_connections_per_address, [*PROXIED, "--max-connections-per-address=1"],
        {"max_connections_per_address": 2},
    ),
    Case(
        "silence_timeout", "",
        silence_timeout, ["--silence-timeout=200ms"], {"silence_timeout": 1},
    ),
    Case(
        "handshake_timeout", "408",
        handshake_timeout, ["--handshake-timeout=300ms", "--tls-cert={cert}"],
        {"handshake_timeout": 2}, ECHO, ["127.0.0.1:0?tls=off", "127.0.0.1:0?tls=optional"],
    ),
    Case(
        "max_header_size", "431",
        max_header_size, ["--max-header-size=2KiB"], {"max_header_size": 1},
    ),
    Case(
        "", "431",
        many_headers, [], {"max_header_size": 1},
    ),
    Case(
        "", "431",
        long_lines, [], {"max_header_size": 2},
    ),
    Case(
        "max_message_size", "1009 too-big 413",
        max_message_size, ["--max-message-size=1KiB"], {"max_message_size": 1},
    ),
    Case(
        "max_message_size", "1009 too-big 413",
        request_bodies, ["--max-message-size=1KiB", "--plain-http=handlers"],
        {"max_message_size": 2}, ANSWERS,
    ),
    Case(
        "message_rate", "1008 rate",
        held_up, ["--message-rate=10", "--rate-burst=0.5"], {"message_rate": 1},
    ),
    Case(
        "message_rate", "1008 rate",
        closed_for_its_rate, ["--message-rate=5", "--rate-action=close"], {"message_rate": 1},
        ECHOES,
    ),
    Case(
        "byte_rate", "1008 rate",
        held_up, ["--byte-rate=1KB", "--rate-burst=0.5"], {"byte_rate": 1},
    ),
    Case(
        "byte_rate", "1008 rate",
        closed_for_its_rate, ["--byte-rate=500", "--rate-action=close"], {"byte_rate": 1}, ECHOES,
    ),
    Case(
        "idle_timeout", "1001 idle-timeout",
        idle_timeout, ["--idle-timeout=1s"], {"idle_timeout": 2}, ECHOES,
    ),
    Case(
        "ping_timeout", "1011 ping-timeout",
        ping_timeout, ["--ping-interval=0.1", "--ping-timeout=0.2"], {"ping_timeout": 1}, ECHOES,
    ),
    Case(
        "write_timeout", "1008 write-timeout",
        write_timeout, [*SLOW, "--write-timeout=1s", "--output-limit=16MiB"],
        {"write_timeout": 1}, ECHOES,
    ),
    Case(
        "output_limit", "1008 overflow",
        output_limit, ["--max-message-size=8MiB", "--output-limit=512KiB"], {"output_limit": 1},
        ECHOES,
    ),
    Case(
        "high_water_mark", "",
        high_water_mark, [], {},
    ),
    Case(
        "pause_timeout", "1013 stalled",
        pause_timeout, ["--pause-timeout=1s"],
        {"pause_timeout": 1}, SLEEPS,
    ),
    Case(
        "memory_limit", "1013 memory",
        memory_limit, ["--memory-limit=4MiB"], {CROWDED: 1, "memory_limit": 1}, ECHOES,
    ),
    Case(
        "memory_limit", "1013 memory",
        left_behind, ["--workers=none", "--memory-limit=1MiB"], {LEFT: 1}, None, (), 0,
    ),
    Case(
        "worker_wait_timeout", "1013 no-worker",
        worker_wait_timeout, ["--workers=none", "--worker-wait-timeout=300ms"],
        {"worker_wait_timeout": 2}, None, (), 0,
    ),
    Case("origins", "403", origins, [], {"origins": 1}),
    Case("hosts", "421", hosts, ["--hosts=localhost"], {"hosts": 1}),
    Case(
        "routes", "404",
        routes, [f"--pool=a={ECHO}", "--route=/rooms=a"], {"routes": 2}, None,
    ),
    Case(
        "proxy_protocol", "",
        proxy_protocol, ["--proxy-protocol=optional", "--trusted-proxies=192.0.2.1"],
        {"proxy_protocol": 1},
    ),
    Case("verdict", "", verdict, ["--verdict=handlers"], {"verdict": 1}, SLEEPS),
    Case(
        "verdict_timeout", "503",
        verdict_timeout, ["--verdict=handlers", "--verdict-timeout=1s", "--stop-timeout=1s"],
        {"verdict_timeout": 1}, SLEEPS,
    ),
]  # fmt: skip


def table() -> list[tuple[str, str]]:
    """The limits of the page by name, with the codes and causes that clients see."""
    text = (ROOT / "docs" / "limits.md").read_text("utf-8")
    section = text.partition("\n## Look up a limit\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| ([^|]+) \|$", section, re.M)
    assert rows[0] == ("limit", "what the client sees")
    return [
        (
            "".join(re.findall(r"^\[?`(\w+)`", limit)),
            " ".join(re.findall(r"\b\d{3,4}\b(?! %)|(?<=cause `)[a-z-]+", sees)),
        )
        for limit, sees in rows[1:]
    ]


def test_every_row_has_a_case_and_every_limit_a_row() -> None:
    assert list(dict.fromkeys((case.limit, case.sees) for case in CASES)) == table()
    assert {name for case in CASES for name in case.counts} == set(DONE)


LONG = ("output_limit", "write_timeout")


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case.act.__name__,
            marks=pytest.mark.long if case.act.__name__ in LONG else (),
        )
        for case in CASES
    ],
)
def test_each_reached_limit_is_seen_by_the_client_and_counted_and_logged(
    case: Case, handlers: Callable[[str], Path], tmp_path: Path
) -> None:
    cert = server_file(tmp_path)
    file = handlers(case.handlers) if isinstance(case.handlers, str) else case.handlers
    options = [option.format(cert=cert) for option in case.options]
    with serve(file, *options, workers=case.workers, listen=case.listen) as serving:
        case.act(serving)
        check_told(serving, case.counts)


def check_told(serving: Serving, counts: dict[str, int]) -> None:
    """Check that these limits are counted at least as often as they were reached, and no others."""
    if not counts:
        assert gateway(serving)["limits"] == {}
        return
    eventually(lambda: gateway(serving)["limits"].keys() == counts.keys(), f"{counts}")
    told = gateway(serving)["limits"]
    for name, count in counts.items():
        # A client may reach a rate more than once, and so may the gateway's memory its limit.
        assert told[name] >= count
        assert told[name] == count or name in ("message_rate", "byte_rate", "memory_limit", CROWDED)
        level = "info" if name in ROUTINE else "warning"
        line = rf"{level} gateway: limit {re.escape(name)}: {re.escape(DONE[name])}"
        if name in UNTOLD:
            assert f"limit {name}:" not in str(serving)
        else:
            serving.run.line(line)
    shown = wsraw("status", f"--run-dir={serving.folder}").stdout
    assert all(name in shown for name in counts)
