"""Runs a target on many inputs, and makes the one that breaks it short."""

from __future__ import annotations

import gc
import random
import time
import traceback
from typing import NamedTuple

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target

SLOWEST = 1.0
"""Seconds of CPU that one input may take. It is some thousand bytes: more is a loop in a loop."""

OUTCOMES = 50_000
"""Remembered at most; a target that has more says too much of what it was given."""

WARM_UP = 10_000
"""Inputs after which memory is measured for the first time: caches and known inputs are there."""


class Result(NamedTuple):
    inputs: int
    seconds: float
    outcomes: int
    slowest: float
    rss: tuple[float, float]
    """MiB after the warm-up and at the end."""
    broken: bytes | None


def rss() -> float:
    """MiB that this process holds; 0 where nothing says so."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096 / (1 << 20)
    except OSError:
        return 0.0


def fuzz(target: Target, seed: int, inputs: int = 0, seconds: float = 0.0) -> Result:
    """So many inputs, or for so long; ends at the first one that breaks the target."""
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
    # What the fuzzer itself remembers is no growth of the target's.
    del mutator, seen
    gc.collect()
    return Result(count, took, outcomes, slowest, (warm or rss(), rss()), broken)


def failure(target: Target, data: bytes) -> str:
    """Where and with what it breaks; empty if it does not."""
    began = time.thread_time()
    try:
        target.run(data)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
    return "slow" if time.thread_time() - began > SLOWEST else ""


def shorten(target: Target, data: bytes, tries: int = 2000) -> bytes:
    """Leave out what the failure does not need."""
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
