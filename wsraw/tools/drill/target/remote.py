"""I/O. Workers of the drill's own run that connect as if from other machines, over `worker_listen`
and with keys. The run starts none itself: this module starts them, and starts them again."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from wsraw.runtime import keys
from wsraw.supervisor.processes.process import Process, foreign_command, reason
from wsraw.tools.drill.plan import DrillError
from wsraw.tools.drill.target.control import RELOAD_TIMEOUT, RunControl

STOP_TIMEOUT: Final = 30.0
POLL_INTERVAL: Final = 0.05
EXPECTED: Final = {0, -signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM}
"""Exit codes of workers that were asked to leave, or that the drill has killed (faults.py)."""

PORTS: Final = range(20_000, 32_768)
"""Ports below those that systems choose for connections: so a new gateway can listen there
again."""


class Link(NamedTuple):
    """The settings and variables of the link to remote workers."""

    endpoint: str
    settings: Mapping[str, object]
    """The settings of the run."""
    variables: Mapping[str, str]
    """The variables of its workers (docs/worker-protocol.md, Shape)."""


def make_link(folder: Path, variables: Mapping[str, str]) -> Link:
    """Make two pairs of keys in this folder, as users do. `variables`: the environment of `wsraw
    keygen`. Raises DrillError."""
    for name in ("gateway", "worker"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "wsraw", "keygen", str(folder), "--name", name],
            env={**os.environ, **variables},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        if done.returncode:
            raise DrillError(f"--remote: wsraw keygen: {done.stderr.strip()}")
    endpoint = f"tcp://127.0.0.1:{_free_port()}"
    settings = {
        "worker_listen": (endpoint,),
        "link_key": str(folder / "gateway.key"),
        "worker_keys": str(folder / "worker.pub"),
    }
    return Link(
        endpoint,
        settings,
        {
            "WSRAW_ENDPOINT": endpoint,
            "WSRAW_TOKEN": "",
            "WSRAW_POOL": "default",
            "WSRAW_CURVE_SERVERKEY": keys.read_public(str(folder / "gateway.pub")),
            "WSRAW_CURVE_PUBLICKEY": keys.read_public(str(folder / "worker.pub")),
            "WSRAW_CURVE_SECRETKEY": keys.read_secret(str(folder / "worker.key")),
        },
    )


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


class Member(NamedTuple):
    """The process in a slot."""

    process: Process
    instance: str
    """The instance in its `hello`."""

    def leave(self) -> None:
        """Ask the process to leave, like a service manager; on Windows that kills it."""
        with suppress(OSError):
            os.kill(self.process.pid, signal.SIGTERM)


class RemoteWorkers:
    """The workers. Each has a slot, in which another process follows when it ends."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        variables: Mapping[str, str],
        on_line: Callable[[str], object],
    ) -> None:
        """`on_line` gets the lines that they print."""
        self.failures: list[str] = []
        """Unexpected exits; these workers are not started again."""
        self._commands = commands
        self._variables = variables
        self._on_line = on_line
        self._members: dict[int, Member] = {}
        self._ended: SimpleQueue[tuple[int, int] | None] = SimpleQueue()
        """Slots and exit codes; None at the end."""
        self._timeout = 0.0
        # On Linux they end with the thread that has started them (process.py).
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _keep(self) -> None:
        for slot in range(len(self._commands)):
            self._start(slot)
        while (ended := self._ended.get()) is not None:
            slot, code = ended
            del self._members[slot]
            if code in EXPECTED:
                self._start(slot)
            else:
                self.failures.append(f"remote worker {slot} {reason(code, {})}")
        self._end_all()

    def _start(self, slot: int) -> None:
        instance = secrets.token_hex(8)
        try:
            process = Process(
                foreign_command(self._commands[slot]),
                {**self._variables, "WSRAW_INSTANCE": instance},
                on_line=lambda line: self._on_line(f"remote worker {slot}: {line}"),
                on_exit=lambda code: self._ended.put((slot, code)),
            )
        except OSError as error:
            self.failures.append(f"remote worker {slot} cannot be started: {error.strerror}")
            return
        self._members[slot] = Member(process, instance)

    def members(self) -> dict[int, Member]:
        """The process in each slot."""
        return self._members.copy()

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End all of them; kill those that do not leave in time."""
        self._timeout = timeout
        self._ended.put(None)
        self._thread.join()

    def _end_all(self) -> None:
        for member in self._members.values():
            member.leave()
        begun = time.monotonic()
        while self._members:
            try:
                ended = self._ended.get(timeout=max(0.0, begun + self._timeout - time.monotonic()))
            except Empty:
                for slot, member in self._members.items():
                    self.failures.append(f"remote worker {slot} did not leave")
                    member.process.kill()
                return
            # None: `stop` was called again, with another timeout.
            if ended is not None:
                del self._members[ended[0]]


class RemoteControl(RunControl):
    """A run whose workers are remote: the drill replaces them, one after the other."""

    def __init__(self, folder: Path, remote: RemoteWorkers) -> None:
        super().__init__(folder)
        self.remote = remote

    def workers(self) -> Sequence[int]:
        """The pids of all workers."""
        return [member.process.pid for member in self.remote.members().values()]

    def proved(self) -> Sequence[int]:
        proved = {each["instance"] for each in self.status()["by_hand"] if each["acked"]}
        members = self.remote.members().values()
        return [member.process.pid for member in members if member.instance in proved]

    def count_connected(self) -> int:
        return sum(map(self._is_connected, self.remote.members().values()))

    def _is_connected(self, member: Member) -> bool:
        return any(each["instance"] == member.instance for each in self.status()["by_hand"])

    def reload(self) -> None:
        """Replace all workers as a service manager would; returns when the last one of the new ones
        has connected, or was killed."""
        until = time.monotonic() + RELOAD_TIMEOUT
        for slot, old in self.remote.members().items():
            if not self._is_connected(old):
                # The process has just been started.
                continue
            # Not the present process, which may be a later one that has not started yet.
            old.leave()
            while (new := self.remote.members().get(slot, old)) == old or not (
                self._is_connected(new)
            ):
                if time.monotonic() > until:
                    raise DrillError("reload: a remote worker was not replaced in time")
                time.sleep(POLL_INTERVAL)
