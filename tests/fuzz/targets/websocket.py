"""Uncompressed frames for both roles, compared with the library.

The first byte of an input chooses the role, and whether messages are joined.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from tests.fuzz.oracles import pieces
from tests.fuzz.targets import frames
from tests.fuzz.websockets_pair import accepted, dialled
from tests.library import LibraryAnswer
from wsraw.config.settings import Settings
from wsraw.gateway.websocket.websocket import WebSocket

LIMIT = 1000
SETTINGS = [Settings(max_message_size=LIMIT, messages=kind) for kind in ("frames", "whole")]
SEEDS = frames.SEEDS
WORDS = frames.WORDS
NEEDED = bytes(LIMIT + 14)
"""Any incomplete frame is complete with this many more bytes."""


def opened(number: int) -> WebSocket:
    start = dialled if number & 1 else accepted
    ws = start(SETTINGS[number >> 1 & 1], False).websocket
    assert ws is not None
    return ws


def feed(ws: WebSocket, chunks: Iterable[bytes]) -> list[tuple[str, bytes]]:
    """The messages, joined."""
    messages = []
    whole = b""
    for chunk in chunks:
        received = ws.receive_data(chunk)
        while ws.busy:
            received += ws.receive_data(b"")
        for data, kind, final in received:
            whole += data
            if final:
                messages.append((kind, whole))
                whole = b""
    return messages


def run(data: bytes) -> Hashable:
    number, wire = (data[0] % 4, data[1:]) if data else (0, b"")
    ws = opened(number)
    messages = feed(ws, pieces(wire))
    answer = LibraryAnswer(wire, not number & 1, LIMIT)
    assert messages == answer.messages
    assert ws.unfinished <= LIMIT + 13
    if ws.error and not answer.failed:
        # Our parser may find the error before the whole frame has come; with the rest the library
        # finds it, too.
        answer = LibraryAnswer(wire + NEEDED, not number & 1, LIMIT)
        assert answer.failed, ws.error
        assert answer.messages == messages
    assert bool(ws.error) is answer.failed, (ws.error, answer.code)
    assert ws.ended is bool(answer.code)
    # The library checks the length before the reserved bits.
    assert ws.close_code in (answer.code or 1006, 1002 if answer.failed else 0), ws.error
    if not number & 1:
        pongs = b"".join(bytes((0x8A, len(ping))) + ping for ping in answer.pings)
        assert b"".join(ws.output).startswith(pongs)
    return number, ws.error[:12], len(messages), len(answer.pings), ws.unfinished > 0
