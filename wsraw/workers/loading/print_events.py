"""The handlers of a run without a handlers file: they print every event.

The handshake is printed without parts that may be secret: the query, and headers with credentials.
"""

from __future__ import annotations

import re
from typing import Any, Final

from wsraw.runtime.printable import printable, without_secrets
from wsraw.workers.connection import Connection

_SECRET: Final = re.compile("auth|cookie|key|secret|session|token", re.IGNORECASE)
"""Matches names of headers that may hold secrets."""


def on_connect(inf: dict[str, str], con: Connection) -> None:
    print(f"{con!r} on_connect {shown(inf)}")


def shown(inf: dict[str, str]) -> dict[str, str]:
    """The handshake without secrets."""
    return {name: _shown(name, value) for name, value in inf.items()}


def _shown(name: str, value: str) -> str:
    if _SECRET.search(name):
        return "..."
    is_url = value.startswith("/") or "://" in value
    return without_secrets(value) if is_url else value


def on_message(msg: dict[str, Any], con: Connection) -> None:
    print(f"{con!r} on_message {msg}")


def on_join(group: str, con: Connection) -> None:
    print(f"{con!r} on_join {printable(group)}")


def on_leave(group: str, con: Connection) -> None:
    print(f"{con!r} on_leave {printable(group)}")


def on_error(error_message: str, con: Connection) -> None:
    print(f"{con!r} on_error {printable(error_message)}")


def on_close(con: Connection) -> None:
    print(f"{con!r} on_close {con.close_code} {con.close_reason!r} {con.close_cause}")
