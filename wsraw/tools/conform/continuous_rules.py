"""Sans-I/O. The continuous rules: they hold for everything that a worker sends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from wsraw.link.records import (
    PROTOCOL_VERSION,
    STATE_LIMIT,
    Accept,
    Ack,
    Close,
    Couple,
    GiveBack,
    Hello,
    Join,
    Leave,
    Mark,
    Open,
    Part,
    Reject,
    Send,
    Splice,
    State,
    Stats,
)
from wsraw.link.rules import stats_refusal
from wsraw.tools.conform import rendering
from wsraw.tools.conform.session import Received, Session

LONGEST_NAME: Final = 128
"""Characters of pool, instance and language."""


class Breach(Exception):  # noqa: N818
    """A rule is broken; `record` is the record that broke it, as text."""

    def __init__(self, why: str, record: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.record = record


class NotApplicable(Exception):  # noqa: N818
    """A rule does not apply, because the worker does not use the feature that it is for."""


class ContinuousRules:
    """Checks all records of one worker. The first breach of each rule is kept; nothing is
    raised."""

    def __init__(self) -> None:
        self.breaches: dict[str, Breach] = {}
        self.applied: set[str] = set()
        """Rules for which the worker has sent something to check."""
        self._known: set[int] = set()
        """Connections that this process was given, or has opened."""
        self._held: set[int] = set()
        self._perhaps_held: set[int] = set()
        """Connections whose end was on its way, or that had no on_connect."""
        self._instance = ""
        self._instances: set[str] = set()

    def new_process(self) -> None:
        """Forget the state of the last process."""
        if self._instance:
            self._instances.add(self._instance)
        self._instance = ""
        self._known.clear()
        self._held.clear()
        self._perhaps_held.clear()

    def check(self, rule: str, good: object, why: str, record: Callable[[], str]) -> bool:
        """Apply one rule; returns whether it was kept."""
        self.applied.add(rule)
        if not good and rule not in self.breaches:
            self.breaches[rule] = Breach(why, record())
        return bool(good)

    def given(self, record: list[Any]) -> None:
        """Note an event or a notice that goes to the worker."""
        match record:
            case ["on_connect", _, con, *_] | ["attach", con, *_]:
                self._known.add(con)
                self._held.add(con)
                self._perhaps_held.discard(con)
            case ["on_message" | "on_error", _, con, *_]:
                self._known.add(con)
                if con not in self._held:
                    self._perhaps_held.add(con)
            case ["on_close", _, con, *_]:
                # Until this is acked, it is open whether the worker holds the connection.
                self._known.add(con)
                self._held.discard(con)
                self._perhaps_held.add(con)
            case ["detach", con, *_]:
                self._held.discard(con)
                self._perhaps_held.discard(con)

    def hello(self, hello: Hello, pool: str, token: str) -> None:
        """Check the fields of a hello, and what the worker claims to hold."""
        names = (hello.pool, hello.instance, hello.language)
        conditions = [
            (hello.version == PROTOCOL_VERSION, f"version is {PROTOCOL_VERSION}"),
            (hello.pool == pool, f"pool must be the value of WSRAW_POOL, {pool!r}"),
            (hello.token == token, "token must be the value of WSRAW_TOKEN"),
            (hello.instance, "instance is not empty"),
            (hello.language, "language is not empty"),
            (
                all(len(name) <= LONGEST_NAME and name.isprintable() for name in names),
                f"pool, instance and language are one line of at most {LONGEST_NAME} characters",
            ),
            (hello.window > 0, "window is at least 1"),
            (hello.concurrency > 0, "concurrency is at least 1"),
            (
                hello.instance == self._instance or not self._instance,
                f"a process keeps its instance, which was {self._instance!r}",
            ),
            (hello.instance not in self._instances, "each process has an instance of its own"),
        ]

        def text() -> str:
            return rendering.record(hello)

        why = next((why for good, why in conditions if not good), "")
        self.check("hello-fields", not why, why, text)
        self._instance = hello.instance
        wrong = set(hello.held) - self._held - self._perhaps_held
        why = f"held has {min(wrong, default=0)}, which this worker was never given, or is gone"
        self.check("hello-held", not wrong, why, text)

    def command(self, session: Session, received: Received) -> None:
        """Check a record of the session in force."""
        record = received.record
        match record:
            case Ack():
                self._ack(session, received)
            case Part():
                session.parts[received.batch] = record.seq
                why = f"event {record.seq} is not in flight"
                self.check("records", record.seq in session.in_flight, why, received.text)
            case GiveBack():
                why = "give_back is only for sessions with the limit shield"
                self.check("records", False, why, received.text)
            case Open():
                self._open(session, received)
            case State():
                self._is_known(record.con, received)
                mine = record.con in session.opened or any(
                    event[2] == record.con for event in session.in_flight.values()
                )
                why = "no event of that connection is in flight any more"
                self.check("state-taken", mine, why, received.text)
                size = len(record.data)
                why = f"a state of {size} bytes is too long"
                self.check("records", size <= STATE_LIMIT, why, received.text)
            case Send():
                self._is_known(record.con, received)
                good = record.type in ("text", "binary")
                self.check("records", good, "a type is text or binary", received.text)
            case Stats():
                refusal = stats_refusal(record)
                self.check("records", refusal is None, refusal or "", received.text)
            case Close() | Join() | Leave() | Mark() | Accept() | Reject():
                self._is_known(record.con, received)
            case Couple() | Splice():
                self._is_known(record.con, received)
                self._is_known(record.other, received)

    def _is_known(self, con: int, received: Received) -> None:
        why = f"the worker does not know connection {con}"
        self.check("ids", con in self._known, why, received.text)

    def _ack(self, session: Session, received: Received) -> None:
        ack: Ack = received.record
        sensible = 0 < ack.first <= ack.last < session.next_seq
        why = f"events go from 1 to {session.next_seq - 1} in this session"
        if not self.check("ack-once", sensible, why, received.text):
            session.wrong_acks.append(received)
            return
        for seq in range(ack.first, ack.last + 1):
            why = f"event {seq} is acked already"
            if not self.check("ack-once", seq in session.in_flight, why, received.text):
                session.wrong_acks.append(received)
                continue
            event = session.in_flight.pop(seq)
            session.acked[seq] = received
            ahead = [n for n, each in session.in_flight.items() if each[2] == event[2] and n < seq]
            why = f"event {min(ahead, default=0)} of connection {event[2]} comes before {seq}"
            self.check("ack-order", not ahead, why, received.text)
            if event[0] == "on_close":
                self._perhaps_held.discard(event[2])

    def _open(self, session: Session, received: Received) -> None:
        con = received.record.con
        fresh = con not in session.opened and any(con in ids for ids in session.ids)
        why = "each id of the range that welcome gave is good for one open"
        self.check("ids", fresh, why, received.text)
        session.opened.add(con)
        self._known.add(con)
        self._held.add(con)
