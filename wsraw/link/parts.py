"""Sans-I/O. Commands of events that come in several batches, kept by the gateway.

Each batch but the last one of such an event ends in `part`. Its commands wait here until the ack of
the event has come, and are dropped if the session ends before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from wsraw.link.batches import EVENT_LIMIT, KEPT_COST
from wsraw.link.records import Ack, Bye, LinkError, Part


class KeptPart(NamedTuple):
    """The commands of one part."""

    seq: int
    batch: int
    """The number of its batch."""
    records: list[Any]
    size: int
    """Bytes that the commands count for."""


class Parts:
    """The parts of one session, in the order in which they came."""

    def __init__(self) -> None:
        self.kept: list[KeptPart] = []
        """The kept parts; always the same list."""
        self.size = 0
        """Bytes that all kept commands count for; at most EVENT_LIMIT."""
        self.hold: Callable[[int], object] = lambda size: None
        """Called with the number of bytes that are kept in addition; negative if fewer are kept."""
        self.joined_by = 0
        """The number of the last batch whose acks have completed parts."""
        self.joined_size = 0
        """Bytes that those parts counted for."""
        self._joined: list[tuple[int, int]] = []
        """For each of those parts, the number of its batch, and how many records it had."""

    def keep(self, records: list[Any], batch: int, size: int) -> None:
        """Keep the commands of a batch of `size` bytes, whose last record is `part`. Raises
        LinkError if they are too many, or contain the end of the session."""
        part: Part = records.pop()
        if Bye in set(map(type, records)):
            raise LinkError(f"bye in a part of event {part.seq}")
        size += KEPT_COST * len(records)
        if self.size + size > EVENT_LIMIT:
            raise LinkError(f"parts of more than {EVENT_LIMIT} bytes, and no ack")
        if records:
            self.kept.append(KeptPart(part.seq, batch, records, size))
            self._count(size)

    def _count(self, size: int) -> None:
        self.size += size
        self.hold(size)

    def join(self, records: list[Any], batch: int) -> list[Any]:
        """The records of a batch with acks, after the kept commands of the acked events."""
        acks = []
        for record in records:
            if type(record) is Ack:
                acks.append(range(record.first, record.last + 1))
            elif type(record) is Bye:
                # Further records are ignored: those events come again.
                break
        ended = [kept for kept in self.kept if any(kept.seq in seqs for seqs in acks)]
        if not ended:
            return records
        self.kept[:] = [kept for kept in self.kept if not any(kept.seq in seqs for seqs in acks)]
        self.joined_by = batch
        self.joined_size = sum([kept.size for kept in ended])
        self._joined = [(kept.batch, len(kept.records)) for kept in ended]
        self._count(-self.joined_size)
        whole: list[Any] = []
        for kept in ended:
            whole += kept.records
        return whole + records

    def place(self, batch: int, index: int) -> tuple[int, int]:
        """The batch, and the index in it, of a record that `join` has put at `index`."""
        if batch == self.joined_by:
            for number, count in self._joined:
                if index < count:
                    return number, index
                index -= count
        return batch, index

    def clear(self) -> None:
        """The session is over: drop all parts."""
        self.kept.clear()
        self._count(-self.size)
