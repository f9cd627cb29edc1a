"""Faults with real processes of a run that is not real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.deadline import UNIT, eventually
from tests.needs import signals
from wsraw.tools.drill.faults import FaultInjection
from wsraw.tools.drill.plan import DrillError, Plan
from wsraw.tools.drill.target.control import RunControl

pytestmark = [
    signals,
    pytest.mark.skipif(
        not sys.platform.startswith("linux"), reason="looks into /proc for who is stopped"
    ),
]


class Sleepers(RunControl):
    """Workers that only sleep, and that no run replaces."""

    def __init__(self, count: int) -> None:
        self.processes = [subprocess.Popen(["sleep", "600"]) for _ in range(count)]
        self.bystander = subprocess.Popen(["sleep", "600"])
        self.reloads = 0
        self.upgrades = 0
        self.pythons: list[str] = []
        self.refuses = False
        self.unproved = 0

    def workers(self) -> Sequence[int]:
        return [process.pid for process in self.processes if process.poll() is None]

    def proved(self) -> Sequence[int]:
        return [pid for pid in self.workers() if pid != self.unproved]

    def reload(self) -> None:
        if self.refuses:
            raise DrillError("reload: no")
        self.reloads += 1

    def upgrade(self, python: str = "") -> None:
        if self.refuses:
            raise DrillError("upgrade: no")
        self.upgrades += 1
        self.pythons.append(python)

    def gateway(self) -> int:
        return self.processes[0].pid if self.processes[0].poll() is None else 0

    def stopped(self) -> list[int]:
        return [pid for pid in self.workers() if _state(pid) == "T"]

    def close(self) -> None:
        for process in (*self.processes, self.bystander):
            process.kill()
            process.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def sleepers() -> Iterator[Sleepers]:
    made = Sleepers(4)
    yield made
    made.close()


def plan(**every: float) -> Plan:
    never = dict.fromkeys(("kill_every", "stop_every", "reload_every"), 0.0)
    return Plan(**never | every)  # type: ignore[arg-type]


def test_workers_are_killed_until_none_is_left(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(kill_every=0.01), sleepers)
    faults.start()
    eventually(lambda: not sleepers.workers(), "all to be killed")
    faults.stop()
    # A dead process that was not reaped can be chosen again; a real run would have reaped it.
    assert faults.kills >= 4
    assert sleepers.bystander.poll() is None
    assert faults.failures == []


def test_workers_that_have_handled_nothing_are_not_killed(sleepers: Sleepers) -> None:
    sleepers.unproved = sleepers.processes[0].pid
    faults = FaultInjection(plan(kill_every=0.01), sleepers)
    faults.start()
    eventually(lambda: not sleepers.proved(), "all others to be killed")
    faults.stop()
    assert sleepers.workers() == [sleepers.unproved]


def test_stopped_workers_are_continued_after_a_while(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(stop_every=0.01, stop_for=0.1 * UNIT), sleepers)
    faults.start()
    stopped = eventually(sleepers.stopped, "one to be stopped")[0]
    # The next worker is stopped at once, so there is hardly a moment without a stopped one.
    eventually(lambda: stopped not in sleepers.stopped(), "it to go on")
    faults.stop()
    assert faults.stops >= 1


def test_no_worker_stays_stopped_at_the_end(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(stop_every=0.01, stop_for=600), sleepers)
    faults.start()
    eventually(sleepers.stopped, "one to be stopped")
    faults.stop()
    eventually(lambda: not sleepers.stopped(), "it to go on")
    assert len(sleepers.workers()) == 4


def test_workers_are_reloaded(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(reload_every=0.01), sleepers)
    faults.start()
    eventually(lambda: sleepers.reloads >= 2)
    faults.stop()
    assert faults.reloads == sleepers.reloads
    assert faults.kills == faults.stops == 0


def test_a_refused_reload_is_a_failure(sleepers: Sleepers) -> None:
    sleepers.refuses = True
    faults = FaultInjection(plan(reload_every=0.01), sleepers)
    faults.start()
    eventually(lambda: faults.failures)
    faults.stop()
    assert faults.reloads == 0
    assert set(faults.failures) == {"reload: no"}


def test_the_gateway_is_upgraded(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(upgrade_every=0.01), sleepers)
    faults.start()
    eventually(lambda: sleepers.upgrades >= 2)
    faults.stop()
    assert faults.upgrades == sleepers.upgrades
    assert faults.failures == []


def test_upgrades_go_to_each_python_in_turn(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(upgrade_every=0.01, upgrade_to=("a", "b")), sleepers)
    faults.start()
    eventually(lambda: sleepers.upgrades >= 3)
    faults.stop()
    assert sleepers.pythons[:3] == ["a", "b", "a"]


def test_a_refused_upgrade_is_a_failure_unless_gateways_are_killed(sleepers: Sleepers) -> None:
    sleepers.refuses = True
    faults = FaultInjection(plan(upgrade_every=0.01), sleepers)
    faults.start()
    eventually(lambda: faults.failures)
    faults.stop()
    assert set(faults.failures) == {"upgrade: no"}
    faults = FaultInjection(plan(upgrade_every=0.01, kill_gateway_every=600), sleepers)
    faults.start()
    faults.stop()
    assert faults.failures == []


def test_a_plan_without_faults_touches_no_worker(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(), sleepers)
    faults.start()
    faults.stop()
    assert len(sleepers.workers()) == 4


def test_only_the_gateway_is_killed(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(kill_gateway_every=0.01), sleepers)
    faults.start()
    eventually(lambda: not sleepers.gateway(), "the gateway to be killed")
    faults.stop()
    assert faults.gateway_kills >= 1
    assert len(sleepers.workers()) == 3
    assert faults.failures == []


def test_after_the_load_gateways_are_not_killed(sleepers: Sleepers) -> None:
    faults = FaultInjection(plan(reload_every=0.01, kill_gateway_every=0.05), sleepers)
    faults.start()
    faults.load_ended()
    eventually(lambda: faults.reloads > 20)
    faults.stop()
    assert faults.gateway_kills == 0
