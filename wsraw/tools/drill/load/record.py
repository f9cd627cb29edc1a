"""Sans-I/O. What the drill sends: records that say whose they are and which, and their check.

A record is `WD`, its connection in six hex digits, its round in eight, and a filler; the rest of
what is verified follows from that. Each connection sends one record in each round of the schedule,
so a record's round also says when it was due.
"""

from __future__ import annotations

from typing import Final

MAGIC: Final = b"WD"
HEADER: Final = 16
SMALLEST: Final = HEADER

# No capital letter in it, so that MAGIC stands at the beginning of a record only.
_FILLER: Final = b"0123456789abcdefghijklmnopqrstuvwxyz_-+."


def filler(size: int, con: int) -> bytes:
    """What fills up a record of `size` bytes; another one for each connection."""
    first = con % len(_FILLER)
    turned = _FILLER[first:] + _FILLER[:first]
    need = size - HEADER
    return (turned * (need // len(turned) + 1))[:need]


class Findings:
    """What was seen on all connections together; 0 everywhere but in `answered` is good."""

    __slots__ = ("answered", "corrupted", "doubled", "reordered")

    def __init__(self) -> None:
        self.answered = 0
        """Records that came back, each once, whatever their order."""
        self.doubled = 0
        self.reordered = 0
        """Came after a later one."""
        self.corrupted = 0
        """Nothing that this connection ever sent, or not as it was sent."""


class Checker:
    """The records of one life of a connection: made on the way out, checked on the way in."""

    __slots__ = ("_con", "_filler", "_findings", "_missing", "expected", "first", "next")

    def __init__(self, con: int, size: int, first: int, findings: Findings) -> None:
        self._con = con
        self._filler = filler(size, con)
        self._findings = findings
        self._missing: set[int] = set()
        self.first = first
        """The first round of this life."""
        self.next = first
        """The round to be sent next."""
        self.expected = first
        """The round that must come back next."""

    def record(self, number: int) -> bytes:
        """The record of that round."""
        return b"WD%06x%08x" % (self._con, number) + self._filler

    def send(self) -> bytes:
        """The next record."""
        record = self.record(self.next)
        self.next += 1
        return record

    @property
    def outstanding(self) -> int:
        """Sent, and not seen again, those included that a later one has overtaken."""
        return self.next - self.expected + len(self._missing)

    @property
    def overtaken(self) -> int:
        """Sent, and a later one has come back before."""
        return len(self._missing)

    @property
    def waiting(self) -> bool:
        """Whether the last one sent is still to come; what was overtaken may never come."""
        return self.next > self.expected

    def receive(self, record: bytes) -> int | None:
        """Check one record; its round, if it has come back for the first time."""
        expected = self.expected
        if record == self.record(expected) and expected < self.next:
            self.expected = expected + 1
            self._findings.answered += 1
            return expected
        return self._receive_unexpected(record)

    def _receive_unexpected(self, record: bytes) -> int | None:
        number = self._round(record)
        if number is None:
            self._findings.corrupted += 1
            return None
        if number > self.expected:
            self._missing.update(range(self.expected, number))
            self.expected = number + 1
        elif number in self._missing:
            self._missing.remove(number)
            self._findings.reordered += 1
        else:
            self._findings.doubled += 1
            return None
        self._findings.answered += 1
        return number

    def _round(self, record: bytes) -> int | None:
        """Which of ours it is."""
        try:
            number = int(record[8:HEADER], 16)
        except ValueError:
            return None
        ours = self.first <= number < self.next and record == self.record(number)
        return number if ours else None
