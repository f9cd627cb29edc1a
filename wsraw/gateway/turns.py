"""I/O. A loop that measures its turns, for benchmarks: the plain one pays nothing for it.

What counts is the CPU time of the loop's own thread. On a machine that is busy with other things
the time on the wall says little about us.
"""

from __future__ import annotations

import time
from typing import Final

from wsraw.runtime.loop import Loop

LONG: Final = 0.02
"""Seconds of CPU; others wait noticeably for a turn of that length."""

ASKED_BY: Final = "MEASURE_WSRAW_TURNS"
"""The variable of the environment that asks for it; `wsraw status --json` then tells. (Those that
begin with WSRAW_ are not passed on to children.)"""


class MeasuringLoop(Loop):
    """Counts turns, and keeps the longest."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.long_turns = 0
        self.longest = 0.0

    def turn(self, may_sleep: bool = True) -> bool:
        """One turn, measured; waiting costs no CPU."""
        begun = time.thread_time()
        result = super().turn(may_sleep)
        took = time.thread_time() - begun
        self.turns += 1
        self.long_turns += took > LONG
        self.longest = max(self.longest, took)
        return result

    def figures(self) -> dict[str, float]:
        """Since the start; times in seconds."""
        return {"turns": self.turns, "long": self.long_turns, "longest": self.longest}
