"""I/O. Fault injection: kills, suspensions, reloads, upgrades at fixed intervals, each in a thread.

Only processes in the run's own list are affected; the list is read again each time.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.control import RunControl

JOIN_TIMEOUT: Final = 60.0
"""Seconds that a reload in progress at the end may take."""

CAN_SUSPEND: Final = hasattr(signal, "SIGSTOP")
KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)
"""On Windows os.kill with SIGTERM is TerminateProcess, which cannot be caught either."""


class FaultInjection:
    """All faults of one drill; without a target there are none. `start` and `stop` are called once
    each."""

    def __init__(self, plan: Plan, target: RunControl | None) -> None:
        self.kills = 0
        self.stops = 0
        self.reloads = 0
        self.gateway_kills = 0
        self.upgrades = 0
        self.failures: list[str] = []
        """Requests that the run did not carry out."""
        self._plan = plan
        self._target: RunControl
        if target is not None:
            self._target = target
        self._over = threading.Event()
        self._is_load_over = threading.Event()
        self._gateway_lock = threading.Lock()
        """Held while a gateway is killed, and while the load ends."""
        self._threads = [
            threading.Thread(target=self._repeat, args=(every, inject, until), daemon=True)
            for every, inject, until in (
                (plan.kill_every, self._kill, self._over),
                (plan.stop_every if CAN_SUSPEND else 0.0, self._suspend, self._over),
                (plan.reload_every, self._reload, self._over),
                (plan.kill_gateway_every, self._kill_gateway, self._is_load_over),
                (plan.upgrade_every, self._upgrade, self._is_load_over),
            )
            if every and target is not None
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def load_ended(self) -> None:
        """Kill no more gateways, because the last answers and closes need one."""
        with self._gateway_lock:
            self._is_load_over.set()

    def stop(self) -> None:
        """End all faults, and wait for those in progress; no worker stays suspended."""
        self._over.set()
        self._is_load_over.set()
        until = time.monotonic() + JOIN_TIMEOUT
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, until - time.monotonic()))
                if thread.is_alive():
                    self.failures.append("a reload or an upgrade did not end")

    def _repeat(self, every: float, inject: Callable[[], None], until: threading.Event) -> None:
        due = time.monotonic()
        while True:
            # Times that pass during a long reload are skipped.
            due = max(due + every, time.monotonic())
            if until.wait(due - time.monotonic()):
                break
            try:
                inject()
            except DrillError as error:
                self.failures.append(str(error))

    def _kill(self) -> None:
        self.kills += self._signal(self._choose(self._target.proved()), KILL)

    def _suspend(self) -> None:
        pid = self._choose(self._target.workers())
        if not self._signal(pid, signal.SIGSTOP):
            return
        self.stops += 1
        self._over.wait(self._plan.stop_for)
        try:
            alive = pid in self._target.workers()
        except DrillError:
            # It is better to signal another process than to leave a worker suspended.
            alive = True
        if alive:
            self._signal(pid, signal.SIGCONT)

    def _kill_gateway(self) -> None:
        pid = self._target.gateway()
        with self._gateway_lock:
            if not self._is_load_over.is_set():
                self.gateway_kills += self._signal(pid, KILL)

    def _reload(self) -> None:
        self._target.reload()
        self.reloads += 1

    def _upgrade(self) -> None:
        pythons = self._plan.upgrade_to
        try:
            self._target.upgrade(pythons[self.upgrades % len(pythons)] if pythons else "")
        except DrillError:
            # A gateway that was killed, or is being started, cannot be upgraded.
            if not self._plan.kill_gateway_every:
                raise
        else:
            self.upgrades += 1

    @staticmethod
    def _choose(workers: Sequence[int]) -> int:
        return random.choice(workers) if workers else 0

    def _signal(self, pid: int, number: int) -> bool:
        """Send a signal; return whether there was such a process. 0 means none."""
        if pid <= 0:
            return False
        try:
            os.kill(pid, number)
        except OSError:
            # The process has just ended by itself.
            return False
        return True
