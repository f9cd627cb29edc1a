"""Invariants of a connection, for any input."""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Hashable, Iterator
from typing import Any

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.connection.output import Output
from wsraw.link.records import OnClose, OnConnect, OnError, OnMessage, encode, worker_decoder

_decoder = worker_decoder()


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut the bytes at random places, the same ones for the same bytes."""
    if not data:
        return
    choose = random.Random(zlib.crc32(data))
    if len(data) <= 64 and choose.random() < 0.3:
        for i in range(len(data)):
            yield data[i : i + 1]
        return
    cuts = sorted(choose.choices(range(len(data)), k=choose.randrange(1, 6)))
    last = 0
    for cut in (*cuts, len(data)):
        if cut > last:
            yield data[last:cut]
            last = cut


def joined(events: list[Any]) -> list[Any]:
    """Join adjacent raw data, which has no boundaries."""
    result: list[Any] = []
    for event in events:
        before = result[-1] if result else None
        if is_raw(event) and is_raw(before):
            result[-1] = OnMessage(0, event.con, before.data + event.data, "raw")
        else:
            result.append(event)
    return result


def is_raw(event: Any) -> bool:
    return type(event) is OnMessage and event.type == "raw"


def check_life(con: Connection, events: list[Any]) -> None:
    """Check that events are in a legal order, are consistent, and can be sent to a worker."""
    kinds = [type(event) for event in events]
    assert kinds.count(OnConnect) <= 1, kinds
    assert kinds.count(OnClose) <= 1, kinds
    if kinds and not con.opened:
        assert kinds[0] is OnConnect, kinds
    if OnConnect in kinds:
        first = kinds.index(OnConnect)
        assert not any(kind is OnMessage for kind in kinds[:first]), kinds
    if kinds:
        assert (kinds[-1] is OnClose) is (con.state is CLOSED), (kinds, con.state)
    if OnError in kinds:
        assert kinds.index(OnError) == len(kinds) - 2, kinds
    _check_messages(con, [event for event in events if type(event) is OnMessage])
    assert _decoder.decode(encode([1, *events])) == (1, events, [])
    check_output(con.output)


def _check_messages(con: Connection, messages: list[OnMessage]) -> None:
    limit = con.settings.max_message_size
    under_way = ""
    size = 0
    for event in messages:
        assert (event.type == "raw") is (con.kind == "raw")
        if event.type == "raw":
            assert event.data
            continue
        assert not under_way or event.type == under_way
        if event.type == "text":
            event.data.decode()
        size += len(event.data)
        assert size <= limit, f"{size} bytes"
        assert event.final or con.settings.messages == "frames"
        under_way = "" if event.final else event.type
        if event.final:
            size = 0


def check_output(output: Output) -> None:
    """Check the account of the output."""
    assert output.size == sum(map(len, output.chunks)), "output.size"
    assert all(output.chunks), "an empty chunk"


def outcome(con: Connection, events: list[Any]) -> Hashable:
    """A short summary that tells inputs apart."""
    kinds: list[str] = []
    error = ""
    for event in events:
        kind = type(event).__name__
        if type(event) is OnMessage:
            kind = f"{event.type}{event.final}{len(event.data).bit_length()}"
        elif type(event) is OnError:
            # The rest may be text of the peer.
            error = re.sub(r"[^a-z ]", "", event.message.partition(":")[0])[:30]
        elif type(event) is OnClose:
            kind = f"{event.code} {event.cause}"
        if not kinds or kinds[-1] != kind:
            kinds.append(kind)
    chunks = con.output.chunks
    output = chunks[0][:12] if chunks and chunks[0].startswith(b"HTTP/") else b""
    return tuple(kinds[:6]), error, con.state, output, con.output.size.bit_length()
