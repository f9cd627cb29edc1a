"""I/O. Requests of the command line: status, reload, scale, stop, drain."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from wsraw.link.records import Done, Status
from wsraw.runtime.loop import Loop
from wsraw.supervisor.control.link import Asked, Control
from wsraw.supervisor.control.pending import Answer, PendingRequests
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.policy import MOST_WORKERS, Phase, Policy
from wsraw.supervisor.decisions.selection import NO_WORKERS, which

REPORT_TIMEOUT: Final = 1.0
"""Seconds to wait for the gateway's report; then `status` answers without it."""


class Run(Protocol):
    """The part of the supervisor that requests need."""

    loop: Loop
    policy: Policy
    control: Control

    def say(self, level: str, text: str) -> None:
        """A line for the log."""

    def act(self, actions: list[a.Action]) -> None:
        """Carry out what the policy has decided."""

    def refusal_to_scale(self, count: int) -> str:
        """Why this many workers in all are too many, or ""."""

    def read_certificates(self) -> str:
        """Reload the certificates, if there are any: the name of that part of a reload, or ""."""

    def status(self, report: dict[str, Any] | None) -> dict[str, Any]:
        """The state of the run; `report` is the gateway's part."""


class Requests:
    """Answers each `do` with one `done`, at once or when all of it is done."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._pending: PendingRequests[Asked] = PendingRequests()
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
        """Begin to handle a request."""
        command = self._commands.get(asked.do.what)
        if command is None:
            self._answer(asked, False, f"this run does not know the command {asked.do.what}")
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
        self._run.control.answer(asked.who, Done(asked.do.ref, ok, text, data))

    # --- status ---

    def _status(self, asked: Asked) -> None:
        self._ref += 1
        self._reports[self._ref] = asked
        self._run.control.tell(Status(self._ref))
        self._run.loop.call_later(REPORT_TIMEOUT, partial(self.report, self._ref, None))

    def report(self, ref: int, data: dict[str, Any] | None) -> None:
        """The gateway's report has come; None if it is overdue."""
        asked = self._reports.pop(ref, None)
        if asked is not None:
            self._answer(asked, True, "", self._run.status(data))

    # --- reload, scale, stop ---

    def _reload(self, asked: Asked) -> None:
        """Reload all workers and the certificates, or the workers of the given pools."""
        run = self._run
        pools = run.policy.pools
        own = [name for name, pool in pools.items() if pool.programs]
        names = asked.do.args or own or list(pools)
        known = " and ".join(pools)
        for name in names:
            if name not in pools:
                self._answer(asked, False, f"there is no pool {name!r}; there are {known}")
                return
            if asked.do.args and name not in own:
                self._answer(asked, False, f"the pool {name!r} has {NO_WORKERS}")
                return
        run.say("info", f"wsraw reload: reloading {' and '.join(names)}")
        certificates = "" if asked.do.args else run.read_certificates()
        self._pending.begin(asked, "reload", [*names, *filter(None, [certificates])])
        run.act(run.policy.reload(run.loop.now, names))

    def _scale(self, asked: Asked) -> None:
        run = self._run
        name, _, count = "".join(asked.do.args[:1]).rpartition("=")
        meant = which(run.policy.pools.values(), name)
        if isinstance(meant, str):
            self._answer(asked, False, meant)
        elif not (count.isascii() and count.isdigit() and 1 <= int(count) <= MOST_WORKERS):
            self._answer(asked, False, f"the number of workers must be from 1 to {MOST_WORKERS}")
        else:
            pool, program = meant
            now = [child for child in run.policy.workers if child.program == program]
            others = len(run.policy.workers) - len([c for c in now if c.pool == pool.name])
            why = run.refusal_to_scale(others + int(count))
            if why:
                self._answer(asked, False, why)
                return
            run.say("info", f"wsraw scale: {program.label} to {count}")
            self._pending.begin(asked, "scale", [pool.name])
            run.act(run.policy.scale(int(count), run.loop.now, pool, program))

    def _stop(self, asked: Asked) -> None:
        self._pending.begin(asked, "stop", ["all"])
        run = self._run
        run.say("info", "wsraw stop: stopping")
        run.act(run.policy.stop(run.loop.now))

    def _drain(self, asked: Asked) -> None:
        self._pending.begin(asked, "stop", ["all"])
        run = self._run
        run.say("info", "wsraw drain: stopping without a deadline")
        run.act(run.policy.stop(run.loop.now, 0.0))

    def settled(self, what: str, part: str, ok: bool, text: str) -> None:
        """A part is done or was refused: answer the requests that this completes."""
        self._tell(self._pending.settle(what, part, ok, text))

    def _tell(self, answers: list[Answer[Asked]]) -> None:
        for answer in answers:
            self._answer(answer.who, answer.ok, answer.text)

    def finish(self, code: int) -> None:
        """The run is over: answer every request."""
        self._tell(self._pending.end("stop", True, f"stopped, exit code {code}"))
        for what in ("reload", "scale"):
            self._tell(self._pending.end(what, False, "the run has stopped"))
        for ref in list(self._reports):
            self.report(ref, None)
