from __future__ import annotations

from typing import Any

import pytest

from wsraw.link.records import HANDLER_BOUNDS
from wsraw.supervisor.control.handler_times import percentile, since, with_summary

ZEROS = [0] * len(HANDLER_BOUNDS)


def slower(**counts: int) -> list[int]:
    """Counts by the index of the bound that the times exceed."""
    found = list(ZEROS)
    for index, count in counts.items():
        found[int(index[1:])] = count
    return found


@pytest.mark.parametrize(
    ("which", "calls", "counts", "seconds"),
    [
        (99, 0, ZEROS, None),
        (50, 10, ZEROS, 0.00005),
        (100, 10, ZEROS, 0.0001),
        # Between 1 and 2.5 ms.
        (50, 1, slower(_3=1), 0.00175),
        (99, 100, slower(_3=1), 0.0001),
        (100, 100, slower(_3=1), 0.0025),
        (99, 1000, slower(_8=500), 0.1 * 0.98 + 0.05 * 0.02),
        # Above the last bound the times are unknown.
        (99, 2, slower(_15=2), 10.0),
    ],
)
def test_percentiles_are_between_the_bounds(
    which: int, calls: int, counts: list[int], seconds: float | None
) -> None:
    found = percentile(which, calls, counts)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


def figures(calls: int, seconds: float, exceptions: int, counts: list[int]) -> dict[str, Any]:
    return {"calls": calls, "seconds": seconds, "exceptions": exceptions, "slower": counts}


def test_a_summary_has_the_mean() -> None:
    found = with_summary(figures(4, 1.0, 2, slower(_10=4)))
    assert (found["mean"], found["exceptions"]) == (0.25, 2)
    assert 0.25 < found["p99"] <= 0.5
    assert with_summary(figures(0, 0.0, 1, ZEROS))["mean"] is None


def test_the_times_since_an_earlier_report_are_a_difference() -> None:
    before, now = figures(4, 1.0, 2, slower(_10=4)), figures(9, 1.5, 2, slower(_10=4, _2=3))
    assert since(before, now) == figures(5, 0.5, 0, slower(_2=3))
