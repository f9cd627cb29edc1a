from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsraw.config.patterns import MOST_SEGMENTS, GroupPattern, Pattern, split


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
    # Paths that a proxy may read differently.
    ("/{all...}", "/.."),
    ("/{all...}", "/a/../b"),
    ("/{all...}", "/a/."),
    ("/{all...}", "/a/%2e%2E/b"),
    ("/{all...}", "/a/.%2e"),
    ("/{room}", "/%2e"),
    # Targets that are not a path.
    ("/{all...}", "a"),
    ("/{all...}", "*"),
    ("/{all...}", "http://h/a"),
    ("/{all...}", "?a"),
    # Escapes that are not text.
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
def test_patterns_match_their_paths(pattern: str, target: str, params: dict[str, str]) -> None:
    assert match(pattern, target) == params


@pytest.mark.parametrize(("pattern", "target"), MATCHES_NOT)
def test_patterns_match_no_other_paths(pattern: str, target: str) -> None:
    assert match(pattern, target) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a path begins with /"),
        ("rooms", "a path begins with /"),
        ("http://h/", "a path begins with /"),
        ("/a?b", "leave out the query"),
        ("/{a}/{a}", "{a} is used twice"),
        ("/{a}/{a...}", "{a} is used twice"),
        ("/{a...}/b", "'{a...}' matches the rest of the path"),
        ("/{}", "'{}' is not a name; write {room} or {path...}"),
        ("/{...}", "'{...}' is not a name"),
        ("/{1a}", "'{1a}' is not a name"),
        ("/{a-b}", "'{a-b}' is not a name"),
        ("/{\n}", "'{\\n}' is not a name"),
        ("/{a:int}", "'{a:int}' is not a name"),
        ("/a{b}", "a {name} must be a whole segment"),
        ("/{b}.txt", "a {name} must be a whole segment"),
        ("/{b", "a {name} must be a whole segment"),
        ("/b}", "a {name} must be a whole segment"),
        ("/a/*", "write {path...} instead of *"),
        ("/a//b", "write something between"),
        ("//", "write something between"),
        ("/a/..", "paths with a segment '..'"),
        ("/%2e", "paths with a segment '%2e'"),
        ("/50%", "paths with a segment '50%'"),
        ("/a\n", "paths with a segment"),
        ("/%41\udc80", "paths with a segment"),
    ],
)
def test_wrong_patterns_are_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pattern(text)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


STEPS = st.lists(st.sampled_from(["a", "b", "{x}", "{y}", "{z...}", ""]), min_size=1, max_size=4)


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


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("room", ["room"], ["room.1", "roo", ""]),
        ("room.*", ["room.", "room.1", "room.1.2", "room.\n"], ["room", "a.room.1", "Room.1"]),
        ("*.private", ["a.private", ".private"], ["private", "a.private.b"]),
        ("a*a", ["aa", "aba", "aaa"], ["a", "ab", "ba"]),
        ("*", ["", "anything"], []),
        ("[a-z]?", ["[a-z]?"], ["ab"]),
    ],
)
def test_a_pattern_of_groups_matches_names(
    pattern: str, fitting: list[str], others: list[str]
) -> None:
    found = GroupPattern(pattern)
    assert all(found.matches(name) for name in fitting)
    assert not any(found.matches(name) for name in others)


@pytest.mark.parametrize("text", ["", "a*b*", "**"])
def test_a_pattern_of_groups_that_is_wrong_says_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"room\.\*"):
        GroupPattern(text)
