"""An input as a list of choices, for targets that generate their data from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Recipe:
    """Bytes that are taken one by one, followed by zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._size = len(data)
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < self._size

    def byte(self) -> int:
        at = self._at
        self._at = at + 1
        return self._data[at] if at < self._size else 0

    def take(self, size: int) -> bytes:
        at = self._at
        self._at = at + size
        return self._data[at : at + size]

    def pick(self, values: Sequence[T]) -> T:
        return values[self.byte() % len(values)]
