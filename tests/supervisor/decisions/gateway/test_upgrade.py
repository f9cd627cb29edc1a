"""An upgrade of the gateway as the policy sees it: which gateway is started, believed, and
killed.
"""

from __future__ import annotations

import pytest

from tests.supervisor.policy_run import ENDPOINT, Run, kill, tell_stop
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.canary import CanaryPlan, CanaryTrial
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.gateway.upgrade import DECIDED_WITHIN, MARGIN
from wsraw.supervisor.decisions.policy import ABORT_GRACE, STOP_MARGIN, UPGRADE, RunPhase
from wsraw.supervisor.decisions.versions import FIRST


def begun(run: Run) -> Child:
    """Begin an upgrade; returns the successor that was started."""
    (spawn,) = run.do(run.policy.upgrade(run.now))
    assert isinstance(spawn, a.Spawn)
    assert spawn.child is run.policy.upgrades.successor
    return spawn.child


def settled(actions: list[a.Action]) -> a.Settled:
    (found,) = [each for each in actions if isinstance(each, a.Settled)]
    assert found.what == UPGRADE
    return found


def test_a_successor_takes_the_place_of_the_gateway() -> None:
    run = Run(workers=2).up()
    old = run.gateway
    new = begun(run)
    assert (new.n, new.state) == (old.n + 1, ChildState.STARTING)
    assert run.gateway is old
    assert run.do(run.policy.took_over(run.now), run.policy.listening(ENDPOINT, run.now)) == []
    assert run.gateway is new
    assert new.state is ChildState.READY
    assert old.state is ChildState.STOPPING
    # The workers' sessions have moved, so no worker must say hello.
    assert run.pass_time(1000.0) == []
    assert run.exit(old, 0, "exited") == []
    assert run.policy.upgrades.children() == []
    assert new.restarts == 0


def test_the_old_gateway_may_leave_before_the_new_one_has_reported() -> None:
    run = Run().up()
    old, new = run.gateway, begun(run)
    assert run.exit(old, 0, "exited") == []
    assert run.said == ""
    assert run.pass_time(1.0) == []
    run.do(run.policy.took_over(run.now), run.policy.listening(ENDPOINT, run.now))
    assert run.gateway is new
    assert sum(run.policy.gateway_restarts.counts.values()) == 0


def test_a_killed_old_gateway_is_not_a_death_if_the_new_one_serves() -> None:
    run = Run().up()
    old, new = run.gateway, begun(run)
    assert run.exit(old) == []
    assert "was killed while it was upgraded" in run.said
    run.do(run.policy.took_over(run.now))
    assert run.gateway is new
    assert new.restarts == 0


def test_an_upgrade_fails_if_both_gateways_are_killed() -> None:
    """This is handled like the death of a gateway without an upgrade."""
    run = Run().up()
    old, new = run.gateway, begun(run)
    run.exit(old)
    actions = run.exit(new)
    assert settled(actions).text == "refused: the new gateway was killed; both are gone"
    assert a.Spawn(old) in actions
    assert old.restarts == 1
    assert "gateway was killed; starting another at once" in run.said
    assert sum(run.policy.gateway_restarts.counts.values()) == 1


def test_a_successor_that_does_not_load_changes_nothing() -> None:
    run = Run().up()
    old, new = run.gateway, begun(run)
    assert run.exit(new, 3, "exited with code 3: it cannot listen") == []
    settled_ = settled(run.do(run.policy.kept("", run.now)))
    assert not settled_.ok
    assert "exited with code 3: it cannot listen; the old one goes on" in settled_.text
    assert run.gateway is old
    assert old.state is ChildState.READY
    assert not run.policy.refusal_to_upgrade()


def test_the_end_of_a_successor_decides_nothing_until_the_old_gateway_has_reported_or_ended() -> (
    None
):
    """The old gateway may have handed over to the new one, which was killed before its first
    report.
    """
    run = Run().up()
    old, new = run.gateway, begun(run)
    assert run.exit(new) == []
    assert run.policy.refusal_to_upgrade() == "an upgrade is under way"
    actions = run.exit(old, 0, "exited")
    assert settled(actions).text == "refused: the new gateway was killed; both are gone"
    assert a.Spawn(old) in actions
    assert run.policy.upgrades.failed is None


def test_an_old_gateway_that_reports_nothing_is_taken_to_go_on() -> None:
    run = Run().up()
    new = begun(run)
    assert run.exit(new) == []
    assert run.pass_time(DECIDED_WITHIN - 0.1) == []
    assert settled(run.pass_time(0.2)).text.endswith("the old one goes on")
    assert not run.policy.refusal_to_upgrade()


def test_a_successor_that_is_refused_is_killed() -> None:
    run = Run().up()
    new = begun(run)
    assert run.do(run.policy.kept("it has not taken over within 10 s", run.now)) == [kill(new)]
    text = settled(run.exit(new)).text
    assert text == "refused: it has not taken over within 10 s; the old one goes on"


def test_in_a_stop_the_stop_is_the_reason() -> None:
    run = Run().up()
    new = begun(run)
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.kept("the run is stopping", run.now)) == [kill(new)]
    assert settled(run.exit(new)).text == "refused: the run is stopping"


def test_the_exit_of_a_failed_successor_is_waited_for() -> None:
    """The exit tells the reason."""
    run = Run().up()
    new = begun(run)
    assert run.do(run.policy.kept("", run.now)) == []
    assert "exited with code 1" in settled(run.exit(new, 1, "exited with code 1")).text


def test_a_successor_that_gets_nowhere_is_killed() -> None:
    run = Run(start_timeout=20.0, upgrade_timeout=10.0).up()
    new = begun(run)
    assert run.pass_time(30.0 + MARGIN - 0.1) == []
    assert run.pass_time(0.2) == [kill(new)]
    assert run.exit(new) == []
    assert "has not taken over in time" in settled(run.do(run.policy.kept("", run.now))).text


def test_a_pump_lives_as_long_as_it_may() -> None:
    run = Run(upgrade_linger=100.0, upgrade_spread=10.0).up()
    old = run.gateway
    begun(run)
    run.do(run.policy.took_over(run.now), run.policy.listening(ENDPOINT, run.now))
    assert run.pass_time(110.0 + MARGIN - 0.1) == []
    assert run.pass_time(0.2) == [kill(old)]
    assert run.exit(old) == []
    assert "its TLS connections are lost" in run.said


def test_a_second_upgrade_is_refused_while_one_is_under_way() -> None:
    run = Run().up()
    begun(run)
    assert run.policy.refusal_to_upgrade() == "an upgrade is under way"
    assert run.do(run.policy.upgrade(run.now)) == []


def test_a_gateway_that_is_not_up_is_not_upgraded() -> None:
    run = Run()
    assert run.policy.refusal_to_upgrade() == "the gateway is dead"
    run.do(run.policy.decide(run.now))
    assert run.policy.refusal_to_upgrade() == "the gateway is starting"
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert not run.policy.refusal_to_upgrade()
    run.do(run.policy.stop(run.now))
    assert run.policy.refusal_to_upgrade() == "the run is stopping"


def test_an_upgrade_is_refused_during_a_canary() -> None:
    run = Run(workers=2).up()
    run.pool.canary = CanaryTrial(CanaryPlan(0.1, 60.0), FIRST, [])
    assert "a canary is under way" in run.policy.refusal_to_upgrade()


def test_a_stop_reaches_whoever_serves() -> None:
    """The old gateway may not have read the stop, if it was handing over."""
    run = Run(stop_timeout=10.0).up()
    old, new = run.gateway, begun(run)
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.took_over(run.now)) == [tell_stop(10.0 + STOP_MARGIN)]
    assert run.do(run.policy.stopped(run.now))
    assert run.policy.phase is RunPhase.ENDING
    for child in (run.worker, new, old):
        run.exit(child, 0, "exited")
    assert run.policy.phase is RunPhase.OVER


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_stop_during_an_upgrade_ends_all(first: str) -> None:
    run = Run(stop_timeout=1.0).up()
    old, new = run.gateway, begun(run)
    run.do(run.policy.stop(run.now), run.policy.stopped(run.now))
    run.exit(run.worker, 0, "exited")
    for child in (old, new) if first == "old" else (new, old):
        run.exit(child, 0, "exited")
    assert run.policy.phase is RunPhase.OVER


def test_a_worker_that_was_told_to_leave_is_told_again() -> None:
    """The new gateway may not have been told."""
    run = Run(workers=2).up()
    begun(run)
    run.do(run.policy.reload(run.now))
    run.do(run.policy.ready(3, run.now))
    (tell, *_) = [each for each in run.pass_time(0.2) if isinstance(each, a.Tell)]
    leaving = run.drained(tell)
    (again,) = run.do(run.policy.took_over(run.now))
    assert run.drained(again) is leaving


def test_an_old_gateway_that_hangs_in_the_middle_is_killed_and_the_new_one_decides() -> None:
    run = Run(gateway_timeout=20.0).up()
    old, new = run.gateway, begun(run)
    run.answers = False
    actions = run.pass_time(30.0 + ABORT_GRACE)
    assert kill(old) in actions
    assert run.exit(old) == []
    run.do(run.policy.took_over(run.now))
    assert run.gateway is new
