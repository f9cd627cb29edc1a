from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wsraw.gateway import system
from wsraw.gateway.system import AT_LAST, FEW, LEAST, LONG, NEVER, Collector, TurnTimes


def test_a_quarter_of_the_memory_is_a_plausible_size() -> None:
    assert 1 << 24 < system.quarter() < 1 << 50


def test_the_system_says_how_much_memory_there_is() -> None:
    assert all(1 << 24 < size < 1 << 64 for size in system._of_this_machine())
    assert system._of_this_machine()


@pytest.mark.parametrize("text", ["max\n", "9223372036854771712\n", "", "nonsense"])
def test_without_a_container_limit_the_memory_is_that_of_the_machine(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "limit").write_text(text)
    assert system.quarter([tmp_path / "limit", tmp_path / "none"]) == system.quarter([])


def test_a_container_limit_is_the_memory(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text(f"{64 << 20}\n")
    assert system.quarter([tmp_path / "none", tmp_path / "limit"]) == 16 << 20


# --- freed memory ---

LARGE_MESSAGES = """
import resource
from wsraw.gateway.system import keep_freed_memory
keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def several():
    return [bytes(range(256)) * 4096 for _ in range(4)]
several()
before = faults()
for _ in range(100):
    several()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators are left alone")
@pytest.mark.parametrize("asked", [{}, {"MALLOC_ARENA_MAX": "2"}])
def test_large_messages_use_the_memory_of_those_before(asked: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LARGE_MESSAGES],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=True,
    )
    # 256 pages each; a size that the environment sets is kept.
    assert (int(done.stdout) < 1000) == (not asked)


# --- garbage ---


@pytest.fixture
def collector() -> Iterator[Collector]:
    before = gc.get_threshold()
    yield Collector()
    gc.set_threshold(*before)
    gc.unfreeze()


class Circle:
    """A reference cycle, which only the collector frees."""

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


def test_garbage_is_collected_in_a_quiet_moment(collector: Collector) -> None:
    collector.begin()
    Circle()
    gc.collect(1)
    Circle()
    assert not collector.collect_if_due(LEAST, 0, quiet=True), (
        "nothing has come yet that could matter"
    )
    assert not collector.collect_if_due(LEAST + 1, 0, quiet=False)
    assert Circle.count
    assert collector.collect_if_due(LEAST + 1, 0, quiet=True)
    assert not Circle.count
    assert not collector.collect_if_due(2 * LEAST + 1, 0, quiet=True), "they count from there"


def test_with_many_connections_garbage_is_collected_less_often(collector: Collector) -> None:
    """A collection visits all connections, and clients wait meanwhile."""
    assert not collector.collect_if_due(LEAST + 1, FEW + 1, quiet=True)
    assert not collector.collect_if_due(3 * AT_LAST * LEAST, 3 * LEAST, quiet=True)
    assert collector.collect_if_due(3 * AT_LAST * LEAST + 1, 3 * LEAST, quiet=True)
    assert collector.collect_if_due(4 * AT_LAST * LEAST, FEW, quiet=True)


def test_without_a_quiet_moment_garbage_is_collected_in_the_end(collector: Collector) -> None:
    assert not collector.collect_if_due(AT_LAST * LEAST, 0, quiet=False)
    assert collector.collect_if_due(AT_LAST * LEAST + 1, 0, quiet=False)


# --- turns ---


def test_a_turn_counts_by_the_cpu_time_it_takes_and_not_by_waiting() -> None:
    times = TurnTimes()
    time.sleep(2 * LONG)
    times.end_turn()
    assert times.figures()["long"] == 0
    until = time.thread_time() + 1.5 * LONG
    while time.thread_time() < until:
        pass
    times.end_turn()
    assert (times.figures()["turns"], times.figures()["long"]) == (2, 1)
    assert times.figures()["longest"] > 1.4 * LONG
