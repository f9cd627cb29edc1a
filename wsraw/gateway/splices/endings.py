"""Sans-I/O. How the end of one connection is told to the one that it is spliced with.

A close frame goes through with its code and its reason. What else ends a connection is no word of
its peer: a client's target hears 1001 then, and a target's client 1014, as from a proxy.
"""

from __future__ import annotations

from typing import Final

from wsraw.gateway.connection.connection import Connection

GOING_AWAY: Final = 1001
BAD_GATEWAY: Final = 1014
"""In the registry of RFC 6455: a proxy has no good answer of the server behind it."""

_TOLD: Final = ("peer", "eof", "handler", "going-away", "idle-timeout")
"""Causes that come with a code which means something to the other side."""

_FREE: Final = 3000
"""From here on a code is an application's: its peer has closed in order."""

_NOT_SENT: Final = (1005, 1006, 1015)
"""Codes that a close frame cannot carry (RFC 6455, section 7.4.1)."""


def end_for(con: Connection, other: Connection) -> tuple[int, str]:
    """The code and the reason with which the other connection is closed, as this one has ended."""
    code, reason, cause = con.ending.code, con.ending.reason, con.ending.cause
    if cause in _TOLD:
        if code == 1005:
            code = 1000
        if code not in _NOT_SENT:
            if other.websocket is None and code >= _FREE:
                code = 1000
            return code, reason
    if other.websocket is None:
        # Any code that is not among the good ones resets it, once its output is written.
        return 1011, reason
    return (BAD_GATEWAY, _WHY.get(cause, "the target failed")) if con.opened else (GOING_AWAY, "")


_WHY: Final = {"connect-failed": "the target cannot be reached", "lost": "the target was lost"}
