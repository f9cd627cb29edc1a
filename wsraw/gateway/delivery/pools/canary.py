"""Sans-I/O. Canaries: workers with new handlers that serve a share of their pool's connections.

A canary has a pool of its own beside the pool that it belongs to, with the same name. So all rules
of delivery hold for its workers and its connections alone, and nothing is asked of each message.
Which connections are its own depends on their ids: the same share of old and of new ones. A
connection moves, with its state, at a moment when none of its events is in flight. In `sticky`
pools only new connections are given to a canary.

A canary that has raised gets nothing new until the supervisor has looked at it.

When the canary is over, its workers and its connections join the pool. Then the supervisor drains
the workers that are not wanted any more: the new ones or the old ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from wsraw.gateway.delivery.dispatcher import REASSIGNED, Dispatcher
from wsraw.gateway.delivery.entry import Canary, Entry, Pool, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.link import records as rec

HELD: Final = 0.5
"""Seconds for which a canary that has raised gets nothing new, unless the supervisor answers."""


def change(registry: Registry, wanted: rec.Canary) -> None:
    """Begin a canary, change its workers or its share, or end it."""
    pool = registry.pools.get(wanted.pool)
    if pool is None:
        return
    if not wanted.workers:
        _end(registry, pool)
        return
    if pool.canary is None:
        own = Pool(pool.name, registry.settings)
        own.sticky, own.repeats = pool.sticky, pool.repeats
        pool.canary = Canary(own)
        registry.pools[pool.canary.title] = own
    pool.canary.numbers = set(wanted.workers)
    pool.canary.is_shielded = wanted.shield
    _release(pool.canary)
    if wanted.share != pool.canary.share:
        pool.canary.share = wanted.share
        if not pool.sticky:
            pool.canary.unseen = deque(registry.entries.values())


def is_shielded(registry: Registry, pool: str, number: int) -> bool:
    """Whether the worker with this number may give back events of this pool."""
    found = registry.pools.get(pool)
    canary = found.canary if found is not None else None
    return canary is not None and canary.is_shielded and number in canary.numbers


def give_back(registry: Registry, worker: Worker, seq: int) -> Entry | str:
    """Give an event whose handler has failed in a canary, and the following ones of its connection,
    to the old workers, which then keep the connection. Returns the connection, or why not."""
    if not worker.is_shielded:
        return "only a worker whose welcome has the limit shield may give back events"
    pool = registry.pool_of(worker)
    entry = registry.dispatcher.take_back(worker, seq, pool)
    if entry is None:
        return f"event {seq} is not in flight"
    pool.totals.given_back += 1
    if not entry.gone:
        _move(registry.dispatcher, entry, registry.pool(pool.name))
        if entry.fragment is worker:
            # What was sent of a message stays sent, and no other worker can complete it.
            registry.outgoing.cut_short(entry, registry.flow.now)
    return entry


def retreat(registry: Registry, pool: Pool, entries: Iterable[Entry]) -> None:
    """Give connections of a dead worker of a canary to the old workers: the new handlers may have
    killed it."""
    old = registry.pools.get(pool.name)
    if old is None or old.canary is None or old.canary.own is not pool:
        return
    for entry in sorted(entries, key=_id_of):
        if not entry.gone and entry.pool is pool:
            _move(registry.dispatcher, entry, old)


def _id_of(entry: Entry) -> int:
    return entry.id


def has_raised(canary: Canary, now: float) -> bool:
    """Once a turn: whether the handlers have raised, and the supervisor must look at the canary
    now. Until then its workers get nothing new: if they raise at each event, as few clients as
    possible are affected. If they go on, the canary is held again when they have raised twice as
    often."""
    if 0 < canary.held_until <= now:
        _release(canary)
    if canary.raised == canary.seen_raised:
        return False
    canary.seen_raised = canary.raised
    if canary.raised >= canary.hold_at:
        canary.hold_at = 2 * canary.raised
        canary.held_until = now + HELD
        for worker in canary.own.workers:
            worker.window.close()
    return True


def _release(canary: Canary) -> None:
    """Give events to the canary's workers again."""
    if not canary.held_until:
        return
    canary.held_until = 0.0
    for worker in canary.own.workers:
        if worker not in canary.own.isolated and not worker.hung:
            worker.window.reopen()


def advance(dispatcher: Dispatcher, pool: Pool, canary: Canary) -> None:
    """Once a turn: let some more connections move. Those with events in flight are tried again
    later."""
    unseen = canary.unseen
    pool.is_behind |= len(unseen) > REASSIGNED
    for _ in range(min(len(unseen), REASSIGNED)):
        entry = unseen.popleft()
        if entry.gone or entry.pool is not pool or entry.inherited or not canary.takes(entry.id):
            continue
        if entry.in_flight or entry.fragment is not None:
            unseen.append(entry)
        elif entry.queue is not pool.suspects:
            # The new handlers are not to blame for an event that has killed a worker.
            _move(dispatcher, entry, canary.own)


def _move(dispatcher: Dispatcher, entry: Entry, pool: Pool) -> None:
    """Give a connection with nothing in flight to another pool."""
    dispatcher.detach(entry)
    entry.leave_queue()
    entry.pool.connections -= 1
    entry.pool.totals.parked -= len(entry.parked)
    entry.pool = pool
    pool.connections += 1
    pool.totals.parked += len(entry.parked)
    if entry.parked:
        dispatcher.queue(entry)
    elif entry.heard:
        pool.orphaned.append(entry)
        pool.reassigning = True


def _end(registry: Registry, pool: Pool) -> None:
    """Let the workers and the connections of a canary join its pool."""
    canary, pool.canary = pool.canary, None
    if canary is None:
        return
    own = canary.own
    if canary.held_until:
        # These workers are about to be told to leave.
        for worker in list(own.workers):
            registry.dispatcher.withdraw(own, worker)
    del registry.pools[canary.title]
    pool.sessions += own.sessions
    pool.connections += own.connections
    pool.workers += own.workers
    pool.isolated += own.isolated
    pool.expected_workers = max(pool.expected_workers, len(pool.workers))
    pool.killed_at = max(pool.killed_at, own.killed_at)
    pool.orphaned += own.orphaned
    pool.reassigning |= own.reassigning
    pool.totals.add(own.totals)
    waiting = [
        entry
        for queue in (own.suspects, own.waiting, own.unheard, own.unheard_left)
        for entry in queue
    ]
    for entry in registry.entries.values():
        if entry.pool is own:
            entry.pool = pool
    for entry in waiting:
        entry.leave_queue()
        registry.dispatcher.queue(entry)
