"""Sans-I/O. Numbers on the messages between nodes: so no message is taken twice or too late, and
lost ones are counted.

All messages of one process of a node on one subject are a stream, numbered from 1. A node that
listens to the subject knows the last number of each sender. A gap counts as missed. A message that
is not newer than the last one is dropped: it was counted as missed before, or has come already.
"""

from __future__ import annotations

from typing import Final

MOST_STREAMS: Final = 100_000
"""Subjects whose last number a node keeps. If one was forgotten, a new stream begins, and a gap
between the two streams is not noticed."""


class Numbers:
    """The numbers of what this node sends."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._last: dict[str, list[int]] = {}
        """Subject → its stream, and the last number."""
        self._streams = 0

    def next(self, subject: str) -> tuple[int, int]:
        """The stream and the number of the next message."""
        known = self._last.get(subject)
        if known is None:
            if len(self._last) >= self._most:
                del self._last[next(iter(self._last))]
            self._streams += 1
            known = self._last[subject] = [self._streams, 0]
        known[1] += 1
        return known[0], known[1]


class Heard:
    """The numbers of what other nodes have sent on one subject."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, int]] = {}
        """Node → its instance, its stream, and the last number."""

    def take(self, node: str, instance: str, stream: int, seq: int) -> int | None:
        """How many messages were missed before this one; None if it came already, or comes too
        late."""
        known = self._last.get(node)
        if known is None or known[:2] != (instance, stream):
            # A node that begins to listen has missed nothing. How much was lost at the end of
            # another stream is not known.
            self._last[node] = instance, stream, seq
            return 0
        if seq <= known[2]:
            return None
        self._last[node] = instance, stream, seq
        return seq - known[2] - 1

    def forget(self, node: str) -> None:
        """Forget a node that has gone."""
        self._last.pop(node, None)
