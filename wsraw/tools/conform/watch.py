"""Sans-I/O. The standing rules: what is wrong whenever it comes, whatever is being checked."""

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
    Hello,
    Join,
    Leave,
    Mark,
    Open,
    Record,
    Reject,
    Send,
    Splice,
    State,
)
from wsraw.tools.conform import show
from wsraw.tools.conform.rules import Breach
from wsraw.tools.conform.session import Heard, Session

LONGEST_NAME: Final = 128
"""Characters of pool, instance and language."""


class Watch:
    """Judges what one worker says. A breach is kept, the first of each rule; nothing is raised."""

    def __init__(self) -> None:
        self.breaches: dict[str, Breach] = {}
        self.touched: set[str] = set()
        """Rules that had something to judge."""
        self.told: set[int] = set()
        """Connections that this process has ever heard of, or has opened."""
        self.held: set[int] = set()
        self.unsure: set[int] = set()
        """Those that it may hold or not: their end was on its way, or nobody introduced them."""
        self.instance = ""
        self._instances: set[str] = set()

    def new_process(self) -> None:
        """It knows nothing."""
        if self.instance:
            self._instances.add(self.instance)
        self.instance = ""
        self.told.clear()
        self.held.clear()
        self.unsure.clear()

    def see(self, rule: str, good: object, why: str, record: str | Callable[[], str]) -> bool:
        """Judge by one rule; returns whether it was kept."""
        self.touched.add(rule)
        if not good and rule not in self.breaches:
            self.breaches[rule] = Breach(why, record if isinstance(record, str) else record())
        return bool(good)

    # --- what went out ---

    def given(self, record: list[Any]) -> None:
        """An event or a notice that the worker will read."""
        match record:
            case ["on_connect", _, con, *_] | ["attach", con, *_]:
                self.told.add(con)
                self.held.add(con)
                self.unsure.discard(con)
            case ["on_message" | "on_error", _, con, *_]:
                self.told.add(con)
                if con not in self.held:
                    self.unsure.add(con)
            case ["on_close", _, con, *_]:
                # Until it is acked nobody can say on which side of the end it is.
                self.told.add(con)
                self.held.discard(con)
                self.unsure.add(con)
            case ["detach", con, *_]:
                self.held.discard(con)
                self.unsure.discard(con)

    # --- what came ---

    def hello(self, hello: Hello, pool: str, token: str) -> None:
        """Its fields, and what it says to hold."""
        names = (hello.pool, hello.instance, hello.language)
        faults = [
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
                hello.instance == self.instance or not self.instance,
                f"a process keeps its instance, which was {self.instance!r}",
            ),
            (hello.instance not in self._instances, "each process has an instance of its own"),
        ]
        why = next((why for good, why in faults if not good), "")
        self.see("hello-fields", not why, why, lambda: show.record(hello))
        self.instance = hello.instance
        wrong = set(hello.held) - self.held - self.unsure
        why = f"it cannot hold {min(wrong, default=0)}, which was never given to it, or is gone"
        self.see("hello-held", not wrong, why, lambda: show.record(hello))

    def record(self, session: Session, heard: Heard, text: Callable[[], str]) -> None:
        """A command of a session that stands."""
        record = heard.record
        match record:
            case Ack():
                self._ack(session, heard)
            case Open():
                self._open(session, record)
            case State():
                self._is_told(record.con, record)
                mine = record.con in session.opened or any(
                    event[2] == record.con for event in session.in_flight.values()
                )
                why = "no event of that connection is in flight any more"
                self.see("state-taken", mine, why, text)
                size = len(record.data)
                good = size <= STATE_LIMIT
                self.see("records", good, f"a state of {size} bytes is too long", text)
            case Send():
                self._is_told(record.con, record)
                good = record.type in ("text", "binary")
                self.see("records", good, "a type is text or binary", text)
            case Close() | Join() | Leave() | Mark() | Accept() | Reject():
                self._is_told(record.con, record)
            case Couple() | Splice():
                self._is_told(record.con, record)
                self._is_told(record.other, record)

    def _is_told(self, con: int, record: Record) -> None:
        why = f"the worker does not know connection {con}"
        self.see("ids", con in self.told, why, lambda: show.record(record))

    def _ack(self, session: Session, heard: Heard) -> None:
        ack: Ack = heard.record

        def text() -> str:
            return show.record(ack)

        sensible = 0 < ack.first <= ack.last < session.next_seq
        why = f"events go from 1 to {session.next_seq - 1} in this session"
        if not self.see("ack-once", sensible, why, text):
            session.wrong_acks.append(heard)
            return
        for seq in range(ack.first, ack.last + 1):
            why = f"event {seq} is acked already"
            if not self.see("ack-once", seq in session.in_flight, why, text):
                session.wrong_acks.append(heard)
                continue
            event = session.in_flight.pop(seq)
            session.acked[seq] = heard
            ahead = [n for n, each in session.in_flight.items() if each[2] == event[2] and n < seq]
            why = f"event {min(ahead, default=0)} of connection {event[2]} comes before {seq}"
            self.see("ack-order", not ahead, why, text)
            if event[0] == "on_close":
                self.unsure.discard(event[2])

    def _open(self, session: Session, record: Open) -> None:
        fresh = record.con not in session.opened and any(record.con in ids for ids in session.ids)
        why = "each id of the range that welcome gave is good for one open"
        self.see("ids", fresh, why, lambda: show.record(record))
        session.opened.add(record.con)
        self.told.add(record.con)
        self.held.add(record.con)
