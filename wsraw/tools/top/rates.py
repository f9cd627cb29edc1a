"""Sans-I/O. Rates of a run: differences between two answers to the request `figures`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from wsraw.supervisor.control.handler_times import since, with_summary

Figures: TypeAlias = dict[str, Any]
"""What `wsraw status --json` prints."""

COUNTERS: Final[dict[str, Callable[[Figures], float]]] = {
    "received": lambda gateway: sum(each["received"] for each in gateway["totals"]),
    "received_bytes": lambda gateway: sum(each["received_bytes"] for each in gateway["totals"]),
    "sent": lambda gateway: sum(each["sent"] for each in gateway["totals"]),
    "sent_bytes": lambda gateway: sum(each["sent_bytes"] for each in gateway["totals"]),
    "accepted": lambda gateway: sum(gateway["accepted"].values()),
    "closed": lambda gateway: sum(sum(each["closed"].values()) for each in gateway["totals"]),
    "responses": lambda gateway: sum(sum(each["responses"].values()) for each in gateway["totals"]),
    "failures": lambda gateway: sum(each["responses"].get("5xx", 0) for each in gateway["totals"]),
    "busy": lambda gateway: gateway["loop"]["seconds"],
}
"""Rate → what the gateway has counted since its start. `responses` are responses to HTTP requests,
and `failures` the ones with a status of 500 or more. `busy` is the share of time in which the loop
has worked."""


class Meter:
    """Compares each answer with the last one that had figures of the gateway."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: Figures | None = None

    def measure(self, at: float, figures: Figures) -> Figures:
        """The figures of the time `at` (seconds), with rates per second.

        Added are `seconds` (the time between the two answers), `rates`, `limits_reached` (how often
        each limit was reached in that time), `acked_per_second` of each pool and worker, and
        `handlers`: those of all pools, with the calls of that time, the slowest one first. All
        are None where there is nothing to compare with: at first, while the gateway does not
        answer, and after a gateway or a worker was replaced.
        """
        seconds, before = at - self._at, self._before
        answers = figures["gateway"]["answers"]
        if before is not None and (
            not answers or seconds <= 0 or _identity(before) != _identity(figures)
        ):
            before = None
        if answers:
            self._at, self._before = at, figures
        return _compare(before, figures, seconds)


def _identity(figures: Figures) -> tuple[object, ...]:
    """A value that differs when counters have started again."""
    return figures["pid"], figures["gateway"]["pid"], figures["gateway"]["epoch"]


def _compare(before: Figures | None, figures: Figures, seconds: float) -> Figures:
    old = _acked(before) if before is not None else {}

    def acked_per_second(key: object, each: Figures) -> float | None:
        return _rate(old.get(key), each["acked"], seconds)

    return {
        **figures,
        "seconds": None if before is None else seconds,
        "rates": {
            name: None
            if before is None
            else _rate(count(before["gateway"]), count(figures["gateway"]), seconds)
            for name, count in COUNTERS.items()
        },
        "limits_reached": None if before is None else _limits_reached(before, figures),
        "pools": [
            {**each, "acked_per_second": acked_per_second(each["name"], each)}
            for each in figures["pools"]
        ],
        "handlers": _handlers(before, figures, seconds),
        **{
            kind: [
                {**each, "acked_per_second": acked_per_second(_worker(each), each)}
                for each in figures[kind]
            ]
            for kind in ("workers", "by_hand")
        },
    }


def _handlers(before: Figures | None, figures: Figures, seconds: float) -> list[Figures] | None:
    if before is None:
        return None
    old = {pool["name"]: pool["handlers"] or {} for pool in before["pools"]}
    found = []
    for pool in figures["pools"]:
        for name, now in (pool["handlers"] or {}).items():
            nothing = {**now, "calls": 0, "seconds": 0.0, "exceptions": 0}
            nothing["slower"] = [0] * len(now["slower"])
            new = with_summary(since(old.get(pool["name"], {}).get(name, nothing), now))
            if new["calls"] < 0:
                # The counters of the pool have started again.
                continue
            found.append(
                {
                    "handler": name,
                    "pool": pool["name"],
                    "calls_per_second": new["calls"] / seconds,
                    "exceptions_per_second": new["exceptions"] / seconds,
                    "mean": new["mean"],
                    "p99": new["p99"],
                }
            )
    return sorted(found, key=lambda each: -(each["p99"] or 0.0))


def _limits_reached(before: Figures, figures: Figures) -> dict[str, int]:
    old, new = before["gateway"]["limits"], figures["gateway"]["limits"]
    return {name: new[name] - old.get(name, 0) for name in new if new[name] > old.get(name, 0)}


def _acked(figures: Figures) -> dict[object, Any]:
    """Events handled so far, by pool and by worker."""
    workers = {_worker(each): each["acked"] for each in figures["workers"] + figures["by_hand"]}
    return workers | {each["name"]: each["acked"] for each in figures["pools"]}


def _worker(each: Figures) -> object:
    """The identity of a worker, which its replacement does not have."""
    return (each["n"], each["pid"]) if "n" in each else (each["instance"],)


def _rate(before: float | None, now: float | None, seconds: float) -> float | None:
    """A rate; None if a counter has started again, like that of a worker with a new link."""
    if before is None or now is None or now < before:
        return None
    return (now - before) / seconds
