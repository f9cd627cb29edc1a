"""Sans-I/O. The states of a connection, and what moves it from one to another.

::

    SNIFFING ──raw────────────────▶ OPEN ──close sent, half-closed──▶ CLOSING
        │                            ▲ │                                │
        └─upgrade─▶ CONNECTING ──opened┘ └─────────▶ CLOSED ◀───────────┘

1. An accepted connection starts in SNIFFING, one that we open in CONNECTING.
2. CONNECTING lasts until the connection can carry data: TCP for an opened raw one, the 101 for a
   WebSocket. In this state handlers may decide whether a client is accepted.
3. CLOSING waits for something: a WebSocket for the close frame that answers ours, a raw connection
   that the peer has half-closed for its events to be handled and its output to be written, a
   WebSocket that has broken the protocol for the messages before that to be handled.
4. CLOSED is entered once, from anywhere, together with on_close. Output may be left: the endpoint
   writes it, or drops it where `output.reset` is set.

on_connect comes first and on_close last, each at most once. An accepted connection that ends before
its on_connect gives no event at all; the handler that opened a connection knows of it from the
start, so it always gets the on_close.

Nothing that a peer does raises. A step that the table does not have is a bug in wsraw, and raises.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class ConnectionState(Enum):
    """Where a connection is in its life."""

    SNIFFING = "sniffing"
    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Step(Enum):
    """What moves a connection from one state to another."""

    RAW = "raw"
    UPGRADE = "upgrade"
    OPENED = "opened"
    CLOSE_SENT = "close sent"
    HALF_CLOSED = "half-closed"
    END = "end"


# Looking up the members of an Enum class costs time, and they are needed for each message.
SNIFFING: Final = ConnectionState.SNIFFING
CONNECTING: Final = ConnectionState.CONNECTING
OPEN: Final = ConnectionState.OPEN
CLOSING: Final = ConnectionState.CLOSING
CLOSED: Final = ConnectionState.CLOSED

TRANSITIONS: Final[dict[tuple[ConnectionState, Step], ConnectionState]] = {
    (SNIFFING, Step.RAW): OPEN,
    (SNIFFING, Step.UPGRADE): CONNECTING,
    (SNIFFING, Step.END): CLOSED,
    (CONNECTING, Step.OPENED): OPEN,
    (CONNECTING, Step.END): CLOSED,
    (OPEN, Step.CLOSE_SENT): CLOSING,
    (OPEN, Step.HALF_CLOSED): CLOSING,
    (OPEN, Step.END): CLOSED,
    (CLOSING, Step.END): CLOSED,
}
