"""Sans-I/O. The supervisor's decisions: exits, records and the time in, actions out.

child.py has the states of a child; pool.py replaces workers, restarts.py decides when a death
counts; both do so for each pool separately. The rules:

- Start order: the gateway and, beside it, one worker of each program of each pool, in another
  language after it; when these are ready, all others. So a handlers file that does not load shows
  one traceback, not N.
- Before the run has been up once, exit code 3 ("this cannot work as it is") or a crash loop ends
  it.
- After that wsraw keeps trying: it waits for a database that is away for an hour, or for a port
  that another process uses. Meanwhile the gateway and its connections stay.
- Stop order: the gateway lets handlers finish and says goodbye to clients; then the workers end,
  then the gateway. Each step has a deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Final

from wsraw.config.programs import MOST, Program, WorkerSpec
from wsraw.config.settings import Settings
from wsraw.link.records import Check, Stop
from wsraw.runtime.log.line import Level
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.canary import CanaryPlan
from wsraw.supervisor.decisions.child import Child, ChildState, ChildStep, Death
from wsraw.supervisor.decisions.gateway.gateway_check import GatewayCheck
from wsraw.supervisor.decisions.gateway.upgrade import (
    DECIDED_WITHIN,
    FailedSuccessor,
    Fallen,
    Upgrade,
)
from wsraw.supervisor.decisions.pool import FOREVER, GRACE, Pool
from wsraw.supervisor.decisions.restarts import (
    GATEWAY_BACKOFF,
    PERIOD,
    STABLE_AFTER,
    Restarts,
    reason_of,
)
from wsraw.supervisor.decisions.verdict import Handled
from wsraw.supervisor.decisions.versions import FIRST

ABORT_GRACE: Final = 1.0
"""Seconds between SIGABRT, at which a worker logs its stack, and SIGKILL."""

HELLO_MARGIN: Final = 5.0
"""Seconds beyond handler_timeout in which a worker must find a new gateway; before that a handler
may still be running."""

STOP_MARGIN: Final = 1.0
"""Seconds that the supervisor waits beyond the deadline of the gateway."""

DOES_NOT_LOAD: Final = 3
"""The exit code of a worker whose handlers file does not load, and of a gateway that cannot listen:
trying again would fail again."""

UPGRADE: Final = "upgrade"
"""The name under which requests for an upgrade are settled."""

DOES_NOT_START: Final = 1
"""The exit code of a worker whose on_start has raised; the next one may succeed."""

BROKEN_AFTER: Final = 3
"""Deaths in a row before a hello after which a successor counts as one that does not load. Not
every worker has an exit code for that, and a crash has none."""


class RunPhase(Enum):
    """The phase of the run: STOPPING waits for the gateway's `stopped`, ENDING only for exits."""

    RUNNING = "running"
    STOPPING = "stopping"
    ENDING = "ending"
    OVER = "over"


class Policy:
    """The decisions of one run. Each input returns the actions to take, in order.

    `random` gives numbers from 0 to 1.
    """

    def __init__(
        self,
        entries: Mapping[str, Sequence[WorkerSpec]],
        settings: Settings,
        random: Callable[[], float],
    ) -> None:
        """`entries`: programs and numbers of workers by pool; a pool may have none."""
        self.gateway = Child(None)
        self._settings = settings
        self._random = random
        self.pools = {name: self._pool(name, those) for name, those in entries.items()}
        self._unwanted: set[str] = set()
        """Pools that the settings no longer have; they end with their last worker."""
        self.phase = RunPhase.RUNNING
        self.has_been_up = False
        """Whether the gateway has listened and each program has had a ready worker."""
        self.gateway_restarts = Restarts(
            settings.restart_intensity, random, at_once=True, longest=GATEWAY_BACKOFF
        )
        self.upgrades = Upgrade(settings)
        self._gateway_check = GatewayCheck(settings.gateway_timeout)
        self.endpoint = ""
        """The address where workers find the gateway, or, before the first one listens, where it is
        expected."""
        self._listened = False
        self._spawned = 0
        self._version = FIRST.number
        """The last version that a reload has begun."""
        self._stop_at = math.inf
        self.exit_code = 0
        self._actions: list[a.Action] = []

    @property
    def workers(self) -> list[Child]:
        """The wanted workers, running or not."""
        return [child for pool in self.pools.values() for child in pool.workers]

    @property
    def programs(self) -> list[Program]:
        return [program for pool in self.pools.values() for program in pool.programs]

    def all_children(self) -> Iterator[Child]:
        """All workers that may have a process."""
        for pool in self.pools.values():
            yield from pool.all_children()

    @property
    def is_looping(self) -> bool:
        """Whether the gateway or the workers of a pool are in a crash loop."""
        pools = self.pools.values()
        return self.gateway_restarts.is_looping or any(p.restarts.is_looping for p in pools)

    def worker(self, n: int) -> Child | None:
        """The worker whose living process has this number."""
        return next((each for each in self.all_children() if each.n == n and each.alive), None)

    # --- inputs: what processes do ---

    def listening(self, endpoint: str, now: float) -> list[a.Action]:
        """The gateway is up, and workers find it at `endpoint`."""
        if self.gateway.state is ChildState.DEAD:
            # The record is from a gateway that has died meanwhile.
            return []
        is_new = self.gateway.state is ChildState.STARTING
        self.gateway.take(ChildStep.BE_READY)
        self.gateway.ready_at = now
        self._listened = True
        self._gateway_check.heard(now)
        has_moved = self.endpoint not in ("", endpoint)
        self.endpoint = endpoint
        if has_moved and is_new and self.phase is RunPhase.RUNNING:
            for pool in self.pools.values():
                pool.replace_all_at_once(now)
        elif has_moved:
            for child in self._living_workers():
                # Their sessions continue, but they would not find the next gateway.
                self.pools[child.pool].recycle(child, "the link has moved", now)
        # A run without workers of its own is up now.
        self._note_first_ready()
        if is_new:
            for pool in self.canaries:
                assert pool.canary is not None
                pool.canary.forget()
            for child in self._living_workers():
                self._expect_hello(child, now)
        return self.decide(now)

    def took_over(self, now: float) -> list[a.Action]:
        """The successor of the gateway serves."""
        if self.upgrades.successor is None:
            return []
        self.gateway = self.upgrades.take_over(self.gateway, now)
        self._gateway_check.heard(now)
        for pool in self.pools.values():
            pool.tell_leaving(now)
        if self.phase is RunPhase.STOPPING:
            # Only the old gateway was told.
            self._do(a.Tell(Stop(min(max(0.0, self._stop_at - now), FOREVER))))
        return self.decide(now)

    def change_settings(self, settings: Settings) -> None:
        """Use these settings from now on; running deadlines stay as they are."""
        self._settings = self.upgrades.settings = settings
        self._gateway_check.timeout = settings.gateway_timeout
        self.gateway_restarts.change(settings.restart_intensity)
        for pool in self.pools.values():
            pool.drain_timeout = settings.drain_timeout
            pool.restarts.change(settings.restart_intensity)

    def change_pools(
        self,
        old: Mapping[str, Sequence[WorkerSpec]],
        new: Mapping[str, Sequence[WorkerSpec]],
        now: float,
    ) -> None:
        """Use these programs and numbers of workers instead of those of the earlier settings.
        Unchanged ones stay as they are. To be followed by `reload` or `decide`."""
        if self.phase is RunPhase.RUNNING:
            pools = {name: self.pools.get(name) or self._pool(name, ()) for name in new}
            # The other pools stay until their workers have left.
            self.pools = {**pools, **self.pools}
            self._unwanted = {name for name in self.pools if name not in new}
            for name, pool in self.pools.items():
                before, after = old.get(name, ()), new.get(name, ())
                if tuple(before) != tuple(after):
                    is_kept = pool.versions.wanted.is_kept
                    if pool.change(before, after, now) and is_kept:
                        # No earlier version of a new program was kept.
                        self._version += 1
                        pool.reload(self._version, now)

    def begins_version(self, child: Child) -> bool:
        """Whether a worker that is about to start is the first one of its version: then files kept
        for that version so far have not worked, and are not what this worker finds on disk."""
        program, version = child.program, child.version
        if program is None or program.file is None or version.is_kept:
            return False
        return not any(
            pool.versions.has_served(version.number)
            for pool in self.pools.values()
            if program in pool.programs
        ) and not any(
            each.alive and (each.program, each.version.number) == (program, version.number)
            for each in self.all_children()
            if each is not child
        )

    def is_wanted(self, name: str) -> bool:
        """Whether the settings have this pool."""
        return name in self.pools and name not in self._unwanted

    def _pool(self, name: str, entries: Sequence[WorkerSpec]) -> Pool:
        settings = self._settings
        restarts = Restarts(settings.restart_intensity, self._random)
        return Pool(name, entries, settings.drain_timeout, restarts, self._do)

    def kept(self, why: str, now: float) -> list[a.Action]:
        """The old gateway continues."""
        child = self.upgrades.successor
        self.upgrades.has_kept = True
        if child is not None and not child.is_killed:
            if why:
                self._kill(child)
                child.why_killed = why
            else:
                # It has ended, and its exit will be reported.
                child.kill_at = min(child.kill_at, now + GRACE)
        return self.decide(now)

    def heard(self, now: float) -> None:
        """Any record of the gateway shows that it is alive."""
        if self.gateway.state is ChildState.READY:
            self._gateway_check.heard(now)

    def ready(self, n: int, now: float) -> list[a.Action]:
        """A worker has said hello."""
        child = self.worker(n)
        if child is not None:
            child.take(ChildStep.BE_READY)
            child.hello_by = math.inf
            if child.state is ChildState.READY:
                child.ready_at = now
                if not child.why_killed:
                    child.kill_at = math.inf
                assert child.program is not None
                self.pools[child.pool].proved.add(child.program)
                self.pools[child.pool].came_up(child, now)
                self._note_first_ready()
            elif self.phase is RunPhase.RUNNING:
                self.pools[child.pool].ready(child, now)
        return self.decide(now)

    def _note_first_ready(self) -> None:
        if self._listened and not self.has_been_up:
            self.has_been_up = all(
                pool.proved.issuperset(pool.programs) for pool in self.pools.values()
            )

    def left(self, n: int, events: int, now: float) -> list[a.Action]:
        """A worker's session with this many events is over. Its process must exit, or say hello
        again, within GRACE."""
        child = self.worker(n)
        if child is None:
            for pool in self.pools.values():
                if events and pool.restarts.forgive(n, now):
                    self._say_loop_is_over(pool)
        else:
            if events and not child.is_proved:
                self._prove(child)
            # If the worker was killed, the reason is known.
            if not child.is_killed and child.kill_at > now + GRACE:
                child.kill_at = now + GRACE
                child.why_killed = ""
        return self.decide(now)

    def kill_asked(self, n: int, why: str, abort: bool, now: float) -> list[a.Action]:
        """The gateway wants a worker killed; with `abort` the worker logs its stack first."""
        child = self.worker(n)
        if child is None or child.is_killed:
            return self.decide(now)
        if not abort:
            self._say("warning", f"killing {child.name}: {why}")
            child.why_killed = why
            self._kill(child)
        elif child.why_killed != why:
            self._abort(child, why, now)
        return self.decide(now)

    def exited(
        self, child: Child, code: int, reason: str, now: float, error: str = ""
    ) -> list[a.Action]:
        """A process has exited; `reason` is text for the log. `error`: the exception that ended it,
        which is already in the log."""
        if self._exited_in_upgrade(child, code, reason, now):
            return self.decide(now)
        was_asked = child.state is ChildState.STOPPING
        was_ready_at, child.ready_at = child.ready_at, None
        if not was_asked:
            self._restarts_of(child).counts[reason_of(child, code)] += 1
        child.kill_at = child.hello_by = math.inf
        child.is_killed = child.is_aborted = False
        child.take(ChildStep.EXIT)
        if child is self.gateway:
            # There is no gateway for a hello; `listening` sets the deadline again.
            for worker in self.all_children():
                worker.hello_by = math.inf
        if child.why_killed:
            reason = f"{reason} ({child.why_killed})"
            child.why_killed = ""
        if self.phase is RunPhase.RUNNING:
            self._handle_exit(child, code, reason, was_asked, was_ready_at, now, error)
        else:
            self._log_expected_exit(child, code, reason)
        return self.decide(now)

    def _exited_in_upgrade(self, child: Child, code: int, reason: str, now: float) -> bool:
        """Whether the exit of a gateway does not concern the present one, or not yet."""
        upgrades = self.upgrades
        if child is self.gateway and upgrades.is_under_way:
            was_asked, was_ready_at = child.state is ChildState.STOPPING, child.ready_at
            upgrades.fallen = Fallen(code, reason, was_asked, was_ready_at)
            child.kill_at = math.inf
            child.take(ChildStep.EXIT)
            child.ready_at = None
            if code:
                self._say("warning", f"{child.name} {reason} while it was upgraded")
            self._settle_failed(now)
            return True
        was_successor = child is upgrades.successor
        if not upgrades.exited(child):
            return False
        child.take(ChildStep.EXIT)
        if not was_successor:
            if code:
                self._say("warning", f"an earlier gateway {reason}; its TLS connections are lost")
            return True
        why = child.why_killed if child.is_killed else f"the new gateway {reason}"
        upgrades.failed = FailedSuccessor(why, now + DECIDED_WITHIN)
        self._settle_failed(now)
        return True

    def _settle_failed(self, now: float) -> None:
        """After the end of a successor: whether the old gateway continues, as far as that is
        known."""
        upgrades = self.upgrades
        failed, fallen = upgrades.failed, upgrades.fallen
        if failed is None or not (fallen or upgrades.has_kept or now >= failed.until):
            return
        upgrades.failed = upgrades.fallen = None
        after = "the old one goes on" if fallen is None else "both are gone"
        text = f"{failed.why}; {after}" if self.phase is RunPhase.RUNNING else "the run is stopping"
        self._do(a.Settled(UPGRADE, False, f"refused: {text}", UPGRADE))
        if fallen is not None and self.phase is RunPhase.RUNNING:
            if not fallen.was_asked:
                self.gateway_restarts.counts[reason_of(self.gateway, fallen.code)] += 1
            for worker in self.all_children():
                worker.hello_by = math.inf
            self._handle_exit(self.gateway, *fallen, now)
        elif fallen is not None:
            self._log_expected_exit(self.gateway, fallen.code, fallen.reason)

    # --- inputs: requests ---

    def refusal_to_upgrade(self) -> str:
        """Why the gateway cannot be upgraded now, or ""."""
        if self.phase is not RunPhase.RUNNING:
            return "the run is stopping"
        if self.upgrades.is_under_way:
            return "an upgrade is under way"
        if any(pool.canary is not None for pool in self.pools.values()):
            return "a canary is under way; wait for its end, or end it with `wsraw rollback`"
        if self.gateway.state is not ChildState.READY:
            return f"the gateway is {self.gateway.state.value}"
        return ""

    def upgrade(self, now: float) -> list[a.Action]:
        """Start a successor of the gateway, unless there is a refusal."""
        if not self.refusal_to_upgrade():
            self._do(a.Spawn(self.upgrades.begin(self.gateway, now)))
        return self.decide(now)

    def reload(self, now: float, names: Iterable[str] | None = None) -> list[a.Action]:
        """Replace all workers of these pools (default: all pools), one after the other."""
        if self.phase is RunPhase.RUNNING:
            self._version += 1
            for name in self.pools if names is None else names:
                self.pools[name].restarts.reset()
                self.pools[name].reload(self._version, now)
        return self.decide(now)

    def roll_back(self, names: Iterable[str], now: float) -> list[a.Action]:
        """Let all workers of these pools load the pool's previous version, if there is one."""
        if self.phase is RunPhase.RUNNING:
            for name in names:
                self.pools[name].restarts.reset()
                self.pools[name].roll_back(now)
        return self.decide(now)

    def try_out(self, pool: Pool, plan: CanaryPlan, *, is_kept: bool, now: float) -> list[a.Action]:
        """Begin a canary in this pool; see `Pool.try_out`."""
        if self.phase is RunPhase.RUNNING:
            self._version += 1
            pool.try_out(plan, self._version, is_kept=is_kept, now=now)
        return self.decide(now)

    def compare(
        self, pool: Pool, old: Handled, new: Handled, *, is_kept: bool, now: float
    ) -> list[a.Action]:
        """Compare what the workers of a pool with a canary have done so far."""
        pool.compare(old, new, is_kept=is_kept, now=now)
        return self.decide(now)

    @property
    def canaries(self) -> list[Pool]:
        """The pools with a canary."""
        return [pool for pool in self.pools.values() if pool.canary is not None]

    def scale(self, count: int, now: float, pool: Pool, program: Program) -> list[a.Action]:
        """Set the number of workers of a program, at least one."""
        if self.phase is RunPhase.RUNNING:
            pool.scale(program, max(1, min(count, MOST)), now)
        return self.decide(now)

    def recycle(self, n: int, why: str, now: float) -> list[a.Action]:
        child = self.worker(n)
        if (
            self.phase is RunPhase.RUNNING
            and child is not None
            and self.pools[child.pool].recycle(child, why, now)
        ):
            self._say("info", f"replacing {child.name}: {why}")
        return self.decide(now)

    def stop(self, now: float, timeout: float | None = None) -> list[a.Action]:
        """Stop gracefully within `timeout` seconds (default: the setting); 0 has no deadline.

        A second call only brings the deadline forward.
        """
        if timeout is None:
            timeout = self._settings.stop_timeout
        stop_at = now + timeout + STOP_MARGIN if timeout else math.inf
        if self.phase is RunPhase.STOPPING and stop_at < self._stop_at:
            self._stop_at = stop_at
            self._do(a.Tell(Stop(timeout)))
        elif self.phase is RunPhase.RUNNING and self.gateway.state is not ChildState.READY:
            self._end()
        elif self.phase is RunPhase.RUNNING:
            self.phase = RunPhase.STOPPING
            for child in self._living_workers():
                child.take(ChildStep.STOP)
            self._stop_at = stop_at
            self._do(a.Tell(Stop(timeout or FOREVER)))
        return self.decide(now)

    def stop_now(self, code: int, now: float) -> list[a.Action]:
        self.exit_code = code
        self._end()
        for child in self._living():
            child.kill_at = now
        return self.decide(now)

    def stopped(self, now: float) -> list[a.Action]:
        """The gateway has closed all connections."""
        if self.phase is RunPhase.STOPPING:
            self._end()
        return self.decide(now)

    # --- time ---

    def wake_at(self, now: float) -> float:
        """When `decide` must be called at the latest; infinity if never."""
        times = [self._gateway_check.wake_at]
        times += [child.kill_at for child in self._living()]
        times += [child.hello_by for child in self._awaited()]
        if self.upgrades.failed is not None:
            times.append(self.upgrades.failed.until)
        if self.phase is RunPhase.STOPPING:
            times.append(self._stop_at)
        if self.phase is RunPhase.RUNNING:
            times += [child.spawn_at for child in self._waiting()]
            times += [at for _, at in self._unproved()]
            times += [pool.wake_at(now) for pool in self.pools.values()]
        return min(times)

    # --- decisions ---

    def decide(self, now: float) -> list[a.Action]:
        """Decide what is due now."""
        if self.phase is RunPhase.STOPPING and now >= self._stop_at:
            self._say("warning", "stop_timeout is over: killing the remaining workers")
            self._end()
            for child in self._living_workers():
                child.kill_at = now
        if self.phase is RunPhase.ENDING:
            # Workers are ended first: the gateway still reads what they send.
            for child in self._living_workers() or self._living():
                if child.kill_at == math.inf and not child.is_killed:
                    self._ask_to_leave(child, now)
        for child in self._awaited():
            if now >= child.hello_by:
                self._handle_late_hello(child, now)
        self._check_gateway(now)
        self._settle_failed(now)
        for child in self._living():
            if now >= child.kill_at:
                why = f": {child.why_killed}" if child.why_killed else ""
                self._say("warning" if why else "debug", f"killing {child.name}{why}")
                self._kill(child)
        if self.phase is RunPhase.RUNNING:
            for child, proved_at in self._unproved():
                if now >= proved_at:
                    self._prove(child)
            for pool in self.pools.values():
                pool.advance(now)
            for name in [each for each in self._unwanted if not self.pools[each].has_workers]:
                del self.pools[name]
                self._unwanted.discard(name)
            for child in self._waiting():
                if now >= child.spawn_at:
                    self._spawn(child, now)
        if self.phase is RunPhase.ENDING and not self._living():
            self.phase = RunPhase.OVER
            self._do(a.Finish(self.exit_code))
        actions, self._actions = self._actions, []
        return actions

    def _waiting(self) -> list[Child]:
        """The children that wait only for their time to be spawned."""
        state = self.gateway.state
        waiting: list[Child] = []
        # During an upgrade, the successor may already serve, and not have reported it yet.
        if state is ChildState.DEAD and not self.upgrades.is_under_way:
            waiting.append(self.gateway)
        is_up = state is ChildState.READY
        if is_up or not self._listened:
            for pool in self.pools.values():
                wanted = pool.wanted() if self.has_been_up else pool.first_of_each()
                dead = [child for child in wanted if child.state is ChildState.DEAD]
                waiting += [child for child in dead if is_up or _waits_for_gateway(child)]
        return waiting

    def _awaited(self) -> list[Child]:
        """Workers that may have to say hello. Leaving ones have a deadline anyway."""
        states = (ChildState.STARTING, ChildState.READY)
        return [child for child in self.all_children() if child.state in states]

    def _expect_hello(self, child: Child, now: float) -> None:
        """Set the deadline for the hello of a worker that starts or must find a new gateway; there
        is none before that gateway listens."""
        if self.gateway.state is not ChildState.READY:
            child.hello_by = math.inf
        elif child.state is ChildState.STARTING:
            child.hello_by = now + (self._settings.start_timeout or math.inf)
        elif child.state is ChildState.READY:
            child.hello_by = now + (self._settings.handler_timeout or math.inf) + HELLO_MARGIN

    def _handle_late_hello(self, child: Child, now: float) -> None:
        child.hello_by = math.inf
        if child.is_killed or child.why_killed:
            return
        if child.state is ChildState.READY:
            why = "it has not connected to the new gateway"
        else:
            why = f"it was not ready within start_timeout ({self._settings.start_timeout:g} s)"
        self._abort(child, why, now)

    def _check_gateway(self, now: float) -> None:
        """Abort a gateway that does not answer. One that is stopping has a deadline anyway."""
        check = self._gateway_check
        if self.gateway.state not in (ChildState.STARTING, ChildState.READY):
            check.ended()
        elif check.is_late(now):
            check.ended()
            if self.gateway.state is ChildState.READY:
                why = f"no answer for gateway_timeout ({check.timeout:g} s)"
            else:
                why = "its start takes too long"
            self._abort(self.gateway, why, now)
        elif check.is_due(now):
            self._do(a.Tell(Check()))

    def _unproved(self) -> list[tuple[Child, float]]:
        """Ready children, and when they will have been ready for long enough."""
        return [
            (child, child.ready_at + STABLE_AFTER)
            for child in (self.gateway, *self._wanted())
            if not child.is_proved
            and child.state is ChildState.READY
            and child.ready_at is not None
        ]

    def _prove(self, child: Child) -> None:
        if self._restarts_of(child).prove(child):
            self._say_loop_is_over(None if child is self.gateway else self.pools[child.pool])

    def _wanted(self) -> Iterator[Child]:
        for pool in self.pools.values():
            yield from pool.wanted()

    def _spawn(self, child: Child, now: float) -> None:
        child.take(ChildStep.SPAWN)
        child.spawned_at = now
        child.is_proved = False
        # A new process starts without the faults of the old one.
        child.outdated = ""
        if child is self.gateway:
            child.n += 1
            self._gateway_check.spawned(now)
        else:
            self._spawned += 1
            child.n = self._spawned
            child.version = self.pools[child.pool].version_of(child)
            self.pools[child.pool].tell_of(child)
            self._expect_hello(child, now)
        self._do(a.Spawn(child))

    def _log_expected_exit(self, child: Child, code: int, reason: str) -> None:
        """Log an exit while the run is stopping."""
        if child is not self.gateway:
            self.pools[child.pool].exited(child)
            if code != 0:
                self._say("info", f"{child.name} {reason}")
        elif self.phase is RunPhase.STOPPING:
            self._say("warning", f"the gateway {reason} before it had closed its clients")
            self._end()

    def _handle_exit(
        self,
        child: Child,
        code: int,
        reason: str,
        was_asked: bool,
        was_ready_at: float | None,
        now: float,
        error: str = "",
    ) -> None:
        """Tell a requested exit from a boot failure and from a death, and act on it."""
        name = child.name
        if not was_asked:
            child.restarts += 1
            child.last_death = Death(now, reason, error)
        pool = self.pools[child.pool] if child is not self.gateway else None
        if pool is not None and pool.canary_exited(child, reason, now):
            return
        if pool is not None and pool.exited(child):
            if not was_asked:
                self._say("warning", f"{name} {reason}; its replacement takes over")
            elif code:
                self._say("info", f"{name} {reason}")
            return
        if was_asked:
            return
        boot = not (self._listened if child is self.gateway else self.has_been_up)
        # Once it was ready, a handler may have caused any code: os._exit(3) is not about the file.
        # On Windows, os.abort() ends with this code, too.
        was_early = was_ready_at is None
        if boot and was_early and code == DOES_NOT_LOAD:
            # The child has logged why.
            self._give_up(DOES_NOT_LOAD)
            return
        is_successor = pool is not None and child is pool.successor
        is_foreign = child.program is not None and child.program.is_foreign
        # A ready successor may still fail: the on_start of a Python worker runs after its hello.
        last_code = DOES_NOT_LOAD if is_foreign else DOES_NOT_START
        says_so = code == last_code or (was_early and code == DOES_NOT_LOAD)
        is_broken = is_successor and was_early and child.early_deaths + 1 >= BROKEN_AFTER
        if pool is not None and ((says_so and (was_early or is_successor)) or is_broken):
            told = pool.refuse_successor(child, reason, now)
            if told:
                self._say("error", f"{name} {reason}; the old workers stay")
            if is_successor:
                return
        self._handle_death(child, reason, was_ready_at, boot, now)

    def _handle_death(
        self, child: Child, reason: str, was_ready_at: float | None, boot: bool, now: float
    ) -> None:
        """Schedule the next attempt after a death, or give up."""
        name = child.name
        began = self._restarts_of(child).record_death(child, was_ready_at, now)
        most = self._settings.restart_intensity
        if began and boot:
            self._say(
                "error",
                f"{name} {reason}: more than {most} such deaths within {PERIOD:g} s; giving up",
            )
            self._give_up(1)
            return
        wait = child.spawn_at - now
        when = f"in {wait:.1f} s" if wait else "at once"
        self._say("warning", f"{name} {reason}; starting another {when}")
        if began:
            is_gateway = child is self.gateway
            where = " of the gateway" if is_gateway else self._of_pool(self.pools[child.pool])
            meanwhile = "No client is served" if is_gateway else "Connections stay"
            self._say(
                "error",
                f"crash loop{where}: more than {most} early deaths within {PERIOD:g} s. "
                f"{meanwhile}; retrying every {self._restarts_of(child).longest:g} s. "
                "`wsraw reload` retries at once",
            )

    def _restarts_of(self, child: Child) -> Restarts:
        return self.gateway_restarts if child is self.gateway else self.pools[child.pool].restarts

    def _give_up(self, code: int) -> None:
        self.exit_code = code
        if self.gateway.state is ChildState.READY:
            self._do(a.Tell(Stop(0.0)))
        self._end()

    def _end(self) -> None:
        """Make every child leave; `decide` does it step by step."""
        if self.phase is not RunPhase.OVER:
            self.phase = RunPhase.ENDING

    def _ask_to_leave(self, child: Child, now: float) -> None:
        child.take(ChildStep.STOP)
        child.kill_at = now + GRACE
        if child is not self.gateway:
            # stop_timeout is the limit, without further grace.
            child.kill_at = max(now, min(child.kill_at, self._stop_at))
        self._do(a.End(child, a.Termination.TERMINATE))

    def _abort(self, child: Child, why: str, now: float) -> None:
        self._say("warning", f"aborting {child.name}: {why}")
        child.why_killed = why
        child.is_aborted = True
        child.kill_at = now + ABORT_GRACE
        self._do(a.End(child, a.Termination.ABORT))

    def _kill(self, child: Child) -> None:
        child.kill_at = math.inf
        child.is_killed = True
        self._do(a.End(child, a.Termination.KILL))

    def _living_workers(self) -> list[Child]:
        return [child for child in self.all_children() if child.alive]

    def _living(self) -> list[Child]:
        """Living children in the order in which they stop; the gateway is last."""
        children = (*self.all_children(), *self.upgrades.children(), self.gateway)
        return [child for child in children if child.alive]

    def _do(self, action: a.Action) -> None:
        self._actions.append(action)

    def _say(self, level: Level, text: str) -> None:
        self._do(a.Say(level, text))

    def _say_loop_is_over(self, pool: Pool | None) -> None:
        self._say("info", f"the crash loop{self._of_pool(pool)} is over")

    def _of_pool(self, pool: Pool | None) -> str:
        return f" in the pool {pool.name}" if pool is not None and len(self.pools) > 1 else ""


def _waits_for_gateway(child: Child) -> bool:
    """Whether a worker may start before there is a gateway. A worker in another language need not
    know that it has to try again."""
    return child.program is not None and not child.program.is_foreign
