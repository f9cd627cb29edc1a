"""A nats-server of Debian as a child process, which can be killed and started again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest

from tests.deadline import eventually
from tests.ports import free_port


def need() -> None:
    """Skip the test if nats-server or nats-py is missing. With WSRAW_TEST_CLUSTER=must, as
    .ci/run sets it, fail instead.
    """
    pytest.importorskip("nats", reason="no nats-py here") if not is_a_must() else None
    if shutil.which("nats-server") is None:
        (pytest.fail if is_a_must() else pytest.skip)("no nats-server here: apt install it")


def is_a_must() -> bool:
    return os.environ.get("WSRAW_TEST_CLUSTER") == "must"


class NatsServer:
    """A NATS server that runs within its block, always on the same port."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        host: str = "127.0.0.1",
        port: int = 0,
        before: Sequence[str] = (),
        name: str = "nats",
    ) -> None:
        """`before` is a command in front of the server's, such as `ip netns exec`."""
        self.host = host
        self.port = port or free_port()
        self._log = folder / f"{name}.log"
        self._options = options
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> NatsServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"nats://{self.host}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._log.unlink(missing_ok=True)
        place = ["-a", self.host, "-p", str(self.port), "-l", str(self._log)]
        self._process = subprocess.Popen([*self._before, "nats-server", *place, *self._options])

        def port() -> int:
            text = self._log.read_text() if self._log.exists() else ""
            found = re.search(r"Listening for client connections on \S+:(\d+)", text)
            return int(found[1]) if found and "Server is ready" in text else 0

        self.port = eventually(port, f"nats-server to listen; see {self._log}")

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
