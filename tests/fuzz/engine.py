"""Runs a target on many inputs, and shortens the input that breaks it."""

from __future__ import annotations

import gc
import random
import time
import traceback
from typing import NamedTuple

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

SLOWEST = 1.0
"""Seconds of CPU that an input of some thousand bytes may take: more would be a loop within a
loop.
"""

OUTCOMES = 50_000
"""The most outcomes to remember; a target with more returns too much of its input."""

WARM_UP = 10_000
"""Inputs after which memory is measured for the first time, as caches and known inputs are
filled by then.
"""


class Result(NamedTuple):
    inputs: int
    seconds: float
    outcomes: int
    slowest: float
    rss: tuple[float, float]
    """MiB after the warm-up and at the end."""
    broken: bytes | None


def rss() -> float:
    """The memory of this process in MiB; 0 where the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / (1 << 20)
    except OSError:
        return 0.0


def fuzz(target: Target, seed: int, inputs: int = 0, seconds: float = 0.0) -> Result:
    """Run that many inputs, or for that long; ends at the first one that breaks the target."""
    mutator = Mutator(random.Random(seed), target.seeds, target.words, target.largest)
    seen = set()
    began = time.monotonic()
    until = began + seconds if seconds else float("inf")
    count = 0
    slowest = 0.0
    broken = None
    warm = 0.0
    run = target.run
    spent = time.thread_time()
    while (not inputs or count < inputs) and (count % 64 or time.monotonic() < until):
        data = target.seeds[count] if count < len(target.seeds) else mutator.next()
        count += 1
        try:
            outcome = run(data)
            now = time.thread_time()
            if now - spent > slowest:
                slowest = now - spent
                assert slowest < SLOWEST, f"{slowest:.1f} s of CPU"
            spent = now
        except Exception:
            broken = data
            break
        if outcome not in seen and len(seen) < OUTCOMES:
            seen.add(outcome)
            mutator.keep(data)
        if count == WARM_UP:
            gc.collect()
            warm = rss()
            spent = time.thread_time()
    took = time.monotonic() - began
    outcomes = len(seen)
    # The fuzzer's own data must not count as growth of the target.
    del mutator, seen
    gc.collect()
    return Result(count, took, outcomes, slowest, (warm or rss(), rss()), broken)


def failure(target: Target, data: bytes) -> str:
    """Where and how the target breaks; empty if it does not."""
    began = time.thread_time()
    try:
        target.run(data)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
    return "slow" if time.thread_time() - began > SLOWEST else ""


def shorten(target: Target, data: bytes, tries: int = 2000) -> bytes:
    """Leave out parts of the input that the failure does not need."""
    wanted = failure(target, data)
    size = max(1, len(data) // 2)
    while wanted and size and tries:
        start = 0
        while start < len(data) and tries:
            tries -= 1
            shorter = data[:start] + data[start + size :]
            if failure(target, shorter) == wanted:
                data = shorter
            else:
                start += size
        size //= 2
    return data
