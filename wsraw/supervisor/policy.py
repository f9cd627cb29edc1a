"""Sans-I/O. What the supervisor decides: exits, news and the time in, spawn and stop out.

The life of a child is in life.py. What leads it there:

- Restart: a dead child comes back after a pause that doubles with each early death in a row.
- Start left to right: the gateway; when it listens, one worker; when any worker has been ready, all
  others. So a handlers file that does not load shows its traceback once, not N times.
- Boot failure is no crash: exit code 3 says "it cannot work as it is". Until the run has once been
  up it ends the run, and so do `INTENSITY` early deaths in a row.
- Once the run has been up nothing gives up: a database that is away for an hour, or a port that is
  held by another process, is waited for.
- Stop right to left: the gateway lets workers finish and clients go, then says so; then workers
  end, then the gateway. A deadline stands over each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from wsraw.supervisor.life import Child, ChildState, Step

FIRST_BACKOFF: Final = 0.1
"""Seconds; doubled with each early death in a row."""

LONGEST_BACKOFF: Final = 30.0

STABLE_AFTER: Final = 1.0
"""Seconds of being ready after which a death is no crash loop: somebody killed it."""

INTENSITY: Final = 5
"""Early deaths in a row that a run survives which has never been up."""

GRACE: Final = 5.0
"""Seconds a child has to leave after it was told to, before it is killed."""

FOREVER: Final = 1e6
"""Seconds: the deadline of a stop that has none. In milliseconds it still fits a C int."""

STOP_MARGIN: Final = 1.0
"""Seconds that the supervisor grants the gateway beyond the deadline it gave it."""

DOES_NOT_LOAD: Final = 3
"""The exit code of a worker whose handlers file does not load, and of a gateway that cannot listen:
trying again would fail again."""


class Phase(Enum):
    """Where the run is: STOPPING waits for the gateway's word, ENDING for exits alone."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDING = "ending"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for this child; its `n` is new."""

    child: Child


@dataclass(frozen=True, slots=True)
class TellStop:
    """Tell the gateway to stop within `deadline` seconds; 0 is at once."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the process of this child to leave."""

    child: Child


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of this child now."""

    child: Child


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything is over: leave with this exit code."""

    code: int


Action = Spawn | TellStop | Terminate | Kill | Say | Finish


class Policy:
    """The decisions of one run. Each input returns the actions to take, in order.

    `files` has one entry a worker, None for the handlers that print. `random` gives numbers from
    0 to 1: children that died together must not come back together.
    """

    def __init__(
        self, files: Sequence[str | None], stop_timeout: float, random: Callable[[], float]
    ) -> None:
        self.gateway = Child(None)
        self.workers = [Child(file) for file in files]
        self.phase = Phase.RUNNING
        self.has_been_up = False
        self._stop_timeout = stop_timeout
        self._random = random
        self._endpoint = ""
        self._listened = False
        self._spawned = 0
        self._stop_at: float | None = None
        self._exit_code = 0
        self._killed: set[Child] = set()
        self._actions: list[Action] = []

    def name(self, child: Child) -> str:
        """What the log calls it."""
        return "gateway" if child is self.gateway else f"worker {child.n}"

    def worker(self, n: int) -> Child | None:
        """The worker whose living process has this number."""
        for child in self.workers:
            if child.n == n and child.alive:
                return child
        return None

    # --- inputs ---

    def start(self, now: float) -> list[Action]:
        """The run begins."""
        return self._decide(now)

    def listening(self, endpoint: str, now: float) -> list[Action]:
        """The gateway is up, and workers find it at `endpoint`."""
        if self.gateway.state is ChildState.DEAD:
            # The last word of one that has died meanwhile.
            return []
        self.gateway.take(Step.BE_READY)
        self.gateway.ready_at = now
        self._listened = True
        if self._endpoint not in ("", endpoint):
            for child in self._living_workers():
                self._ask_to_leave(child, now)
        self._endpoint = endpoint
        return self._decide(now)

    def ready(self, n: int, now: float) -> list[Action]:
        """A worker has said hello."""
        child = self.worker(n)
        if child is not None:
            child.take(Step.BE_READY)
            if child.state is ChildState.READY:
                child.ready_at = now
                child.kill_at = None
                self.has_been_up = True
        return self._decide(now)

    def left(self, n: int, now: float) -> list[Action]:
        """A worker's session is over; its process has little time to follow, or to say hello."""
        child = self.worker(n)
        if child is not None and child.kill_at is None:
            child.kill_at = now + GRACE
        return self._decide(now)

    def kill_asked(self, n: int, why: str, now: float) -> list[Action]:
        """The gateway wants a worker dead."""
        child = self.worker(n)
        if child is not None:
            self._say("warning", f"killing {self.name(child)}: {why}")
            self._kill(child)
        return self._decide(now)

    def exited(self, child: Child, code: int, reason: str, now: float) -> list[Action]:
        """A process is gone; `reason` tells it in words."""
        was_asked = child.state is ChildState.STOPPING
        was_ready_at, child.ready_at = child.ready_at, None
        child.kill_at = None
        self._killed.discard(child)
        child.take(Step.EXIT)
        if self.phase is Phase.RUNNING:
            if not was_asked:
                self._bury(child, code, reason, was_ready_at, now)
        elif child is self.gateway:
            if self.phase is Phase.STOPPING:
                self._say("warning", f"the gateway {reason} before its clients were told")
                self._end()
        elif code != 0:
            self._say("info", f"{self.name(child)} {reason}")
        return self._decide(now)

    def stop(self, now: float) -> list[Action]:
        """Stop in good order."""
        if self.phase is not Phase.RUNNING:
            return []
        if self.gateway.state is not ChildState.READY:
            self._end()
            return self._decide(now)
        self.phase = Phase.STOPPING
        for child in self._living_workers():
            child.take(Step.STOP)
        if self._stop_timeout:
            self._stop_at = now + self._stop_timeout + STOP_MARGIN
        self._actions.append(TellStop(self._stop_timeout or FOREVER))
        return self._decide(now)

    def stop_now(self, code: int, now: float) -> list[Action]:
        """Stop at once, with this exit code."""
        self._exit_code = code
        self._end()
        for child in self._living():
            child.kill_at = now
        return self._decide(now)

    def stopped(self, now: float) -> list[Action]:
        """The gateway has let everybody go."""
        if self.phase is Phase.STOPPING:
            self._end()
        return self._decide(now)

    def tick(self, now: float) -> list[Action]:
        """The time of `wake_at` has come."""
        return self._decide(now)

    def wake_at(self) -> float | None:
        """When `tick` must be called at the latest."""
        times = [child.kill_at for child in self._living() if child.kill_at is not None]
        if self.phase is Phase.STOPPING and self._stop_at is not None:
            times.append(self._stop_at)
        if self.phase is Phase.RUNNING:
            times += [child.spawn_at for child in self._waiting()]
        return min(times, default=None)

    # --- decisions ---

    def _decide(self, now: float) -> list[Action]:
        if self.phase is Phase.STOPPING and self._stop_at is not None and now >= self._stop_at:
            self._say("warning", "the stop_timeout is over: killing the workers that are left")
            self._end()
            for child in self._living_workers():
                child.kill_at = now
        if self.phase is Phase.ENDING:
            # Right to left: the gateway hears the workers out.
            for child in self._living_workers() or self._living():
                if child.kill_at is None and child not in self._killed:
                    self._ask_to_leave(child, now)
        for child in self._living():
            if child.kill_at is not None and now >= child.kill_at:
                self._say("debug", f"killing {self.name(child)}")
                self._kill(child)
        if self.phase is Phase.RUNNING:
            for child in self._waiting():
                if now >= child.spawn_at:
                    self._spawn(child)
        if self.phase is Phase.ENDING and not self._living():
            self.phase = Phase.OVER
            self._actions.append(Finish(self._exit_code))
        actions, self._actions = self._actions, []
        return actions

    def _waiting(self) -> list[Child]:
        """The children that only the clock keeps from being spawned."""
        if self.gateway.state is ChildState.DEAD:
            return [self.gateway]
        if self.gateway.state is not ChildState.READY:
            return []
        workers = self.workers if self.has_been_up else self.workers[:1]
        return [child for child in workers if child.state is ChildState.DEAD]

    def _spawn(self, child: Child) -> None:
        child.take(Step.SPAWN)
        if child is self.gateway:
            child.n += 1
        else:
            self._spawned += 1
            child.n = self._spawned
        self._actions.append(Spawn(child))

    def _bury(
        self, child: Child, code: int, reason: str, was_ready_at: float | None, now: float
    ) -> None:
        """An exit that nobody asked for: when to try again, or whether at all."""
        name = self.name(child)
        if was_ready_at is not None and now - was_ready_at >= STABLE_AFTER:
            child.early_deaths = 0
        boot = not (self._listened if child is self.gateway else self.has_been_up)
        if boot and code == DOES_NOT_LOAD:
            # The child has said why, in a better line than ours could be.
            self._give_up(child, DOES_NOT_LOAD, now)
            return
        if boot and child.early_deaths >= INTENSITY:
            self._say("error", f"{name} {reason}: {INTENSITY + 1} times in a row; giving up")
            self._give_up(child, 1, now)
            return
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(child.early_deaths, 16))
        backoff *= 0.5 + self._random() / 2
        child.early_deaths += 1
        child.spawn_at = now + backoff
        self._say("warning", f"{name} {reason}; starting another in {backoff:.1f} s")

    def _give_up(self, child: Child, code: int, now: float) -> None:
        child.take(Step.GIVE_UP)
        self._exit_code = code
        if self.gateway.state is ChildState.READY:
            self._actions.append(TellStop(0.0))
        self._end()

    def _end(self) -> None:
        """From here on everybody has to leave; `_decide` sees to it."""
        if self.phase is not Phase.OVER:
            self.phase = Phase.ENDING

    def _ask_to_leave(self, child: Child, now: float) -> None:
        child.take(Step.STOP)
        child.kill_at = now + GRACE
        if child is not self.gateway and self._stop_at is not None:
            # What has had its stop_timeout gets no more grace on top.
            child.kill_at = max(now, min(child.kill_at, self._stop_at))
        self._actions.append(Terminate(child))

    def _kill(self, child: Child) -> None:
        child.kill_at = None
        self._killed.add(child)
        self._actions.append(Kill(child))

    def _living_workers(self) -> list[Child]:
        return [child for child in self.workers if child.alive]

    def _living(self) -> list[Child]:
        """Right to left: the gateway comes last."""
        return [child for child in (*self.workers, self.gateway) if child.alive]

    def _say(self, level: str, text: str) -> None:
        self._actions.append(Say(level, text))
