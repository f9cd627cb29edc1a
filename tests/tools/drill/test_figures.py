from __future__ import annotations

import math

import pytest

from wsraw.tools.drill.figures import RESOLUTION, Histogram, Pause


def test_percentiles_of_known_latencies_are_right() -> None:
    histogram = Histogram()
    for n in range(1, 1001):
        histogram.add(n / 1000)
    assert histogram.percentile(0.5) == pytest.approx(0.5, rel=0.02)
    assert histogram.percentile(0.99) == pytest.approx(0.99, rel=0.02)
    assert histogram.percentile(1) == histogram.longest == 1.0


@pytest.mark.parametrize("seconds", [0.0, 1e-6, 1e-4, 99e-6, 0.0123, 7.5, 900.0])
def test_a_latency_is_reported_within_the_resolution_of_the_histogram(seconds: float) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    histogram.add(10_000.0)
    assert seconds - 1e-9 <= histogram.percentile(0.5) <= seconds + RESOLUTION + 1e-9


def test_without_a_latency_percentiles_are_not_known() -> None:
    assert math.isnan(Histogram().percentile(0.5))


def test_a_pause_is_counted_only_while_an_answer_is_due() -> None:
    pause = Pause()
    pause.due(1.0)
    pause.due(2.0)
    pause.arrived(4.0, more=True)
    assert pause.longest == 3.0
    pause.arrived(5.0, more=False)
    pause.due(100.0)
    pause.arrived(101.0, more=False)
    assert pause.longest == 3.0


def test_an_answer_that_never_comes_counts_as_a_pause() -> None:
    pause = Pause()
    pause.arrived(50.0, False)
    assert pause.longest == 0.0
    pause.due(60.0)
    pause.arrived(90.0, False)
    assert pause.longest == 30.0
