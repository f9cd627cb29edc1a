"""Sans-I/O. Numbers on what nodes say to each other: so nothing is taken twice, or late, and what
was lost is counted.

All that one process of a node says on one subject is a stream, and numbered from 1. Who listens to
the subject knows the last number of each node. A gap is counted as missed. What is not newer than
the last one is dropped: it was counted as missed before, or has come already.
"""

from __future__ import annotations

from typing import Final

MOST_STREAMS: Final = 100_000
"""Subjects whose last number a node keeps. For one that was forgotten, a new stream begins: then a
gap between the two is not noticed."""


class Numbers:
    """Of what this node says."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._last: dict[str, list[int]] = {}
        """Subject → its stream, and the last number."""
        self._streams = 0

    def next(self, subject: str) -> tuple[int, int]:
        """The stream and the number of what is said next."""
        known = self._last.get(subject)
        if known is None:
            if len(self._last) >= self._most:
                del self._last[next(iter(self._last))]
            self._streams += 1
            known = self._last[subject] = [self._streams, 0]
        known[1] += 1
        return known[0], known[1]


class Heard:
    """Of what other nodes have said on one subject."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, int]] = {}
        """Node → its instance, its stream, and the last number."""

    def take(self, node: str, instance: str, stream: int, seq: int) -> int | None:
        """How many were missed before this one; None: it has come already, or too late."""
        known = self._last.get(node)
        if known is None or known[:2] != (instance, stream):
            # Whoever begins to listen has missed nothing. Nor can be said what was lost at the end
            # of another stream.
            self._last[node] = instance, stream, seq
            return 0
        if seq <= known[2]:
            return None
        self._last[node] = instance, stream, seq
        return seq - known[2] - 1

    def forget(self, node: str) -> None:
        """A node has gone."""
        self._last.pop(node, None)
