"""The reference: the contract of the link (docs/worker-protocol.md), without its implementation.

The reference sees only the batches on the wire. It checks those that leave the gateway. It takes or
drops those that reach the gateway, as the rules say; their commands tell what each peer must
receive.
"""

from __future__ import annotations

import math
import re
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    Ack,
    Attach,
    Bye,
    Close,
    Detach,
    GiveBack,
    Hello,
    Join,
    Leave,
    LinkError,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Part,
    Publish,
    Send,
    SendToUser,
    State,
    User,
    Welcome,
    gateway_decoder,
    worker_decoder,
)

RANKS = {OnConnect: 0, OnMessage: 1, OnError: 2, OnClose: 3}

MARK = re.compile(rb"<[^>]*>")
UNFINISHED_MARK = re.compile(rb"<[^>]*$")


class Sent:
    """An event that was given to a session."""

    def __init__(self, con: Con, session: Session, rank: int, place: int, offset: int, end: int):
        self.con = con
        self.session = session
        self.rank = rank
        self.place = place
        """The number of earlier events of the connection."""
        self.offset = offset
        """The offset of its data in what the peer has sent."""
        self.end = end

    @property
    def key(self) -> tuple[int, int]:
        """A key that all deliveries of an event share. Only messages can be several."""
        return self.rank, self.offset if self.rank == 1 else 0


class Session:
    """A session as seen on the wire."""

    def __init__(self, number: int, identity: bytes, instance: str, claimed: set[int]) -> None:
        self.number = number
        self.identity = identity
        self.instance = instance
        self.alive = True
        self.worker = 0
        """The supervisor's number of the worker."""
        self.acked = 0
        self.sent: dict[int, Sent] = {}
        self.unacked: set[int] = set()
        self.known: set[int] = set()
        """Connections whose events the session may get, as it was told what it must know of
        them.
        """
        self.parts: list[tuple[int, list[Any]]] = []
        """Commands that wait for the ack of an event, by the event's number."""
        self.is_shielded = False
        """The session belongs to a canary, and may give back events."""
        self.claimed = claimed
        """The connections that its hello claims to hold; the gateway tells it to forget those of
        others.
        """


class Con:
    """A connection as its peer and the wire see it."""

    def __init__(self, con: int, *, opened: bool = False, websocket: bool = False) -> None:
        self.id = con
        self.opened = opened
        self.websocket = websocket
        self.opener: Session | None = None
        self.owner: Session | None = None
        """The session with which the connection ends."""
        self.said = bytearray()
        self.received = bytearray()
        self.expected = bytearray()
        self.acked = 0
        self.offset = 0
        self.rank = -1
        self.outstanding: deque[Sent] = deque()
        self.deliveries: Counter[tuple[int, int]] = Counter()
        self.seen: set[tuple[int, int]] = set()
        self.state = b""
        self.base = 0
        """The count that the opener put into the state; each handled event adds one."""
        self.closes = 0
        self.was_closed = False
        """A handler has closed the connection: not all data of its peer is echoed or counted."""
        self.spoiled = False
        """A worker has lied about the connection, or an event of it was poison: not all events
        are handled.
        """
        self.buried = False
        """The on_close was poison."""
        self.bereaved = False
        """A message or more died with a worker, and may not be repeated."""
        self.before = False
        """The connection belonged to another gateway, and no worker has told this one of it."""
        self.handed_on = False
        """The connection belonged to another gateway; this one has been told, and must send an
        on_close.
        """
        self.successor = False
        """The gateway opened the connection in place of one that had ended: no worker was told."""
        self.given_back = False
        """A canary that is not over has failed at an event of the connection."""
        self.deaths = 0
        """The number of workers that died with an event of the connection in flight."""
        self.fragment: Session | None = None
        self.late: list[tuple[Session | None, bytes, bool]] = []

    # --- what the peer must receive ---

    def send(self, session: Session | None, data: bytes, final: bool) -> None:
        """A send took effect; the session is None for a published message."""
        self.late.append((session, data, final))
        if self.fragment in (None, session):
            self._let_go()

    def _let_go(self) -> None:
        """Add data that no longer waits for another session's unfinished message."""
        index = 0
        while index < len(self.late):
            session, data, final = self.late[index]
            if self.fragment is not None and session is not self.fragment:
                index += 1
                continue
            del self.late[index]
            self.expected += data
            if self.websocket and session is not None:
                self.fragment = None if final else session
            index = 0

    def outlive(self) -> None:
        """The connection's gateway has died: only an on_close can follow."""
        self.before, self.handed_on, self.given_back = True, False, False
        self.outstanding.clear()
        self.late.clear()
        self.opener = self.owner = self.fragment = None

    def hand_on(self) -> None:
        """A worker has told a new gateway of the connection, which knows neither its state nor
        anything else.
        """
        self.before, self.handed_on = False, True
        self.opened = True
        self.state = b""
        self.base = -self.acked
        self.rank = -1
        self.closes = self.deaths = 0
        self.deliveries.clear()

    def check_received(self) -> None:
        """Check that the peer has received the commands that took effect, in order, and echoes
        of its own data.
        """
        assert self.expected.startswith(self.received), (
            f"{self.id} received {bytes(self.received)!r}, not {bytes(self.expected)!r}"
        )
        if self.spoiled:
            return
        echoed = UNFINISHED_MARK.sub(b"", MARK.sub(b"", self.received))
        assert self.said.startswith(echoed), (
            f"{self.id} was echoed {echoed!r}, having said {bytes(self.said)!r}"
        )
        marks = [mark for mark in MARK.findall(self.received) if not mark.startswith(b"<f")]
        assert len(marks) == len(set(marks)), f"{self.id} received something twice: {marks}"


class Reference:
    """All sessions and connections. Takes what is on the wire, and raises if a guarantee is
    broken.
    """

    def __init__(self, repeats: bool = True) -> None:
        self.repeats = repeats
        self.epoch = 1
        self.cons: dict[int, Con] = {}
        self.sessions: dict[int, Session] = {}
        self.groups: dict[str, dict[int, None]] = {}
        self.users: dict[int, str] = {}
        """Connections that are bound to a user."""
        self.on_trial: set[int] = set()
        """The supervisor's numbers of the canary's workers."""
        self.counts: Counter[str] = Counter()
        self._from_gateway = worker_decoder()
        self._from_worker = gateway_decoder()

    def session_of(self, identity: bytes) -> Session | None:
        """The live session of an identity."""
        for session in self.sessions.values():
            if session.alive and session.identity == identity:
                return session
        return None

    def identities_of(self, instance: str) -> set[bytes]:
        """The identities with which a worker has a session."""
        sessions = self.sessions.values()
        return {each.identity for each in sessions if each.alive and each.instance == instance}

    # --- what leaves the gateway ---

    def leaves(self, identity: bytes, data: bytes) -> None:
        """Check a batch of a session that leaves for a worker."""
        number, records, wrong = self._from_gateway.decode(data)
        assert not wrong
        session = self.sessions[number]
        assert session.alive, "a batch for a session that is over"
        assert session.identity == identity
        for record in records:
            kind = type(record)
            if kind in RANKS:
                self._event(session, record)
            elif kind is Attach:
                self._attach(session, record)
            elif kind is Detach:
                both = session.known | session.claimed
                known = record.con in both or self.cons[record.con].successor
                assert known, "a detach of what it does not hold"
                session.known.discard(record.con)
                session.claimed.discard(record.con)
            elif kind is Welcome:
                assert record.session == number
                assert not session.sent
                session.is_shielded = bool(record.limits.get("shield"))

    def _attach(self, session: Session, attach: Attach) -> None:
        con = self.cons[attach.con]
        assert attach.con not in session.known, "attached twice"
        assert attach.state == con.state, f"{con.id}: {attach.state!r}, not {con.state!r}"
        assert con.opened or (attach.inf and attach.inf["Protocol"])
        session.known.add(attach.con)
        self.counts["moves"] += 1

    def _event(self, session: Session, event: Any) -> None:
        assert event.seq == len(session.sent) + 1, "a gap in the numbers"
        con = self.cons[event.con]
        last = con.outstanding[-1] if con.outstanding else None
        assert last is None or last.session is session, f"{con.id} is at two workers"
        rank = RANKS[type(event)]
        before = last.rank if last else con.rank
        right = rank > before or rank == before == 1 or con.spoiled
        assert right, f"{con.id}: {event} out of order"
        offset = end = last.end if last else con.offset
        if rank == 1:
            end += len(event.data)
            right = con.said[offset:end] == event.data or con.spoiled
            assert right, f"{con.id}: {event.data!r} at {offset}"
        is_new = con.given_back and session.worker in self.on_trial
        assert not is_new, f"{con.id} is at the new version again"
        assert rank == 3 or not con.handed_on, f"{con.id}: {event} after its gateway's death"
        assert rank >= 2 or not con.bereaved, f"{con.id}: {event} after some that were lost"
        if con.handed_on and event.con in session.claimed:
            # The worker was not told to forget the connection, although it has had another session
            # since.
            session.known.add(event.con)
        if event.con not in session.known:
            assert rank == 0 or con.successor, f"{con.id}: {event} without an attach"
            assert not con.state, f"{con.id}: its state was not attached"
            session.known.add(event.con)
        if before < 0 and not con.opened:
            assert rank == 0 or con.spoiled or con.bereaved, "no on_connect"
        sent = Sent(con, session, rank, con.acked + len(con.outstanding), offset, end)
        key = sent.key
        right = event.delivery == 1 + con.deliveries[key] or con.spoiled
        assert right, f"{con.id}: {event}, after {con.deliveries[key]} deaths"
        if key in con.seen:
            self.counts["redeliveries"] += 1
        con.seen.add(key)
        con.outstanding.append(sent)
        session.sent[event.seq] = sent
        session.unacked.add(event.seq)
        self.counts["events"] += 1

    # --- what reaches the gateway ---

    def reaches(self, identity: bytes, data: bytes) -> list[Open]:
        """Take a batch of a worker; returns the connections that it opens, if the batch counts."""
        session = self.session_of(identity)
        try:
            number, records, _ = self._from_worker.decode(data)
        except LinkError:
            return []
        if session is None or number != session.number:
            self.counts["late batches"] += bool(number)
            return []
        acked = [r for r in records if type(r) is Ack]
        held = len(session.unacked)
        honest = all(0 <= ack.last - ack.first < held for ack in acked)
        acks = [seq for ack in acked for seq in range(ack.first, ack.last + 1)] if honest else []
        if not honest or len(acks) != len(set(acks)) or not session.unacked.issuperset(acks):
            self.counts["dropped batches"] += 1
            return []
        if records and type(records[-1]) is Part and not acks:
            self._part(session, records)
            return []
        if acks:
            # Records after a bye are ignored, acks included.
            kinds = [type(record) for record in records]
            end = kinds.index(Bye) if Bye in kinds else len(records)
            acks = [
                seq
                for ack in records[:end]
                if type(ack) is Ack
                for seq in range(ack.first, ack.last + 1)
            ]
            waited = [commands for seq, commands in session.parts if seq in acks]
            session.parts = [(seq, late) for seq, late in session.parts if seq not in acks]
            records = [record for commands in waited for record in commands] + records
        opened = []
        for record in records:
            if not session.alive:
                break
            if type(record) is Open:
                if record.con in self.cons:
                    continue
                opened.append(record)
                con = self.cons[record.con] = Con(
                    record.con, opened=True, websocket=record.protocol == "websocket"
                )
                con.opener = session
                if "during" not in record.options:
                    con.owner = session
                session.known.add(con.id)
            else:
                self._command(session, record)
        return opened

    def _part(self, session: Session, records: list[Any]) -> None:
        """Keep commands of an event until its ack."""
        *commands, part = records
        if part.seq in session.unacked:
            session.parts.append((part.seq, commands))
            self.counts["parts"] += 1

    def _command(self, session: Session, record: Any) -> None:
        kind = type(record)
        if kind is Ack:
            for seq in range(record.first, record.last + 1):
                self._ack(session, seq)
        elif kind is GiveBack:
            self._give_back(session, record.seq)
        elif kind is Publish:
            for con in self.groups.get(record.group, ()):
                self.cons[con].send(None, record.data, True)
        elif kind is SendToUser:
            for con_id, user in self.users.items():
                if user == record.user:
                    self.cons[con_id].send(None, record.data, True)
        elif kind is Bye:
            self.end(session)
        elif kind in (User, Send, State, Close, Join, Leave):
            con = self.cons.get(record.con)
            if con is None or con.closes or con.before:
                return
            if kind is Send:
                con.send(session, record.data, record.final)
            elif kind is Close:
                con.was_closed = True
            elif kind is Join:
                self.groups.setdefault(record.group, {})[con.id] = None
            elif kind is Leave:
                self.groups.get(record.group, {}).pop(con.id, None)
            elif not (con.id in session.known and (con.outstanding or con.opener is session)):
                pass
            elif kind is User:
                self.users.pop(con.id, None)
                if record.user:
                    self.users[con.id] = record.user
            else:
                con.state = record.data
                if not con.outstanding and not con.acked:
                    con.base = int(record.data)

    def _ack(self, session: Session, seq: int) -> None:
        session.unacked.discard(seq)
        sent = session.sent[seq]
        con = sent.con
        if con.spoiled:
            con.outstanding.remove(sent)
        else:
            assert con.outstanding.popleft() is sent, f"{con.id} was handled out of order"
        con.acked += 1
        session.acked += 1
        con.rank = max(con.rank, sent.rank)
        con.offset = max(con.offset, sent.end)
        if sent.rank == 3:
            con.closes += 1
            self.leave_groups(con)
        self.counts["acks"] += 1

    def _give_back(self, session: Session, seq: int) -> None:
        """A handler has failed: all events of its connection in the session go to another
        worker.
        """
        if not session.is_shielded or seq not in session.unacked:
            return
        sent = session.sent[seq]
        con = sent.con
        for other in [each for each in session.unacked if session.sent[each].con is con]:
            session.unacked.discard(other)
        con.outstanding.clear()
        con.deliveries[sent.key] += 1
        con.given_back = session.worker in self.on_trial
        self.counts["given back"] += 1

    def leave_groups(self, con: Con) -> None:
        """Remove an ended connection from its groups."""
        self.users.pop(con.id, None)
        for members in self.groups.values():
            members.pop(con.id, None)

    # --- the ends of sessions ---

    def begin(self, number: int, identity: bytes, instance: str, hello: bytes) -> Session:
        """A hello was accepted. The old session of the process is over, and its events may have
        been handled in part.
        """
        for session in list(self.sessions.values()):
            if session.alive and (session.instance == instance or session.identity == identity):
                self.end(session, died=True)
        assert number not in self.sessions, "a session number was used twice"
        records = self._from_worker.decode(hello)[1]
        claimed = {con for record in records if type(record) is Hello for con in record.held}
        session = self.sessions[number] = Session(number, identity, instance, claimed)
        self.counts["sessions"] += 1
        for number in claimed:
            if number >> ID_EPOCH_SHIFT < self.epoch:
                con = self.cons.setdefault(number, Con(number))
                if con.before or not con.handed_on:
                    con.hand_on()
                    session.known.add(number)
                    self.counts["handed on"] += 1
        return session

    def gateway_died(self) -> None:
        """Forget everything that the gateway knew; only what workers hold survives."""
        self.epoch += 1
        self.groups.clear()
        self.users.clear()
        self.counts["gateway deaths"] += 1
        for session in self.sessions.values():
            if session.alive:
                self.end(session)
        for con in self.cons.values():
            con.outlive()

    def end(self, session: Session, died: bool = False, unsent: Iterable[bytes] = ()) -> None:
        """End a session: other workers will handle its unacked events. `unsent` are batches that
        have not left the gateway after all, nor any after them.
        """
        session.alive = False
        batches = [self._from_gateway.decode(batch)[:2] for batch in unsent]
        unsent_from = min(
            (
                record.seq
                for number, records in batches
                for record in records
                if number == session.number and type(record) in RANKS
            ),
            default=math.inf,
        )
        for seq in session.unacked:
            sent = session.sent[seq]
            sent.con.outstanding.clear()
            if seq >= unsent_from:
                self.counts["taken back"] += 1
                continue
            sent.con.deliveries[sent.key] += died
            sent.con.deaths += died
            if died and not self.repeats and sent.rank != 3 and not sent.con.bereaved:
                sent.con.bereaved = True
                self.counts["bereaved"] += 1
        self.counts["parts dropped"] += len(session.parts)
        session.parts.clear()
        session.unacked.clear()
        session.known.clear()
