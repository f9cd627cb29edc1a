"""An echo, with handlers for the beginning and the end of connections."""

from typing import Any

opened = closed = 0


def on_connect(inf: Any, con: Any) -> None:
    global opened
    opened += 1


def on_message(msg: Any, con: Any) -> Any:
    return msg["data"]


def on_close(con: Any) -> None:
    global closed
    closed += 1
