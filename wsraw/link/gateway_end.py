"""Sans-I/O. The gateway's end of the worker link: one session with one worker.

A session number fences: a batch of another session, or one that acks events which are not in
flight, is dropped whole. No input of a worker raises anything but LinkError.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final, Generic

from wsraw.link.batches import COPIED_BELOW, EVENT_LIMIT, LARGEST_BATCH, LARGEST_REMOTE_BATCH
from wsraw.link.parts import Parts
from wsraw.link.records import (
    PROTOCOL_VERSION,
    STATE_LIMIT,
    STATS_EVERY,
    Ack,
    Decoder,
    Drain,
    Event,
    Hello,
    LinkError,
    OnClose,
    OnConnect,
    OnError,
    OnJoin,
    OnLeave,
    OnMessage,
    OnRequest,
    Part,
    Record,
    Refused,
    Welcome,
    Who,
    encode,
    worker_decoder,
)
from wsraw.link.states import NEW, READY, LinkState, LinkStep, after
from wsraw.link.window import WINDOW_BYTES, InFlight, Owner, Window

EVENTS: Final = (OnConnect, OnMessage, OnRequest, OnError, OnClose, OnJoin, OnLeave)

MOST_OWED: Final = 10_000
"""Refusals, and values in answers, that a worker can cause in a turn."""

LONGEST_WHY: Final = 200
"""Characters of a reason, because it may quote the wrong data."""


NOTHING: Final = range(0)


class GatewayEnd(Generic[Owner]):
    """The dialog with one worker, known by the identity of its link: its batches in, batches for it
    out. The caller chooses what events in flight belong to (`Owner`)."""

    def __init__(self, identity: bytes, decoder: Decoder, is_remote: bool = False) -> None:
        self.identity = identity
        self.window: Window[Owner] = Window(is_remote)
        self.state: LinkState = NEW
        self.number = 0
        """The number of the session; never given twice while a gateway lives."""
        self.pool = ""
        self.instance = ""
        self.language = ""
        self.batches = 0
        """Batches with the number of this session."""
        self.batch_acks = 0
        """Events that the last batch acks."""
        self.dropped = 0
        """Batches of another session, or with wrong acks."""
        self.owed = 0
        """Records that answer the worker's own commands; see MOST_OWED."""
        self.parts = Parts()
        """Commands that wait for the ack of their event."""
        self._kept = self.parts.kept
        self._largest_batch = LARGEST_REMOTE_BATCH if is_remote else LARGEST_BATCH
        self._decoder = decoder
        self._out: list[Record] = []
        self._has_large = False
        """An event larger than the window is in `_out`: it is sent alone."""
        self._unsent_from = math.inf
        """The first seq of events in batches that have never left; see `take_back`."""

    # --- batches in ---

    def receive(self, data: bytes | memoryview) -> list[Any]:
        """The records of a batch, in order, with None for those left out (the worker is told).

        Without a session number only a hello counts, and then only the hello is returned. A batch
        of another session, or with an ack of an event that is not in flight, returns nothing. A
        part of an event returns nothing, and the batch with its ack returns all of its commands.
        Raises LinkError for data that is not a batch, or not a valid part: then the session cannot
        continue.
        """
        session, records, wrong = self._decoder.decode(data)
        if self.state is NEW or not session:
            # In a running session, a hello says that the worker has lost its state.
            return [record for record in records if type(record) is Hello]
        if session != self.number:
            self.dropped += 1
            return []
        # A dropped batch counts, too, because the worker, which has sent it, counts it.
        self.batches += 1
        if not self._holds_all(records):
            self.dropped += 1
            return []
        for index, why in wrong:
            self.refuse(index, why)
        if self._kept or not self.batch_acks:
            return self._with_parts(records, len(data))
        return records

    def _with_parts(self, records: list[Any], size: int) -> list[Any]:
        """The records of a batch if there are parts, or if this may be one."""
        if self.batch_acks:
            return self.parts.join(records, self.batches)
        if not records or type(records[-1]) is not Part:
            return records
        seq = records[-1].seq
        if seq not in self.window.in_flight:
            raise LinkError(f"a part of event {seq}, which is not in flight")
        self.parts.keep(records, self.batches, size)
        return []

    @property
    def joined_size(self) -> int:
        """Bytes of the parts that the present batch completes."""
        return self.parts.joined_size if self.parts.joined_by == self.batches else 0

    def _holds_all(self, records: list[Any]) -> bool:
        """Whether each acked seq is in flight, once. Never loops over a range from outside."""
        in_flight = self.window.in_flight
        count = 0
        # Most batches have one ack, and need no set.
        one: range = NOTHING
        all_: set[int] | None = None
        for record in records:
            if type(record) is Ack:
                more = record.last - record.first + 1
                if more < 1 or count + more > len(in_flight):
                    return False
                seqs = range(record.first, record.last + 1)
                for seq in seqs:
                    if seq not in in_flight:
                        return False
                if not count:
                    one = seqs
                elif all_ is None:
                    all_ = {*one, *seqs}
                else:
                    all_.update(seqs)
                count += more
        self.batch_acks = count
        return all_ is None or len(all_) == count

    # --- the dialog ---

    def welcome(
        self,
        hello: Hello,
        session: int,
        epoch: int,
        ids: range,
        node: str = "",
        *,
        shield: bool = False,
    ) -> None:
        """The hello was accepted: begin the session. `shield`: the worker may give back events."""
        self.state = after(self.state, LinkStep.WELCOME)
        self.number = session
        self.pool = hello.pool
        self.instance = hello.instance
        self.language = hello.language
        window = self.window
        window.begin(hello.concurrency, hello.window)
        limits = {
            "state": STATE_LIMIT,
            "window_bytes": window.byte_limit,
            "batch": self._largest_batch,
            "event": EVENT_LIMIT,
            "stats": STATS_EVERY,
        }
        if shield:
            limits["shield"] = 1
        self._out = [
            Welcome(PROTOCOL_VERSION, session, epoch, ids[0], ids[-1], window.largest, limits, node)
        ]

    def deliver(self, event: Event, owner: Owner, size: int, now: float) -> None:
        """Send an event and put it in flight. The caller has checked that the window has room."""
        self.window.add(event, owner, size, now)
        if size > WINDOW_BYTES:
            self._has_large = True
        self._out.append(event)

    def notice(self, record: Record) -> None:
        """Send a notice, in order with the events."""
        self._out.append(record)

    def refuse(self, index: int, why: str, ref: int = 0) -> None:
        """Tell the worker that a record of its current batch was left out. Beyond MOST_OWED in a
        turn, the worker is not told: it could not use thousands of them, and they take memory.
        `ref`: that of the record, if it has one."""
        if self.owed < MOST_OWED:
            self.owed += 1
            batch, index = self.parts.place(self.batches, index)
            self._out.append(Refused(batch, index, why[:LONGEST_WHY], ref))

    def drain(self, deadline: float) -> None:
        """Tell a READY worker that no more events come, and how many seconds it has."""
        if self.state is READY:
            self.state = after(self.state, LinkStep.DRAIN)
            self._out.append(Drain(deadline))

    def take_back(self, batches: Iterable[bytes]) -> None:
        """The last batches, the oldest first, will never leave the gateway, because the session is
        about to end: the worker cannot have seen their events."""
        for batch in batches:
            session, records, _ = worker_decoder().decode(batch)
            for record in records:
                if session == self.number and isinstance(record, EVENTS):
                    self._unsent_from = min(self._unsent_from, record.seq)
                    return

    def end(self) -> list[InFlight[Owner]]:
        """The session is over, for whatever reason: return the events that were in flight, in
        order."""
        self.state = after(self.state, LinkStep.BYE)
        unsent = {id(record) for record in self._out}
        flights = self.window.clear()
        for flight in flights:
            event = flight.event
            flight.left = id(event) not in unsent and event.seq < self._unsent_from
        self._out = []
        self.parts.clear()
        return flights

    # --- batches out ---

    def data_to_send(self) -> bytes | None:
        """The records since the last call as a batch, or None. With a large event among them, there
        are further batches."""
        out = self._out
        if not out:
            return None
        self._out = []
        if self._has_large:
            out = self._cut(out)
        self.owed = 0
        data = encode([self.number, *out])
        return data if len(data) <= LARGEST_BATCH else self._encode_less(out)

    def _encode_less(self, out: list[Record]) -> bytes:
        """A batch of as many of the records as one may carry: thousands of connections can come
        with a large state each. (A single record always fits: settings and the link ensure
        that.)"""
        data = b""
        while not data or (len(data) > LARGEST_BATCH and len(out) > 1):
            half = max(1, len(out) // 2)
            self._out = out[half:] + self._out
            out = out[:half]
            data = encode([self.number, *out])
        return data

    def _cut(self, out: list[Record]) -> list[Record]:
        """A large event alone, or the records before it: together they may be too long for a
        batch."""
        for index, record in enumerate(out):
            if type(record) is OnMessage and len(record.data) > WINDOW_BYTES - COPIED_BELOW:
                end = max(index, 1)
                self._out = out[end:]
                return out[:end]
        self._has_large = False
        return out


def who() -> bytes:
    """The batch that asks an unknown identity for its hello."""
    return encode([0, Who()])


def refusal(why: str, session: int = 0) -> bytes:
    """The batch that tells a worker why it is rejected, at its hello or during a session."""
    return encode([session, Refused(0, 0, why)])
