"""Sans-I/O. A child process of the run and its states::

    DEAD ──spawn──▶ STARTING ──ready──▶ READY ──stop──▶ STOPPING ──exit──▶ DEAD
                        │                 │
                        └──────exit───────┴──▶ DEAD

A child begins DEAD. The gateway tells that a worker is ready; the system tells that it has exited.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final, NamedTuple

from wsraw.config.programs import Program
from wsraw.link.records import DEFAULT_POOL, Lean
from wsraw.supervisor.decisions.versions import FIRST, Version


class ChildState(Enum):
    """State of a child."""

    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    DEAD = "dead"


class ChildStep(Enum):
    """Steps between the states."""

    SPAWN = "spawn"
    BE_READY = "ready"
    STOP = "stop"
    EXIT = "exit"


S = ChildState

TRANSITIONS: Final[dict[tuple[ChildState, ChildStep], ChildState]] = {
    (S.DEAD, ChildStep.SPAWN): S.STARTING,
    (S.STARTING, ChildStep.BE_READY): S.READY,
    # A worker says hello to each new gateway, and that may cross our stop.
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
    """Why, as text; empty if it never did."""
    error: str = ""
    """The exception that ended it, if its last lines tell that."""


NEVER: Final = Death()


class Child(Lean, eq=False):
    """A slot of the run: the gateway, or one worker. `n` is the number of its present process.

    Its attributes, more than 20, are plain facts; policy.py and pool.py decide from them.
    """

    program: Program | None
    """None for what is not a worker, and has no pool either."""
    pool: str = DEFAULT_POOL
    state: ChildState = ChildState.DEAD
    n: int = 0
    token: str = ""
    """Secret that the hello of a worker's present process carries."""
    early_deaths: int = 0
    """Early deaths in a row; see restarts.py."""
    restarts: int = 0
    """How often it died unasked and was started again."""
    last_death: Death = NEVER
    """How it died unasked the last time."""
    spawn_at: float = 0.0
    spawned_at: float = 0.0
    ready_at: float | None = None
    is_proved: bool = False
    """Whether it has been ready for long enough, or has handled an event."""
    hello_by: float = math.inf
    """Deadline for the hello, after the start or to a new gateway."""
    kill_at: float = math.inf
    why_killed: str = ""
    """Why it is to be killed at `kill_at`, or was; "" if it only did not leave in time."""
    is_killed: bool = False
    """Whether the present process was killed by us."""
    is_aborted: bool = False
    """Whether the present process was aborted because something took too long."""
    title: str = "gateway"
    """Name in the log of what is not a worker."""
    outdated: str = ""
    """Why its process is to be replaced; "" if it is not."""
    replace_at: float = 0.0
    becomes: Program | None = None
    """The program that is to take its place, if the settings have another one by now."""
    version: Version = FIRST
    """What its present process has loaded."""

    @property
    def name(self) -> str:
        """Name in the log."""
        return f"worker {self.n}" if self.program is not None else self.title

    @property
    def last_reason(self) -> str:
        """Why it died the last time."""
        return self.last_death.reason

    @property
    def alive(self) -> bool:
        """Whether it has a process."""
        return self.state in (S.STARTING, S.READY, S.STOPPING)

    def take(self, step: ChildStep) -> None:
        """Take a step. Raises KeyError for one that is not in the table, which is a bug."""
        self.state = TRANSITIONS[self.state, step]
