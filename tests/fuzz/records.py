"""Records of the link made from bytes: well-formed, and seldom sensible."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, get_args, get_origin

import msgspec

from tests.fuzz.recipe import Recipe

EPOCH = 1 << 36

NUMBERS = (
    0, 1, 2, 3, 4, 5, 100, 10_000, -1, EPOCH | 1, EPOCH | 2, EPOCH | 3, EPOCH | 5, EPOCH | 4097,
    EPOCH | 4098, EPOCH | 4099, EPOCH | 4200, EPOCH | 8193, EPOCH | 8194, EPOCH | 2**35,
    2 * EPOCH | 1, 1000,
    1001, 1009, 4000, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63),
)  # fmt: skip
TEXTS = (
    "", "default", "text", "binary", "raw", "websocket", "ids", "members", "group", "127.0.0.1:1",
    "ws://127.0.0.1:1/", "unix:/a", "tls://x:1", "/", "token", "a\r\nb: c", "é", "\x00", "x" * 200,
)  # fmt: skip
DATA = (b"", b"x", b"\xff", "é".encode(), "é".encode()[:1], b"y" * 1500, b"z" * 70_000)
ANY = (
    None, True, False, 0.5, float("nan"), float("inf"), -1.0, [], {}, [1, "a"], {"a": [None]},
    ["x"], {1: 2}, 2**40, "text", b"data",
)  # fmt: skip
NAMES = (
    "name", "during", "couple", "reconnect", "connect_timeout", "headers", "subprotocols", "except",
    "state", "x",
)  # fmt: skip
WRONG = (*ANY, *DATA, *NUMBERS)
UNKNOWN = ("no such", 7, None, b"send", [])


def record(recipe: Recipe, kinds: Any) -> Any:
    """One record of a union, as an array."""
    choice = recipe.byte()
    structs = _structs(kinds)
    if choice > 250:
        return recipe.pick((*ANY, *([unknown, 1] for unknown in UNKNOWN)))
    tag, ways = structs[choice % len(structs)]
    fields = [tag]
    for way in ways:
        choice = recipe.byte()
        fields.append(recipe.pick(WRONG) if choice > 250 else way(recipe, choice))
    strange = recipe.byte()
    if strange > 245:
        del fields[1 + strange - 246 :]
    elif strange > 240:
        fields += ["more", 1]
    return fields


Way: TypeAlias = Callable[[Recipe, int], Any]
"""A function that makes the value of a field from a first byte and more bytes as needed."""


@functools.cache
def _structs(kinds: Any) -> list[tuple[Any, list[Way]]]:
    """The tag of each record, and functions that make its fields."""
    return [
        (
            struct.__struct_config__.tag,
            [_way(field.type) for field in msgspec.structs.fields(struct)],
        )
        for struct in get_args(kinds)
    ]


def _way(kind: Any) -> Way:
    values: Sequence[Any] = TEXTS
    if kind is int:
        values = NUMBERS
    elif kind is bytes:
        values = DATA
    elif kind is bool:
        values = (False, True)
    elif kind is float:
        return lambda recipe, _: recipe.pick((0.0, 1.0, 30.0, float("nan"), float("inf"), -1.0))
    elif kind == list[int]:
        return lambda recipe, choice: [recipe.pick(NUMBERS) for _ in range(choice % 5)]
    elif get_origin(kind) is dict:
        return lambda recipe, choice: {
            recipe.pick(NAMES): recipe.pick((*ANY, *TEXTS, *NUMBERS)) for _ in range(choice % 4)
        }
    return lambda _, choice: values[choice % len(values)]


def batches(data: bytes, session: int, kinds: Any) -> list[bytes]:
    """The messages of an input. Each has a byte that says how it is made, a size, and its bytes.

    A message is made of the bytes themselves, or of records after a session, which may be another
    session.
    """
    made = []
    while data:
        how, size = data[0], data[1] if len(data) > 1 else 0
        chunk, data = data[2 : 2 + size], data[2 + size :]
        if how & 7 == 0:
            made.append(chunk)
            continue
        recipe = Recipe(chunk)
        head = session if how & 7 < 6 else recipe.pick(NUMBERS)
        records = []
        while recipe and len(records) < 20:
            records.append(record(recipe, kinds))
        made.append(msgspec.msgpack.encode([head, *records]))
    return made


def as_input(*messages: bytes) -> bytes:
    """The input whose messages are these."""
    return b"".join(bytes((0, len(message))) + message for message in messages)
