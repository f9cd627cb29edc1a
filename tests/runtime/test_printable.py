"""Escape sequences of a peer must not reach a terminal, and secrets must not reach the log."""

from __future__ import annotations

import time
import unicodedata

import pytest

from tests.deadline import UNIT
from wsraw.runtime.printable import (
    printable,
    printable_lines,
    shown,
    shown_url,
    without_secrets,
    without_secrets_inside,
)

TEXT = (
    "za\u017c\u00f3\u0142\u0107 \u4f60 \U0001f469\u200d\U0001f467\ufe0f \u0646\u200c\u0645\u00a0\t."
)


def test_no_control_character_is_left() -> None:
    for code in range(0x11000):
        char = chr(code)
        category = unicodedata.category(char)
        if category in ("Cc", "Cs", "Zl", "Zp") and char != "\t":
            assert printable(char).isascii()
            assert printable(char).isprintable()
            assert printable_lines(char) == ("\n" if char == "\n" else printable(char))
        printable(char).encode()
    assert (
        printable("\x1b]0;title\x07\r\nerror gateway: x") == r"\x1b]0;title\x07\r\nerror gateway: x"
    )
    assert printable("\u202e\u2066\x9b\udc80") == r"\u202e\u2066\x9b\udc80"


def test_text_of_any_script_stays() -> None:
    assert printable(TEXT) == printable_lines(TEXT) == TEXT
    assert printable_lines("a\n\tb\n") == "a\n\tb\n"


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("/chat", "/chat"),
        ("/chat?token=SECRET", "/chat?..."),
        ("/chat#SECRET", "/chat#..."),
        ("/@me/x", "/@me/x"),
        ("/login?next=http://SECRET", "/login?..."),
        ("https://example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("https://u:SECRET@example.org:8443/SECRET?SECRET", "https://...@example.org:8443..."),
        ("https://SECRET@SECRET@example.org", "https://...@example.org"),
        ("https://example.org\\\\@SECRET", "https://example.org..."),
        ("ws://example.org?SECRET", "ws://example.org..."),
        ("u:SECRET@example.org:80", "...@example.org:80"),
        ("example.org:80/p?SECRET", "example.org:80/p?..."),
        ("unix:/run/a.sock", "unix:/run/a.sock"),
        ("file://", "file://"),
        ("null", "null"),
        ("", ""),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, left: str) -> None:
    assert without_secrets(url) == left
    assert shown_url(url) == repr(left)


def test_text_of_a_client_is_shortened_to_ascii() -> None:
    assert shown("\u017c\x1b" + "a" * 1000) == r"'\u017c\x1b" + "a" * 98 + "'"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "no answer from wss://u:SECRET@h:8/p?k=SECRET, so",
            "no answer from wss://...@h:8/p?... so",
        ),
        ("'ws://SECRET@SECRET@h#SECRET'", "'ws://...@h#...'"),
        ('url="https://h/a?b"; (http://h)', 'url="https://h/a?..."; (http://h)'),
        ("ipc:///run/a/link.sock", "ipc:///run/a/link.sock"),
        ("tcp://127.0.0.1:80 and ws://[::1]:80/", "tcp://127.0.0.1:80 and ws://[::1]:80/"),
        ("is it a ? or an @", "is it a ? or an @"),
        ("://?@", "://?@"),
    ],
)
def test_no_secret_of_a_url_inside_a_text_is_shown(text: str, left: str) -> None:
    assert without_secrets_inside(text) == left


@pytest.mark.parametrize("text", ["a://" * 50_000, "a" * 200_000 + " a://", "a://" + "@" * 200_000])
def test_a_long_text_takes_linear_time(text: str) -> None:
    began = time.process_time()
    without_secrets_inside(text)
    assert time.process_time() - began < 5 * UNIT
