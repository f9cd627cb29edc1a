"""A run that serves real clients, and a teardown that checks how the run ended.

Leaving `serve` stops the run with SIGTERM. The test fails if the exit code is not 0, if a process
or the run folder is left, or if the log has a traceback that the test did not announce.
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
    """A run that is ready, and ways to reach it. Without an index, the first listener is meant."""

    def __init__(self, run: Running) -> None:
        self.run = run
        who = r"\((?:\d+ workers?, .*|no workers of its own)\)"
        ready = run.line(rf"listening on (.*) {who}; ready, pid \d+, link (\S+)")
        self.addresses: list[tuple[str, int] | str] = []
        for address in re.findall(r"\w+://(\S+:\d+)|unix:(\S+)", ready[1]):
            host, _, port = address[0].rpartition(":")
            known = (host.strip("[]"), int(port)) if port else address[1]
            # A listener for both protocols is listed once for each.
            if known not in self.addresses:
                self.addresses.append(known)
        self.link = link = ready[2]
        self.folder = Path(link.removeprefix("ipc://")).parent if HAS_UNIX else self._find_folder()

    def _find_folder(self) -> Path | None:
        """The run folder, if the link's endpoint does not contain it; None if there are several."""
        if self.run.run_dir is not None:
            return self.run.run_dir
        found = list(self.run.folder.rglob("control-token"))
        return found[0].parent if len(found) == 1 else None

    def __str__(self) -> str:
        return str(self.run)

    # --- clients ---

    def tcp(self, n: int = 0) -> socket.socket:
        """A plain socket, connected to a listener."""
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
        # Automatic pings would be answered late on a busy machine.
        options.setdefault("ping_interval", None)
        options.setdefault("max_size", None)
        return ws_connect(self.url(n, path), proxy=None, **options)

    # --- processes ---

    @property
    def gateway(self) -> int:
        """The pid of the gateway that was started last."""
        return self.run.pids("gateway")[-1]

    def worker(self, n: int) -> int:
        return self.run.pid(f"worker {n}")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.gateway}/fd"))

    def rss(self) -> int:
        """The resident memory of the gateway, in bytes."""
        status = Path(f"/proc/{self.gateway}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def begin_helper(self) -> None:
        """Send a large batch, so that pyzmq starts its helper thread, which keeps descriptors
        from then on.
        """
        with self.ws() as web:
            web.send(bytes(900_000))
            assert len(web.recv()) == 900_000

    def limit_counts(self) -> dict[str, int]:
        """How many clients were refused or closed, by setting."""
        counts: dict[str, int] = self.status()["gateway"]["limits"]
        return counts

    def stop(self) -> None:
        """Tell the run to stop, by SIGTERM where there are signals."""
        if HAS_SIGNALS:
            self.run.send(signal.SIGTERM)
        else:
            client.ask(client.find(str(self.folder)), "stop", (), TIMEOUT)

    def status(self) -> dict[str, Any]:
        """The output of `wsraw status --json`, retried until the gateway answers in time: a busy
        gateway may not do so at first.
        """

        def look() -> dict[str, Any] | None:
            data = self.status_now()
            return data if data["gateway"]["answers"] else None

        data = eventually(look, "the gateway to answer")
        assert data is not None
        return data

    def status_now(self) -> dict[str, Any]:
        """The status, asked once and in this process, so that polling it is cheap."""
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
    """Run a handlers file. `tracebacks` says that its handlers are meant to raise."""
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
        # Wait for all workers, not only for the first: else a test of two workers may begin with
        # one.
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
    """Check that no process and no folder of the run is left."""
    run = serving.run
    eventually(lambda: not any(map(is_alive, run.pids())), f"all processes to be gone\n{run}")
    if serving.folder is not None and run.process.returncode in (0, 130, 143):
        assert not serving.folder.exists(), f"{serving.folder} is left\n{run}"


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Receive that many bytes from a plain socket; fewer only at its end."""
    parts = []
    while size and (part := sock.recv(min(size, 1 << 16))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_all(sock: socket.socket) -> bytes:
    """Receive everything until EOF."""
    return receive_exactly(sock, 1 << 62)


UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(opcode: int, data: bytes = b"", *, final: bool = True, first: int | None = None) -> bytes:
    """A masked frame. `first` replaces the whole first byte, for invalid frames."""
    size = len(data)
    head = bytes([first if first is not None else opcode | (0x80 if final else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    # A mask of zeros is valid (RFC 6455, section 5.3), and leaves the data legible.
    return head + bytes(4) + data


def read_head(sock: socket.socket) -> bytes:
    """Read an HTTP head, and nothing after it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, head
        head += byte
    return head


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """Read one unmasked frame; returns its first byte and its data."""
    first, size = receive_exactly(sock, 2)
    if size == 126:
        size = int.from_bytes(receive_exactly(sock, 2), "big")
    elif size == 127:
        size = int.from_bytes(receive_exactly(sock, 8), "big")
    return first, receive_exactly(sock, size)
