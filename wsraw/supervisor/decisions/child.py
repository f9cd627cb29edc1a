"""Sans-I/O. A child of the run, and the steps of its life::

    DEAD ──spawn──▶ STARTING ──ready──▶ READY ──stop──▶ STOPPING ──exit──▶ DEAD
                        │                 │
                        └──────exit───────┴──▶ DEAD ──give up──▶ FAILED

It begins DEAD. That it is ready is news of the gateway, that it has exited is the system's.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from wsraw.config.programs import Program
from wsraw.link.records import DEFAULT_POOL


class ChildState(Enum):
    """Where a child is in its life."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"
    FAILED = "failed"


class Step(Enum):
    """What can happen to a child."""

    SPAWN = "spawn"
    BE_READY = "ready"
    STOP = "stop"
    EXIT = "exit"
    GIVE_UP = "give up"


S = ChildState

TRANSITIONS: Final[dict[tuple[ChildState, Step], ChildState]] = {
    (S.DEAD, Step.SPAWN): S.STARTING,
    (S.STARTING, Step.BE_READY): S.READY,
    # A worker says hello again to each new gateway, and its news may cross our stop.
    (S.READY, Step.BE_READY): S.READY,
    (S.STOPPING, Step.BE_READY): S.STOPPING,
    (S.STARTING, Step.STOP): S.STOPPING,
    (S.READY, Step.STOP): S.STOPPING,
    (S.STOPPING, Step.STOP): S.STOPPING,
    (S.STARTING, Step.EXIT): S.DEAD,
    (S.READY, Step.EXIT): S.DEAD,
    (S.STOPPING, Step.EXIT): S.DEAD,
    (S.DEAD, Step.GIVE_UP): S.FAILED,
}


class Child:
    """A place in the run: the gateway, or one of the workers. `n` counts its processes."""

    __slots__ = (
        "early_deaths",
        "hello_by",
        "is_proved",
        "kill_at",
        "last_reason",
        "n",
        "outdated",
        "pool",
        "program",
        "ready_at",
        "replace_at",
        "restarts",
        "spawn_at",
        "spawned_at",
        "state",
        "why_killed",
    )

    def __init__(self, program: Program | None, pool: str = DEFAULT_POOL) -> None:
        """The gateway has no program, and is in no pool."""
        self.program = program
        self.pool = pool
        self.state = ChildState.DEAD
        self.n = 0
        self.early_deaths = 0
        """In a row: see restarts.py."""
        self.restarts = 0
        """How often it died and was started again, of itself."""
        self.last_reason = ""
        """Of the last of those deaths, in words."""
        self.spawn_at = 0.0
        self.spawned_at = 0.0
        self.ready_at: float | None = None
        self.is_proved = False
        """It has been up for long enough to say that it works."""
        self.hello_by: float | None = None
        """Until when a worker must have said hello: after its start, or to a new gateway."""
        self.kill_at: float | None = None
        self.why_killed = ""
        """Why it is to be killed at `kill_at`, or was killed; "" is no more than bad manners."""
        self.outdated = ""
        """Why its process is to be replaced by a new one; "" for no reason."""
        self.replace_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether a process stands behind it."""
        return self.state in (S.STARTING, S.READY, S.STOPPING)

    def take(self, step: Step) -> None:
        """Raises KeyError for a step that is not in the table: a fault of ours."""
        self.state = TRANSITIONS[self.state, step]
