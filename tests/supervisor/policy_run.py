"""A policy with a clock, and the actions that it has taken."""

from __future__ import annotations

import itertools
from typing import Any

from wsraw.config.programs import Program, WorkerSpec
from wsraw.config.settings import Settings
from wsraw.link.records import Check, DrainWorker, Stop
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.policy import Policy
from wsraw.supervisor.decisions.pool import Pool

PROGRAM = Program("x.py", "x.py", label="x.py")

ENDPOINT = "ipc:///run/link.sock"

ASK = a.Tell(Check())


def drain(child: Child, deadline: float) -> a.Tell:
    return a.Tell(DrainWorker(child.n, deadline))


def tell_stop(deadline: float) -> a.Tell:
    return a.Tell(Stop(deadline))


def terminate(child: Child) -> a.End:
    return a.End(child, a.Termination.TERMINATE)


def abort(child: Child) -> a.End:
    return a.End(child, a.Termination.ABORT)


def kill(child: Child) -> a.End:
    return a.End(child, a.Termination.KILL)


class Run:
    """A policy with a clock, and its actions. The processes are those that it has spawned."""

    def __init__(
        self,
        workers: int = 1,
        luck: float = 1.0,
        *more: WorkerSpec,
        others: dict[str, list[WorkerSpec]] | None = None,
        **settings: Any,
    ) -> None:
        ours = [WorkerSpec(PROGRAM, workers)] if workers else []
        entries = {"default": [*ours, *more], **(others or {})}
        self.policy = Policy(entries, Settings(**settings), lambda: luck)
        self.now = 100.0
        self.actions: list[a.Action] = []
        self.answers = True
        """Whether the gateway answers when it is asked."""

    def do(self, *actions: list[a.Action]) -> list[a.Action]:
        """The actions without the log lines, which are kept in `said`."""
        self.actions = list(itertools.chain(*actions))
        if ASK in self.actions and self.answers:
            self.policy.heard(self.now)
        return [
            action for action in self.actions if not isinstance(action, a.Say) and action != ASK
        ]

    @property
    def said(self) -> str:
        return "\n".join(each.text for each in self.actions if isinstance(each, a.Say))

    def pass_time(self, seconds: float) -> list[a.Action]:
        """Let time pass, with ticks when the policy asks for them."""
        until = self.now + seconds
        done: list[a.Action] = []
        said: list[a.Action] = []
        while (wake := self.policy.wake_at(self.now)) <= until:
            self.now = max(self.now, wake)
            done += self.do(self.policy.decide(self.now))
            said += self.actions
            assert self.policy.wake_at(self.now) != wake, "a tick must use up its time"
        self.now = until
        self.actions = said
        return done

    def up(self) -> Run:
        """Bring the gateway and all workers to READY."""
        self.do(self.policy.decide(self.now))
        self.do(self.policy.listening(ENDPOINT, self.now))
        self.do(self.policy.ready(1, self.now))
        for child in self.policy.workers[1:]:
            self.do(self.policy.ready(child.n, self.now))
        return self

    @property
    def pool(self) -> Pool:
        """The first pool."""
        return self.policy.pools["default"]

    @property
    def gateway(self) -> Child:
        return self.policy.gateway

    @property
    def worker(self) -> Child:
        return self.policy.workers[0]

    def drained(self, action: a.Action) -> Child:
        """The worker that the gateway is told to drain."""
        assert isinstance(action, a.Tell)
        assert isinstance(action.record, DrainWorker)
        child = self.policy.worker(action.record.n)
        assert child is not None
        return child

    def exit(
        self, child: Child, code: int = -9, reason: str = "was killed", error: str = ""
    ) -> list[a.Action]:
        return self.do(self.policy.exited(child, code, reason, self.now, error))
