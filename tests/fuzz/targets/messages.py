"""Valid messages, written by the serializer of websockets: each is read unchanged.

An input is a recipe: a setting, then the size and the cuts of each message.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Hashable

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from tests.fuzz.frames import SETTINGS, check
from tests.fuzz.recipe import Recipe
from wsraw.link.records import OnMessage

SIZES = (0, 1, 2, 5, 31, 125, 126, 127, 300, 1000, 5000)
TEXT = "aé€😀 plain text, mostly. " * 240
SEEDS = [random.Random(n).randbytes(40) for n in range(60)]


@functools.cache
def _content(kind: str, size: int) -> bytes:
    if kind == "binary":
        return random.Random(size).randbytes(size)
    # A message has whole code points, which its fragments may cut.
    return TEXT.encode()[:size].decode(errors="ignore").encode()


def serialize(recipe: Recipe, number: int) -> tuple[bytes, list[tuple[str, bytes]], list[bytes]]:
    """The bytes, the messages in them, and the pings between them."""
    masked = not number & 1
    extensions = [PerMessageDeflate(True, True, 15, 15)] if number & 2 else []
    limit = SETTINGS[number >> 2].max_message_size
    wire = []
    messages = []
    pings = []
    while recipe and len(messages) < 12:
        kind = recipe.pick(("text", "binary"))
        size = min(recipe.pick(SIZES), limit)
        data = _content(kind, size)
        messages.append((kind, data))
        opcode = Opcode.TEXT if kind == "text" else Opcode.BINARY
        using = extensions if recipe.byte() & 1 else []
        rest = data
        while True:
            cut = recipe.byte()
            if cut & 1:
                ping = recipe.take(cut >> 1 & 3)
                pings.append(ping)
                wire.append(Frame(Opcode.PING, ping).serialize(mask=masked))
            size = len(rest) if cut & 6 == 0 else len(rest) * cut // 256
            final = cut & 6 == 0 or len(wire) > 60
            part, rest = (rest, b"") if final else (rest[:size], rest[size:])
            frame = Frame(opcode, part, final)
            wire.append(frame.serialize(mask=masked, extensions=using))
            opcode = Opcode.CONT
            if final:
                break
    return b"".join(wire), messages, pings


def run(data: bytes) -> Hashable:
    recipe = Recipe(data)
    number = recipe.byte() % 16
    wire, messages, pings = serialize(recipe, number)
    con, events, result = check(number, wire)
    assert con.ending.cause == "lost", (con.ending.code, con.ending.reason)
    whole = b""
    heard = []
    for event in events:
        assert type(event) is OnMessage
        whole += event.data
        if event.final:
            heard.append((event.type, whole))
            whole = b""
    assert heard == messages
    if not con.opened:
        pongs = [Frame(Opcode.PONG, ping).serialize(mask=False) for ping in pings]
        assert b"".join(con.output.chunks).startswith(b"".join(pongs))
    return number, result
