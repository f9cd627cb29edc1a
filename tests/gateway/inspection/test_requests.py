from __future__ import annotations

import random
from typing import Any

import pytest

from tests.gateway.harness import Harness, entry_of
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.inspection.filters import STEP
from wsraw.gateway.inspection.requests import ROWS, SORTS, connection, connections
from wsraw.gateway.inspection.steps import InspectionResult, Steps
from wsraw.link.records import ID_EPOCH_SHIFT, encode


def no_kernel(con: Connection) -> dict[str, Any]:
    return {}


def run(steps: Steps) -> tuple[list[list[Any]], InspectionResult]:
    """All pages but the last, and the answer with the last one."""
    pages = []
    while True:
        try:
            page = next(steps)
        except StopIteration as end:
            return pages, end.value
        if page is not None:
            pages.append(page)


def listed(harness: Harness, **options: Any) -> tuple[list[int], int]:
    """The listed ids, and how many connections match."""
    pages, answer = run(connections(harness.registry, options, no_kernel))
    assert answer.ok
    rows = [row for page in pages for row in page] + answer.data["rows"]
    return [row["id"] for row in rows], answer.data["matched"]


def test_all_connections_are_listed_in_order_page_by_page() -> None:
    harness = Harness()
    cons = [harness.raw(protocol="raw") for _ in range(2 * ROWS + 10)]
    pages, answer = run(connections(harness.registry, {}, no_kernel))
    assert [row["id"] for page in pages for row in page] + [
        row["id"] for row in answer.data["rows"]
    ] == [con.id for con in cons]
    assert all(ROWS <= len(page) < ROWS + STEP for page in pages)
    assert all(len(encode(page)) < 64 * 1024 for page in pages)
    assert answer.data["matched"] == len(cons)


def test_a_step_looks_at_few_connections() -> None:
    harness = Harness()
    for _ in range(10 * STEP):
        harness.raw(protocol="raw")
    looked: list[int] = []

    def look(con: Connection) -> dict[str, Any]:
        looked.append(con.id)
        return {"received": 1}

    steps = connections(harness.registry, {}, look)
    for n in range(1, 6):
        assert next(steps) is None
        assert len(looked) == n * STEP


def test_connections_that_have_said_nothing_are_listed_too() -> None:
    harness = Harness()
    silent, raw = harness.raw(b""), harness.raw()
    harness.registry.flow.weigh(silent)
    ids, matched = listed(harness)
    assert sorted(ids) == sorted([silent.id, raw.id])
    assert matched == 2
    assert listed(harness, kind="unknown") == ([silent.id], 1)
    _, answer = run(connection(harness.registry, {"id": silent.id}, no_kernel))
    assert answer.data["state"] == "sniffing"


def test_a_limit_is_kept_and_the_rest_is_counted() -> None:
    harness = Harness()
    cons = [harness.raw() for _ in range(30)]
    assert listed(harness, limit=7) == ([con.id for con in cons[:7]], 30)


@pytest.mark.parametrize("limit", [0, 1, 7, 500])
def test_the_largest_connections_come_first(limit: int) -> None:
    harness = Harness()
    random.seed(3)
    cons = [harness.raw() for _ in range(300)]
    for con in cons:
        entry_of(con).written = random.randrange(100)
    ids, matched = listed(harness, sort="sent", limit=limit)
    expected = sorted(cons, key=lambda con: (-entry_of(con).written, con.id))
    assert ids == [con.id for con in expected][: limit or None]
    assert matched == 300


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_takes_connections_without_an_event(sort: str) -> None:
    harness = Harness()
    raw, silent = harness.raw(), harness.raw(b"")
    harness.registry.flow.weigh(silent)
    assert listed(harness, sort=sort)[0] == [raw.id, silent.id]


def test_a_connection_that_ends_meanwhile_is_left_out() -> None:
    harness = Harness()
    cons = [harness.raw() for _ in range(3 * STEP)]
    steps = connections(harness.registry, {}, no_kernel)
    assert next(steps) is None
    harness.registry.forget(entry_of(cons[-1]))
    _, answer = run(steps)
    assert [row["id"] for row in answer.data["rows"]] == [con.id for con in cons[:-1]]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"sort": "size"}, "sort: 'size': write age, idle, output, events, sent"),
        ({"limit": -1}, "limit: -1 is not a number of connections"),
        ({"limit": "x"}, "limit: 'x' is not a number of connections"),
        ({"kind": "x"}, "kind: "),
    ],
)
def test_a_list_with_wrong_options_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as error:
        connections(Harness().registry, options, no_kernel)
    assert str(error.value).startswith(line)


def test_a_connection_that_is_not_there_is_said_to_have_ended_or_never_been() -> None:
    harness = Harness()
    con = harness.raw()
    harness.registry.forget(entry_of(con))
    _, answer = run(connection(harness.registry, {"id": con.id}, no_kernel))
    assert answer == InspectionResult(False, f"connection {con.id} has ended")
    never = 2 << ID_EPOCH_SHIFT | 1
    _, answer = run(connection(harness.registry, {"id": never}, no_kernel))
    assert answer == InspectionResult(False, f"there is no connection {never}")
    for wrong in ({}, {"id": "1"}, {"id": True}):
        with pytest.raises(ValueError, match="is not the id of a connection"):
            connection(harness.registry, wrong, no_kernel)
