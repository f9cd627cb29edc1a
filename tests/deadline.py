"""Waiting for a condition, never for a time.

All deadlines are multiples of one unit, so that a slow machine sets one number:
WSRAW_TEST_UNIT, in seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

UNIT = float(os.environ.get("WSRAW_TEST_UNIT", "1"))


def eventually(condition: Callable[[], T], what: str = "", *, units: float = 15) -> T:
    """Return the first true value of condition(). Fails after `units`; `what` says for what."""
    until = time.monotonic() + units * UNIT
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {units * UNIT:g} s: {what or condition}")
        time.sleep(0.005)
    return value
