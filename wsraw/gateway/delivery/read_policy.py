"""Sans-I/O. Whether a connection may be read: the one place that answers it.

Whoever holds a socket asks here: the endpoint, the server in memory of `wsraw.testing` and the
model check. The answer depends on the state of the connection:

==========  ========================================================================================
SNIFFING    It may. The handshake's timeout bounds how long, the accounts bound how much.
CONNECTING  Unless as much has come as is kept before the verdict. Pauses do not count: the client's
            handshake has a deadline.
OPEN        Unless it is paused (`Entry.pauses`).
CLOSING     A WebSocket may, for the close frame that answers ours; unless its peer is half-closed.
CLOSED      While it lingers: what still comes is thrown away.
==========  ========================================================================================

Two answers apply to an OPEN connection at the moment of reading alone. Where all connections
together hold as much as they may, it is paused; where that is yet to be found out, it waits for the
end of the turn.
"""

from __future__ import annotations

from enum import Enum

from wsraw.gateway.connection.connection import CLOSING, CONNECTING, OPEN, Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import PAUSED_FULL, entry_of


class Reading(Enum):
    """The answers."""

    YES = "yes"
    IN_TURN = "in turn"
    """What has come is not all parsed, or the peer sends more than its share: others come first."""
    NO = "no"
    """Something else must happen before; after EOF nothing does."""


def may_read(con: Connection, *, eof: bool, lingering: bool, is_busy: bool = False) -> Reading:
    """Whether to wait for bytes of a connection. Its socket knows whether EOF has come, whether it
    `lingering` outlives the connection, and whether the peer sends more than its share."""
    if not lingering:
        if is_paused(con):
            return Reading.NO
        if con.intake.has_more or is_busy:
            return Reading.IN_TURN
    return Reading.NO if eof else Reading.YES


def is_paused(con: Connection) -> bool:
    """Whether nothing may be read from a connection, nor parsed of what was read."""
    state = con.state
    if state is CONNECTING:
        return con.is_full
    if state is CLOSING:
        return con.intake.half_closed
    entry = con.entry
    return entry is not None and entry.pauses != 0


def must_wait(flow: Flow, con: Connection) -> bool:
    """Whether the memory of all connections forbids to read from this one just now. Those who come
    and those who go are read all the same: that is soon over, and adds next to nothing."""
    if not (flow.full or flow.due):
        return False
    entry = entry_of(con)
    if entry is None or con.state is not OPEN:
        return False
    if flow.full:
        flow.pause(entry, PAUSED_FULL)
    return True
