from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.supervisor.policy_run import ENDPOINT, PROGRAM, Run, abort, kill, tell_stop, terminate
from wsraw.config.programs import Program, WorkerSpec
from wsraw.config.settings import Settings
from wsraw.link.records import DrainWorker, Stop
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions import policy as p
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.gateway.gateway_check import START
from wsraw.supervisor.decisions.policy import DOES_NOT_LOAD, Policy, RunPhase
from wsraw.supervisor.decisions.pool import FOREVER, GRACE, SETTLE
from wsraw.supervisor.decisions.restarts import (
    GATEWAY_BACKOFF,
    LONGEST_BACKOFF,
    PERIOD,
    STABLE_AFTER,
)

# --- start: left to right ---


def test_the_gateway_is_started_and_one_worker_beside_it() -> None:
    run = Run(2, start_timeout=1.0)
    assert run.do(run.policy.decide(run.now)) == [a.Spawn(run.gateway), a.Spawn(run.worker)]
    assert run.pass_time(START - 1) == [], "without a gateway it cannot be ready"
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    (late,) = [each for each in run.pass_time(1.1) if isinstance(each, a.End)]
    assert late.child is run.worker


def test_one_worker_is_started_and_when_it_is_ready_the_others() -> None:
    run = Run(3, start_timeout=0.0)
    first, second, third = run.policy.workers
    assert run.do(run.policy.decide(run.now)) == [a.Spawn(run.gateway), a.Spawn(first)]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.pass_time(1000) == []
    assert not run.policy.has_been_up
    assert run.do(run.policy.ready(1, run.now)) == [a.Spawn(second), a.Spawn(third)]
    assert run.policy.has_been_up
    assert [child.n for child in run.policy.workers] == [1, 2, 3]


def test_a_run_without_workers_of_its_own_is_up_when_its_gateway_is() -> None:
    run = Run(0)
    assert run.do(run.policy.decide(run.now)) == [a.Spawn(run.gateway)]
    assert not run.policy.has_been_up
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.policy.has_been_up
    assert run.pass_time(1000) == []
    # No worker needs to be replaced.
    assert run.do(run.policy.reload(run.now)) == [a.Settled("reload", True, "reloaded: 0 workers")]
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)]
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.do(run.policy.stop(run.now)) == [tell_stop(30.0)]
    assert run.do(run.policy.stopped(run.now)) == [terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [a.Finish(0)]


# --- restart ---


def test_a_dead_worker_is_replaced_under_a_new_number() -> None:
    run = Run(2).up()
    run.pass_time(10)
    assert run.exit(run.worker) == []
    assert "worker 1 was killed; starting another in 0.1 s" in run.said
    assert run.policy.worker(1) is None
    assert run.pass_time(0.09) == []
    assert run.pass_time(0.02) == [a.Spawn(run.worker)]
    assert run.worker.n == 3
    assert run.policy.worker(3) is run.worker


def test_a_dead_gateway_is_replaced_and_workers_stay() -> None:
    run = Run(2).up()
    run.pass_time(10)
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.worker.state is ChildState.READY


def test_workers_of_a_gateway_that_moved_are_replaced() -> None:
    run = Run(1).up()
    run.exit(run.gateway)
    run.pass_time(1)
    old = run.worker
    # The new worker starts at once: an old one takes its time to leave, as it waits for a drain of
    # the old gateway.
    assert run.do(run.policy.listening("tcp://127.0.0.1:9", run.now)) == [
        terminate(old),
        a.Spawn(run.worker),
    ]
    assert run.worker is not old
    assert run.exit(old, 0) == []
    assert run.do(run.policy.ready(run.worker.n, run.now)) == []


def test_workers_of_a_link_that_moved_are_replaced_one_after_the_other() -> None:
    """The gateway lives on with the sessions, so the workers are replaced gracefully."""
    run = Run(1).up()
    old = run.worker
    [spawn] = run.do(run.policy.listening("ipc:///elsewhere/link.sock", run.now))[-1:]
    assert isinstance(spawn, a.Spawn)
    assert spawn.child is not old
    assert old.state is ChildState.READY


def test_a_worker_that_dies_without_a_gateway_waits_for_it() -> None:
    run = Run(1).up()
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)]
    assert run.exit(run.worker) == []
    assert run.pass_time(5) == []
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == [a.Spawn(run.worker)]


def deaths(run: Run, child: Child, count: int, ready_for: float | None = None) -> list[float]:
    """Let a child die that often, as soon as it can; returns how long it was not there each
    time.
    """
    delays = []
    for _ in range(count):
        if ready_for is not None:
            run.do(run.policy.ready(child.n, run.now))
            run.pass_time(ready_for)
        run.exit(child, 1, "exited with code 1")
        died_at = run.now
        while child.state is ChildState.DEAD:
            wake = run.policy.wake_at(run.now)
            assert wake < math.inf
            run.pass_time(wake - run.now + 1e-6)
        delays.append(run.now - died_at)
    return delays


def test_backoff_doubles_with_each_death_at_the_start() -> None:
    run = Run(1, restart_intensity=100).up()
    run.pass_time(10)
    delays = deaths(run, run.worker, 40)
    assert delays[:5] == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.8], abs=0.01)
    assert delays[-1] == pytest.approx(LONGEST_BACKOFF, abs=0.01)
    assert [round(delay, 3) for delay in delays] == sorted(round(delay, 3) for delay in delays)
    assert run.policy.phase is RunPhase.RUNNING


def test_jitter_halves_the_backoff_at_most() -> None:
    run = Run(1, luck=0.0).up()
    assert deaths(run, run.worker, 3) == pytest.approx([0.05, 0.1, 0.2], abs=0.01)


def test_a_stable_time_resets_the_backoff() -> None:
    run = Run(1).up()
    deaths(run, run.worker, 4)
    assert deaths(run, run.worker, 1, ready_for=STABLE_AFTER) == pytest.approx([0.1], abs=0.01)


def test_a_short_life_does_not_reset_the_backoff() -> None:
    run = Run(1).up()
    deaths(run, run.worker, 2)
    delays = deaths(run, run.worker, 1, ready_for=STABLE_AFTER * 0.9)
    assert delays == pytest.approx([0.4], abs=0.01)


def test_a_worker_that_handled_something_in_a_short_life_is_reported_later() -> None:
    """The gateway reports it only after the exit was judged."""
    run = Run(1).up()
    deaths(run, run.worker, 3)
    n = run.worker.n
    run.do(run.policy.ready(n, run.now))
    run.exit(run.worker)
    assert run.pass_time(0.1) == []
    run.do(run.policy.left(n, 5, run.now))
    assert run.pass_time(0.1) == [a.Spawn(run.worker)]


def test_a_worker_that_handled_nothing_counts_as_an_early_death() -> None:
    run = Run(1).up()
    deaths(run, run.worker, 3)
    n = run.worker.n
    run.do(run.policy.ready(n, run.now))
    run.exit(run.worker)
    run.do(run.policy.left(n, 0, run.now))
    assert run.pass_time(0.7) == []
    assert run.pass_time(0.2) == [a.Spawn(run.worker)]


def test_the_first_restart_of_a_gateway_is_immediate() -> None:
    run = Run(1).up()
    run.pass_time(10)
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)]
    assert "starting another at once" in run.said
    assert run.exit(run.gateway) == [a.Spawn(run.gateway)], "the first death at the start"
    assert run.exit(run.gateway) == []
    assert run.pass_time(0.21) == [a.Spawn(run.gateway)]


# --- crash loop ---


def test_a_crash_loop_is_reported_and_goes_on_slowly() -> None:
    run = Run(2).up()
    run.pass_time(10)
    deaths(run, run.worker, 6)  # The first death does not count as early.
    assert not run.policy.is_looping
    assert run.exit(run.worker, 1) == []
    assert run.policy.is_looping
    assert "crash loop: more than 5 early deaths within 30 s" in run.said
    assert run.policy.phase is RunPhase.RUNNING
    assert run.pass_time(LONGEST_BACKOFF - 0.1) == []
    assert run.pass_time(0.2) == [a.Spawn(run.worker)]
    run.exit(run.worker, 1)
    assert "crash loop:" not in run.said, "once is enough"
    assert run.pass_time(LONGEST_BACKOFF - 0.1) == []


def test_a_gateway_that_cannot_start_any_more_is_tried_more_often() -> None:
    """For example, the file of a certificate has vanished when the gateway dies: no client is
    served until the gateway is back.
    """
    run = Run(1).up()
    run.pass_time(10)
    for _ in range(6):
        run.exit(run.gateway, 3)
        run.pass_time(GATEWAY_BACKOFF)
    assert run.exit(run.gateway, 3) == []
    assert run.policy.is_looping
    assert run.policy.phase is RunPhase.RUNNING
    assert run.pass_time(GATEWAY_BACKOFF - 0.1) == []
    assert run.pass_time(0.2) == [a.Spawn(run.gateway)]


def test_a_crash_loop_counts_the_deaths_of_all_workers() -> None:
    run = Run(3).up()
    run.pass_time(10)
    for child in run.policy.workers:
        deaths(run, child, 3)
    assert run.policy.is_looping


def test_a_crash_loop_is_over_when_a_worker_stays_up() -> None:
    run = Run(1).up()
    deaths(run, run.worker, 6)
    assert run.policy.is_looping
    run.do(run.policy.ready(run.worker.n, run.now))
    run.pass_time(STABLE_AFTER * 0.9)
    assert run.policy.is_looping
    run.pass_time(STABLE_AFTER * 0.2)
    assert not run.policy.is_looping
    assert "the crash loop is over" in run.said


def test_workers_from_before_a_crash_loop_do_not_end_it() -> None:
    run = Run(2).up()
    run.pass_time(10)
    deaths(run, run.worker, 7)
    run.pass_time(1000)
    assert run.policy.is_looping


def test_in_a_crash_loop_killed_older_workers_are_replaced_soon() -> None:
    run = Run(2).up()
    run.pass_time(10)
    deaths(run, run.worker, 7)
    run.exit(run.policy.workers[1])
    assert run.pass_time(0.11) == [a.Spawn(run.policy.workers[1])]


def test_deaths_long_ago_do_not_count() -> None:
    run = Run(1, restart_intensity=1).up()
    for _ in range(5):
        deaths(run, run.worker, 1)
        run.pass_time(PERIOD)
    assert not run.policy.is_looping


def test_killed_workers_are_not_a_crash_loop() -> None:
    """One of four workers is killed every half second, sometimes before it is ready."""
    run = Run(4).up()
    chance = random.Random(1)
    for _ in range(400):
        living = [child for child in run.policy.workers if child.alive]
        child = chance.choice(living)
        n, was_ready = child.n, child.state is ChildState.READY
        run.exit(child)
        run.do(run.policy.left(n, 5 if was_ready else 0, run.now))
        run.pass_time(0.3)
        for child in run.policy.workers:
            if child.state is ChildState.STARTING:
                run.do(run.policy.ready(child.n, run.now))
        run.pass_time(0.2)
        assert not run.policy.is_looping


@pytest.mark.parametrize("news_first", [True, False])
def test_a_death_while_handling_an_event_is_not_an_early_death(news_first: bool) -> None:
    """A message that kills its worker says nothing about the start, so the next worker starts at
    once each time.
    """
    run = Run(2).up()
    for _ in range(40):
        n = run.worker.n
        if news_first:
            run.do(run.policy.left(n, 1, run.now))
        run.exit(run.worker)
        run.do(run.policy.left(n, 1, run.now))
        run.pass_time(0.1)
        assert run.worker.state is ChildState.STARTING
        run.do(run.policy.ready(run.worker.n, run.now))
        assert not run.policy.is_looping


def test_a_reload_in_a_crash_loop_starts_a_worker_at_once() -> None:
    run = Run(1).up()
    deaths(run, run.worker, 6)
    run.exit(run.worker, 1)
    assert run.do(run.policy.reload(run.now)) == [a.Spawn(run.worker)]
    assert not run.policy.is_looping


# --- kill ---


def test_a_hanging_worker_writes_its_stack_before_it_is_killed() -> None:
    run = Run(1).up()
    why = "its handler has run for 30 s"
    assert run.do(run.policy.kill_asked(1, why, True, run.now)) == [abort(run.worker)]
    assert "aborting worker 1: its handler has run for 30 s" in run.said
    assert run.do(run.policy.kill_asked(1, why, True, run.now)) == [], "once"
    assert run.pass_time(p.ABORT_GRACE - 0.1) == []
    assert run.pass_time(0.2) == [kill(run.worker)]
    run.exit(run.worker)
    assert f"worker 1 was killed ({why}); starting another" in run.said
    assert run.worker.last_reason == f"was killed ({why})"
    assert run.worker.restarts == 1


def test_an_aborted_worker_is_killed_although_it_said_hello() -> None:
    run = Run(1).up()
    run.do(run.policy.kill_asked(1, "it hangs", True, run.now))
    run.do(run.policy.left(1, 3, run.now))
    run.do(run.policy.ready(1, run.now))
    assert run.pass_time(p.ABORT_GRACE) == [kill(run.worker)]


@pytest.mark.parametrize("news_first", [True, False])
def test_the_reason_of_a_kill_outlives_the_session(news_first: bool) -> None:
    run = Run(1).up()
    why = "it sent no batch"
    if news_first:
        run.do(run.policy.left(1, 0, run.now))
    assert run.do(run.policy.kill_asked(1, why, False, run.now)) == [kill(run.worker)]
    run.do(run.policy.left(1, 0, run.now))
    assert run.pass_time(2 * GRACE) == [], "it is being killed already"
    run.exit(run.worker)
    assert run.worker.last_reason == f"was killed ({why})"


# --- no hello ---


def lose_gateway(run: Run) -> None:
    run.exit(run.gateway)
    run.pass_time(1)
    run.do(run.policy.listening(ENDPOINT, run.now))


def test_a_worker_that_does_not_find_the_new_gateway_counts_as_hanging() -> None:
    run = Run(2, handler_timeout=7.0).up()
    run.pass_time(10)
    one, two = run.policy.workers
    lose_gateway(run)
    assert run.do(run.policy.ready(two.n, run.now)) == []
    assert run.pass_time(7.0 + p.HELLO_MARGIN - 0.1) == []
    assert run.pass_time(0.2) == [abort(one)]
    why = "it has not connected to the new gateway"
    assert f"aborting worker 1: {why}" in run.said
    assert run.pass_time(p.ABORT_GRACE) == [kill(one)]
    run.exit(one)
    assert one.last_reason == f"was killed ({why})"
    assert [type(each) for each in run.pass_time(1)] == [a.Spawn]


def test_a_hello_clears_only_the_deadline_for_hello() -> None:
    run = Run(2, handler_timeout=7.0).up()
    one, two = run.policy.workers
    lose_gateway(run)
    run.do(run.policy.kill_asked(one.n, "it hangs", True, run.now))
    run.do(run.policy.ready(one.n, run.now))
    run.do(run.policy.ready(two.n, run.now))
    assert run.pass_time(1000) == [kill(one)]


def test_a_worker_that_is_being_killed_is_not_aborted_for_a_missing_hello() -> None:
    run = Run(2, handler_timeout=7.0).up()
    one, two = run.policy.workers
    lose_gateway(run)
    run.pass_time(7.0 + p.HELLO_MARGIN - 0.5)
    assert run.do(run.policy.kill_asked(one.n, "it hangs", True, run.now)) == [abort(one)]
    assert run.do(run.policy.kill_asked(two.n, "it errs", False, run.now)) == [kill(two)]
    assert run.pass_time(100) == [kill(one)]
    run.exit(one)
    assert one.last_reason == "was killed (it hangs)"


def test_a_gateway_that_reports_its_addresses_twice_is_not_a_new_one() -> None:
    run = Run(1).up()
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.pass_time(1000) == []


def test_the_deadline_for_hello_ends_with_its_gateway() -> None:
    run = Run(1, handler_timeout=7.0).up()
    run.pass_time(10)
    lose_gateway(run)
    run.pass_time(10)
    run.exit(run.gateway)
    assert run.pass_time(START - 1) == []
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.pass_time(7.0) == []
    assert run.pass_time(p.HELLO_MARGIN) == [abort(run.worker)]


def test_handlers_without_a_limit_may_keep_a_new_gateway_waiting() -> None:
    run = Run(1, handler_timeout=0.0).up()
    lose_gateway(run)
    assert run.pass_time(100_000) == []


def test_a_worker_that_does_not_come_up_counts_as_an_early_death() -> None:
    run = Run(1, start_timeout=7.0)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.pass_time(6.9) == []
    assert run.pass_time(0.2) == [abort(run.worker)]
    assert "aborting worker 1: it was not ready within start_timeout (7 s)" in run.said
    assert run.pass_time(p.ABORT_GRACE) == [kill(run.worker)]
    run.exit(run.worker)
    assert run.worker.last_reason == "was killed (it was not ready within start_timeout (7 s))"
    assert run.worker.early_deaths == 1
    assert run.pass_time(1) == [a.Spawn(run.worker)]
    run.do(run.policy.ready(run.worker.n, run.now))
    assert run.pass_time(1000) == []


def test_workers_that_never_come_up_are_a_crash_loop() -> None:
    run = Run(1, start_timeout=1.0).up()
    run.pass_time(10)
    run.exit(run.worker)
    while not run.policy.is_looping:
        for action in run.pass_time(1):
            if isinstance(action, a.End) and action.how is a.Termination.KILL:
                run.exit(action.child)
        assert run.now < 1000
    assert run.worker.early_deaths == 6


def test_with_start_timeout_0_a_start_is_waited_for() -> None:
    run = Run(1, start_timeout=0.0)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.pass_time(100_000) == []


# --- boot failure ---


def test_handlers_that_do_not_load_end_the_run() -> None:
    run = Run(2)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.exit(run.worker, 3) == [tell_stop(0.0), terminate(run.gateway)]
    assert run.worker.state is ChildState.DEAD
    assert run.exit(run.gateway, 0) == [a.Finish(3)]


def test_handlers_that_stop_loading_later_count_as_deaths() -> None:
    run = Run(1).up()
    assert run.exit(run.worker, 3) == []
    assert run.pass_time(1) == [a.Spawn(run.worker)]


def test_a_gateway_that_cannot_listen_ends_the_run() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    assert run.exit(run.gateway, 3) == [terminate(run.worker)]
    assert run.exit(run.worker, 0) == [a.Finish(3)]
    assert run.said == "", "the gateway has said it better"


def test_a_worker_that_does_not_load_ends_the_run_before_its_gateway_is_up() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    assert run.exit(run.worker, 3) == [terminate(run.gateway)]
    assert run.exit(run.gateway, -15) == [a.Finish(3)]


def test_the_first_workers_wait_for_a_gateway_that_is_tried_again() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    assert run.exit(run.gateway, 1) + run.pass_time(1) == [a.Spawn(run.gateway)]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.do(run.policy.ready(1, run.now)) == []
    assert run.policy.has_been_up


def test_a_gateway_that_listens_elsewhere_than_expected_gets_other_workers() -> None:
    run = Run(1)
    run.policy.endpoint = "ipc:///expected/link.sock"
    run.do(run.policy.decide(run.now))
    old = run.worker
    told = run.do(run.policy.listening(ENDPOINT, run.now))
    assert told == [terminate(old), a.Spawn(run.worker)]
    assert run.worker is not old


def test_a_gateway_that_has_listened_is_tried_again() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.exit(run.gateway, 3) == [a.Spawn(run.gateway)]


@pytest.mark.parametrize("who", ["gateway", "worker"])
def test_a_crash_loop_at_boot_ends_the_run(who: str) -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    if who == "worker":
        run.do(run.policy.listening(ENDPOINT, run.now))
    child = getattr(run, who)
    for _ in range(5):
        spawned = run.exit(child, 1) + run.pass_time(2)
        assert spawned == [a.Spawn(child)]
    done = run.exit(child, 1)
    assert "giving up" in run.said
    if who == "worker":
        assert done == [tell_stop(0.0), terminate(run.gateway)]
        done = run.exit(run.gateway, 0)
    else:
        assert done == [terminate(run.worker)]
        done = run.exit(run.worker, 0)
    assert done == [a.Finish(1)]


# --- reports of the gateway about workers ---


def test_reports_about_unknown_workers_are_ignored() -> None:
    run = Run(1).up()
    for n in (0, 2, -1):
        assert run.do(run.policy.ready(n, run.now)) == []
        assert run.do(run.policy.left(n, 0, run.now)) == []
        assert run.do(run.policy.kill_asked(n, "why", False, run.now)) == []


def test_a_gateway_may_have_a_worker_killed() -> None:
    run = Run(1).up()
    assert run.do(run.policy.kill_asked(1, "it sent no batch", False, run.now)) == [
        kill(run.worker)
    ]
    assert "killing worker 1: it sent no batch" in run.said
    run.exit(run.worker)
    assert run.pass_time(1) == [a.Spawn(run.worker)]


def test_a_worker_that_said_bye_and_does_not_exit_is_killed() -> None:
    run = Run(1).up()
    assert run.do(run.policy.left(1, 0, run.now)) == []
    assert run.pass_time(GRACE - 0.1) == []
    assert run.pass_time(0.2) == [kill(run.worker)]


def test_a_worker_that_said_bye_and_hello_again_lives() -> None:
    run = Run(1).up()
    run.do(run.policy.left(1, 0, run.now))
    run.do(run.policy.ready(1, run.now))
    assert run.pass_time(1000) == []


def test_a_report_of_a_dead_gateway_is_ignored() -> None:
    run = Run(1).up()
    deaths(run, run.gateway, 1)
    run.exit(run.gateway)
    assert run.gateway.state is ChildState.DEAD
    assert run.do(run.policy.listening("tcp://other:1", run.now)) == []


# --- stop: right to left ---


def test_a_stop_ends_workers_and_then_the_gateway() -> None:
    run = Run(2).up()
    assert run.do(run.policy.stop(run.now)) == [tell_stop(30.0)]
    assert run.policy.phase is RunPhase.STOPPING
    one, two = run.policy.workers
    assert run.exit(one, 0) == []
    assert run.exit(two, 0) == []
    assert run.do(run.policy.stopped(run.now)) == [terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [a.Finish(0)]


def test_workers_that_linger_are_killed_before_the_gateway_ends() -> None:
    run = Run(2).up()
    run.do(run.policy.stop(run.now))
    one, two = run.policy.workers
    assert run.do(run.policy.stopped(run.now)) == [terminate(one), terminate(two)]
    assert run.exit(one, -15) == []
    assert run.pass_time(GRACE) == [kill(two)]
    assert run.exit(two, -9) == [terminate(run.gateway)]
    assert run.pass_time(GRACE) == [kill(run.gateway)]
    assert run.exit(run.gateway, -9) == [a.Finish(0)]


def test_a_gateway_that_exits_first_in_a_stop_is_accepted() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    run.do(run.policy.stopped(run.now))
    assert run.exit(run.gateway, 0) == []
    assert run.exit(run.worker, 0) == [a.Finish(0)]


def test_the_deadline_of_a_stop_kills_what_is_left() -> None:
    run = Run(2, stop_timeout=7.0).up()
    assert run.do(run.policy.stop(run.now)) == [tell_stop(7.0)]
    one, two = run.policy.workers
    assert run.pass_time(7.0) == []
    done = run.pass_time(p.STOP_MARGIN)
    assert [action for action in done if action in (kill(one), kill(two))] == [kill(one), kill(two)]
    assert not [action for action in done if getattr(action, "child", None) is run.gateway]
    assert run.exit(one) == []
    assert run.exit(two) == [terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [a.Finish(0)]


def test_workers_get_no_time_beyond_the_deadline_of_a_stop() -> None:
    run = Run(1, stop_timeout=7.0).up()
    run.do(run.policy.stop(run.now))
    run.pass_time(7.0)
    assert run.do(run.policy.stopped(run.now)) == [terminate(run.worker)]
    assert run.pass_time(p.STOP_MARGIN) == [kill(run.worker)]


def test_a_stop_without_deadline_waits() -> None:
    run = Run(1, stop_timeout=0.0).up()
    assert run.do(run.policy.stop(run.now)) == [tell_stop(FOREVER)]
    assert run.pass_time(100_000) == []


def test_a_drain_can_be_shortened() -> None:
    run = Run(1, stop_timeout=7.0).up()
    assert run.do(run.policy.stop(run.now, 0.0)) == [tell_stop(FOREVER)]
    assert run.pass_time(1000) == []
    assert run.do(run.policy.stop(run.now)) == [tell_stop(7.0)]
    assert run.do(run.policy.stop(run.now, 0.0)) == [], "never later"
    assert kill(run.worker) in run.pass_time(7.0 + p.STOP_MARGIN)


def test_a_stop_before_the_gateway_is_up_kills_it() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    assert run.do(run.policy.stop(run.now)) == [terminate(run.worker)]
    assert run.exit(run.worker, -15) == [terminate(run.gateway)]
    assert run.exit(run.gateway, -15) == [a.Finish(0)]


def test_a_stop_without_processes_ends_at_once() -> None:
    run = Run(1).up()
    deaths(run, run.gateway, 1)
    run.exit(run.gateway)
    run.exit(run.worker)
    assert run.do(run.policy.stop(run.now)) == [a.Finish(0)]


def test_a_gateway_that_dies_in_a_stop_is_not_replaced() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    assert run.exit(run.gateway) == [terminate(run.worker)]
    assert "before it had closed its clients" in run.said
    assert run.exit(run.worker, 0) == [a.Finish(0)]


def test_no_process_is_restarted_in_a_stop() -> None:
    run = Run(2).up()
    run.do(run.policy.stop(run.now))
    run.exit(run.worker)
    assert not [each for each in run.pass_time(1000) if isinstance(each, a.Spawn)]


def test_the_second_signal_kills_at_once() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    killed = run.do(run.policy.stop_now(143, run.now))
    assert killed == [kill(run.worker), kill(run.gateway)]
    assert run.exit(run.worker) == []
    assert run.exit(run.gateway) == [a.Finish(143)]


def test_a_worker_that_becomes_ready_in_a_stop_changes_nothing() -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.ready(1, run.now)) == []
    assert run.worker.state is ChildState.STOPPING


def test_a_second_stop_and_an_unexpected_stopped_are_ignored() -> None:
    run = Run(1).up()
    assert run.do(run.policy.stopped(run.now)) == []
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.stop(run.now)) == []


# --- several pools ---

FEED = WorkerSpec(Program("feed.py", "feed.py", label="feed.py"), 2)


def two_pools(workers: int = 2, **settings: Any) -> Run:
    """A run with the pools `default` and `feed`, all ready."""
    run = Run(workers, others={"feed": [FEED]}, **settings)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    while starting := [c for c in run.policy.workers if c.state is ChildState.STARTING]:
        for child in starting:
            run.do(run.policy.ready(child.n, run.now))
    return run


def test_one_worker_of_each_pool_is_started_first() -> None:
    run = Run(2, others={"feed": [FEED], "elsewhere": []}, start_timeout=0.0)
    ours, feed = run.pool, run.policy.pools["feed"]
    _, *first = run.do(run.policy.decide(run.now))
    assert first == [a.Spawn(ours.workers[0]), a.Spawn(feed.workers[0])]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.do(run.policy.ready(1, run.now)) == []
    assert not run.policy.has_been_up
    rest = run.do(run.policy.ready(2, run.now))
    assert rest == [a.Spawn(ours.workers[1]), a.Spawn(feed.workers[1])]
    assert run.policy.has_been_up
    assert [(child.n, child.pool) for child in run.policy.workers] == [
        (1, "default"), (3, "default"), (2, "feed"), (4, "feed")
    ]  # fmt: skip


@pytest.mark.parametrize("code", [DOES_NOT_LOAD, 1])
def test_a_boot_failure_in_any_pool_ends_the_run(code: int) -> None:
    run = Run(1, others={"feed": [FEED]}, restart_intensity=0)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.do(run.policy.ready(1, run.now))
    run.exit(run.policy.pools["feed"].workers[0], code)
    assert run.policy.phase is RunPhase.ENDING


def test_a_crash_loop_concerns_only_its_pool() -> None:
    run = two_pools(restart_intensity=3)
    run.pass_time(10)
    feed = run.policy.pools["feed"]
    deaths(run, feed.workers[0], 5)
    assert run.policy.is_looping
    assert (feed.restarts.is_looping, run.pool.restarts.is_looping) == (True, False)
    run.exit(run.worker)
    assert run.pass_time(0.11)[0] == a.Spawn(run.worker), "its pause is not that of the others"
    run.do(run.policy.ready(run.worker.n, run.now))
    run.do(run.policy.left(run.worker.n, 5, run.now))
    assert feed.restarts.is_looping, "that one of another pool works says nothing"


def test_a_crash_loop_is_reported_with_its_pool() -> None:
    run = two_pools(restart_intensity=0)
    run.pass_time(10)
    (worker, _) = run.policy.pools["feed"].workers
    deaths(run, worker, 1)
    run.exit(worker, 1)
    assert "crash loop in the pool feed: more than 0 early deaths" in run.said


def test_a_pool_can_be_reloaded_alone() -> None:
    run = two_pools(1)
    run.pass_time(10)
    before = list(run.pool.workers)
    done = run.do(run.policy.reload(run.now, ["feed"]))
    assert [each.child.pool for each in done if isinstance(each, a.Spawn)] == ["feed"]
    run.pass_time(10)
    assert run.pool.workers == before
    assert not run.pool.is_reloading
    assert run.policy.pools["feed"].is_reloading


def test_pools_are_reloaded_side_by_side_and_a_failing_one_delays_no_other() -> None:
    run = two_pools(1)
    run.pass_time(10)
    spawned = [
        each.child for each in run.do(run.policy.reload(run.now)) if isinstance(each, a.Spawn)
    ]
    assert [child.pool for child in spawned] == ["default", "feed"]
    ours, theirs = spawned
    done = run.exit(theirs, DOES_NOT_LOAD)
    (refused,) = done
    assert isinstance(refused, a.Settled)
    assert (refused.pool, refused.ok) == ("feed", False)
    run.do(run.policy.ready(ours.n, run.now))
    (told,) = run.pass_time(SETTLE)
    (reloaded,) = run.exit(run.drained(told), 0)
    assert reloaded == a.Settled("reload", True, "reloaded: 1 worker", "default")


def test_a_pool_can_be_scaled_alone() -> None:
    run = two_pools(1)
    run.pass_time(10)
    feed = run.policy.pools["feed"]
    (spawn,) = run.do(run.policy.scale(3, run.now, feed, feed.programs[0]))
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.pool == "feed"
    assert (len(run.pool.workers), len(feed.workers)) == (1, 3)
    done = run.do(run.policy.ready(spawn.child.n, run.now))
    assert done == [a.Settled("scale", True, "3 workers", "feed")]


def test_a_run_whose_only_pool_is_remote_is_up_with_its_gateway() -> None:
    run = Run()
    run.policy = Policy({"elsewhere": []}, Settings(), lambda: 1.0)
    run.do(run.policy.decide(run.now))
    assert not run.policy.has_been_up
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.policy.has_been_up
    assert run.do(run.policy.stop(run.now)) == [tell_stop(30.0)]
    assert run.do(run.policy.stopped(run.now)) == [terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [a.Finish(0)]


# --- events in any order ---


class World(RuleBasedStateMachine):
    """Random events in two pools, with invariants for every moment and for the end."""

    def __init__(self) -> None:
        super().__init__()
        chance = random.Random(0)
        settings = Settings(stop_timeout=10.0, drain_timeout=4.0)
        entries = {"a": [WorkerSpec(PROGRAM, 3)], "b": [WorkerSpec(PROGRAM, 2)], "elsewhere": []}
        self.policy = Policy(entries, settings, chance.random)
        self.pools = self.policy.pools
        self.now = 0.0
        self.processes: set[Child] = set()
        self.killed: set[Child] = set()
        self.numbers: set[tuple[bool, int]] = set()
        self.wanted = {"a": 3, "b": 2, "elsewhere": 0}
        self.waiting: set[tuple[str, str]] = set()
        self.finished: int | None = None
        self.stopping = False
        self.take(self.policy.decide(self.now))

    def take(self, actions: list[a.Action]) -> None:
        for action in actions:
            assert self.finished is None, "nothing comes after the end"
            match action:
                case a.Spawn(child):
                    assert not self.stopping
                    assert child not in self.processes, "one place, one process"
                    is_gateway = child is self.policy.gateway
                    if not is_gateway:
                        is_first = not self.policy.has_been_up
                        assert is_first or self.policy.gateway.state is ChildState.READY
                    assert (is_gateway, child.n) not in self.numbers, "never reused"
                    self.numbers.add((is_gateway, child.n))
                    self.processes.add(child)
                case a.End(child, how):
                    assert child in self.processes
                    if how is a.Termination.KILL:
                        self.killed.add(child)
                case a.Tell(DrainWorker(n)):
                    child = next(c for c in self.processes if c.n == n and c.program)
                    assert child.state is ChildState.STOPPING
                    assert child not in self.policy.workers, "its place is another's"
                case a.Settled(what, ok, _, name):
                    if ok:
                        assert (what, name) in self.waiting
                        pool = self.pools[name]
                        assert all(c.state is ChildState.READY for c in pool.workers)
                        ours = {c for c in self.processes if c.pool == name}
                        assert {*pool.workers, self.policy.gateway} >= ours
                    self.waiting.discard((what, name))
                case a.Tell(Stop()):
                    assert self.policy.gateway in self.processes
                case a.Finish(code):
                    assert not self.processes
                    self.finished = code
        if self.policy.phase is not RunPhase.RUNNING:
            self.stopping = True

    living = precondition(lambda self: self.processes)
    lasting = precondition(lambda self: self.finished is None)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 2.0, 6.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.policy.decide(self.now))
        wake = self.policy.wake_at(self.now)
        assert wake > self.now, "a tick must not ask for itself"

    @living
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3, -9, -15]))
    def exit(self, data: st.DataObject, code: int) -> None:
        order = [*self.policy.all_children(), self.policy.gateway]
        child = data.draw(st.sampled_from([c for c in order if c in self.processes]))
        self.processes.discard(child)
        self.killed.discard(child)
        self.take(self.policy.exited(child, code, "went", self.now))

    @lasting
    @rule(endpoint=st.sampled_from(["a", "a", "a", "b"]))
    def listening(self, endpoint: str) -> None:
        self.take(self.policy.listening(endpoint, self.now))

    @lasting
    @rule(n=st.integers(0, 12))
    def ready(self, n: int) -> None:
        self.take(self.policy.ready(n, self.now))

    @lasting
    @rule(n=st.integers(0, 12))
    def left(self, n: int) -> None:
        self.take(self.policy.left(n, n % 3, self.now))

    @lasting
    @rule(n=st.integers(0, 12), abort=st.booleans())
    def kill_asked(self, n: int, abort: bool) -> None:
        self.take(self.policy.kill_asked(n, "so", abort, self.now))

    @lasting
    @rule(up=st.booleans())
    def get_ready(self, up: bool) -> None:
        """Let all children become ready, as they usually do: otherwise few of the other rules
        apply.
        """
        if self.policy.gateway.state is ChildState.STARTING:
            self.take(self.policy.listening("a", self.now))
        for child in list(self.policy.all_children()):
            if child.state is ChildState.STARTING:
                self.take(self.policy.ready(child.n, self.now))
        if up:
            for child in [each for pool in self.pools.values() for each in pool.leaving]:
                self.processes.discard(child)
                self.killed.discard(child)
                self.take(self.policy.exited(child, 0, "exited", self.now))

    @lasting
    @rule(names=st.sampled_from([None, ["a"], ["b"]]))
    def reload(self, names: list[str] | None) -> None:
        if not self.stopping:
            self.waiting |= {("reload", name) for name in names or self.pools}
        self.take(self.policy.reload(self.now, names))

    @lasting
    @rule(count=st.integers(0, 5), name=st.sampled_from("ab"))
    def scale(self, count: int, name: str) -> None:
        if not self.stopping:
            self.wanted[name] = max(1, count)
            self.waiting.add(("scale", name))
        pool = self.pools[name]
        self.take(self.policy.scale(count, self.now, pool, pool.programs[0]))

    @lasting
    @rule(n=st.integers(0, 12))
    def recycle(self, n: int) -> None:
        self.take(self.policy.recycle(n, "old", self.now))

    @lasting
    @rule()
    def stopped(self) -> None:
        self.take(self.policy.stopped(self.now))

    @lasting
    @rule(again=st.booleans())
    @precondition(lambda self: len(self.numbers) > 3)
    def stop(self, again: bool) -> None:
        self.stopping = True
        self.take(self.policy.stop_now(130, self.now) if again else self.policy.stop(self.now))

    @invariant()
    def who_lives_is_known(self) -> None:
        all_children = [*self.policy.all_children(), self.policy.gateway]
        assert len(all_children) == len(set(all_children)), "nobody stands in two places"
        alive = {c for c in all_children if c.alive}
        assert alive == self.processes
        for name, pool in self.pools.items():
            assert len(pool.workers) == self.wanted[name]
            assert all(child.pool == name for child in pool.all_children())
            if not self.stopping:
                assert (pool.replaced is None) == (pool.successor is None)
                assert pool.replaced is None or pool.replaced in pool.workers
        assert (self.policy.phase is RunPhase.OVER) == (self.finished is not None)

    def teardown(self) -> None:
        """A stop ends every run, even if no process leaves before it is killed."""
        if self.finished is None:
            self.take(self.policy.stop(self.now))
        for _ in range(50):
            for child in list(self.killed):
                self.killed.discard(child)
                self.processes.discard(child)
                self.take(self.policy.exited(child, -9, "was killed", self.now))
            wake = self.policy.wake_at(self.now)
            if self.finished is not None or (wake == math.inf and not self.killed):
                break
            if wake < math.inf:
                self.now = max(self.now, wake)
            self.take(self.policy.decide(self.now))
        assert self.finished is not None


TestWorld = World.TestCase
TestWorld.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_each_death_is_counted_by_its_reason() -> None:
    run = Run(1, handler_timeout=0).up()

    def counts() -> dict[str, int]:
        return {why: count for why, count in run.pool.restarts.counts.items() if count}

    for code in (-11, 1, 0):
        run.exit(run.worker, code)
        run.pass_time(5)
        run.do(run.policy.ready(run.worker.n, run.now))
        run.pass_time(5)
    assert counts() == {"signal": 1, "failed": 1, "exited": 1}
    run.do(run.policy.kill_asked(run.worker.n, "it hangs", True, run.now))
    run.exit(run.worker, -6)
    run.pass_time(5)
    run.do(run.policy.ready(run.worker.n, run.now))
    run.do(run.policy.kill_asked(run.worker.n, "it sends nonsense", False, run.now))
    run.exit(run.worker, -9)
    assert counts() == {"signal": 1, "failed": 1, "exited": 1, "hung": 1, "killed": 1}
    run.exit(run.gateway, -11)
    assert run.policy.gateway_restarts.counts["signal"] == 1


def test_a_replaced_worker_is_counted_and_its_exit_is_not() -> None:
    run = Run(1).up()
    run.pass_time(5)
    for begin in (
        lambda: run.policy.reload(run.now),
        lambda: run.policy.recycle(run.worker.n, "it holds too much", run.now),
    ):
        old = run.worker
        run.do(begin())
        run.do(run.policy.ready(old.n + 1, run.now))
        run.pass_time(1)
        run.exit(old, 0)
    counts = run.pool.restarts.counts
    assert {why: count for why, count in counts.items() if count} == {"reload": 1, "recycled": 1}
