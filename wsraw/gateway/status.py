"""Sans-I/O. How a gateway is: what `wsraw status` shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.sessions.sessions import Sessions
from wsraw.link.states import NEW


def report(
    registry: Registry, sessions: Sessions, sockets: int, now: float, most: int = 0
) -> dict[str, Any]:
    """Plain values; times in seconds, sizes in bytes. `sockets` is how many are open, `most` how
    many may be; 0: as many as like."""
    kinds = Counter(entry.con.kind or "unknown" for entry in registry.entries.values())
    opened = sum(entry.con.opened for entry in registry.entries.values())
    return {
        "epoch": registry.ids.epoch,
        "sockets": sockets,
        "max_connections": most,
        "connections": {
            "websocket": kinds["websocket"],
            "raw": kinds["raw"],
            "opened": opened,
            "total": len(registry.entries),
        },
        "parked": sum(len(entry.parked) for entry in registry.entries.values()),
        "paused": len(registry.flow.paused),
        "bytes": registry.flow.accounted,
        "memory_limit": registry.flow.memory_limit,
        "crowded": registry.flow.crowded,
        "unknown_ids": registry.unknown_ids,
        "limits": dict(registry.counters.counts),
        "dropped": registry.outgoing.dropped,
        "pools": [
            {
                "name": pool.name,
                "connections": pool.connections,
                "waiting": len(pool.waiting) + len(pool.unheard) + len(pool.unheard_left),
                "ready": len(pool.workers),
            }
            for pool in registry.pools.values()
        ],
        "workers": [
            _worker(worker, now)
            for worker in sessions.workers.values()
            if worker.session.state is not NEW
        ],
    }


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    samples = sorted(worker.window.samples)
    return {
        "n": worker.number,
        "instance": worker.session.instance,
        "language": worker.session.language,
        "pool": worker.session.pool,
        "state": "hung" if worker.hung else worker.session.state.value,
        "address": worker.remote.address if worker.remote is not None else "",
        "key": worker.remote.key if worker.remote is not None else "",
        "connections": len(worker.connections),
        "in_flight": len(worker.window.in_flight),
        "in_flight_bytes": worker.window.bytes,
        "oldest": worker.window.oldest_age(now),
        "window": worker.window.limit,
        "acked": worker.window.acked_events,
        "service_p50": samples[len(samples) // 2] if samples else 0.0,
        "service_p99": samples[len(samples) * 99 // 100] if samples else 0.0,
    }
