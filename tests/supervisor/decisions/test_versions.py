from __future__ import annotations

from tests.supervisor.decisions.test_pool import be_ready, replace, settled, up
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.policy import DOES_NOT_LOAD
from wsraw.supervisor.decisions.versions import MOST_KEPT, Version, Versions


def served(versions: Versions, number: int) -> None:
    versions.reload(number)
    assert not versions.served()


def test_a_rollback_goes_one_version_back_each_time() -> None:
    versions = Versions()
    assert not versions.previous
    served(versions, 2)
    served(versions, 3)
    for previous in (2, 1):
        assert versions.previous == previous
        versions.go_back(versions.previous)
        assert versions.wanted == Version(previous, is_kept=True)
        assert versions.served()
        assert versions.present == previous
    assert not versions.previous
    served(versions, 4)
    assert (versions.wanted, versions.previous) == (Version(4), 1), "from disk again"


def test_a_refused_version_is_none_to_go_back_to() -> None:
    versions = Versions()
    served(versions, 2)
    versions.reload(3)
    versions.refused()
    assert (versions.present, versions.previous) == (2, 1)
    served(versions, 4)
    assert (versions.present, versions.previous) == (4, 2)


def test_after_a_rollback_a_refused_reload_leaves_the_kept_version() -> None:
    """A worker that dies must not be replaced by one of the refused version."""
    versions = Versions()
    served(versions, 2)
    versions.go_back(versions.previous)
    versions.served()
    versions.reload(3)
    versions.reload(4)
    versions.refused()
    assert versions.wanted == Version(1, is_kept=True)


def test_after_a_refused_rollback_workers_load_what_the_others_have() -> None:
    versions = Versions()
    served(versions, 2)
    versions.go_back(versions.previous)
    versions.refused()
    assert (versions.wanted, versions.present, versions.previous) == (Version(2), 2, 1)


def test_as_many_versions_are_kept_as_a_rollback_may_need() -> None:
    versions = Versions()
    for number in range(2, 20):
        versions.reload(number)
        assert number in versions.kept
        versions.served()
        assert len(versions.kept) <= MOST_KEPT
    assert versions.kept == set(range(20 - MOST_KEPT, 20))


def test_all_workers_of_a_pool_are_rolled_back() -> None:
    run = up(2)
    done = run.do(run.policy.reload(run.now))
    for _ in range(2):
        done = replace(run, done)
    assert settled(done).text == "reloaded: 2 workers"
    assert {child.version for child in run.policy.workers} == {Version(2)}
    done = run.do(run.policy.roll_back(["default"], run.now))
    for _ in range(2):
        done = replace(run, done)
    assert settled(done) == a.Settled("reload", True, "rolled back to version 1: 2 workers")
    assert {child.version for child in run.policy.workers} == {Version(1, is_kept=True)}
    run.exit(run.policy.workers[0], 1)
    (spawn,) = run.pass_time(5)
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.version == Version(1, is_kept=True), "also when one dies"


def test_a_rollback_of_a_reload_that_is_under_way_goes_to_what_was_before_it() -> None:
    """The rollback does not go one version further back: the present version has served well
    until then.
    """
    run = up(2)
    done = run.do(run.policy.reload(run.now))
    for _ in range(2):
        done = replace(run, done)
    done = replace(run, run.do(run.policy.reload(run.now)))
    versions = [child.version.number for child in run.policy.workers]
    assert versions == [3, 2], "half of it is done"
    assert run.pool.goes_back_to == 2
    (stopped,) = [each.child for each in done if isinstance(each, a.Spawn)]
    done = run.do(run.policy.roll_back(["default"], run.now))
    assert run.pool.goes_back_to == 1, "a second one goes further, when the first one is done"
    assert run.exit(stopped, -15) == []
    done = [each for each in done if isinstance(each, a.Spawn)]
    for _ in range(2):
        done = replace(run, done)
    assert settled(done) == a.Settled("reload", True, "rolled back to version 2: 2 workers")
    assert {child.version for child in run.policy.workers} == {Version(2, is_kept=True)}
    assert (run.pool.versions.present, run.pool.goes_back_to) == (2, 1)


def test_a_version_that_does_not_load_any_more_is_refused() -> None:
    run = up(1)
    replace(run, run.do(run.policy.reload(run.now)))
    (spawn,) = run.do(run.policy.roll_back(["default"], run.now))
    assert isinstance(spawn, a.Spawn)
    done = settled(run.exit(spawn.child, DOES_NOT_LOAD, "exited with code 3"))
    assert not done.ok
    (spawn,) = run.do(run.policy.reload(run.now))
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.version == Version(3)
    be_ready(run, spawn.child)


def test_what_a_refused_worker_has_kept_is_forgotten_before_another_one_loads() -> None:
    """The file has been repaired by then, and a rollback must return to the version that has
    served.
    """
    run = up(2)
    assert not run.policy.begins_version(run.policy.workers[0]), "what serves stays"
    (spawn,) = run.do(run.policy.reload(run.now))
    assert isinstance(spawn, a.Spawn)
    assert run.policy.begins_version(spawn.child)
    run.exit(spawn.child, DOES_NOT_LOAD)
    run.exit(run.policy.workers[1], -9)
    (spawn,) = run.pass_time(5)
    assert isinstance(spawn, a.Spawn)
    assert run.policy.begins_version(spawn.child)
    (second,) = be_ready(run, spawn.child)
    assert isinstance(second, a.Spawn)
    assert second.child.version == Version(2)
    assert not run.policy.begins_version(second.child), "the first one decides"
