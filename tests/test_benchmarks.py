"""The benchmarks run, and find nothing wrong; how fast they are is not for a test to say."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

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
        ("languages.py", "| Python |"),
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
