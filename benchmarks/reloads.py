"""Many reloads under load: check that no client waits longer than the start of that many processes
takes.

The control run has the same load and starts idle Python processes instead, as many and as often as
the reloads have started workers. The longest pause is the longest time without any answer while
answers were due.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from wsraw.tools.drill.load.load import Load
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.close_log import CloseLog
from wsraw.tools.drill.target.control import RunControl
from wsraw.tools.drill.target.run import Run

BOUND = 0.030
"""Seconds that the pause may be longer than that of the control run."""

Disturb = Callable[[RunControl], None]


def under_load(plan: Plan, disturb: Disturb) -> tuple[Load, float]:
    """Run the load while `disturb` runs; returns the load, and its seconds."""
    run = Run(plan)
    try:
        load = Load(plan, run.address, close_log=CloseLog(run.close_log))
        took: list[float] = []
        failed: list[BaseException] = []

        def work() -> None:
            began = time.monotonic()
            try:
                disturb(RunControl(run.folder))
            except BaseException as error:
                failed.append(error)
            took.append(time.monotonic() - began)
            load.interrupt()

        thread = threading.Thread(target=work, daemon=True)
        asyncio.run(load.run(thread.start))
        thread.join()
        if failed:
            raise failed[0]
        if run.stop(keep_folder=False):
            sys.exit("the run did not end well:\n" + run.last_lines())
        return load, took[0]
    finally:
        run.kill()


def breaches(load: Load) -> list[str]:
    """The breaches."""
    wrong, _ = load.close_records.disconnected("at-least-once")
    found = {
        "lost": load.figures.lost,
        "duplicated": load.figures.duplicated,
        "reordered": load.figures.reordered,
        "corrupted": load.figures.corrupted,
        "disconnected": wrong.total(),
        "connects refused": load.figures.refused.total(),
        "on_close missing": load.close_records.missing,
        "on_close duplicated": load.close_records.duplicated,
        "con.state lost": load.close_records.states_lost,
        "answered too few": int(not load.figures.answered),
    }
    return [f"{count} {what}" for what, count in found.items() if count]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--websockets", type=int, default=50)
    parser.add_argument("--rate", type=float, default=2000.0)
    parser.add_argument("--quick", action="store_true", help="three reloads, no bound in time")
    options = parser.parse_args()
    count = 3 if options.quick else options.reloads
    plan = Plan(
        seconds=3600, workers=options.workers, websockets=options.websockets, raw=10,
        rate=500.0 if options.quick else options.rate,
    )  # fmt: skip

    def reload(target: RunControl) -> None:
        for _ in range(count):
            target.reload()

    load, took = under_load(plan, reload)
    starts = count * options.workers

    def start_idle(target: RunControl) -> None:
        beat = time.monotonic()
        for _ in range(starts):
            beat += took / starts
            idle = subprocess.Popen(
                [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert idle.stdout is not None
            idle.stdout.readline()
            time.sleep(max(0.0, beat - time.monotonic()))
            idle.communicate()

    control, _ = under_load(plan, start_idle)
    more = load.figures.pause.longest - control.figures.pause.longest
    found = breaches(load) + [f"{what} in the control run" for what in breaches(control)]
    print(f"{count} reloads of {options.workers} workers in {took:.1f} s")
    print(f"messages answered        {load.figures.answered} (control {control.figures.answered})")
    p99, calm = load.figures.latency.percentile(0.99), control.figures.latency.percentile(0.99)
    print(f"p99                      {p99 * 1000:.1f} ms (control {calm * 1000:.1f} ms)")
    print(f"longest pause            {load.figures.pause.longest * 1000:.1f} ms")
    print(
        f"longest pause, control   {control.figures.pause.longest * 1000:.1f} ms "
        f"({starts} idle processes)"
    )
    print(f"difference               {more * 1000:.1f} ms (at most {BOUND * 1000:.0f})")
    if more > BOUND and not options.quick:
        found.append(f"a pause {more * 1000:.1f} ms longer than that of the control run")
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
