"""Sans-I/O. The stack of a waiting coroutine; tracebacks of bounded length."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

DEEPEST: Final = 50
"""Frames shown."""

LONGEST_CHAIN: Final = 20
"""Chained exceptions shown."""


def where(awaited: Any) -> str:
    """The stack of an awaited object, outermost call first."""
    frames: list[tuple[FrameType, int]] = []
    while awaited is not None and len(frames) < DEEPEST:
        # A coroutine, a generator-based one, or an asynchronous generator.
        for kind in ("cr", "gi", "ag"):
            frame = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                frames.append((frame, frame.f_lineno))
                inner = "yieldfrom" if kind == "gi" else "await"
                awaited = getattr(awaited, f"{kind}_{inner}", None)
                break
        else:
            # A future or another opaque object.
            break
    lines = traceback.StackSummary.extract(iter(frames), limit=DEEPEST).format()
    if awaited is not None:
        lines.append(f"  waiting for {type(awaited).__name__}\n")
    return "".join(lines).rstrip("\n")


@contextmanager
def shortened(error: BaseException) -> Iterator[int]:
    """Cut the chain of exceptions to `LONGEST_CHAIN` within this context: the last ones and the
    very first. Yields how many are left out.

    A loop that retries in its ``except`` block makes one link a try, and formatting thousands takes
    too long.
    """
    chain = [error]
    seen = {id(error)}
    while (before := _before(chain[-1])) is not None and id(before) not in seen:
        chain.append(before)
        seen.add(id(before))
    left_out = len(chain) - LONGEST_CHAIN
    if left_out <= 0:
        yield 0
        return
    last = chain[LONGEST_CHAIN - 2]
    cause, context, is_suppressed = last.__cause__, last.__context__, last.__suppress_context__
    last.__cause__, last.__context__ = None, chain[-1]
    last.__suppress_context__ = False
    try:
        yield left_out
    finally:
        last.__cause__, last.__context__ = cause, context
        last.__suppress_context__ = is_suppressed


def _before(error: BaseException) -> BaseException | None:
    """The exception that a traceback prints above this one."""
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__
