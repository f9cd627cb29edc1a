from __future__ import annotations

import math
from typing import Any

import pytest

from wsraw.link.records import HANDLER_BOUNDS, HANDLERS, Stats
from wsraw.link.rules import (
    MOST,
    OF_ANSWERS,
    OF_REQUESTS,
    header_problem,
    is_close_code,
    is_same_secret,
    split_host_port,
    stats_refusal,
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("h:80", ("h", 80)),
        ("example.org", ("example.org", None)),
        ("h:0", ("h", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::1]", ("::1", None)),
        ("fe80%eth0:1", ("fe80%eth0", 1)),
    ],
)
def test_hosts_and_ports_are_split(text: str, found: tuple[str, int | None]) -> None:
    assert split_host_port(text) == found


@pytest.mark.parametrize(
    "text",
    ["", ":80", "h:", "h:x", "h:-1", "h:+1", "h:65536", "h:²", "::1",
        "::1:80", "[]:80", "h:" + "1" * 5000],
)  # fmt: skip
def test_other_texts_are_not_hosts_and_ports(text: str) -> None:
    assert split_host_port(text) is None


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("X", "a\r\nY: b", "one line"),
        ("X", "☃", "one line"),
        ("X Y", "a", "not a header name"),
        ("", "a", "not a header name"),
        ("Upgrade", "x", "set by the gateway"),
        ("SEC-WEBSOCKET-KEY", "x", "set by the gateway"),
    ],
)
def test_wrong_headers_are_named(name: str, value: str, why: str) -> None:
    assert why in header_problem([("A", "b"), (name, value)], OF_REQUESTS)


def test_the_value_of_a_wrong_header_is_not_quoted() -> None:
    assert "secret" not in header_problem([("Authorization", "secret\n")], OF_REQUESTS)


def test_good_headers_have_no_problem() -> None:
    assert header_problem([("Set-Cookie", "a=\xe4\tb")], OF_ANSWERS) == ""
    assert header_problem([("Sec-WebSocket-Accept", "x")], OF_REQUESTS) == ""
    assert header_problem([("Sec-WebSocket-Accept", "x")], OF_ANSWERS)


def test_close_codes_that_may_be_sent_are_those_of_the_registry() -> None:
    sendable = {code for code in range(-1, 6000) if is_close_code(code)}
    registered = {1000, 1001, 1002, 1003, *range(1007, 1015)}
    assert sendable == {*registered, *range(3000, 5000)}


@pytest.mark.parametrize("handler", HANDLERS)
def test_figures_of_each_handler_can_be_counted(handler: str) -> None:
    assert stats_refusal(Stats(handler, 0, 0)) is None
    assert stats_refusal(Stats(handler, MOST, MOST, MOST, [0] * len(HANDLER_BOUNDS))) is None
    assert stats_refusal(Stats(handler, 3, 1e-9, 9, [1, 0, 2])) is None


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (("on_mesage", 1, 1.0), "'on_mesage' is not a handler; there are on_connect"),
        (("", 1, 1.0), "'' is not a handler"),
        (("x" * 10_000, 1, 1.0), f"{'x' * 40!r} is not a handler"),
        (("on_message", 1, -0.1), "seconds"),
        (("on_message", 1, math.nan), "seconds"),
        (("on_message", 1, math.inf), "seconds"),
        (("on_message", -1, 1.0), "negative"),
        (("on_message", 1, 1.0, -1), "negative"),
        (("on_message", 1, 1.0, 0, [2, -1]), "negative"),
        (("on_message", MOST + 1, 1.0), f"are {MOST} at most"),
        (("on_message", 1, 1.0, 1 << 62), f"are {MOST} at most"),
        (("on_message", 2, 1.0, 0, [1, 1, 1]), "more calls than there were"),
        (("on_message", 9, 1.0, 0, [0] * (len(HANDLER_BOUNDS) + 1)), "slower has more than"),
    ],
)
def test_figures_that_cannot_be_are_refused(fields: tuple[Any, ...], why: str) -> None:
    assert why in (stats_refusal(Stats(*fields)) or "")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("", "", True),
        ("abc", "abc", True),
        ("abc", "abd", False),
        ("abc", "Xbc", False),
        ("abc", "ab", False),
        ("ü", "ü", True),
        ("ü", "xy", False),
    ],
)
def test_secrets_are_compared_whole(one: str, other: str, same: bool) -> None:
    assert is_same_secret(one, other) is same
