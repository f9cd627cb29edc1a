"""Sans-I/O. Requests about connections, each a generator that works in small steps.

It yields None after a step, or a page that is full; what it returns is its last page. So a request
about 100,000 connections takes many turns, and no client waits for it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator, Mapping
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeAlias

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.inspection import facts
from wsraw.gateway.inspection.filters import Filter

STEP: Final = 16
"""Connections that are looked at in a step."""

ROWS: Final = 100
"""Connections on a page; each takes less than 2 KiB."""

Row: TypeAlias = dict[str, Any]


class Answer(NamedTuple):
    """The last page of a request, or why it cannot be answered."""

    ok: bool
    text: str = ""
    data: Any = None


Steps: TypeAlias = Generator[list[Row] | None, None, Answer]
"""Pages of rows, and None between two steps."""

Look: TypeAlias = Callable[[Connection], dict[str, Any]]
"""What the kernel knows of a connection."""

Key: TypeAlias = Callable[[Entry, Flow], float]

SORTS: Final[dict[str, Key]] = {
    "age": lambda entry, flow: flow.now - entry.since,
    "idle": lambda entry, flow: flow.now - entry.carried_at,
    "output": lambda entry, flow: entry.con.output.waiting,
    "events": lambda entry, flow: entry.event_bytes,
    "sent": lambda entry, flow: entry.taken,
}
"""What a list can be sorted by, the largest first. A connection that has not said anything yet
comes last."""


def connections(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """List connections: those that fit a filter, sorted by `sort`, `limit` at most (0: all). Pages
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
    """Those that fit, in the order in which they came."""
    rows: list[Row] = []
    matched = 0
    for cons in _each(chosen):
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
    return Answer(True, "", {"rows": rows, "matched": matched})


def _sorted(flow: Flow, chosen: Filter, limit: int, key: Key, look: Look) -> Steps:
    """The first ones by that key."""
    heap: list[tuple[float, int, Connection]] = []
    matched = 0
    for cons in _each(chosen):
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
    return Answer(True, "", {"rows": rows, "matched": matched})


def _each(chosen: Filter) -> Generator[list[Connection]]:
    """All connections that may fit, some at a time; without those that have ended since."""
    entries, others = chosen.candidates()
    every = chain((entry.con for entry in entries if not entry.gone), others)
    while cons := list(islice(every, STEP)):
        yield [con for con in cons if con.entry is None or not con.entry.gone]


def connection(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """All that is known of the connection `id`."""
    con_id = id_of(options)
    return _one(registry, con_id, look)


def _one(registry: Registry, con_id: int, look: Look) -> Steps:
    con = yield from find(registry, con_id)
    if isinstance(con, str):
        return Answer(False, con)
    data = facts.whole(con, registry.flow)
    data["tcp"] = look(con)
    return Answer(True, "", data)


def id_of(options: Mapping[str, Any]) -> int:
    """The option `id`. Raises ValueError."""
    con_id = options.get("id")
    if not isinstance(con_id, int) or isinstance(con_id, bool):
        raise ValueError(f"id: {con_id!r} is not the id of a connection")
    return con_id


def find(registry: Registry, con_id: int) -> Generator[None, None, Connection | str]:
    """The connection with that id, or why there is none."""
    entry = registry.entries.get(con_id)
    if entry is not None:
        return entry.con
    # Those that have not said anything are not looked for by their ids by anybody else.
    silent = list(registry.flow.without_entry)
    for start in range(0, len(silent), 8 * STEP):
        for con in silent[start : start + 8 * STEP]:
            if con.id == con_id and con.entry is None and con.state is not CLOSED:
                return con
        yield None
    if registry.ids.was_given(con_id):
        return f"connection {con_id} has ended"
    return f"there is no connection {con_id}"
