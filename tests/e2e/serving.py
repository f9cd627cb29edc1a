"""A run that serves real clients, and a teardown that asks how it ended.

Leaving `serve` stops the run with SIGTERM and fails if that was not exit code 0, if a process of it
is left, if its run folder is, or if its log holds a traceback that the test has not announced.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as ws_connect

from tests.deadline import DEADLINE, eventually
from tests.needs import HAS_SIGNALS, signals
from tests.running import ROOT, Running, is_alive
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.supervisor.control import client

EXAMPLES = ROOT / "examples"
ECHO = EXAMPLES / "echo.py"
TIMEOUT = DEADLINE

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
posix = signals


class Serving:
    """A run that is ready, and ways to reach it. The first listener is meant where none is said."""

    def __init__(self, run: Running) -> None:
        self.run = run
        who = r"\((?:\d+ workers?, .*|no workers of its own)\)"
        ready = run.line(rf"listening on (.*) {who}; ready, pid \d+, link (\S+)")
        self.addresses: list[tuple[str, int] | str] = []
        for address in re.findall(r"\w+://(\S+:\d+)|unix:(\S+)", ready[1]):
            host, _, port = address[0].rpartition(":")
            known = (host.strip("[]"), int(port)) if port else address[1]
            # A listener for both protocols is shown once for each.
            if known not in self.addresses:
                self.addresses.append(known)
        self.link = link = ready[2]
        self.folder = Path(link.removeprefix("ipc://")).parent if HAS_UNIX else self._find_folder()

    def _find_folder(self) -> Path | None:
        """Where the link's endpoint does not say it; None if there may be others."""
        if self.run.run_dir is not None:
            return self.run.run_dir
        found = list(self.run.folder.rglob("control-token"))
        return found[0].parent if len(found) == 1 else None

    def __str__(self) -> str:
        return str(self.run)

    # --- clients ---

    def tcp(self, n: int = 0) -> socket.socket:
        """A plain socket."""
        address = self.addresses[n]
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(TIMEOUT)
            sock.connect(address)
            return sock
        return socket.create_connection(address, TIMEOUT)

    def url(self, n: int = 0, path: str = "/") -> str:
        host, port = self.addresses[n]
        return f"ws://[{host}]:{port}{path}" if ":" in str(host) else f"ws://{host}:{port}{path}"

    def ws(self, n: int = 0, path: str = "/", **options: Any) -> ClientConnection:
        """A client of the websockets library."""
        options.setdefault("open_timeout", TIMEOUT)
        # Its own pings would be answered late on a busy machine.
        options.setdefault("ping_interval", None)
        options.setdefault("max_size", None)
        return ws_connect(self.url(n, path), proxy=None, **options)

    # --- its processes ---

    @property
    def gateway(self) -> int:
        """The pid of the gateway that was started last."""
        return self.run.pids("gateway")[-1]

    def worker(self, n: int) -> int:
        return self.run.pid(f"worker {n}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.gateway}/fd"))

    def rss(self) -> int:
        """Bytes of memory that the gateway holds."""
        status = Path(f"/proc/{self.gateway}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def begin_helper(self) -> None:
        """The first large batch begins a helper in pyzmq, with descriptors of its own: it stays."""
        with self.ws() as web:
            web.send(bytes(900_000))
            assert len(web.recv()) == 900_000

    def limit_counts(self) -> dict[str, int]:
        """Those who were refused or closed, by setting."""
        counts: dict[str, int] = self.status()["gateway"]["limits"]
        return counts

    def stop(self) -> None:
        """Tell it to stop."""
        if HAS_SIGNALS:
            self.run.send(signal.SIGTERM)
        else:
            client.ask(client.find(str(self.folder)), "stop", (), TIMEOUT)

    def status(self) -> dict[str, Any]:
        """What `wsraw status --json` says once the gateway answers in time, which one that is busy
        may not do at first."""

        def look() -> dict[str, Any] | None:
            data = self.status_now()
            return data if data["gateway"]["answers"] else None

        data = eventually(look, "the gateway to answer")
        assert data is not None
        return data

    def status_now(self) -> dict[str, Any]:
        """What it says at the first try, without a process for each look."""
        asked = client.ask(client.find(str(self.folder)), "status", (), TIMEOUT)
        data: dict[str, Any] = asked.data
        return data


def has_traceback(text: str) -> bool:
    return "Traceback" in text


@contextmanager
def serve(
    handlers: Path | str | None,
    *options: str,
    workers: int = 1,
    listen: Sequence[str] = (),
    tracebacks: bool = False,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
) -> Iterator[Serving]:
    """A run of that handlers file. `tracebacks`: its handlers are meant to raise."""
    file = [] if handlers is None else [f"--workers={handlers}:{workers}"]
    old = {name: os.environ.get(name) for name in env or {}}
    os.environ.update(env or {})
    try:
        run = Running(*file, *options, listen=listen, cwd=cwd)
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    with run:
        serving = Serving(run)
        # All of them, not only the first: else a test for two may run with one.
        for n in range(1, workers + 1):
            run.line(f"worker {n} is ready")
        yield serving
        if run.process.poll() is None:
            serving.stop()
            code = run.wait()
            assert code == 0, f"exit code {code}\n{run}"
        assert_gone(serving)
        assert tracebacks or not has_traceback(str(run)), str(run)


def assert_gone(serving: Serving) -> None:
    """Nothing of the run is left, neither process nor folder."""
    run = serving.run
    eventually(lambda: not any(map(is_alive, run.pids())), f"all processes to be gone\n{run}")
    if serving.folder is not None and run.process.returncode in (0, 130, 143):
        assert not serving.folder.exists(), f"{serving.folder} is left\n{run}"


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """So many bytes of a plain socket; fewer only at its end."""
    parts = []
    while size and (part := sock.recv(min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(sock: socket.socket) -> bytes:
    """Everything until EOF."""
    return receive_exactly(sock, 1 << 62)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, data: bytes = b"", *, final: bool = True, first: int | None = None) -> bytes:
    """A masked frame. `first` replaces its whole first byte, for what must not be."""
    size = len(data)
    head = bytes([first if first is not None else opcode | (0x80 if final else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    # A mask of zeroes is a mask (RFC 6455, section 5.3), and leaves the data legible.
    return head + bytes(4) + data


def read_head(sock: socket.socket) -> bytes:
    """An HTTP head, and nothing behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """One unmasked frame: its first byte and its data."""
    first, size = receive_exactly(sock, 2)
    if size == 126:
        size = int.from_bytes(receive_exactly(sock, 2), "big")
    elif size == 127:
        size = int.from_bytes(receive_exactly(sock, 8), "big")
    return first, receive_exactly(sock, size)
