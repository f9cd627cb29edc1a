from __future__ import annotations

from dataclasses import replace

import pytest

from wsraw.tools.drill.target.close_records import CloseRecords, CloseReport, ConnectionEnd

HEADER = "WD00000100000000"


def matched(*ends: ConnectionEnd, reports: list[CloseReport]) -> CloseRecords:
    records = CloseRecords()
    for end in ends:
        records.ended(end)
    for each in reports:
        records.report(each)
    records.match()
    return records


def counts(records: CloseRecords) -> tuple[int, int, int]:
    return records.missing, records.duplicated, records.states_lost


def report(cause: str = "peer", name: str = "a:1", kept: str = HEADER) -> CloseReport:
    return CloseReport(name, "1000", cause, kept)


def end(how: str = "", name: str = "a:1", **fields: object) -> ConnectionEnd:
    return ConnectionEnd("websocket", name, HEADER, how=how, **fields)  # type: ignore[arg-type]


def test_each_end_that_was_reported_once_is_right() -> None:
    ends = matched(end(), end(name="a:2"), reports=[report(name="a:2"), report()])
    assert counts(ends) == (0, 0, 0)
    assert ends.disconnected("at-least-once") == ({}, {})


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        ([], (1, 0, 0)),
        ([report(), report()], (0, 1, 0)),
        ([report(kept="-")], (0, 0, 1)),
        ([report(name="z:9"), report()], (0, 0, 0)),
    ],
    ids=["missing", "duplicated", "state lost", "another client"],
)
def test_missing_and_doubled_ends_are_counted(
    heard: list[CloseReport], wanted: tuple[int, int, int]
) -> None:
    assert counts(matched(end(), reports=heard)) == wanted


def test_ends_of_an_address_that_is_reused_are_matched_in_order() -> None:
    lives = [end("1011"), end("")]
    ends = matched(*lives, reports=[report("worker-died"), report("peer")])
    assert [each.cause for each in lives] == ["worker-died", "peer"]
    assert counts(ends) == (0, 0, 0)


def test_the_end_of_a_connection_that_no_worker_knew_need_not_be_reported() -> None:
    ends = CloseRecords()
    ends.ended(ConnectionEnd("raw", "a:1", is_known=False))
    assert ends.all_reported()
    ends.ended(end())
    assert not ends.all_reported()
    ends.report(report())
    assert ends.all_reported()
    ends.match()
    assert counts(ends) == (0, 0, 0)


@pytest.mark.parametrize(
    ("delivery", "kind", "how", "heard", "promised"),
    [
        ("at-least-once", "websocket", "1011", [report("worker-died")], False),
        ("at-most-once", "websocket", "1011", [report("worker-died")], True),
        ("at-most-once", "websocket", "1011", [report("ping-timeout")], False),
        ("at-most-once", "raw", "connection reset by peer", [], True),
        ("at-most-once", "raw", "eof", [], False),
        ("at-most-once", "websocket", "1013", [], False),
        ("at-least-once", "hang", "1011", [report("poison")], True),
        ("at-least-once", "websocket", "1011", [report("poison")], False),
        ("at-most-once", "hang", "1011", [report("worker-died")], True),
        ("at-most-once", "hang", "1011", [report("poison")], False),
    ],
)
def test_a_disconnection_is_judged_by_delivery_mode_and_cause(
    delivery: str, kind: str, how: str, heard: list[CloseReport], promised: bool
) -> None:
    ends = matched(ConnectionEnd(kind, "a:1", how=how), reports=heard)
    wrong, expected = ends.disconnected(delivery)
    assert (expected if promised else wrong).total() == 1
    assert (wrong if promised else expected).total() == 0


@pytest.mark.parametrize(
    ("how", "cause", "lost"),
    [
        ("eof", "gateway-died", True),
        ("connection reset by peer", "gateway-died", True),
        ("eof", "worker-died", False),
        ("1011 internal error", "gateway-died", False),
        ("1008", "", False),
    ],
)
def test_a_connection_lost_with_its_gateway_is_recognized(how: str, cause: str, lost: bool) -> None:
    for dies in (True, False):
        ends = CloseRecords(gateway_dies=dies)
        ends.ended(end(how))
        ends.report(report(cause))
        ends.match()
        wrong, expected = ends.disconnected("at-least-once")
        assert ends.lost_with_gateway().total() == (1 if dies and lost else 0)
        assert wrong.total() == (0 if dies and lost else 1)
        assert not expected
        assert counts(ends) == (0, 0, 0)


def test_a_connection_that_no_worker_held_is_a_breach_unless_workers_die_too() -> None:
    for unheld in (True, False):
        ends = CloseRecords(True, unheld)
        ends.ended(end("eof"))
        ends.ended(end("", name="a:2"))
        ends.match()
        assert ends.unheld == (1 if unheld else 0)
        assert ends.missing == (1 if unheld else 2), "one was closed in order"


OLDER, NEWER = "WD00000200000000", "WD00000300000000"


@pytest.mark.parametrize(
    ("lives", "heard", "wanted"),
    [
        # The report may be of either connection that needs none, so nothing was reported twice.
        (["unknown", "unknown"], [report("gateway-died", kept="-")], (0, 0, 0)),
        (["unknown", "unknown"], [report("gateway-died", kept="-")] * 3, (0, 1, 0)),
        # The report of a connection that needs none does not count for one that needs a report.
        (["unknown", "unknown", "closed"], [report("gateway-died", kept="-"), report()], (0, 0, 0)),
        (["unknown", "closed", "unknown"], [report(), report("gateway-died")], (0, 0, 0)),
        # The connection whose state is in no report is the one whose report is missing.
        (["answered", "closed"], [report()], (1, 0, 0)),
        (["older", "closed", "newer"], [report(kept=OLDER), report(kept=NEWER)], (1, 0, 0)),
        (["older", "unknown"], [], (1, 0, 0)),
        # Neither connection needs a report: it belongs to the one that was closed gracefully.
        (["unknown", "silent"], [report(kept="-")], (0, 0, 0)),
    ],
)
def test_ends_of_a_reused_address_have_the_reports_that_fit(
    lives: list[str], heard: list[CloseReport], wanted: tuple[int, int, int]
) -> None:
    made = {
        "unknown": lambda: ConnectionEnd("websocket", "a:1", is_known=False, how="eof"),
        "answered": lambda: ConnectionEnd("websocket", "a:1", OLDER, how="eof"),
        "silent": lambda: ConnectionEnd("websocket", "a:1", is_known=False),
        "closed": end,
        "older": lambda: ConnectionEnd("websocket", "a:1", OLDER),
        "newer": lambda: ConnectionEnd("websocket", "a:1", NEWER),
    }
    ends = CloseRecords(gateway_dies=True)
    for life in lives:
        ends.ended(made[life]())
    for each in heard:
        ends.report(each)
    ends.match()
    assert counts(ends) == wanted
    assert ends.disconnected("at-least-once") == ({}, {})


@pytest.mark.parametrize(
    "later",
    [ConnectionEnd("websocket", "a:1", HEADER), ConnectionEnd("websocket", "a:1", is_known=False)],
    ids=["answered", "had sent nothing"],
)
def test_a_lost_connection_without_a_report_is_not_blamed_for_a_later_one_of_its_address(
    later: ConnectionEnd,
) -> None:
    """The first connection had no worker when its gateway died."""
    ends = CloseRecords(gateway_dies=True, unheld=True)
    ends.ended(ConnectionEnd("websocket", "a:1", OLDER, how="eof"))
    ends.ended(replace(later))
    ends.report(report(kept=later.header or "-"))
    ends.match()
    assert (counts(ends), ends.unheld) == ((0, 0, 0), 1)
    assert ends.disconnected("at-least-once") == ({}, {})
    assert ends.lost_with_gateway().total() == 1


def test_the_report_of_a_lost_connection_is_not_awaited_in_place_of_a_later_one() -> None:
    ends = CloseRecords(gateway_dies=True)
    ends.ended(ConnectionEnd("websocket", "a:1", is_known=False, how="eof"))
    ends.ended(end())
    ends.report(report("gateway-died", kept="-"))
    assert not ends.all_reported()
    ends.report(report())
    assert ends.all_reported()
