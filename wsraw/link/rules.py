"""Sans-I/O. Checks that both ends of the link make: close codes, HTTP headers, HOST:PORT, figures,
secrets."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable
from typing import Final

from wsraw.link.records import HANDLER_BOUNDS, HANDLERS, Stats

NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
"""The name of a field, or another token (RFC 9110, section 5.6.2)."""

VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""The value of a header field: a line break in it would begin another field or message."""

OF_REQUESTS: Final = frozenset(
    (
        "connection",
        "content-length",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    )
)
"""Header fields that the gateway itself writes when it opens a WebSocket."""

OF_ANSWERS: Final = OF_REQUESTS | {"sec-websocket-accept"}
"""Header fields that the gateway itself writes in an answer to a handshake."""

OF_RESPONSES: Final = frozenset(
    ("connection", "keep-alive", "trailer", "transfer-encoding", "upgrade")
)
"""Header fields that the gateway itself writes in a response to a request for handlers."""

_LOGIN: Final = re.compile(r"(?<=://)\S*@")
"""The possible user and password in a URL, which may be invalid: a password may contain any
character."""

_CLOSE_CODES: Final = frozenset((*range(1000, 1004), *range(1007, 1015)))
"""Codes below 3000 that may be sent (RFC 6455, section 7.4.1, and its registry)."""

MOST: Final = 1 << 40
"""Largest number of calls, exceptions or seconds in one record of a worker: so sums stay far below
64 bits."""

QUOTED: Final = 80
"""Characters of a header's name that an error quotes."""


def is_close_code(code: int) -> bool:
    """Whether a close frame may carry this code: 3000 to 4999 are free for libraries and
    applications."""
    return code in _CLOSE_CODES or 3000 <= code < 5000


def hide_logins(text: str) -> str:
    """A text for people, with dots in place of user and password in each of its URLs."""
    return _LOGIN.sub("...@", text) if "://" in text else text


FRAMINGS: Final = ("chunk", "line", "length")
"""What counts as a message in the bytes of a raw connection that is spliced with a WebSocket."""


def framing_problem(framing: object, type_: object) -> str:
    """Why a framing or a type of messages is invalid, or "". An empty value is the default."""
    if framing and framing not in FRAMINGS:
        return f"framing {str(framing)[:QUOTED]!r} is not one of {', '.join(FRAMINGS)}"
    if type_ and type_ not in ("text", "binary"):
        return f"type {str(type_)[:QUOTED]!r} is neither text nor binary"
    if type_ == "text" and framing not in ("line", "length"):
        return "type text needs framing line or length: a chunk can end within a character"
    return ""


def is_same_secret(one: str, other: str) -> bool:
    """Whether two secrets are equal, in a time that does not show how much of them is. Like
    hmac.compare_digest, which loads OpenSSL."""
    left, right = one.encode(), other.encode()
    if len(left) != len(right):
        return False
    differing = 0
    for here, there in zip(left, right, strict=True):
        differing |= here ^ there
    return not differing


def header_problem(headers: Iterable[tuple[str, str]], reserved: Container[str]) -> str:
    """Why these headers cannot be sent, or "". `reserved` are in lower case."""
    for name, value in headers:
        if not NAME.fullmatch(name):
            return f"{name[:QUOTED]!r} is not a header name: write ASCII letters, digits and -"
        if not VALUE.fullmatch(value):
            # Not quoted, because it may be a password. A line break would begin another header.
            return f"the header {name[:QUOTED]} must be one line of Latin-1 characters"
        if name.lower() in reserved:
            return f"the header {name[:QUOTED]} is set by the gateway"
    return ""


def split_host_port(text: str) -> tuple[str, int | None] | None:
    """The host, without brackets, and the port (0 to 65535, or None) of HOST, HOST:PORT or
    [IPV6]:PORT. None if the text is something else."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, ""
    # A port has five digits; int() refuses thousands of them, and takes other digits than ASCII's.
    elif not (port.isascii() and port.isdigit() and len(port) < 10 and int(port) < 65536):
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    return (host, int(port) if port else None) if host else None


def stats_refusal(stats: Stats) -> str | None:
    """Why figures of a worker cannot be counted, or None."""
    if stats.handler not in HANDLERS:
        return f"{stats.handler[:40]!r} is not a handler; there are {', '.join(HANDLERS)}"
    if not 0 <= stats.seconds <= MOST:
        return f"seconds must be a number from 0 to {MOST}"
    if len(stats.slower) > len(HANDLER_BOUNDS):
        return f"slower has more than {len(HANDLER_BOUNDS)} counts"
    if min(stats.calls, stats.exceptions, *stats.slower) < 0:
        return "calls, exceptions and slower must not be negative"
    if max(stats.calls, stats.exceptions) > MOST:
        return f"calls and exceptions are {MOST} at most"
    if sum(stats.slower) > stats.calls:
        return "slower has more calls than there were"
    return None
