"""Waiting for a condition, never for a time.

All deadlines are multiples of one unit, WSRAW_TEST_UNIT in seconds, which a slow machine may set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

UNIT = float(os.environ.get("WSRAW_TEST_UNIT", "1"))

DEADLINE = 60 * UNIT
"""Seconds that a test waits for something before it fails. Only failing tests wait so long, as
the machine may be busy with much else.
"""

COMMAND_DEADLINE = 5 * DEADLINE
"""The deadline in seconds of a long command: a drill, or all rules of conform. On an idle
machine such a command takes a few seconds.
"""


def eventually(condition: Callable[[], T], what: str = "", seconds: float = DEADLINE) -> T:
    """Return the first true value of condition(). After `seconds` the test fails, with `what` in
    its message.
    """
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.005)
    return value
