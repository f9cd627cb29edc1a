"""I/O. The trouble: workers killed, stopped and replaced at given rates, each in a thread; and who
is above them killed, too.

Only processes that the run itself names as its workers are touched, and a name is asked for anew
each time.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from wsraw.tools.drill.plan import Plan

JOIN_TIMEOUT: Final = 60.0
"""Seconds that a reload under way at the end may take."""

CAN_STOP: Final = hasattr(signal, "SIGSTOP")
KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)
"""On Windows os.kill with SIGTERM is TerminateProcess, which is as hard."""


class Target(Protocol):
    """The run that is troubled; asked by several threads. Methods raise TroubleError."""

    def workers(self) -> Sequence[int]:
        """The pids of its worker processes now."""

    def gateway(self) -> int:
        """The pid of its gateway; 0 if that is not up, or not for long enough to be killed."""

    def kill_supervisor(self) -> None:
        """Kill that, and begin anew; returns when clients are served again."""

    def reload(self) -> None:
        """Replace all workers; returns when that is done."""

    def scale(self, count: int) -> None:
        """Have so many workers; returns when that is done."""


class TroubleError(Exception):
    """The run did not do what it was asked to; the text says why."""


class Trouble:
    """All trouble of one drill. `start` and `stop` are called once each."""

    def __init__(self, plan: Plan, target: Target, seed: int | None = None) -> None:
        self.kills = 0
        self.stops = 0
        self.reloads = 0
        self.scales = 0
        self.gateway_kills = 0
        self.supervisor_kills = 0
        self.failures: list[str] = []
        """What was asked for and did not happen, in words."""
        self._plan = plan
        self._target = target
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._is_load_over = threading.Event()
        self._gate = threading.Lock()
        """Held while the gateway is killed, and while the load ends."""
        self._supervisor_deaths = 0
        """Begun; whoever asks the run for something meanwhile may be refused."""
        self._threads = [
            threading.Thread(target=self._repeat, args=(every, act, until), daemon=True)
            for every, act, until in (
                (plan.kill_every, self._kill, self._over),
                (plan.stop_every if CAN_STOP else 0.0, self._stop, self._over),
                (plan.reload_every, self._reload, self._over),
                (plan.scale_every, self._scale, self._over),
                (plan.kill_gateway_every, self._kill_gateway, self._is_load_over),
                (plan.kill_supervisor_every, self._kill_supervisor, self._is_load_over),
            )
            if every
        ]

    def start(self) -> None:
        """Begin now."""
        for thread in self._threads:
            thread.start()

    def calm(self) -> None:
        """The load is over. Trouble of workers goes on; but what is still to be heard, and the
        goodbyes, need a gateway."""
        with self._gate:
            self._is_load_over.set()

    def stop(self) -> None:
        """End it, and wait until what is under way is over; nobody stays stopped."""
        self._over.set()
        self._is_load_over.set()
        until = time.monotonic() + JOIN_TIMEOUT
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    self.failures.append("a reload or a change of scale did not end")

    def _repeat(self, every: float, act: Callable[[], None], until: threading.Event) -> None:
        beat = time.monotonic()
        while True:
            # A beat that is missed, as by a reload that takes long, is skipped.
            beat = max(beat + every, time.monotonic())
            if until.wait(beat - time.monotonic()):
                break
            deaths = self._supervisor_deaths
            try:
                act()
            except TroubleError as error:
                if deaths == self._supervisor_deaths and not deaths % 2:
                    self.failures.append(str(error))

    def _kill(self) -> None:
        if self._signal(self._choose(), KILL):
            self.kills += 1

    def _stop(self) -> None:
        pid = self._choose()
        if not self._signal(pid, signal.SIGSTOP):
            return
        self.stops += 1
        self._over.wait(self._plan.stop_for)
        try:
            alive = pid in self._target.workers()
        except TroubleError:
            # Better to wake up a stranger than to leave a worker asleep.
            alive = True
        if alive:
            self._signal(pid, signal.SIGCONT)

    def _kill_gateway(self) -> None:
        pid = self._target.gateway()
        with self._gate:
            if not self._is_load_over.is_set() and self._signal(pid, KILL):
                self.gateway_kills += 1

    def _kill_supervisor(self) -> None:
        # Odd while it is dead.
        self._supervisor_deaths += 1
        try:
            self._target.kill_supervisor()
        except TroubleError as error:
            # Here, as it is one in any case.
            self.failures.append(str(error))
        self._supervisor_deaths += 1
        self.supervisor_kills += 1

    def _reload(self) -> None:
        self._target.reload()
        self.reloads += 1

    def _scale(self) -> None:
        """One fewer, then as many as before, by turns."""
        few = self.scales % 2 == 0
        self._target.scale(max(1, self._plan.workers - 1) if few else self._plan.workers)
        self.scales += 1

    def _choose(self) -> int:
        workers = self._target.workers()
        return self._random.choice(workers) if workers else 0

    def _signal(self, pid: int, number: int) -> bool:
        """Whether there was somebody to be told; 0 is nobody."""
        if pid <= 0:
            return False
        try:
            os.kill(pid, number)
        except OSError:
            # It has just left by itself.
            return False
        return True
