"""I/O. A real run on a free port, with faults on request."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as ws_connect

from wsraw.config.options import options as all_options
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.connection.dialing import dialed
from wsraw.link.open_options import check
from wsraw.link.records import Done, OnClose, OnMessage, Open
from wsraw.runtime import launch
from wsraw.supervisor.control import client as control
from wsraw.supervisor.processes import process
from wsraw.testing.peers import OURS
from wsraw.workers.connection import parse_message

T = TypeVar("T")

POLL_INTERVAL: Final = 0.01
BETWEEN_PARTS: Final = 0.02
"""Seconds between the two parts that `split_at` sends, so that the gateway reads the first one
alone. A client cannot see when that has happened."""

SMALL_BUFFER: Final = 4096
"""Bytes that the kernel should buffer for a client that does not read; it may buffer more."""


class Server:
    """`wsraw run` with these handlers on a free port of 127.0.0.1; ready when it is created.

    `handlers`: a handlers file, or None. `workers`: how many. `settings`: those of `wsraw run`,
    pools and routes as on the command line: ``pools=["chat=chat.py:2"], routes=["/chat=chat"]``.
    `timeout`: seconds of each wait. Leaving a ``with`` block stops the run, and raises
    AssertionError if it does not stop cleanly.
    """

    def __init__(
        self,
        handlers: str | os.PathLike[str] | None = None,
        *,
        workers: int = 1,
        timeout: float = 30.0,
        **settings: Any,
    ) -> None:
        self._timeout = timeout
        self._lines: list[str] = []
        self._codes: list[int] = []
        """The exit code, once the run has ended."""
        self._ended = False
        # A killed run cannot remove its folder, so this process makes the parent folder.
        self._folder = tempfile.TemporaryDirectory(prefix="wsraw-")
        self.run_dir = Path(self._folder.name, "run")
        """The run folder, for `--run-dir`."""
        options = _options({"listen": "127.0.0.1:0", **settings, "run_dir": self.run_dir})
        if handlers is not None:
            options.append(f"--workers={os.fspath(handlers)}:{workers}")
        words = [sys.executable, "-P", "-m", "wsraw", "run", *options]
        if threading.current_thread() is threading.main_thread():
            # The run ends with the tests, even if they crash. (On Linux: with the thread.)
            words = process.foreign_command(words)
        self.process = process.Process(
            words,
            {"PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"},
            on_line=self._lines.append,
            on_exit=self._codes.append,
        )
        try:
            found = self.wait_for_line(r"listening on .*?\w+://(\S+):(\d+).*; ready")
            self._until(self._has_all_workers, "all workers")
        except BaseException:
            self._end()
            raise
        self.host: str = found[1].strip("[]")
        self.port = int(found[2])
        """The port of the first listener."""
        self.url = f"ws://{found[1]}:{self.port}"
        """The URL of the first listener, without a path."""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # --- the log ---

    @property
    def log(self) -> str:
        """Everything that the run and its handlers have written so far."""
        return "\n".join(self._lines)

    def wait_for_line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The count-th line of the log in which the pattern is found. Raises AssertionError with
        the log if it does not come in time."""

        def look() -> re.Match[str] | None:
            found = [match for line in list(self._lines) if (match := re.search(pattern, line))]
            return found[count - 1] if len(found) >= count else None

        match = self._until(look, f"a line with {pattern!r}")
        assert match is not None
        return match

    def _until(self, condition: Callable[[], T], what: str) -> T:
        until = time.monotonic() + self._timeout
        while not (value := condition()):
            ended = bool(self._codes)
            if ended:
                self.process.read_rest(self._timeout)
                if value := condition():
                    return value
            if ended or time.monotonic() > until:
                why = "the run has ended" if ended else f"not within {self._timeout:g} s"
                raise AssertionError(f"{what}: {why}\n{self.log}")
            time.sleep(POLL_INTERVAL)
        return value

    # --- clients ---

    def connect(self, path: str = "/", **options: Any) -> ClientConnection:
        """A client of the websockets library; `options` are those of its ``connect``."""
        options.setdefault("open_timeout", self._timeout)
        client: ClientConnection = ws_connect(self.url + path, proxy=None, **options)
        return client

    def raw(self) -> socket.socket:
        """A plain socket, with the timeout set."""
        return socket.create_connection((self.host, self.port), self._timeout)

    def split_at(self, k: int, path: str = "/", **options: Any) -> ClientConnection:
        """A client whose bytes arrive in two parts: the first k, handshake included, then the
        rest."""
        return self.connect(path, sock=self.split_raw(k), **options)

    def split_raw(self, k: int) -> socket.socket:
        """The client of `split_at` as a plain socket: its `sendall` splits."""
        sock = _SplitSocket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        sock.left = k
        sock.settimeout(self._timeout)
        sock.connect((self.host, self.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def stall_reader(self, path: str = "/") -> StalledClient:
        """A WebSocket client that does not read, with small buffers."""
        return StalledClient(self.host, self.port, path, self._timeout)

    # --- commands and faults ---

    def ask(self, what: str, *args: str) -> Done:
        """Send a command of the command line, for example `status` or `scale`. Raises
        AssertionError if the run refuses it."""
        done = control.ask(self.run_dir, what, args, self._timeout)
        assert done.ok, f"{what}: {done.text}"
        return done

    def status(self) -> dict[str, Any]:
        """The status of the run, like `wsraw status --json`."""
        data: dict[str, Any] = self.ask("status").data
        return data

    def reload(self, pool: str = "") -> None:
        """Replace all workers, or those of one pool, by new ones that load the handlers file again;
        returns when that is done. Raises AssertionError if the file does not load."""
        self.ask("reload", *([pool] if pool else []))

    def _has_all_workers(self) -> bool:
        return bool(len(self._ready_workers()) >= self.status()["workers_wanted"])

    def _ready_workers(self) -> list[dict[str, Any]]:
        try:
            found = self.status()["workers"]
        except control.NoRunError:
            # The run is still starting.
            return []
        return [who for who in found if who["state"] == "ready" and who["pid"]]

    def kill_worker(self, *, mid_event: bool = False) -> int:
        """Kill a worker with SIGKILL; return its pid when another worker has replaced it.
        `mid_event`: wait until a worker handles an event, and kill it then."""
        before = {who["pid"] for who in self._until(self._ready_workers, "a worker")}
        pid = self._until(self._kill_busy, "a worker with an event") if mid_event else min(before)
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))

        def replaced() -> bool:
            after = {who["pid"] for who in self._ready_workers()}
            return pid not in after and len(after) >= len(before)

        self._until(replaced, "another worker in its place")
        return pid

    def _kill_busy(self) -> int:
        for who in self._ready_workers():
            if who["in_flight"]:
                if not hasattr(signal, "SIGSTOP"):
                    return int(who["pid"])
                # It is suspended first, because otherwise the event may be finished before the
                # worker dies.
                os.kill(who["pid"], signal.SIGSTOP)
                if any(o["n"] == who["n"] and o["in_flight"] for o in self._ready_workers()):
                    return int(who["pid"])
                os.kill(who["pid"], signal.SIGCONT)
        return 0

    # --- the end ---

    def stop(self) -> None:
        """Stop the run. Raises AssertionError, with the log, if it does not stop cleanly."""
        if self._ended:
            return
        if not launch.HAS_SIGNALS:
            self._ask_to_stop()
        else:
            self.process.terminate()
        until = time.monotonic() + self._timeout
        while not self._codes and time.monotonic() < until:
            time.sleep(POLL_INTERVAL)
        has_stopped = bool(self._codes)
        self._end()
        assert has_stopped, f"the run did not stop\n{self.log}"
        code = self._codes[0]
        assert code == 0, f"exit code {code}\n{self.log}"

    def _ask_to_stop(self) -> None:
        """Ask the run to stop where no signal can. If the run does not answer, the wait for its end
        shows that."""
        try:
            self.ask("stop")
        except (control.NoRunError, control.RequestRefusedError, TimeoutError):
            pass

    def _end(self) -> None:
        self._ended = True
        self.process.kill()
        self.process.read_rest(self._timeout)
        self._folder.cleanup()


class StalledClient:
    """A WebSocket client that reads only when asked to."""

    def __init__(self, host: str, port: int, path: str, timeout: float) -> None:
        self._timeout = timeout
        self._messages: deque[str | bytes] = deque()
        self._code = 1006
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        # Before the connect, so that the TCP window is small, too.
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        self.sock.settimeout(timeout)
        self.sock.connect((host, port))
        open_ = Open(0, "app:80", "websocket", url=path, host=f"{host}:{port}")
        self._own = dialed(0, check(open_), OURS, {}, 0.0)
        self._own.connected(0.0)
        self._write_output()
        # Read the response, and nothing after it.
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise ConnectionError(f"the handshake was not answered: {head!r}")
            head += byte
        self._own.receive_data(head, 0.0)
        if self._own.state is CLOSED:
            raise ConnectionError(f"the handshake was refused: {head!r}")

    def __enter__(self) -> StalledClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def send(self, data: str | bytes) -> None:
        """Send a message. Raises TimeoutError when the gateway no longer reads, either."""
        data, kind, final = parse_message(data, None, None)
        self._own.send(data, kind, final, 0.0)
        self._write_output()

    def recv(self) -> str | bytes:
        """Read the next message. Raises TimeoutError, and ConnectionError at the end."""
        until = time.monotonic() + self._timeout
        while not self._messages:
            if not self._read(until):
                raise ConnectionError(f"the connection has ended, with {self._code}")
        return self._messages.popleft()

    def read_all(self) -> tuple[list[str | bytes], int]:
        """Read until the connection ends: the messages, and the close code (1006 without one).
        Raises TimeoutError if it does not end."""
        until = time.monotonic() + self._timeout
        while self._read(until):
            pass
        messages = list(self._messages)
        self._messages.clear()
        return messages, self._code

    def _read(self, until: float) -> bool:
        """Read once; False at the end."""
        try:
            # Pings arrive as long as the connection is open, so recv may never time out.
            data = self.sock.recv(1 << 16) if time.monotonic() < until else None
        except TimeoutError:
            data = None
        except ConnectionError:
            data = b""
        if data is None:
            raise TimeoutError(f"nothing to read within {self._timeout:g} s")
        for event in self._own.receive_data(data, 0.0) if data else ():
            if isinstance(event, OnMessage):
                text = event.type == "text"
                self._messages.append(event.data.decode() if text else event.data)
            elif isinstance(event, OnClose):
                self._code = event.code
        try:
            self._write_output()
        except OSError:
            # The gateway has closed, but what it has sent before can still be read.
            pass
        return bool(data)

    def close(self) -> None:
        self.sock.close()

    def _write_output(self) -> None:
        while self._own.output.size:
            data = bytes(self._own.output.data_to_send())
            self._own.written(len(data), 0.0)
            self.sock.sendall(data)


class _SplitSocket(socket.socket):
    """A socket that sends its first bytes separately."""

    left = 0
    """How many of the first bytes are still to be sent."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        first, rest = data[: self.left], data[self.left :]
        if first:
            super().sendall(first, flags)
            self.left -= len(first)
            if rest:
                time.sleep(BETWEEN_PARTS)
        if rest:
            super().sendall(rest, flags)


def _options(settings: dict[str, Any]) -> list[str]:
    """Settings as options of the command line."""
    flags = {each.name: each.flag for each in all_options()}
    found = []
    for name, value in settings.items():
        option = flags.get(name, name.replace("_", "-"))
        if isinstance(value, bool):
            found.append(f"--{option}" if value else f"--no-{option}")
        elif isinstance(value, list | tuple):
            found += [f"--{option}={each}" for each in value]
        else:
            found.append(f"--{option}={value}")
    return found


def _python_path() -> str:
    """The value of PYTHONPATH with which the run finds this wsraw."""
    package = Path(__file__).resolve().parent.parent.parent
    paths = [os.environ.get("PYTHONPATH", "")]
    if package.name not in ("site-packages", "dist-packages"):
        paths.insert(0, str(package))
    return os.pathsep.join(filter(None, paths))
