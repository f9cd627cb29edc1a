"""Sans-I/O. The worker's end of the link: hello, events in, commands and acks out.

- Commands travel with their ack, in one batch: a dead worker leaves both or neither. Commands that
  do not fit are sent before, in parts, which the gateway keeps until the ack has come.
- Commands of a handler whose session has ended are dropped: its event goes to another worker.

No input of a gateway raises.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from wsraw.link.batches import LARGEST_BATCH, RECORD_COST, ROOM_FOR_ACKS
from wsraw.link.records import (
    PROTOCOL_VERSION,
    Ack,
    Answer,
    Attach,
    Bye,
    Detach,
    Drain,
    Event,
    GiveBack,
    Hello,
    LinkError,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Part,
    Query,
    Record,
    Welcome,
    Who,
    encode,
    worker_decoder,
)
from wsraw.link.states import GONE, NEW, LinkState, LinkStep, after
from wsraw.link.window import LARGEST_WINDOW

IDS_LOW: Final = 1024
"""Remaining connection ids at which the worker asks for more."""

ONLY_MESSAGES: Final = {OnMessage}
"""The types in most batches for a worker; comparing with this set costs almost nothing per
record."""


class Outbox:
    """The commands of one event's handler so far; they are sent with the event's ack."""

    __slots__ = ("event", "parts", "records", "session", "size")

    def __init__(self, session: int, event: Event) -> None:
        self.session = session
        self.event = event
        self.records: list[Record] = []
        """All commands, or those since the last part."""
        self.size = 0
        """Bytes that all commands count for; at most the link's `event_limit`."""
        self.parts: list[tuple[list[Record], int]] | None = None
        """Commands that fill one batch each, and `size` after each of them. If there are parts,
        `size` is above the link's `room`, and `records` is not empty."""

    @property
    def seq(self) -> int:
        """The number of the event."""
        return self.event.seq

    def cut(self, size: int, room: int) -> None:
        """End the present part if a command of this size would exceed the room of a batch."""
        parts = self.parts
        if self.size - (parts[-1][1] if parts else 0) + size > room:
            if parts is None:
                parts = self.parts = []
            parts.append((self.records, self.size))
            self.records = []

    def pieces(self) -> list[tuple[list[Record], int]]:
        """The commands for each batch, and the bytes that they count for."""
        pieces, before = [], 0
        for records, end in [*(self.parts or ()), (self.records, self.size)]:
            pieces.append((records, end - before))
            before = end
        return pieces

    def clear(self) -> None:
        """Forget all commands."""
        self.records = []
        self.size = 0
        self.parts = None


class _Batch:
    """A batch that is being filled."""

    __slots__ = ("acks", "groups", "last", "size")

    def __init__(self) -> None:
        self.groups: list[list[Record]] = []
        """Commands in order, those of one event together."""
        self.size = 0
        """Bytes that the commands count for."""
        self.acks: list[list[int]] = []
        self.last: Record | None = None
        """The last record: `bye`, or the `part` that names the event of the commands."""

    def __bool__(self) -> bool:
        return bool(self.groups or self.acks or self.last)

    def add(self, records: list[Record], size: int) -> None:
        self.groups.append(records)
        self.size += size


class WorkerEnd:
    """The dialog with the gateway: its batches in, records out; commands and acks in, batches
    out."""

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
        events: Sequence[str] = (),
    ) -> None:
        """`events`: tags of the optional events that this worker asks for."""
        self.state: LinkState = NEW
        self.session = 0
        self.epoch = 0
        self.node = ""
        """The name of the gateway in its cluster; "" without one."""
        self.held: set[int] = set()
        """Connections that the worker knows; a hello lists them."""
        self.room = LARGEST_BATCH - ROOM_FOR_ACKS
        """Bytes of commands that fit into one batch."""
        self.event_limit = self.room
        """Bytes that the commands of one event may count for."""
        self.stats_every = 0
        """Seconds between two `stats` for this gateway; 0: it wants none."""
        self.is_shielded = False
        """Events whose handlers fail may be given back."""
        self._hello = Hello(
            PROTOCOL_VERSION,
            pool,
            instance,
            language,
            token,
            window,
            concurrency,
            [],
            starting,
            [*events],
        )
        self._hello_due = False
        self._empty_due = False
        """An empty batch must report that the worker has started."""
        self._decoder = worker_decoder()
        self._batch = _Batch()
        self._sealed: deque[_Batch] = deque()
        """Complete batches that wait before the one that is being filled."""
        self.lock: AbstractContextManager[object] = nullcontext()
        """For a shell that calls `send_sealed`."""
        self._ends: dict[int, int] = {}
        """Connections by the seq of their on_close: once that is handled, they are not held any
        more."""
        self._ids: deque[range] = deque()
        """Connection ids that `open` may use."""

    # --- batches in ---

    def receive(self, data: bytes | memoryview) -> list[Any]:
        """Events and notices for the shell, in order. `who` is answered here. Never raises."""
        if not data or self.state is GONE:
            # After bye, records are not for us any more; a `who` must not begin another session.
            return []
        try:
            session, records, _ = self._decoder.decode(data)
        except LinkError:
            return []
        # The hot path: a batch of messages has no record that is handled here.
        if session == self.session and session and set(map(type, records)) == ONLY_MESSAGES:
            return records
        return self._receive_each(session, records)

    def _receive_each(self, session: int, records: Iterable[Any]) -> list[Any]:
        passed = []
        for record in records:
            kind = type(record)
            if kind is Who:
                # This gateway does not know us: our state with another one is void.
                self._end_session()
                self._hello_due = True
                continue
            if kind is Welcome:
                self._begin_session(record)
            elif session != self.session or record is None:
                continue
            elif kind is Attach and "ref" in record.about:
                # The connection is not open, and belonged to another gateway.
                pass
            elif kind is OnConnect or kind is Attach or kind is OnError:
                # An on_error can come first, for example that of a successor that cannot connect.
                self.held.add(record.con)
            elif kind is Detach:
                self.held.discard(record.con)
            elif kind is OnClose:
                self.held.add(record.con)
                self._ends[record.seq] = record.con
            elif kind is Answer and record.ref == 0:
                # The answer to our own query for ids; refs of the shell begin at 1.
                self._receive_ids(record.value)
                continue
            elif kind is Drain:
                self.state = after(self.state, LinkStep.DRAIN)
            passed.append(record)
        return passed

    def _begin_session(self, welcome: Welcome) -> None:
        self._end_session()
        # A `who` that was read and not yet answered is older than this session.
        self._hello_due = False
        self.state = after(self.state, LinkStep.WELCOME)
        self.session = welcome.session
        self.epoch = welcome.epoch
        self.node = welcome.node
        batch = welcome.limits.get("batch", LARGEST_BATCH)
        self.room = max(1, batch - ROOM_FOR_ACKS)
        # A gateway without this limit takes no parts.
        self.event_limit = max(self.room, welcome.limits.get("event", 0))
        self.stats_every = max(0, welcome.limits.get("stats", 0))
        self.is_shielded = bool(welcome.limits.get("shield", 0))
        self._receive_ids([welcome.first, welcome.last])

    def lost(self) -> None:
        """The connection is lost, and with it the session: none of its records reaches another
        gateway."""
        self._end_session()
        # A `who` that is not answered yet came from that gateway.
        self._hello_due = False

    def _end_session(self) -> None:
        """Forget the session. Outboxes of handlers that still run become useless: see `done`."""
        self.state = after(self.state, LinkStep.WHO)
        self.session = 0
        self._batch = _Batch()
        self._sealed.clear()
        self._ends.clear()
        self._empty_due = False
        self._ids.clear()

    def _receive_ids(self, value: Any) -> None:
        match value:
            case [int(first), int(last)] if first <= last:
                self._ids.append(range(first, last + 1))

    # --- commands and acks in ---

    def outbox(self, event: Event) -> Outbox:
        """The outbox of an event that `receive` returned in this session."""
        return Outbox(self.session, event)

    def done(self, outbox: Outbox) -> bool:
        """The handler has returned: queue its commands, then its ack. False if its session is over.

        To discard the commands of a handler that failed, call ``outbox.clear()`` first.
        """
        if outbox.session != self.session or self.state is GONE:
            return False
        batch = self._batch
        if outbox.records:
            # As in `_append`, without the call: this is the usual case.
            size = batch.size + outbox.size
            if size > self.room:
                batch = self._append_all(outbox)
            else:
                batch.size = size
                batch.groups.append(outbox.records)
        seq = outbox.event.seq
        if self._ends and seq in self._ends:
            # If the gateway dies before its detach comes, the next one must not be told about this
            # connection.
            self.held.discard(self._ends.pop(seq))
        acks = batch.acks
        if acks and acks[-1][1] + 1 == seq:
            acks[-1][1] = seq
        else:
            acks.append([seq, seq])
        return True

    def give_back(self, outbox: Outbox) -> bool:
        """The handler has failed, and its commands are discarded: another version must handle its
        event and the later ones of its connection. False if its session is over."""
        if outbox.session != self.session or self.state is GONE:
            return False
        with self.lock:
            # After the acks so far: the earlier events are handled.
            self.seal()
            self._batch.add([GiveBack(outbox.seq)], RECORD_COST)
        self.not_ours(outbox.seq)
        return True

    def not_ours(self, seq: int) -> None:
        """An event needs no ack: it was given back, or one before it on its connection was."""
        self._ends.pop(seq, None)

    def flush(self, outbox: Outbox) -> None:
        """Send an event's commands before its ack; after a crash, they may be carried out twice."""
        is_current = outbox.session == self.session and self.state is not GONE
        if outbox.records and is_current:
            for records, size in outbox.pieces():
                self._append(records, size)
        outbox.clear()

    def _append(self, records: list[Record], size: int) -> _Batch:
        """Queue commands that belong together, all in one batch, which is returned."""
        with self.lock:
            if self._batch.size + size > self.room:
                self.seal()
            self._batch.add(records, size)
            return self._batch

    def _append_all(self, outbox: Outbox) -> _Batch:
        """Queue the commands of an event that do not fit into the present batch; return the batch
        for its ack."""
        *parts, (records, size) = outbox.pieces()
        outbox.parts = None
        for commands, its_size in parts:
            with self.lock:
                self.seal()
                self._batch.add(commands, its_size)
                self._batch.last = Part(outbox.event.seq)
                self.seal()
        return self._append(records, size)

    def command(self, record: Record, size: int = RECORD_COST) -> bool:
        """Send a command that belongs to no event: at once, and at most once. False without a
        session."""
        if self.state is NEW or self.state is GONE:
            return False
        self._append([record], size)
        return True

    def started(self) -> None:
        """A worker that said `starting` has started: a batch reports this, even if it is empty."""
        if self._hello.starting:
            self._hello.starting = False
            self._empty_due = bool(self.session)

    def new_id(self) -> int:
        """An id for `open`, from the session's ranges. Raises LookupError without a session, or if
        they are used up."""
        ids = self._ids
        if not ids:
            raise LookupError("no connection ids: the gateway is away, or gave none yet")
        con, ids[0] = ids[0][0], ids[0][1:]
        if not ids[0]:
            ids.popleft()
        if sum([left.stop - left.start for left in ids]) == IDS_LOW:
            self.command(Query(0, "ids"))
        self.held.add(con)
        return con

    def bye(self) -> None:
        """End the session with the next batch; commands of handlers that still run are ignored."""
        if self.session and self.state is not GONE:
            self._batch.last = Bye()
        self._hello_due = False
        self.abandon()

    def abandon(self) -> None:
        """Take no more acks or batches, and send nothing: for a copy of the session in a fork."""
        self.state = after(self.state, LinkStep.BYE)

    # --- batches out ---

    def data_to_send(self) -> bytes | None:
        """The next batch, or None. Commands come before all acks: the batch takes effect whole."""
        if self._hello_due:
            self._hello.held = sorted(self.held)
            batch = encode([0, self._hello])
            self._hello_due = False
            return batch
        if self._sealed:
            data = self._encode_what_can_be(self._sealed[0])
            # Nothing is forgotten before this has succeeded.
            self._sealed.popleft()
            return data
        if not self._batch and not self._empty_due:
            return None
        data = self._encode_what_can_be(self._batch)
        self._empty_due = False
        self._batch = _Batch()
        return data

    def _encode_what_can_be(self, batch: _Batch) -> bytes:
        try:
            return self._encode(batch)
        except Exception:
            # An event whose commands cannot be encoded loses all of them; other events do not.
            batch.groups = [group for group in batch.groups if _is_encodable(group)]
        return self._encode(batch)

    def _encode(self, batch: _Batch) -> bytes:
        records: list[Record] = []
        for group in batch.groups:
            records += group
        records += [Ack(first, last) for first, last in batch.acks]
        if batch.last is not None:
            records.append(batch.last)
        return encode([self.session, *records])

    def seal(self) -> None:
        """Put later commands into another batch."""
        batch = self._batch
        if batch:
            self._batch = _Batch()
            self._sealed.append(batch)

    def send_sealed(self, send: Callable[[bytes], bool]) -> None:
        """Send complete batches until `send` reports that one cannot leave now. For another thread
        that holds `lock`, while a plain handler runs: what the handler does to a batch waits for
        the lock."""
        while self._sealed and send(self._encode_what_can_be(self._sealed[0])):
            self._sealed.popleft()


def _is_encodable(records: list[Record]) -> bool:
    """Whether all values of the records have the right types; logs a warning if not."""
    for record in records:
        try:
            encode(record)
        except Exception as error:
            tag = type(record).__struct_config__.tag
            warnings.warn(f"{tag} cannot be encoded: {error}", RuntimeWarning, stacklevel=2)
            return False
    return True
