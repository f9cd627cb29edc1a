"""Sans-I/O. A TLS peer's first message, read before OpenSSL sees it (RFC 8446, section 4.1).

Two things must be known first: the server name that a client asks for, because each name can have
its own certificate; and whether the peer asks for a key exchange that would keep the loop busy. A
finite-field group of 8192 bits costs us 170 ms and a client nothing (the D(HE)at attack), and
Python before 3.15 cannot disable those groups. They are not needed: every client that offers them
also offers elliptic curves.

A client lists its groups at once, but the choice may take a second round, so all of them count. A
server that we connect to names the group that it wants, in its ServerHello or in a
HelloRetryRequest, which has the same form.

Anything else is refused here, so that OpenSSL and this parser never read it differently.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HANDSHAKE: Final = 22
"""The first byte of a TLS connection: the content type of its first record."""

MAX_HELLO: Final = 32 * 1024
"""Bytes of a hello; today's largest, with a post-quantum key share and a ticket, have 2 KiB."""

MAX_RECORD: Final = 16 * 1024
RECORD_HEAD: Final = 5

MAX_WARNINGS: Final = 4
"""Warning alerts that a server may send first; OpenSSL allows as many."""

_CLIENT_HELLO: Final = 1
_SERVER_HELLO: Final = 2
_ALERT: Final = 21
_WARNING: Final = 1
_SERVER_NAME: Final = 0
_SUPPORTED_GROUPS: Final = 10
_KEY_SHARE: Final = 51
_HOST_NAME: Final = 0
_CURVES: Final = frozenset(bytes((0, number)) for number in (0x17, 0x18, 0x19, 0x1D, 0x1E))
"""P-256, P-384, P-521, X25519 and X448: with one of them on offer OpenSSL takes no other group
(RFC 8446, section 4.2.7)."""

ALERT_HANDSHAKE_FAILURE: Final = bytes((21, 3, 1, 0, 2, 2, 40))
ALERT_DECODE_ERROR: Final = bytes((21, 3, 1, 0, 2, 2, 50))


class TlsHello(NamedTuple):
    """The result of reading a hello. If `error` is set, the hello is refused, and `alert` tells the
    peer."""

    server_name: str = ""
    error: str = ""
    alert: bytes = b""


_MALFORMED: Final = TlsHello("", "its first message is not a hello of TLS", ALERT_DECODE_ERROR)
_TOO_LONG: Final = TlsHello("", "its first message is too long", ALERT_DECODE_ERROR)
_EXPENSIVE: Final = TlsHello("", "it asks for a finite-field key exchange", ALERT_HANDSHAKE_FAILURE)


class HelloReader:
    """Collects the first bytes of a peer until its hello is complete."""

    __slots__ = ("_message", "_of_server", "_start", "_warnings", "buffer")

    def __init__(self, *, of_server: bool = False) -> None:
        self.buffer = bytearray()
        """All bytes so far, to be replayed."""
        self._of_server = of_server
        self._message = bytearray()
        self._start = 0
        self._warnings = 0

    def receive_data(self, data: bytes) -> TlsHello | None:
        """Read the hello, if it is complete; None: more bytes are needed. The result does not
        depend on how the bytes are split. Never raises."""
        buffer, message = self.buffer, self._message
        buffer += data
        if buffer and buffer[0] != HANDSHAKE and not self._of_server:
            return _MALFORMED
        while len(buffer) - self._start >= RECORD_HEAD:
            kind, major, _, *length = buffer[self._start : self._start + RECORD_HEAD]
            size = int.from_bytes(bytes(length), "big")
            is_alert = kind == _ALERT and self._of_server and size == 2 and not message
            if major != 3 or not 0 < size <= MAX_RECORD or not (is_alert or kind == HANDSHAKE):
                return _MALFORMED
            if len(buffer) - self._start - RECORD_HEAD < size:
                break
            self._start += RECORD_HEAD
            part = buffer[self._start : self._start + size]
            self._start += size
            if is_alert:
                # A fatal alert is for OpenSSL to explain. A warning says that the server does not
                # know the name that we have sent (RFC 6066, section 3).
                if part[0] != _WARNING:
                    return TlsHello()
                self._warnings += 1
                if self._warnings > MAX_WARNINGS:
                    return _MALFORMED
                continue
            message += part
            hello = self._read(message)
            if hello is not None:
                return hello
            if self._start > 2 * MAX_HELLO:
                # The hello comes in many tiny records, whose headers are longer than their content.
                return _TOO_LONG
        return None

    def _read(self, message: bytearray) -> TlsHello | None:
        if message[0] != (_SERVER_HELLO if self._of_server else _CLIENT_HELLO):
            return _MALFORMED
        length = int.from_bytes(message[1:4], "big")
        if len(message) < 4:
            return None
        if length > MAX_HELLO:
            return _TOO_LONG
        if len(message) - 4 < length:
            return None
        body = bytes(message[4 : 4 + length])
        try:
            return _read_server_hello(body) if self._of_server else _read_client_hello(body)
        except (ValueError, IndexError):
            return _MALFORMED


def _read_client_hello(body: bytes) -> TlsHello:
    body = body[2 + 32 :]
    _, body = _take(body, 1)  # session id
    _, body = _take(body, 2)  # cipher suites
    _, body = _take(body, 1)  # compression methods
    extensions, _ = _take(body, 2) if body else (b"", b"")
    name = ""
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        value, extensions = _take(extensions[2:], 2)
        if kind == _SERVER_NAME:
            name = _server_name(value)
        elif kind == _SUPPORTED_GROUPS:
            groups, _ = _take(value, 2)
            numbers = {groups[at : at + 2] for at in range(0, len(groups), 2)}
            # Unknown groups do not count: browsers put one first (RFC 8701), and OpenSSL skips
            # them.
            if any(map(_is_expensive, numbers)) and numbers.isdisjoint(_CURVES):
                return _EXPENSIVE
        elif kind == _KEY_SHARE:
            shares, _ = _take(value, 2)
            while shares:
                if _is_expensive(shares[:2]):
                    return _EXPENSIVE
                _, shares = _take(shares[2:], 2)
    return TlsHello(name)


def _read_server_hello(body: bytes) -> TlsHello:
    _, body = _take(body[2 + 32 :], 1)  # session id
    if len(body) < 2 + 1:  # cipher suite, compression method
        raise ValueError("it ends too early")
    body = body[2 + 1 :]
    extensions, _ = _take(body, 2) if body else (b"", b"")
    while extensions:
        kind = int.from_bytes(extensions[:2], "big")
        value, extensions = _take(extensions[2:], 2)
        if kind == _KEY_SHARE and _is_expensive(value):
            return _EXPENSIVE
    return TlsHello()


def _is_expensive(group: bytes) -> bool:
    """Whether a group is one of ffdhe2048 to ffdhe8192 (RFC 7919, section 2)."""
    return group[0] == 1


def _server_name(value: bytes) -> str:
    names, _ = _take(value, 2)
    while names:
        kind = names[0]
        name, names = _take(names[1:], 2)
        if kind == _HOST_NAME:
            # Other scripts are encoded as A-labels (RFC 6066, section 3).
            return name.decode("ascii").lower()
    return ""


def _take(data: bytes, width: int) -> tuple[bytes, bytes]:
    """Split off a vector that begins with its length. Raises ValueError."""
    size = int.from_bytes(data[:width], "big")
    if len(data) < width + size:
        raise ValueError("a vector is longer than what holds it")
    return data[width : width + size], data[width + size :]
