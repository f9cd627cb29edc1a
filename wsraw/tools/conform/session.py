"""Sans-I/O. The played gateway's state of one session."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, NamedTuple, get_args

from wsraw.link.records import Event, Record, Send
from wsraw.tools.conform import rendering

EVENTS: Final = {kind.__struct_config__.tag for kind in get_args(Event)}


class Received(NamedTuple):
    """A received record, and its place in the session."""

    batch: int
    """The number of its batch, from 1 in each session."""
    place: int
    record: Any

    def text(self) -> str:
        return rendering.record(self.record)


class Session:
    """A session, from `welcome` on. Number 0 means that there is none."""

    def __init__(self, number: int, ids: range) -> None:
        self.number = number
        self.ids = [ids]
        """The ids that `open` may use."""
        self.opened: set[int] = set()
        self.waiting: deque[list[Any]] = deque()
        """Records that wait for the window, and the records after them."""
        self.in_flight: dict[int, list[Any]] = {}
        """Events by seq, as they were sent."""
        self.wrong_acks: list[Received] = []
        self.acked: dict[int, Received] = {}
        self.received: list[Received] = []
        self.batches = 0
        self.parts: dict[int, int] = {}
        """Batches whose commands wait for an ack, each with the seq of its event."""
        self.over = False
        """The worker has sent bye."""
        self.next_seq = 1

    def number_event(self, record: list[Any]) -> int:
        seq = record[1] = self.next_seq
        self.next_seq += 1
        return seq

    def unfinished(self) -> list[Any] | None:
        """The first event that is not acked."""
        waiting = (record for record in self.waiting if record[0] in EVENTS)
        return next(iter(self.in_flight.values()), None) or next(waiting, None)

    def take(self, window: int) -> list[list[Any]]:
        """Take the waiting records that the window has room for."""
        batch = []
        while self.waiting:
            record = self.waiting[0]
            if record[0] in EVENTS:
                if len(self.in_flight) >= window:
                    break
                self.in_flight[record[1]] = record
            batch.append(self.waiting.popleft())
        return batch

    def is_beside_ack(self, command: Received, seq: int) -> bool:
        """Whether a command takes effect with the ack of this event."""
        return command.batch == self.acked[seq].batch or self.parts.get(command.batch) == seq

    def sends(self, con: int, start: int = 0) -> list[Received]:
        """The sends to a connection, from this index of `received` on."""
        return [received for received in self.commands(Send, start) if received.record.con == con]

    def commands(self, kind: type[Record], start: int = 0) -> list[Received]:
        """The records of one kind, from this index of `received` on."""
        return [each for each in self.received[start:] if type(each.record) is kind]
