"""Measure what honest clients notice of an attack. The honest load is 100 WebSockets with 1,000
verified messages a second on schedule (wsload rate), two workers and the default settings: first
alone, then during the attack (attackers.py), in the same run. The result is the median of some
rounds.

This is the hard case: the attackers share the machine's cores, and connect over loopback, to which
the limits for an address do not apply. The at-once attacks make the gateway and the workers use all
of the CPU that they get. For these the result is the longest turn of the gateway's loop
(system.py), which must stay short so that other clients are served.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.contenders import SERVERS, build
from wsraw.gateway import system
from wsraw.tools.drill.plan import Plan
from wsraw.tools.drill.target.run import Run

ATTACKERS = Path(__file__).with_name("attackers.py")
EVEN = (
    "slowloris",
    "never-read",
    "resets",
    "bomb",
    "garbage",
    "flood",
    "pings",
    "pongs",
    "fragments",
)
AT_ONCE = ("at-once", "pings-at-once", "fragments-at-once", "heads-at-once")
NAMES = EVEN + AT_ONCE
QUICK = ("bomb", "at-once")
BOUND = 3.0
"""How many times longer the 99th percentile may be during an attack at an even rate."""

PLAN = Plan(workers=2, kill_every=0.0, stop_every=0.0, reload_every=0.0)


class Honest:
    """The honest clients, whose messages are measured."""

    def __init__(self, wsload: Path, run: Run, seconds: float) -> None:
        host, port = run.address
        options = ("--host", host, "--port", port, "--conns", 100, "--rate", 1000)
        command = [wsload, "rate", *options, "--duration", seconds, "--warmup", 0.5, "--json"]
        self._command = [str(word) for word in command]

    def measure(self) -> dict[str, Any]:
        """The report of wsload once it has ended."""
        done = subprocess.run(self._command, capture_output=True, text=True)
        report: dict[str, Any] = json.loads(done.stdout)
        return report


def attack(name: str, wsload: Path, seconds: float) -> tuple[float, float, float, str]:
    """Run an attack. Returns the 99th percentile before and during the attack and the longest
    turn (CPU), all in milliseconds, and the error, if any.
    """
    run = Run(PLAN, SERVERS / "wsraw_echo.py")
    attackers = None
    try:
        honest = Honest(wsload, run, seconds)
        before = honest.measure()
        host, port = run.address
        command = [sys.executable, str(ATTACKERS), host, str(port), name]
        attackers = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert attackers.stdout is not None
        if attackers.stdout.readline() != "READY\n":
            sys.exit(f"{name}: the attack did not begin")
        calm, _ = gateway(run.folder)
        during = honest.measure()
        busy, longest = gateway(run.folder)
        done = attackers.communicate()[0].strip()
        quiet, loud = (report["lat_us"]["p99"] / 1000 for report in (before, during))
        print(
            f"{name:<17} p50 {before['lat_us']['p50'] / 1000:5.2f} → "
            f"{during['lat_us']['p50'] / 1000:5.2f} ms  p99 {quiet:5.2f} → {loud:5.2f} ms "
            f"({loud / quiet:.1f} x)  max {during['lat_us']['max'] / 1000:5.1f} ms  "
            f"longest turn {longest:.1f} ms  "
            f"{during['lat_us']['n']} answered, gateway {calm:.0f} to {busy:.0f} MiB  {done}",
            flush=True,
        )
        if run.stop(keep_folder=False):
            sys.exit("the run did not end well:\n" + run.last_lines())
        wrong = [each["first_error"] or "wrong" for each in (before, during) if not each["ok"]]
        return quiet, loud, longest, "; ".join(wrong)
    finally:
        if attackers is not None:
            attackers.kill()
        run.kill()


def gateway(folder: Path) -> tuple[float, float]:
    """The gateway's memory in MiB and its longest turn in milliseconds, from `wsraw status`."""
    from wsraw.supervisor.control import client

    data = client.ask(client.find(str(folder)), "status", (), 30.0).data["gateway"]
    longest = data["turns"]["longest"] * 1000
    try:
        lines = Path(f"/proc/{data['pid']}/status").read_text().splitlines()
    except OSError:
        return 0.0, longest
    size = next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return size / 1024, longest


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which attacks: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=5.0, help="each time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="two of them, a second each, no bound in time"
    )
    options = parser.parse_args()
    seconds, rounds = (1.0, 1) if options.quick else (options.seconds, options.rounds)
    wsload = build("wsload", "-lm")
    if wsload is None:
        print("a C compiler is needed: the load generator is benchmarks/c/wsload.c")
        return 2
    os.environ[system.ASKED_BY] = "1"
    found = []
    names = options.names or (QUICK if options.quick else NAMES)
    ratios: dict[str, list[float]] = {name: [] for name in names}
    longest: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            quiet, loud, turn, wrong = attack(name, wsload, seconds)
            ratios[name].append(loud / quiet)
            longest[name].append(turn)
            if wrong:
                found.append(f"{name}: {wrong}")
            time.sleep(0.5)
    for name, each in ratios.items():
        ratio = statistics.median(each)
        turn = statistics.median(longest[name])
        print(f"{name:<17} p99 {ratio:.1f} x, longest turn {turn:.1f} ms")
        if ratio > BOUND and name not in AT_ONCE and not options.quick:
            found.append(f"{name}: p99 is {ratio:.1f} times that without")
        if turn > system.LONG * 1000:
            found.append(f"{name}: a turn has taken {turn:.0f} ms")
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
