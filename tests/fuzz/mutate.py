"""New inputs from known ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

KEPT = 1000
"""Inputs kept beside the seeds; a newer one takes the place of any."""

NUMBERS = (0, 1, 2, 0x0A, 0x20, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x88, 0xC1, 0xFE, 0xFF)


class Mutator:
    """Makes inputs with the random generator `choose`: the same seed gives the same inputs."""

    def __init__(
        self, choose: random.Random, seeds: Sequence[bytes], words: Sequence[bytes], largest: int
    ) -> None:
        self._choose = choose
        self._known = list(seeds) or [b""]
        self._fixed = len(self._known)
        self._words = [*words, b"", b"\r\n", b"\x00" * 8, b"\xff" * 8, b"\xed\xa0\x80", b"\xc0\x80"]
        self._largest = largest
        self._ways = (
            self._flip,
            self._flip,
            self._set,
            self._set,
            self._number,
            self._insert,
            self._word,
            self._word,
            self._overwrite,
            self._remove,
            self._repeat,
            self._splice,
            self._cut,
        )

    def next(self) -> bytes:
        choose = self._choose
        data = bytearray(choose.choice(self._known))
        for _ in range(1 << choose.choice((0, 0, 1, 1, 2, 3))):
            choose.choice(self._ways)(data)
        return bytes(data[: self._largest])

    def keep(self, data: bytes) -> None:
        """Keep an input with a new outcome."""
        if len(self._known) < self._fixed + KEPT:
            self._known.append(data)
        else:
            self._known[self._fixed + self._at(KEPT)] = data

    def _at(self, size: int) -> int:
        return int(self._choose.random() * size)

    def _span(self, data: bytearray) -> slice:
        start = self._at(len(data) + 1)
        return slice(start, start + 1 + self._at(self._choose.choice((1, 4, 16, 256))))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._at(len(data))] ^= 1 << self._at(8)

    def _set(self, data: bytearray) -> None:
        if data:
            at = self._at(len(data))
            data[at] = self._choose.choice(NUMBERS) if self._at(2) else self._at(256)

    def _number(self, data: bytearray) -> None:
        """Change a length or an id by a little or by much."""
        width = self._choose.choice((1, 2, 4, 8))
        at = self._at(len(data) + 1)
        most = 1 << 8 * width
        value = int.from_bytes(data[at : at + width]) + self._choose.choice((-2, -1, 1, 2, 126))
        if not self._at(3):
            value = self._choose.choice((0, most - 1, most // 2, most // 2 - 1, len(data)))
        data[at : at + width] = (value % most).to_bytes(width)

    def _insert(self, data: bytearray) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = self._choose.randbytes(1 + self._at(8))

    def _word(self, data: bytearray) -> None:
        at = self._at(len(data) + 1)
        data[at:at] = self._choose.choice(self._words)

    def _overwrite(self, data: bytearray) -> None:
        word = self._choose.choice(self._words)
        at = self._at(len(data) + 1)
        data[at : at + len(word)] = word

    def _remove(self, data: bytearray) -> None:
        del data[self._span(data)]

    def _repeat(self, data: bytearray) -> None:
        span = self._span(data)
        data[span.start : span.start] = data[span] * self._choose.choice((1, 1, 2, 40))

    def _splice(self, data: bytearray) -> None:
        other = self._choose.choice(self._known)
        at = self._at(len(data) + 1)
        data[at:] = other[self._at(len(other) + 1) :]

    def _cut(self, data: bytearray) -> None:
        del data[self._at(len(data) + 1) :]
