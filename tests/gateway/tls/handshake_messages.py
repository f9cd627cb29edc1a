"""The first messages of TLS, built by hand."""

from __future__ import annotations

import struct

from wsraw.gateway.tls.client_hello import MAX_RECORD

X25519, P256, FFDHE2048, FFDHE8192 = 0x1D, 0x17, 0x100, 0x104
GREASE, UNKNOWN = 0x2A2A, 0x9999


def vector(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(data, 2)


def shares(*groups: int) -> bytes:
    entries = b"".join(struct.pack("!H", group) + vector(b"key", 2) for group in groups)
    return extension(51, vector(entries, 2))


def supported(*groups: int) -> bytes:
    return extension(10, vector(struct.pack(f"!{len(groups)}H", *groups), 2))


def named(name: bytes) -> bytes:
    return extension(0, vector(b"\0" + vector(name, 2), 2))


def message(*extensions: bytes, size: int = 0) -> bytes:
    body = b"\3\3" + bytes(32) + vector(b"", 1) + vector(b"\x13\1", 2) + vector(b"\0", 1)
    body += vector(b"".join(extensions) + extension(21, bytes(size)), 2)
    return b"\1" + vector(body, 3)


def records(data: bytes, size: int = MAX_RECORD) -> bytes:
    return b"".join(
        b"\x16\3\1" + vector(data[at : at + size], 2) for at in range(0, len(data), size)
    )


RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
"""The random bytes that make a ServerHello a HelloRetryRequest (RFC 8446, section 4.1.3)."""


def server_message(*, random: bytes = bytes(32), shares: bytes) -> bytes:
    """`shares` is the content of the extension key_share."""
    body = b"\3\3" + random + vector(b"", 1) + b"\x13\2" + b"\0"
    body += vector(extension(43, b"\3\4") + extension(51, shares), 2)
    return b"\2" + vector(body, 3)


def retry(group: int) -> bytes:
    """A HelloRetryRequest for a key of that group."""
    return records(server_message(random=RETRY, shares=struct.pack("!H", group)))
