"""The benchmarks run without finding an error; how fast they are is not tested."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys

import pytest

from benchmarks import growing
from benchmarks.cost import LOADS, STAGES
from tests.deadline import COMMAND_DEADLINE
from tests.running import ROOT, environment

needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="its clients are written in C")


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("reloads.py", "3 reloads of 2 workers"),
        ("burn.py", "with burning"),
        pytest.param("reload_latency.py", "idle processes", marks=needs_cc),
        pytest.param("attack.py", "answered 1009", marks=needs_cc),
        pytest.param("fanout.py", "| 100 members: deliveries/s |", marks=needs_cc),
        pytest.param("bridges.py", "| bursts: MB/s both ways |", marks=needs_cc),
        ("languages.py", "| Python |"),
        ("frozen.py", "| 50 | busy |"),
    ],
)
def test_a_quick_benchmark_runs_and_finds_no_breach(script: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / script, "--quick"],
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout
    assert done.stdout.endswith("no breach\n")


def test_the_cost_sheet_has_all_stages_of_a_message() -> None:
    """This runs the part that valgrind counts; the whole sheet takes minutes."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cost", "--mark-spans", "1", "1"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loads = json.loads(done.stdout)
    assert [messages for _, messages in loads] == [
        connections * depth for connections, depth, _ in LOADS.values()
    ]
    for spans, _ in loads:
        assert {stage for stage, _, _ in spans} - {""} == set(STAGES)


def test_the_docs_quote_the_calculation_of_a_large_cluster() -> None:
    text = "\n".join(growing.lines(growing.Assumed(), growing.Measured()))
    assert f"```text\n{text}\n```" in (ROOT / "docs" / "growing.md").read_text("utf-8")


def test_the_calculation_agrees_with_chance() -> None:
    """Put the members of rooms on random gateways, and count."""
    chance = random.Random(1)
    for assumed in (growing.Assumed(gateways=50, room=20), growing.Assumed(gateways=3, room=4)):
        found = []
        for _ in range(3000):
            own, *others = [chance.randrange(assumed.gateways) for _ in range(assumed.room)]
            found.append(len(set(others) - {own}))
        assert growing.others(assumed) == pytest.approx(sum(found) / len(found), rel=0.03)
    assert growing.others(growing.Assumed(together=1.0)) == 0.0
    assert growing.others(growing.Assumed(gateways=1)) == 0.0
