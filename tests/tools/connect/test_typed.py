from __future__ import annotations

import pytest

from wsraw.tools.connect.typed import Close, Help, Item, Mistake, Ping, Say, parse


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ("hello", Say("hello")),
        ("", Say("")),
        (" /ping", Say(" /ping")),
        ("//ping", Say("/ping")),
        ("/ping", Ping(b"")),
        ("/ping abc", Ping(b"abc")),
        ("/close", Close(1000, "")),
        ("/close 4000", Close(4000, "")),
        ("/close 4000  to be  done ", Close(4000, "to be  done")),
        ("/binary 00 ff10", Say(b"\x00\xff\x10")),
        ("/binary", Say(b"")),
        ("/quit", Close(1000, "")),
        ("/help", Help()),
    ],
)
def test_a_line_for_a_websocket_is_text_or_a_command(line: str, item: Item) -> None:
    assert parse(line, is_websocket=True) == item


@pytest.mark.parametrize(
    ("line", "item"),
    [
        ("hello", Say(b"hello\r\n")),
        ("", Say(b"\r\n")),
        ("//x", Say(b"/x\r\n")),
        ("/binary 0a", Say(b"\n")),
        ("/close", Close(1000, "")),
        ("\udcff", Say(b"\xff\r\n")),
    ],
)
def test_a_line_for_a_stream_is_bytes_with_their_end(line: str, item: Item) -> None:
    assert parse(line, is_websocket=False, line_end="\r\n") == item


def test_a_line_becomes_a_binary_frame_if_that_is_asked_for() -> None:
    assert parse("é", is_websocket=True, as_bytes=True) == Say("é".encode())


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/pin", "/help lists them, and //pin sends /pin"),
        ("/", "// sends /"),
        ("/close 12", "12 is not a close code"),
        ("/close 1005", "not a close code"),
        ("/close bye", "not a close code"),
        ("/close 4000 " + "x" * 124, "at most 123 bytes"),
        ("/ping " + "é" * 63, "at most 125 bytes"),
        ("/binary 0", "/binary 00 ff 10"),
        ("/binary xx", "/binary 00 ff 10"),
        ("\udcff", "--binary"),
    ],
)
def test_a_mistake_says_what_to_write(line: str, hint: str) -> None:
    item = parse(line, is_websocket=True)
    assert isinstance(item, Mistake)
    assert hint in item.text


@pytest.mark.parametrize("line", ["/ping", "/close 4000"])
def test_what_only_a_websocket_has_is_refused_for_a_stream(line: str) -> None:
    item = parse(line, is_websocket=False)
    assert isinstance(item, Mistake)
    assert "only a WebSocket has" in item.text
