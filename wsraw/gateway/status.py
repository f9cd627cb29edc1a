"""Sans-I/O. The state of a gateway, as `wsraw status` and the metrics show it.

Everything is counted as it happens: a report takes as long with 100,000 connections as with one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from wsraw.gateway.delivery.entry import Entry, Pool, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.gateway.totals import ConnectionTotals, HandlerTotals
from wsraw.link.states import NEW

if TYPE_CHECKING:
    from wsraw.runtime.loop import Turns


def report(
    registry: Registry,
    sessions: Sessions,
    sockets: int,
    now: float,
    most: int = 0,
    samples: bool = True,
) -> dict[str, Any]:
    """Plain values: times in seconds, sizes in bytes. `sockets` is the number of open connections,
    `most` the maximum, 0 if there is none. `samples`: include percentiles, which take some time for
    each worker."""
    flow = registry.flow
    paused = next(iter(flow.paused), None)
    workers = [
        each
        for each in sessions.workers.values()
        if each.session.state is not NEW and not each.is_agent
    ]
    by_pool: dict[Pool, list[Worker]] = {pool: [] for pool in registry.pools.values()}
    for worker in workers:
        by_pool.setdefault(registry.pool_of(worker), []).append(worker)
    return {
        "epoch": registry.ids.epoch,
        "sockets": sockets,
        "max_connections": most,
        "connections": _connections(registry.totals.values(), len(registry.entries)),
        "totals": [_totals(each) for each in registry.totals.values()],
        "parked": sum(pool.totals.parked for pool in registry.pools.values()),
        "paused": len(flow.paused),
        "paused_longest": now - paused.paused_since if paused is not None else 0.0,
        "unwritten": len(flow.unwritten),
        "unannounced": len(flow.without_entry),
        "bytes": flow.accounted,
        "memory_limit": flow.memory_limit,
        "crowded": flow.crowded,
        "full": flow.full,
        "unknown_ids": registry.unknown_ids,
        "limits": dict(registry.counters.counts),
        "dropped": registry.outgoing.dropped,
        "pools": [_pool(title, pool, by_pool[pool], now) for title, pool in registry.pools.items()],
        "workers": [_worker(worker, now, samples) for worker in workers],
    }


def _connections(totals: Iterable[ConnectionTotals], known: int) -> dict[str, int]:
    """How many connections are open, by kind. `known`: open ones, and ended ones whose on_close is
    not handled yet."""
    counts = {"websocket": 0, "raw": 0, "opened": 0}
    for each in totals:
        if each.kind in counts:
            counts[each.kind] += each.open
        if each.opened:
            counts["opened"] += each.open
    return {**counts, "total": known}


def _totals(totals: ConnectionTotals) -> dict[str, Any]:
    totals.sum_up()
    return {
        "kind": totals.kind,
        "pool": totals.pool,
        "listener": totals.listener,
        "opened": totals.opened,
        "open": totals.open,
        "total": totals.total,
        "closed": dict(totals.closed),
        "received": totals.received,
        "received_bytes": totals.received_bytes,
        "sent": int(totals.sent),
        "sent_bytes": totals.sent_bytes,
        "responses": dict(totals.responses),
    }


def _pool(title: str, pool: Pool, workers: list[Worker], now: float) -> dict[str, Any]:
    """A pool, or a canary by its title."""
    windows = [each.window for each in workers]
    oldest = [next(iter(each.in_flight.values())) for each in windows if each.in_flight]
    return {
        "name": title,
        "connections": pool.connections,
        "waiting": len(pool.waiting) + len(pool.unheard) + len(pool.unheard_left),
        "ready": len(pool.workers),
        "parked": pool.totals.parked,
        "longest_parked": _longest_parked(pool, [flight.owner for flight in oldest], now),
        "in_flight": sum(len(each.in_flight) for each in windows),
        "longest_in_flight": now - min((flight.sent_at for flight in oldest), default=now),
        "acked": pool.totals.acked + sum(each.acked_events for each in windows),
        "redelivered": pool.totals.redelivered,
        "given_back": pool.totals.given_back,
        "dead_letters": pool.totals.dead_letters,
        "closed": dict(pool.totals.closed),
        "handlers": {name: _handler(each) for name, each in pool.totals.handlers.items()},
    }


def _handler(totals: HandlerTotals) -> dict[str, Any]:
    return {
        "calls": totals.calls,
        "seconds": totals.seconds,
        "exceptions": totals.exceptions,
        "slower": list(totals.slower),
    }


def _longest_parked(pool: Pool, served: list[Entry], now: float) -> float:
    """How long the oldest event has waited, among the connections whose turn is next, and among
    those that have been `served` for longest."""
    queues = [pool.waiting, pool.unheard, pool.unheard_left, pool.suspects]
    queues += [worker.bound for worker in pool.workers]
    firsts = served + [next(iter(queue)) for queue in queues if queue]
    return now - min((entry.parked[0][2] for entry in firsts if entry.parked), default=now)


def _worker(worker: Worker, now: float, samples: bool) -> dict[str, Any]:
    window = worker.window
    return {
        "n": worker.number,
        "instance": worker.session.instance,
        "language": worker.session.language,
        "pool": worker.session.pool,
        "state": "hung" if worker.hung else worker.session.state.value,
        "address": worker.remote.address if worker.remote is not None else "",
        "key": worker.remote.key if worker.remote is not None else "",
        "connections": len(worker.connections),
        "in_flight": len(window.in_flight),
        "in_flight_bytes": window.bytes,
        "oldest": window.oldest_age(now),
        "window": window.limit,
        "acked": window.acked_events,
        "round_trip": window.round_trips.last,
        **(_percentiles(sorted(window.samples)) if samples else {}),
    }


def _percentiles(samples: list[float]) -> dict[str, float]:
    return {
        "service_p50": samples[len(samples) // 2] if samples else 0.0,
        "service_p99": samples[len(samples) * 99 // 100] if samples else 0.0,
    }


def of_loop(turns: Turns, lag: float) -> dict[str, Any]:
    """How busy the loop is. `lag`: the seconds by which it was late."""
    return {
        "turns": turns.count,
        "seconds": turns.seconds,
        "long": list(turns.long),
        "lag": lag,
    }
