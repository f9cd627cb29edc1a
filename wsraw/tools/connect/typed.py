"""Sans-I/O. What a typed line means: data to send, or a command that begins with a slash."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias

from wsraw.link.rules import is_close_code

MOST_OF_A_PING: Final = 125
MOST_OF_A_REASON: Final = 123
"""Bytes of the data of a ping, and of a close reason (RFC 6455, section 5.5)."""

HELP: Final = """\
/ping [TEXT]            send a ping, and show how long the answer takes
/close [CODE [REASON]]  close the connection, with 1000 if no code is given
/binary HEX             send bytes: /binary 00 ff 10
/quit                   close the connection and leave, as Ctrl-D does
//TEXT                  send /TEXT
anything else           send the line\
"""


class Say(NamedTuple):
    """Data to send: text, or bytes."""

    data: str | bytes


class Ping(NamedTuple):
    """A ping to send."""

    data: bytes


class Close(NamedTuple):
    """The user wants to close the connection."""

    code: int
    reason: str


class Help(NamedTuple):
    """The user wants to see the commands."""


class Mistake(NamedTuple):
    """The line has no meaning; the text says what to write."""

    text: str


Item: TypeAlias = Say | Ping | Close | Help | Mistake


def parse(line: str, *, is_websocket: bool, as_bytes: bool = False, line_end: str = "") -> Item:
    """The meaning of a line without its end.

    `as_bytes`: data becomes a binary frame. `line_end` is added for a raw peer.
    """
    if not line.startswith("/") or line.startswith("//"):
        text = line.removeprefix("/") if line.startswith("//") else line
        return say(text, is_websocket=is_websocket, as_bytes=as_bytes, line_end=line_end)
    command, _, rest = line.partition(" ")
    rest = rest.strip()
    match command:
        case "/ping":
            return _ping(rest, is_websocket)
        case "/close":
            return _close(rest, is_websocket)
        case "/binary":
            return _binary(rest)
        case "/quit":
            return Close(1000, "")
        case "/help":
            return Help()
    return Mistake(f"{command} is not a command; /help lists them, and /{line} sends {line}")


def say(text: str, *, is_websocket: bool, as_bytes: bool, line_end: str) -> Say | Mistake:
    """Data to send. Bytes that were not UTF-8 are surrogates in the text."""
    if is_websocket and not as_bytes:
        try:
            text.encode()
        except UnicodeEncodeError:
            return Mistake("the text is not UTF-8: send bytes with --binary, or with /binary HEX")
        return Say(text)
    return Say((text + line_end).encode("utf-8", "surrogateescape"))


def _ping(rest: str, is_websocket: bool) -> Item:
    data = rest.encode("utf-8", "surrogateescape")
    if not is_websocket:
        return Mistake("only a WebSocket has pings")
    if len(data) > MOST_OF_A_PING:
        return Mistake(f"a ping has at most {MOST_OF_A_PING} bytes")
    return Ping(data)


def _close(rest: str, is_websocket: bool) -> Item:
    if not rest:
        return Close(1000, "")
    if not is_websocket:
        return Mistake("only a WebSocket has close codes: write /close")
    code, _, reason = rest.partition(" ")
    number = int(code) if code.isascii() and code.isdigit() and len(code) == 4 else 0
    if not is_close_code(number):
        return Mistake(
            f"{code} is not a close code: write 1000 (normal), 1001, 1008, 1011 or one from 3000 "
            "to 4999, as in /close 4000 bye"
        )
    if len(reason.strip().encode("utf-8", "surrogateescape")) > MOST_OF_A_REASON:
        return Mistake(f"a reason has at most {MOST_OF_A_REASON} bytes")
    return Close(number, reason.strip())


def _binary(rest: str) -> Item:
    try:
        return Say(bytes.fromhex(rest))
    except ValueError:
        return Mistake("/binary: write pairs of hex digits, as in /binary 00 ff 10")
