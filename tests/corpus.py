"""Reads tests/cases: each file is a case, with its origin in the first line.

The lines of a case, in order of the connection's life:

- ``listen NAME=VALUE …`` a field of settings.Listen or of Settings
- ``bytes …`` what the client sends, as the inside of a Python bytes literal
- ``repeat N …`` the same, N times
- ``upgrade`` a proper WebSocket handshake, ``upgrade+deflate`` one that offers compression
- ``frame HH …`` a masked frame: its first byte in hex, its payload as above
- ``eof`` the client shuts its side
- ``expect …`` the events that must come, one a line, in order
- ``output …`` what the connection's output must contain, in order
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.connection import accepting
from wsraw.gateway.connection.connection import Connection
from wsraw.link.records import Event, OnClose, OnConnect, OnMessage

MASK = b"\x1f\x2e\x3d\x4c"

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n%s\r\n"
)
OFFER = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"


class Case(NamedTuple):
    name: str
    listen: Listen
    settings: Settings
    data: bytes
    eof: bool
    expect: list[str]
    output: list[bytes]


def frame(head: int, payload: bytes, mask: bytes = MASK) -> bytes:
    """A frame of a client, made without the library under test."""
    size = len(payload)
    if size < 126:
        start = bytes((head, 0x80 | size))
    elif size < 65536:
        start = bytes((head, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        start = bytes((head, 0x80 | 127)) + size.to_bytes(8, "big")
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return start + mask + masked


def _literal(text: str) -> bytes:
    value = ast.literal_eval('b"' + text.replace('"', '\\"') + '"')
    assert isinstance(value, bytes)
    return value


def read(path: Path) -> Case:
    lines = path.read_text("utf-8").splitlines()
    assert lines[0].startswith("# origin: "), f"{path}: the first line says where it comes from"
    fields: dict[str, Any] = {}
    data = b""
    eof = False
    expect: list[str] = []
    output: list[bytes] = []
    for line in lines[1:]:
        word, _, rest = line.partition(" ")
        if word == "listen":
            for pair in rest.split():
                name, value = pair.split("=")
                fields[name] = int(value) if value.isdigit() else value
                if isinstance(getattr(Settings(), name, None), tuple):
                    fields[name] = (value,)
        elif word == "bytes":
            data += _literal(rest)
        elif word == "repeat":
            count, _, text = rest.partition(" ")
            data += int(count) * _literal(text)
        elif word == "upgrade":
            data += UPGRADE % b""
        elif word == "upgrade+deflate":
            data += UPGRADE % OFFER
        elif word == "frame":
            head, _, text = rest.partition(" ")
            data += frame(int(head, 16), _literal(text))
        elif word == "eof":
            eof = True
        elif word == "expect":
            expect.append(rest)
        elif word == "output":
            output.append(_literal(rest))
        else:
            assert not line or word == "#", f"{path}: {line}"
    of_listen = {n: v for n, v in fields.items() if n in Listen.__struct_fields__}
    of_settings = {n: v for n, v in fields.items() if n not in of_listen}
    listen = Listen(name="test", **of_listen)
    return Case(path.stem, listen, Settings(**of_settings), data, eof, expect, output)


CASES = [read(path) for path in sorted((Path(__file__).parent / "cases").glob("*.case"))]


def accepted(case: Case) -> Connection:
    return accepting.accepted(7, case.listen, case.settings, {"peer": "test"}, 0.0)


def tell(events: list[Event]) -> list[str]:
    """Events as texts. Raw data has no boundaries, so adjacent pieces are joined."""
    told: list[str] = []
    raw = b""
    for event in events:
        if isinstance(event, OnMessage) and event.type == "raw":
            if raw:
                told.pop()
            raw += event.data
            told.append(f"raw {_short(raw)}")
            continue
        raw = b""
        if isinstance(event, OnConnect):
            told.append(f"connect {event.inf['Protocol']}")
        elif isinstance(event, OnMessage):
            more = "" if event.final else "-"
            told.append(f"{event.type}{more} {_short(event.data)}")
        elif isinstance(event, OnClose):
            told.append(f"close {event.code} {event.cause}")
        else:
            told.append("error")
    return told


def _short(data: bytes) -> str:
    return repr(data)[2:-1] if len(data) <= 80 else f"{len(data)} bytes"


def run(case: Case, cuts: list[int]) -> tuple[list[str], bytes]:
    """Feed the bytes of a case, cut at these places; returns its events as texts, and its
    output.
    """
    con = accepted(case)
    events = con.first_events(0.0)
    last = 0
    for cut in [*sorted(cuts), len(case.data)]:
        if cut > last:
            events += con.receive_data(case.data[last:cut], 0.0)
            last = cut
    if case.eof:
        events += con.receive_eof(0.0)
    events += con.drained(0.0)
    output = b"".join(con.output.chunks)
    if con.intake.half_closed and output:
        events += con.written(len(output), 0.0)
    # The date is the only part that varies.
    return tell(events), re.sub(rb"Date: [^\r]*\r\n", b"", output)
