"""The policy of a run continues in another program: no state that matters is left out, and the
copy decides like the original.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests.supervisor.policy_run import PROGRAM, Run
from wsraw.config.programs import Program, WorkerSpec
from wsraw.config.settings import Settings
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.policy import Policy
from wsraw.supervisor.decisions.pool import Pool
from wsraw.supervisor.decisions.restarts import Restarts
from wsraw.supervisor.decisions.verdict import Kind
from wsraw.supervisor.decisions.versions import Versions
from wsraw.supervisor.replacing.records import NotUnderstoodError, PolicyRecord
from wsraw.supervisor.replacing.state import Freezing, Thawing

OTHER = Program("y.py", "y.py", label="y.py")

LEFT_OUT = {
    Policy: {
        "_actions": "empty between two decisions",
        "_gateway_check": "begins anew",
        "_random": "not a state",
        "_settings": "come by themselves",
        "_stop_at": "only a run that is up is replaced",
        "exit_code": "only a run that is up is replaced",
        "phase": "only a run that is up is replaced",
    },
    Pool: {
        "_do": "not a state",
        "canary": "none during a canary",
        "drain_timeout": "a setting",
    },
    Restarts: {"_at_once": "of its owner", "_intensity": "a setting", "_random": "not a state"},
    Versions: {},
}

CARRIED = {
    Policy: "gateway pools _unwanted has_been_up gateway_restarts upgrades endpoint _listened"
    " _spawned _version",
    Pool: "name programs workers restarts proved leaving successor replaced is_reloading"
    " _is_catching_up _refused_at _is_scaling versions outcomes _promoted",
    Restarts: "is_looping counts longest _deaths _recent_deaths",
    Versions: "wanted _served _before _is_going_back",
}


def copied(run: Run, later: float = 1000.0) -> Run:
    """A copy of the run in another program, with another clock."""
    freezing = Freezing(run.now)
    record = freezing.policy(run.policy)
    other = Run(0)
    other.policy = Policy({}, run.policy._settings, lambda: 1.0)
    other.now = run.now + later
    Thawing(record, other.policy, other.now)
    return other


def shown(actions: list[a.Action]) -> list[Any]:
    """The actions, with children replaced by their names, pools and programs."""

    def show(value: Any) -> Any:
        return (value.name, value.pool, value.program) if isinstance(value, Child) else value

    return [
        (type(each), [show(getattr(each, name)) for name in each.__struct_fields__])
        for each in actions
    ]


@pytest.mark.parametrize("kind", [Policy, Pool, Restarts, Versions])
def test_every_attribute_is_carried_or_left_out_for_a_reason(kind: type) -> None:
    run = Run(1)
    pool = run.pool
    found = {Policy: run.policy, Pool: pool, Restarts: pool.restarts, Versions: pool.versions}
    assert set(vars(found[kind])) == set(LEFT_OUT[kind]) | set(CARRIED[kind].split())


def test_a_run_that_is_up_goes_on() -> None:
    run = Run(2, others={"chat": [WorkerSpec(OTHER, 1)]}).up()
    run.pass_time(10)
    other = copied(run)
    assert [c.n for c in other.policy.workers] == [c.n for c in run.policy.workers]
    assert [c.token for c in other.policy.workers] == [c.token for c in run.policy.workers]
    assert list(other.policy.pools) == ["default", "chat"]
    assert other.policy.endpoint == run.policy.endpoint
    dead, also = run.policy.workers[0], other.policy.workers[0]
    assert shown(other.exit(also, -9, "was killed")) == shown(run.exit(dead, -9, "was killed"))
    assert shown(other.pass_time(60)) == shown(run.pass_time(60))


def play(run: Run, luck: random.Random) -> list[a.Action]:
    """Let a random event happen."""
    policy = run.policy
    alive = [child for child in policy.all_children() if child.alive]
    what = luck.randrange(8)
    if what == 0 and alive:
        child = luck.choice(alive)
        return run.do(policy.exited(child, luck.choice([0, 1, 3, -9]), "died", run.now))
    if what == 1:
        return run.do(policy.reload(run.now))
    if what == 2:
        return run.do(policy.scale(luck.randrange(1, 5), run.now, run.pool, PROGRAM))
    if what == 3 and alive:
        return run.do(policy.recycle(luck.choice(alive).n, "it is old", run.now))
    if what == 4 and policy.pools["default"].versions.previous:
        return run.do(policy.roll_back(["default"], run.now))
    if what == 5 and alive:
        return run.do(policy.left(luck.choice(alive).n, 1, run.now))
    starting = [child for child in alive if child.state is ChildState.STARTING]
    if what < 7 and starting:
        return run.do(policy.ready(luck.choice(starting).n, run.now))
    return run.pass_time(luck.choice([0.01, 0.2, 3.0, 40.0]))


@pytest.mark.parametrize("seed", range(60))
def test_any_life_goes_on_as_it_would_have(seed: int) -> None:
    """The run is copied at a random moment; then the same events happen to both."""
    luck = random.Random(seed)
    run = Run(luck.randrange(1, 4), drain_timeout=7.0, start_timeout=20.0).up()
    for _ in range(luck.randrange(40)):
        play(run, luck)
    other = copied(run)
    ours, theirs = random.Random(seed + 1), random.Random(seed + 1)
    for _ in range(30):
        assert shown(play(other, theirs)) == shown(play(run, ours))
        assert other.said == run.said


def test_how_canaries_have_ended_is_kept() -> None:
    run = Run(1).up()
    run.pool.outcomes.add(3, Kind.PROMOTED)
    other = copied(run)
    assert other.pool.outcomes.by_name() == run.pool.outcomes.by_name()
    assert other.pool.outcomes.last == run.pool.outcomes.last


def test_infinity_stays_infinity() -> None:
    run = Run(1).up()
    other = copied(run)
    (child,) = other.policy.workers
    assert child.kill_at == math.inf
    assert child.hello_by == math.inf


def test_a_record_that_contradicts_itself_is_refused() -> None:
    run = Run(1).up()
    record: PolicyRecord = Freezing(run.now).policy(run.policy)
    record.gateway = 77
    with pytest.raises(NotUnderstoodError, match="contradicts itself"):
        Thawing(record, Policy({}, Settings(), random.random), 0.0)
