"""A handler that uses 1 ms of CPU for each message."""

import time
from typing import Any


def on_message(msg: Any, con: Any) -> Any:
    end = time.thread_time() + 0.001
    while time.thread_time() < end:
        pass
    return msg["data"]
