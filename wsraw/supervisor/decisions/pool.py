"""Sans-I/O. The workers of a pool: how many there are to be, and how one replaces another.

A worker is replaced by a *successor*: that one is started first, and when it is ready the old one
is drained and leaves. One at a time, so there are never fewer ready workers than before, and never
many more. Reload replaces all, recycling one; a worker that dies while its successor starts is
simply succeeded.

While a worker that was started anew is not ready, no other is drained: code that loads and then
dies costs nobody else their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wsraw.config.programs import Entry, Program
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.child import Child, ChildState, Step
from wsraw.supervisor.decisions.restarts import Restarts

RELOAD: Final = "reload"

SETTLE: Final = 0.1
"""Seconds that a successor must stay ready: an on_start that fails does so right after its hello.
"""

RETRY: Final = 30.0
"""Seconds until a worker whose successor does not load is recycled again."""

GRACE: Final = 5.0
"""Seconds a child has to leave after it was told to, before it is killed."""


class Pool:
    """Workers, those that leave, and at most one successor. `do` takes each action, in order."""

    def __init__(
        self,
        name: str,
        entries: Sequence[Entry],
        drain_timeout: float,
        restarts: Restarts,
        do: Callable[[a.Action], object],
    ) -> None:
        self.name = name
        self.programs = [entry.program for entry in entries]
        self.workers = [Child(program, name) for program, count in entries for _ in range(count)]
        self.restarts = restarts
        """Its deaths: a crash loop is nobody else's."""
        self.proved: set[Program] = set()
        """The programs of which a worker was once ready."""
        self.leaving: list[Child] = []
        self.successor: Child | None = None
        self.replaced: Child | None = None
        """Whose place the successor will take."""
        self.is_reloading = False
        self._is_catching_up = False
        """A reload was refused when some workers were new already: the others follow."""
        self._refused_at: float | None = None
        """When a reload was refused while all workers were old; they stay, until a new one that
        takes the place of a dead one shows that the file loads now."""
        self._is_scaling = False
        self._drain_timeout = drain_timeout
        self._do = do

    def everybody(self) -> Iterator[Child]:
        """All that may have a process."""
        yield from self.workers
        if self.successor is not None:
            yield self.successor
        yield from self.leaving

    def wanted(self) -> Iterator[Child]:
        """Those that are started when they are dead."""
        yield from self.workers
        if self.successor is not None:
            yield self.successor

    def first_of_each(self) -> Iterator[Child]:
        """One worker of each program."""
        for program in self.programs:
            yield next(child for child in self.workers if child.program == program)

    def census(self) -> str:
        """How many there are to be, in words."""
        text = _workers(len(self.workers))
        if len(self.programs) < 2:
            return text
        counts = Counter(child.program for child in self.workers)
        each = ", ".join(f"{counts[program]} {program.label}" for program in self.programs)
        return f"{text}: {each}"

    # --- what is asked for ---

    def reload(self, now: float) -> None:
        """Replace all. What has not come up yet goes at once, as it may never do so and may have
        read the old file; a successor that has is replaced after the current step."""
        self.is_reloading = True
        self._is_catching_up = False
        self._refused_at = None
        new = self.successor
        if new is not None and new.state is not ChildState.READY:
            self._retire(new, now)
            self.successor = self.replaced = None
        for child in self.workers:
            if child.state is ChildState.STARTING and child is not self.replaced:
                self._renew(child)
                self._retire(child, now)
        for child in self.wanted():
            child.outdated = child.outdated or RELOAD
            child.replace_at = now
            if not child.alive:
                # It loads the new file anyway, and that may be what it needs.
                child.early_deaths = 0
                child.spawn_at = now

    def _renew(self, child: Child) -> None:
        """Another one is to be started in its place."""
        fresh = self.workers[self.workers.index(child)] = Child(child.program, self.name)
        fresh.restarts = child.restarts
        fresh.last_reason = child.last_reason

    def start_over(self, now: float) -> None:
        """Replace all at once: they cannot find the gateway any more."""
        if self.successor is not None:
            self._dismiss(self.successor, now)
            self.successor = self.replaced = None
        for child in list(self.workers):
            if child.alive:
                self._renew(child)
                self._dismiss(child, now)

    def recycle(self, child: Child, why: str, now: float) -> bool:
        """Replace one. False if that is under way, or it leaves anyway."""
        if child not in self.workers or child.outdated:
            return False
        child.outdated = why
        child.replace_at = now
        return True

    def scale(self, program: Program, count: int, now: float) -> None:
        """That many workers of this program from here on."""
        self._is_scaling = True
        ours = [child for child in self.workers if child.program == program]
        for _ in range(count - len(ours)):
            self.workers.append(Child(program, self.name))
        # The last come go first, but before any that serves goes one that does not.
        order = sorted(ours, key=lambda child: child.state is not ChildState.READY)
        for child in order[count:][::-1]:
            self.workers.remove(child)
            if child is self.replaced:
                assert self.successor is not None
                self._retire(self.successor, now)
                self.successor = self.replaced = None
            self._retire(child, now)

    # --- what happens ---

    def ready(self, child: Child, now: float) -> None:
        """A worker has said hello. One that leaves has done so to a new gateway, which does not
        know that."""
        if child in self.leaving and child.kill_at is not None:
            self._do(a.Drain(child, max(0.0, child.kill_at - now)))
        elif child in self.leaving:
            self._do(a.Drain(child, a.FOREVER))

    def came_up(self, child: Child, now: float) -> None:
        """A worker of ours is ready. Old code and new code must not stay side by side."""
        if self._refused_at is None or child.spawned_at < self._refused_at:
            return
        since, self._refused_at = self._refused_at, None
        ours = [each for each in self.workers if each.program == child.program]
        self._catch_up([each for each in ours if each.spawned_at < since], now)

    def _catch_up(self, old: list[Child], now: float) -> None:
        self._is_catching_up = bool(old)
        for each in old:
            each.outdated = RELOAD
            each.replace_at = now
        if old:
            self._do(
                a.Say("info", f"the new code works: replacing {_workers(len(old))} of the old")
            )

    def exited(self, child: Child) -> bool:
        """A process is gone. True if nobody needs to be started for it."""
        if child in self.leaving:
            self.leaving.remove(child)
            return True
        if child is self.replaced:
            assert self.successor is not None
            self._put_in_place(self.successor, child)
            return True
        return False

    def does_not_load(self, child: Child, reason: str, now: float) -> bool:
        """A new process of the handlers file has found that it does not load. True if this is told
        to those who asked for it; the old workers stay, unless some are new already."""
        old = [each for each in self.workers if each.outdated == RELOAD]
        kept = sum(each.alive for each in self.workers)
        told = self.is_reloading or self._is_catching_up
        is_half_way = told and self._is_half_way(child.program)
        if self.is_reloading:
            rest = f"{kept} old ones stay"
            if is_half_way:
                rest = (
                    "other workers run the new code, and old and new code must not stay side "
                    f"by side: trying again in {RETRY:g} s"
                )
            self._settle(RELOAD, False, f"refused: the new worker {reason}; {rest}")
        if self._is_scaling:
            self._settle("scale", False, f"the new worker {reason}; {kept} workers serve")
        if child is self.successor:
            assert self.replaced is not None
            if self.replaced.outdated != RELOAD:
                # It has done enough, and will have done more by then.
                self.replaced.replace_at = now + RETRY
            self.successor = self.replaced = None
            told = True
        if is_half_way:
            self._is_catching_up = True
            for each in old:
                each.replace_at = now + RETRY
        elif old:
            for each in old:
                each.outdated = ""
            self._refused_at = now
        return told

    def _is_half_way(self, program: Program | None) -> bool:
        """Whether of this program old workers and new ones serve."""
        ours = [each for each in self.workers if each.program == program]
        old = [each for each in ours if each.outdated == RELOAD]
        return bool(old) and any(each.state is ChildState.READY for each in ours if each not in old)

    # --- one step after the other ---

    def advance(self, now: float) -> None:
        """Take the steps for which it is time."""
        new = self.successor
        if new is None:
            self._begin(now)
        elif self._is_settled(new, now) and self._others_are_ready():
            old = self.replaced
            assert old is not None
            self._put_in_place(new, old)
            self._retire(old, now)
            self._begin(now)
        if (self.is_reloading or self._is_catching_up) and self._is_done():
            if self.is_reloading:
                self._settle(RELOAD, True, f"reloaded: {self.census()}")
            else:
                self._do(a.Say("info", f"reloaded after all: {self.census()}"))
            self._is_catching_up = False
        if self._is_scaling and self._is_done():
            self._settle("scale", True, self.census())

    def wake_at(self, now: float) -> float | None:
        """When to `advance` at the latest, of the times to come."""
        times = [child.replace_at for child in self.workers if child.outdated]
        new = self.successor
        if new is not None and new.ready_at is not None:
            times.append(new.ready_at + SETTLE)
        return min((when for when in times if when > now), default=None)

    def _begin(self, now: float) -> None:
        """The next one to be replaced, if there is any."""
        if len(self.leaving) > len(self.workers) or not self._others_are_ready():
            # Handlers that do not end must not gather processes.
            return
        for child in self.workers:
            if child.outdated and child.alive and now >= child.replace_at:
                self.replaced = child
                self.successor = Child(child.program, self.name)
                self.successor.spawn_at = now
                return

    def _is_settled(self, child: Child, now: float) -> bool:
        return (
            child.state is ChildState.READY
            and child.ready_at is not None
            and now >= child.ready_at + SETTLE
        )

    def _others_are_ready(self) -> bool:
        return all(c.outdated or c.state is ChildState.READY for c in self.workers)

    def _is_done(self) -> bool:
        return (
            self.successor is None
            and not self.leaving
            and all(c.state is ChildState.READY and not c.outdated for c in self.workers)
        )

    def _put_in_place(self, new: Child, old: Child) -> None:
        self.workers[self.workers.index(old)] = new
        new.restarts = old.restarts
        new.last_reason = old.last_reason
        self.successor = self.replaced = None

    def _retire(self, child: Child, now: float) -> None:
        """It is not wanted any more."""
        if not child.alive:
            return
        self.leaving.append(child)
        was, wait = child.state, self._drain_timeout
        child.take(Step.STOP)
        if was is ChildState.READY:
            child.kill_at = now + wait if wait else None
            child.why_killed = f"it has not finished within drain_timeout ({wait:g} s)"
            self._do(a.Drain(child, wait or a.FOREVER))
        elif was is ChildState.STARTING:
            child.kill_at = now + GRACE
            self._do(a.Terminate(child))

    def _dismiss(self, child: Child, now: float) -> None:
        """It is not wanted any more, and there is no gateway that could drain it."""
        if child.alive:
            self.leaving.append(child)
            child.take(Step.STOP)
            child.kill_at = now + GRACE
            self._do(a.Terminate(child))

    def _settle(self, what: str, ok: bool, text: str) -> None:
        if what == RELOAD:
            self.is_reloading = False
        else:
            self._is_scaling = False
        self._do(a.Settled(what, ok, text, self.name))


def _workers(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"
