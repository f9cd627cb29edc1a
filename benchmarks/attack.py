"""What do honest clients notice of an attack? 100 WebSockets, 1,000 verified messages a second, two
workers and the settings as they come; first alone, then beside each attack (attackers.py).

The attackers share the machine's cores, and loopback, which the limits for each address leave out:
it is the hard case.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from wsraw.drill.load import Load
from wsraw.drill.plan import Plan
from wsraw.drill.run import Run
from wsraw.loop import Loop

ATTACKERS = Path(__file__).with_name("attackers.py")
NAMES = ("slowloris", "never-read", "resets", "bomb", "garbage", "flood")
BOUND = 3.0
"""How many times longer the 99th percentile may be."""


def measure(plan: Plan, name: str) -> Load:
    """The load beside an attack, or alone."""
    run = Run(plan)
    attackers = None
    try:
        host, port = run.address
        if name:
            command = [sys.executable, str(ATTACKERS), host, str(port), name]
            attackers = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert attackers.stdout is not None
            if attackers.stdout.readline() != "READY\n":
                sys.exit(f"{name}: the attack did not begin")
        before = rss(run.folder)
        loop = Loop()
        load = Load(plan, run.address, loop)
        load.run(lambda: None)
        loop.close()
        after = rss(run.folder)
        done = ""
        if attackers is not None:
            done = attackers.communicate()[0].strip()
        p50, p99 = load.latency.percentile(0.5), load.latency.percentile(0.99)
        print(
            f"{name or 'alone':<11} p50 {p50 * 1000:6.2f} ms  p99 {p99 * 1000:6.2f} ms  "
            f"max {load.latency.longest * 1000:6.1f} ms  {load.findings.answered} answered, "
            f"gateway {before:.0f} to {after:.0f} MiB  {done}",
            flush=True,
        )
        if run.stop(keep_folder=False):
            sys.exit("the run did not end well:\n" + run.last_lines())
        return load
    finally:
        if attackers is not None:
            attackers.kill()
        run.kill()


def rss(folder: Path) -> float:
    """MiB of the gateway, as `wsraw status` knows it."""
    from wsraw.supervisor import client

    data = client.ask(client.find(str(folder)), "status", (), 30.0).data
    pid = data["gateway"]["pid"]
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which attacks: {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--quick", action="store_true", help="a second each, no bound in time")
    options = parser.parse_args()
    seconds = 1.0 if options.quick else options.seconds
    plan = Plan(
        seconds=seconds,
        workers=2,
        websockets=100,
        raw=0,
        rate=1000.0,
        kill_every=0.0,
        stop_every=0.0,
        reload_every=0.0,
    )
    found = []
    alone = 0.0
    for name in ("", *(options.names or NAMES)):
        load = measure(plan, name)
        wrong, _ = load.ends.disconnected("at-least-once")
        faults = load.lost + load.findings.doubled + load.findings.reordered + wrong.total()
        if faults or load.findings.answered != load.sent:
            found.append(f"{name or 'alone'}: lost, doubled, out of order or disconnected")
        p99 = load.latency.percentile(0.99)
        alone = alone or p99
        if p99 > BOUND * alone and not options.quick:
            found.append(f"{name}: p99 is {p99 / alone:.1f} times that without")
        time.sleep(0.5)
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
