"""Sans-I/O. What a connection takes of memory beside its events and its output.

As measured: `tests/gateway/test_weights.py` compares the account with what a process really holds.
Where memory depends on luck (what the allocator cannot use again) the account is rather too high.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from wsraw.gateway.connection.connection import Connection

SOCKET: Final = 2048
"""Bytes of a connection that has said nothing yet."""

PLACE: Final = 1536
"""Bytes more where the router knows it: since its on_connect, or since a handler has opened it."""

WEBSOCKET: Final = 3072
"""Bytes more of a WebSocket."""

TLS: Final = 18 * 1024
"""Bytes more of what OpenSSL keeps of a connection."""

TLS_HANDSHAKE: Final = 28 * 1024
"""Bytes more while it shakes hands."""

EARLY: Final = 2
"""Bytes for each byte that has come before it is known what the connection is, and of what a
handler has asked for until the connection is open. They are kept in pieces and as a whole."""

TEXT: Final = 3
"""Bytes for each byte of a head. Handlers see it as text, and that is cut out of copies whose
memory is not all used again."""

NOT_ASCII: Final = 5
"""The same where it has other characters: Python then keeps them in UTF-8, too."""

FIELD: Final = 128
"""Bytes for each field of a head beside its text."""

STATE: Final = 64
"""Bytes of con.state beside its data."""

MEMBER: Final = 320
"""Bytes of a connection in a group, beside the group's name."""

MARK: Final = 96
"""Bytes of a mark that is not reached."""

COUPLE: Final = 64
"""Bytes of a connection that another one is coupled to, on each side."""


def weight(con: Connection) -> int:
    """What a connection weighs now, with what it is and where it stands in its life."""
    size = SOCKET
    if con.entry is not None:
        size += PLACE
    if con.websocket is not None:
        size += WEBSOCKET
    asked = con.asked if con.opened else None
    if asked is not None:
        size += EARLY * size_of(asked)
    about = con.about
    if "tls" in about:
        size += TLS + size_of(about["tls"])
    if "params" in about:
        size += size_of(about["params"])
    return size + size_of_head(con.inf)


def size_of_head(inf: Mapping[str, str]) -> int:
    """What a head takes as handlers see it."""
    if not inf:
        return 0
    text = "".join([*inf, *inf.values()])
    return FIELD * len(inf) + len(text) * (TEXT if text.isascii() else NOT_ASCII)


def size_of(value: Any) -> int:
    """What plain data take: options of `open`, facts about a connection."""
    size = 0
    values = [value]
    while values:
        value = values.pop()
        size += STATE
        if isinstance(value, str):
            size += len(value) * (1 if value.isascii() else NOT_ASCII)
        elif isinstance(value, bytes):
            size += len(value)
        elif isinstance(value, dict):
            size += FIELD * len(value)
            values += value.keys()
            values += value.values()
        elif isinstance(value, (list, tuple)):
            values += value
    return size
