"""I/O. What the command line asks of a run, and who waits for which answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from wsraw import messages as m
from wsraw import programs
from wsraw.loop import Loop
from wsraw.programs import Program
from wsraw.supervisor import actions as a
from wsraw.supervisor.control import Asked, Control
from wsraw.supervisor.policy import MOST_WORKERS, Phase, Policy

REPORT_TIMEOUT: Final = 1.0
"""Seconds that the gateway has to say how it is; then `status` shows the rest without it."""

POOL: Final = "default"

NO_WORKERS: Final = "no workers of its own"


class Run(Protocol):
    """What requests need of the supervisor."""

    loop: Loop
    policy: Policy
    control: Control

    def act(self, actions: list[a.Action]) -> None:
        """Do what the policy has decided."""

    def reload(self) -> None:
        """Replace all workers, and have the certificates read anew."""

    def status(self, report: dict[str, Any] | None) -> dict[str, Any]:
        """How the run is; `report` is the gateway's part."""


class Requests:
    """Each `do` gets one `done`: at once, or when what it asks for has come about."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: dict[str, list[Asked]] = {"reload": [], "scale": [], "stop": []}
        self._reports: dict[int, Asked] = {}
        self._ref = 0
        self._commands: dict[str, Callable[[Asked], None]] = {
            "status": self._status,
            "reload": self._reload,
            "scale": self._scale,
            "stop": self._stop,
            "drain": self._drain,
        }

    def handle(self, asked: Asked) -> None:
        """Somebody at the command line wants something."""
        command = self._commands.get(asked.do.what)
        if command is None:
            self._answer(asked, False, f"this run knows no {asked.do.what}")
        elif asked.do.what != "status" and self._is_over(asked):
            self._answer(asked, False, "the run is stopping")
        else:
            command(asked)

    def _is_over(self, asked: Asked) -> bool:
        phase = self._run.policy.phase
        if asked.do.what in ("stop", "drain"):
            return phase is Phase.OVER
        return phase is not Phase.RUNNING

    def _answer(self, asked: Asked, ok: bool, text: str = "", data: Any = None) -> None:
        self._run.control.answer(asked.who, m.Done(asked.do.ref, ok, text, data))

    # --- status ---

    def _status(self, asked: Asked) -> None:
        self._ref += 1
        self._reports[self._ref] = asked
        self._run.control.tell(m.Status(self._ref))
        self._run.loop.call_later(REPORT_TIMEOUT, partial(self.report, self._ref, None))

    def report(self, ref: int, data: dict[str, Any] | None) -> None:
        """The gateway says how it is; None: it does not."""
        asked = self._reports.pop(ref, None)
        if asked is not None:
            self._answer(asked, True, "", self._run.status(data))

    # --- what takes its time ---

    def _reload(self, asked: Asked) -> None:
        self._waiting["reload"].append(asked)
        self._run.reload()

    def _scale(self, asked: Asked) -> None:
        run = self._run
        name, _, count = "".join(asked.do.args[:1]).rpartition("=")
        known = run.policy.pool.programs
        program = programs.find(known, name)
        if program is None and name in ("", POOL) and len(known) == 1:
            program = known[0]
        if program is None:
            self._answer(asked, False, _which(name, known))
        elif not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST_WORKERS):
            self._answer(asked, False, f"the number of workers must be from 1 to {MOST_WORKERS}")
        else:
            self._waiting["scale"].append(asked)
            run.act(run.policy.scale(int(count), run.loop.now, program))

    def _stop(self, asked: Asked) -> None:
        self._waiting["stop"].append(asked)
        run = self._run
        run.act(run.policy.stop(run.loop.now))

    def _drain(self, asked: Asked) -> None:
        self._waiting["stop"].append(asked)
        run = self._run
        run.act(run.policy.stop(run.loop.now, 0.0))

    def settled(self, what: str, ok: bool, text: str) -> None:
        """Done, or refused: everybody who asked for it is told."""
        waiting, self._waiting[what] = self._waiting[what], []
        for asked in waiting:
            self._answer(asked, ok, text)

    def finish(self, code: int) -> None:
        """The run is over; these are its last words."""
        self.settled("stop", True, f"stopped, exit code {code}")
        for what in ("reload", "scale"):
            self.settled(what, False, "the run has stopped")
        for ref in list(self._reports):
            self.report(ref, None)


def _which(name: str, known: Sequence[Program]) -> str:
    """That nobody knows which workers are meant, and what to write."""
    if not known:
        return f"this run has {NO_WORKERS}; start and stop them where they are"
    if len(known) == 1:
        return f"there is no pool {name!r}; the only one is {POOL!r}"
    each = ", ".join(f"{program.label!r}" for program in known)
    what = "there are several" if name in ("", POOL) else f"there is no {name!r}, or more than one"
    return f"{what}; say which, as NAME=N, of {each}"
