"""Sans-I/O. Actions that the policy decides on and the supervisor carries out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wsraw.link.records import DEFAULT_POOL
from wsraw.supervisor.decisions.child import Child

FOREVER: Final = 1e6
"""Seconds that stand for "no deadline". In milliseconds the number still fits a C int."""


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process for this child; its `n` is new."""

    child: Child


@dataclass(frozen=True, slots=True)
class Drain:
    """Have the gateway drain this worker, which then leaves within `deadline` seconds."""

    child: Child
    deadline: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the gateway for a sign of life."""


@dataclass(frozen=True, slots=True)
class TellStop:
    """Tell the gateway to stop within `deadline` seconds; 0 is at once."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Terminate:
    """Ask the process of this child to leave."""

    child: Child


@dataclass(frozen=True, slots=True)
class Abort:
    """Have the process of this child log its stack and end; a `Kill` follows."""

    child: Child


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of this child now."""

    child: Child


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the log."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Settled:
    """A request, `reload` or `scale`, is done in that pool or was refused."""

    what: str
    ok: bool
    text: str
    pool: str = DEFAULT_POOL


@dataclass(frozen=True, slots=True)
class Finish:
    """Everything is over: leave with this exit code."""

    code: int


Action = Spawn | Drain | Ask | TellStop | Terminate | Abort | Kill | Say | Settled | Finish
