from __future__ import annotations

from tests.supervisor.policy_run import ASK, ENDPOINT, Run, abort, kill, terminate
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions import policy as p
from wsraw.supervisor.decisions.gateway.gateway_check import START


def test_a_gateway_that_does_not_answer_shows_its_stack_and_is_replaced() -> None:
    run = Run(1, gateway_timeout=20.0, handler_timeout=0.0).up()
    assert run.pass_time(100.0) == [], "it answers"
    run.answers = False
    assert run.pass_time(20.0) == []
    assert run.pass_time(5.1) == [abort(run.gateway)]
    assert "aborting gateway: no answer for gateway_timeout (20 s)" in run.said
    assert run.pass_time(p.ABORT_GRACE) == [kill(run.gateway)]
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)]
    assert run.gateway.last_reason == "was killed (no answer for gateway_timeout (20 s))"
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.answers = True
    assert run.pass_time(100.0) == []


def test_any_record_of_a_gateway_counts_as_an_answer() -> None:
    """A single lost question does not count as silence."""
    run = Run(1, gateway_timeout=4.0).up()
    run.answers = False
    for _ in range(10):
        assert run.pass_time(3.9) == []
        run.do(run.policy.ready(1, run.now))
        run.policy.heard(run.now)


def test_a_gateway_that_does_not_come_up_counts_as_hanging() -> None:
    run = Run(1, gateway_timeout=2.0)
    run.do(run.policy.decide(run.now))
    assert run.pass_time(START - 0.1) == []
    assert run.pass_time(0.2) == [abort(run.gateway)]
    assert "its start takes too long" in run.said


def test_a_gateway_that_hangs_in_a_stop_is_killed() -> None:
    run = Run(1, gateway_timeout=2.0, stop_timeout=0.0).up()
    run.do(run.policy.stop(run.now))
    run.answers = False
    assert run.pass_time(3.0) == [abort(run.gateway)]
    done = run.exit(run.gateway)
    assert done == [terminate(run.worker)]


def test_with_gateway_timeout_0_the_gateway_is_not_asked() -> None:
    run = Run(1, gateway_timeout=0.0).up()
    run.answers = False
    assert run.pass_time(1e6) == []
    assert ASK not in run.actions
