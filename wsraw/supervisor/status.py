"""Sans-I/O. The status of a run: a dict with stable keys, and a table for people."""

from __future__ import annotations

from typing import Any, Final, Protocol

from wsraw.config.units import human_size
from wsraw.link.records import DEFAULT_POOL
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.policy import Policy

OF_WORKERS: Final = (
    "connections",
    "in_flight",
    "in_flight_bytes",
    "oldest",
    "window",
    "acked",
    "service_p50",
    "service_p99",
)
"""Fields of a worker in the gateway's report; null when the gateway does not answer."""

OF_POOL: Final = ("connections", "waiting", "ready")
"""Fields of a pool in the gateway's report."""

OF_GATEWAY: Final = (
    "epoch",
    "sockets",
    "max_connections",
    "connections",
    "parked",
    "paused",
    "bytes",
    "memory_limit",
    "crowded",
    "limits",
    "unknown_ids",
    "dropped",
    "tls",
    "turns",
)


class Processes(Protocol):
    """What the status needs of the children's processes."""

    def pid(self, child: Child) -> int | None:
        """Process id, or None."""

    def memory(self, child: Child) -> int | None:
        """Resident bytes, or None if unknown."""


def of_run(
    policy: Policy,
    processes: Processes,
    report: dict[str, Any] | None,
    dead_letters: int,
    now: float,
) -> dict[str, Any]:
    """The status as plain values; times in seconds, sizes in bytes. `report` is the gateway's, None
    if it does not answer. `dead_letters` counts those in the run folder."""
    known = report or {}
    by_number = {each["n"]: each for each in known.get("workers", ()) if each.get("n")}
    pools = {each["name"]: each for each in known.get("pools", ())}
    return {
        "phase": policy.phase.value,
        "workers_wanted": len(policy.workers),
        "reloading": any(pool.is_reloading for pool in policy.pools.values()),
        "crash_loop": policy.is_looping,
        "pools": [
            {
                "name": name,
                "workers_wanted": len(pool.workers),
                "reloading": pool.is_reloading,
                "crash_loop": pool.restarts.is_looping,
                **{key: pools.get(name, {}).get(key) for key in OF_POOL},
            }
            for name, pool in policy.pools.items()
        ],
        "gateway": {
            **_of_child(policy.gateway, processes, now),
            "answers": report is not None,
            **{key: known.get(key) for key in OF_GATEWAY},
            "dead_letters": dead_letters,
        },
        "workers": [
            _of_worker(policy, child, processes, by_number.get(child.n, {}), now)
            for child in policy.all_children()
        ],
        "by_hand": [
            {
                "instance": each.get("instance"),
                "language": each.get("language"),
                "pool": each.get("pool"),
                "address": each.get("address"),
                "key": each.get("key"),
                "state": each.get("state"),
                **{key: each.get(key) for key in OF_WORKERS},
            }
            for each in known.get("workers", ())
            if not each.get("n")
        ],
    }


def _of_child(child: Child, processes: Processes, now: float) -> dict[str, Any]:
    return {
        "n": child.n,
        "state": child.state.value,
        "pid": processes.pid(child),
        "age": now - child.spawned_at if child.alive else None,
        "starts_in": max(0.0, child.spawn_at - now) if child.state is ChildState.DEAD else None,
        "restarts": child.restarts,
        "last_reason": child.last_reason,
        "rss": processes.memory(child),
    }


def _of_worker(
    policy: Policy, child: Child, processes: Processes, known: dict[str, Any], now: float
) -> dict[str, Any]:
    runs = child.program.label if child.program is not None else ""
    told = {
        **_of_child(child, processes, now),
        "pool": child.pool,
        "runs": runs,
        **{key: known.get(key) for key in OF_WORKERS},
    }
    if child in policy.pools[child.pool].leaving:
        told["state"] = "draining"
    elif known.get("state") == "hung":
        told["state"] = "hung"
    return told


# --- for people ---


def table(data: dict[str, Any]) -> str:
    """The status as text for a terminal."""
    gateway = data["gateway"]
    lines = [
        f"run folder {data['run_dir']}, pid {data['pid']}, up {_time(data['age'])}",
        f"listening on {' and '.join(data['listen']) or 'nothing yet'}",
    ]
    if data["phase"] != "running":
        lines.append(f"the run is {data['phase']}")
    if data["crash_loop"]:
        lines.append(
            f"CRASH LOOP{_looping(data)}: processes die right after their start; the log says why, "
            "and `wsraw reload` retries at once"
        )
    if data["reloading"]:
        lines.append("reloading")
    lines += ["", _gateway(gateway)]
    if gateway["answers"]:
        lines += _connections(gateway)
    else:
        lines.append("  the gateway does not answer; its figures are missing")
    lines.append(f"  dead letters {gateway['dead_letters']}")
    if len(data["pools"]) > 1:
        lines += ["", *map(_pool, data["pools"])]
    lines += ["", *_workers(data)]
    for who in (gateway, *data["workers"]):
        if who["last_reason"]:
            name = "gateway" if who is gateway else f"worker {who['n']}"
            lines.append(f"{name}: the last one {who['last_reason']}")
    return "\n".join(lines)


def _looping(data: dict[str, Any]) -> str:
    names = [pool["name"] for pool in data["pools"] if pool["crash_loop"]]
    return f" in {' and '.join(names)}" if names and len(data["pools"]) > 1 else ""


def _pool(pool: dict[str, Any]) -> str:
    return (
        f"pool {pool['name']}: workers ready {_count(pool['ready'])}, "
        f"wanted {pool['workers_wanted']}; connections {_count(pool['connections'])}, "
        f"waiting {_count(pool['waiting'])}"
    )


def _gateway(gateway: dict[str, Any]) -> str:
    return (
        f"gateway: {gateway['state']}, pid {gateway['pid'] or '-'}, up {_time(gateway['age'])}, "
        f"restarts {gateway['restarts']}, memory {_size(gateway['rss'])}"
    )


def _connections(gateway: dict[str, Any]) -> list[str]:
    kinds = gateway["connections"] or {}
    of_kinds = ", ".join(f"{value} {key}" for key, value in kinds.items())
    limits = ", ".join(f"{name} {count}" for name, count in (gateway["limits"] or {}).items())
    return [
        f"  connections: {of_kinds}; {gateway['sockets']} sockets of {gateway['max_connections']}",
        f"  parked events {gateway['parked']}, paused {gateway['paused']}, "
        f"held {_size(gateway['bytes'])} of {_size(gateway['memory_limit'])}, "
        f"unknown ids {gateway['unknown_ids']}",
        *([f"  limits reached: {limits}"] if limits else []),
    ]


HEADINGS: Final = (
    "worker",
    "state",
    "pid",
    "up",
    "restarts",
    "in flight",
    "oldest",
    "p50",
    "p99",
    "window",
    "memory",
    "pool",
    "runs",
)


def _workers(data: dict[str, Any]) -> list[str]:
    rows: list[tuple[str, ...]] = [HEADINGS]
    for who in data["workers"]:
        state = who["state"]
        if who["starts_in"] is not None:
            state = f"{state}, starts in {who['starts_in']:.0f} s"
        name = str(who["n"]) if who["n"] else "-"
        own = (who["pid"], who["age"], who["restarts"], who["rss"])
        rows.append((*_row(name, state, who, *own), who["pool"], who["runs"]))
    for who in data["by_hand"]:
        row = _row(_who(who), str(who["state"]), who, None, None, None, None)
        rows.append((*row, who["pool"] or "-", who["language"] or "-"))
    if all(row[-2] == DEFAULT_POOL for row in rows[1:]):
        rows = [(*row[:-2], row[-1]) for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _who(who: dict[str, Any]) -> str:
    """Name of a worker that the supervisor did not start."""
    if not who["address"]:
        return "by hand"
    return f"{who['key']} at {who['address']}" if who["key"] else f"at {who['address']}"


def _row(
    name: str,
    state: str,
    who: dict[str, Any],
    pid: int | None,
    age: float | None,
    restarts: int | None,
    memory: int | None,
) -> tuple[str, ...]:
    return (
        name,
        state,
        _count(pid),
        _time(age),
        _count(restarts),
        _count(who["in_flight"]),
        _time(who["oldest"]),
        _time(who["service_p50"]),
        _time(who["service_p99"]),
        _count(who["window"]),
        _size(memory),
    )


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if not seconds:
        return "0"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds * 1000:.2g} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"


def _size(size: int | None) -> str:
    return "-" if size is None else human_size(size)
