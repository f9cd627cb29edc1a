"""Sans-I/O. Whether a connection may be read: the one place that answers it.

All that read sockets ask here: the endpoint, the in-memory server of `wsraw.testing` and the model
check. Bytes of a TLS handshake are none of the connection's yet. After it, the answer depends on
the state of the connection:

==========  ========================================================================================
SNIFFING    Yes. Timeouts bound how long this lasts, and the accounts how many bytes come.
CONNECTING  Until the client has sent as much as is kept before the verdict. Pauses do not count:
            the handshake has a deadline.
OPEN        Unless it is paused (`Entry.pauses`).
CLOSING     Unless its peer has half-closed: a WebSocket is to answer our close frame.
CLOSED      While its socket lingers: the bytes are discarded. Not between an answered request and
            the next one on its socket: the bytes are that one's (`is_answered`).
==========  ========================================================================================

An OPEN connection is also stopped when it is about to be read: if memory is full, it is paused; if
memory is to be checked, it waits until the end of the turn.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from wsraw.gateway.connection.connection import (
    CLOSED,
    CLOSING,
    CONNECTING,
    OPEN,
    Connection,
)
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import PAUSED_FULL, entry_of

EARLY_LIMIT: Final = 8 * 1024
"""Bytes that a client may send before it is accepted; then it is not read from until it is
accepted."""


class Reading(Enum):
    """What the loop should do with a connection."""

    YES = "yes"
    IN_TURN = "in turn"
    """Read bytes are still to be parsed, or the peer sends much: other connections come first."""
    NO = "no"
    """Something else must happen first; after EOF nothing more is read."""


def may_read(con: Connection, *, eof: bool, lingering: bool, is_busy: bool = False) -> Reading:
    """Whether to wait for bytes of a connection. `lingering`: its socket outlives the connection.
    `is_busy`: its peer sends more than its share of a turn."""
    if not lingering:
        if is_paused(con):
            return Reading.NO
        if con.intake.has_more or is_busy:
            return Reading.IN_TURN
    return Reading.NO if eof else Reading.YES


def is_paused(con: Connection) -> bool:
    """Whether no bytes of a connection may be read or parsed."""
    state = con.state
    if state is CONNECTING:
        return len(con.intake.unparsed) >= EARLY_LIMIT
    if state is CLOSING:
        return con.intake.half_closed
    entry = con.entry
    return entry is not None and entry.pauses != 0


def is_answered(con: Connection) -> bool:
    """Whether a connection is a request that was answered, in this turn or with output that is not
    written yet: what comes behind it stays in the socket for the next request."""
    return con.state is CLOSED and con.ending.is_answered


def must_wait(flow: Flow, con: Connection) -> bool:
    """Whether the memory of all connections forbids reading from this one now. Connections that are
    not open yet, or are closing, are still read: that ends soon and adds little."""
    if not (flow.full or flow.total > flow.check_above):
        return False
    entry = entry_of(con)
    if entry is None or con.state is not OPEN:
        return False
    if flow.full:
        flow.pause(entry, PAUSED_FULL)
    return True
