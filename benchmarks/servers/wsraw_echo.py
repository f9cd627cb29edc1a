"""Echo, nothing else."""

from typing import Any


def on_message(msg: Any, con: Any) -> Any:
    return msg["data"]
