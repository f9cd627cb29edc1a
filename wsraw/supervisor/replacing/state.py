"""Sans-I/O. The decisions of a run as a record, and back. The run does not notice: the thawed
policy decides as the frozen one would have."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from wsraw.supervisor.decisions.child import Child, Death
from wsraw.supervisor.decisions.policy import Policy
from wsraw.supervisor.decisions.pool import Pool
from wsraw.supervisor.decisions.restarts import Restarts
from wsraw.supervisor.decisions.verdict import Kind
from wsraw.supervisor.decisions.versions import Versions
from wsraw.supervisor.replacing.records import (
    ChildRecord,
    NotUnderstoodError,
    PolicyRecord,
    PoolRecord,
    RestartsRecord,
    VersionsRecord,
)

TIMES: Final = ("spawn_at", "spawned_at", "ready_at", "hello_by", "kill_at", "replace_at")
"""Fields of a child that are times."""


class Freezing:
    """One record in the making. `children` are all children that it names, in order."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.children: list[Child] = []

    def number(self, child: Child | None) -> int:
        """The number of a child in the list; -1: none."""
        if child is None:
            return -1
        if child not in self.children:
            self.children.append(child)
        return self.children.index(child)

    def _numbers(self, children: Iterable[Child]) -> list[int]:
        return [self.number(child) for child in children]

    def policy(self, policy: Policy) -> PolicyRecord:
        """The record of the policy; to be called after all other children have their numbers."""
        record = PolicyRecord(
            children=[],
            gateway=self.number(policy.gateway),
            leaving=self._numbers(policy.upgrades.leaving),
            pools=[self._pool(pool) for pool in policy.pools.values()],
            unwanted=sorted(policy._unwanted),
            restarts=self._restarts(policy.gateway_restarts),
            has_been_up=policy.has_been_up,
            endpoint=policy.endpoint,
            listened=policy._listened,
            spawned=policy._spawned,
            version=policy._version,
        )
        record.children = [self._child(child) for child in self.children]
        return record

    def _child(self, child: Child) -> ChildRecord:
        values = {name: getattr(child, name) for name in Child.__struct_fields__}
        for name in TIMES:
            values[name] = _since(values[name], self._now)
        death = child.last_death
        values["last_death"] = death.at - self._now, death.reason, death.error
        return ChildRecord(**values)

    def _restarts(self, restarts: Restarts) -> RestartsRecord:
        return RestartsRecord(
            is_looping=restarts.is_looping,
            counts=restarts.counts,
            deaths=[at - self._now for at in restarts._deaths],
            recent=[(self.number(c), n, at - self._now) for c, n, at in restarts._recent_deaths],
        )

    def _pool(self, pool: Pool) -> PoolRecord:
        versions = pool.versions
        return PoolRecord(
            name=pool.name,
            programs=pool.programs,
            workers=self._numbers(pool.workers),
            leaving=self._numbers(pool.leaving),
            successor=self.number(pool.successor),
            replaced=self.number(pool.replaced),
            proved=list(pool.proved),
            restarts=self._restarts(pool.restarts),
            versions=VersionsRecord(
                versions.wanted, versions._served, versions._before, versions._is_going_back
            ),
            is_reloading=pool.is_reloading,
            is_catching_up=pool._is_catching_up,
            refused_at=_since(pool._refused_at, self._now),
            is_scaling=pool._is_scaling,
            outcomes=pool.outcomes.by_name(),
            last_outcome=pool.outcomes.last,
            promoted=pool._promoted,
        )


class Thawing:
    """Restores a record into a new policy. Raises NotUnderstoodError."""

    def __init__(self, record: PolicyRecord, policy: Policy, now: float) -> None:
        self._now = now
        self.children = [self._child(each) for each in record.children]
        try:
            self._fill(record, policy)
        except (LookupError, TypeError) as error:
            text = f"the state of the old supervisor contradicts itself: {error!r}"
            raise NotUnderstoodError(text) from error

    def _fill(self, record: PolicyRecord, policy: Policy) -> None:
        policy.gateway = self.children[record.gateway]
        policy.upgrades.leaving = [self.children[number] for number in record.leaving]
        policy.pools = {each.name: self._pool(each, policy) for each in record.pools}
        policy._unwanted = set(record.unwanted)
        self._restarts(record.restarts, policy.gateway_restarts)
        policy.has_been_up = record.has_been_up
        policy.endpoint = record.endpoint
        policy._listened = record.listened
        policy._spawned = record.spawned
        policy._version = record.version
        policy.heard(self._now)

    def child(self, number: int) -> Child | None:
        """The child with this number."""
        return self.children[number] if number >= 0 else None

    def _child(self, record: ChildRecord) -> Child:
        values: dict[str, Any] = {name: getattr(record, name) for name in Child.__struct_fields__}
        for name in TIMES:
            values[name] = _at(values[name], self._now)
        died, why, error = record.last_death
        values["last_death"] = Death(died + self._now, why, error)
        return Child(**values)

    def _restarts(self, record: RestartsRecord, restarts: Restarts) -> None:
        restarts.is_looping = record.is_looping
        restarts.counts.update(record.counts)
        restarts._deaths.extend(at + self._now for at in record.deaths)
        restarts._recent_deaths = deque(
            ((self.children[c], n, at + self._now) for c, n, at in record.recent),
            maxlen=restarts._recent_deaths.maxlen,
        )

    def _pool(self, record: PoolRecord, policy: Policy) -> Pool:
        pool = policy._pool(record.name, ())
        pool.programs = record.programs
        pool.workers = [self.children[number] for number in record.workers]
        pool.leaving = [self.children[number] for number in record.leaving]
        pool.successor, pool.replaced = self.child(record.successor), self.child(record.replaced)
        pool.proved = set(record.proved)
        self._restarts(record.restarts, pool.restarts)
        versions, told = Versions(), record.versions
        versions.wanted, versions._served = told.wanted, told.served
        versions._before, versions._is_going_back = told.before, told.is_going_back
        pool.versions = versions
        pool.is_reloading = record.is_reloading
        pool._is_catching_up = record.is_catching_up
        pool._refused_at = _at(record.refused_at, self._now)
        pool._is_scaling = record.is_scaling
        known = {kind.value: kind for kind in Kind}
        pool.outcomes.counts.update({known[name]: n for name, n in record.outcomes.items() if n})
        pool.outcomes.last = record.last_outcome
        pool._promoted = record.promoted
        return pool


def _since(when: float | None, now: float) -> float | None:
    return when if when is None or math.isinf(when) else when - now


def _at(when: float | None, now: float) -> float | None:
    return when if when is None or math.isinf(when) else when + now
