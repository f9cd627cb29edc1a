"""The handlers of burn.py: an echo that keeps a core busy on request."""

import time
from typing import Any

from wsraw import Connection
from wsraw.tools.drill.target import echo

BURN = "burn"


def on_message(msg: dict[str, Any], con: Connection) -> Any:
    """Echo it, or burn half a second of CPU."""
    if msg["data"] == BURN:
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
        return BURN
    return echo.on_message(msg, con)


on_close = echo.on_close
