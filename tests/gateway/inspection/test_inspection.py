from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.harness import Harness
from wsraw.gateway.inspection.inspection import SLICE, Inspection
from wsraw.gateway.inspection.requests import ROWS
from wsraw.gateway.inspection.steps import Steps
from wsraw.link.records import Ask, Enough, FromGateway, More, Page


class Inspected:
    """An inspection of some connections. Each look at its clock takes a fraction of a slice."""

    def __init__(self, count: int, took: float = 0.0) -> None:
        self.harness = Harness()
        self.cons = [self.harness.raw(protocol="raw") for _ in range(count)]
        self.told: list[FromGateway] = []
        self.time = 0.0
        self.took = took
        self.inspection = Inspection(
            self.harness.registry, lambda con: {}, self.clock, lambda: 1e9, self.told.append
        )

    def clock(self) -> float:
        self.time += self.took
        return self.time

    def turns(self) -> int:
        """Take turns until nothing is left to do; returns how many there were."""
        count = 0
        while self.inspection.running:
            self.inspection.go_on()
            count += 1
        return count

    def pages(self) -> list[Page]:
        told, self.told[:] = [*self.told], []
        return [page for page in told if isinstance(page, Page)]


def test_a_request_gets_pages_one_at_a_time_on_request() -> None:
    inspected = Inspected(3 * ROWS)
    inspected.inspection.ask(Ask(7, "connections", {}))
    ids = []
    for _ in range(4):
        assert inspected.turns() == 1
        (page,) = inspected.pages()
        assert (page.ref, page.ok) == (7, True)
        ids += [row["id"] for row in page.data["rows"]]
        if not page.more:
            break
        inspected.inspection.more(More(7))
    assert ids == [con.id for con in inspected.cons]
    inspected.inspection.more(More(7))
    assert not inspected.inspection.running


def test_a_turn_works_for_a_slice_of_time() -> None:
    inspected = Inspected(64, took=SLICE / 3)
    inspected.inspection.ask(Ask(1, "connections", {}))
    # The four steps and the last page take two or three to a turn.
    assert inspected.turns() == 2
    assert len(inspected.pages()) == 1


def test_requests_take_turns() -> None:
    inspected = Inspected(64, took=SLICE * 2)
    for ref in (1, 2):
        inspected.inspection.ask(Ask(ref, "connections", {}))
    assert inspected.turns() == 10
    assert [page.ref for page in inspected.pages()] == [1, 2]


def test_a_request_ends_with_whoever_asked() -> None:
    inspected = Inspected(3 * ROWS)
    inspection = inspected.inspection
    for ref in (1, 2):
        inspection.ask(Ask(ref, "connections", {}))
    inspection.go_on()
    # The first request waits to be asked for more; the second one is being worked on.
    inspection.enough(Enough(1))
    inspection.enough(Enough(2))
    inspection.enough(Enough(3))
    inspected.pages()
    for ref in (1, 2):
        inspection.more(More(ref))
    assert inspected.turns() == 0
    inspection.ask(Ask(3, "connections", {}))
    inspection.forget()
    assert inspected.turns() == 0
    assert inspected.pages() == []


@pytest.mark.parametrize(
    ("what", "options", "why"),
    [
        ("dance", {}, "this gateway does not know the request dance"),
        ("connections", {"kind": "x"}, "kind: 'x': write websocket, raw, unknown"),
        ("connection", {"id": 5}, "there is no connection 5"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    what: str, options: dict[str, Any], why: str
) -> None:
    inspected = Inspected(1)
    inspected.inspection.ask(Ask(1, what, options))
    inspected.turns()
    assert inspected.pages() == [Page(1, False, why)]


def fails() -> Steps:
    yield None
    raise RuntimeError("a mistake of ours")


def test_a_bug_ends_the_request_and_no_other(faults: list[tuple[str, BaseException]]) -> None:
    inspected = Inspected(3 * ROWS)
    inspection = inspected.inspection
    for ref in (1, 2):
        inspection.ask(Ask(ref, "connections", {}))
    inspection.running[1] = fails()
    inspected.turns()
    first, second = inspected.pages()
    assert (first.ref, first.ok) == (1, False)
    assert "a bug in wsraw" in first.text
    assert (second.ref, second.ok) == (2, True)
