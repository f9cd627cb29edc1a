"""Status figures as a run reports them, for code that computes with them."""

from __future__ import annotations

from typing import Any, Final

from wsraw.link.records import HANDLER_BOUNDS

OF_CHILDREN: Final = {
    "n", "state", "pid", "age", "restarts", "last_reason", "last_error", "last_death", "rss",
}  # fmt: skip
"""The fields of processes that the supervisor knows by itself."""


def totals(**changes: Any) -> dict[str, Any]:
    found = {
        "kind": "websocket", "pool": "default", "listener": "127.0.0.1:8000", "opened": False,
        "open": 4, "total": 5, "closed": {}, "received": 0, "received_bytes": 0, "sent": 0,
        "sent_bytes": 0, "responses": {},
    }  # fmt: skip
    return found | changes


def pool(**changes: Any) -> dict[str, Any]:
    found = {
        "name": "default", "workers_wanted": 2, "reloading": False, "crash_loop": False,
        "restarts": {}, "connections": 4, "waiting": 0, "ready": 2, "parked": 0,
        "longest_parked": 0.0, "in_flight": 0, "longest_in_flight": 0.0, "acked": 0,
        "redelivered": 0, "dead_letters": 0, "handlers": {},
    }  # fmt: skip
    return found | changes


def handler(**changes: Any) -> dict[str, Any]:
    found = {"calls": 0, "seconds": 0.0, "exceptions": 0, "slower": [0] * len(HANDLER_BOUNDS)}
    return found | changes


def worker(n: int = 1, **changes: Any) -> dict[str, Any]:
    found = {
        "n": n, "state": "ready", "pid": 100 + n, "age": 5.0, "starts_in": None, "restarts": 0,
        "last_reason": "", "last_error": "", "last_death": None, "rss": 25_000_000,
        "pool": "default",
        "runs": "chat.py", "connections": 2, "in_flight": 0, "in_flight_bytes": 0, "oldest": 0.0,
        "window": 4,
        "acked": 0, "round_trip": 0.0, "service_p50": None, "service_p99": None,
    }  # fmt: skip
    return found | changes


def by_hand(**changes: Any) -> dict[str, Any]:
    found = {
        "instance": "abc", "language": "js", "pool": "default", "address": "", "key": "",
        "state": "ready", "connections": 0, "in_flight": 0, "in_flight_bytes": 0, "oldest": 0.0,
        "window": 4, "acked": 0, "round_trip": 0.0, "service_p50": None, "service_p99": None,
    }  # fmt: skip
    return found | changes


def gateway(**changes: Any) -> dict[str, Any]:
    found = {
        "n": 1, "state": "ready", "pid": 50, "age": 5.0, "restarts": 0, "last_reason": "",
        "last_error": "",
        "last_death": None, "rss": 31_000_000, "answers": True, "epoch": 1, "sockets": 4,
        "max_connections": 18000,
        "connections": {"websocket": 3, "raw": 1, "opened": 0, "total": 4},
        "accepted": {"127.0.0.1:8000": 0}, "totals": [totals()], "parked": 0, "paused": 0,
        "paused_longest": 0.0, "unwritten": 0, "bytes": 0, "memory_limit": 1 << 30,
        "crowded": False, "full": False, "limits": {},
        "loop": {"turns": 1, "seconds": 0.0, "long": [], "lag": 0.001},
    }  # fmt: skip
    return found | changes


def silent_gateway() -> dict[str, Any]:
    """A gateway that does not answer: only the supervisor's figures."""
    known = OF_CHILDREN
    return {key: value if key in known else None for key, value in gateway().items()} | {
        "answers": False
    }


def silent_pool() -> dict[str, Any]:
    known = {"name", "workers_wanted", "reloading", "crash_loop", "restarts"}
    return {key: value if key in known else None for key, value in pool().items()}


def silent_worker(n: int = 1) -> dict[str, Any]:
    known = {*OF_CHILDREN, "pool", "runs"}
    return {key: value if key in known else None for key, value in worker(n).items()}


def figures(**changes: Any) -> dict[str, Any]:
    found = {
        "run_dir": "/run/app", "pid": 40, "age": 61.0, "listen": ["ws://127.0.0.1:8000"],
        "admin": None, "problems": [], "phase": "running", "workers_wanted": 2,
        "reloading": False, "crash_loop": False, "pools": [pool()], "gateway": gateway(),
        "workers": [worker(1), worker(2)], "by_hand": [],
    }  # fmt: skip
    return found | changes


def silent() -> dict[str, Any]:
    """The figures of a run whose gateway does not answer."""
    return figures(
        problems=["the gateway does not answer"],
        gateway=silent_gateway(),
        pools=[silent_pool()],
        workers=[silent_worker(1), silent_worker(2)],
    )
