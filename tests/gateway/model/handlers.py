"""Handlers of the model check: besides their echo they use every command that a worker may send."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from tests.gateway.model.processes import Process, Task
from tests.gateway.model.reference import Con, Reference, Sent
from wsraw.link.records import (
    Close,
    Join,
    Leave,
    OnMessage,
    Open,
    Publish,
    Send,
    SendToUser,
    State,
    User,
)

T = TypeVar("T")

ACTIONS = (
    "flush",
    "fragments here",
    "fragments here flushed",
    "fragments there",
    "fragments there flushed",
    "send there",
    "join",
    "leave",
    "publish",
    "open",
    "open named",
    "open reconnecting",
    "open websocket",
    "close",
)
"""Actions of handlers; each history uses some of them."""

OF_USERS = ("user", "no user", "to user")
"""Actions with users, in some histories."""


def pick(choices: Sequence[T], number: int) -> T | None:
    """One of the items, or None if there are none."""
    return choices[number % len(choices)] if choices else None


class Handler:
    """A handler: it echoes, counts in the state, and has an action."""

    def __init__(self, reference: Reference, process: Process, task: Task, action: str) -> None:
        self._reference = reference
        self._process = process
        self._task = task
        self._action = action

    def run(self) -> None:
        """Handle the event."""
        event, con = self._task.event, None
        session = self._reference.sessions.get(self._task.outbox.session)
        if session is None or event.seq not in session.sent:
            return
        sent = session.sent[event.seq]
        con = sent.con
        if event.con in self._process.deaf and type(event) is OnMessage:
            return
        self._count(sent)
        mark = b"%d.%d.%d" % (con.id & 0xFFFFFF, sent.rank, sent.offset)
        # The flush comes before the echo, as everything before it may be repeated.
        if self._action == "flush":
            self._task.command(Send(con.id, b"<f" + mark + b">"))
            self._flush()
        elif "there" in self._action:
            self._send_there(mark)
        if type(event) is OnMessage:
            self._echo(con, event.data)
        self._do_more(con, mark)

    def _count(self, sent: Sent) -> None:
        con, process, task = sent.con, self._process, self._task
        seen = int(process.states.get(con.id, b"") or b"0")
        # The worker may not have heard yet that its session is over: the handler's commands are
        # dropped.
        if not con.was_closed and not con.spoiled and sent.session.alive:
            assert seen == con.base + sent.place, (
                f"{con.id}: event {sent.place} of base {con.base} was given the state {seen}"
            )
        task.state = b"%d" % (seen + 1)

    def _echo(self, con: Con, data: bytes) -> None:
        if self._action.startswith("fragments here") and con.websocket:
            half = len(data) // 2
            self._task.command(Send(con.id, data[:half], "binary", False))
            if self._action.endswith("flushed"):
                self._flush_fragment()
            self._task.command(Send(con.id, data[half:]))
        else:
            self._task.command(Send(con.id, data))

    def _send_there(self, mark: bytes) -> None:
        """Send to another connection, whichever worker serves it."""
        heard = [
            c for c in self._reference.cons.values() if c.seen and not c.opened and not c.closes
        ]
        con = pick(heard, self._task.event.seq)
        if con is None:
            return
        if self._action == "send there":
            self._task.command(Send(con.id, b"<s" + mark + b">"))
        elif con.websocket:
            self._task.command(Send(con.id, b"<f", "binary", False))
            if self._action.endswith("flushed"):
                self._flush_fragment()
            self._task.command(Send(con.id, mark + b">"))

    def _do_more(self, con: Con, mark: bytes) -> None:
        action, command = self._action, self._task.command
        if action == "join":
            command(Join(con.id, "room"))
        elif action == "leave":
            command(Leave(con.id, "room"))
        elif action == "publish":
            command(Join(con.id, "room"))
            command(Publish("room", b"<p" + mark + b">"))
        elif action == "user":
            # A connection is bound to one user at a time.
            command(User(con.id, ("ann", "bob")[self._task.event.seq % 2]))
        elif action == "no user":
            command(User(con.id, ""))
        elif action == "to user":
            command(User(con.id, "ann"))
            command(SendToUser("ann", b"<u" + mark + b">"))
        elif action.startswith("open"):
            # The data is long enough to count as pressure while the peer does not read it.
            self._open(b"<" + mark + b"." * 1500 + b">")
        elif action == "close":
            if self._task.outbox.session == self._process.link.session:
                self._process.deaf.add(con.id)
            con.was_closed = True
            command(Close(con.id))

    def _open(self, greeting: bytes) -> None:
        try:
            new = self._process.link.new_id()
        except LookupError:
            return
        self._process.heard.add(new)
        options: dict[str, Any] = {"during": self._task.event.con}
        if self._action == "open named":
            options["name"] = "feed"
            self._task.command(Open(new, "there:1", options=options))
            return
        if self._action == "open reconnecting":
            options |= {"name": "feed again", "reconnect": True}
            self._task.command(Open(new, "there:1", options=options))
            return
        protocol = "websocket" if self._action == "open websocket" else "raw"
        self._task.command(Open(new, "there:1", protocol, options=options))
        self._task.command(Send(new, greeting))
        self._task.command(State(new, b"1000"))
        self._process.states[new] = b"1000"

    def _flush_fragment(self) -> None:
        # Handlers that run at the same time in a session share its fragmented messages, so they
        # must not fragment.
        if self._process.concurrency == 1:
            self._flush()

    def _flush(self) -> None:
        self._task.flushed = True
        self._process.link.flush(self._task.outbox)
        self._process.put()
