from __future__ import annotations

import pytest

from wsraw.tools.drill.target.ends import Ends, Life, Told

HEADER = "WD00000100000000"


def settled(*lives: Life, told: list[Told]) -> Ends:
    ends = Ends()
    for life in lives:
        ends.ended(life)
    for each in told:
        ends.told(each)
    ends.settle()
    return ends


def counts(ends: Ends) -> tuple[int, int, int]:
    return ends.closes_missing, ends.closes_doubled, ends.states_lost


def told(cause: str = "peer", name: str = "a:1", kept: str = HEADER) -> Told:
    return Told(name, "1000", cause, kept)


def life(how: str = "", name: str = "a:1", **fields: object) -> Life:
    return Life("websocket", name, HEADER, how=how, **fields)  # type: ignore[arg-type]


def test_each_end_that_was_reported_once_is_right() -> None:
    ends = settled(life(), life(name="a:2"), told=[told(name="a:2"), told()])
    assert counts(ends) == (0, 0, 0)
    assert ends.disconnected("at-least-once") == ({}, {})


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [
        ([], (1, 0, 0)),
        ([told(), told()], (0, 1, 0)),
        ([told(kept="-")], (0, 0, 1)),
        ([told(name="z:9"), told()], (0, 0, 0)),
    ],
    ids=["missing", "doubled", "state lost", "a stranger"],
)
def test_missing_and_doubled_ends_are_counted(
    heard: list[Told], wanted: tuple[int, int, int]
) -> None:
    assert counts(settled(life(), told=heard)) == wanted


def test_ends_of_an_address_that_is_reused_are_matched_in_order() -> None:
    lives = [life("1011"), life("")]
    ends = settled(*lives, told=[told("worker-died"), told("peer")])
    assert [each.cause for each in lives] == ["worker-died", "peer"]
    assert counts(ends) == (0, 0, 0)


def test_the_end_of_a_connection_that_no_worker_knew_need_not_be_reported() -> None:
    ends = Ends()
    ends.ended(Life("raw", "a:1", heard_of=False))
    assert ends.all_told()
    ends.ended(life())
    assert not ends.all_told()
    ends.told(told())
    assert ends.all_told()
    ends.settle()
    assert counts(ends) == (0, 0, 0)


@pytest.mark.parametrize(
    ("delivery", "kind", "how", "heard", "promised"),
    [
        ("at-least-once", "websocket", "1011", [told("worker-died")], False),
        ("at-most-once", "websocket", "1011", [told("worker-died")], True),
        ("at-most-once", "websocket", "1011", [told("ping-timeout")], False),
        ("at-most-once", "raw", "connection reset by peer", [], True),
        ("at-most-once", "raw", "eof", [], False),
        ("at-most-once", "websocket", "1013", [], False),
        ("at-least-once", "hanger", "1011", [told("poison")], True),
        ("at-least-once", "websocket", "1011", [told("poison")], False),
        ("at-most-once", "hanger", "1011", [told("worker-died")], True),
        ("at-most-once", "hanger", "1011", [told("poison")], False),
    ],
)
def test_a_disconnection_is_judged_by_delivery_mode_and_cause(
    delivery: str, kind: str, how: str, heard: list[Told], promised: bool
) -> None:
    ends = settled(Life(kind, "a:1", how=how), told=heard)
    wrong, expected = ends.disconnected(delivery)
    assert (expected if promised else wrong).total() == 1
    assert (wrong if promised else expected).total() == 0


@pytest.mark.parametrize(
    ("how", "cause", "lost"),
    [
        ("eof", "gateway-died", True),
        ("connection reset by peer", "gateway-died", True),
        ("1001 the server is going away", "going-away", True),
        ("eof", "worker-died", False),
        ("1011 internal error", "gateway-died", False),
        ("1008", "", False),
    ],
)
def test_a_connection_lost_with_its_gateway_is_recognized(how: str, cause: str, lost: bool) -> None:
    for dies in (True, False):
        ends = Ends(gateway_dies=dies)
        ends.ended(life(how))
        ends.told(told(cause))
        ends.settle()
        wrong, expected = ends.disconnected("at-least-once")
        assert ends.lost().total() == (1 if dies and lost else 0)
        assert wrong.total() == (0 if dies and lost else 1)
        assert not expected
        assert counts(ends) == (0, 0, 0)


def test_a_connection_that_no_worker_held_is_a_breach_unless_workers_die_too() -> None:
    for unheld in (True, False):
        ends = Ends(True, unheld)
        ends.ended(life("eof"))
        ends.ended(life("", name="a:2"))
        ends.settle()
        assert ends.closes_unheld == (1 if unheld else 0)
        assert ends.closes_missing == (1 if unheld else 2), "one was closed in order"
