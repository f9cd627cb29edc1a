"""Sans-I/O. The records that the drill sends, and how they are checked.

A record is `WD`, its connection in six hex digits, its round in eight, and a filler. Each
connection sends one record in each round of the schedule, so the round determines when the record
was due.
"""

from __future__ import annotations

from typing import Final

from wsraw.tools.drill.figures import Figures

MAGIC: Final = b"WD"
HEADER: Final = 16

# Without capital letters, so that MAGIC is only at the beginning of a record.
_FILLER: Final = b"0123456789abcdefghijklmnopqrstuvwxyz_-+."


def filler(size: int, con: int) -> bytes:
    """The rest of a record of `size` bytes, which differs between connections."""
    first = con % len(_FILLER)
    turned = _FILLER[first:] + _FILLER[:first]
    need = size - HEADER
    return (turned * (need // len(turned) + 1))[:need]


class Checker:
    """Makes and checks the records of a client from one connect to the next."""

    __slots__ = ("_con", "_figures", "_filler", "_missing", "expected", "first", "next")

    def __init__(self, con: int, size: int, first: int, figures: Figures) -> None:
        self._con = con
        self._filler = filler(size, con)
        self._figures = figures
        self._missing: set[int] = set()
        self.first = first
        """The first round since the connect."""
        self.next = first
        """The round to send next."""
        self.expected = first
        """The round that should come back next."""

    def record(self, number: int) -> bytes:
        return b"WD%06x%08x" % (self._con, number) + self._filler

    def send(self) -> bytes:
        record = self.record(self.next)
        self.next += 1
        return record

    @property
    def outstanding(self) -> int:
        """How many records were sent and have not come back."""
        return self.next - self.expected + len(self._missing)

    @property
    def overtaken(self) -> int:
        """How many records have not come back although a later one has."""
        return len(self._missing)

    @property
    def waiting(self) -> bool:
        """Whether the last record is still to come; overtaken ones may never come."""
        return self.next > self.expected

    def receive(self, record: bytes) -> int | None:
        """Check a record; return its round if it comes back for the first time."""
        expected = self.expected
        if record == self.record(expected) and expected < self.next:
            self.expected = expected + 1
            self._figures.answered += 1
            return expected
        return self._receive_unexpected(record)

    def _receive_unexpected(self, record: bytes) -> int | None:
        number = self._round(record)
        if number is None:
            self._figures.corrupted += 1
            return None
        if number > self.expected:
            self._missing.update(range(self.expected, number))
            self.expected = number + 1
        elif number in self._missing:
            self._missing.remove(number)
            self._figures.reordered += 1
        else:
            self._figures.duplicated += 1
            return None
        self._figures.answered += 1
        return number

    def _round(self, record: bytes) -> int | None:
        try:
            number = int(record[8:HEADER], 16)
        except ValueError:
            return None
        ours = self.first <= number < self.next and record == self.record(number)
        return number if ours else None


class Records:
    """A raw stream of records of one size."""

    __slots__ = ("_held", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._held = b""

    def receive(self, data: bytes) -> list[bytes]:
        """The complete records. Anything else is returned unchanged, up to the next record."""
        if self._held:
            data = self._held + data
        size, place, records = self._size, 0, []
        while len(data) - place >= size:
            end = place + size
            if not data.startswith(MAGIC, place):
                # Bytes are missing or were added. Continue with the next record.
                found = data.find(MAGIC, place)
                end = found if found > 0 else len(data) - 1
            elif (found := data.find(MAGIC[:1], place + 1, end)) > 0:
                # The record is cut short: that byte is nowhere else in one.
                end = found
            records.append(data[place:end])
            place = end
        self._held = data[place:]
        return records
