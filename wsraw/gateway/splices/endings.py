"""Sans-I/O. How a connection is closed when its spliced partner has ended.

A close frame is passed on with its code and its reason. Other ends are not decided by the peer:
then the target of a client gets 1001, and the client of a target 1014, as from a proxy.
"""

from __future__ import annotations

from typing import Final

from wsraw.gateway.connection.connection import Connection

GOING_AWAY: Final = 1001
BAD_GATEWAY: Final = 1014
"""From the registry of RFC 6455: a proxy got no valid answer from the server behind it."""

_TOLD: Final = ("peer", "eof", "handler", "going-away", "idle-timeout")
"""Causes of ends whose code means something to the other side."""

_FREE: Final = 3000
"""Codes from here on are an application's: the peer has closed in order."""

_NOT_SENT: Final = (1005, 1006, 1015)
"""Codes that a close frame cannot carry (RFC 6455, section 7.4.1)."""


def end_for(con: Connection, other: Connection) -> tuple[int, str]:
    """The code and the reason with which the other connection is closed, because this one has
    ended."""
    code, reason, cause = con.ending.code, con.ending.reason, con.ending.cause
    if cause in _TOLD:
        if code == 1005:
            code = 1000
        if code not in _NOT_SENT:
            if other.websocket is None and code >= _FREE:
                code = 1000
            return code, reason
    if other.websocket is None:
        # A code that reports a fault resets it, once its output is written.
        return 1011, reason
    return (BAD_GATEWAY, _WHY.get(cause, "the target failed")) if con.opened else (GOING_AWAY, "")


_WHY: Final = {"connect-failed": "the target cannot be reached", "lost": "the target was lost"}
