"""Check that all guarantees hold for workers behind a bad network. For root on Linux, with
iproute2.

The gateway (without workers of its own) is in one network namespace, its workers are in another;
the links between them have keys. Verified clients in the gateway's namespace send on a fixed
schedule. Meanwhile the network is calm, slow, lossy, slow and lossy, cut and restored, unplugged
and plugged in again; and workers are killed behind it. Only the links cross the network. Each phase
has clients of its own, from connect to close.

The network is a veth pair with netem or, where the kernel has no netem, two tun devices and
wire.py. The drill also checks that the network was as bad as intended, by latencies, TCP's
retransmissions, and the longest pause.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks import wire
from benchmarks.crew import Crew, retransmitted
from benchmarks.netns import CannotMake, Namespaces
from benchmarks.reloads import breaches
from wsraw.tools.drill.load.load import Load
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.close_log import CloseLog

CANNOT = 2
BACK_WITHIN = 10.0
"""Seconds after a cut in which the workers must be back and all messages answered."""
NEARLY = 0.9
"""A tolerance for the difference between two clocks."""


@dataclass
class Phase:
    """A phase of the drill; times are seconds. `acts` have times after the first message is due."""

    name: str
    seconds: float
    delay: float = 0.0
    loss: float = 0.0
    acts: list[tuple[float, Callable[[Crew], None]]] = field(default_factory=list)
    away: float = 0.0
    """Seconds without a network."""


def cut(crew: Crew) -> None:
    crew.net.shape(0.0, 1.0)


def repair(crew: Crew) -> None:
    crew.net.shape(0.0, 0.0)


def unplug(crew: Crew) -> None:
    crew.net.set_up(False)


def plug_in(crew: Crew) -> None:
    crew.net.set_up(True)


def kill(n: int, crew: Crew) -> None:
    crew.kill_worker(crew.names[n % len(crew.names)])


def phases(quick: bool) -> list[Phase]:
    if quick:
        return [
            Phase("slow and lossy", 2.0, 0.05, 0.05),
            Phase("killed behind it", 3.0, 0.05, 0.05, [(1.0, partial(kill, 0))]),
            Phase("cut for 3 s", 4.0, 0.0, 0.0, [(0.5, cut), (3.5, repair)], 3.0),
        ]
    kills = [(2.0 + 2.5 * n, partial(kill, n)) for n in range(4)]
    return [
        Phase("calm", 10.0),
        Phase("50 ms delay", 10.0, 0.05),
        Phase("1 % loss", 10.0, 0.0, 0.01),
        Phase("both", 10.0, 0.05, 0.01),
        Phase("both, and 4 kills", 15.0, 0.05, 0.01, kills),
        Phase("cut for 10 s", 20.0, 0.0, 0.0, [(2.0, cut), (12.0, repair)], 10.0),
        Phase("unplugged for 10 s", 20.0, 0.0, 0.0, [(2.0, unplug), (12.0, plug_in)], 10.0),
    ]


def measure(crew: Crew, phase: Phase, address: tuple[str, int], rate: float) -> list[str]:
    """Run a phase and print its figures; returns the breaches."""
    plan = Plan(
        seconds=phase.seconds, websockets=40, raw=10, rate=rate,
        kill_every=0.0, stop_every=0.0, reload_every=0.0,
    )  # fmt: skip
    before, sent_again = crew.sessions(), retransmitted()
    crew.net.shape(phase.delay, phase.loss)
    # Ignore reports about clients of the last phase.
    for file in crew.close_log.iterdir():
        file.write_bytes(b"")
    load = Load(plan, address, close_log=CloseLog(crew.close_log))

    def begin() -> None:
        for at, act in phase.acts:
            asyncio.get_running_loop().call_later(at, partial(act, crew))

    asyncio.run(load.run(begin))
    crew.net.shape(0.0, 0.0)
    crew.wait_for(crew.is_complete, BACK_WITHIN)
    wrong, _ = load.close_records.disconnected("at-least-once")
    p50, p99 = (load.figures.latency.percentile(share) * 1000 for share in (0.5, 0.99))
    sent_again = retransmitted() - sent_again
    seen = load.figures
    print(
        f"{phase.name:<20} {seen.answered:>8} {seen.lost:>5} {seen.duplicated:>11} "
        f"{seen.reordered:>9} {wrong.total():>12} {seen.pause.longest:>9.2f} s "
        f"{p50:>8.1f} {p99:>9.1f} {sent_again:>6}",
        flush=True,
    )
    found = breaches(load)
    if crew.dead_letters():
        found.append(f"{crew.dead_letters()} dead letters")
    if not phase.acts and crew.sessions() != before:
        found.append("a worker is another one than before")
    if phase.away and crew.sessions() != before:
        found.append("a worker has not come back as the one that it was")
    found += was_not_bad(phase, load, sent_again)
    if phase.away and load.figures.pause.longest > phase.away + BACK_WITHIN:
        found.append(
            f"nobody was answered for {load.figures.pause.longest - phase.away:.1f} s after it"
        )
    return [f"{phase.name}: {what}" for what in found]


def was_not_bad(phase: Phase, load: Load, sent_again: int) -> list[str]:
    """Errors of a network that was better than intended, which would prove nothing."""
    found = []
    if load.figures.latency.percentile(0.5) < 2 * phase.delay * NEARLY:
        found.append("the network was not slow")
    if phase.loss and not sent_again:
        found.append("the network lost nothing")
    if load.figures.pause.longest < phase.away * NEARLY:
        found.append("the network was not away")
    return found


def _folder() -> tempfile.TemporaryDirectory[str]:
    # After an interrupt, a gateway may still write into the folder.
    return tempfile.TemporaryDirectory(prefix="wsraw-network-", ignore_cleanup_errors=True)


def drill(options: argparse.Namespace) -> list[str]:
    """Run all phases; returns the breaches. Raises CannotMake and DrillError."""
    with Namespaces(options.network) as net, _folder() as folder:
        print(f"network: {net.how}", flush=True)
        wire.enter(net.gateway)
        heartbeat = 0.5 if options.quick else 2.0
        with Crew(net, Path(folder), options.workers, heartbeat) as crew:
            address = crew.start()
            print(
                f"{'phase':<20} answered  lost  duplicated reordered disconnected     pause  "
                "p50 (ms)  p99 (ms)  again"
            )
            found = []
            for phase in phases(options.quick):
                found += measure(crew, phase, address, options.rate)
            found += crew.stop()
            if found:
                print(crew.last_lines(), file=sys.stderr)
            return found


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, default=500.0, help="messages a second")
    parser.add_argument("--network", choices=["auto", "netem", "tun"], default="auto")
    parser.add_argument("--quick", action="store_true", help="three phases, half a minute")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = drill(options)
    except (CannotMake, DrillError) as error:
        print(f"cannot: {error}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        return 130
    print("breach: " + "; ".join(found) if found else "no breach")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
