"""I/O. The clock of everything that measures: turns, windows, deadlines of a socket."""

from __future__ import annotations

import sys
import time

if sys.platform == "win32" and sys.version_info < (3, 13):
    # There time.monotonic advances in steps of 16 ms, and a turn takes less than one.
    monotonic = time.perf_counter
else:
    monotonic = time.monotonic
