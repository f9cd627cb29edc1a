"""I/O. The clock for all measurements: turns, windows, deadlines of a socket."""

from __future__ import annotations

import time

if time.get_clock_info("monotonic").resolution > 0.001:
    # On Windows it advances in steps of 16 ms (until Python 3.13), and a turn takes less than one.
    monotonic = time.perf_counter
else:
    monotonic = time.monotonic
