"""The command line of the fuzzers."""

from __future__ import annotations

import argparse
import logging
import random
import traceback
from pathlib import Path

from tests.fuzz import crashes
from tests.fuzz.engine import fuzz, shorten
from tests.fuzz.target import load, names


def main() -> int:
    """The exit code is 1 if anything was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"{', '.join(names())}; gateway. Default: all")
    parser.add_argument("--inputs", type=int, default=0, help="how many for each target")
    parser.add_argument("--seconds", type=float, default=0, help="or how long; default: 60")
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    parser.add_argument("--engine", choices=["own", "atheris"], default="own")
    parser.add_argument("--repeat", type=Path, help="run one stored case")
    given = parser.parse_args()
    chosen = given.targets or [*names(), "gateway"]
    for name in chosen:
        if name not in (*names(), "gateway"):
            parser.error(f"there is no target {name}")
    if given.repeat is not None:
        logging.disable()
        print(load(chosen[0]).run(crashes.read(given.repeat)))
        return 0
    if not given.inputs and not given.seconds:
        given.seconds = 60.0
    if given.engine == "atheris":
        from tests.fuzz.coverage_guided import fuzz_by_coverage

        return max(fuzz_by_coverage(name, given.inputs, given.seconds) for name in chosen)
    seed = random.randrange(10**6) if given.seed is None else given.seed
    return max(_fuzz(name, seed, given.inputs, given.seconds) for name in chosen)


def _fuzz(name: str, seed: int, inputs: int, seconds: float) -> int:
    if name == "gateway":
        from tests.fuzz.gateway import attack

        return attack(seed, inputs, seconds)
    # Bad input is logged, and here all input is bad.
    logging.disable()
    target = load(name)
    result = fuzz(target, seed, inputs, seconds)
    print(
        f"{name}: seed {seed}, {result.inputs:,} inputs in {result.seconds:.0f} s "
        f"({result.inputs / result.seconds:,.0f}/s), {result.outcomes:,} outcomes, "
        f"slowest {result.slowest * 1000:.0f} ms, "
        f"RSS {result.rss[0]:.1f} MiB before, {result.rss[1]:.1f} after",
        flush=True,
    )
    if result.broken is None:
        return 0
    data = shorten(target, result.broken)
    file = crashes.save(name, data, f"fuzz, seed {seed}, input {result.inputs}")
    try:
        target.run(data)
    except Exception:
        traceback.print_exc()
    where = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    print(f"{name} is broken; again: python -m tests.fuzz {name} --repeat {where}", flush=True)
    return 1
