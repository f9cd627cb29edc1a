"""Sans-I/O. Both ends of the worker link: hello, credit, ack, drain.

The life of a session, at both ends::

    NEW ──hello/welcome──▶ READY ──drain──▶ DRAINING ──bye──▶ GONE
     ▲                       │                  │
     └──── a new gateway ────┴──────────────────┘   (worker end: the next `who` begins anew)

Three rules carry the promises; docs/worker-protocol.md has all of them with their reasons:

- Commands travel with their ack, in one batch: a dead worker leaves both or neither.
- A session number fences: a batch of another session, or one that acks what this session does not
  hold, is dropped whole.
- Little work is outstanding: the window is what a worker does in 5 ms, so that a move, a drain or
  a death has little to wait for or to repeat.

Neither end raises on what the other one sent. Time comes in as `now`, in seconds.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

from wsraw.link.records import (
    MOST_RECORDS,
    PROTOCOL_VERSION,
    STATE_LIMIT,
    Ack,
    Answer,
    Attach,
    Bye,
    Decoder,
    Detach,
    Drain,
    Event,
    Hello,
    Lean,
    LinkError,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Query,
    Record,
    Refused,
    Welcome,
    Who,
    encode,
    worker_decoder,
)

WORK_AHEAD: Final = 0.005
"""Seconds of work that may wait at a worker: enough to hide the round trip, little to wait for."""

FIRST_WINDOW: Final = 4
"""Events a worker of unknown speed is trusted with."""

WINDOW_BYTES: Final = 1024 * 1024
"""Bytes in flight at one worker; one event may always go, whatever its size."""

LARGEST_WINDOW: Final = 10_000
"""Events in flight at one worker, however fast it is."""

LATE_AFTER: Final = 0.003
"""Seconds after which an event goes to an idle worker rather than behind the one that takes so
long. Moves cost more than they gain before: at full load each round trip takes a millisecond."""

STUCK_AFTER: Final = 0.020
"""A worker whose oldest event is older than this (or four of its events) gets nothing new."""

ROUND_TRIPS: Final = 8
"""Events, each the only one at a worker far away, of which the quickest says how far that is."""

LONGEST_ROUND_TRIP: Final = 1.0
"""Seconds. What takes longer is the handler."""


LARGEST_BATCH: Final = 64 * 1024 * 1024
"""Bytes of a batch between the gateway and a worker of the same machine, either way: ZeroMQ cuts
the link at a longer one."""

LARGEST_REMOTE_BATCH: Final = 16 * 1024 * 1024
"""The same for a batch that comes from a worker on another machine."""

RECORD_COST: Final = LARGEST_BATCH // MOST_RECORDS
"""Bytes that a command counts for beside its data: so a batch that is short enough has no more
records than the gateway reads."""

ROOM_FOR_ACKS: Final = 256 * 1024
"""Bytes of a batch that commands leave for the session and LARGEST_WINDOW acks."""

COPIED_BELOW: Final = 512 * 1024
"""Bytes of a batch from which on both ends have ZeroMQ send it where it lies. A megabyte is then
copied five times on its way through us instead of nine; for less the bookkeeping costs more than
the copies."""

READ_IN_PLACE: Final = 8 * 1024
"""Bytes of a batch from which on it is read where ZeroMQ has put it."""

MOST_OWED: Final = 10_000
"""Refusals, and values in answers, that a worker can cause in a turn."""

LONGEST_WHY: Final = 200
"""Characters of a reason: it may quote what was wrong."""

IDS_LOW: Final = 1024
"""Ids left of a worker's range when it asks for the next one."""


ONLY_MESSAGES: Final = {OnMessage}
"""The types in most batches for a worker; asked for this way, it costs next to nothing a record."""


class LinkState(Enum):
    """Where a session is in its life."""

    NEW = "new"
    READY = "ready"
    DRAINING = "draining"
    GONE = "gone"


class Outbox:
    """What one event's handler has commanded so far; it goes out with the event's ack."""

    __slots__ = ("event", "records", "seq", "session", "size")

    def __init__(self, session: int, event: Event) -> None:
        self.session = session
        self.event = event
        self.seq = event.seq
        self.records: list[Record] = []
        self.size = 0
        """Bytes that the records count for; at most the link's `room`."""


class Spoilt:
    """A record of ours that cannot be encoded, as values of a wrong type have got into it."""

    __slots__ = ("error", "event", "record", "records")

    def __init__(
        self,
        record: Record,
        error: Exception,
        event: Event | None,
        records: list[Record],
    ) -> None:
        self.record = record
        self.error = error
        self.event = event
        """The event in which it was commanded, if any."""
        self.records = records
        """All that was commanded there."""


def warn_of(spoilt: Spoilt) -> list[Record]:
    """Leave out what the event has commanded, and say so."""
    tag = type(spoilt.record).__struct_config__.tag
    warnings.warn(f"{tag} cannot be encoded: {spoilt.error}", RuntimeWarning, stacklevel=2)
    return []


class WorkerLink:
    """The worker's end. Bytes of the gateway in, records out; commands and acks in, bytes out."""

    def __init__(
        self,
        *,
        pool: str,
        token: str,
        instance: str,
        language: str,
        concurrency: int = 1,
        window: int = LARGEST_WINDOW,
        starting: bool = False,
    ) -> None:
        self.state = LinkState.NEW
        self.session = 0
        self.epoch = 0
        self.held: set[int] = set()
        self._pool = pool
        self._token = token
        self._instance = instance
        self._language = language
        self._concurrency = concurrency
        self._window = window
        self._starting = starting
        self._nudge = False
        self._decoder = worker_decoder()
        self._hello_due = False
        self.room = LARGEST_BATCH - ROOM_FOR_ACKS
        """Bytes of commands that fit into one batch."""
        self._groups: list[list[Record]] = []
        """Commands in order, those of one event together."""
        self._events: list[Event | None] = []
        """The event of each group; None: it belongs to none."""
        self._size = 0
        """Bytes that they count for."""
        self.replace: Callable[[Spoilt], list[Record]] = warn_of
        """Called with what cannot be encoded; gives what is sent instead of all that the event has
        commanded. The event is acked, as if its handler had raised."""
        self._acks: list[list[int]] = []
        self._sealed: deque[bytes] = deque()
        """Batches that are full, before the one that is being filled."""
        self._ends: dict[int, int] = {}
        """Connections by the seq of their on_close: it is the end of them, once it is handled."""
        self._ids: deque[tuple[int, int]] = deque()
        self._ids_left = 0

    # --- bytes in ---

    def receive(self, data: bytes | memoryview) -> list[Any]:
        """Events and notices for the shell, in order. `who` is answered here, nothing raises."""
        if not data or self.state is LinkState.GONE:
            # After bye nothing is ours any more; a `who` must not begin what nobody will serve.
            return []
        try:
            session, records, _ = self._decoder.decode(data)
        except LinkError:
            return []
        # The hot path: a batch of messages has no record that is ours to look at.
        if session == self.session and session and set(map(type, records)) == ONLY_MESSAGES:
            return records
        return self._receive_each(session, records)

    def _receive_each(self, session: int, records: Iterable[Any]) -> list[Any]:
        passed = []
        for record in records:
            kind = type(record)
            if kind is Who:
                # A gateway that does not know us: whatever we had with another one is over.
                self._end_session()
                self._hello_due = True
                continue
            if kind is Welcome:
                self._begin_session(record)
            elif session != self.session or record is None:
                continue
            elif kind is OnConnect or kind is Attach or kind is OnError:
                # An on_error can be the first word of one, as of a successor that cannot connect.
                self.held.add(record.con)
            elif kind is Detach:
                self.held.discard(record.con)
            elif kind is OnClose:
                self.held.add(record.con)
                self._ends[record.seq] = record.con
            elif kind is Answer and record.ref == 0:
                # Our own query for ids; refs of the shell begin at 1.
                self._receive_ids(record.value)
                continue
            elif kind is Drain and self.state is LinkState.READY:
                self.state = LinkState.DRAINING
            passed.append(record)
        return passed

    def _begin_session(self, welcome: Welcome) -> None:
        self._end_session()
        # A `who` that was read and not yet answered is older than this session.
        self._hello_due = False
        self.state = LinkState.READY
        self.session = welcome.session
        self.epoch = welcome.epoch
        batch = welcome.limits.get("batch", LARGEST_BATCH)
        self.room = max(1, batch - ROOM_FOR_ACKS)
        self._add_ids(welcome.first, welcome.last)

    def _end_session(self) -> None:
        """The outboxes of handlers that still run die with their session: see `done`."""
        self.state = LinkState.NEW
        self.session = 0
        self._groups = []
        self._events = []
        self._size = 0
        self._acks = []
        self._sealed.clear()
        self._ends.clear()
        self._nudge = False
        self._ids.clear()
        self._ids_left = 0

    def _receive_ids(self, value: Any) -> None:
        match value:
            case [int(first), int(last)] if first <= last:
                self._add_ids(first, last)

    def _add_ids(self, first: int, last: int) -> None:
        self._ids.append((first, last))
        self._ids_left += last - first + 1

    # --- intents in ---

    def outbox(self, event: Event) -> Outbox:
        """The outbox of an event that `receive` gave in this session."""
        return Outbox(self.session, event)

    def done(self, outbox: Outbox) -> bool:
        """The handler has returned: its commands, then its ack. False if its session is over.

        To discard the commands of a handler that failed, clear ``outbox.records`` first.
        """
        if outbox.session != self.session or self.state is LinkState.GONE:
            return False
        commanded = outbox.records
        if commanded:
            # As in `_append`, without the call: this is what most events come to.
            size = self._size + outbox.size
            if size > self.room:
                self._append(commanded, outbox.size, outbox.event)
            else:
                self._size = size
                self._groups.append(commanded)
                self._events.append(outbox.event)
        seq = outbox.seq
        if self._ends and seq in self._ends:
            # Should the gateway die before its detach comes, the next one must not be told of it.
            self.held.discard(self._ends.pop(seq))
        acks = self._acks
        if acks and acks[-1][1] + 1 == seq:
            acks[-1][1] = seq
        else:
            acks.append([seq, seq])
        return True

    def flush(self, outbox: Outbox) -> None:
        """Send an event's commands ahead of its ack; after a crash they can happen twice."""
        is_current = outbox.session == self.session and self.state is not LinkState.GONE
        if outbox.records and is_current:
            self._append(outbox.records, outbox.size, outbox.event)
        outbox.records = []
        outbox.size = 0

    def _append(self, records: list[Record], size: int, event: Event | None) -> None:
        """Commands that belong together: all of them into one batch."""
        if self._size + size > self.room and (self._groups or self._acks):
            self._sealed.append(self._take_batch())
        self._groups.append(records)
        self._events.append(event)
        self._size += size

    def command(self, record: Record, size: int = RECORD_COST) -> bool:
        """A command that belongs to no event: goes out at once, at most once. False if no session
        stands to carry it."""
        if self.state in (LinkState.NEW, LinkState.GONE):
            return False
        self._append([record], size, None)
        return True

    def started(self) -> None:
        """A worker that said `starting` is: a batch says so, if only an empty one."""
        if self._starting:
            self._starting = False
            self._nudge = bool(self.session)

    def new_id(self) -> int:
        """An id for `open`, out of the session's range. Raises LookupError when no session stands
        or the range is used up."""
        if not self._ids:
            raise LookupError("no connection ids: the gateway is away, or gave none yet")
        first, last = self._ids.popleft()
        if first < last:
            self._ids.appendleft((first + 1, last))
        self._ids_left -= 1
        if self._ids_left == IDS_LOW:
            self.command(Query(0, "ids"))
        self.held.add(first)
        return first

    def bye(self) -> None:
        """The session ends with the next batch; handlers that still run are not heard any more."""
        if self.session and self.state is not LinkState.GONE:
            self._groups.append([Bye()])
            self._events.append(None)
        self._hello_due = False
        self.state = LinkState.GONE

    # --- bytes out ---

    def data_to_send(self) -> bytes | None:
        """The next batch, or None. Commands stand before all acks: the batch takes effect whole."""
        if self._hello_due:
            hello = Hello(
                PROTOCOL_VERSION,
                self._pool,
                self._instance,
                self._language,
                self._token,
                self._window,
                self._concurrency,
                sorted(self.held),
                self._starting,
            )
            batch = encode([0, hello])
            self._hello_due = False
            return batch
        if self._sealed:
            return self._sealed.popleft()
        if not self._groups and not self._acks and not self._nudge:
            return None
        return self._take_batch()

    def _take_batch(self) -> bytes:
        try:
            batch = self._encode()
        except Exception:
            batch = b""
        if not batch:
            self._replace_spoilt()
            batch = self._encode()
        # Nothing is forgotten before that has succeeded.
        self._nudge = False
        self._groups = []
        self._events = []
        self._size = 0
        self._acks = []
        return batch

    def _encode(self) -> bytes:
        records: list[Record] = []
        for group in self._groups:
            records += group
        acks = [Ack(first, last) for first, last in self._acks]
        if self.state is LinkState.GONE:
            # A bye stands behind the acks.
            return encode([self.session, *records[:-1], *acks, *records[-1:]])
        return encode([self.session, *records, *acks])

    def _replace_spoilt(self) -> None:
        """A record cannot be encoded. It costs its event what that has commanded, and no other."""
        self._groups = [
            self._judge(group, event)
            for group, event in zip(self._groups, self._events, strict=True)
        ]

    def _judge(self, records: list[Record], event: Event | None) -> list[Record]:
        for record in records:
            try:
                encode(record)
            except Exception as error:
                return self.replace(Spoilt(record, error, event, records))
        return records


class InFlight(Lean):
    """An event that a worker holds unacked, and whose it is."""

    event: Event
    owner: Any
    size: int
    sent_at: float
    left: bool = True
    """False, once the session is over, for an event that has never left the gateway."""


class GatewayLink:
    """The gateway's end: one session with one worker, known by its ROUTER identity.

    `owner` of an event is the router's business; here it is only kept.
    """

    def __init__(self, identity: bytes, decoder: Decoder) -> None:
        self.identity = identity
        self.state = LinkState.NEW
        self.session = 0
        self.worker = 0
        self.pool = ""
        self.instance = ""
        self.language = ""
        self.concurrency = 1
        self.in_flight: dict[int, InFlight] = {}
        self.in_flight_bytes = 0
        self.window = FIRST_WINDOW
        self.window_bytes = WINDOW_BYTES
        self.largest = LARGEST_WINDOW
        self.is_far = False
        """A network is between us: the way there and back is no time in which it works."""
        self.round_trip = 0.0
        """Seconds; known only of one that is far."""
        self.service_time = 0.0
        self.batches = 0
        self.batch_acks = 0
        """Events that the last batch acks."""
        self.dropped = 0
        self._decoder = decoder
        self.choked = False
        """It does not read what it is sent: its queue is full."""
        self.owed = 0
        """What it is to be told in answer to its own commands; see MOST_OWED."""
        self._next_seq = 1
        self._out: list[Record] = []
        self._has_large = False
        """An event larger than the window is in `_out`: it goes alone."""
        self.acked_events = 0
        self.samples: deque[float] = deque(maxlen=256)
        """Service times of late, in seconds, one for each turn that brought acks."""
        self._lone: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._work_ahead = WORK_AHEAD
        self._late_after = LATE_AFTER
        self._stuck_after = STUCK_AFTER
        self._sent_at = 0.0
        """When the event went out that was acked last."""
        self._busy_since = 0.0
        self._last_ack = 0.0
        self._acked = 0
        self._sample_since = 0.0
        self._was_empty = False
        self._last_acked_seq = 0
        self._grow_after = 0

    # --- bytes in ---

    def receive(self, data: bytes | memoryview) -> list[Any]:
        """The records of a batch, in order, None for those left out (the worker is told).

        Without a session in front only a hello counts, and then it is all that is given.
        A batch of another session, or one that acks what we do not hold, gives nothing at all.
        Raises LinkError for what is no batch: the session cannot go on.
        """
        session, records, wrong = self._decoder.decode(data)
        if self.state is LinkState.NEW or not session:
            # Of a session that stands, a hello says that the worker knows nothing of it any more.
            return [record for record in records if type(record) is Hello]
        if session != self.session or not self._holds_all(records):
            self.dropped += 1
            return []
        self.batches += 1
        for index, why in wrong:
            self.refuse(index, why)
        return records

    def _holds_all(self, records: list[Any]) -> bool:
        """Whether every acked seq is in flight, once. Never loops over a range it was given."""
        seen: set[int] = set()
        for record in records:
            if type(record) is Ack:
                if not 0 <= record.last - record.first < len(self.in_flight):
                    return False
                seqs = range(record.first, record.last + 1)
                for seq in seqs:
                    if seq not in self.in_flight:
                        return False
                if seen and not seen.isdisjoint(seqs):
                    return False
                seen.update(seqs)
        self.batch_acks = len(seen)
        return True

    def acked(self, ack: Ack) -> list[InFlight]:
        """Take the events of an ack of this batch out of flight, in order."""
        if not self._acked:
            # Now, as an event that goes out later in this turn may begin a new time of being busy.
            self._was_empty = self._busy_since >= self._last_ack
            self._sample_since = self._busy_since if self._was_empty else self._last_ack
        pop = self.in_flight.pop
        taken = [pop(seq) for seq in range(ack.first, ack.last + 1)]
        self.in_flight_bytes -= sum([flight.size for flight in taken])
        self._acked += len(taken)
        self.acked_events += len(taken)
        self._last_acked_seq = max(self._last_acked_seq, ack.last)
        if self.is_far:
            self._sent_at = taken[-1].sent_at
        return taken

    # --- the dialog ---

    def welcome(self, hello: Hello, session: int, epoch: int, ids: range) -> None:
        """The hello was good: the session begins, NEW → READY."""
        self.state = LinkState.READY
        self.session = session
        self.pool = hello.pool
        self.instance = hello.instance
        self.language = hello.language
        self.concurrency = max(1, min(hello.concurrency, LARGEST_WINDOW))
        self.largest = max(1, min(hello.window, LARGEST_WINDOW))
        self.window = min(FIRST_WINDOW, self.largest)
        self._out = [
            Welcome(
                PROTOCOL_VERSION,
                session,
                epoch,
                ids[0],
                ids[-1],
                self.largest,
                {
                    "state": STATE_LIMIT,
                    "window_bytes": self.window_bytes,
                    "batch": LARGEST_REMOTE_BATCH if self.is_far else LARGEST_BATCH,
                },
            )
        ]

    def notice(self, record: Record) -> None:
        """Queue a notice; it keeps its place among the events."""
        self._out.append(record)

    def refuse(self, index: int, why: str) -> None:
        """Tell the worker that a record of its current batch was left out. Of thousands in a turn
        it is not told each: nobody reads them, and they need memory."""
        if self.owed < MOST_OWED:
            self.owed += 1
            self._out.append(Refused(self.batches, index, why[:LONGEST_WHY]))

    def drain(self, deadline: float) -> None:
        """No more events from here on, READY → DRAINING."""
        if self.state is LinkState.READY:
            self.state = LinkState.DRAINING
            self._out.append(Drain(deadline))

    def end(self) -> list[InFlight]:
        """The session is over, for whatever reason: what was in flight comes back, in order."""
        self.state = LinkState.GONE
        waiting = {id(record) for record in self._out}
        back = list(self.in_flight.values())
        for flight in back:
            flight.left = id(flight.event) not in waiting
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self._out = []
        return back

    # --- credit ---

    def has_room(self, size: int) -> bool:
        """Whether one more event of `size` bytes fits the window."""
        in_flight = len(self.in_flight)
        return (
            in_flight < self.window
            and (not in_flight or self.in_flight_bytes + size <= self.window_bytes)
            and not self.choked
        )

    @property
    def isolated(self) -> bool:
        """Takes nothing but what is delivered to it without asking for room."""
        return self.window == 0

    def isolate(self) -> None:
        """Close the window."""
        self.window = 0

    def rejoin(self) -> None:
        """Open the window again; it has to be learned anew."""
        self.window = min(FIRST_WINDOW, self.largest)

    def oldest_age(self, now: float) -> float:
        """Seconds that the event lasts which is being handled for the longest time; 0 without.

        With one hand an event begins when the one before it is acked; with more, each counts by
        itself.
        """
        if not self.in_flight:
            return 0.0
        oldest = next(iter(self.in_flight.values())).sent_at
        if self.concurrency == 1 and oldest < self._last_ack:
            oldest = self._last_ack
        return now - oldest

    def is_late(self, now: float) -> bool:
        """Its oldest event takes a little long, and it has no hand free for another. Of a worker
        that is not late, none is stuck."""
        return len(self.in_flight) >= self.concurrency and self.oldest_age(now) > self._late_after

    def is_stuck(self, now: float) -> bool:
        """Its oldest event takes unusually long, and it has no hand free for another."""
        return self.choked or (len(self.in_flight) >= self.concurrency and self.is_slow(now))

    def is_slow(self, now: float) -> bool:
        """Its oldest event takes unusually long."""
        return self.oldest_age(now) > max(self._stuck_after, 4 * self.service_time)

    def deliver(self, event: Event, owner: Any, size: int, now: float) -> None:
        """Number an event and put it in flight. The caller has asked for room."""
        seq = event.seq = self._next_seq
        self._next_seq = seq + 1
        if not self.in_flight:
            self._busy_since = now
        self.in_flight[seq] = InFlight(event, owner, size, now)
        self.in_flight_bytes += size
        if size > WINDOW_BYTES:
            self._has_large = True
        self._out.append(event)

    def measure(self, now: float) -> None:
        """Learn the service time from the acks since the last call; once a turn, as batches of one
        turn share its `now`.

        The spacing of acks, not their latency: a hundred async handlers that wait 100 ms each serve
        a thousand events a second. While the worker was empty in between, the spacing holds a round
        trip too; such a sample may raise the window, never lower it.

        """
        if not self._acked:
            return
        spacing = max((now - self._sample_since) / self._acked, 1e-7)
        target = self.concurrency + int(self._work_ahead / spacing)
        if self.is_far:
            target = self._far_target(target, now)
        target = min(self.largest, target)
        self.service_time = spacing
        self.samples.append(spacing)
        if self.isolated:
            pass
        elif target < self.window:
            if not self._was_empty:
                self.window = target
        elif self._last_acked_seq >= self._grow_after:
            # At most doubled per round trip: what was sent since the last growth has come back.
            self.window = min(target, 2 * self.window)
            self._grow_after = self._next_seq
        self._acked = 0
        self._last_ack = now

    def _far_target(self, target: int, now: float) -> int:
        """The window of a worker to which a round trip is longer than the work ahead of it.

        What is on its way comes on top of that work. And as long as the window alone holds it up,
        the spacing says nothing: then all that fits is out, and comes back as soon as it can.
        """
        if self._was_empty:
            self._see_round_trip(now - self._busy_since)
        is_full = len(self.in_flight) + self._acked >= self.window
        if is_full and now - self._sent_at < self.round_trip + WORK_AHEAD / 2:
            return max(target, 2 * self.window)
        return target

    def _see_round_trip(self, seconds: float) -> None:
        """An event that found the worker empty took so long. Its handler took a part of that; so
        the quickest of some counts, and an old one is forgotten, as networks change."""
        self._lone.append(min(seconds, LONGEST_ROUND_TRIP))
        self.round_trip = quickest = min(self._lone)
        self._work_ahead = WORK_AHEAD + quickest
        self._late_after = LATE_AFTER + quickest
        self._stuck_after = STUCK_AFTER + quickest

    # --- bytes out ---

    def leave_out_unwritable(self) -> list[Record]:
        """`data_to_send` has raised: take those records out that cannot be encoded, and give them.
        Such an event was never in flight."""
        records, self._out = self._out, []
        wrong = []
        for record in records:
            try:
                encode(record)
            except Exception:
                wrong.append(record)
            else:
                self._out.append(record)
        for record in wrong:
            self._take_out(record)
        return wrong

    def leave_out(self, con: int) -> None:
        """Nothing of what waits to be sent of a connection goes out."""
        records, self._out = self._out, []
        for record in records:
            if getattr(record, "con", None) == con:
                self._take_out(record)
            else:
                self._out.append(record)

    def _take_out(self, record: Record) -> None:
        flight = self.in_flight.pop(getattr(record, "seq", 0), None)
        if flight is not None:
            self.in_flight_bytes -= flight.size

    def data_to_send(self) -> bytes | None:
        """The records since the last call as a batch, or None; of a large event there are more."""
        out = self._out
        if not out:
            return None
        self._out = []
        if self._has_large:
            out = self._cut(out)
        try:
            batch = encode([self.session, *out])
        except Exception:
            # See leave_out_unwritable.
            self._out = out + self._out
            raise
        self.owed = 0
        return batch

    def _cut(self, out: list[Record]) -> list[Record]:
        """A large event alone, or what is before it: together they may be too long for a batch."""
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
    """The batch that tells a worker why it is shut out, from the beginning or out of a session."""
    return encode([session, Refused(0, 0, why)])
