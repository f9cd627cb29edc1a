"""Sans-I/O. A child process of the run and its states::

    DEAD ──spawn──▶ STARTING ──ready──▶ READY ──stop──▶ STOPPING ──exit──▶ DEAD
                        │                 │
                        └──────exit───────┴──▶ DEAD ──give up──▶ FAILED

A child begins DEAD. The gateway tells that a worker is ready; the system tells that it has exited.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from wsraw.config.programs import Program
from wsraw.link.records import DEFAULT_POOL


class ChildState(Enum):
    """State of a child."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"
    FAILED = "failed"


class Step(Enum):
    """Steps between the states."""

    SPAWN = "spawn"
    BE_READY = "ready"
    STOP = "stop"
    EXIT = "exit"
    GIVE_UP = "give up"


S = ChildState

TRANSITIONS: Final[dict[tuple[ChildState, Step], ChildState]] = {
    (S.DEAD, Step.SPAWN): S.STARTING,
    (S.STARTING, Step.BE_READY): S.READY,
    # A worker says hello to each new gateway, and that may cross our stop.
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
    """A slot of the run: the gateway, or one worker. `n` is the number of its present process."""

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
        """`program` is None for the gateway, which has no pool either."""
        self.program = program
        self.pool = pool
        self.state = ChildState.DEAD
        self.n = 0
        self.early_deaths = 0
        """Early deaths in a row; see restarts.py."""
        self.restarts = 0
        """How often it died unasked and was started again."""
        self.last_reason = ""
        """Why it died the last time, as text."""
        self.spawn_at = 0.0
        self.spawned_at = 0.0
        self.ready_at: float | None = None
        self.is_proved = False
        """It has been ready for long enough, or has handled an event."""
        self.hello_by: float | None = None
        """Deadline for the hello, after the start or to a new gateway."""
        self.kill_at: float | None = None
        self.why_killed = ""
        """Why it is to be killed at `kill_at`, or was; "" if it only did not leave in time."""
        self.outdated = ""
        """Why its process is to be replaced; "" if it is not."""
        self.replace_at = 0.0

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.state in (S.STARTING, S.READY, S.STOPPING)

    def take(self, step: Step) -> None:
        """Take a step. Raises KeyError for one that is not in the table, which is a bug."""
        self.state = TRANSITIONS[self.state, step]
