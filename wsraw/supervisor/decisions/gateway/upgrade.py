"""Sans-I/O. The upgrade of the gateway: a successor that takes over, and the remains of earlier
gateways.

The gateways decide between themselves which of them serves (gateway/handover/dialog.py). The
supervisor starts the successor and relies on its first record on the control link: the successor
sends none before it serves. If the successor ends without a record, either the old gateway
continues, and says so, or both are gone: the old one may have handed over a moment before. So while
the successor may still send a record, the death of the old gateway does not end the service. And
the death of the successor means nothing until the old gateway has said that it continues, or has
ended.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from wsraw.config.settings import Settings
from wsraw.supervisor.decisions.child import Child, ChildStep

START: Final = 60.0
"""Seconds for a successor to be ready, where start_timeout sets no limit."""

MARGIN: Final = 5.0
"""Seconds beyond the gateways' own deadlines after which a process is killed."""


DECIDED_WITHIN: Final = 5.0
"""Seconds within which an old gateway says that it continues, or ends. If it hangs, it counts as
continuing, and the health check finds out later."""


class FailedSuccessor(NamedTuple):
    """The exit of a successor, before the old gateway has said what it means."""

    why: str
    until: float
    """When the old gateway counts as continuing."""


class Fallen(NamedTuple):
    """The exit of the old gateway, before its successor has decided."""

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
        """Whether the old gateway has said that it continues."""

    @property
    def is_under_way(self) -> bool:
        """Whether there is a successor that may take over, or whose end is not explained yet."""
        return self.successor is not None or self.failed is not None

    def children(self) -> list[Child]:
        """The gateways that may have a process."""
        return [*self.leaving, *([self.successor] if self.successor is not None else [])]

    def begin(self, old: Child, now: float) -> Child:
        """A child for the successor, to be spawned now."""
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
        """The successor serves: it becomes the gateway, and is returned."""
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
        """A process has exited; False if it belongs to none of these gateways."""
        if child is self.successor:
            self.successor = None
            return True
        if child in self.leaving:
            self.leaving.remove(child)
            return True
        return False
