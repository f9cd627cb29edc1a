from __future__ import annotations

from typing import Any

import pytest

from wsraw.cluster.nodes import EXPIRY, KEEP, MOST_NODES, Nodes

ABOUT = {"began": 5.0, "place": "host, process 7"}


def nodes() -> Nodes:
    return Nodes("me", "mine", 10.0)


def test_a_node_is_known_from_its_first_heartbeat_until_it_is_silent_for_too_long() -> None:
    known = nodes()
    assert known.heard("a", "instance", ABOUT, 0.0)
    assert not known.heard("a", "instance", ABOUT, 1.0)
    assert known.expire(1.0 + EXPIRY) == []
    assert known.expire(1.1 + EXPIRY) == ["a"]
    assert known.others == {}
    assert EXPIRY < 5.0 - 1.0, "5 seconds after its death it is gone, wherever a tick falls"


def test_another_process_of_a_node_is_a_new_one() -> None:
    known = nodes()
    known.heard("a", "instance", ABOUT, 0.0)
    assert known.heard("a", "next instance", later(1.0), 0.0) == "renewed"
    assert known.heard("a", "next instance", later(1.0), 1.0) == ""


def test_a_second_node_with_the_name_of_another_is_heard_once_at_most() -> None:
    known = nodes()
    assert known.heard("a", "instance", ABOUT, 0.0) == "new"
    assert known.heard("a", "second", later(1.0), 0.0) == "renewed", "it may be a successor"
    assert known.heard("a", "instance", ABOUT, 1.0) == "restored", "it is not: the first one lives"
    for now in (1.0, 2.0):
        assert known.heard("a", "second", later(1.0), now) == ""
        assert known.heard("a", "instance", ABOUT, now) == ""
    assert known.others["a"].instance == "instance"
    for now in (3.0, 4.0, 5.0):
        known.heard("a", "second", later(1.0), now)
    assert known.expire(2.1 + EXPIRY) == ["a"]
    assert known.heard("a", "second", later(1.0), 6.0) == "renewed", "the first one is gone"


def test_a_node_that_comes_back_is_the_same_one() -> None:
    known = nodes()
    known.heard("a", "instance", ABOUT, 0.0)
    known.expire(EXPIRY + 1.0)
    assert known.heard("a", "instance", ABOUT, 10.0) == "new"


def later(seconds: float) -> dict[str, Any]:
    return {**ABOUT, "began": ABOUT["began"] + seconds}  # type: ignore[operator]


def test_a_node_that_says_goodbye_is_gone_at_once() -> None:
    known = nodes()
    known.heard("a", "instance", ABOUT, 0.0)
    assert not known.left("a", "an earlier instance", 0.0)
    assert not known.left("b", "instance", 0.0)
    assert known.left("a", "instance", 0.0)
    assert known.others == {}


def test_a_node_that_is_gone_for_long_is_forgotten_once() -> None:
    known = nodes()
    known.heard("a", "instance", ABOUT, 0.0)
    known.heard("b", "instance", ABOUT, 0.0)
    known.expire(10.0)
    known.heard("b", "instance", ABOUT, 20.0)
    assert known.forget(10.0 + KEEP) == []
    assert known.forget(10.1 + KEEP) == ["a"]
    assert known.forget(1e9) == []


@pytest.mark.parametrize("about", [{}, {"began": 5.0}, {"began": "x", "place": ""}])
def test_a_heartbeat_that_is_none_is_not_taken(about: dict[str, Any]) -> None:
    known = nodes()
    assert not known.heard("a", "instance", about, 0.0)
    assert known.others == {}


def test_there_is_a_bound_to_what_strangers_can_make_us_keep() -> None:
    known = nodes()
    for n in range(MOST_NODES + 10):
        known.heard(f"n{n}", "instance", ABOUT, 0.0)
    assert len(known.others) == MOST_NODES


def test_one_heartbeat_with_our_name_may_be_of_the_process_before_us() -> None:
    known = nodes()
    known.heard("me", "other", ABOUT, 0.0)
    assert known.clash is None
    known.expire(EXPIRY + 0.1)
    known.heard("me", "other", ABOUT, 10.0)
    assert known.clash is None


@pytest.mark.parametrize(("began", "leaves"), [(5.0, True), (15.0, False)])
def test_of_two_with_one_name_the_later_one_leaves(began: float, leaves: bool) -> None:
    known = nodes()
    for now in (0.0, 1.0):
        known.heard("me", "other", {"began": began, "place": "there"}, now)
    assert known.clash is not None
    assert known.must_leave is leaves
    known.expire(1.1 + EXPIRY)
    assert known.clash is None
    assert not known.must_leave


def test_of_several_with_our_name_the_first_one_counts() -> None:
    known = nodes()
    for now in (0.0, 1.0, 2.0):
        known.heard("me", "first", ABOUT, now)
        known.heard("me", "last", later(50.0), now)
        assert known.must_leave, "whichever was heard last"


def test_our_own_heartbeat_is_no_clash() -> None:
    known = nodes()
    for now in (0.0, 1.0):
        known.heard("me", "mine", ABOUT, now)
    assert known.clash is None
