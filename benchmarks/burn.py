"""Measure what other connections notice of a handler that burns 500 ms of CPU every 2 s.

Two workers, 64 WebSocket connections, 640 messages a second; with and without a 65th connection
that makes the handler burn.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from wsraw.tools.drill.load.clients import Client
from wsraw.tools.drill.load.load import Load
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.run import Run

HANDLERS = Path(__file__).with_name("burning.py")
EVERY = 2.0
BOUND = 3.0
"""How many times longer the 99th percentile may be."""


class Burner(Client):
    """Makes the handler burn every EVERY seconds. This connection is not measured."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, "websocket")
        self.burnt = 0

    async def burn(self) -> None:
        """Connect after all other clients: while they connect, it is not known yet which worker
        is slow.
        """
        how = await self.connect()
        while not how:
            await asyncio.sleep(EVERY)
            if self.is_open:
                self.send(b"burn", is_text=True)
            else:
                how = await self.ended
        sys.exit(f"the one who burns was disconnected: {how}")

    def handle_data(self, data: bytes, is_text: bool) -> None:
        """Count an answer of the burning handler."""
        self.burnt += 1


def measure(plan: Plan, burn: bool) -> tuple[Load, int]:
    """Run the load; returns it, and how often the handler has burned meanwhile."""
    run = Run(plan, HANDLERS)
    load = Load(plan, run.address)
    burner = Burner(run.address)
    burning: list[asyncio.Task[None]] = []

    def begin() -> None:
        if burn:
            burning.append(asyncio.create_task(burner.burn()))

    try:
        asyncio.run(load.run(begin))
        if run.stop(keep_folder=False):
            sys.exit("the run did not end well:\n" + run.last_lines())
        return load, burner.burnt
    finally:
        run.kill()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--quick", action="store_true", help="eight seconds, no bound in time")
    options = parser.parse_args()
    seconds = 8.0 if options.quick else options.seconds
    plan = Plan(seconds=seconds, workers=2, websockets=64, raw=0, rate=640.0)
    without, _ = measure(plan, burn=False)
    burnt, times = measure(plan, burn=True)
    found = []
    for load, name in ((without, "without"), (burnt, "with")):
        p50, p99 = load.figures.latency.percentile(0.5), load.figures.latency.percentile(0.99)
        print(
            f"{name + ' burning':<16} p50 {p50 * 1000:.2f} ms  p99 {p99 * 1000:.2f} ms  "
            f"max {load.figures.latency.longest * 1000:.1f} ms  {load.figures.answered} answered"
        )
        wrong, _ = load.close_records.disconnected("at-least-once")
        faults = (
            load.figures.lost + load.figures.duplicated + load.figures.reordered + wrong.total()
        )
        if faults or load.figures.answered != load.figures.sent:
            found.append(f"{name} burning: lost, duplicated, out of order or disconnected")
    ratio = burnt.figures.latency.percentile(0.99) / without.figures.latency.percentile(0.99)
    print(f"p99 with burning is {ratio:.2f} times that without (at most {BOUND:g}); burnt {times}x")
    if not times:
        found.append("nothing burnt")
    if ratio > BOUND and not options.quick:
        found.append("the others are held up")
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
