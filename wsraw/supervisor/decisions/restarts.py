"""Sans-I/O. When a dead child comes back, and what a crash loop is, in OTP's words.

A death counts when it comes before the child is ready, or within `STABLE_AFTER` of that without any
event given to it: then its start is to blame. What dies later was killed, by somebody or by a
message, and says nothing about whether the next one will get up.

More than `intensity` deaths that count within `period` seconds are a crash loop. It ends when a
child that was started after them proves that it works: by staying up, or by an event it handled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from wsraw.supervisor.decisions.child import Child

FIRST_BACKOFF: Final = 0.1
"""Seconds; doubled with each death in a row that counts."""

LONGEST_BACKOFF: Final = 30.0

GATEWAY_BACKOFF: Final = 5.0
"""The same for the gateway. While there is none nobody is served, and a try costs little: what it
misses, a certificate's file for example, may be back any moment."""

STABLE_AFTER: Final = 1.0
"""Seconds of being ready after which a death is no crash loop: somebody killed it."""

JUDGED_KEPT: Final = 100
"""Deaths that may still be pardoned; the news of the events it had is milliseconds behind."""


class Restarts:
    """The deaths of one kind of children: of the gateway, or of a pool's workers.

    `random` gives numbers from 0 to 1: children that died together must not come back together.
    With `at_once` the first restart of a child does not wait. `longest`: the longest pause.
    """

    def __init__(
        self,
        intensity: int,
        period: float,
        random: Callable[[], float],
        *,
        at_once: bool = False,
        longest: float = LONGEST_BACKOFF,
    ) -> None:
        self.longest = longest
        self.is_looping = False
        self._intensity = intensity
        self._period = period
        self._random = random
        self._at_once = at_once
        self._deaths: deque[float] = deque(maxlen=intensity + 1)
        self._judged: deque[tuple[Child, int, float]] = deque(maxlen=JUDGED_KEPT)

    def bury(self, child: Child, was_ready_at: float | None, now: float) -> bool:
        """A child has died of itself: its `spawn_at` says when it comes back. True if this death
        begins a crash loop."""
        if was_ready_at is not None and (child.is_proved or now - was_ready_at >= STABLE_AFTER):
            child.early_deaths = 0
            child.spawn_at = now + self._first_backoff()
            return False
        was_looping = self.is_looping
        self._deaths.append(now)
        self._judged.append((child, child.n, now))
        self._judge(now)
        child.spawn_at = now + self._backoff(child)
        child.early_deaths += 1
        return self.is_looping and not was_looping

    def _judge(self, now: float) -> None:
        recent = [at for at in self._deaths if now - at <= self._period]
        self.is_looping = self.is_looping or len(recent) > self._intensity

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

    def pardon(self, n: int, now: float) -> bool:
        """Process `n`, dead already, is now known to have had events: its death does not count.
        True if that ends a crash loop."""
        for entry in self._judged:
            child, number, at = entry
            if number == n:
                break
        else:
            return False
        self._judged.remove(entry)
        if child.n == n:
            child.early_deaths = 0
            child.spawn_at = min(child.spawn_at, now + FIRST_BACKOFF)
        # Its start went well, and so do those after the deaths before it.
        return self._forget(at)

    def prove(self, child: Child) -> bool:
        """This child works. True if that ends a crash loop."""
        child.is_proved = True
        child.early_deaths = 0
        return self._forget(child.spawned_at)

    def _forget(self, until: float) -> bool:
        """Deaths up to then say nothing any more: what was started after them works."""
        was_looping = self.is_looping
        while self._deaths and self._deaths[0] <= until:
            self._deaths.popleft()
        self.is_looping = was_looping and len(self._deaths) > self._intensity
        return was_looping and not self.is_looping

    def reset(self) -> None:
        """Somebody has changed something: the count begins anew."""
        self.is_looping = False
        self._deaths.clear()
        self._judged.clear()
