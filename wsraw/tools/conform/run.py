"""I/O. `wsraw conform`: the worker's process, the socket, and the clock around the play."""

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
from types import FrameType
from typing import IO, Final

from wsraw.runtime.printable import printable, printable_lines
from wsraw.supervisor.processes.process import Process
from wsraw.tools.conform.play import FAIL, PASS, SKIP, Play, choose
from wsraw.tools.conform.router import Router
from wsraw.tools.conform.stage import Action, Down, Kill, Send, Start, Up

POOL: Final = "conform"
"""Not the usual one: so it shows whether WSRAW_POOL is read."""

LOOK_EVERY: Final = 0.02
"""Seconds after which we look whether the process has ended."""

LAST_LINES: Final = 20
"""Of the worker's output, shown when something failed."""


class CannotConform(Exception):  # noqa: N818
    """The command cannot be started, or a rule does not exist; the text says what to do."""


def main(
    command: Sequence[str],
    names: Collection[str] = (),
    *,
    generic: bool = False,
    patience: float = 5.0,
    as_json: bool = False,
    log: str = "",
) -> int:
    """Check that worker; returns 0 if it keeps all rules, else 1. Raises CannotConform."""
    try:
        rules = choose(names, generic=generic)
    except ValueError as error:
        raise CannotConform(str(error)) from error
    try:
        file = open(log, "w", encoding="utf-8") if log else None  # noqa: SIM115
    except OSError as error:
        raise CannotConform(f"--log {log}: {error.strerror}") from error
    play = Play(rules, POOL, partial(secrets.token_hex, 8), patience)
    shell = Shell(command, play, file, None if as_json else sys.stdout)
    # As Ctrl-C: the worker must not be left behind.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        shell.run()
    finally:
        shell.close()
        signal.signal(signal.SIGTERM, before)
        if file is not None:
            file.close()
    counts = {
        verdict: sum(result.verdict == verdict for result in play.results)
        for verdict in (PASS, FAIL, SKIP)
    }
    if as_json:
        print(
            json.dumps(
                {
                    "command": list(command),
                    **{name.lower(): count for name, count in counts.items()},
                    "rules": [result.data() for result in play.results],
                }
            )
        )
    else:
        print(f"{counts[PASS]} passed, {counts[FAIL]} failed, {counts[SKIP]} skipped")
    if play.failed:
        for line in shell.last_lines:
            print(f"worker: {printable(line)}", file=sys.stderr)
    return 1 if play.failed else 0


def _hint(command: Sequence[str]) -> str:
    """What else may have been meant by a command that cannot be started."""
    if command[0].endswith(".py"):
        return f"; a handlers file is checked with: wsraw conform -- wsraw worker {command[0]}"
    if len(command) == 1 and len(command[0].split()) > 1:
        return f"; without the quotes: wsraw conform -- {command[0]}"
    return ""


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Shell:
    """Does what the play wants, and tells it what happens."""

    def __init__(
        self, command: Sequence[str], play: Play, log: IO[str] | None, out: IO[str] | None
    ) -> None:
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        self._command = command
        self._play = play
        self._log = log
        self._out = out
        self._router = Router()
        self._process: Process | None = None
        self._ended: deque[tuple[int, int]] = deque()
        """(number of the process, exit code); filled in threads."""
        self._number = 0
        self._shown = 0

    def run(self) -> None:
        """Until the play is over."""
        play = self._play
        play.advance(time.monotonic())
        while True:
            self._act(play.actions)
            self._show()
            if play.over:
                return
            seconds = min(max(0.0, play.wake_at - time.monotonic()), LOOK_EVERY)
            if self._ended:
                seconds = LOOK_EVERY
            message = self._router.receive(seconds)
            now = time.monotonic()
            if message is not None:
                play.receive(*message, now)
            elif self._ended:
                # Only when nothing is left to read: its last batch came before its end.
                number, code = self._ended.popleft()
                if number == self._number:
                    play.exited(code, now)
            play.advance(now)

    def _act(self, actions: deque[Action]) -> None:
        while actions:
            match actions.popleft():
                case Send(identity, data):
                    self._router.send(identity, data)
                case Start(pool, token, instance):
                    self._start(pool, token, instance)
                case Kill():
                    self._kill()
                case Down():
                    self._router.down()
                case Up():
                    self._router.up()

    def _start(self, pool: str, token: str, instance: str) -> None:
        self._kill()
        # What a process before it left to be read would be taken for its words.
        self._router.down()
        self._router.up()
        self._number += 1
        number = self._number
        variables = {
            "WSRAW_ENDPOINT": self._router.endpoint,
            "WSRAW_TOKEN": token,
            "WSRAW_POOL": pool,
            "WSRAW_INSTANCE": instance,
        }
        try:
            self._process = Process(
                self._command,
                variables,
                on_line=self._hear,
                on_exit=lambda code: self._ended.append((number, code)),
            )
        except OSError as error:
            why = error.strerror or str(error)
            hint = _hint(self._command)
            raise CannotConform(f"{self._command[0]}: cannot be started: {why}{hint}") from error

    def _hear(self, line: str) -> None:
        self.last_lines.append(line)
        log = self._log
        if log is not None:
            log.write(line + "\n")
            log.flush()

    def _kill(self) -> None:
        """And wait: no process of ours outlives us, and none speaks into the next one's words."""
        if self._process is None:
            return
        self._process.kill()
        if sys.platform != "win32":
            # The command may be a script that has started the worker: its whole group goes.
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except OSError:
                pass
        self._process.read_rest(1.0)
        self._process = None
        self._number += 1

    def _show(self) -> None:
        if self._out is not None:
            for result in self._play.results[self._shown :]:
                print(printable_lines(result.line()), file=self._out, flush=True)
        self._shown = len(self._play.results)

    def close(self) -> None:
        """Leave nothing."""
        self._kill()
        # What lives on of a worker's own children may still write.
        self._log = None
        self._router.close()
