from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wsraw.cluster.streams import Heard, Numbers


def test_each_subject_is_numbered_from_1() -> None:
    numbers = Numbers()
    assert [numbers.next("a"), numbers.next("a"), numbers.next("b")] == [(1, 1), (1, 2), (2, 1)]


def test_a_forgotten_subject_begins_a_new_stream() -> None:
    numbers = Numbers(most=2)
    for subject in ("a", "b", "c"):
        numbers.next(subject)
    assert numbers.next("a") == (4, 1)
    assert numbers.next("c") == (3, 2)


def test_whoever_begins_to_listen_has_missed_nothing() -> None:
    assert Heard().take("n", "instance", 1, 1000) == 0


@given(st.lists(st.integers(1, 30), min_size=1))
def test_what_is_taken_is_in_order_and_gaps_are_counted(seqs: list[int]) -> None:
    heard = Heard()
    taken, missed = [], 0
    for seq in seqs:
        more = heard.take("n", "instance", 1, seq)
        if more is not None:
            taken.append(seq)
            missed += more
    assert taken == sorted(set(taken))
    assert missed == taken[-1] - taken[0] + 1 - len(taken)


def test_another_process_or_stream_of_the_node_begins_anew() -> None:
    heard = Heard()
    heard.take("n", "instance", 1, 100)
    assert heard.take("n", "next instance", 1, 1) == 0
    assert heard.take("n", "next instance", 2, 1) == 0
    assert heard.take("n", "next instance", 2, 1) is None
    assert heard.take("m", "next instance", 2, 1) == 0


def test_a_node_that_is_forgotten_begins_anew() -> None:
    heard = Heard()
    heard.take("n", "instance", 1, 100)
    heard.forget("n")
    heard.forget("unknown")
    assert heard.take("n", "instance", 1, 50) == 0
