"""Sans-I/O. A mean and percentiles from a histogram of handler times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsraw.link.records import HANDLER_BOUNDS


def with_summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures of a handler (`calls`, `seconds`, `exceptions`, `slower`) with `mean` and `p99`,
    in seconds; these are None if there were no calls."""
    calls = figures["calls"]
    mean = figures["seconds"] / calls if calls else None
    return {**figures, "mean": mean, "p99": percentile(99, calls, figures["slower"])}


def percentile(which: int, calls: int, slower: Sequence[int]) -> float | None:
    """The time that this percentage of the calls did not exceed, in seconds, as if calls between
    two bounds were evenly spread; at most the last bound. None without calls."""
    if calls <= 0:
        return None
    rank = calls * which / 100
    counts = [calls - sum(slower), *slower]
    bounds = (0.0, *HANDLER_BOUNDS, HANDLER_BOUNDS[-1])
    below = 0
    for index, count in enumerate(counts):
        if count and below + count >= rank:
            low, high = bounds[index], bounds[index + 1]
            return low + (high - low) * (rank - below) / count
        below += count
    return HANDLER_BOUNDS[-1]


def since(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The difference between two sets of a handler's figures."""
    return {
        "calls": now["calls"] - before["calls"],
        "seconds": now["seconds"] - before["seconds"],
        "exceptions": now["exceptions"] - before["exceptions"],
        "slower": [b - a for a, b in zip(before["slower"], now["slower"], strict=True)],
    }
