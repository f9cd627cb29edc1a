"""The handlers of a run without a handlers file: they print every event."""

from __future__ import annotations

from typing import Any

from wsraw.runtime.printable import printable
from wsraw.workers.connection import Connection


def on_connect(inf: dict[str, str], con: Connection) -> None:
    print(f"{con!r} on_connect {inf}")


def on_message(msg: dict[str, Any], con: Connection) -> None:
    print(f"{con!r} on_message {msg}")


def on_error(error_message: str, con: Connection) -> None:
    print(f"{con!r} on_error {printable(error_message)}")


def on_close(con: Connection) -> None:
    print(f"{con!r} on_close {con.close_code} {con.close_reason!r} {con.close_cause}")
