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

DEADLINE = 60 * UNIT
"""How long a test waits for something before it fails, in seconds. Only one that fails waits for as
long: the machine may be busy with much else."""

COMMAND_DEADLINE = 5 * DEADLINE
"""The same for a command that does much: a drill, or all rules of conform. On an idle machine they
take some seconds."""


def eventually(condition: Callable[[], T], what: str = "", seconds: float = DEADLINE) -> T:
    """Return the first true value of condition(). Fails after `seconds`; `what` names it then."""
    until = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.005)
    return value
