"""Sans-I/O. Messages to connections: fragments, published messages and the limit of output.

An unfinished fragmented message belongs to the session that began it. Other data for that
connection waits behind it, in the connection's account; a message that is not finished in time
closes the connection (1011).

Output is bounded: a slow reader that exceeds the limit is closed (1008), unless the message was
published and the setting `overflow` allows to drop it; no message is written in part. A reader is
slow if it does not take its output, not if a handler queues much at once (see `_check_limit`). So
the gateway first writes to a connection above the limit: the connection is `over_limit` until the
end of the turn, and is then closed if the kernel has not taken enough.

Large work is done in shares, so that other connections do not wait for it: a message to a large
group is sent to some members in each turn, and a large message is compressed piece by piece. A
small group does not wait for a large one: its members get a message at once. The order for each
connection stays: what is sent or published to a member comes after what was published before
(`catch_up`), and other data waits behind a message that is being compressed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final

from wsraw.config.settings import Settings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import Burst, Entry, Worker, held_size
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.websocket.deflate import DEFLATED_AT_ONCE
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.link.batches import EVENT_LIMIT, LARGEST_BATCH
from wsraw.link.records import Close, Send, gateway_decoder
from wsraw.link.states import GONE

FRAME_HEAD: Final = 14
"""The most bytes of a WebSocket frame beside its data (RFC 6455, section 5.2)."""

AT_ONCE: Final = 1.0
"""Seconds within which data for a connection counts as queued at once."""

FRAGMENT_TIMEOUT: Final = 30.0
"""Seconds within which a fragmented message must be completed."""

MOST_BROADCASTS: Final = 16
"""Messages that are being sent to large groups; if there are more, workers that publish wait."""

SHARE: Final = 32
"""Members of a group that get a published message at once, and connections that get messages of
large groups in a turn, until the time of a write is known (see `pace`). Connections that have
something to write anyway count, too."""

LEAST_SHARE: Final = 16
MOST_SHARE: Final = 128
"""The fewest and the most members in a turn."""

BROADCAST_TIME: Final = 0.0004
"""Seconds of a turn for writing published messages. A client that waits for an answer meanwhile
waits for two turns; without them an echo takes 0.5 ms. Shorter shares would cost more turns than
they save."""

PER_MEMBER: Final = 5
"""Messages that each of those members may get in a turn, on average."""

WAITING: Final = 100
"""Bytes of memory for each member that has not been sent a message yet."""


class Broadcast:
    """A published message, and the members that have not been sent it yet."""

    __slots__ = ("members", "message", "size")

    def __init__(self, members: dict[Entry, None], message: PublishedMessage) -> None:
        self.members = members
        self.message = message
        self.size = len(message.data) + WAITING * len(members)
        """Bytes that the message counts while members wait for it."""


class Outgoing:
    """Sends and publishes of workers, in their order of arrival at the gateway."""

    def __init__(
        self,
        flow: Flow,
        settings: Settings,
        dirty: dict[Connection, None],
        overflow: Callable[[Entry, float], None],
        close: Callable[[Entry, int, str, str, float], None],
        fault: Callable[[Connection, BaseException, float], None],
    ) -> None:
        self._flow = flow
        self._limit = settings.output_limit
        self._policy = settings.overflow
        self._dirty = dirty
        self._overflow = overflow
        self._close = close
        self._fault = fault
        self.over_limit: dict[Entry, None] = {}
        """Connections with too much output: they are written to, and closed if it is still too
        much."""
        self.fragmented: set[Entry] = set()
        self.compressing: dict[Entry, tuple[Worker | None, Send]] = {}
        """Connections whose next message is large and is being compressed; they take turns."""
        self._compressor = Worker(b"", gateway_decoder(), 0.0)
        """Stands for the worker of an unfinished message while one is compressed: all others
        wait."""
        self.forwarder = Worker(b"", gateway_decoder(), 0.0)
        """Stands for the worker of an unfinished message that comes from a spliced connection."""
        self.broadcasts: list[Broadcast] = []
        """Messages that are being sent to large groups, in order."""
        self._turn = 0
        """Index of the broadcast whose turn was last."""
        self.share = SHARE
        self.work = 0
        """The cost of commands so far, in units of a small one."""
        self.dropped = 0
        """Published messages that slow readers did not get, as the setting `overflow` allows."""

    def send(self, entry: Entry, worker: Worker | None, send: Send, now: float) -> str | None:
        """Queue one frame or chunk; return why it is refused, if it is."""
        under_way = entry.fragment is not None
        if (under_way or not send.final) and self._must_wait(entry, worker, send, now):
            return None
        con = entry.con
        entry.sent_at = now
        output = con.output
        size = output.size + output.early_size + len(send.data)
        if size > self._limit:
            self._check_limit(entry, worker, size, now)
        why = con.send(send.data, send.type, send.final, now)
        if why is not None:
            if why == UNFINISHED:
                self._begin_compressing(entry, worker, send)
                return None
            if under_way:
                # What was sent of that message can neither be taken back nor completed.
                self.cut_short(entry, now)
            elif entry.fragment is not None:
                self.forget(entry)
            return why
        entry.totals.sent += 1.0
        self._dirty[con] = None
        if con.endpoint is None or output.early_size:
            # The connection is not open yet, so no write will count its output.
            self._flow.output_changed(entry)
        if entry.fragment is not None and send.final:
            self._send_held_back(entry, True, now)
        return None

    def _must_wait(self, entry: Entry, worker: Worker | None, send: Send, now: float) -> bool:
        """Whether a frame was put behind another worker's message, or behind one that is being
        compressed. If not, it may have begun a message of several frames."""
        if entry.con.kind in ("raw", "http"):
            return False
        if entry.fragment is None:
            if worker is not None:
                entry.fragment = worker
                entry.fragment_since = now
                worker.ties.add(entry)
                if worker is not self.forwarder:
                    # A peer may take longer than a handler.
                    self.fragmented.add(entry)
            return False
        if entry.fragment is worker and entry not in self.compressing:
            return False
        self._hold_back(entry, worker, send)
        if entry.event_bytes > self._limit:
            if entry in self.compressing:
                self._check_limit(entry, worker, entry.event_bytes + entry.con.output.size, now)
            else:
                self._overflow(entry, now)
        return True

    def _hold_back(self, entry: Entry, worker: Worker | None, record: Send | Close) -> None:
        if entry.held_back is None:
            entry.held_back = deque()
        entry.held_back.append((worker, record))
        self._flow.add(entry, held_size(record))

    def _check_limit(self, entry: Entry, worker: Worker | None, size: int, now: float) -> None:
        """Note the connection as `over_limit` if `size` bytes of output are too many for it.

        Data that is queued at once, which means within a second or within the batch that began it,
        may exceed the limit, up to the size of a batch, or of an event in several batches. Until
        enough is written for the limit to hold again, the output must not grow further.
        """
        limit, burst = self._limit, entry.burst
        batch = (worker.session.number, worker.session.batches) if worker is not None else None
        if entry.con.output.waiting <= limit or burst is None:
            burst = entry.burst = Burst(now + AT_ONCE, batch)
        allowance = burst.allowance
        if now <= burst.until or (batch is not None and batch == burst.batch):
            in_parts = worker is not None and worker.session.joined_size
            allowance = EVENT_LIMIT if in_parts else LARGEST_BATCH
        if size <= limit + allowance:
            burst.allowance = max(burst.allowance, size - limit)
        else:
            burst.allowance = allowance
            self.over_limit[entry] = None

    def close_overflowing(self, now: float) -> None:
        """Close connections that are still over the limit after the kernel could take their output.
        A connection that is closing cannot grow: it is sent its last bytes."""
        while self.over_limit:
            entry, _ = self.over_limit.popitem()
            con = entry.con
            size = con.output.waiting
            if entry in self.compressing:
                size += entry.event_bytes
            allowance = entry.burst.allowance if entry.burst is not None else 0
            if size > self._limit + allowance and not (entry.gone or con.ending.cause):
                self._overflow(entry, now)

    def hold_close(self, entry: Entry, worker: Worker, close: Close) -> bool:
        """Let a close wait behind a message that is being compressed; False if the connection has
        no such message."""
        if entry not in self.compressing:
            return False
        self._hold_back(entry, worker, close)
        return True

    def _begin_compressing(self, entry: Entry, worker: Worker | None, send: Send) -> None:
        self.compressing[entry] = worker, send
        self._flow.hold(len(send.data))
        if entry.fragment is None:
            entry.fragment = self._compressor

    def _go_on_compressing(self, now: float) -> None:
        """Compress a piece of one message; the next piece is another message's."""
        entry = next(iter(self.compressing))
        worker, send = self.compressing.pop(entry)
        try:
            if entry.con.send(send.data, send.type, send.final, now) == UNFINISHED:
                self.compressing[entry] = worker, send
                return
            self._flow.hold(-len(send.data))
            entry.totals.sent += 1.0
            self._dirty[entry.con] = None
            if entry.con.endpoint is None:
                self._flow.output_changed(entry)
            self._send_held_back(entry, send.final, now)
        except Exception as error:
            self._fault(entry.con, error, now)

    def _send_held_back(self, entry: Entry, is_finished: bool, now: float) -> None:
        """Send held-back data, in order, after a frame, or after the last frame of its message.

        If some of it begins a fragmented message, the rest of that follows at once, and all else
        waits again.
        """
        late, entry.held_back = entry.held_back, None
        if is_finished:
            self.forget(entry)
        for worker, record in late or ():
            self._flow.add(entry, -held_size(record))
            if isinstance(record, Send):
                self.send(entry, worker, record, now)
            elif worker is None or not self.hold_close(entry, worker, record):
                self._close(entry, record.code, record.reason, "handler", now)
        if entry.fragment is not None and entry.fragment.session.state is GONE:
            # The message was begun by a worker that has left since, so it will never be completed.
            self.cut_short(entry, now)

    def cut_short(self, entry: Entry, now: float) -> None:
        """Close a connection whose fragmented message will never be completed."""
        self.forget(entry)
        self._close(entry, 1011, "a message was cut short", "handler", now)

    def forget(self, entry: Entry) -> None:
        """Drop the unfinished message, and the data that waits behind it."""
        worker, entry.fragment = entry.fragment, None
        if worker is not None and worker is not entry.opener and worker is not entry.owner:
            worker.ties.discard(entry)
        self.fragmented.discard(entry)
        if entry in self.compressing:
            _, made = self.compressing.pop(entry)
            self._flow.hold(-len(made.data))
        late, entry.held_back = entry.held_back, None
        for _, record in late or ():
            self._flow.add(entry, -held_size(record))

    def _is_full(self, con: Connection, size: int) -> bool:
        return con.output.size + size > self._limit

    def _has_no_room(self, entry: Entry, send: Send) -> bool:
        """Whether a message, which may have to be held back, does not fit within the limit."""
        if entry.fragment is not None and entry.event_bytes + held_size(send) > self._limit:
            return True
        return entry.con.output.waiting + len(send.data) + FRAME_HEAD > self._limit

    def unfinished(self, now: float) -> list[Entry]:
        """Connections whose fragmented message was not completed in time."""
        return [r for r in self.fragmented if now - r.fragment_since > FRAGMENT_TIMEOUT]

    def publish(
        self, members: Collection[Entry], excluded: set[int], message: PublishedMessage, now: float
    ) -> str | None:
        """Send a message to all members of a group, framed once for all connections that take the
        same frame."""
        data = message.data
        if message.kind == "text":
            try:
                data.decode()
            except UnicodeDecodeError as error:
                return f"text that is not UTF-8: {error.reason} at byte {error.start}"
        if excluded:
            members = [entry for entry in members if entry.id not in excluded]
        if len(members) <= self.share and len(data) <= DEFLATED_AT_ONCE:
            # Members get it at once, whatever is on its way to large groups.
            self._deliver_all(list(members), message, now)
            return None
        if len(self.broadcasts) >= MOST_BROADCASTS:
            return UNFINISHED
        broadcast = Broadcast(dict.fromkeys(members), message)
        self.broadcasts.append(broadcast)
        self._flow.hold(broadcast.size)
        if len(self.broadcasts) == 1:
            self._broadcast(self.share, now)
        return None

    def room(self, entry: Entry) -> int:
        """Bytes that may be queued for a connection until its limit is reached."""
        return self._limit - entry.con.output.waiting - entry.event_bytes

    def replay(self, entry: Entry, messages: Collection[PublishedMessage], now: float) -> None:
        """Send a connection what was published before it joined, after earlier messages that it
        must get first."""
        self.catch_up(entry, now)
        for message in messages:
            self._deliver_alone(entry, message, now)
        self.work += len(messages)

    def _deliver_all(
        self, members: Collection[Entry], message: PublishedMessage, now: float
    ) -> None:
        """Send a message to these members, each after what was published to it before."""
        for entry in members:
            try:
                if self.broadcasts:
                    self.catch_up(entry, now)
                self._deliver_alone(entry, message, now)
            except Exception as error:
                # The other members get it.
                self._fault(entry.con, error, now)
            self.work += 1

    def pace(self, seconds: float) -> None:
        """Adapt the share of a turn to the time that a write took in the last turn."""
        fitting = BROADCAST_TIME / seconds if seconds > 0 else MOST_SHARE
        # Only half of the way, because a write may have waited for the core.
        share = (self.share + min(MOST_SHARE, int(fitting))) // 2
        self.share = max(LEAST_SHARE, share)

    def go_on(self, now: float) -> None:
        """Once a turn: send published messages to some more members, and compress another piece."""
        if self.compressing:
            self._go_on_compressing(now)
        if self.broadcasts:
            self._broadcast(max(LEAST_SHARE, self.share - len(self._dirty)), now)

    def _broadcast(self, left: int, now: float) -> None:
        """Send some members all messages that were published to them, with one write for each
        member. The messages take turns, so that a small group does not wait for a larger one."""
        self._turn = (self._turn + 1) % len(self.broadcasts)
        first = self.broadcasts[self._turn]
        until = self.work + PER_MEMBER * left
        for entry in list(islice(first.members, left)):
            if not self._deliver_waiting(entry, now) or self.work > until:
                break
        self._drop_finished()

    def _deliver_waiting(self, entry: Entry, now: float) -> bool:
        """Send a member the messages that were published to it, in order; False if a message is
        being compressed: then nobody can get it yet, nor the following ones."""
        for broadcast in self.broadcasts:
            if entry in broadcast.members:
                try:
                    if not self._deliver(entry, broadcast.message, now):
                        return False
                except Exception as error:
                    # The other members get it.
                    self._fault(entry.con, error, now)
                broadcast.members.pop(entry, None)
                self.work += 1
        return True

    def _drop_finished(self) -> None:
        for broadcast in self.broadcasts:
            if not broadcast.members:
                self._flow.hold(-broadcast.size)
        self.broadcasts = [broadcast for broadcast in self.broadcasts if broadcast.members]

    def catch_up(self, entry: Entry, now: float) -> None:
        """Send a member all that was published to it before."""
        for broadcast in self.broadcasts:
            if entry in broadcast.members:
                del broadcast.members[entry]
                self._deliver_alone(entry, broadcast.message, now)

    def _deliver_alone(self, entry: Entry, message: PublishedMessage, now: float) -> None:
        """Queue a published message for one member now. If compressing it takes long, that is done
        for this member alone, and the others do not wait."""
        if not self._deliver(entry, message, now):
            self.send(entry, None, Send(entry.id, message.data, message.kind), now)

    def _deliver(self, entry: Entry, message: PublishedMessage, now: float) -> bool:
        """Queue a published message for one member; False while it is being compressed."""
        if entry.gone:
            return True
        con, data, kind = entry.con, message.data, message.kind
        key = con.framing_key
        if key is None or entry.fragment is not None:
            # Nothing that waits here can be dropped: frames build on one another, or are held back
            # behind an incomplete message.
            send = Send(entry.id, data, kind)
            if self._policy != "close" and self._has_no_room(entry, send):
                self.dropped += 1
            else:
                self.send(entry, None, send, now)
            return True
        frame = message.frame(key, self._flow.share)
        if frame is None:
            return False
        if self._policy == "drop-newest" and self._is_full(con, len(frame)):
            self.dropped += 1
            return True
        con.send_framed(frame)
        entry.sent_at = now
        entry.totals.sent += 1.0
        if con.endpoint is not None and entry.output_counted:
            # The kernel's buffer is full, and writability will be reported: trying costs more than
            # a message.
            self._flow.output_changed(entry)
        else:
            self._dirty[con] = None
            if con.endpoint is None:
                self._flow.output_changed(entry)
        if con.output.size > self._limit:
            if self._policy == "drop-oldest":
                size = con.output.size
                self.dropped += con.output.drop_oldest_framed(self._limit)
                # For marks behind it, a dropped message counts as written.
                entry.written += size - con.output.size
                entry.skipped += size - con.output.size
                self._flow.output_changed(entry)
            if con.output.size > self._limit:
                self._check_limit(entry, None, con.output.size, now)
        return True
