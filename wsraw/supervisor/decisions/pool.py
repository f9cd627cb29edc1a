"""Sans-I/O. The workers of a pool: how many are wanted, and how one replaces another.

A worker is replaced by a *successor*, which is started first; when it is ready, the old worker is
drained and leaves. Workers are replaced one at a time, so there are never fewer ready workers than
before. `reload` replaces all workers, `recycle` one. If a worker dies while its successor starts,
the successor takes its place.

While a new worker is not ready, no other worker is drained, so that code which loads and then dies
costs one worker only.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wsraw.config.programs import Program, WorkerSpec
from wsraw.link import records as rec
from wsraw.link.records import DrainWorker
from wsraw.supervisor.decisions import actions as a
from wsraw.supervisor.decisions.canary import CanaryPlan, CanaryTrial, Outcomes, Stage
from wsraw.supervisor.decisions.child import Child, ChildState, ChildStep
from wsraw.supervisor.decisions.restarts import RECYCLED, RELOAD, Restarts
from wsraw.supervisor.decisions.verdict import Handled, Kind
from wsraw.supervisor.decisions.versions import Version, Versions

SETTLE: Final = 0.05
"""Seconds that a successor must stay ready: a worker without `starting` in its hello may fail right
after its hello, and any worker may fail with its first event."""

RETRY: Final = 30.0
"""Seconds until a worker whose successor does not load is recycled again."""

FOREVER: Final = 1e6
"""Seconds that stand for "no deadline". In milliseconds, the number still fits a C int."""

GRACE: Final = 5.0
"""Seconds a child has to leave after it was told to, before it is killed."""


class Pool:
    """Workers, leaving workers, and at most one successor. `do` gets each action, in order."""

    def __init__(
        self,
        name: str,
        entries: Sequence[WorkerSpec],
        drain_timeout: float,
        restarts: Restarts,
        do: Callable[[a.Action], object],
    ) -> None:
        self.name = name
        self.programs = [entry.program for entry in entries]
        self.workers = [Child(program, name) for program, count in entries for _ in range(count)]
        self.restarts = restarts
        """Deaths and crash loop of this pool."""
        self.proved: set[Program] = set()
        """Programs that have had a ready worker."""
        self.leaving: list[Child] = []
        self.successor: Child | None = None
        self.replaced: Child | None = None
        """The worker that the successor replaces."""
        self.is_reloading = False
        self._is_catching_up = False
        """A reload was refused when some workers were already new; the others follow."""
        self._refused_at: float | None = None
        """When a reload was refused while all workers were old. They stay until a worker that
        replaces a dead one shows that the file loads again."""
        self._is_scaling = False
        self.versions = Versions()
        self.canary: CanaryTrial | None = None
        self.outcomes = Outcomes()
        """The outcomes of its canaries."""
        self._promoted = 0
        """The version that a canary has tried and that a reload now gives to all workers."""
        self.drain_timeout = drain_timeout
        self._do = do

    def all_children(self) -> Iterator[Child]:
        """All workers that may have a process."""
        yield from self.wanted()
        yield from self.leaving

    def wanted(self) -> Iterator[Child]:
        """Workers that are started again when they are dead."""
        yield from self.workers
        if self.successor is not None:
            yield self.successor
        if self.canary is not None:
            yield from self.canary.children

    @property
    def has_workers(self) -> bool:
        return any(True for _ in self.all_children())

    def first_of_each(self) -> Iterator[Child]:
        for program in self.programs:
            yield from [child for child in self.workers if child.program == program][:1]

    def count_in_words(self) -> str:
        text = in_words(len(self.workers))
        if len(self.programs) < 2:
            return text
        counts = Counter(child.program for child in self.workers)
        each = ", ".join(f"{counts[program]} {program.label}" for program in self.programs)
        return f"{text}: {each}"

    # --- requests ---

    def reload(self, version: int, now: float) -> None:
        """Replace all workers by ones that load this version, which is on disk. A worker that is
        still starting is stopped at once, because it may have read the old file; a ready successor
        is replaced after the current step."""
        self.fail_canary(Kind.ENDED, "a reload was asked for", now)
        self.versions.reload(version)
        self._replace_all(now)

    def roll_back(self, now: float) -> None:
        """If a canary is in progress, end it. Otherwise replace all workers by ones that load the
        previous version, as it was kept; during a reload, by ones that load the present version. To
        be called only if there is a canary or such a version."""
        if self.canary is not None:
            self.fail_canary(Kind.ENDED, "a rollback was asked for", now)
            return
        self.versions.go_back(self.goes_back_to)
        self._replace_all(now)

    @property
    def goes_back_to(self) -> int:
        """The version that a rollback goes to; 0 if there is none."""
        return self.versions.target(is_reloading=self.is_reloading or self._is_catching_up)

    def try_out(self, plan: CanaryPlan, version: int, *, is_kept: bool, now: float) -> None:
        """Begin a canary: new workers load this version from disk. To be called only without
        another canary, and without a reload. `is_kept`: the present version can be loaded again."""
        counts = Counter(child.program for child in self.workers)
        children = [
            Child(program, self.name)
            for program, count in counts.items()
            for _ in range(math.ceil(plan.share * count))
        ]
        for child in children:
            child.spawn_at = now
        self.canary = CanaryTrial(plan, Version(version), children)
        self.versions.hold(is_kept=is_kept)
        # That its workers start says nothing about earlier refusals.
        self._refused_at = None

    def _replace_all(self, now: float) -> None:
        self.is_reloading = True
        self._is_catching_up = False
        self._refused_at = None
        if self.successor is not None and self.successor.state is not ChildState.READY:
            self._drop_successor(now)
        for child in self.workers:
            if child.state is ChildState.STARTING and child is not self.replaced:
                self._put_in_place(Child(child.becomes or child.program, self.name), child)
                self._let_leave(child, now)
        for child in self.wanted():
            child.outdated = child.outdated or RELOAD
            child.replace_at = now
            if not child.alive:
                # Its next process loads the new file, which may work.
                child.early_deaths = 0
                child.spawn_at = now

    def replace_all_at_once(self, now: float) -> None:
        """Replace all workers at once, because they cannot find the gateway any more."""
        self.fail_canary(Kind.ENDED, "the link to the gateway has moved", now)
        self._drop_successor(now, can_drain=False)
        for child in list(self.workers):
            if child.alive:
                self._put_in_place(Child(child.program, self.name), child)
                self._let_leave(child, now, can_drain=False)

    def recycle(self, child: Child, why: str, now: float) -> bool:
        """Replace one worker. False if it is already being replaced, or leaves."""
        if child not in self.workers or child.outdated:
            return False
        child.outdated = why
        child.replace_at = now
        return True

    def scale(self, program: Program, count: int, now: float) -> None:
        self._is_scaling = True
        self._set_count(program, count, now)

    def change(self, old: Sequence[WorkerSpec], new: Sequence[WorkerSpec], now: float) -> bool:
        """Apply other settings. Unchanged numbers of workers stay as they were scaled. A worker of
        a program that is no longer wanted makes room for one of a new program once that is ready.
        Returns whether there are new programs."""
        known, wanted = dict(old), dict(new)
        self.programs = list(wanted)
        free = [child for child in self.workers if child.program not in wanted]
        for program, count in wanted.items():
            ours = [c for c in self.workers if program in (c.program, c.becomes)]
            if known.get(program) == count and ours:
                continue
            while free and len(ours) < count:
                child = free.pop(0)
                child.becomes = program
                ours.append(child)
                if child.alive:
                    child.outdated = RELOAD
                    child.replace_at = now
                else:
                    self._put_in_place(Child(program, self.name), child)
            self._set_count(program, count, now)
        for child in free:
            self._remove(child, now)
        # The reload reports when all of this is done.
        self.is_reloading = True
        return not known.keys() >= wanted.keys()

    def _set_count(self, program: Program, count: int, now: float) -> None:
        ours = [child for child in self.workers if program in (child.program, child.becomes)]
        for _ in range(count - len(ours)):
            self.workers.append(Child(program, self.name))
        # The youngest workers leave first, and before them any that is not ready.
        order = sorted(ours, key=lambda child: child.state is not ChildState.READY)
        for child in order[count:][::-1]:
            self._remove(child, now)

    def _remove(self, child: Child, now: float) -> None:
        self.workers.remove(child)
        if child is self.replaced:
            self._drop_successor(now)
        self._let_leave(child, now)

    # --- inputs ---

    def ready(self, child: Child, now: float) -> None:
        """A leaving worker has said hello to a new gateway, which does not know that the worker
        leaves."""
        if child in self.leaving:
            left = max(0.0, min(child.kill_at - now, FOREVER))
            self._do(a.Tell(DrainWorker(child.n, left)))

    def tell_leaving(self, now: float) -> None:
        """A new gateway has taken over, which may not know which workers leave."""
        for child in self.leaving:
            self.ready(child, now)

    def came_up(self, child: Child, now: float) -> None:
        """A worker is ready. If this shows that the file loads again, replace the old workers."""
        if self._refused_at is None or child.spawned_at < self._refused_at:
            return
        since, self._refused_at = self._refused_at, None
        ours = [each for each in self.workers if each.program == child.program]
        old = [each for each in ours if each.spawned_at < since]
        self._is_catching_up = bool(old)
        for each in old:
            each.outdated = RELOAD
            each.replace_at = now
        if old:
            text = f"the new code works: replacing {in_words(len(old))} of the old"
            self._do(a.Say("info", text))

    def exited(self, child: Child) -> bool:
        """A process has exited. True if no other one must be started for it."""
        if child in self.leaving:
            self.leaving.remove(child)
            return True
        if child is self.replaced:
            self._promote_successor()
            return True
        return False

    def refuse_successor(self, child: Child, reason: str, now: float) -> bool:
        """A successor does not load. The old workers stay, unless some are already new. True if the
        requester is told."""
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
                # The reason to recycle it remains: try again later.
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
            self.versions.refused()
            if self.canary is not None:
                self._dismiss(self.canary, now)
        return told

    def _is_half_way(self, program: Program | None) -> bool:
        """Whether both old and new workers of this program serve."""
        ours = [each for each in self.workers if program in (each.program, each.becomes)]
        old = [each for each in ours if each.outdated == RELOAD]
        return bool(old) and any(each.state is ChildState.READY for each in ours if each not in old)

    # --- the canary ---

    def version_of(self, child: Child) -> Version:
        """The version that a process of this child loads."""
        canary = self.canary
        if canary is not None and child in canary.children:
            return canary.version
        return self.versions.wanted

    @property
    def kept_versions(self) -> set[int]:
        """The versions whose files are needed."""
        on_trial = {self.canary.version.number} if self.canary is not None else set()
        return self.versions.kept | on_trial

    def canary_record(self) -> rec.Canary | None:
        """The canary as the gateway must know it."""
        canary = self.canary
        if canary is None or not canary.numbers:
            return None
        share = 0.0 if canary.stage is Stage.STARTING else canary.plan.share
        return rec.Canary(self.name, canary.numbers, share, canary.plan.shield)

    def tell_of(self, child: Child) -> None:
        """Before the hello of a canary's worker, tell the gateway that it belongs to the canary."""
        record = self.canary_record()
        if record is not None and child.n in record.workers:
            self._do(a.Tell(record))

    def canary_exited(self, child: Child, reason: str, now: float) -> bool:
        """A process has exited. True if it was a worker of the canary; then the canary has failed,
        unless its version is already promoted."""
        canary = self.canary
        if canary is None or child not in canary.children:
            return False
        if canary.stage is Stage.PROMOTED:
            canary.children.remove(child)
            record = self.canary_record() or rec.Canary(self.name, [])
            self._do(a.Tell(record))
        else:
            is_starting = canary.stage is Stage.STARTING
            what = "the new worker" if is_starting else child.name
            kind = Kind.NOT_READY if is_starting else Kind.DIED
            self.fail_canary(kind, f"{what} {reason}", now, shows_output=True)
        return True

    def compare(self, old: Handled, new: Handled, *, is_kept: bool, now: float) -> None:
        """Compare what the old workers and those of the canary have done so far. `is_kept`: the
        canary's version can be loaded again."""
        canary = self.canary
        if canary is None or canary.stage is not Stage.ON_TRIAL:
            return
        fault = canary.look(old, new, now)
        if fault is not None:
            self.fail_canary(fault.kind, fault.why, now)
        elif canary.is_over(now):
            canary.stage = Stage.PROMOTED
            text = f"canary: version {canary.version.number} does well; all workers get it"
            self._do(a.Say("info", text))
            self._promoted = canary.version.number
            self.versions.let_go()
            self.versions.promote(canary.version._replace(is_kept=is_kept))
            self._replace_all(now)

    def fail_canary(self, kind: Kind, why: str, now: float, *, shows_output: bool = False) -> None:
        """Give the connections of the canary back to the old workers."""
        canary = self.canary
        if canary is None:
            return
        if canary.stage is not Stage.PROMOTED:
            self.versions.let_go()
            self.outcomes.add(canary.version.number, kind, why)
        self._dismiss(canary, now)
        kept = in_words(sum(each.alive for each in self.workers))
        text = f"rolled back: {why}; {kept} of the old version serve all connections"
        self._do(a.Say("error", f"canary {text}"))
        self._do(a.Settled(a.CANARY, False, text, self.name, shows_output))

    def _dismiss(self, canary: CanaryTrial, now: float) -> None:
        """End a canary: for the gateway, its workers become ordinary ones, and leave."""
        self.canary = None
        self._do(a.Tell(rec.Canary(self.name, [])))
        for child in canary.children:
            self._let_leave(child, now)

    def _advance_canary(self, canary: CanaryTrial, now: float) -> None:
        if canary.stage is Stage.STARTING and canary.is_ready(now):
            canary.begin(now)
            record = self.canary_record()
            assert record is not None
            self._do(a.Tell(record))
            what = f"version {canary.version.number} serves {canary.plan.in_words}"
            text = f"canary: {what}, with {in_words(len(canary.children))}"
            self._do(a.Say("info", text))
        elif canary.stage is Stage.PROMOTED and self._are_all_new():
            self._dismiss(canary, now)

    # --- steps ---

    def advance(self, now: float) -> None:
        """Take the steps that are due."""
        if self.canary is not None:
            self._advance_canary(self.canary, now)
        new = self.successor
        if new is None:
            self._begin(now)
        elif (
            new.state is ChildState.READY
            and new.ready_at is not None
            and now >= new.ready_at + SETTLE
            and self._others_are_ready()
        ):
            old = self._promote_successor()
            self.restarts.counts[RELOAD if old.outdated == RELOAD else RECYCLED] += 1
            self._let_leave(old, now)
            self._begin(now)
        if (self.is_reloading or self._is_catching_up) and self._is_done():
            is_back = self.versions.served()
            if self.is_reloading:
                what = f"rolled back to version {self.versions.present}" if is_back else "reloaded"
                self._settle(RELOAD, True, f"{what}: {self.count_in_words()}")
            else:
                self._do(a.Say("info", f"reloaded after all: {self.count_in_words()}"))
            self._is_catching_up = False
        if self._is_scaling and self._are_all_new() and not self.leaving:
            self._settle("scale", True, self.count_in_words())

    def wake_at(self, now: float) -> float:
        """When to call `advance` next."""
        times = [child.replace_at for child in self.workers if child.outdated]
        new = self.successor
        if new is not None and new.ready_at is not None:
            times.append(new.ready_at + SETTLE)
        if self.canary is not None:
            times.append(self.canary.wake_at())
        return min((when for when in times if when > now), default=math.inf)

    def _begin(self, now: float) -> None:
        """Begin to replace the next worker, if one must be replaced."""
        if len(self.leaving) > len(self.workers) or not self._others_are_ready():
            # Processes must not pile up because handlers do not end.
            return
        for child in self.workers:
            if child.outdated and child.alive and now >= child.replace_at:
                self.replaced = child
                self.successor = Child(child.becomes or child.program, self.name)
                self.successor.spawn_at = now
                return

    def _others_are_ready(self) -> bool:
        return all(c.outdated or c.state is ChildState.READY for c in self.workers)

    def _are_all_new(self) -> bool:
        are_new = all(c.state is ChildState.READY and not c.outdated for c in self.workers)
        return self.successor is None and are_new

    def _is_done(self) -> bool:
        return self._are_all_new() and not self.leaving and self.canary is None

    def _put_in_place(self, new: Child, old: Child) -> None:
        """Give the slot of `old`, with its history, to `new`."""
        self.workers[self.workers.index(old)] = new
        new.restarts = old.restarts
        new.last_death = old.last_death

    def _promote_successor(self) -> Child:
        """Give the successor the place of the worker that it replaces; return that worker."""
        new, old = self.successor, self.replaced
        assert new is not None and old is not None
        self._put_in_place(new, old)
        self.successor = self.replaced = None
        return old

    def _drop_successor(self, now: float, *, can_drain: bool = True) -> None:
        if self.successor is not None:
            self._let_leave(self.successor, now, can_drain=can_drain)
        self.successor = self.replaced = None

    def _let_leave(self, child: Child, now: float, *, can_drain: bool = True) -> None:
        """End an unwanted worker. `can_drain`: the gateway that it knows is up."""
        if not child.alive:
            return
        self.leaving.append(child)
        was, wait = child.state, self.drain_timeout
        child.take(ChildStep.STOP)
        if was is ChildState.READY and can_drain:
            child.kill_at = now + (wait or math.inf)
            child.why_killed = f"it has not finished within drain_timeout ({wait:g} s)"
            self._do(a.Tell(DrainWorker(child.n, wait or FOREVER)))
        elif was is not ChildState.STOPPING:
            child.kill_at = now + GRACE
            self._do(a.End(child, a.Termination.TERMINATE))

    def _settle(self, what: str, ok: bool, text: str) -> None:
        self._do(a.Settled(what, ok, text, self.name))
        if what != RELOAD:
            self._is_scaling = False
            return
        self.is_reloading = False
        if self._promoted:
            self.outcomes.add(
                self._promoted, Kind.PROMOTED if ok else Kind.NOT_READY, "" if ok else text
            )
            self._promoted = 0
            self._do(a.Settled(a.CANARY, ok, text, self.name))


def in_words(count: int) -> str:
    return f"{count} worker" if count == 1 else f"{count} workers"
