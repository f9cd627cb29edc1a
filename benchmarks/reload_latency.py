"""Measure what clients notice of `wsraw reload`. The load is 200 WebSockets with 5,000 verified
messages a second on schedule (wsload rate) and two workers, with one reload after the other. A
control run starts as many idle Python processes instead, as often: any process that starts takes
CPU from the others. The result is the median of some rounds.

reloads.py checks that nothing is lost; its load is a Python program, which needs a core.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contenders import SERVERS, build
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.control import RunControl
from wsraw.tools.drill.target.run import Run

BOUND = 3.0
"""How many times longer the 99th percentile may be than in the control run."""

WORKERS = 2
PLAN = Plan(workers=WORKERS, kill_every=0.0, stop_every=0.0, reload_every=0.0)
IDLE = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]


def measure(
    wsload: Path, seconds: float, disturb: Callable[[RunControl], None]
) -> tuple[dict[str, Any], int]:
    """Run wsload while `disturb` is called again and again; returns the report, and the number
    of calls.
    """
    run = Run(PLAN, SERVERS / "wsraw_echo.py")
    try:
        host, port = run.address
        options = ("--host", host, "--port", port, "--conns", 200, "--rate", 5000)
        command = [wsload, "rate", *options, "--duration", seconds, "--warmup", 1, "--json"]
        over = threading.Event()
        times = 0
        failed: list[Exception] = []

        def work() -> None:
            nonlocal times
            target = RunControl(run.folder)
            try:
                while not over.is_set():
                    disturb(target)
                    times += 1
            except DrillError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        over.set()
        thread.join()
        if failed or not times:
            sys.exit(f"not disturbed as planned: {failed or 'the run was too short'}")
        if run.stop(keep_folder=False):
            sys.exit("the run did not end well:\n" + run.last_lines())
        report: dict[str, Any] = json.loads(done.stdout)
        return report, times
    finally:
        run.kill()


def start_idle(within: float) -> None:
    """Start as many processes as a reload does, one after the other."""
    began = time.monotonic()
    for nth in range(WORKERS):
        idle = subprocess.Popen(IDLE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert idle.stdout is not None
        idle.stdout.readline()
        time.sleep(max(0.0, began + within * (nth + 1) / WORKERS - time.monotonic()))
        idle.communicate()


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="each time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a second each, no bound in time")
    options = parser.parse_args()
    seconds, rounds = (1.0, 1) if options.quick else (options.seconds, options.rounds)
    wsload = build("wsload", "-lm")
    if wsload is None:
        print("a C compiler is needed: the load generator is benchmarks/c/wsload.c")
        return 2
    ratios, found = [], []
    for _ in range(rounds):
        report, times = measure(wsload, seconds, lambda target: target.reload())
        within = (seconds + 1) / times
        control, starts = measure(wsload, seconds, lambda _, within=within: start_idle(within))
        p99, calm = (each["lat_us"]["p99"] / 1000 for each in (report, control))
        ratios.append(p99 / calm)
        print(
            f"{times} reloads: p50 {report['lat_us']['p50'] / 1000:.2f} p99 {p99:.2f} "
            f"max {report['lat_us']['max'] / 1000:.1f} ms; {starts * WORKERS} idle processes: "
            f"p50 {control['lat_us']['p50'] / 1000:.2f} p99 {calm:.2f} "
            f"max {control['lat_us']['max'] / 1000:.1f} ms; {p99 / calm:.1f} x",
            flush=True,
        )
        found += [
            str(each["first_error"] or "wrong") for each in (report, control) if not each["ok"]
        ]
    ratio = statistics.median(ratios)
    print(f"p99 {ratio:.1f} x that of the control run (at most {BOUND:g})")
    if ratio > BOUND and not options.quick:
        found.append(f"p99 is {ratio:.1f} times that of the control run")
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
