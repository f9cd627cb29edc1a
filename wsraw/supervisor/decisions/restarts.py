"""Sans-I/O. When a dead child is restarted, and what a crash loop is (as in OTP supervisors).

A death is early if it comes before the child is ready, or within `STABLE_AFTER` after that and
before any event: then the start is to blame. A later death has another cause, and says nothing
about whether the next process starts.

More than `intensity` early deaths within PERIOD are a crash loop. It ends when a child
that was started afterwards works: it stays up, or handles an event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from wsraw.supervisor.decisions.child import Child

FIRST_BACKOFF: Final = 0.1
"""Seconds of the first pause; doubled with each early death in a row."""

LONGEST_BACKOFF: Final = 30.0

GATEWAY_BACKOFF: Final = 5.0
"""Seconds of the longest pause for the gateway: without it no client is served."""

STABLE_AFTER: Final = 1.0
"""Seconds of being ready after which a death is not early."""

PERIOD: Final = 30.0
"""Seconds in which early deaths are counted; deaths further apart have separate causes."""

HANGS: Final = 5
"""The exit code of a worker in which a timer, or a function of call_soon, does not return."""

DEATHS_KEPT: Final = 100
"""Early deaths that may still be forgiven: the gateway reports handled events a little later."""


HUNG: Final = "hung"
"""It was ended because something took too long: a handler, its start, an answer."""

KILLED: Final = "killed"
"""It was killed by the supervisor for another reason."""

SIGNAL: Final = "signal"
"""It crashed, or another program killed it."""

FAILED: Final = "failed"
"""It exited with a code other than 0."""

EXITED: Final = "exited"
"""It exited with code 0, without being told to."""

RELOAD: Final = "reload"
"""It was replaced by a reload."""

RECYCLED: Final = "recycled"
"""It was replaced for another reason, as with max_events and max_memory."""

REASONS: Final = (HUNG, KILLED, SIGNAL, FAILED, EXITED, RELOAD, RECYCLED)
"""The reasons, as they are counted, why a process was replaced by another one."""


def reason_of(child: Child, code: int) -> str:
    """Why a child that was not told to leave has exited with this code."""
    if child.is_aborted or (code == HANGS and child.program and not child.program.is_foreign):
        return HUNG
    if child.is_killed:
        return KILLED
    return SIGNAL if code < 0 else FAILED if code else EXITED


class Restarts:
    """The deaths of the gateway, or of a pool's workers.

    `random` gives numbers from 0 to 1, so that children that died together do not come back
    together. With `at_once`, the first restart comes without a pause. `longest`: the longest pause.
    """

    def __init__(
        self,
        intensity: int,
        random: Callable[[], float],
        *,
        at_once: bool = False,
        longest: float = LONGEST_BACKOFF,
    ) -> None:
        self.longest = longest
        self.is_looping = False
        self.counts = dict.fromkeys(REASONS, 0)
        """How often a process was replaced, by reason."""
        self._intensity = intensity
        self._random = random
        self._at_once = at_once
        self._deaths: deque[float] = deque(maxlen=intensity + 1)
        self._recent_deaths: deque[tuple[Child, int, float]] = deque(maxlen=DEATHS_KEPT)

    def change(self, intensity: int) -> None:
        """Use another bound; earlier deaths still count."""
        self._intensity = intensity
        self._deaths = deque(self._deaths, maxlen=intensity + 1)

    def record_death(self, child: Child, was_ready_at: float | None, now: float) -> bool:
        """A child has died unasked: set its `spawn_at`. True if this death begins a crash loop."""
        if was_ready_at is not None and (child.is_proved or now - was_ready_at >= STABLE_AFTER):
            child.early_deaths = 0
            child.spawn_at = now + self._first_backoff()
            return False
        was_looping = self.is_looping
        self._deaths.append(now)
        self._recent_deaths.append((child, child.n, now))
        recent = [at for at in self._deaths if now - at <= PERIOD]
        self.is_looping = self.is_looping or len(recent) > self._intensity
        child.spawn_at = now + self._backoff(child)
        child.early_deaths += 1
        return self.is_looping and not was_looping

    def _backoff(self, child: Child) -> float:
        if self.is_looping:
            return self._jitter(self.longest)
        if not child.early_deaths:
            return self._first_backoff()
        return self._jitter(min(self.longest, FIRST_BACKOFF * 2 ** min(child.early_deaths, 16)))

    def _first_backoff(self) -> float:
        return 0.0 if self._at_once else self._jitter(FIRST_BACKOFF)

    def _jitter(self, backoff: float) -> float:
        return backoff * (0.5 + self._random() / 2)

    def forgive(self, n: int, now: float) -> bool:
        """Process `n`, which is already dead, has handled events: its death does not count. True if
        that ends a crash loop."""
        entry = next((each for each in self._recent_deaths if each[1] == n), None)
        if entry is None:
            return False
        self._recent_deaths.remove(entry)
        child, _, at = entry
        if child.n == n:
            child.early_deaths = 0
            child.spawn_at = min(child.spawn_at, now + FIRST_BACKOFF)
        # It started well, so earlier deaths do not count any more, either.
        return self._forget(at)

    def prove(self, child: Child) -> bool:
        """Note that a child works. True if that ends a crash loop."""
        child.is_proved = True
        child.early_deaths = 0
        return self._forget(child.spawned_at)

    def _forget(self, until: float) -> bool:
        """Forget the deaths up to a time."""
        was_looping = self.is_looping
        while self._deaths and self._deaths[0] <= until:
            self._deaths.popleft()
        self.is_looping = was_looping and len(self._deaths) > self._intensity
        return was_looping and not self.is_looping

    def reset(self) -> None:
        """Start counting from zero, because something has changed."""
        self.is_looping = False
        self._deaths.clear()
        self._recent_deaths.clear()
