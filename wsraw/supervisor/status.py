"""Sans-I/O. The status of a run: a dict with stable keys, and a table for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from wsraw.config.units import human_size, human_time
from wsraw.link.records import DEFAULT_POOL
from wsraw.runtime.printable import aligned
from wsraw.supervisor.control.handler_times import with_summary
from wsraw.supervisor.decisions.child import Child, ChildState
from wsraw.supervisor.decisions.policy import Policy
from wsraw.supervisor.decisions.pool import Pool, in_words
from wsraw.supervisor.decisions.selection import NO_WORKERS

OF_WORKERS: Final = (
    "connections",
    "in_flight",
    "in_flight_bytes",
    "oldest",
    "window",
    "acked",
    "round_trip",
    "service_p50",
    "service_p99",
)
"""Fields of a worker that are from the gateway's report; null when the gateway does not answer."""

OF_STANDALONE: Final = ("instance", "language", "pool", "address", "key", "state")
"""Fields of a worker that the supervisor did not start."""

OF_POOL: Final = (
    "connections",
    "waiting",
    "ready",
    "parked",
    "longest_parked",
    "in_flight",
    "longest_in_flight",
    "acked",
    "redelivered",
    "given_back",
    "dead_letters",
)
"""Fields of a pool that are from the gateway's report; `handlers` is a further one."""

OF_GATEWAY: Final = (
    "epoch",
    "sockets",
    "max_connections",
    "connections",
    "accepted",
    "unannounced",
    "totals",
    "parked",
    "paused",
    "paused_longest",
    "unwritten",
    "bytes",
    "memory_limit",
    "crowded",
    "full",
    "limits",
    "unknown_ids",
    "dropped",
    "tls",
    "certificates",
    "loop",
    "turns",
    "cluster",
    "pumps",
)


class Processes(Protocol):
    """What the status needs to know about the children's processes."""

    def pid(self, child: Child) -> int | None: ...

    def memory(self, child: Child) -> int | None: ...


def of_run(
    policy: Policy,
    processes: Processes,
    report: dict[str, Any] | None,
    dead_letters: int,
    now: float,
) -> dict[str, Any]:
    """The status as plain values; times in seconds, sizes in bytes. `report` is the gateway's, None
    if it does not answer. `dead_letters` counts those in the run folder."""
    data = _parts(policy, processes, report, dead_letters, now)
    return {"problems": problems(data), **data}


def problems(data: dict[str, Any], *, with_loops: bool = True) -> list[str]:
    """Why the run does not serve all its clients, in words; empty if it is healthy. `with_loops`:
    crash loops count even while other workers of the pool serve."""
    gateway = data["gateway"]
    found = []
    if data["phase"] != "running":
        found.append(f"the run is {data['phase']}")
    if gateway["state"] != "ready":
        found.append(f"the gateway is {gateway['state']}")
    elif not gateway["answers"]:
        found.append("the gateway does not answer")
    if data["crash_loop"] and with_loops:
        looping = [pool["name"] for pool in data["pools"] if pool["crash_loop"]]
        whose = [f"the pool {name}{_last_error(data, name)}" for name in looping]
        found.append(f"crash loop of {' and '.join(whose) or 'the gateway'}")
    ready = {who["pool"] for who in (*data["workers"], *data["by_hand"]) if who["state"] == "ready"}
    for pool in data["pools"]:
        if pool["name"] not in ready:
            found.append(f"the pool {pool['name']} has no ready worker")
    return found


def _last_error(data: dict[str, Any], pool: str) -> str:
    """The exception, in brackets, that last ended a process of the pool, if it is known."""
    died = [who for who in data["workers"] if who["pool"] == pool and who["last_error"]]
    return f" ({min(died, key=lambda who: who['last_death'])['last_error']})" if died else ""


def _parts(
    policy: Policy,
    processes: Processes,
    report: dict[str, Any] | None,
    dead_letters: int,
    now: float,
) -> dict[str, Any]:
    known = report or {}
    by_number = {each["n"]: each for each in known.get("workers", ()) if each.get("n")}
    pools = {each["name"]: each for each in known.get("pools", ())}
    return {
        "phase": policy.phase.value,
        "workers_wanted": len(policy.workers),
        "reloading": any(pool.is_reloading for pool in policy.pools.values()),
        "upgrading": policy.upgrades.is_under_way,
        "crash_loop": policy.is_looping,
        "pools": [
            {
                "name": name,
                "workers_wanted": len(pool.workers),
                "reloading": pool.is_reloading,
                "version": pool.versions.present,
                "canary": _canary(pool, pools.get(f"{name}/canary", {}), now),
                "canaries": pool.outcomes.by_name(),
                "last_canary": pool.outcomes.last,
                "crash_loop": pool.restarts.is_looping,
                "restarts": dict(pool.restarts.counts),
                **{key: pools.get(name, {}).get(key) for key in OF_POOL},
                "handlers": _handlers(pools.get(name, {}).get("handlers")),
            }
            for name, pool in policy.pools.items()
        ],
        "gateway": {
            **_of_child(policy.gateway, processes, now),
            "crash_loop": policy.gateway_restarts.is_looping,
            "restarts_by": dict(policy.gateway_restarts.counts),
            "answers": report is not None,
            **{key: known.get(key) for key in OF_GATEWAY},
            "dead_letters": dead_letters,
        },
        "workers": [
            _of_worker(policy, child, processes, by_number.get(child.n, {}), now)
            for child in policy.all_children()
        ],
        "by_hand": [
            {key: each.get(key) for key in (*OF_STANDALONE, *OF_WORKERS)}
            for each in known.get("workers", ())
            if not each.get("n")
        ],
    }


def _canary(pool: Pool, known: dict[str, Any], now: float) -> dict[str, Any] | None:
    """The canary of a pool, with the figures that a pool has."""
    if pool.canary is None:
        return None
    return {
        **pool.canary.facts(now),
        "name": f"{pool.name}/canary",
        **{key: known.get(key) for key in (*OF_POOL, "closed")},
        "handlers": _handlers(known.get("handlers")),
    }


def _handlers(known: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if known is None else {name: with_summary(known[name]) for name in known}


def _of_child(child: Child, processes: Processes, now: float) -> dict[str, Any]:
    return {
        "n": child.n,
        "state": child.state.value,
        "pid": processes.pid(child),
        "age": now - child.spawned_at if child.alive else None,
        "starts_in": max(0.0, child.spawn_at - now) if child.state is ChildState.DEAD else None,
        "restarts": child.restarts,
        "last_reason": child.last_death.reason,
        "last_error": child.last_death.error,
        "last_death": now - child.last_death.at if child.last_death.reason else None,
        "rss": processes.memory(child),
    }


def _of_worker(
    policy: Policy, child: Child, processes: Processes, known: dict[str, Any], now: float
) -> dict[str, Any]:
    told = {
        **_of_child(child, processes, now),
        "pool": child.pool,
        "runs": child.program.label if child.program is not None else "",
        **{key: known.get(key) for key in OF_WORKERS},
    }
    if child in policy.pools[child.pool].leaving:
        told["state"] = "draining"
    elif known.get("state") == "hung":
        told["state"] = "hung"
    return told


# --- for people ---


def announcement(policy: Policy, urls: Sequence[str]) -> str:
    """The addresses where clients are served, and the workers."""
    count, pools = len(policy.workers), policy.pools
    is_one = list(pools) == [DEFAULT_POOL]
    runs = ", ".join(
        ("" if is_one else f"{name}: ")
        + (" and ".join(program.label for program in pool.programs) or NO_WORKERS)
        for name, pool in pools.items()
    )
    who = f"{in_words(count)}, {runs}" if count else NO_WORKERS
    return f"listening on {' and '.join(urls)} ({who})"


def summary(policy: Policy) -> str:
    """The state of the run in one line, without the gateway's part."""
    ready = sum(child.state is ChildState.READY for child in policy.workers)
    parts = [f"{ready} of {len(policy.workers)} workers are ready"]
    if policy.gateway.state is not ChildState.READY and policy.phase.value == "running":
        parts.append(f"the gateway is {policy.gateway.state.value}")
    if policy.is_looping:
        parts.append("crash loop")
    if policy.phase.value != "running":
        parts.append(f"the run is {policy.phase.value}")
    return ", ".join(parts)


def table(data: dict[str, Any]) -> str:
    """The status as text for a terminal."""
    gateway = data["gateway"]
    lines = [
        f"run folder {data['run_dir']}, pid {data['pid']}, up {human_time(data['age'])}",
        f"listening on {' and '.join(data['listen']) or 'nothing yet'}",
    ]
    if data["problems"]:
        lines.append(f"DEGRADED: {'; '.join(data['problems'])}")
    if data["crash_loop"]:
        lines.append(
            "crash loop: processes die right after their start; the log says why, and "
            "`wsraw reload` retries at once"
        )
    if data["reloading"]:
        lines.append("reloading")
    if data["upgrading"]:
        lines.append("upgrading the gateway")
    for pool in data["pools"]:
        if pool.get("canary"):
            canary = pool["canary"]
            what = f"version {canary['version']} is {canary['stage']}"
            share = f"{100 * canary['share']:g} % of the connections"
            left = f", {human_time(canary['left'])} left" if canary["left"] is not None else ""
            lines.append(f"canary in the pool {pool['name']}: {what} with {share}{left}")
        elif pool.get("last_canary") and pool["last_canary"]["why"]:
            last = pool["last_canary"]
            what = f"version {last['version']} was rolled back: {last['why']}"
            lines.append(f"last canary in the pool {pool['name']}: {what}")
    for each in data.get("refused", ()):
        lines.append(f"last reload, {human_time(each['ago'])} ago: {each['why']}")
    lines += ["", _gateway(gateway)]
    if gateway["answers"]:
        lines += _connections(gateway)
    else:
        lines.append("  the gateway does not answer; its figures are missing")
    if gateway["cluster"]:
        lines.append(_cluster(gateway["cluster"]))
    lines.append(f"  dead letters {gateway['dead_letters']}")
    if len(data["pools"]) > 1:
        lines += ["", *(_pool(pool) for pool in data["pools"])]
    with_canaries = [
        each for pool in data["pools"] for each in (pool, pool.get("canary")) if each is not None
    ]
    if any(each["handlers"] for each in with_canaries):
        lines += ["", *_handler_table(with_canaries)]
    lines += ["", *_workers(data)]
    for who in (gateway, *data["workers"]):
        if who["last_reason"]:
            name = "gateway" if who is gateway else f"worker {who['n']}"
            ago = human_time(who.get("last_death"))
            why = f": {who['last_error']}" if who["last_error"] else ""
            lines.append(f"{name}: the last one {who['last_reason']}{why} ({ago} ago)")
    return "\n".join(lines)


def _pool(pool: dict[str, Any]) -> str:
    return (
        f"pool {pool['name']}: workers ready {_count(pool['ready'])}, "
        f"wanted {pool['workers_wanted']}; connections {_count(pool['connections'])}, "
        f"waiting {_count(pool['waiting'])}"
    )


def _handler_table(pools: list[dict[str, Any]]) -> list[str]:
    rows = [["handler", "calls", "mean", "p99", "exceptions", "pool"]]
    for pool in pools:
        for name, each in (pool["handlers"] or {}).items():
            times = human_time(each["mean"]), human_time(each["p99"])
            counts = str(each["calls"]), str(each["exceptions"])
            rows.append([name, counts[0], *times, counts[1], pool["name"]])
    return aligned(rows if len(pools) > 1 else [row[:-1] for row in rows])


def _gateway(gateway: dict[str, Any]) -> str:
    return (
        f"gateway: {gateway['state']}, pid {gateway['pid'] or '-'}, "
        f"up {human_time(gateway['age'])}, restarts {gateway['restarts']}, "
        f"memory {human_size(gateway['rss'])}"
    )


def _cluster(cluster: dict[str, Any]) -> str:
    counts = cluster["counts"]
    lost = ", ".join(
        f"{name.replace('_', ' ')} {counts[name]}"
        for name in ("not_sent", "too_large", "missed", "undelivered")
        if counts.get(name)
    )
    server = f" at {cluster['server']}" if cluster["server"] else ""
    why = f" ({cluster['why']})" if cluster["why"] else ""
    return (
        f"  cluster: node {cluster['node']}, NATS {cluster['state']}{server}{why}, "
        f"other nodes {len(cluster['nodes'])}, sent {counts.get('sent', 0)}, "
        f"received {counts.get('received', 0)}{f'; {lost}' if lost else ''}"
    )


def _connections(gateway: dict[str, Any]) -> list[str]:
    kinds = gateway["connections"] or {}
    of_kinds = ", ".join(f"{value} {key}" for key, value in kinds.items())
    limits = ", ".join(f"{name} {count}" for name, count in (gateway["limits"] or {}).items())
    return [
        f"  connections: {of_kinds}; {gateway['sockets']} sockets of {gateway['max_connections']}",
        f"  parked events {gateway['parked']}, paused {gateway['paused']}, "
        f"held {human_size(gateway['bytes'])} of {human_size(gateway['memory_limit'])}, "
        f"unknown ids {gateway['unknown_ids']}",
        *([f"  limits reached: {limits}"] if limits else []),
        *(
            f"  TLS of {pump['connections']} connections: process {pump['pid']}, a gateway until "
            f"{human_time(pump['age'])} ago"
            for pump in gateway["pumps"] or ()
        ),
    ]


def _workers(data: dict[str, Any]) -> list[str]:
    workers = [*data["workers"], *data["by_hand"]]
    headings = list(COLUMNS)
    if all(who["pool"] == DEFAULT_POOL for who in workers):
        headings.remove("pool")
    return aligned([headings, *([COLUMNS[name](who) for name in headings] for who in workers)])


def _name(who: dict[str, Any]) -> str:
    if "n" in who:
        return str(who["n"] or "-")
    if not who["address"]:
        return "by hand"
    return f"{who['key']} at {who['address']}" if who["key"] else f"at {who['address']}"


def _state(who: dict[str, Any]) -> str:
    starts_in = who.get("starts_in")
    return str(who["state"]) + (f", starts in {starts_in:.0f} s" if starts_in is not None else "")


COLUMNS: Final[dict[str, Callable[[dict[str, Any]], str]]] = {
    "worker": _name,
    "state": _state,
    "pid": lambda who: _count(who.get("pid")),
    "up": lambda who: human_time(who.get("age")),
    "restarts": lambda who: _count(who.get("restarts")),
    "in flight": lambda who: _count(who["in_flight"]),
    "oldest": lambda who: human_time(who["oldest"]),
    "p50": lambda who: human_time(who["service_p50"]),
    "p99": lambda who: human_time(who["service_p99"]),
    "window": lambda who: _count(who["window"]),
    "memory": lambda who: human_size(who.get("rss")),
    "pool": lambda who: who["pool"] or "-",
    "runs": lambda who: who.get("runs") or who.get("language") or "-",
}
"""Columns of the table of workers. Workers that the supervisor did not start lack some fields."""


def _count(value: int | None) -> str:
    return "-" if value is None else str(value)
