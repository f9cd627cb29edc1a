"""The drill of a bad network between two namespaces (benchmarks/network.py), with --quick.

The drill is skipped where network namespaces cannot be made, for example without root, and the
reason says what is missing. With WSRAW_TEST_NETWORK=must, as .ci/run sets it, the test fails
instead.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys

import pytest

from benchmarks import netns
from benchmarks.wire import MOST_HELD, Line
from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.e2e.serving import linux
from tests.needs import signals
from tests.running import ROOT, environment

pytestmark = linux

COMMAND = [sys.executable, "-m", "benchmarks.network", "--quick", "--rate=300"]


@pytest.fixture
def network() -> None:
    missing = netns.missing()
    if missing:
        (pytest.fail if os.environ.get("WSRAW_TEST_NETWORK") == "must" else pytest.skip)(missing)


def namespaces(pid: int) -> list[str]:
    told = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [name for name in told.stdout.split() if name.startswith(f"wsraw-{pid}-")]


@signals
@pytest.mark.usefixtures("network")
def test_a_slow_lossy_and_interrupted_network_loses_nothing() -> None:
    done = subprocess.run(
        COMMAND,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=COMMAND_DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cut for 3 s" in done.stdout
    assert done.stdout.endswith("no breach\n")


@pytest.mark.long
@signals
@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_removes_its_network_namespaces(number: signal.Signals) -> None:
    drill = subprocess.Popen(COMMAND, cwd=ROOT, env=environment(), stdout=subprocess.PIPE)
    assert drill.stdout is not None
    with drill.stdout as lines:
        # By then all parts of the drill are running.
        assert lines.readline().startswith(b"network: ")
        assert lines.readline().startswith(b"phase ")
        assert len(namespaces(drill.pid)) == 2
        drill.send_signal(number)
        assert drill.wait(DEADLINE) == 130
    eventually(lambda: not namespaces(drill.pid), "the namespaces to be gone")


@pytest.mark.usefixtures("network")
def test_without_root_the_drill_says_what_it_needs() -> None:
    # Become nobody after the import, as that user may not be able to read our files.
    script = "import os, sys\nfrom benchmarks import network\nos.seteuid(65534)\n"
    done = subprocess.run(
        [sys.executable, "-c", script + "sys.exit(network.main())"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "cannot: only root may make network namespaces\n"


# --- the network of kernels without netem ---


def test_a_simulated_line_delays() -> None:
    line = Line()
    line.delay = 0.05
    line.put(b"1", 1.0)
    line.put(b"2", 1.01)
    assert line.wake_in(1.02) == pytest.approx(0.03)
    assert line.due(1.049) == []
    assert line.due(1.051) == [b"1"]
    assert line.due(2.0) == [b"2"]
    assert line.wake_in(2.0) is None


def test_a_simulated_line_keeps_the_order_when_its_delay_shrinks() -> None:
    line = Line()
    line.delay = 1.0
    line.put(b"1", 0.0)
    line.delay = 0.0
    line.put(b"2", 0.5)
    assert line.due(0.9) == []
    assert line.due(1.0) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("loss", "least", "most"), [(0.0, 1000, 1000), (1.0, 0, 0), (0.1, 800, 960)]
)
def test_a_simulated_line_loses_packets(loss: float, least: int, most: int) -> None:
    line = Line(random.Random(1).random)
    line.loss = loss
    for _ in range(1000):
        line.put(b"x", 0.0)
    assert least <= len(line.due(0.0)) <= most


def test_a_simulated_line_holds_a_bounded_number_of_bytes() -> None:
    line = Line()
    line.delay = 1.0
    for _ in range(MOST_HELD + 10):
        line.put(b"x", 0.0)
    assert len(line.due(1.0)) == MOST_HELD
