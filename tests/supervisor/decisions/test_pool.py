from __future__ import annotations

import pytest

from tests.supervisor.policy_run import (
    ENDPOINT,
    PROGRAM,
    Run,
    abort,
    drain,
    kill,
    tell_stop,
    terminate,
)
from wsraw.config.programs import Program, WorkerSpec
from wsraw.link.records import DrainWorker
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.policy import BROKEN_AFTER, DOES_NOT_LOAD, DOES_NOT_START
from wsraw.supervisor.decisions.pool import FOREVER, GRACE, RETRY, SETTLE
from wsraw.supervisor.decisions.restarts import Restarts


def up(workers: int = 2, **settings: float) -> Run:
    """A run whose workers have been ready for long."""
    run = Run(workers, **settings).up()
    run.pass_time(10)
    return run


def be_ready(run: Run, child: Child) -> list[a.Action]:
    """The worker says hello, and stays up."""
    done = run.do(run.policy.ready(child.n, run.now))
    return done + run.pass_time(SETTLE)


def replace(run: Run, spawned: list[a.Action]) -> list[a.Action]:
    """A successor becomes ready, and the worker that it replaces exits; returns the actions
    after that.
    """
    (spawn,) = spawned
    assert isinstance(spawn, a.Spawn)
    told, *rest = be_ready(run, spawn.child)
    return rest + run.exit(run.drained(told), 0, "exited")


def settled(actions: list[a.Action]) -> a.Settled:
    (action,) = actions
    assert isinstance(action, a.Settled)
    return action


def ready_workers(run: Run) -> int:
    return sum(child.state is ChildState.READY for child in run.pool.all_children())


# --- reload ---


def test_a_reload_replaces_workers_one_after_the_other() -> None:
    run = up(2, drain_timeout=7.0, start_timeout=0.0)
    one, two = run.policy.workers
    (spawn,) = run.do(run.policy.reload(run.now))
    assert isinstance(spawn, a.Spawn)
    new = spawn.child
    assert new.n == 3
    assert run.pass_time(60) == [], "no old worker leaves before the new one is ready"
    assert run.do(run.policy.ready(3, run.now)) == []
    assert run.pass_time(SETTLE * 0.9) == [], "it may yet fail in on_start"
    told, second = run.pass_time(SETTLE * 0.2)
    assert told == drain(one, 7.0)
    assert isinstance(second, a.Spawn)
    assert run.policy.workers == [new, two]
    assert be_ready(run, second.child) == [drain(two, 7.0)]
    assert run.exit(one, 0) == []
    assert settled(run.exit(two, 0)) == a.Settled("reload", True, "reloaded: 2 workers")
    assert [child.n for child in run.policy.workers] == [3, 4]


def test_a_reload_never_has_fewer_ready_workers_than_before() -> None:
    run = up(4)
    todo = run.do(run.policy.reload(run.now))
    while todo:
        assert ready_workers(run) >= 4
        action = todo.pop(0)
        if isinstance(action, a.Spawn):
            todo += be_ready(run, action.child)
        elif isinstance(action, a.Tell):
            todo += run.exit(run.drained(action), 0)
    assert sorted(child.n for child in run.policy.workers) == [5, 6, 7, 8]


def test_a_file_that_does_not_load_leaves_the_old_workers() -> None:
    run = up(2)
    old = list(run.policy.workers)
    (spawn,) = run.do(run.policy.reload(run.now))
    done = settled(run.exit(spawn.child, DOES_NOT_LOAD, "exited with code 3"))
    assert done == a.Settled(
        "reload", False, "refused: the new worker exited with code 3; 2 old ones stay"
    )
    assert "worker 3 exited with code 3; the old workers stay" in run.said
    assert run.policy.workers == old
    assert run.pass_time(1000) == []
    assert not run.pool.is_reloading
    (spawn,) = run.do(run.policy.reload(run.now))
    assert isinstance(spawn, a.Spawn), "and it can be tried again"


def test_a_ready_worker_has_loaded_whatever_its_exit_code() -> None:
    """os.abort() exits with that code on Windows, and os._exit(3) everywhere."""
    run = up(2)
    (spawn,) = run.do(run.policy.reload(run.now))
    run.do(run.policy.ready(spawn.child.n, run.now))
    assert run.exit(spawn.child, DOES_NOT_LOAD) == []
    assert run.pool.is_reloading
    assert run.pass_time(2) == [spawn], "it is tried again"


def test_a_command_that_dies_again_and_again_is_refused() -> None:
    """PHP exits with 255 on a syntax error, and Node with 1."""
    php = Program("php chat.php", words=("php", "chat.php"), label="php")
    run = Run(0, 1.0, WorkerSpec(php, 2)).up()
    run.pass_time(10)
    old = list(run.policy.workers)
    (spawn,) = run.do(run.policy.reload(run.now))
    for _ in range(BROKEN_AFTER - 1):
        assert run.exit(spawn.child, 255) == []
        assert run.pass_time(2) == [spawn]
    done = settled(run.exit(spawn.child, 255, "exited with code 255"))
    assert done == a.Settled(
        "reload", False, "refused: the new worker exited with code 255; 2 old ones stay"
    )
    assert run.policy.workers == old
    assert run.pass_time(1000) == []


@pytest.mark.parametrize("code", [DOES_NOT_LOAD, DOES_NOT_START])
def test_a_reload_that_fails_half_way_is_answered_at_once_and_finished_later(code: int) -> None:
    run = up(3)
    (spawn,) = replace(run, run.do(run.policy.reload(run.now)))
    refused = settled(run.exit(spawn.child, code, "exited"))
    assert not refused.ok and "trying again in 30 s" in refused.text
    assert [child.n for child in run.policy.workers] == [4, 2, 3]
    (again,) = run.pass_time(RETRY)
    assert run.exit(again.child, code) == [], "nobody waits for an answer any more"
    (again,) = run.pass_time(RETRY)
    (last,) = replace(run, [again])
    assert replace(run, [last]) == []
    assert "reloaded after all: 3 workers" in run.said
    assert min(child.n for child in run.policy.workers) > 3
    assert run.pass_time(1000) == []


def test_after_a_refused_reload_new_code_that_comes_up_replaces_the_old() -> None:
    """The file has been repaired, and a worker dies: the next process has the new code."""
    run = up(3)
    (spawn,) = run.do(run.policy.reload(run.now))
    assert not settled(run.exit(spawn.child, DOES_NOT_LOAD)).ok
    run.pass_time(10)
    run.exit(run.policy.workers[1], -9)
    (spawn,) = run.pass_time(1)
    (first,) = run.do(run.policy.ready(spawn.child.n, run.now))
    assert "the new code works: replacing 2 workers of the old" in run.said
    (second,) = replace(run, [first])
    assert replace(run, [second]) == []
    assert "reloaded after all: 3 workers" in run.said
    assert min(child.n for child in run.policy.workers) > 3


@pytest.mark.parametrize("code", [DOES_NOT_LOAD, DOES_NOT_START])
def test_an_exit_code_of_a_handler_does_not_refuse_a_reload(code: int) -> None:
    run = up(3)
    todo = run.do(run.policy.reload(run.now))
    todo += run.exit(run.policy.workers[2], code) + run.pass_time(1)
    settled_as = []
    while todo:
        match todo.pop(0):
            case a.Spawn(child):
                todo += be_ready(run, child)
            case a.Tell() as told:
                todo += run.exit(run.drained(told), 0)
            case a.Settled(_, ok, text, _):
                settled_as.append((ok, text))
    assert settled_as == [(True, "reloaded: 3 workers")]
    assert min(child.n for child in run.policy.workers) > 3


def test_an_exit_code_of_a_handler_does_not_end_the_run() -> None:
    """Another pool is not ready yet."""
    feed = WorkerSpec(Program("feed.py", "feed.py", label="feed.py"), 1)
    run = Run(1, others={"feed": [feed]})
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.do(run.policy.ready(1, run.now))
    assert run.exit(run.worker, DOES_NOT_LOAD) == []
    assert not run.policy.has_been_up


@pytest.mark.parametrize("is_reloading", [True, False])
def test_a_failing_on_start_is_reported_to_the_reload_command(is_reloading: bool) -> None:
    run = up(2)
    if is_reloading:
        ask = run.policy.reload(run.now)
    else:
        ask = run.policy.scale(3, run.now, run.pool, PROGRAM)
    (spawn,) = run.do(ask)
    done = settled(run.exit(spawn.child, DOES_NOT_START, "exited with code 1"))
    assert not done.ok and "the new worker exited with code 1; 2 " in done.text


def test_a_successor_that_crashes_repeatedly_refuses_the_reload() -> None:
    """For example a segmentation fault when an extension is imported."""
    run = up(1)
    (spawn,) = run.do(run.policy.reload(run.now))
    for _ in range(BROKEN_AFTER - 1):
        assert run.exit(spawn.child, -11) == []
        assert run.pass_time(2) == [spawn]
    assert not settled(run.exit(spawn.child, -11)).ok


def test_after_any_other_death_a_successor_is_started_again() -> None:
    run = up(1)
    (spawn,) = run.do(run.policy.reload(run.now))
    assert run.exit(spawn.child, -9) == []
    assert run.worker.n == 1
    assert run.pass_time(0.2) == [spawn]
    assert spawn.child.n == 3
    assert settled(replace(run, [spawn])).ok


def test_a_successor_that_dies_right_after_its_hello_replaces_no_worker() -> None:
    run = up(2)
    (spawn,) = run.do(run.policy.reload(run.now))
    run.do(run.policy.ready(spawn.child.n, run.now))
    run.pass_time(SETTLE / 2)
    assert run.exit(spawn.child, -9) == []
    assert ready_workers(run) == 2
    assert [child.n for child in run.policy.workers] == [1, 2]


def test_no_old_worker_is_drained_while_a_new_one_is_down() -> None:
    run = up(2)
    (spawn,) = replace(run, run.do(run.policy.reload(run.now)))
    run.exit(run.policy.workers[0])
    done = be_ready(run, spawn.child) + run.pass_time(0.1)
    assert [type(action) for action in done] == [a.Spawn], "the dead one comes first"
    assert be_ready(run, run.policy.workers[0])[0] == drain(run.pool.leaving[0], 30.0)


def test_a_reload_during_a_reload_follows_the_current_one() -> None:
    run = up(2)
    (first,) = run.do(run.policy.reload(run.now))
    run.do(run.policy.ready(first.child.n, run.now))
    assert run.do(run.policy.reload(run.now)) == []
    done = replace(run, [first])
    numbers = {3}
    while not isinstance(done[-1], a.Settled):
        numbers.add(done[-1].child.n)
        done = replace(run, done)
    assert numbers == {3, 4, 5}, "worker 3 may have loaded the old file"
    assert sorted(child.n for child in run.policy.workers) == [4, 5]


def test_a_second_reload_replaces_a_successor_that_is_not_up() -> None:
    run = up(1)
    (first,) = run.do(run.policy.reload(run.now))
    told, second = run.do(run.policy.reload(run.now))
    assert told == terminate(first.child)
    assert isinstance(second, a.Spawn)
    assert second.child.n == 3
    assert run.pass_time(GRACE) == [kill(first.child)]
    assert run.exit(first.child) == []
    assert not run.policy.is_looping
    assert settled(replace(run, [second])).ok
    assert run.worker is second.child


@pytest.mark.parametrize("has_been_up", [True, False])
def test_a_reload_replaces_a_worker_that_is_not_up(has_been_up: bool) -> None:
    run = Run(1)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    if has_been_up:
        run.do(run.policy.ready(1, run.now))
        run.exit(run.worker)
        run.pass_time(1)
    old = run.worker
    assert old.state is ChildState.STARTING
    told, spawn = run.do(run.policy.reload(run.now))
    assert told == terminate(old)
    assert spawn == a.Spawn(run.worker)
    assert run.worker is not old
    assert run.worker.restarts == old.restarts == has_been_up
    assert run.do(run.policy.ready(run.worker.n, run.now)) == []
    assert settled(run.exit(old, -15)).ok


def test_a_successor_that_does_not_come_up_is_started_again() -> None:
    run = up(1, start_timeout=7.0)
    (spawn,) = run.do(run.policy.recycle(1, "old", run.now))
    assert run.pass_time(7.0) == [abort(spawn.child)]
    run.exit(spawn.child)
    assert run.pass_time(1) == [spawn]
    assert replace(run, [spawn]) == []


def test_an_old_worker_that_dies_during_a_reload_is_succeeded() -> None:
    run = up(1)
    (spawn,) = run.do(run.policy.reload(run.now))
    assert run.exit(run.worker) == []
    assert "worker 1 was killed; its replacement takes over" in run.said
    assert run.worker is spawn.child
    assert run.worker.restarts == 1
    assert settled(run.do(run.policy.ready(spawn.child.n, run.now))).ok


def test_another_old_worker_that_dies_is_replaced_with_the_new_file() -> None:
    run = up(3)
    spawned = run.do(run.policy.reload(run.now))
    other = run.policy.workers[2]
    run.exit(other)
    run.pass_time(1)
    run.do(run.policy.ready(other.n, run.now))
    (spawn,) = replace(run, spawned)
    assert settled(replace(run, [spawn])).ok
    assert [child.n for child in run.policy.workers] == [4, 6, 5]


def test_an_old_worker_that_does_not_finish_is_killed_without_counting_as_a_death() -> None:
    run = up(1, drain_timeout=7.0)
    (spawn,) = run.do(run.policy.reload(run.now))
    old = run.worker
    be_ready(run, spawn.child)
    assert run.pass_time(6.9) == []
    assert run.pass_time(0.2) == [kill(old)]
    assert "killing worker 1: it has not finished within drain_timeout (7 s)" in run.said
    assert settled(run.exit(old)).ok
    assert run.worker.restarts == 0
    assert not run.policy.is_looping


def test_with_drain_timeout_0_an_old_worker_is_waited_for() -> None:
    run = up(1, drain_timeout=0.0)
    (spawn,) = run.do(run.policy.reload(run.now))
    assert be_ready(run, spawn.child) == [drain(run.pool.leaving[0], FOREVER)]
    assert run.pass_time(100_000) == []


def test_a_worker_that_said_bye_has_little_time_left() -> None:
    run = up(1, drain_timeout=60.0)
    (spawn,) = run.do(run.policy.reload(run.now))
    be_ready(run, spawn.child)
    (old,) = run.pool.leaving
    run.do(run.policy.left(old.n, 9, run.now))
    assert run.pass_time(GRACE) == [kill(old)]


def test_handlers_that_never_end_do_not_accumulate_processes() -> None:
    run = up(2, drain_timeout=0.0)
    for _ in range(20):
        todo = run.do(run.policy.reload(run.now))
        while todo and isinstance(todo[-1], a.Spawn):
            todo = be_ready(run, todo[-1].child)
    assert len(list(run.pool.all_children())) <= 2 * 2 + 1


def test_a_new_gateway_is_told_which_workers_leave() -> None:
    run = up(1, drain_timeout=60.0)
    (spawn,) = run.do(run.policy.reload(run.now))
    be_ready(run, spawn.child)
    (old,) = run.pool.leaving
    run.exit(run.gateway)
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.pass_time(20)
    (told,) = run.do(run.policy.ready(old.n, run.now))
    assert isinstance(told, a.Tell)
    assert isinstance(told.record, DrainWorker)
    assert (told.record.n, round(told.record.deadline)) == (old.n, 40)


def test_a_reload_without_a_gateway_waits_for_it() -> None:
    run = up(1)
    run.exit(run.gateway)
    assert run.do(run.policy.reload(run.now)) == []
    assert [type(each) for each in run.do(run.policy.listening(ENDPOINT, run.now))] == [a.Spawn]


def test_a_stop_also_ends_the_successor() -> None:
    run = up(1)
    (spawn,) = run.do(run.policy.reload(run.now))
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.ready(spawn.child.n, run.now)) == []
    done = run.do(run.policy.stopped(run.now))
    assert {each.child for each in done} == {run.worker, spawn.child}


@pytest.mark.parametrize("what", ["reload", "scale", "recycle"])
def test_no_reload_begins_in_a_stop(what: str) -> None:
    run = up(1)
    run.do(run.policy.stop(run.now))
    asked = {
        "reload": lambda: run.policy.reload(run.now),
        "scale": lambda: run.policy.scale(5, run.now, run.pool, PROGRAM),
        "recycle": lambda: run.policy.recycle(1, "why", run.now),
    }
    assert run.do(asked[what]()) == []
    assert len(run.policy.workers) == 1


# --- recycling ---


def test_recycling_replaces_one_worker() -> None:
    run = up(2)
    two = run.policy.workers[1]
    spawned = run.do(run.policy.recycle(2, "it has handled 1000 events", run.now))
    assert "replacing worker 2: it has handled 1000 events" in run.said
    assert run.do(run.policy.recycle(2, "again", run.now)) == [], "once"
    (told,) = be_ready(run, spawned[0].child)
    assert told == drain(two, 30.0)
    assert run.exit(two, 0) == []
    assert [child.n for child in run.policy.workers] == [1, 3]
    assert run.pass_time(1000) == []


def test_recycling_with_a_file_that_does_not_load_is_tried_again_later() -> None:
    run = up(1)
    (spawn,) = run.do(run.policy.recycle(1, "old", run.now))
    assert run.exit(spawn.child, DOES_NOT_LOAD) == []
    assert run.worker.state is ChildState.READY
    assert run.pass_time(RETRY - 1) == []
    assert [type(each) for each in run.pass_time(2)] == [a.Spawn]


def test_a_leaving_or_unknown_worker_is_not_recycled() -> None:
    run = up(2)
    run.do(run.policy.scale(1, run.now, run.pool, PROGRAM))
    for n in (2, 9, 0):
        assert run.do(run.policy.recycle(n, "why", run.now)) == []


# --- scale ---


def test_scaling_up_starts_all_new_workers_at_once() -> None:
    run = up(1)
    spawned = run.do(run.policy.scale(3, run.now, run.pool, PROGRAM))
    assert [each.child.n for each in spawned] == [2, 3]
    run.do(run.policy.ready(2, run.now))
    assert settled(run.do(run.policy.ready(3, run.now))) == a.Settled("scale", True, "3 workers")


def test_scaling_down_drains_the_youngest_worker() -> None:
    run = up(3)
    one, two, three = run.policy.workers
    drains = run.do(run.policy.scale(1, run.now, run.pool, PROGRAM))
    assert drains == [drain(three, 30.0), drain(two, 30.0)]
    assert run.policy.workers == [one]
    assert run.exit(two, 0) == []
    assert settled(run.exit(three, 0)) == a.Settled("scale", True, "1 worker")
    assert run.pass_time(1000) == []


def test_scaling_down_removes_workers_that_do_not_serve_first() -> None:
    run = up(3)
    dead, starting, serving = run.policy.workers
    run.exit(starting)
    run.pass_time(1)
    run.exit(dead)
    assert run.do(run.policy.scale(1, run.now, run.pool, PROGRAM)) == [terminate(starting)]
    assert run.policy.workers == [serving]
    assert settled(run.exit(starting, -15)).ok


def test_scaling_to_the_same_number_is_done_at_once() -> None:
    run = up(2)
    assert settled(run.do(run.policy.scale(2, run.now, run.pool, PROGRAM))).ok


@pytest.mark.parametrize(("asked", "got"), [(0, 1), (-3, 1), (5000, 1000)])
def test_the_number_of_workers_has_bounds(asked: int, got: int) -> None:
    run = up(1)
    run.do(run.policy.scale(asked, run.now, run.pool, PROGRAM))
    assert len(run.policy.workers) == got


def test_a_worker_removed_by_scaling_gets_no_successor() -> None:
    run = up(2)
    run.do(run.policy.recycle(2, "old", run.now))
    successor = run.pool.successor
    assert successor is not None
    done = run.do(run.policy.scale(1, run.now, run.pool, PROGRAM))
    assert done == [terminate(successor), drain(run.pool.leaving[1], 30.0)]
    assert run.exit(successor, -15) == []
    assert settled(run.exit(run.pool.leaving[0], 0)).ok


def test_new_workers_that_do_not_load_are_reported() -> None:
    run = up(1)
    (spawn,) = run.do(run.policy.scale(2, run.now, run.pool, PROGRAM))
    (done,) = run.exit(spawn.child, DOES_NOT_LOAD, "exited with code 3")
    assert done == a.Settled("scale", False, "the new worker exited with code 3; 1 workers serve")
    assert run.pass_time(1) == [spawn], "it may be fixed"


def test_scaling_during_a_reload_takes_effect() -> None:
    run = up(2)
    spawned = run.do(run.policy.reload(run.now))
    (extra,) = run.do(run.policy.scale(3, run.now, run.pool, PROGRAM))
    be_ready(run, extra.child)
    (spawn,) = replace(run, spawned)
    assert replace(run, [spawn]) == [
        a.Settled("reload", True, "reloaded: 3 workers"),
        a.Settled("scale", True, "3 workers"),
    ]


# --- several programs ---

NODE = WorkerSpec(Program("node x.mjs", words=("node", "x.mjs"), label="node x.mjs"), 2)


def mixed() -> Run:
    """Two workers of Python and two of Node, all ready."""
    run = Run(2, 1.0, NODE)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    for n in range(1, 5):
        run.do(run.policy.ready(n, run.now))
    return run


def test_one_worker_of_each_entry_is_started_first() -> None:
    run = Run(2, 1.0, NODE)
    places = run.policy.workers
    assert run.do(run.policy.decide(run.now)) == [a.Spawn(run.gateway), a.Spawn(places[0])]
    second = run.do(run.policy.listening(ENDPOINT, run.now))
    assert second == [a.Spawn(places[2])], "one in another language waits for the gateway"
    assert run.do(run.policy.ready(1, run.now)) == []
    assert not run.policy.has_been_up
    assert run.do(run.policy.ready(2, run.now)) == [a.Spawn(places[1]), a.Spawn(places[3])]


def test_an_entry_that_does_not_load_ends_the_run_at_its_start() -> None:
    run = Run(1, 1.0, NODE)
    run.do(run.policy.decide(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.do(run.policy.ready(1, run.now))
    done = run.exit(run.policy.workers[1], 3, "exited with code 3")
    assert tell_stop(0.0) in done


def test_each_entry_is_scaled_by_itself() -> None:
    run = mixed()
    node = run.pool.programs[1]
    (spawn,) = run.do(run.policy.scale(3, run.now, run.pool, node))
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.program == node
    done = settled(run.do(run.policy.ready(spawn.child.n, run.now)))
    assert done == a.Settled("scale", True, "5 workers: 2 x.py, 3 node x.mjs")
    drains = run.do(run.policy.scale(1, run.now, run.pool, run.pool.programs[0]))
    assert [run.drained(each).program for each in drains] == [PROGRAM]


def test_a_worker_is_replaced_by_one_of_its_entry() -> None:
    run = mixed()
    old = run.policy.workers[3]
    assert old.program == NODE.program
    (spawn,) = run.do(run.policy.recycle(old.n, "enough", run.now))
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.program == NODE.program


# --- other settings ---

OTHER = Program("y.py", "y.py", label="y.py")


def change(
    run: Run, old: list[WorkerSpec], new: list[WorkerSpec], name: str = "default"
) -> list[a.Action]:
    before = {"default": [WorkerSpec(PROGRAM, 2)], name: old}
    after = {"default": [WorkerSpec(PROGRAM, 2)], name: new}
    run.policy.change_pools(before, after, run.now)
    return run.do(run.policy.decide(run.now))


def test_another_number_of_workers_starts_or_ends_some() -> None:
    run = up(2)
    (spawn,) = change(run, [WorkerSpec(PROGRAM, 2)], [WorkerSpec(PROGRAM, 3)])
    assert isinstance(spawn, a.Spawn)
    assert settled(be_ready(run, spawn.child)).text == "reloaded: 3 workers"
    told = change(run, [WorkerSpec(PROGRAM, 3)], [WorkerSpec(PROGRAM, 1)])
    assert told == [drain(child, run.pool.drain_timeout) for child in run.pool.leaving]
    assert len(run.policy.workers) == 1


def test_a_number_that_was_scaled_stays_if_its_setting_does() -> None:
    run = up(2)
    (spawn,) = run.do(run.policy.scale(3, run.now, run.pool, PROGRAM))
    assert isinstance(spawn, a.Spawn)
    be_ready(run, spawn.child)
    (other,) = change(run, [WorkerSpec(PROGRAM, 2)], [WorkerSpec(PROGRAM, 2), WorkerSpec(OTHER, 1)])
    assert isinstance(other, a.Spawn)
    assert other.child.program == OTHER
    assert len(run.policy.workers) == 4


def test_another_program_replaces_workers_one_by_one() -> None:
    run = up(2)
    todo = change(run, [WorkerSpec(PROGRAM, 2)], [WorkerSpec(OTHER, 2)])
    assert run.pool.programs == [OTHER]
    while len(todo) == 1 and isinstance(todo[0], a.Spawn):
        assert todo[0].child.program == OTHER
        assert ready_workers(run) == 2
        todo = replace(run, todo)
    assert settled(todo).text == "reloaded: 2 workers"
    assert [child.program for child in run.policy.workers] == [OTHER, OTHER]


def test_another_program_that_does_not_load_leaves_the_old_workers() -> None:
    run = up(2)
    (spawn,) = change(run, [WorkerSpec(PROGRAM, 2)], [WorkerSpec(OTHER, 3)])[:1]
    assert isinstance(spawn, a.Spawn)
    done = run.exit(run.pool.successor or spawn.child, DOES_NOT_LOAD)
    assert any(isinstance(each, a.Settled) and not each.ok for each in done)
    assert [child.program for child in run.policy.workers][:2] == [PROGRAM, PROGRAM]
    # The next reload starts the new program again.
    again = run.do(run.policy.reload(run.now))
    programs = {each.child.program for each in again if isinstance(each, a.Spawn)}
    assert programs == {OTHER}


def test_a_new_pool_starts_and_one_that_is_gone_ends() -> None:
    run = up(2)
    (spawn,) = change(run, [], [WorkerSpec(OTHER, 1)], "chat")
    assert isinstance(spawn, a.Spawn)
    assert spawn.child.pool == "chat"
    done = be_ready(run, spawn.child)
    assert settled(done) == a.Settled("reload", True, "reloaded: 1 worker", "chat")
    before = {"default": [WorkerSpec(PROGRAM, 2)], "chat": [WorkerSpec(OTHER, 1)]}
    run.policy.change_pools(before, {"default": [WorkerSpec(PROGRAM, 2)]}, run.now)
    told = run.do(run.policy.decide(run.now))
    assert told == [drain(spawn.child, run.pool.drain_timeout)]
    assert not run.policy.is_wanted("chat")
    assert "chat" in run.policy.pools
    done = run.exit(spawn.child, 0)
    assert settled(done) == a.Settled("reload", True, "reloaded: 0 workers", "chat")
    assert list(run.policy.pools) == ["default"]


def test_after_a_rollback_a_new_program_is_loaded_from_disk() -> None:
    run = up(1)
    replace(run, run.do(run.policy.reload(run.now)))
    replace(run, run.do(run.policy.roll_back(["default"], run.now)))
    assert run.pool.versions.wanted.is_kept
    (spawn,) = change(run, [WorkerSpec(PROGRAM, 1)], [WorkerSpec(OTHER, 1)])
    assert isinstance(spawn, a.Spawn)
    assert not spawn.child.version.is_kept


def test_another_restart_intensity_counts_what_has_happened() -> None:
    restarts = Restarts(5, lambda: 1.0)
    for _ in range(3):
        assert not restarts.record_death(Child(PROGRAM), None, 1.0)
    restarts.change(3)
    assert restarts.record_death(Child(PROGRAM), None, 1.0)
