"""An echo, and no other handlers."""

from typing import Any


def on_message(msg: Any, con: Any) -> Any:
    return msg["data"]
