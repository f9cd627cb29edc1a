"""I/O. What both shells have in common: the parts of a worker, and how it ends."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from wsraw.workers.loading.handlers import Timer
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells.link_socket import Bell, Dealer

SEND_AFTER: Final = 0.001
"""Seconds that an ack may wait for the handlers behind it; so no worker looks stuck that is not."""

LEAVE_WITHIN: Final = 4.0
"""Seconds that a spawned worker waits for the gateway's drain once it should end. The supervisor
kills it a second after that, which is what on_stop has."""

LOOK_FOR_GATEWAY: Final = 0.1
"""Seconds between two looks whether there is a gateway yet that could drain us."""

LAST_BATCH: Final = 2.0
"""Seconds that a gateway which does not read is given to take our last batch."""

WARN_AFTER: Final = 5.0
"""Seconds without a gateway after which we say what we are waiting for."""

EXIT_STOPPED: Final = 0
EXIT_START_FAILED: Final = 1
EXIT_SHUT_OUT: Final = 4
"""The gateway does not let us in."""


class Stopper:
    """How the rest of the process, signals and threads, reaches a running shell."""

    def __init__(self, bell: Bell) -> None:
        self.asked = False
        self.is_leaving = False
        self.in_session: Callable[[], bool] = bool
        self.calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self.ring = bell.ring

    def leave(self) -> None:
        """The supervisor is gone, or tells all to end: the gateway will drain us when clients have
        been told, so that their on_close finds somebody. Without a session, end now."""
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
        until = time.monotonic() + LEAVE_WITHIN
        while not self.asked and time.monotonic() < until:
            time.sleep(LOOK_FOR_GATEWAY)
            self.ring()
        self.stop()

    def stop(self) -> None:
        """Finish the running handlers, say bye, and end."""
        self.asked = True
        self.ring()

    def call_soon(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        """Call a function in the thread of the handlers, between them."""
        self.calls.append((function, args))
        self.ring()


class Due:
    """When a timer is due. What was missed is skipped: no burst after a long handler."""

    __slots__ = ("timer", "when")

    def __init__(self, timer: Timer, now: float) -> None:
        self.timer = timer
        self.when = now + timer.seconds

    def advance(self, now: float) -> None:
        """It was called; when again?"""
        self.when = max(self.when + self.timer.seconds, now)


class Shell:
    """A worker's parts."""

    def __init__(self, runtime: Runtime, dealer: Dealer, stopper: Stopper, endpoint: str) -> None:
        self.runtime = runtime
        self.dealer = dealer
        self.stopper = stopper
        self.failed = False
        """on_start has raised: there is no use in going on."""
        self._endpoint = endpoint
        self._hint = ""
        if endpoint.startswith("tcp://"):
            # With a wrong key of the gateway the handshake ends before it asks about ours.
            self._hint = (
                "; if there is one, its log says whether it lets our key in; if it says nothing, "
                "--gateway-key is not its key, or the address is wrong"
            )
        self._warn_at = time.monotonic() + WARN_AFTER

    def _started_well(self) -> None:
        """on_start is through: only now the gateway may count on us, and send events."""
        if not self.failed:
            self.runtime.link.started()
            self.runtime.output_ready()

    def stop_if_abandoned(self) -> bool:
        """Whether we are to leave, and the gateway that would drain us is gone: so we end now."""
        if self.stopper.is_leaving and not self.dealer.is_connected():
            self.stopper.asked = True
            return True
        return False

    def is_over(self) -> bool:
        """Whether nothing more is to be started."""
        runtime = self.runtime
        return (
            self.stopper.asked
            or self.failed
            or bool(runtime.shut_out)
            or (runtime.is_draining and not runtime.queue)
        )

    def warn_if_alone(self, now: float) -> float:
        """Say once that no gateway answers. When to ask again, as seconds from now."""
        if self.runtime.is_ready:
            self._warn_at = float("inf")
        elif now >= self._warn_at:
            self._warn_at = float("inf")
            log.warning("waiting for a gateway at %s%s", self._endpoint, self._hint)
        return self._warn_at - now

    def exit_code(self) -> int:
        """What the process ends with; says why, where that is not obvious."""
        if self.runtime.shut_out:
            log.error("the gateway rejected this worker: %s", self.runtime.shut_out)
            return EXIT_SHUT_OUT
        return EXIT_START_FAILED if self.failed else EXIT_STOPPED
