"""I/O. Signals, and the end of a session on Windows: requests of the system to a run."""

from __future__ import annotations

import logging
import signal
import sys
from functools import partial
from typing import Any, Final

from wsraw.runtime import launch
from wsraw.supervisor.control import session_end
from wsraw.supervisor.control.run import ControlledRun
from wsraw.supervisor.decisions.selection import which

log = logging.getLogger("wsraw.supervisor")

REPEATED: Final = 0.1
"""Seconds within which a second signal only repeats the first one."""


class Signals:
    """Handles signals in the loop of the run: the signal handler only enqueues."""

    def __init__(self, run: ControlledRun) -> None:
        self._run = run
        self._before: dict[signal.Signals, Any] = {}
        self._is_reload_due = False
        """Whether a SIGHUP has come and not been handled yet."""
        self._count = 0
        """The number of signals that stop the run."""
        self._first_at = 0.0

    def begin(self) -> None:
        """Catch signals from now on. Must be called in the main thread."""
        self._before = {number: signal.signal(number, self.catch) for number in handled()}
        launch.unblock_signals()
        if sys.platform == "win32":
            session_end.watch(self.end_session)

    def end(self) -> None:
        """Restore the former signal handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def catch(self, number: int, frame: object) -> None:
        """Enqueue a signal, which may come at any instant."""
        if signal.Signals(number).name == "SIGHUP":
            # One reload handles all signals that came before it began; one by one, each would start
            # a worker and end the one before.
            if self._is_reload_due:
                return
            self._is_reload_due = True
        self._run.loop.call_soon_threadsafe(partial(self.handle, number))

    def handle(self, number: int) -> None:
        """Handle a signal. The first SIGINT or SIGTERM stops gracefully, the second at once."""
        name = signal.Signals(number).name
        run, now = self._run, self._run.loop.now
        if name in ("SIGHUP", "SIGUSR2", "SIGTTIN", "SIGTTOU"):
            try:
                self._change(name)
            except Exception:
                # As for a request: the run continues.
                log.exception("%s was not handled, by a bug in wsraw", name)
            return
        self._count += 1
        if self._count == 1:
            self._first_at = now
            run.stop(name, "stopping gracefully; a second signal stops at once")
        elif now - self._first_at < REPEATED:
            # GNU timeout signals the process and then its group; so do some service managers.
            self._count = 1
        elif self._count == 2:
            run.ended_by = f"a second {name}"
            run.log.say("warning", f"{name} again: stopping at once")
            run.act(run.policy.stop_now(128 + number, now))

    def _change(self, name: str) -> None:
        """Handle a signal that asks for new workers, or a new gateway."""
        run = self._run
        if name == "SIGHUP":
            self._is_reload_due = False
            run.log.say("info", "SIGHUP: reloading")
            run.reload([name for name, pool in run.policy.pools.items() if pool.programs])
        elif name == "SIGUSR2":
            why = run.upgrade()
            if why:
                run.log.say("error", f"SIGUSR2: no upgrade: {why}")
        else:
            self._scale(name, 1 if name == "SIGTTIN" else -1)

    def _scale(self, name: str, change: int) -> None:
        run = self._run
        meant = which(run.policy.pools.values(), "")
        if isinstance(meant, str):
            run.log.say("warning", f"{name}: {meant}; use `wsraw scale`")
            return
        count = max(1, len(run.policy.workers) + change)
        why = run.open_files.refusal_to_scale(count) if change > 0 else ""
        if why:
            run.log.say("warning", f"{name}: {why}")
            return
        run.log.say("info", f"{name}: scaling to {count}")
        run.act(run.policy.scale(count, run.loop.now, *meant))

    def end_session(self, why: str, seconds: float | None) -> None:
        """Handle the end of a session; called in another thread. `seconds`: the deadline of the
        stop, if it is not the usual one."""
        self._run.loop.call_soon_threadsafe(partial(self._stop, why, seconds))

    def _stop(self, why: str, seconds: float | None) -> None:
        if seconds is not None and self._run.settings.stop_timeout:
            seconds = min(seconds, self._run.settings.stop_timeout)
        self._run.stop(why, "stopping", seconds)


def handled() -> list[signal.Signals]:
    """The signals we handle. nohup ignores SIGHUP on purpose, so it stays ignored."""
    names = ["SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR2"]
    numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
