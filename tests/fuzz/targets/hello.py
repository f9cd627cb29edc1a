"""The first message of TLS, compared with a second parser and with OpenSSL."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Hashable, Iterator

from tests.authority import server_context
from tests.fuzz.oracles import pieces
from tests.gateway.tls.handshake_messages import (
    FFDHE2048,
    FFDHE8192,
    GREASE,
    P256,
    X25519,
    extension,
    message,
    named,
    records,
    retry,
    server_message,
    supported,
    vector,
)
from wsraw.gateway.tls.client_hello import MAX_HELLO, MAX_WARNINGS, HelloReader

KEY = struct.pack("!H", X25519) + vector(b"\x09" + bytes(31), 2)
GOOD = [
    extension(43, vector(b"\3\4\3\3", 1)),
    extension(13, vector(b"\4\3\10\4", 2)),
    extension(51, vector(KEY, 2)),
]
HELLOS = [
    message(*GOOD, supported(X25519)),
    message(named(b"example.org"), *GOOD, supported(X25519, P256, FFDHE8192)),
    message(*GOOD[:2], extension(51, vector(b"", 2)), supported(GREASE, FFDHE8192)),
    message(*GOOD[:2], extension(51, vector(b"", 2)), supported(GREASE, FFDHE8192, P256)),
    message(),
]
# The first byte chooses the sender of the hello, and how much is put around the rest: nothing;
# records; also the head of a message; also all fields before a client's extensions.
BARE = 4 + 2 + 32 + 1 + 4 + 2 + 2
SEEDS = [
    *(b"\0" + records(hello, size) for hello in HELLOS for size in (7, 16384)),
    *(b"\2" + hello for hello in HELLOS),
    *(b"\4" + hello[4:] for hello in HELLOS),
    *(b"\6" + hello[BARE:] for hello in HELLOS),
    b"\1" + retry(P256),
    b"\1" + retry(FFDHE2048),
    b"\1\x15\3\3\0\2\1\x70" + retry(FFDHE8192),
    b"\1\x15\3\3\0\2\2\x28",
    b"\3" + server_message(shares=KEY),
    b"\5" + server_message(shares=KEY)[4:],
]
WORDS = [
    supported(GREASE, FFDHE8192),
    supported(FFDHE8192, X25519),
    supported(P256),
    extension(51, vector(struct.pack("!H", FFDHE8192) + vector(bytes(8), 2), 2)),
    named(b"a.b"),
    named(b"\xff"),
    b"\x16\3\1",
    b"\x15\3\3\0\2\1\x70",
    b"\1\4",
    struct.pack("!H", X25519),
]

CONTEXT = server_context()


class _WrongError(Exception):
    """The data is wrong; the text says why."""


class _MoreError(Exception):
    """The data ends too early."""


class _Text:
    """Data that is read from its beginning to its end."""

    def __init__(self, data: bytes) -> None:
        self.left = memoryview(data)

    def bytes(self, size: int) -> bytes:
        if size > len(self.left):
            raise _MoreError
        part, self.left = self.left[:size], self.left[size:]
        return bytes(part)

    def number(self, width: int) -> int:
        return int.from_bytes(self.bytes(width), "big")

    def vector(self, width: int) -> _Text:
        return _Text(self.bytes(self.number(width)))


def _contents(text: _Text, of_server: bool) -> Iterator[bytes]:
    """The contents of the records, one by one."""
    if text.left and text.left[0] != 22 and not of_server:
        # The first byte alone shows this.
        raise _WrongError("malformed")
    used = warnings = 0
    begun = False
    while True:
        kind, major, _, size = *text.bytes(3), text.number(2)
        alert = (kind, size, of_server, begun) == (21, 2, True, False)
        if major != 3 or size not in range(1, 16385) or not (alert or kind == 22):
            raise _WrongError("malformed")
        part = text.bytes(size)
        used += 5 + size
        if not alert:
            begun = True
            yield part
            if used > 2 * MAX_HELLO:
                raise _WrongError("too long")
        elif part[0] != 1:
            raise _WrongError("")
        else:
            warnings += 1
            if warnings > MAX_WARNINGS:
                raise _WrongError("malformed")


def _whole(text: _Text, of_server: bool) -> _Text:
    """The first message."""
    got = b""
    for part in _contents(text, of_server):
        got += part
        if got[0] != (2 if of_server else 1):
            raise _WrongError("malformed")
        if len(got) >= 4:
            size = int.from_bytes(got[1:4], "big")
            if size > MAX_HELLO:
                raise _WrongError("too long")
            if len(got) >= 4 + size:
                return _Text(got[4 : 4 + size])
    raise AssertionError("it ends with an exception")


def _extensions(text: _Text) -> Iterator[tuple[int, _Text]]:
    if text.left:
        each = text.vector(2)
        while each.left:
            yield each.number(2), each.vector(2)


def _of_client(text: _Text) -> tuple[str, str]:
    text.bytes(34)
    for width in (1, 2, 1):
        text.vector(width)
    name = ""
    for kind, value in _extensions(text):
        if kind == 0:
            name = _name(value.vector(2))
        elif kind == 10:
            listed = bytes(value.vector(2).left)
            groups = [*struct.unpack(f"!{len(listed) // 2}H", listed[: len(listed) // 2 * 2])]
            # Half a group at the end is an unknown group, unless it begins with 1.
            expensive = (
                any(group >> 8 == 1 for group in groups) or listed[len(groups) * 2 :] == b"\1"
            )
            if expensive and not {23, 24, 25, 29, 30} & set(groups):
                return "costly", ""
        elif kind == 51:
            shares = value.vector(2)
            while shares.left:
                if shares.left[0] == 1:
                    return "costly", ""
                shares.bytes(2)
                shares.vector(2)
    return "", name


def _name(names: _Text) -> str:
    while names.left:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            text = bytes(name.left)
            if not text.isascii():
                raise _WrongError("malformed")
            return text.decode("latin-1").lower()
    return ""


def _of_server(text: _Text) -> tuple[str, str]:
    text.bytes(34)
    text.vector(1)
    text.bytes(3)
    for kind, value in _extensions(text):
        if kind == 51 and value.number(1) == 1:
            return "costly", ""
    return "", ""


def expected(data: bytes, of_server: bool) -> tuple[str, str]:
    """The expected result: `more`, or the error, and the name in the hello."""
    try:
        text = _whole(_Text(data), of_server)
    except _MoreError:
        return "more", ""
    except _WrongError as wrong:
        return str(wrong), ""
    try:
        return _of_server(text) if of_server else _of_client(text)
    except (_MoreError, _WrongError):
        return "malformed", ""


TOLD = {
    "": "",
    "its first message is not a hello of TLS": "malformed",
    "its first message is too long": "too long",
    "it asks for a finite-field key exchange": "costly",
}


def read(parts: Iterator[bytes], of_server: bool) -> tuple[str, str]:
    reader = HelloReader(of_server=of_server)
    seen = b""
    for part in parts:
        seen += part
        hello = reader.receive_data(part)
        assert reader.buffer == seen
        if hello is not None:
            assert bool(hello.alert) is bool(hello.error)
            return TOLD[hello.error], hello.server_name
    return "more", ""


def wrap(data: bytes) -> tuple[bytes, bool]:
    """The input, put into the frame that the first byte chooses."""
    how, data = data[0] if data else 0, data[1:]
    of_server, depth = bool(how & 1), how >> 1 & 3
    if depth == 3:
        data = message()[4:BARE] + vector(data, 2)
    if depth >= 2:
        data = (b"\2" if of_server else b"\1") + vector(data, 3)
    return records(data) if depth else data, of_server


def ask_openssl(data: bytes, name: str) -> str:
    """Check that OpenSSL asks for no expensive group after an accepted hello, and that both read
    the same name.
    """
    names: list[str | None] = []
    CONTEXT.sni_callback = lambda _sock, given, _context: names.append(given)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = CONTEXT.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(data)
    try:
        server.do_handshake()
    except ssl.SSLWantReadError:
        assert [(given or "").lower() for given in names] == [name]
        verdict, _ = read(iter([outgoing.read()]), True)
        assert verdict == "", "a group that costs too much"
        return "shakes"
    except ssl.SSLError:
        return "refuses"
    raise AssertionError("it stands after one message")


def run(data: bytes) -> Hashable:
    data, of_server = wrap(data)
    told = read(iter([data] if data else []), of_server)
    assert told == expected(data, of_server)
    assert told == read(pieces(data), of_server)
    verdict, name = told
    openssl = "" if verdict or of_server else ask_openssl(data, name)
    return verdict, bool(name), of_server, openssl, len(data).bit_length()
