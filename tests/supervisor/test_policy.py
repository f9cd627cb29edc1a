from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from wsraw.supervisor import policy as p
from wsraw.supervisor.life import Child, ChildState
from wsraw.supervisor.policy import Phase, Policy

ENDPOINT = "ipc:///run/link.sock"


class Run:
    """A policy with a clock, and the actions it took; processes are what it spawned."""

    def __init__(self, workers: int = 1, stop_timeout: float = 30.0, luck: float = 1.0) -> None:
        self.policy = Policy([f"{n}.py" for n in range(workers)], stop_timeout, lambda: luck)
        self.now = 100.0
        self.actions: list[p.Action] = []

    def do(self, *actions: list[p.Action]) -> list[p.Action]:
        """What was done, without the log lines; those stay in `said`."""
        self.actions = list(itertools.chain(*actions))
        return [action for action in self.actions if not isinstance(action, p.Say)]

    @property
    def said(self) -> str:
        return "\n".join(a.text for a in self.actions if isinstance(a, p.Say))

    def pass_time(self, seconds: float) -> list[p.Action]:
        """Let time pass, ticking when asked to."""
        until = self.now + seconds
        done: list[p.Action] = []
        said: list[p.Action] = []
        while (wake := self.policy.wake_at()) is not None and wake <= until:
            self.now = max(self.now, wake)
            done += self.do(self.policy.tick(self.now))
            said += self.actions
            assert self.policy.wake_at() != wake, "a tick must use up its time"
        self.now = until
        self.actions = said
        return done

    def up(self) -> Run:
        """Bring gateway and all workers to READY."""
        self.do(self.policy.start(self.now))
        self.do(self.policy.listening(ENDPOINT, self.now))
        self.do(self.policy.ready(1, self.now))
        for child in self.policy.workers[1:]:
            self.do(self.policy.ready(child.n, self.now))
        return self

    @property
    def gateway(self) -> Child:
        return self.policy.gateway

    @property
    def worker(self) -> Child:
        return self.policy.workers[0]

    def exit(self, child: Child, code: int = -9, reason: str = "was killed") -> list[p.Action]:
        return self.do(self.policy.exited(child, code, reason, self.now))


# --- start: left to right ---


def test_the_gateway_comes_first() -> None:
    run = Run(2)
    assert run.do(run.policy.start(run.now)) == [p.Spawn(run.gateway)]
    assert run.pass_time(1000) == []


def test_then_one_worker_then_all() -> None:
    run = Run(3)
    run.do(run.policy.start(run.now))
    first, second, third = run.policy.workers
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == [p.Spawn(first)]
    assert run.pass_time(1000) == []
    assert not run.policy.has_been_up
    assert run.do(run.policy.ready(1, run.now)) == [p.Spawn(second), p.Spawn(third)]
    assert run.policy.has_been_up
    assert [child.n for child in run.policy.workers] == [1, 2, 3]


# --- restart ---


def test_a_dead_worker_comes_back_under_a_new_number() -> None:
    run = Run(2).up()
    run.pass_time(10)
    assert run.exit(run.worker) == []
    assert "worker 1 was killed; starting another in 0.1 s" in run.said
    assert run.policy.worker(1) is None
    assert run.pass_time(0.09) == []
    assert run.pass_time(0.02) == [p.Spawn(run.worker)]
    assert run.worker.n == 3
    assert run.policy.worker(3) is run.worker


def test_a_dead_gateway_comes_back_and_workers_stay() -> None:
    run = Run(2).up()
    run.pass_time(10)
    assert run.exit(run.gateway) == []
    assert run.pass_time(0.2) == [p.Spawn(run.gateway)]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == []
    assert run.worker.state is ChildState.READY


def test_workers_of_a_gateway_that_moved_are_replaced() -> None:
    run = Run(1).up()
    run.exit(run.gateway)
    run.pass_time(1)
    assert run.do(run.policy.listening("tcp://127.0.0.1:9", run.now)) == [p.Terminate(run.worker)]
    assert run.exit(run.worker, 0) == [p.Spawn(run.worker)]


def test_a_worker_that_dies_without_a_gateway_waits_for_it() -> None:
    run = Run(1).up()
    run.exit(run.gateway)
    run.exit(run.worker)
    assert run.pass_time(5) == [p.Spawn(run.gateway)]
    assert run.do(run.policy.listening(ENDPOINT, run.now)) == [p.Spawn(run.worker)]


def backoffs(run: Run, deaths: int) -> Iterator[float]:
    for _ in range(deaths):
        run.exit(run.worker, 1, "exited with code 1")
        wake = run.policy.wake_at()
        assert wake is not None
        yield wake - run.now
        run.pass_time(wake - run.now + 1e-6)


def test_backoff_doubles_up_to_its_limit() -> None:
    run = Run(1).up()
    delays = list(backoffs(run, 40))
    assert delays[:4] == pytest.approx([0.1, 0.2, 0.4, 0.8])
    assert delays[-1] == pytest.approx(p.LONGEST_BACKOFF)
    assert [round(delay, 3) for delay in delays] == sorted(round(delay, 3) for delay in delays)
    assert run.policy.phase is Phase.RUNNING


def test_jitter_halves_it_at_most() -> None:
    lucky = list(backoffs(Run(1, luck=0.0).up(), 3))
    assert lucky == pytest.approx([0.05, 0.1, 0.2])


def test_a_stable_time_forgives() -> None:
    run = Run(1).up()
    list(backoffs(run, 5))
    run.do(run.policy.ready(run.worker.n, run.now))
    run.pass_time(p.STABLE_AFTER)
    assert list(backoffs(run, 1)) == pytest.approx([0.1])


def test_a_short_life_does_not() -> None:
    run = Run(1).up()
    list(backoffs(run, 2))
    run.do(run.policy.ready(run.worker.n, run.now))
    run.pass_time(p.STABLE_AFTER * 0.9)
    assert list(backoffs(run, 1)) == pytest.approx([0.4])


# --- boot failure ---


def test_handlers_that_do_not_load_end_the_run() -> None:
    run = Run(2)
    run.do(run.policy.start(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.exit(run.worker, 3) == [p.TellStop(0.0), p.Terminate(run.gateway)]
    assert run.worker.state is ChildState.FAILED
    assert run.exit(run.gateway, 0) == [p.Finish(3)]


def test_later_it_is_a_death_like_others() -> None:
    run = Run(1).up()
    assert run.exit(run.worker, 3) == []
    assert run.pass_time(1) == [p.Spawn(run.worker)]


def test_a_gateway_that_cannot_listen_ends_the_run() -> None:
    run = Run(1)
    run.do(run.policy.start(run.now))
    assert run.exit(run.gateway, 3) == [p.Finish(3)]
    assert run.said == "", "the gateway has said it better"


def test_a_gateway_that_has_listened_is_tried_again() -> None:
    run = Run(1)
    run.do(run.policy.start(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    assert run.exit(run.gateway, 3) == []
    assert run.pass_time(1) == [p.Spawn(run.gateway)]


@pytest.mark.parametrize("who", ["gateway", "worker"])
def test_a_crash_loop_at_boot_ends_the_run(who: str) -> None:
    run = Run(1)
    run.do(run.policy.start(run.now))
    if who == "worker":
        run.do(run.policy.listening(ENDPOINT, run.now))
    child = getattr(run, who)
    for _ in range(p.INTENSITY):
        assert run.exit(child, 1) == []
        assert run.pass_time(60) == [p.Spawn(child)]
    done = run.exit(child, 1)
    assert "giving up" in run.said
    if who == "worker":
        assert done == [p.TellStop(0.0), p.Terminate(run.gateway)]
        done = run.exit(run.gateway, 0)
    assert done == [p.Finish(1)]


# --- what the gateway says of workers ---


def test_news_of_unknown_workers_is_nothing() -> None:
    run = Run(1).up()
    for n in (0, 2, -1):
        assert run.do(run.policy.ready(n, run.now)) == []
        assert run.do(run.policy.left(n, run.now)) == []
        assert run.do(run.policy.kill_asked(n, "why", run.now)) == []


def test_a_gateway_may_have_a_worker_killed() -> None:
    run = Run(1).up()
    assert run.do(run.policy.kill_asked(1, "it sent no batch", run.now)) == [p.Kill(run.worker)]
    assert "killing worker 1: it sent no batch" in run.said
    run.exit(run.worker)
    assert run.pass_time(1) == [p.Spawn(run.worker)]


def test_one_that_left_but_does_not_leave_is_killed() -> None:
    run = Run(1).up()
    assert run.do(run.policy.left(1, run.now)) == []
    assert run.pass_time(p.GRACE - 0.1) == []
    assert run.pass_time(0.2) == [p.Kill(run.worker)]


def test_one_that_left_and_said_hello_again_lives() -> None:
    run = Run(1).up()
    run.do(run.policy.left(1, run.now))
    run.do(run.policy.ready(1, run.now))
    assert run.pass_time(1000) == []


def test_listening_of_a_dead_gateway_is_nothing() -> None:
    run = Run(1).up()
    run.exit(run.gateway)
    assert run.do(run.policy.listening("tcp://other:1", run.now)) == []


# --- stop: right to left ---


def test_stop_in_good_order() -> None:
    run = Run(2).up()
    assert run.do(run.policy.stop(run.now)) == [p.TellStop(30.0)]
    assert run.policy.phase is Phase.STOPPING
    one, two = run.policy.workers
    assert run.exit(one, 0) == []
    assert run.exit(two, 0) == []
    assert run.do(run.policy.stopped(run.now)) == [p.Terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [p.Finish(0)]


def test_workers_that_linger_end_before_the_gateway() -> None:
    run = Run(2).up()
    run.do(run.policy.stop(run.now))
    one, two = run.policy.workers
    assert run.do(run.policy.stopped(run.now)) == [p.Terminate(one), p.Terminate(two)]
    assert run.exit(one, -15) == []
    assert run.pass_time(p.GRACE) == [p.Kill(two)]
    assert run.exit(two, -9) == [p.Terminate(run.gateway)]
    assert run.pass_time(p.GRACE) == [p.Kill(run.gateway)]
    assert run.exit(run.gateway, -9) == [p.Finish(0)]


def test_a_gateway_that_leaves_first_is_fine() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    run.do(run.policy.stopped(run.now))
    assert run.exit(run.gateway, 0) == []
    assert run.exit(run.worker, 0) == [p.Finish(0)]


def test_the_deadline_of_a_stop() -> None:
    run = Run(2, stop_timeout=7.0).up()
    assert run.do(run.policy.stop(run.now)) == [p.TellStop(7.0)]
    one, two = run.policy.workers
    assert run.pass_time(7.0) == []
    done = run.pass_time(p.STOP_MARGIN)
    assert [action for action in done if isinstance(action, p.Kill)] == [p.Kill(one), p.Kill(two)]
    assert not [action for action in done if getattr(action, "child", None) is run.gateway]
    assert run.exit(one) == []
    assert run.exit(two) == [p.Terminate(run.gateway)]
    assert run.exit(run.gateway, 0) == [p.Finish(0)]


def test_workers_get_no_grace_beyond_the_deadline() -> None:
    run = Run(1, stop_timeout=7.0).up()
    run.do(run.policy.stop(run.now))
    run.pass_time(7.0)
    assert run.do(run.policy.stopped(run.now)) == [p.Terminate(run.worker)]
    assert run.pass_time(p.STOP_MARGIN) == [p.Kill(run.worker)]


def test_a_stop_without_deadline_waits() -> None:
    run = Run(1, stop_timeout=0.0).up()
    assert run.do(run.policy.stop(run.now)) == [p.TellStop(p.FOREVER)]
    assert run.pass_time(100_000) == []


def test_a_stop_before_the_gateway_is_up() -> None:
    run = Run(1)
    run.do(run.policy.start(run.now))
    assert run.do(run.policy.stop(run.now)) == [p.Terminate(run.gateway)]
    assert run.exit(run.gateway, -15) == [p.Finish(0)]


def test_a_stop_while_everybody_is_dead() -> None:
    run = Run(1).up()
    run.exit(run.gateway)
    run.exit(run.worker)
    assert run.do(run.policy.stop(run.now)) == [p.Finish(0)]


def test_a_gateway_that_dies_while_stopping() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    assert run.exit(run.gateway) == [p.Terminate(run.worker)]
    assert "before its clients were told" in run.said
    assert run.exit(run.worker, 0) == [p.Finish(0)]


def test_nobody_is_restarted_while_stopping() -> None:
    run = Run(2).up()
    run.do(run.policy.stop(run.now))
    run.exit(run.worker)
    assert not [a for a in run.pass_time(1000) if isinstance(a, p.Spawn)]


def test_the_second_signal_kills_at_once() -> None:
    run = Run(1).up()
    run.do(run.policy.stop(run.now))
    killed = run.do(run.policy.stop_now(143, run.now))
    assert killed == [p.Kill(run.worker), p.Kill(run.gateway)]
    assert run.exit(run.worker) == []
    assert run.exit(run.gateway) == [p.Finish(143)]


def test_a_ready_that_crosses_a_stop_changes_nothing() -> None:
    run = Run(1)
    run.do(run.policy.start(run.now))
    run.do(run.policy.listening(ENDPOINT, run.now))
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.ready(1, run.now)) == []
    assert run.worker.state is ChildState.STOPPING


def test_a_second_stop_and_a_stray_stopped_are_nothing() -> None:
    run = Run(1).up()
    assert run.do(run.policy.stopped(run.now)) == []
    run.do(run.policy.stop(run.now))
    assert run.do(run.policy.stop(run.now)) == []


# --- any order of things ---


class World(RuleBasedStateMachine):
    """Whatever happens, in any order: what must hold at every moment, and at the end."""

    def __init__(self) -> None:
        super().__init__()
        chance = random.Random(0)
        self.policy = Policy(["a.py"] * 3, 10.0, chance.random)
        self.now = 0.0
        self.processes: set[Child] = set()
        self.killed: set[Child] = set()
        self.numbers: set[tuple[bool, int]] = set()
        self.finished: int | None = None
        self.stopping = False
        self.take(self.policy.start(self.now))

    def take(self, actions: list[p.Action]) -> None:
        for action in actions:
            assert self.finished is None, "nothing comes after the end"
            match action:
                case p.Spawn(child):
                    assert not self.stopping
                    assert child not in self.processes, "one place, one process"
                    is_gateway = child is self.policy.gateway
                    if not is_gateway:
                        assert self.policy.gateway.state is ChildState.READY
                    assert (is_gateway, child.n) not in self.numbers, "never reused"
                    self.numbers.add((is_gateway, child.n))
                    self.processes.add(child)
                case p.Terminate(child):
                    assert child in self.processes
                case p.Kill(child):
                    assert child in self.processes
                    self.killed.add(child)
                case p.TellStop():
                    assert self.policy.gateway in self.processes
                case p.Finish(code):
                    assert not self.processes
                    self.finished = code
        if self.policy.phase is not Phase.RUNNING:
            self.stopping = True

    living = precondition(lambda self: self.processes)
    lasting = precondition(lambda self: self.finished is None)

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 2.0, 6.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.take(self.policy.tick(self.now))
        wake = self.policy.wake_at()
        assert wake is None or wake > self.now, "a tick must not ask for itself"

    @living
    @rule(data=st.data(), code=st.sampled_from([0, 1, 3, -9, -15]))
    def exit(self, data: st.DataObject, code: int) -> None:
        order = [*self.policy.workers, self.policy.gateway]
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
        self.take(self.policy.left(n, self.now))

    @lasting
    @rule(n=st.integers(0, 12))
    def kill_asked(self, n: int) -> None:
        self.take(self.policy.kill_asked(n, "so", self.now))

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
        alive = {c for c in (*self.policy.workers, self.policy.gateway) if c.alive}
        assert alive == self.processes
        assert (self.policy.phase is Phase.OVER) == (self.finished is not None)

    def teardown(self) -> None:
        """A stop ends every run, though nobody leaves unless killed."""
        if self.finished is None:
            self.take(self.policy.stop(self.now))
        for _ in range(50):
            for child in list(self.killed):
                self.killed.discard(child)
                self.processes.discard(child)
                self.take(self.policy.exited(child, -9, "was killed", self.now))
            wake = self.policy.wake_at()
            if self.finished is not None or (wake is None and not self.killed):
                break
            self.now = max(self.now, wake or 0.0)
            self.take(self.policy.tick(self.now))
        assert self.finished is not None


TestWorld = World.TestCase
TestWorld.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
