from __future__ import annotations

from wsraw.supervisor.decisions.child import Child
from wsraw.supervisor.decisions.restarts import DEATHS_KEPT, FIRST_BACKOFF, STABLE_AFTER, Restarts


def child(n: int = 1, spawned_at: float = 0.0) -> Child:
    child = Child(None)
    child.n = n
    child.spawned_at = spawned_at
    return child


def restarts(intensity: int = 2) -> Restarts:
    return Restarts(intensity, lambda: 1.0)


def test_only_the_death_that_begins_a_crash_loop_reports_it() -> None:
    counted = restarts()
    assert [counted.record_death(child(n), None, n) for n in range(5)] == [0, 0, 1, 0, 0]
    assert counted.is_looping


def test_with_restart_intensity_0_the_first_death_begins_a_crash_loop() -> None:
    counted = restarts(intensity=0)
    assert counted.record_death(child(), None, 0.0)


def test_a_death_after_a_long_life_does_not_count() -> None:
    counted = restarts(intensity=0)
    assert not counted.record_death(child(), 5.0, 5.0 + STABLE_AFTER)
    proved = child()
    counted.prove(proved)
    assert not counted.record_death(proved, 5.0, 5.1)


def test_a_proven_worker_clears_earlier_deaths() -> None:
    counted = restarts()
    for at in range(3):
        counted.record_death(child(), None, float(at))
    assert not counted.prove(child(spawned_at=-1.0)), "it was there before the first of them"
    assert counted.prove(child(spawned_at=0.5))
    assert not counted.is_looping
    assert not counted.prove(child(spawned_at=5.0)), "said once"


def test_a_pardon_ends_a_crash_loop() -> None:
    counted = restarts()
    dead = [child(n) for n in range(3)]
    for each in dead:
        counted.record_death(each, 0.0, 0.5)
    assert counted.is_looping
    assert counted.forgive(2, 0.6)
    assert not counted.is_looping
    assert dead[2].spawn_at == 0.6 + FIRST_BACKOFF
    assert not counted.forgive(2, 0.7), "once"
    assert not counted.forgive(99, 0.7)


def test_a_late_pardon_leaves_the_successor_alone() -> None:
    counted = restarts()
    place = child(1)
    counted.record_death(place, 0.0, 0.5)
    place.n, place.spawn_at, place.early_deaths = 2, 9.0, 4
    counted.forgive(1, 0.6)
    assert (place.spawn_at, place.early_deaths) == (9.0, 4)


def test_recorded_deaths_are_bounded() -> None:
    counted = restarts()
    for n in range(DEATHS_KEPT + 1):
        counted.record_death(child(n), None, float(n))
    assert not counted.forgive(0, 1000.0)
