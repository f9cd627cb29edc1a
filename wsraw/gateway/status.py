"""Sans-I/O. How a gateway is: what `wsraw status` shows."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wsraw.gateway.delivery.entry import Worker
from wsraw.gateway.sessions.router import Router
from wsraw.link.ends import LinkState


def report(router: Router, sockets: int, now: float, most: int = 0) -> dict[str, Any]:
    """Plain values; times in seconds, sizes in bytes. `sockets` is how many are open, `most` how
    many may be; 0: as many as like."""
    kinds = Counter(entry.con.kind or "unknown" for entry in router.entries.values())
    opened = sum(entry.con.opened for entry in router.entries.values())
    return {
        "epoch": router.epoch,
        "sockets": sockets,
        "max_connections": most,
        "connections": {
            "websocket": kinds["websocket"],
            "raw": kinds["raw"],
            "opened": opened,
            "total": len(router.entries),
        },
        "parked": sum(len(entry.parked) for entry in router.entries.values()),
        "paused": len(router.flow.paused),
        "bytes": router.flow.accounted,
        "memory_limit": router.flow.memory_limit,
        "crowded": router.flow.crowded,
        "unknown_ids": router.unknown_ids,
        "limits": dict(router.limits.counts),
        "dropped": router.outgoing.dropped,
        "pools": [
            {
                "name": pool.name,
                "connections": pool.connections,
                "waiting": len(pool.waiting) + len(pool.newcomers) + len(pool.departed),
                "ready": len(pool.workers),
            }
            for pool in router.pools.values()
        ],
        "workers": [
            _worker(worker, now)
            for worker in router.workers.values()
            if worker.state is not LinkState.NEW
        ],
    }


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    samples = sorted(worker.samples)
    return {
        "n": worker.worker,
        "instance": worker.instance,
        "language": worker.language,
        "pool": worker.pool,
        "state": "hung" if worker.condemned else worker.state.value,
        "session": worker.session,
        "address": worker.guest.address if worker.guest is not None else "",
        "key": worker.guest.key if worker.guest is not None else "",
        "connections": len(worker.connections),
        "in_flight": len(worker.in_flight),
        "in_flight_bytes": worker.in_flight_bytes,
        "oldest": worker.oldest_age(now),
        "window": worker.window,
        "acked": worker.acked_events,
        "batches_dropped": worker.dropped,
        "service_p50": samples[len(samples) // 2] if samples else 0.0,
        "service_p99": samples[len(samples) * 99 // 100] if samples else 0.0,
    }
