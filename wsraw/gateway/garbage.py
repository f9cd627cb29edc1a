"""Sans-I/O. When Python's garbage collector looks at everything.

What a turn leaves behind is in the young generations; they are looked at as ever, in next to no
time. The oldest one is all that stands: connections, and what waits of them. To look through it
takes 15 µs a connection and more with what waits, in which nobody is served, and finds next to
nothing: only circles need a collector, and connections leave none that we know of. By itself
Python looks whenever that generation has grown by a quarter, and clients can bring that about, in
the middle of a flood. Here it is done in a quiet moment, after so many connections have come.
"""

from __future__ import annotations

import gc
from typing import Final

NEVER: Final = 1 << 30
"""Collections of the middle generation before Python collects the oldest one by itself."""

LEAST: Final = 10_000
"""Connections that must have come since the last time; or as many as stand."""

AT_LAST: Final = 10
"""After so many times as many it is done, quiet or not."""


class Collector:
    """Asks for collections; for a process of its own, as the settings are."""

    def __init__(self) -> None:
        self._seen = 0

    def begin(self) -> None:
        """What is loaded by now stays: to look at it again and again would cost 30 ms each time."""
        gc.collect()
        gc.freeze()
        young, middle, _ = gc.get_threshold()
        gc.set_threshold(young, middle, NEVER)

    def judge(self, came: int, standing: int, quiet: bool) -> bool:
        """Once a second: how many connections have come since the beginning, how many stand, and
        whether nobody waits. Returns whether it has collected."""
        new = came - self._seen
        least = max(LEAST, standing)
        if new <= (least if quiet else AT_LAST * least):
            return False
        self._seen = came
        gc.collect()
        return True
