"""Sans-I/O. Actions that the policy decides on and the supervisor carries out."""

from __future__ import annotations

from enum import Enum
from typing import Final

from wsraw.link.records import DEFAULT_POOL, Canary, Check, DrainWorker, Lean, Stop
from wsraw.runtime.log.line import Level
from wsraw.supervisor.decisions.child import Child

CANARY: Final = "canary"
"""The name under which canaries are settled, beside `reload` and `scale`."""


class Spawn(Lean):
    """Start a process for this child; its `n` is new."""

    child: Child


class Tell(Lean):
    """Send this record to the gateway."""

    record: DrainWorker | Check | Stop | Canary


class Termination(Enum):
    """Ways to end a process."""

    TERMINATE = "ask it to leave"
    ABORT = "have it log its stack and end; a kill follows"
    KILL = "end it now"


class End(Lean):
    """End the process of this child."""

    child: Child
    how: Termination


class Say(Lean):
    """A line for the log."""

    level: Level
    text: str


class Settled(Lean):
    """A request, `reload`, `scale` or `canary`, is done in that pool or was refused."""

    what: str
    ok: bool
    text: str
    pool: str = DEFAULT_POOL
    shows_output: bool = True
    """Whether the last output of the process explains a refusal."""


class Finish(Lean):
    """The run is over: exit with this code."""

    code: int


Action = Spawn | Tell | End | Say | Settled | Finish
