from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.cluster.subjects import LONGEST, Subjects, encode

TOKEN = re.compile(r"[A-Za-z0-9_=-]{1,200}")


@given(st.text(), st.text())
def test_any_name_is_one_token_and_no_other_name_has_it(a: str, b: str) -> None:
    one, other = encode(a), encode(b)
    assert TOKEN.fullmatch(one)
    assert (one == other) == (a == b)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("room-7", "room-7"),
        ("room.7", "room=2E7"),
        ("*", "=2A"),
        (">", "=3E"),
        ("a b\r\n", "a=20b=0D=0A"),
        ("=2A", "=3D2A"),
        ("é", "=C3=A9"),
        ("\ud800", "=ED=A0=80"),
    ],
)
def test_a_readable_name_stays_readable(name: str, token: str) -> None:
    assert encode(name) == token


def test_a_long_name_is_hashed_as_a_server_cuts_long_lines_off() -> None:
    longest = "x" * LONGEST
    assert encode(longest) == longest
    for name in ("x" * (LONGEST + 1), "é" * 1024, ""):
        assert re.fullmatch("==[0-9a-f]{64}", encode(name))
    assert encode("é" * 1024) != encode("é" * 1023)


def test_groups_nodes_and_clusters_do_not_meet() -> None:
    one, other = Subjects("a", "n"), Subjects("b", "n")
    made = [
        subject
        for each in (one, other)
        for subject in (each.all, each.own, each.of_group("n"), each.of_user("n"))
    ]
    assert len(set(made)) == 8
    assert one.own == one.of_node("n")
