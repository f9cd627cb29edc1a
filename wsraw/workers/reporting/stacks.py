"""Sans-I/O. The stack of a waiting coroutine."""

from __future__ import annotations

import traceback
from types import FrameType
from typing import Any, Final

DEEPEST: Final = 50
"""Frames that are shown."""


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
