"""Sans-I/O. Requests to see connections: many, or one."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.inspection import facts
from wsraw.gateway.inspection.filters import STEP, Filter
from wsraw.gateway.inspection.steps import InspectionResult, Look, Row, Steps, find, id_of

ROWS: Final = 100
"""Connections on a page; each takes less than 2 KiB."""

Key: TypeAlias = Callable[[Entry, Flow], float]

SORTS: Final[dict[str, Key]] = {
    "age": lambda entry, flow: flow.now - entry.since,
    "idle": lambda entry, flow: flow.now - entry.carried_at,
    "output": lambda entry, flow: entry.con.output.waiting,
    "events": lambda entry, flow: entry.event_bytes,
    "sent": lambda entry, flow: entry.taken,
}
"""Sort keys of a list; the largest comes first. A connection that has not sent anything yet comes
last."""


def connections(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """List the connections that match a filter, sorted by `sort`, at most `limit` (0: all). Pages
    are lists of rows; the last one has `rows` and how many were `matched`.

    Raises ValueError for options that cannot be right.
    """
    chosen = Filter(options, registry)
    limit, sort = options.get("limit", 0), options.get("sort", "")
    if not isinstance(limit, int) or limit < 0:
        raise ValueError(f"limit: {limit!r} is not a number of connections")
    if sort and sort not in SORTS:
        raise ValueError(f"sort: {sort!r}: write {', '.join(SORTS)}")
    if sort:
        return _sorted(registry.flow, chosen, limit, SORTS[sort], look)
    return _in_order(registry.flow, chosen, limit, look)


def _in_order(flow: Flow, chosen: Filter, limit: int, look: Look) -> Steps:
    """The matching connections, in the order in which they came."""
    rows: list[Row] = []
    matched = 0
    for cons in chosen.each():
        for con in cons:
            if chosen.matches(con):
                matched += 1
                if not limit or matched <= limit:
                    rows.append(facts.summary(con, flow) | look(con))
        if len(rows) >= ROWS:
            yield rows
            rows = []
        else:
            yield None
    return InspectionResult(True, "", {"rows": rows, "matched": matched})


def _sorted(flow: Flow, chosen: Filter, limit: int, key: Key, look: Look) -> Steps:
    """The first matching connections by a sort key."""
    heap: list[tuple[float, int, Connection]] = []
    matched = 0
    for cons in chosen.each():
        for con in cons:
            if chosen.matches(con):
                matched += 1
                entry = entry_of(con)
                item = (-1.0 if entry is None else key(entry, flow), -con.id, con)
                if limit and len(heap) >= limit:
                    heapq.heappushpop(heap, item)
                else:
                    heapq.heappush(heap, item)
        yield None
    first: list[Connection] = []
    while heap:
        first += [heapq.heappop(heap)[2] for _ in range(min(len(heap), STEP))]
        yield None
    first.reverse()
    rows: list[Row] = []
    for start in range(0, len(first), STEP):
        rows += [facts.summary(con, flow) | look(con) for con in first[start : start + STEP]]
        if len(rows) >= ROWS:
            yield rows
            rows = []
        else:
            yield None
    return InspectionResult(True, "", {"rows": rows, "matched": matched})


def connection(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """All facts about the connection `id`."""
    con_id = id_of(options)
    return _one(registry, con_id, look)


def _one(registry: Registry, con_id: int, look: Look) -> Steps:
    con = yield from find(registry, con_id)
    if isinstance(con, str):
        return InspectionResult(False, con)
    data = facts.whole(con, registry.flow)
    data["tcp"] = look(con)
    return InspectionResult(True, "", data)
