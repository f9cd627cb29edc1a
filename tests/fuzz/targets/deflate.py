"""Compressed frames, good and bad, compared with zlib itself.

An input is a setting, then frames: a first byte, a length in two bytes, a payload. Each frame is
whole: only its payload is fuzzed.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable

from tests.corpus import frame
from tests.fuzz.frames import check
from wsraw.link.records import OnMessage

TAIL = b"\x00\x00\xff\xff"


def deflated(data: bytes) -> bytes:
    # Level 9, with a window as small as ours, and no context.
    engine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (engine.compress(data) + engine.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def piece(head: int, payload: bytes) -> bytes:
    return bytes((head, len(payload) >> 8, len(payload) & 255)) + payload


_BOMB = deflated(bytes(3_000_000))[:2000]
_TEXT = deflated("héllo wörld ".encode() * 20)
SEEDS = [
    bytes((number,)) + data
    for number in (2, 6, 10, 14, 3, 7)
    for data in (
        piece(0xC1, _TEXT),
        piece(0x41, _TEXT[:9]) + piece(0x89, b"p") + piece(0x80, _TEXT[9:]),
        piece(0xC2, _BOMB),
        piece(0x42, _BOMB[:900]) + piece(0x00, _BOMB[900:]) + piece(0x80, b""),
        piece(0xC2, deflated(b"x" * 999)) + piece(0x82, b"plain") + piece(0xC1, b"\x00"),
        piece(0xC2, zlib.compress(b"last", 9)[2:-4] + b"rest"),
    )
]
WORDS = [TAIL, b"\x00", b"\x02\x00", b"\x03\x00", _TEXT, _BOMB[:300], piece(0xC1, _TEXT)]


def frames_of(data: bytes) -> list[tuple[int, bytes]]:
    frames = []
    while len(data) >= 3:
        size = int.from_bytes(data[1:3]) % 4096
        frames.append((data[0], data[3 : 3 + size]))
        data = data[3 + size :]
    return frames


def wire_of(frames: list[tuple[int, bytes]]) -> bytes:
    """Frames as a client sends them."""
    return b"".join(frame(head, payload, bytes(4)) for head, payload in frames)


def expected(frames: list[tuple[int, bytes]], limit: int) -> list[tuple[str, bytes]] | None:
    """The messages if everything is valid, else None."""
    messages = []
    kind = ""
    engine = None
    whole = b""
    for head, payload in frames:
        opcode, final = head & 15, bool(head & 0x80)
        if opcode in (9, 10) and final and not head & 0x70 and len(payload) <= 125:
            continue
        if head & 0x30 or (opcode not in (1, 2) if not kind else (opcode or head & 0x40)):
            return None
        if not kind:
            kind = "text" if opcode == 1 else "binary"
            engine = zlib.decompressobj(-15) if head & 0x40 else None
            whole = b""
        try:
            if engine is None:
                whole += payload
            else:
                whole += engine.decompress(payload + (TAIL if final else b""), limit + 1)
                if engine.eof:
                    # More data may follow the last block of deflate, which zlib alone does not
                    # report.
                    return None
        except zlib.error:
            return None
        if len(whole) > limit:
            return None
        if final:
            try:
                whole.decode("utf-8" if kind == "text" else "latin-1")
            except UnicodeDecodeError:
                return None
            messages.append((kind, whole))
            kind = ""
    return None if kind else messages


def run(data: bytes) -> Hashable:
    number = (data[0] % 16 if data else 0) | 2
    frames = frames_of(data[1:])
    if number & 1:
        wire = b"".join(_unmasked(head, payload) for head, payload in frames)
    else:
        wire = wire_of(frames)
    con, events, result = check(number, wire)
    messages = expected(frames, con.settings.max_message_size)
    if messages is not None:
        # Only the EOF must have ended the connection.
        assert con.ending.cause == "lost", (con.ending.code, con.ending.reason)
        assert _joined(events) == messages
    return number, result


def _unmasked(head: int, payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((head, size)) if size < 126 else bytes((head, 126)) + size.to_bytes(2)) + payload


def _joined(events: list[OnMessage]) -> list[tuple[str, bytes]]:
    messages = []
    whole = b""
    for event in events:
        if type(event) is OnMessage:
            whole += event.data
            if event.final:
                messages.append((event.type, whole))
                whole = b""
    return messages
