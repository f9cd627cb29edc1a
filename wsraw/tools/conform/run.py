"""I/O. `wsraw conform`: the worker's process, the socket and the clock of the played gateway."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
import time
from collections import deque
from collections.abc import Collection, Sequence
from functools import partial
from typing import IO, Final

from wsraw.runtime.printable import printable, printable_lines
from wsraw.supervisor.processes.process import Process
from wsraw.tools.conform.played_gateway import PlayedGateway
from wsraw.tools.conform.router import Router
from wsraw.tools.conform.verdicts import FAIL, PASS, SKIP, choose, verdicts

POOL: Final = "conform"
"""Not the default pool, so that a worker must read WSRAW_POOL."""

POLL_INTERVAL: Final = 0.02
"""Seconds between two checks whether the process has ended."""

HELD_OPEN: Final = 2.0
"""Seconds to wait for the end of a dead process's link: another process that it has started may
hold the link open."""

LAST_LINES: Final = 20
"""Last lines of the worker's output that are shown if a rule has failed."""


class CannotConform(Exception):  # noqa: N818
    """The command cannot be started, or a rule does not exist; the text says what to do."""


def main(
    command: Sequence[str],
    names: Collection[str] = (),
    *,
    generic: bool = False,
    remote: bool = False,
    timeout: float = 5.0,
    as_json: bool = False,
    log: str = "",
) -> int:
    """Check a worker; returns 0 if it keeps all rules, else 1. Raises CannotConform."""
    try:
        rules = choose(names, generic=generic)
    except ValueError as error:
        raise CannotConform(str(error)) from error
    try:
        file = open(log, "w", encoding="utf-8") if log else None  # noqa: SIM115
    except OSError as error:
        raise CannotConform(f"--log {log}: {error.strerror}") from error
    driver = Driver(command, file, Router(remote=remote))
    gateway = PlayedGateway(driver, POOL, partial(secrets.token_hex, 8), timeout)
    results = []
    # Like after Ctrl-C, the worker must not be left behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for result in verdicts(rules, gateway):
            results.append(result)
            if not as_json:
                print(printable_lines(result.line()), flush=True)
    finally:
        driver.close()
        signal.signal(signal.SIGTERM, before)
        if file is not None:
            file.close()
    found = [result.verdict for result in results]
    passed, failed, skipped = (found.count(verdict) for verdict in (PASS, FAIL, SKIP))
    if as_json:
        counts = {"pass": passed, "fail": failed, "skip": skipped}
        data = [result.data() for result in results]
        print(json.dumps({"command": list(command), **counts, "rules": data}))
    else:
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if failed:
        for line in driver.last_lines:
            print(f"worker: {printable(line)}", file=sys.stderr)
    return 1 if failed else 0


def _hint(command: Sequence[str]) -> str:
    """What else the user may have meant by a command that cannot be started."""
    if command[0].endswith(".py"):
        return f"; a handlers file is checked with: wsraw conform -- wsraw worker {command[0]}"
    if len(command) == 1 and len(command[0].split()) > 1:
        return f"; without the quotes: wsraw conform -- {command[0]}"
    return ""


class Driver:
    """The environment of the played gateway: one process at a time, and the socket."""

    def __init__(self, command: Sequence[str], log: IO[str] | None, router: Router) -> None:
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._command = command
        self._log = log
        self._router = router
        self._process: Process | None = None
        self._ended: deque[tuple[int, int, float]] = deque()
        """(number of the process, exit code, when); filled in threads."""
        self._number = 0

    def now(self) -> float:
        return time.monotonic()

    def receive(self, gateway: PlayedGateway, seconds: float) -> None:
        # Checked before receiving: messages that come in between are from a process that has ended.
        has_ended = bool(self._ended) and self._has_said_all()
        message = self._router.receive(min(seconds, POLL_INTERVAL))
        if message is not None:
            gateway.receive(*message)
        elif has_ended:
            number, code, _ = self._ended.popleft()
            if number == self._number:
                gateway.exited(code)

    def _has_said_all(self) -> bool:
        """Whether no more data of the dead process can come: on a busy machine, libzmq may read its
        last batch after its end was reported."""
        _, _, ended_at = self._ended[0]
        return not self._router.is_linked() or self.now() > ended_at + HELD_OPEN

    def send(self, identity: bytes, data: bytes) -> None:
        self._router.send(identity, data)

    def down(self) -> None:
        self._router.down()

    def up(self) -> None:
        self._router.up()

    def start(self, pool: str, token: str, instance: str) -> None:
        self.kill()
        # Messages of the last process must not count as those of the new one.
        self._router.down()
        self._router.up()
        self._number += 1
        number = self._number
        variables = {
            "WSRAW_ENDPOINT": self._router.endpoint,
            "WSRAW_TOKEN": token,
            "WSRAW_POOL": pool,
            "WSRAW_INSTANCE": instance,
            **self._router.variables,
        }
        try:
            self._process = Process(
                self._command,
                variables,
                on_line=self._keep_line,
                on_exit=lambda code: self._ended.append((number, code, self.now())),
            )
        except OSError as error:
            why = error.strerror or str(error)
            hint = _hint(self._command)
            raise CannotConform(f"{self._command[0]}: cannot be started: {why}{hint}") from error

    def _keep_line(self, line: str) -> None:
        self.last_lines.append(line)
        log = self._log
        if log is not None:
            log.write(line + "\n")
            log.flush()

    def kill(self) -> None:
        """End the process and wait, so that its output does not mix with that of the next one."""
        if self._process is None:
            return
        self._process.kill()
        if hasattr(signal, "SIGKILL"):
            # The command may be a script that has started the worker: end its whole group.
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except OSError:
                pass
        self._process.read_rest(1.0)
        self._process = None
        self._number += 1

    def close(self) -> None:
        """End the process and remove the socket."""
        self.kill()
        # Children of the worker that are still alive may write to its output.
        self._log = None
        self._router.close()
