"""Sans-I/O. What a client speaks (raw, WebSocket or plain HTTP), found from its first bytes.

- The first byte that cannot belong to an HTTP method and a space makes a connection raw. The known
  methods are those of common servers: waiting for the end of any word would delay raw clients. A
  listener for WebSockets alone has no raw clients, and takes any word in capitals for a method.
- Behind the method, the first line decides: if it is not ``METHOD target HTTP/1.x`` when it ends,
  the connection is raw. If the line does not end within MAX_LINE, the connection is raw if the line
  cannot become a valid one; else it is a request, and too big: a web page can choose the target.
- Once that line is valid, the connection is HTTP and cannot become raw by accident: a handler must
  not get half a request, with its cookies, as data. The complete head says whether it asks for
  an upgrade to ``websocket``; only a GET can.

It does not matter how the bytes are split: limits count from the first byte, not from the end of a
read. Each byte is looked at a bounded number of times, so that a client that sends single bytes
costs no more than others.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

MAX_LINE: Final = 8 * 1024
"""Bytes of a line, including its end; nginx and Apache allow as much."""

MAX_HEAD: Final = 16 * 1024
"""Bytes of the whole head, if no other bound is given; Apache and Node have the same."""

MAX_HEADERS: Final = 100
"""Headers in the head; the bound is Apache's."""

METHODS: Final = (
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"OPTIONS ",
    b"PUT ",
    b"DELETE ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
)

_FIRST: Final = frozenset(method[0] for method in METHODS)

_ANY_METHOD: Final = re.compile(rb"[A-Z][A-Z-]{0,31}(?: .*)?", re.DOTALL)
"""The beginning of a request on a listener without raw clients."""
_LONGEST_METHOD: Final = 33

# The target may hold bytes that no URL may: such a request is invalid HTTP, but still not raw data.
_REQUEST_LINE: Final = re.compile(rb"[A-Z-]+ [\x21-\x7e\x80-\xff]+ HTTP/1\.[0-9]\r?\n")

_BEGUN_LINE: Final = re.compile(
    rb"[A-Z-]+ [\x21-\x7e\x80-\xff]+(?: (?:HTTP/1\.[0-9]\r?|HTTP/1\.?|HTTP/?|HTT|HT|H)?)?"
)
"""An incomplete line that can still become a request line."""

# A lone LF ends a line too (RFC 9112, section 2.2).
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_UPGRADE: Final = re.compile(rb"\nupgrade:([^\n]*)", re.IGNORECASE)


def speaks_http(start: bytes) -> bool | None:
    """Whether the first bytes of a connection are an HTTP method; None if they can still become
    one."""
    if start and start[0] not in _FIRST:
        return False
    can_become = False
    for method in METHODS:
        if start.startswith(method):
            return True
        can_become = can_become or method.startswith(start)
    return None if can_become else False


class Finding(Enum):
    """What the bytes so far are."""

    UNKNOWN = "unknown"
    """The bytes can still become anything."""
    RAW = "raw"
    HTTP = "http"
    """The request line is valid, the head is not complete."""
    WEBSOCKET = "websocket"
    """The head is complete and asks for an upgrade to websocket."""
    PLAIN_HTTP = "plain http"
    """The head is complete and does not ask for an upgrade to websocket."""
    TOO_BIG = "too big"
    """HTTP, but the head, or a line of a handshake, exceeds its bound, or there are too many
    headers."""


class Sniffer:
    """Holds the first bytes of one connection until they say what it is."""

    __slots__ = (
        "_any_method",
        "_max_head",
        "_seen",
        "buffer",
        "finding",
        "head_size",
    )

    def __init__(self, max_head: int = MAX_HEAD, any_method: bool = False) -> None:
        self._max_head = max_head
        self._any_method = any_method
        self.buffer = bytearray()
        """All bytes so far, to be replayed."""
        self.finding = Finding.UNKNOWN
        self.head_size = 0
        """The size of the head in `buffer`, once it is complete."""
        self._seen = 0

    def receive_data(self, data: bytes) -> Finding:
        """Add bytes; the finding does not depend on how they are split."""
        self.buffer += data
        if self.finding is Finding.UNKNOWN:
            self._check_line()
        if self.finding is Finding.HTTP:
            self._check_head()
        return self.finding

    def _check_line(self) -> None:
        buffer = self.buffer
        if not self._can_be_http(bytes(buffer[:_LONGEST_METHOD])):
            self.finding = Finding.RAW
            return
        end = buffer.find(b"\n", self._seen, MAX_LINE)
        if end >= 0:
            valid = _REQUEST_LINE.fullmatch(buffer, 0, end + 1)
            self.finding = Finding.HTTP if valid else Finding.RAW
            self._seen = end
        elif len(buffer) >= MAX_LINE:
            begun = _BEGUN_LINE.fullmatch(buffer, 0, MAX_LINE)
            self.finding = Finding.TOO_BIG if begun else Finding.RAW
        else:
            self._seen = len(buffer)

    def _can_be_http(self, start: bytes) -> bool:
        if self._any_method:
            return _ANY_METHOD.fullmatch(start) is not None or not start
        return speaks_http(start) is not False

    def _check_head(self) -> None:
        buffer = self.buffer
        end = _HEAD_END.search(buffer, self._seen, self._max_head)
        if end is not None:
            self.head_size = end.end()
            # The lines, without the first one and the empty one.
            if buffer.count(b"\n", 0, self.head_size) - 2 > MAX_HEADERS:
                self.finding = Finding.TOO_BIG
                return
            self.finding = Finding.PLAIN_HTTP
            if not buffer.startswith(b"GET "):
                return
            for tokens in _UPGRADE.findall(buffer, 0, self.head_size):
                if any(token.strip().lower() == b"websocket" for token in tokens.split(b",")):
                    self.finding = Finding.WEBSOCKET
            if self.finding is Finding.WEBSOCKET and self.head_size > MAX_LINE:
                lines = bytes(buffer[: self.head_size]).split(b"\n")
                # As if each line ended with CRLF.
                if any(len(line.rstrip(b"\r")) + 2 > MAX_LINE for line in lines):
                    self.finding = Finding.TOO_BIG
        elif len(buffer) >= self._max_head:
            self.finding = Finding.TOO_BIG
        else:
            # The end of the head can begin with the last two bytes received.
            self._seen = max(self._seen, len(buffer) - 2)
