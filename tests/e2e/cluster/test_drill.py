"""The drill of three gateways in network namespaces (benchmarks/cluster.py) and the cost of a
message between two gateways (benchmarks/between.py), both with --quick.

The drill is skipped where network namespaces cannot be made, for example without root, and the
reason says what is missing. With WSRAW_TEST_NETWORK=must, as .ci/run sets it, the test fails
instead.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import netns
from tests.deadline import COMMAND_DEADLINE
from tests.e2e.cluster import nats_server
from tests.e2e.serving import linux
from tests.needs import unix_sockets
from tests.running import ROOT, environment

pytestmark = [linux, unix_sockets]


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("no breach\n")
    return done.stdout


@pytest.mark.long
def test_what_is_lost_between_nodes_is_counted_and_nothing_is_doubled_or_reordered() -> None:
    nats_server.need()
    missing = netns.missing()
    if missing:
        (pytest.fail if os.environ.get("WSRAW_TEST_NETWORK") == "must" else pytest.skip)(missing)
    told = run("benchmarks.cluster", "--quick")
    assert "300 members in one group at 3 nodes" in told
    assert "lost on the way to each node [0, 0, 0]" in told.splitlines()[1]
    for phase in ("NATS killed", "a cable cut"):
        (line,) = [line for line in told.splitlines() if line.startswith(phase)]
        assert " 0 duplicated or reordered" in line
        assert "lost on the way to each node [0, 0, 0]" not in line
    assert "one node killed: its members were gone after" in told
    assert "handlers of one other node were told so" in told


@pytest.mark.long
def test_the_cost_of_a_message_between_nodes_can_be_measured() -> None:
    nats_server.need()
    told = run("benchmarks.between", "--quick")
    assert "latency between two: median" in told
    assert "CPU a message at 200/s with a near and a far member, in µs: gateway of one " in told
