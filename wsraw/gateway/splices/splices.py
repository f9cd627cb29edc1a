"""Sans-I/O. Splices: pairs of connections between which the gateway forwards data by itself.

Data from one side is queued for the other one as if a worker had sent it, and their flow control is
coupled. Workers get only on_error and on_close from then on; handlers that have begun finish their
events. The gateway waits for those handlers, as they may still send; then it forwards its own
copies of what came after, in order, before anything new (rule 17).

The end of one side is passed on to the other (endings.py). Between raw peers, a FIN is passed on as
a FIN, and the other peer may answer for as long as it likes. A WebSocket has no half-close. If a
raw client has sent FIN, it may still want the answer of its WebSocket target: both are closed once
the target has sent nothing for close_timeout. If a raw target has sent FIN, its WebSocket client is
closed (1000).
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.connection.connection import CLOSED, CLOSING, CONNECTING, Connection
from wsraw.gateway.connection.phases import FAILURES
from wsraw.gateway.counters import CLIENTS
from wsraw.gateway.delivery.dispatcher import Spliced, is_among
from wsraw.gateway.delivery.entry import EVENT_COST, PAUSED_SPLICED, Entry, SplicedSide, Worker
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.splices import framing
from wsraw.gateway.splices.endings import end_for
from wsraw.gateway.websocket.frames import TOO_BIG
from wsraw.link.records import Close, OnClose, OnMessage, Send
from wsraw.link.rules import framing_problem

CAUSE: Final = "spliced"
"""The cause of an end: the spliced partner has ended."""


class Splices(Spliced):
    """The splices of a gateway."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        registry.dispatcher.spliced = self
        self.starting: dict[Entry, None] = {}
        """Connections whose messages wait for handlers that have begun."""
        self.held: dict[Entry, Entry] = {}
        """Connections that are paused while their partner is busy with a large message."""
        self.to_shut: dict[Entry, None] = {}
        """Raw connections that get a FIN after their output."""

    # --- two become one ---

    def join(
        self,
        one: Entry,
        other: Entry,
        begun: tuple[int, int],
        worker: Worker | None,
        options: dict[str, Any],
    ) -> str | None:
        """Splice two connections; return why that is not possible. `begun`: the last event of each
        connection whose handler has begun at this worker."""
        ways, type_ = options.get("framing") or "", options.get("type") or ""
        why = self._problem(one, other) or framing_problem(ways, type_)
        if why:
            return why
        if one.splice is not None:
            # It is the handler of an event that was delivered again.
            return None
        ways = ways or "chunk"
        type_ = type_ or framing.DEFAULT_TYPES[ways]
        one.splice, other.splice = (
            SplicedSide(other.id, ways, type_),
            SplicedSide(one.id, ways, type_),
        )
        self._registry.flow.couple(one, other)
        for entry in (one, other):
            # Its own output does not count any more.
            self._registry.flow.check_marks(entry)
        for entry, last in zip((one, other), begun, strict=True):
            self._take_over(entry, last, worker)
        for entry in (one, other):
            self._start_if_free(entry)
        return None

    def _problem(self, one: Entry, other: Entry) -> str:
        if one is other:
            return f"connection {one.id} cannot be spliced with itself"
        for entry, partner in ((one, other), (other, one)):
            if entry.con.kind == "http":
                return f"connection {entry.id} is an HTTP request, which cannot be spliced"
            if entry.splice is not None and entry.splice.other != partner.id:
                return f"connection {entry.id} is spliced with {entry.splice.other} already"
        return ""

    def _take_over(self, entry: Entry, last: int, worker: Worker | None) -> None:
        """Note which events handlers have begun, and take the other messages from them."""
        splice = entry.splice
        assert splice is not None
        dispatcher = self._registry.dispatcher
        entry.closed_by_handler = True
        if entry.owner is not None:
            # It ends with its partner, and not with its opener.
            entry.owner.ties.discard(entry)
            entry.owner = None
        holder = entry.holder
        if holder is not None and entry.in_flight:
            for seq, flight in holder.window.in_flight.items():
                if flight.owner is not entry or type(flight.event) is OnClose:
                    continue
                if holder is not worker or seq <= last:
                    splice.begun.append(flight.event)
                elif type(flight.event) is OnMessage:
                    self._keep(entry, splice, flight.event)
        for event, size, since in entry.take_parked():
            if type(event) is OnMessage:
                dispatcher.suspects.clear(event)
                self._registry.flow.add(entry, -size)
                self._keep(entry, splice, event)
            else:
                entry.park(event, size, since)
        if not entry.parked:
            entry.leave_queue()
        self.starting[entry] = None

    def _keep(self, entry: Entry, splice: SplicedSide, event: OnMessage) -> None:
        splice.waiting.append(event)
        self._registry.flow.add(entry, len(event.data) + EVENT_COST)

    def partner(self, entry: Entry) -> Entry | None:
        """The other side, unless it is gone."""
        splice = entry.splice
        return self._registry.entries.get(splice.other) if splice is not None else None

    # --- messages ---

    def take(self, entry: Entry, event: OnMessage, now: float) -> None:
        """Forward a message, or keep it until it may be forwarded."""
        splice = entry.splice
        assert splice is not None
        entry.received_at = now
        if not splice.flows:
            self._keep(entry, splice, event)
            return
        other = self._registry.entries.get(splice.other)
        if other is not None:
            self._forward(entry, other, splice, event, now)

    def _forward(
        self, entry: Entry, other: Entry, splice: SplicedSide, event: OnMessage, now: float
    ) -> bool:
        """Forward a message. Returns False if this has ended both connections: then nothing more is
        forwarded."""
        if other.con.websocket is None:
            data = event.data
            if splice.framing != "chunk" and event.type != "raw":
                data = framing.join(splice.framing, splice.buffer, data, event.final)
                self._count(entry, splice, event.data)
                if not self._is_within_limit(entry, splice, now):
                    return False
            return not data or self._send(entry, other, Send(other.id, data), now)
        if event.type == "raw":
            return self._send_messages(entry, other, splice, event.data, now)
        return self._send(entry, other, Send(other.id, event.data, event.type, event.final), now)

    def _send_messages(
        self, entry: Entry, other: Entry, splice: SplicedSide, data: bytes, now: float
    ) -> bool:
        limit = self._registry.settings.max_message_size
        try:
            messages = framing.split(splice.framing, splice.buffer, data, limit)
        except framing.FramingError as error:
            splice.buffer.clear()
            return self._fail(entry, 1009, str(error), now)
        self._count(entry, splice, data)
        for message in messages:
            if not self._send(entry, other, Send(other.id, message, splice.type), now):
                return False
        return True

    def _count(self, entry: Entry, splice: SplicedSide, data: bytes) -> None:
        """Count a part of a message like other incomplete messages."""
        if splice.buffer:
            self._registry.flow.read_part(entry.con, len(data))

    def _is_within_limit(self, entry: Entry, splice: SplicedSide, now: float) -> bool:
        """Whether a message that is joined from fragments is within the limit for single frames."""
        limit = self._registry.settings.max_message_size
        if len(splice.buffer) <= limit:
            return True
        splice.buffer.clear()
        return self._fail(entry, 1009, f"a message of more than {limit} bytes", now)

    def _send(self, entry: Entry, other: Entry, send: Send, now: float) -> bool:
        outgoing = self._registry.outgoing
        if outgoing.broadcasts:
            outgoing.catch_up(other, now)
        # Frames of one message belong together; whole messages have no owner.
        is_part = not send.final or other.fragment is outgoing.forwarder
        why = outgoing.send(other, outgoing.forwarder if is_part else None, send, now)
        if why is not None:
            return self._fail(entry, 1007, why, now)
        if other.fragment is not None and (other in outgoing.compressing or other.held_back):
            self._registry.flow.pause(entry, PAUSED_SPLICED)
            self.held[entry] = other
        return True

    def _fail(self, entry: Entry, code: int, why: str, now: float) -> bool:
        """Data of a peer cannot be forwarded: end its connection, and so the other one. Returns
        False."""
        registry = self._registry
        registry.counters.say(
            "warning", "%s cannot be forwarded: %s", entry.con.label, why, of=CLIENTS
        )
        if entry.con.state is not CLOSED:
            if code == TOO_BIG:
                registry.count("max_message_size", entry.con, now)
            registry.abort(entry, code, FAILURES[code], why, now)
        return False

    def find_again(self) -> None:
        """Find out what to do for the entries that were taken over from another process."""
        for entry in list(self._registry.entries.values()):
            splice, other = entry.splice, self.partner(entry)
            if splice is None:
                if entry.pool.is_bridge and entry.con.undecided:
                    dispatcher = self._registry.dispatcher
                    dispatcher.bridged.begin_again(entry, self._registry.flow.now)
                continue
            if not splice.flows:
                self.starting[entry] = None
            if other is None:
                continue
            if entry.pauses & PAUSED_SPLICED:
                self.held[entry] = other
            if splice.has_passed_fin and not other.con.is_shut:
                self.to_shut[other] = None

    # --- once a turn ---

    def go_on(self, now: float) -> None:
        """Begin to forward where handlers have returned, and read on where there is room again."""
        for entry in list(self.starting):
            self._start_if_free(entry)
        outgoing = self._registry.outgoing
        for entry, other in list(self.held.items()):
            if other.gone or not (other in outgoing.compressing or other.held_back):
                del self.held[entry]
                self._registry.flow.resume(entry, PAUSED_SPLICED)

    def _start_if_free(self, entry: Entry) -> None:
        splice = entry.splice
        if splice is None or entry not in self.starting:
            return
        if splice.begun:
            holder = entry.holder
            there = [event for event, _, _ in entry.parked]
            if holder is not None:
                flights = holder.window.in_flight.values()
                there += [flight.event for flight in flights if flight.owner is entry]
            splice.begun = [event for event in splice.begun if is_among(event, there)]
        if not splice.begun:
            self._start(entry, splice)

    def _start(self, entry: Entry, splice: SplicedSide) -> None:
        """Forward the messages that have waited, and then new ones directly."""
        registry, now = self._registry, self._registry.flow.now
        del self.starting[entry]
        splice.flows = True
        waiting, splice.waiting = splice.waiting, []
        other = self.partner(entry)
        goes_on = other is not None
        for event in waiting:
            registry.flow.add(entry, -len(event.data) - EVENT_COST)
            if goes_on and other is not None:
                goes_on = self._forward(entry, other, splice, event, now)
        if other is None or other.gone or other.con.state is CLOSED:
            self._end_orphan(entry, other, now)
        if entry.con.state is CLOSED:
            self.ended(entry, now)
        elif entry.con.state is CLOSING and entry.con.intake.half_closed:
            registry.end_if_drained(entry, now)

    # --- ends ---

    def _end_orphan(self, entry: Entry, other: Entry | None, now: float) -> None:
        """Close a connection whose partner had ended before it was spliced."""
        if entry.con.state is CLOSED:
            return
        if other is not None:
            self._close(entry, *end_for(other.con, entry.con), now)
        else:
            self._close(entry, 1001 if entry.con.opened else 1014, "", now)

    def close_without(self, entry: Entry, now: float) -> None:
        """Close a connection that was to be spliced with one that is already forgotten."""
        if entry.con.state is not CLOSED:
            entry.closed_by_handler = True
            self._end_orphan(entry, None, now)

    def ended(self, entry: Entry, now: float) -> None:
        """Pass the end on, once all earlier messages are."""
        splice, other = entry.splice, self.partner(entry)
        if splice is not None and splice.flows:
            if other is not None and not other.gone:
                self._pass_end(entry, other, splice, now)
            # It counts in memory until it is forgotten.
            splice.buffer.clear()

    def _pass_end(self, entry: Entry, other: Entry, splice: SplicedSide, now: float) -> None:
        if other.con.state is CLOSED or (other.con.intake.half_closed and splice.has_passed_fin):
            # If both have sent FIN, each ends when its output is written.
            return
        if entry.con.ending.cause in ("eof", "peer"):
            self._send_last(entry, other, splice, now)
        code, reason = end_for(entry.con, other.con)
        if other.con.state is CONNECTING and entry.con.ending.cause == "lost":
            # Its answers are not needed any more.
            self._registry.abort(other, code, CAUSE, "", now)
        else:
            self._close(other, code, reason, now)

    def _send_last(self, entry: Entry, other: Entry, splice: SplicedSide, now: float) -> None:
        """The remaining bytes of a raw side may be a message."""
        if not splice.buffer or other.con.websocket is None:
            return
        try:
            message = framing.last(splice.framing, splice.buffer)
        except framing.FramingError as error:
            self._registry.counters.say("warning", "%s: %s", entry.con.label, error, of=CLIENTS)
            message = None
        splice.buffer.clear()
        if message is not None:
            self._send(entry, other, Send(other.id, message, splice.type), now)

    def _close(self, entry: Entry, code: int, reason: str, now: float) -> None:
        registry, outgoing = self._registry, self._registry.outgoing
        outgoing.catch_up(entry, now)
        if not outgoing.hold_close(entry, outgoing.forwarder, Close(entry.id, code, reason)):
            registry.close(entry, code, reason, CAUSE, now)

    def half_closed(self, entry: Entry, now: float) -> bool:
        """A raw peer has sent FIN, or a WebSocket has broken the protocol."""
        splice, other = entry.splice, self.partner(entry)
        if splice is None or other is None or other.gone:
            return False
        if not splice.flows:
            # `_start` calls this again.
            return True
        if entry.con.websocket is not None:
            return False
        if other.con.websocket is not None:
            self._send_last(entry, other, splice, now)
            return False
        if other.con.state is CLOSING:
            # Both have sent FIN: data on its way is written, then both end.
            splice.has_passed_fin = True
            for each in (entry, other):
                self.to_shut.pop(each, None)
                events = each.con.drained(now)
                if events:
                    self._registry.take(each.con, events, now)
                self._registry.dirty[each.con] = None
            return True
        if not splice.has_passed_fin and other.con.state is not CLOSED:
            splice.has_passed_fin = True
            self.to_shut[other] = None
        return other.con.state is not CLOSED

    def take_shut(self) -> list[Connection]:
        """The raw connections whose output is written, and whose sockets must now be shut for
        writing."""
        ready = []
        for entry in list(self.to_shut):
            con = entry.con
            if con.state is CLOSED or entry.gone:
                del self.to_shut[entry]
            elif con.state is not CONNECTING and not con.output.size and con.endpoint is not None:
                del self.to_shut[entry]
                self._registry.groups.forget(entry)
                con.shut()
                ready.append(con)
        return ready

    def forget(self, entry: Entry) -> None:
        """Handlers are done with a connection: forward the messages that waited for them."""
        splice = entry.splice
        if splice is not None and entry in self.starting:
            splice.begun = []
            self._start(entry, splice)
        self.starting.pop(entry, None)
        self.to_shut.pop(entry, None)
        if self.held.pop(entry, None) is not None:
            self._registry.flow.resume(entry, PAUSED_SPLICED)
