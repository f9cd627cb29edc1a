"""`wsraw connect` as a process, a terminal for commands, and servers with faults."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyte

from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.running import command, environment


def connect(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command with a pipe as its stdin until it ends."""
    return subprocess.run(
        command("connect", *arguments),
        env=environment(),
        input=stdin,
        capture_output=True,
        timeout=COMMAND_DEADLINE,
        check=False,
    )


def told(*arguments: str, code: int = 1) -> str:
    """The single line of output of a command that fails at once, without its prefix."""
    done = connect(*arguments)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert text.startswith("wsraw: "), text
    assert text.count("\n") == 1, text
    assert done.stdout == b""
    return text.removeprefix("wsraw: ").rstrip("\n")


class Terminal:
    """A command at a terminal, with the contents of its screen."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        what: str = "connect",
        columns: int = 60,
        rows: int = 12,
    ) -> None:
        import fcntl
        import pty
        import termios

        self.screen = pyte.Screen(columns, rows)
        self.received = b""
        """Everything that the terminal has received."""
        self._stream = pyte.ByteStream(self.screen)
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.modes = termios.tcgetattr(theirs)
        self._theirs = theirs
        variables = environment() | {"TERM": "xterm", "LC_ALL": "C.UTF-8"} | (env or {})
        # These variables describe the terminal of pytest.
        for name in ("COLUMNS", "LINES", "INPUTRC"):
            variables.pop(name, None)
        self.process = subprocess.Popen(
            command(what, *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=variables,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                return
            if not data:
                return
            self.received += data
            self._stream.feed(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._theirs)
        self._reader.join(DEADLINE)
        os.close(self._ours)

    def current_modes(self) -> list[Any]:
        import termios

        return termios.tcgetattr(self._theirs)

    def resize(self, columns: int, rows: int) -> None:
        import fcntl
        import termios

        self.screen.resize(rows, columns)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def rows(self) -> list[str]:
        """The rows of the screen from the first to the last that is not empty."""
        rows = [row.rstrip() for row in list(self.screen.display)]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    def text(self) -> str:
        """All rows joined, as a long line continues in the next row."""
        return "".join(row.ljust(self.screen.columns) for row in self.rows())

    def shows(self, *rows: str) -> None:
        """Wait until the last rows are these."""
        try:
            eventually(lambda: tuple(self.rows()[-len(rows) :]) == rows, "these rows")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{rows}\n" + "\n".join(self.rows())) from None

    def wait(self) -> int:
        return self.process.wait(DEADLINE)


@contextlib.contextmanager
def server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server that calls a function with each client; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.settimeout(DEADLINE)
                behave(client)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Closing the socket alone does not wake accept.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            socket.create_connection(listener.getsockname(), 1).close()
        listener.close()
        thread.join(DEADLINE)


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    """Answer the first bytes of a client with this, and close."""

    def behave(client: socket.socket) -> None:
        if client.recv(1 << 16):
            client.sendall(answer)
            # With the socket closed, later data of the client would cause a reset.
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):
                pass

    return behave


def handlers_file(folder: Path, text: str) -> Path:
    file = folder / "handlers.py"
    file.write_text(text, "utf-8")
    return file
