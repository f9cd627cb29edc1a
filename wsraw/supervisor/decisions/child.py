"""Sans-I/O. A child process of the run and its states::

    DEAD ──spawn──▶ STARTING ──ready──▶ READY ──stop──▶ STOPPING ──exit──▶ DEAD
                        │                 │
                        └──────exit───────┴──▶ DEAD

A child begins DEAD. The gateway reports that a worker is ready; the system reports that it has
exited.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final, NamedTuple

from wsraw.config.programs import Program
from wsraw.link.records import DEFAULT_POOL, Lean
from wsraw.supervisor.decisions.versions import FIRST, Version


class ChildState(Enum):
    """The state of a child."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"


class ChildStep(Enum):
    """The steps between the states."""

    SPAWN = "spawn"
    BE_READY = "ready"
    STOP = "stop"
    EXIT = "exit"


S = ChildState

TRANSITIONS: Final[dict[tuple[ChildState, ChildStep], ChildState]] = {
    (S.DEAD, ChildStep.SPAWN): S.STARTING,
    (S.STARTING, ChildStep.BE_READY): S.READY,
    # A worker says hello to each new gateway, and its hello may cross our stop.
    (S.READY, ChildStep.BE_READY): S.READY,
    (S.STOPPING, ChildStep.BE_READY): S.STOPPING,
    (S.STARTING, ChildStep.STOP): S.STOPPING,
    (S.READY, ChildStep.STOP): S.STOPPING,
    (S.STOPPING, ChildStep.STOP): S.STOPPING,
    (S.STARTING, ChildStep.EXIT): S.DEAD,
    (S.READY, ChildStep.EXIT): S.DEAD,
    (S.STOPPING, ChildStep.EXIT): S.DEAD,
}


class Death(NamedTuple):
    """How a process died."""

    at: float = 0.0
    reason: str = ""
    """The reason as text; empty if the child has never died."""
    error: str = ""
    """The exception that ended it, if its last lines show it."""


NEVER: Final = Death()


class Child(Lean, eq=False):
    """A slot of the run: the gateway, or one worker. `n` is the number of its present process.

    Its attributes, more than 20, are plain facts; policy.py and pool.py decide from them.
    """

    program: Program | None
    """None for a child that is not a worker, and has no pool either."""
    pool: str = DEFAULT_POOL
    state: ChildState = ChildState.DEAD
    n: int = 0
    token: str = ""
    """The secret in the hello of a worker's present process."""
    early_deaths: int = 0
    """Early deaths in a row; see restarts.py."""
    restarts: int = 0
    """How often it died unexpectedly and was started again."""
    last_death: Death = NEVER
    """How it last died unexpectedly."""
    spawn_at: float = 0.0
    spawned_at: float = 0.0
    ready_at: float | None = None
    is_proved: bool = False
    """Whether it has been ready for long enough, or has handled an event."""
    hello_by: float = math.inf
    """Deadline for the hello, after the start or to a new gateway."""
    kill_at: float = math.inf
    why_killed: str = ""
    """Why it will be killed at `kill_at`, or was killed; "" if it only did not leave in time."""
    is_killed: bool = False
    """Whether the supervisor has killed the present process."""
    is_aborted: bool = False
    """Whether the present process was aborted because something took too long."""
    title: str = "gateway"
    """The name in the log of a child that is not a worker."""
    outdated: str = ""
    """Why its process must be replaced; "" if it need not be."""
    replace_at: float = 0.0
    becomes: Program | None = None
    """The program that replaces its own, if the settings have changed."""
    version: Version = FIRST
    """The version that its present process has loaded."""

    @property
    def name(self) -> str:
        """The name in the log."""
        return f"worker {self.n}" if self.program is not None else self.title

    @property
    def last_reason(self) -> str:
        """The reason of its last death."""
        return self.last_death.reason

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.state in (S.STARTING, S.READY, S.STOPPING)

    def take(self, step: ChildStep) -> None:
        """Take a step. Raises KeyError for one that is not in the table, which is a bug."""
        self.state = TRANSITIONS[self.state, step]
