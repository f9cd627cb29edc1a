"""I/O. The common part of both shells: the objects of a worker, and its end."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from wsraw.link.zmtp import REFUSED
from wsraw.runtime.bell import Bell
from wsraw.runtime.clock import monotonic
from wsraw.workers import api
from wsraw.workers.connection import FORKED
from wsraw.workers.loading.handlers import IntervalTimer, offer
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells import fork
from wsraw.workers.shells.calls import Calls
from wsraw.workers.shells.dealer import Dealer, LinkKeys
from wsraw.workers.shells.local_dealer import LocalDealer

SEND_AFTER: Final = 0.001
"""Seconds that an ack may wait for further handlers, so that the worker does not look stuck."""

LEAVE_WITHIN: Final = 4.0
"""Seconds that a spawned worker, asked to end, waits for the gateway's drain. The supervisor kills
it a second later; on_stop must finish by then."""

LOOK_FOR_GATEWAY: Final = 0.1
"""Seconds between two checks for a gateway that could drain us."""

LAST_BATCH: Final = 2.0
"""Seconds to wait until a slow gateway has taken our last batch."""

WARN_AFTER: Final = 5.0
"""Seconds without a gateway until a warning."""

EXIT_STOPPED: Final = 0
EXIT_START_FAILED: Final = 1
EXIT_REJECTED: Final = 4
"""The gateway has rejected this worker."""

EXIT_HANGS: Final = 5
"""A timer, or a function of call_soon, has not returned."""


def is_local(endpoint: str, is_known: bool) -> bool:
    """Whether the gateway is on this machine: its endpoint is ipc://, or the supervisor or the run
    folder has given it. Between any other tcp:// endpoint and us there may be a network, for which
    libzmq has heartbeats and encryption."""
    return is_known or endpoint.startswith("ipc://")


def connect(
    endpoint: str, bell: Bell, keys: LinkKeys | None = None, *, is_known: bool = False
) -> Dealer:
    """A DEALER that begins to connect to this endpoint; `is_known`: as for `is_local`. Raises
    OSError if the endpoint is invalid."""
    if is_local(endpoint, is_known):
        return LocalDealer(endpoint, bell)
    # Imported here, because libzmq takes 20 ms.
    from wsraw.workers.shells.remote_dealer import RemoteDealer

    return RemoteDealer(endpoint, bell, keys)


class Stopper:
    """The way in which signals and threads reach a running shell."""

    def __init__(self, bell: Bell) -> None:
        self.asked = False
        self.is_leaving = False
        self.in_session: Callable[[], bool] = bool
        self.calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.ring = bell.ring

    def leave(self) -> None:
        """The supervisor stops the run, or is gone. In a session, wait until the gateway drains us,
        after its clients have left, so that their on_close is handled; otherwise stop now."""
        if not self.in_session():
            self.stop()
            return
        if self.is_leaving:
            return
        self.is_leaving = True
        try:
            threading.Thread(target=self._stop_later, name="wsraw-leave", daemon=True).start()
        except RuntimeError:
            # No thread can be started.
            self.stop()

    def _stop_later(self) -> None:
        until = monotonic() + LEAVE_WITHIN
        while not self.asked and monotonic() < until:
            time.sleep(LOOK_FOR_GATEWAY)
            self.ring()
        self.stop()

    def stop(self) -> None:
        """Finish the running handlers, end the session, and exit."""
        self.asked = True
        self.ring()

    def call_soon(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Call a function between handlers, in their thread."""
        self.calls.append((function, args))
        self.ring()


class Shell:
    """The parts of a worker, as both shells use them."""

    def __init__(self, runtime: Runtime, dealer: Dealer, stopper: Stopper) -> None:
        self.calls = Calls(0.0, bool)
        """Functions that are called outside events; in a process of ours they are watched."""
        self.runtime = runtime
        self.dealer = dealer
        self.stopper = stopper
        self.failed = False
        """Whether on_start has raised."""
        now = monotonic()
        self._warn_at = now + WARN_AFTER
        self._probe_at = now + dealer.probe_every
        offer(runtime.handlers.timers)

    def _started_well(self) -> None:
        """Tell the gateway that on_start is done, so that events come."""
        if not self.failed:
            self.runtime.link.started()
            self.runtime.output_ready()

    def _now(self) -> float:
        """The time of timers."""
        return monotonic()

    def _is_turn(self, timer: IntervalTimer, told: Callable[[IntervalTimer], object]) -> bool:
        """Whether a due timer may be called. A timer of the whole pool may be called only when the
        gateway has said so; this asks the gateway, and then `told` is called."""
        if not timer.name or timer.is_ours:
            return True

        def answered(wait: float | None) -> None:
            timer.told(wait, self._now())
            told(timer)

        # The timer is not due until there is an answer.
        timer.when = math.inf
        self.runtime.questions.turn(timer.name, timer.seconds, answered)
        return False

    def _tell_times(self) -> None:
        """Report how long handlers have taken, if the gateway wants to know; otherwise keep the
        figures for the next time."""
        runtime = self.runtime
        times, every = runtime.times, runtime.link.stats_every
        times.due_at = math.inf
        if every and runtime.is_ready:
            times.every = every
            for stats in times.take():
                runtime.link.command(stats)

    def _lost(self) -> None:
        """The connection is lost: queued and unsent data belongs to a session that is over."""
        if self.dealer.why.startswith(REFUSED):
            log.error("the link to the gateway was %s", self.dealer.why)
        self.runtime.lost()
        self.dealer.reconnect()

    def stop_if_abandoned(self) -> bool:
        """Stop if we wait for a drain but the gateway is gone."""
        if self.stopper.is_leaving and not self.dealer.is_connected():
            self.stopper.asked = True
            return True
        return False

    def is_over(self) -> bool:
        """Whether no further handler may be started."""
        runtime = self.runtime
        return (
            self.stopper.asked
            or self.failed
            or bool(runtime.rejection)
            or (runtime.is_draining and not runtime.queue)
        )

    def look_if_alone(self) -> float:
        """Without a session, announce this worker to the gateway again, and warn once that none
        answers. Returns the seconds until the next check, also in a session."""
        now, dealer = monotonic(), self.dealer
        if self.runtime.link.session:
            self._warn_at = math.inf
            self._probe_at = now + dealer.probe_every
        elif now >= self._probe_at:
            self._probe_at = now + dealer.probe_every
            if not self.is_over():
                dealer.send(b"")
        if now >= self._warn_at:
            self._warn_at = math.inf
            why = dealer.why
            hint = f" ({why})" if why else ""
            log.warning("waiting for a gateway at %s%s", dealer.endpoint, hint)
        return max(0.0, min(self._warn_at, self._probe_at) - now)

    def forked(self) -> None:
        """Release the worker in a forked child of its process."""
        api.uninstall(FORKED)
        self.runtime.forked(fork.end)
        self.dealer.bell.close()
        self.dealer.forked()

    def exit_code(self) -> int:
        """The exit code; logs the reason of a rejection."""
        if self.runtime.rejection:
            log.error("the gateway rejected this worker: %s", self.runtime.rejection)
            return EXIT_REJECTED
        return EXIT_START_FAILED if self.failed else EXIT_STOPPED
