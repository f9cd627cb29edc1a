from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.patterns import MOST_SEGMENTS, Pattern, split


def match(pattern: str, target: str) -> dict[str, str] | None:
    segments = split(target)
    return None if segments is None else Pattern(pattern).match(segments)


MATCHES = [
    ("/", "/", {}),
    ("/", "/?a=/b", {}),
    ("/rooms", "/rooms", {}),
    ("/rooms", "/r%6Foms", {}),
    ("/r%6Foms", "/rooms", {}),
    ("/räume", "/r%C3%A4ume", {}),
    ("/a b", "/a%20b", {}),
    ("/a+b", "/a+b", {}),
    ("/rooms/", "/rooms/", {}),
    ("/rooms/{room}", "/rooms/7", {"room": "7"}),
    ("/rooms/{room}", "/rooms/7?room=8", {"room": "7"}),
    ("/rooms/{room}", "/rooms/a%2Fb", {"room": "a/b"}),
    ("/rooms/{room}", "/rooms/%C3%A4%20%25", {"room": "ä %"}),
    ("/rooms/{room}", "/rooms/...", {"room": "..."}),
    ("/rooms/{room}", "/rooms/a+b;c=d&e#f", {"room": "a+b;c=d&e#f"}),
    ("/{a}/{b_2}", "/x/y", {"a": "x", "b_2": "y"}),
    ("/{a}/x/", "/y/x/", {"a": "y"}),
    ("/files/{path...}", "/files/a/b.txt", {"path": "a/b.txt"}),
    ("/files/{path...}", "/files/a//b/", {"path": "a//b/"}),
    ("/files/{path...}", "/files/", {"path": ""}),
    ("/files/{path...}", "/files/%C3%A4/%20", {"path": "ä/ "}),
    ("/{all...}", "/", {"all": ""}),
    ("/{all...}", "/a/b", {"all": "a/b"}),
    ("/{user}/{rest...}", "/ann/1/2", {"user": "ann", "rest": "1/2"}),
    ("/{all...}", "/" + "a/" * (MOST_SEGMENTS - 1), {"all": "a/" * (MOST_SEGMENTS - 1)}),
]

MATCHES_NOT = [
    ("/", ""),
    ("/", "/a"),
    ("/", "//"),
    ("/rooms", "/Rooms"),
    ("/rooms", "/rooms/"),
    ("/rooms/", "/rooms"),
    ("/rooms", "/rooms%2F"),
    ("/a/b", "/a%2Fb"),
    ("/a+b", "/a%20b"),
    ("/rooms/{room}", "/rooms/"),
    ("/rooms/{room}", "/rooms"),
    ("/rooms/{room}", "/rooms/7/"),
    ("/rooms/{room}", "/rooms//"),
    ("/rooms/{room}", "//rooms/7"),
    ("/rooms/{room}", "/rooms//7"),
    ("/{a}/{b}", "//x"),
    ("/files/{path...}", "/files"),
    ("/files/{path...}", "/files/a%2Fb"),
    ("/files/{path...}", "/files/a/%2f"),
    # What a proxy may read otherwise than we would.
    ("/{all...}", "/.."),
    ("/{all...}", "/a/../b"),
    ("/{all...}", "/a/."),
    ("/{all...}", "/a/%2e%2E/b"),
    ("/{all...}", "/a/.%2e"),
    ("/{room}", "/%2e"),
    # No path at all.
    ("/{all...}", "a"),
    ("/{all...}", "*"),
    ("/{all...}", "http://h/a"),
    ("/{all...}", "?a"),
    # No text.
    ("/{all...}", "/%"),
    ("/{all...}", "/%4"),
    ("/{all...}", "/%zz"),
    ("/{all...}", "/%+1"),
    ("/{all...}", "/a/%FF"),
    ("/{all...}", "/%C3"),
    ("/{all...}", "/%C0%AF"),
    ("/{all...}", "/%ED%A0%80"),
    ("/{all...}", "/%00"),
    ("/{all...}", "/a%0D%0Ab"),
    ("/{all...}", "/%7F"),
    ("/{all...}", "/" + "a/" * MOST_SEGMENTS),
]


@pytest.mark.parametrize(("pattern", "target", "params"), MATCHES)
def test_a_pattern_matches_targets_and_names_their_parameters(
    pattern: str, target: str, params: dict[str, str]
) -> None:
    assert match(pattern, target) == params


@pytest.mark.parametrize(("pattern", "target"), MATCHES_NOT)
def test_a_pattern_does_not_match_other_targets(pattern: str, target: str) -> None:
    assert match(pattern, target) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a path begins with /"),
        ("rooms", "a path begins with /"),
        ("http://h/", "a path begins with /"),
        ("/a?b", "the query is no part of the path"),
        ("/{a}/{a}", "{a} is there twice"),
        ("/{a}/{a...}", "{a} is there twice"),
        ("/{a...}/b", "'{a...}' takes all that is left: it must be the last"),
        ("/{}", "'{}' is no name; write {room} or {path...}"),
        ("/{...}", "'{...}' is no name"),
        ("/{1a}", "'{1a}' is no name"),
        ("/{a-b}", "'{a-b}' is no name"),
        ("/{\n}", "'{\\n}' is no name"),
        ("/{a:int}", "'{a:int}' is no name"),
        ("/a{b}", "a {name} stands between slashes"),
        ("/{b}.txt", "a {name} stands between slashes"),
        ("/{b", "a {name} stands between slashes"),
        ("/b}", "a {name} stands between slashes"),
        ("/a/*", "write {path...} for *"),
        ("/a//b", "there is nothing between two slashes"),
        ("//", "there is nothing between two slashes"),
        ("/a/..", "no path that is matched has a segment '..'"),
        ("/%2e", "no path that is matched has a segment '%2e'"),
        ("/50%", "no path that is matched has a segment '50%'"),
        ("/a\n", "no path that is matched has a segment"),
        ("/%41\udc80", "no path that is matched has a segment"),
    ],
)
def test_wrong_patterns_are_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pattern(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other", "covers"),
    [
        ("/a", "/a", True),
        ("/a", "/%61", True),
        ("/a", "/b", False),
        ("/a", "/a/", False),
        ("/{x}", "/a", True),
        ("/{x}", "/{y}", True),
        ("/{x}", "/", False),
        ("/a", "/{x}", False),
        ("/{x}/b", "/a/{y}", False),
        ("/{x}/{y}", "/a/{y}", True),
        ("/{x}", "/{y}/{z}", False),
        ("/{x}", "/{y...}", False),
        ("/{x...}", "/", True),
        ("/{x...}", "/a/{b}", True),
        ("/a/{x...}", "/a", False),
        ("/a/{x...}", "/a/", True),
        ("/a/{x...}", "/a/{y...}", True),
        ("/a/{x...}", "/{y...}", False),
        ("/{y}/{x...}", "/a/b/{z...}", True),
        ("/a/b/{x...}", "/a/{y...}", False),
    ],
)
def test_a_pattern_knows_whether_it_covers_another_one(one: str, other: str, covers: bool) -> None:
    assert Pattern(one).covers(Pattern(other)) is covers


STEPS = st.lists(st.sampled_from(["a", "b", "{x}", "{y}", "{z...}", ""]), min_size=1, max_size=4)
TARGET = st.text(st.sampled_from("//ab.%2fFe"), max_size=12)


@given(STEPS, STEPS, TARGET)
def test_a_target_that_matches_a_covered_pattern_matches_the_covering_one(
    one: list[str], other: list[str], target: str
) -> None:
    try:
        ours, theirs = Pattern("/" + "/".join(one)), Pattern("/" + "/".join(other))
    except ValueError:
        return
    segments = split("/" + target)
    # What is left is not for {z...} alone, if it holds an encoded slash.
    if segments is None or any("/" in segment for segment in segments):
        return
    if ours.covers(theirs) and theirs.match(segments) is not None:
        assert ours.match(segments) is not None


@given(st.text(), STEPS)
def test_any_target_is_split_and_matched_without_an_exception(
    target: str, steps: list[str]
) -> None:
    segments = split(target)
    assert segments is None or not {".", ".."} & set(segments)
    assert split(f"{target}?x") == segments
    try:
        pattern = Pattern("/" + "/".join(steps))
    except ValueError:
        return
    params = pattern.match(segments) if segments is not None else None
    assert params is None or all(params[name] for name in params if name != "z")
