from __future__ import annotations

import time

from wsraw.gateway.turns import LONG, MeasuringLoop


def test_what_counts_is_work_and_not_waiting() -> None:
    loop = MeasuringLoop()
    try:
        loop.call_later(0.05, lambda: None)
        loop.turn()
        assert loop.figures()["long"] == 0

        def burn() -> None:
            until = time.thread_time() + 1.5 * LONG
            while time.thread_time() < until:
                pass

        loop.call_later(0.0, burn)
        while not loop.long_turns:
            loop.turn()
        assert loop.figures()["longest"] >= 1.5 * LONG
    finally:
        loop.close()
