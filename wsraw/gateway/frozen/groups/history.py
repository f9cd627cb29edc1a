"""Sans-I/O. The last messages of groups to records and back.

A client that comes back after an upgrade finds its position, because epochs and offsets continue.
No client is served during the move, so its size is bounded: if there is more, each group keeps the
same share of its messages, the last ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice
from math import ceil
from typing import Final

from wsraw.gateway.delivery.groups.history import KEPT, SHARE, History, HistoryRule, Stream
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.frozen.copying import Clock, Plan
from wsraw.gateway.frozen.records import FrozenError, Streams, StreamState

MOST_MOVED: Final = 32 * 1024 * 1024
"""Bytes of messages that move, each counted with KEPT: they take as long as 2,000 connections."""

MOST_STREAMS: Final = 50_000
"""Groups whose position moves; those without a new message for longest are forgotten."""

MOST_BYTES: Final = 64 * 1024
"""Bytes of a record, not counting its last message."""

PIECE: Final = 64
"""Bytes of a record for a group or a message, without its data."""

PLAN: Final = Plan(
    Stream,
    StreamState,
    copied="epoch offset",
    translated="touched kept",
    left_out={"cost": "counted anew", "rule": "settings"},
)
HISTORY: Final = Plan(
    History,
    Streams,
    translated="_streams",
    left_out=dict.fromkeys(("_flow", "_instance", "_epochs", "_has_members"), "its own")
    | {"_rules": "settings", "size": "counted anew"},
)
RULE: Final = Plan(
    HistoryRule,
    Streams,
    translated="streams",
    left_out=dict.fromkeys(("pattern", "most", "time"), "settings"),
)


def freeze_history(history: History, clock: Clock) -> Iterator[Streams]:
    """The streams of all rules; a large one comes in several pieces."""
    streams = sorted(history._streams.items(), key=_touched)[-MOST_STREAMS:]
    size = sum([KEPT + len(message.data) for _, each in streams for _, message in each.kept])
    share = min(1.0, MOST_MOVED / size) if size else 1.0
    items: list[StreamState] = []
    size = 0
    for group, stream in streams:
        piece = _piece(group, stream, clock)
        items.append(piece)
        size += PIECE + len(group)
        left_out = len(stream.kept) - ceil(share * len(stream.kept))
        for when, message in islice(stream.kept, left_out, None):
            piece.kept.append((clock.since(when), message.data, message.kind))
            size += PIECE + len(message.data)
            if size > MOST_BYTES:
                yield Streams(items)
                piece = _piece(group, stream, clock)
                items, size = [piece], 0
        if size > MOST_BYTES:
            yield Streams(items)
            items, size = [], 0
    if items:
        yield Streams(items)


def _piece(group: str, stream: Stream, clock: Clock) -> StreamState:
    return PLAN.freeze(stream, group=group, touched=clock.since(stream.touched), kept=[])


def _touched(stream: tuple[str, Stream]) -> float:
    return stream[1].touched


class ThawHistory:
    """Restores the streams of another gateway into an empty history."""

    def __init__(self, history: History, clock: Clock) -> None:
        self._history = history
        self._clock = clock

    def take(self, record: Streams) -> None:
        """Take the next streams. Raises FrozenError."""
        for state in record.items:
            stream = self._stream(state)
            if stream is None:
                continue
            for since, data, kind in state.kept:
                if kind not in ("text", "binary"):
                    raise FrozenError(f"a message of group {state.group!r} has type {kind!r}")
                stream.kept.append((self._clock.at(since), PublishedMessage(data, kind)))
                self._history._count(KEPT + len(data), len(data))

    def _stream(self, state: StreamState) -> Stream | None:
        """The stream that a piece belongs to; None if the settings no longer keep anything of its
        group."""
        history = self._history
        stream = history._streams.get(state.group)
        if stream is not None:
            return stream
        stream = history._stream(state.group, self._clock.at(state.touched))
        if stream is not None:
            PLAN.thaw(state, stream)
        return stream

    def finish(self) -> None:
        """All streams have come: drop what the settings no longer keep."""
        history = self._history
        for rule in history._rules:
            rule.streams = OrderedDict(sorted(rule.streams.items(), key=_touched))
            for stream in rule.streams.values():
                history._expire(stream, self._clock.now)
        history._make_room(history._flow.memory_limit * SHARE)
