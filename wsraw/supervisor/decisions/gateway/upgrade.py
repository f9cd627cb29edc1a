"""Sans-I/O. The upgrade of the gateway: a successor that takes over, and what is left of gateways
before it.

The gateways decide between themselves which of them serves (gateway/handover/dialog.py). The
supervisor starts the successor and believes the first word that it says on the control link: it
says none before it serves. If the successor ends without a word, the old gateway has gone on, and
says so, or both are gone: the old one may have left to it a moment before. So the death of the old
one is not the death of the gateway while the successor may still speak, and the death of the
successor tells nothing until the old one has said that it goes on, or has ended.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from wsraw.config.settings import Settings
from wsraw.supervisor.decisions.child import Child, ChildStep

START: Final = 60.0
"""Seconds for a successor to be ready, where start_timeout sets no limit."""

MARGIN: Final = 5.0
"""Seconds beyond the deadlines of the gateways' own, after which a process is killed."""


DECIDED_WITHIN: Final = 5.0
"""Seconds within which an old gateway says that it goes on, or ends. It does if it hangs, and that
is found out later."""


class FailedSuccessor(NamedTuple):
    """The exit of a successor, of which the old gateway has not told what it means."""

    why: str
    until: float
    """When it is taken to go on."""


class Fallen(NamedTuple):
    """The exit of the old gateway, while its successor has not decided."""

    code: int
    reason: str
    was_asked: bool
    was_ready_at: float | None


class Upgrade:
    """The gateways beside the present one."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.successor: Child | None = None
        self.leaving: list[Child] = []
        """Earlier gateways that may still have TLS connections."""
        self.fallen: Fallen | None = None
        self.failed: FailedSuccessor | None = None
        self.has_kept = False
        """Whether the old gateway has said that it goes on."""

    @property
    def is_under_way(self) -> bool:
        """Whether there is a successor that may take over, or whose end may mean anything."""
        return self.successor is not None or self.failed is not None

    def children(self) -> list[Child]:
        """The gateways that may have a process."""
        return [*self.leaving, *([self.successor] if self.successor is not None else [])]

    def begin(self, old: Child, now: float) -> Child:
        """A child for the successor, which is to be spawned now."""
        self.has_kept = False
        child = self.successor = Child(None)
        child.n = old.n + 1
        child.take(ChildStep.SPAWN)
        child.spawned_at = now
        start, most = self.settings.start_timeout or START, self.settings.upgrade_timeout
        child.kill_at = now + start + most + MARGIN if most else math.inf
        child.why_killed = "it has not taken over in time"
        return child

    def take_over(self, old: Child, now: float) -> Child:
        """The successor serves: it is the gateway, which is returned."""
        child = self.successor
        assert child is not None
        self.successor, self.fallen = None, None
        child.take(ChildStep.BE_READY)
        child.ready_at = now
        child.kill_at, child.why_killed = math.inf, ""
        child.restarts, child.last_death = old.restarts, old.last_death
        child.is_proved, child.early_deaths = old.is_proved, old.early_deaths
        if old.alive:
            old.take(ChildStep.STOP)
            settings = self.settings
            old.kill_at = now + settings.upgrade_linger + settings.upgrade_spread + MARGIN
            self.leaving.append(old)
        return child

    def exited(self, child: Child) -> bool:
        """A process has exited; False: it is none of these."""
        if child is self.successor:
            self.successor = None
            return True
        if child in self.leaving:
            self.leaving.remove(child)
            return True
        return False
