from __future__ import annotations

import pytest

from tests.supervisor.decisions.test_pool import up
from tests.supervisor.decisions.test_verdict import handled
from tests.supervisor.policy_run import Run
from wsraw.link import records as rec
from wsraw.link.records import DrainWorker
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.canary import SETTLE, CanaryPlan, Stage
from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.policy import DOES_NOT_LOAD
from wsraw.supervisor.decisions.verdict import Handled, Kind
from wsraw.supervisor.decisions.versions import Version

PLAN = CanaryPlan(0.25, 60.0)


GOOD = handled(1000, 0, 0.1, events=1000)
WORSE = handled(1000, 1, 0.1, events=1000)


# --- the course of a trial ---


class Trial:
    """A pool with old workers, and a running canary."""

    def __init__(self, workers: int = 4, plan: CanaryPlan = PLAN, *, is_kept: bool = True) -> None:
        self.run = up(workers)
        self.old = list(self.run.policy.workers)
        pool = self.run.pool
        self.done = self.run.do(
            self.run.policy.try_out(pool, plan, is_kept=is_kept, now=self.run.now)
        )

    @property
    def new(self) -> list[Child]:
        assert self.run.pool.canary is not None
        return self.run.pool.canary.children

    def begin(self) -> list[a.Action]:
        for child in self.new:
            self.run.do(self.run.policy.ready(child.n, self.run.now))
        return self.run.pass_time(SETTLE)

    def compare(self, old: Handled, new: Handled) -> list[a.Action]:
        run = self.run
        return run.do(run.policy.compare(run.pool, old, new, is_kept=True, now=run.now))


def shares(actions: list[a.Action]) -> list[rec.Canary]:
    return [
        each.record
        for each in actions
        if isinstance(each, a.Tell) and isinstance(each.record, rec.Canary)
    ]


def drained(actions: list[a.Action]) -> list[int]:
    return [
        each.record.n
        for each in actions
        if isinstance(each, a.Tell) and isinstance(each.record, DrainWorker)
    ]


@pytest.mark.parametrize(("workers", "share", "count"), [(4, 0.25, 1), (4, 0.3, 2), (1, 0.1, 1)])
def test_a_canary_has_workers_by_its_share(workers: int, share: float, count: int) -> None:
    trial = Trial(workers, CanaryPlan(share, 60.0))
    spawned = [each.child for each in trial.done if isinstance(each, a.Spawn)]
    assert spawned == trial.new
    assert len(spawned) == count
    assert {child.version for child in spawned} == {Version(2)}
    assert trial.run.policy.workers == trial.old


def test_the_gateway_knows_its_workers_before_their_hello() -> None:
    trial = Trial(8)
    kinds = [type(each.record if isinstance(each, a.Tell) else each) for each in trial.done]
    assert kinds == [rec.Canary, a.Spawn] * 2
    assert shares(trial.done) == [
        rec.Canary("default", [9]), rec.Canary("default", [9, 10]),
    ]  # fmt: skip


def test_a_canary_has_its_share_when_all_its_workers_are_ready_and_stay() -> None:
    trial = Trial(8)
    one, two = trial.new
    trial.run.do(trial.run.policy.ready(one.n, trial.run.now))
    assert trial.run.pass_time(5) == []
    trial.run.do(trial.run.policy.ready(two.n, trial.run.now))
    assert trial.run.pass_time(SETTLE * 0.9) == []
    assert shares(trial.run.pass_time(SETTLE * 0.2)) == [rec.Canary("default", [9, 10], 0.25)]
    assert "canary: version 2 serves 25 % of the connections for 1.0 min" in str(trial.run.said)


def test_a_good_version_is_given_to_all() -> None:
    """All workers get the version as it was tried, whatever is on disk; the canary's workers
    serve until the end.
    """
    trial = Trial(2, PLAN)
    run = trial.run
    trial.begin()
    (new,) = trial.new
    run.pass_time(30)
    assert trial.compare(GOOD, handled()) == []
    run.pass_time(31)
    done = trial.compare(GOOD, handled(100, 0, 0.01))
    for old in trial.old:
        (spawn,) = [each for each in done if isinstance(each, a.Spawn)]
        assert spawn.child.version == Version(2, is_kept=True)
        run.do(run.policy.ready(spawn.child.n, run.now))
        done = run.pass_time(SETTLE)
        assert drained(done)[0] == old.n
        done += run.exit(old, 0)
    assert shares(done) == [rec.Canary("default", [])]
    assert drained(done)[1:] == [new.n]
    both = run.exit(new, 0)
    assert both == [
        a.Settled("reload", True, "reloaded: 2 workers"),
        a.Settled("canary", True, "reloaded: 2 workers"),
    ]
    assert run.pool.versions.present == 2
    assert run.pool.versions.previous == 1
    assert run.pool.canary is None
    assert run.pool.outcomes.counts == {Kind.PROMOTED: 1}


def test_a_worse_version_is_rolled_back() -> None:
    trial = Trial()
    trial.begin()
    (new,) = trial.new
    assert trial.compare(GOOD, handled()) == []
    done = trial.compare(GOOD, WORSE)
    assert shares(done) == [rec.Canary("default", [])]
    assert drained(done) == [new.n]
    (told,) = [each for each in done if isinstance(each, a.Settled)]
    assert not told.ok
    assert not told.shows_output
    assert told.text == (
        "rolled back: on_message raised an exception in 1,000 calls; the old workers raised 0 in "
        "0; 4 workers of the old version serve all connections"
    )
    assert trial.run.policy.workers == trial.old
    assert trial.run.exit(new, 0) == []
    assert trial.run.pass_time(1000) == []


@pytest.mark.parametrize("is_kept", [True, False])
def test_after_a_trial_that_failed_a_worker_that_dies_is_followed_by_one_of_its_version(
    is_kept: bool,
) -> None:
    """The failed version is still on disk."""
    trial = Trial(is_kept=is_kept)
    trial.begin()
    trial.compare(GOOD, handled())
    trial.compare(GOOD, WORSE)
    trial.run.exit(trial.old[0], 1)
    (spawn,) = trial.run.pass_time(5)
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.version == Version(1, is_kept=is_kept)
    trial.run.policy.reload(trial.run.now)
    assert trial.run.pool.versions.wanted == Version(3), "from disk again"


def test_a_trial_after_a_refused_reload_is_no_sign_that_its_file_loads() -> None:
    """The canary is ready, does worse, and must not replace the old workers."""
    run = up(2)
    (spawn,) = run.do(run.policy.reload(run.now))
    assert isinstance(spawn, a.Spawn)
    run.exit(spawn.child, DOES_NOT_LOAD)
    (_, spawn) = run.do(run.policy.try_out(run.pool, PLAN, is_kept=True, now=run.now))
    assert isinstance(spawn, a.Spawn)
    run.do(run.policy.ready(spawn.child.n, run.now))
    assert "the new code works" not in run.said
    assert not any(child.outdated for child in run.policy.workers)


def test_with_a_shield_the_gateway_is_told_so() -> None:
    trial = Trial(plan=CanaryPlan(0.25, 60.0, shield=True))
    assert shares(trial.done) == [rec.Canary("default", [5], 0.0, True)]
    assert shares(trial.begin()) == [rec.Canary("default", [5], 0.25, True)]
    assert "for 1.0 min, shielded by the old workers" in str(trial.run.said)
    assert trial.new and trial.run.pool.canary is not None
    assert trial.run.pool.canary.facts(trial.run.now)["shield"]


def test_outcomes_are_counted_and_the_last_one_is_kept() -> None:
    trial = Trial(1)
    run, outcomes = trial.run, trial.run.pool.outcomes
    assert outcomes.last is None
    trial.begin()
    trial.compare(GOOD, handled())
    trial.compare(GOOD, WORSE)
    assert outcomes.counts == {Kind.EXCEPTIONS: 1}
    assert outcomes.last is not None
    assert outcomes.last["version"] == 2
    assert "on_message raised" in outcomes.last["why"]
    for end, kind in (
        (lambda child: run.exit(child, DOES_NOT_LOAD, "exited"), Kind.NOT_READY),
        (lambda _: run.do(run.policy.roll_back(["default"], run.now)), Kind.ENDED),
    ):
        run.pass_time(10)
        run.do(run.policy.try_out(run.pool, PLAN, is_kept=True, now=run.now))
        end(trial.new[0])
        assert outcomes.counts[kind] == 1
        assert outcomes.last["outcome"] == kind.value
    assert outcomes.by_name() == {
        **dict.fromkeys(outcomes.by_name(), 0), "exceptions": 1, "not-ready": 1, "ended": 1,
    }  # fmt: skip


def test_exceptions_of_the_old_workers_are_known_after_a_gateways_death() -> None:
    trial = Trial()
    trial.begin()
    assert trial.compare(handled(100_000, 100), handled()) == []
    assert trial.run.pool.canary is not None
    trial.run.pool.canary.forget()
    assert trial.compare(handled(10), handled()) == []
    assert trial.compare(handled(20), handled(10, 1)) == []
    assert trial.compare(handled(20), handled(10, 3)) != []


def test_the_files_of_both_versions_are_kept_during_a_trial() -> None:
    """This holds whatever other pools reload meanwhile."""
    trial = Trial()
    assert trial.run.pool.kept_versions == {1, 2}
    trial.run.exit(trial.new[0], DOES_NOT_LOAD)
    assert trial.run.pool.kept_versions == {1}


@pytest.mark.parametrize("when", ["starting", "on trial"])
def test_a_death_rolls_a_canary_back(when: str) -> None:
    trial = Trial()
    if when == "on trial":
        trial.begin()
    (new,) = trial.new
    done = trial.run.exit(new, DOES_NOT_LOAD, "exited with code 3")
    (told,) = [each for each in done if isinstance(each, a.Settled)]
    assert "exited with code 3" in told.text
    assert told.shows_output
    assert trial.run.pool.canary is None
    assert trial.run.pass_time(1000) == [], "no other one is started"


def test_an_old_worker_that_dies_during_a_trial_is_followed_by_one_of_its_version() -> None:
    for is_kept in (True, False):
        trial = Trial(is_kept=is_kept)
        trial.begin()
        trial.run.exit(trial.old[0], 1)
        (spawn,) = trial.run.pass_time(5)
        assert isinstance(spawn, a.Spawn)
        assert spawn.child.version == Version(1, is_kept=is_kept)


def test_scaling_does_not_wait_for_the_end_of_a_trial() -> None:
    trial = Trial(1)
    trial.begin()
    run = trial.run
    (spawn,) = run.do(run.policy.scale(2, run.now, run.pool, trial.old[0].program))  # type: ignore[arg-type]
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.version == Version(1, is_kept=True)
    done = run.do(run.policy.ready(spawn.child.n, run.now))
    assert a.Settled("scale", True, "2 workers") in done
    assert run.pool.canary is not None


@pytest.mark.parametrize("what", ["reload", "roll_back"])
def test_a_reload_or_a_rollback_ends_a_trial(what: str) -> None:
    trial = Trial()
    trial.begin()
    (new,) = trial.new
    policy, now = trial.run.policy, trial.run.now
    actions = policy.reload(now) if what == "reload" else policy.roll_back(["default"], now)
    done = trial.run.do(actions)
    assert drained(done) == [new.n]
    assert trial.run.pool.canary is None
    spawned = [each.child.version for each in done if isinstance(each, a.Spawn)]
    assert spawned == ([Version(3)] if what == "reload" else [])


def test_a_new_gateway_is_told_of_a_canary_and_counts_anew() -> None:
    trial = Trial()
    trial.begin()
    trial.compare(GOOD, handled())
    record = trial.run.pool.canary_record()
    assert record == rec.Canary("default", [5], 0.25)
    trial.run.exit(trial.run.policy.gateway, 1)
    trial.run.pass_time(1)
    trial.run.do(trial.run.policy.listening("ipc:///run/link.sock", trial.run.now))
    assert trial.run.pool.canary_record() == record
    assert trial.compare(handled(1, 0, events=1), handled()) == [], "and nothing is below 0"
    assert trial.compare(handled(2, 0, events=2), handled(5, 1)) != []


def test_workers_of_a_promoted_canary_may_die() -> None:
    trial = Trial(1)
    trial.begin()
    (new,) = trial.new
    trial.compare(GOOD, handled())
    trial.run.pass_time(61)
    trial.compare(GOOD, handled())
    assert trial.run.pool.canary is not None
    assert trial.run.pool.canary.stage is Stage.PROMOTED
    assert shares(trial.run.exit(new, -9)) == [rec.Canary("default", [])]


def test_a_version_that_does_not_load_for_all_is_given_up() -> None:
    """The version may need a port or a lock that its first worker has."""
    trial = Trial(2)
    run = trial.run
    trial.begin()
    (new,) = trial.new
    trial.compare(GOOD, handled())
    run.pass_time(61)
    (spawn,) = [each for each in trial.compare(GOOD, handled()) if isinstance(each, a.Spawn)]
    done = run.exit(spawn.child, DOES_NOT_LOAD, "exited with code 3")
    assert [(each.what, each.ok) for each in done if isinstance(each, a.Settled)] == [
        ("reload", False), ("canary", False),
    ]  # fmt: skip
    assert drained(done) == [new.n]
    assert run.pool.outcomes.counts == {Kind.NOT_READY: 1}
    assert run.pool.versions.wanted == Version(1, is_kept=True)
    assert run.policy.workers == trial.old


def test_without_a_report_a_trial_goes_on() -> None:
    trial = Trial()
    trial.begin()
    assert trial.run.pass_time(1000) == []
    assert trial.run.pool.canary is not None


def test_a_stop_ends_all_workers_of_a_canary() -> None:
    trial = Trial()
    trial.begin()
    run: Run = trial.run
    run.do(run.policy.stop(run.now))
    assert all(child in run.policy.all_children() for child in trial.new)
