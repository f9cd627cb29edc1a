from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from wsraw.gateway.garbage import AT_LAST, LEAST, NEVER, Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    before = gc.get_threshold()
    yield Collector()
    gc.set_threshold(*before)
    gc.unfreeze()


class Circle:
    """Needs a collector."""

    count = 0

    def __init__(self) -> None:
        Circle.count += 1
        self.me = self

    def __del__(self) -> None:
        Circle.count -= 1


def test_the_oldest_generation_is_left_alone(collector: Collector) -> None:
    collector.begin()
    assert gc.get_threshold()[2] == NEVER
    before = gc.get_stats()[2]["collections"]
    kept = [[n] for n in range(200_000)]
    assert gc.get_stats()[2]["collections"] == before
    assert gc.get_stats()[0]["collections"]
    del kept


def test_it_is_looked_at_in_a_quiet_moment(collector: Collector) -> None:
    collector.begin()
    Circle()
    gc.collect(1)
    Circle()
    assert not collector.judge(LEAST, 0, quiet=True), "nothing has come yet that could matter"
    assert not collector.judge(LEAST + 1, 0, quiet=False)
    assert Circle.count
    assert collector.judge(LEAST + 1, 0, quiet=True)
    assert not Circle.count
    assert not collector.judge(2 * LEAST + 1, 0, quiet=True), "they count from there"


def test_where_many_stand_it_takes_more_to_look_again(collector: Collector) -> None:
    assert not collector.judge(3 * LEAST, 3 * LEAST, quiet=True)
    assert collector.judge(3 * LEAST + 1, 3 * LEAST, quiet=True)


def test_without_a_quiet_moment_it_is_done_at_last(collector: Collector) -> None:
    assert not collector.judge(AT_LAST * LEAST, 0, quiet=False)
    assert collector.judge(AT_LAST * LEAST + 1, 0, quiet=False)
