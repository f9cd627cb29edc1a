"""Sans-I/O. The states of a session, the same at both ends of the link.

::

    NEW ──welcome──▶ READY ──drain──▶ DRAINING ──bye──▶ GONE
     ▲                 │                  │
     └───────who───────┴──────────────────┘   (at the worker: a gateway that does not know it)

The other end may send anything at any time: a step that the table does not have changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class LinkState(Enum):
    """Where a session is in its life."""

    NEW = "new"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class LinkStep(Enum):
    """What moves a session from one state to another."""

    WELCOME = "welcome"
    WHO = "who"
    DRAIN = "drain"
    BYE = "bye"
    """The worker's `bye`, or at the gateway any other end of the session."""


# Looking up the members of an Enum class costs time, and they are needed for each message.
NEW: Final = LinkState.NEW
READY: Final = LinkState.READY
DRAINING: Final = LinkState.DRAINING
GONE: Final = LinkState.GONE

TRANSITIONS: Final[dict[tuple[LinkState, LinkStep], LinkState]] = {
    (NEW, LinkStep.WELCOME): READY,
    (NEW, LinkStep.BYE): GONE,
    (READY, LinkStep.WELCOME): READY,
    (READY, LinkStep.WHO): NEW,
    (READY, LinkStep.DRAIN): DRAINING,
    (READY, LinkStep.BYE): GONE,
    (DRAINING, LinkStep.WELCOME): READY,
    (DRAINING, LinkStep.WHO): NEW,
    (DRAINING, LinkStep.BYE): GONE,
}


def after(state: LinkState, step: LinkStep) -> LinkState:
    """The state after a step; if there is no transition, the state stays."""
    return TRANSITIONS.get((state, step), state)
