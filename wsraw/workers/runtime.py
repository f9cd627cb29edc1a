"""Sans-I/O. The core of a worker: batches in, handlers called, commands and acks out.

Both shells drive it the same way: `receive` batches, `handle` (or await `handle_async`) the events
in `queue`, send `link.data_to_send()`. The runtime knows which event is being handled and puts each
command into its outbox:

- in a plain handler: `turn`, because nothing else runs meanwhile;
- in an async handler and the code it calls: the context's turn, until that is done;
- elsewhere: the command is sent at once, without an ack, at most once.

This worker holds a connection from its on_connect, attach or our own open until its detach or the
end of the session. A new session starts empty and gets its connections by attach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from wsraw.link.batches import RECORD_COST
from wsraw.link.records import (
    Answer,
    Attach,
    Close,
    Detach,
    Event,
    Hung,
    Join,
    OnClose,
    OnConnect,
    OnError,
    OnJoin,
    OnLeave,
    OnMessage,
    OnRequest,
    Open,
    Opened,
    Reached,
    Record,
    Refused,
    Reject,
    Respond,
    Splice,
    State,
    User,
    Welcome,
    encode,
)
from wsraw.link.states import LinkState
from wsraw.link.window import LARGEST_WINDOW
from wsraw.link.worker_end import ONLY_MESSAGES, Outbox, WorkerEnd
from wsraw.runtime.log.formatters import HAS_LINES
from wsraw.runtime.log.line import NOTHING, Subject
from wsraw.runtime.printable import printable_lines, without_secrets
from wsraw.workers import values
from wsraw.workers.connection import (
    ATTACHED,
    CLOSED,
    CLOSING,
    FORKED,
    GIVEN_BACK,
    SPLICED,
    UNDECIDED,
    UNREAD,
    Connection,
    RemoteConnection,
    encode_state,
)
from wsraw.workers.questions import Asked, Joined, Questions
from wsraw.workers.reporting.handler_times import NAMES, HandlerTimes
from wsraw.workers.reporting.stacks import where
from wsraw.workers.reporting.worker_log import log
from wsraw.workers.request import Inf, Request

if TYPE_CHECKING:
    from wsraw.workers.loading.handlers import Handlers


MOST_SHOWN: Final = 5
"""Handlers whose stacks are logged if it is not known which one hangs."""

ENDS: Final = frozenset((OnError, OnClose))
"""Events at the end of a connection."""

ALWAYS: Final = frozenset((OnClose, OnJoin, OnLeave))
"""Events whose handlers are called even after a handler has closed the connection."""

FAILED_HEADERS: Final = [("Content-Type", "text/plain; charset=utf-8")]
FAILED_BODY: Final = b"the server has failed\n"
"""Body of the response if on_request raises."""

INTERNAL_ERROR: Final = 1011
"""Close code after a handler raised (RFC 6455, section 7.4.1)."""


class Turn(Outbox):
    """The outbox of one event, and the connections whose state its handler has read."""

    __slots__ = ("done", "flushed", "seen", "users")

    flushed: Event
    """The last event of which commands were sent before its handler returned. It is unset before
    that, because setting it costs time for each event."""

    def __init__(self, session: int, event: Event) -> None:
        super().__init__(session, event)
        self.done = False
        self.seen: list[Connection] = []
        self.users: tuple[Event, list[tuple[Connection, str | None]]] | None = None
        """An event, and the connections that its handler has bound to a user, each with the user to
        whom it was bound before."""


class NotOursError(Exception):
    """The event was given back, with an earlier one of its connection."""


_turn: ContextVar[Turn | None] = ContextVar("wsraw_turn", default=None)


class Runtime:
    """One worker's connections, and the event that is being handled.

    `get_ident` identifies the calling thread; only the thread that made the runtime may send
    commands.

    The class has more than 20 attributes because each message needs most of them: parts would cost
    look-ups. But from 30 on, Python would look each of them up in a dict, which is 2.5 % of the
    instructions that a message takes.
    """

    def __init__(
        self, link: WorkerEnd, handlers: Handlers, on_exception: str, get_ident: Callable[[], int]
    ) -> None:
        self.link = link
        self.handlers = handlers
        self.queue: deque[Event] = deque()
        """Events waiting for their handlers, in order."""
        self.turn: Turn | None = None
        """The turn of the plain handler that is running."""
        self.connections: dict[int, Connection] = {}
        self.rejection = ""
        """Why the gateway has rejected this worker; empty if it has not."""
        self.output_ready: Callable[[], object] = lambda: None
        """Called when a command must be sent at once."""
        self.send_now: Callable[[], object] = lambda: None
        """Called by `flush`; sends the link's data before it returns."""
        self.report: Callable[[str, BaseException], None] = log_exception
        """Called with the name of an event and the exception of its handler."""
        self.left_out: Callable[[str], None] = log_left_out
        """Called with the reason why the gateway has rejected a command."""
        self.passes: Callable[[BaseException], bool] = lambda error: False
        """Whether an exception ends the surrounding program and must not be handled here."""
        self.cancel: Callable[[int], object] = lambda seq: None
        """Cancels the async handler of the event with that number."""
        self.taken = 0
        """The number of the last event that a shell with async handlers took out of the queue."""
        self._overdue: set[int] = set()
        """Events whose handlers were cancelled."""
        self._failing: Connection | None = None
        """The connection whose handler has failed, while the failure is reported."""
        self._end_fork: Callable[[BaseException | None], object] | None = None
        """Ends the process, in a fork of the worker's process."""
        self._plain = Turn(0, OnError(0, 0, ""))
        self._given_back: dict[int, None] = {}
        """Connections that the other version serves; if there are many, the oldest is forgotten: by
        then no more of its events come."""
        self._without_gateway: dict[int, Connection] = {}
        """Connections of a gateway that died, until their on_close."""
        self._epoch_known = 0
        self._known: WeakValueDictionary[int, Connection] = WeakValueDictionary()
        self.questions = Questions(self._ask)
        self.times = HandlerTimes([name for name in NAMES.values() if getattr(handlers, name)])
        """Statistics. The shell counts messages, which it can do in bulk; other events are counted
        here."""
        self._keep = on_exception == "keep"
        self._get_ident = get_ident
        self._ident = get_ident()
        self._on_message = handlers.on_message
        self._functions = {kind: getattr(handlers, name) for kind, name in NAMES.items()}
        awaits_all = "on_attach" in handlers.awaited
        self.awaited = {
            kind for kind, name in NAMES.items() if awaits_all or name in handlers.awaited
        }
        """Types of the events whose handlers must be awaited."""

    @property
    def epoch(self) -> int:
        """The epoch of the present gateway; 0 before the first."""
        return self.link.epoch

    @property
    def node(self) -> str:
        """The name of the gateway in its cluster; "" without one."""
        return self.link.node

    # --- bytes in ---

    def receive(self, data: bytes | memoryview) -> None:
        """Take one batch: notices take effect at once, events are queued."""
        records = self.link.receive(data)
        if set(map(type, records)) == ONLY_MESSAGES:
            self.queue.extend(records)
            return
        for record in records:
            kind = type(record)
            if kind in self._functions:
                self.queue.append(record)
            elif kind is Attach:
                self._attach(record)
            elif kind is Detach:
                self._detach(record)
            elif kind is Welcome:
                self._forget_all()
            elif kind is Opened:
                self._opened(record)
            elif kind is Answer or kind is Reached:
                self.questions.answered(record)
            elif kind is Refused:
                self._refused(record)
            elif kind is Hung:
                self._hung(record)
        if not self.link.session:
            # The batch had a `who`, which ended the session.
            self._forget_events()

    def lost(self) -> None:
        """The connection to the gateway is lost, and the session with it. Events that wait for
        their handlers go to others."""
        self.link.lost()
        self._forget_events()

    def _attach(self, attach: Attach) -> None:
        self._given_back.pop(attach.con, None)
        con = self.meet(attach.con)
        con._flags &= ~GIVEN_BACK
        if attach.inf is not None:
            con.inf = Inf(attach.inf)
        con.about = attach.about
        con._saved = con._kept = attach.state
        con._state = UNREAD
        con._flags |= CLOSED if "ref" in attach.about else ATTACHED

    def _detach(self, detach: Detach) -> None:
        self.connections.pop(detach.con, None)

    def _forget_all(self) -> None:
        """Forget all connections at the start of a new session."""
        self._forget_events()
        if self.link.epoch != self._epoch_known:
            # The new gateway sends their on_close but does not know their inf and state.
            self._epoch_known = self.link.epoch
            self._without_gateway.update(self.connections)
        self.connections.clear()

    def _forget_events(self) -> None:
        """Forget queued events of an old session; the gateway delivers them again."""
        self.questions.lost()
        self._given_back.clear()
        self.taken = 0
        self._overdue.clear()
        self.queue.clear()
        for con in self.connections.values():
            if con._waiting is not None:
                con._waiting.clear()

    def _opened(self, opened: Opened) -> None:
        """Our named `open` found an existing connection: take its id."""
        con = self.connections.pop(opened.asked, None)
        self.link.held.discard(opened.asked)
        if con is not None:
            con.id = opened.con
            self._known.setdefault(opened.con, con)

    def _hung(self, hung: Hung) -> None:
        """Log what an async handler awaits, and cancel it: if that does not help, we are killed. (A
        plain handler that blocks keeps this from being read; faulthandler logs its stack.)"""
        if self._is_queued(hung.event):
            # The gateway cannot know that: tell it that the event has not been started.
            self.questions.drained(hung.con)
            return
        busy = [con for con in self.connections.values() if con._handling is not None]
        itself = [con for con in busy if con.id == hung.con]
        for con in itself or busy[:MOST_SHOWN]:
            text = (
                "an event of connection %d takes too long; the handler of connection %d awaits:\n%s"
            )
            stack = printable_lines(where(con._handling))
            log.error(text, hung.con, con.id, stack, extra=subject_of(con).extra() | HAS_LINES)
        self._overdue.add(hung.event)
        self.cancel(hung.event)

    def _is_queued(self, seq: int) -> bool:
        """Whether the handler of an event has not been started."""
        waiting = (con._waiting for con in self.connections.values() if con._waiting)
        return any(event.seq == seq for events in (self.queue, *waiting) for event in events)

    def _refused(self, refused: Refused) -> None:
        if refused.batch == 0:
            self.rejection = refused.why
        elif not self.questions.refused(refused):
            self.left_out(refused.why)

    def meet(self, con_id: int) -> Connection:
        """The connection with this id, held by this worker from now on."""
        con = self.connections.get(con_id)
        if con is None:
            con = self._without_gateway.pop(con_id, None) or self.connection(con_id)
            self.connections[con_id] = con
            con._flags = GIVEN_BACK if con_id in self._given_back else 0
        return con

    def connection(self, con_id: int) -> Connection:
        """The connection with this id, whichever worker serves it: one object for each id."""
        con = self.connections.get(con_id) or self._known.get(con_id)
        if con is None:
            con = self._known[con_id] = Connection(self, con_id)
        return con

    def reached(self, con: int | str) -> Connection | RemoteConnection:
        """The connection with this id or reference, at whichever gateway."""
        if isinstance(con, int):
            return self.connection(con)
        node, _, number = con.rpartition("/")
        if node == self.link.node:
            return self.connection(int(number))
        return RemoteConnection(self, con)

    # --- events ---

    def handle(self, event: Event) -> None:
        """Call the plain handler of an event, then give its commands and its ack to the link."""
        con = self.connections.get(event.con) or self.meet(event.con)
        # Plain handlers run one after the other and share a turn.
        turn = self.turn = self._plain
        turn.session = self.link.session
        turn.size = 0
        turn.event = event
        con.delivery = event.delivery
        try:
            if con._flags and self._is_skipped(con, event):
                self.times.skipped()
            elif type(event) is OnMessage:
                if self._on_message is not None:
                    reply = self._on_message(to_msg(event), con)
                    if reply is not None:
                        con.send(reply)
            else:
                self._handle_other(event, con)
            if turn.seen:
                self._save(turn)
        except BaseException as error:
            if self._failed(turn, con, error):
                return
        self.turn = None
        if not self.link.done(turn):
            self._discard(turn)
        elif turn.records:
            turn.records = []

    def _handle_other(self, event: Event, con: Connection) -> None:
        """Call the plain handler of an event that is not a message."""
        began = self.times.clock()
        try:
            returned = self._call(event, con)
            if returned is not None:
                check_returned(returned)
                if type(event) is OnRequest:
                    con._answer(returned)
        finally:
            con._flags &= ~UNDECIDED
            if self.has_handler(con, event):
                self.times.other(type(event), self.times.clock() - began)
            else:
                self.times.skipped()

    async def handle_async(self, event: Event) -> None:
        """Call the handler of an event in a task of its own, and await it if it is async."""
        con = self.connections.get(event.con) or self.meet(event.con)
        turn = Turn(self.link.session, event)
        _turn.set(turn)
        con.delivery = event.delivery
        try:
            if con._flags & ATTACHED:
                con._flags &= ~ATTACHED
                if self.handlers.on_attach is not None and con.kind != "http":
                    returned = self.handlers.on_attach(con)
                    if hasattr(returned, "__await__"):
                        con._handling = returned
                        await returned
            if not (con._flags and self._is_skipped(con, event)):
                reply = self._call(event, con)
                if hasattr(reply, "__await__"):
                    con._handling = reply
                    reply = await reply
                if reply is not None:
                    if type(event) is OnMessage:
                        con.send(reply)
                    elif type(event) is OnRequest:
                        con._answer(reply)
            if turn.seen:
                self._save(turn)
        except BaseException as error:
            if self._failed(turn, con, self._overdue_error(event, error)):
                con._handling = None
                turn.done = True
                return
        if con._flags:
            con._flags &= ~UNDECIDED
        con._handling = None
        turn.done = True
        if not self.link.done(turn):
            self._discard(turn)

    def _overdue_error(self, event: Event, error: BaseException) -> BaseException:
        """The exception to report for a handler: TimeoutError if we have cancelled it."""
        if event.seq not in self._overdue:
            return error
        self._overdue.discard(event.seq)
        late = TimeoutError("the handler was cancelled: it took longer than handler_timeout")
        late.__cause__ = error
        return late.with_traceback(error.__traceback__)

    def _is_skipped(self, con: Connection, event: Event) -> bool:
        """Handle the unusual states; True if the handler must not be called. Raises NotOursError
        for an event that must not be acked either."""
        if con._flags & GIVEN_BACK:
            raise NotOursError
        if con._flags & ATTACHED:
            con._flags &= ~ATTACHED
            if self.handlers.on_attach is not None and con.kind != "http":
                check_returned(self.handlers.on_attach(con))
        if con._flags & SPLICED and type(event) is OnMessage:
            # The gateway forwards its own copy.
            return True
        return bool(con._flags & CLOSING) and type(event) not in ALWAYS

    def has_handler(self, con: Connection, event: Event) -> bool:
        """Whether handlers are told of such an event. They are not told of the end of a request,
        because they have not been told of its beginning."""
        return type(event) not in ENDS or con.kind != "http"

    def _call(self, event: Event, con: Connection) -> Any:
        """Call the handler of an event and return its result."""
        function = self._functions[type(event)]
        if isinstance(event, OnMessage):
            return function(to_msg(event), con) if function is not None else None
        if isinstance(event, OnConnect):
            con.inf, con.about = Inf(event.inf), event.about
            if event.verdict:
                con._flags |= UNDECIDED
            return function(con.inf, con) if function is not None else None
        if isinstance(event, OnRequest):
            con.inf, con.about = Inf(event.inf), event.about
            request = Request(con.inf, con.about, event.body)
            return function(request, con) if function is not None else None
        if isinstance(event, OnJoin | OnLeave):
            return function(event.group, con) if function is not None else None
        if event.about:
            con.about = event.about
        if not self.has_handler(con, event):
            function = None
        if isinstance(event, OnError):
            return function(event.message, con) if function is not None else None
        con._flags |= CLOSED
        if con.close_cause:
            # It was handled before, but the gateway died before our ack arrived.
            con.delivery = event.delivery + 1
        con.close_code, con.close_reason = event.code, event.reason
        con.close_cause = event.cause
        return function(con) if function is not None else None

    def _failed(self, turn: Turn, con: Connection, error: BaseException) -> bool:
        """A handler raised: discard its commands and ack the event, or give the event back; returns
        True if it was given back."""
        self.turn = None
        if type(error) is NotOursError:
            self.times.skipped()
            self.link.not_ours(turn.seq)
            if con.id not in self.link.held:
                # It was detached before this event's turn came.
                self.connections.pop(con.id, None)
            return True
        # An exception that passes leaves the event unhandled; another worker gets the event.
        self._failing = con
        try:
            self.escaped(name_of(turn.event), error)
        finally:
            self._failing = None
        self.times.raised(NAMES[type(turn.event)])
        self._discard(turn)
        self.times.urgent()
        has_flushed = getattr(turn, "flushed", None) is turn.event
        if self.link.is_shielded and not has_flushed and self.link.give_back(turn):
            self._note_given_back(con)
            return True
        turn.records = self._end(turn.event, con)
        turn.size = RECORD_COST
        return False

    def _note_given_back(self, con: Connection) -> None:
        """Handle no more events of a connection: those that have come were given back, too."""
        con._flags |= GIVEN_BACK
        self._given_back[con.id] = None
        if len(self._given_back) > LARGEST_WINDOW:
            del self._given_back[next(iter(self._given_back))]

    def _end(self, event: Event, con: Connection) -> list[Record]:
        """The commands for a connection whose handler has failed."""
        if type(event) is OnRequest:
            con._flags |= CLOSING
            return [Respond(con.id, 500, FAILED_HEADERS, FAILED_BODY)]
        if type(event) is OnConnect and event.verdict:
            # Even with on_exception = keep: without a verdict the client must not be accepted.
            con._flags |= CLOSING
            return [Reject(con.id, 500)]
        if not self._keep and type(event) is not OnClose:
            con._flags |= CLOSING
            return [Close(con.id, INTERNAL_ERROR, "internal error")]
        return []

    def _discard(self, turn: Turn) -> None:
        """Discard a handler's commands and undo their effects here."""
        self._end_if_forked(None)
        for records, _ in turn.pieces():
            self._undo(records)
        turn.clear()
        for con in turn.seen:
            con._saved, con._state = con._kept, UNREAD
        if turn.users is not None and turn.users[0] is turn.event:
            for con, user in reversed(turn.users[1]):
                _note_user(con, user)
            turn.users = None

    def _undo(self, records: list[Record]) -> None:
        for record in records:
            if type(record) is Close or type(record) is Reject:
                closed = self.connections.get(record.con)
                if closed is not None:
                    closed._flags &= ~CLOSING
            elif type(record) is Splice:
                for con_id in (record.con, record.other):
                    spliced = self.connections.get(con_id)
                    if spliced is not None:
                        spliced._flags &= ~SPLICED
            elif type(record) is Join and record.ref:
                self.questions.not_asked(record.ref)
            elif type(record) is Open:
                self.link.held.discard(record.con)
                opened = self.connections.pop(record.con, None)
                if opened is not None:
                    opened._flags |= CLOSED

    def escaped(self, what: str, error: BaseException) -> None:
        """Report an exception of the user's code, or raise it again if it `passes`."""
        self._end_if_forked(error)
        if self.passes(error):
            raise error
        self.report(what, error)

    def subject(self) -> Subject:
        """The connection whose event the calling code handles, for the log."""
        if self._failing is not None:
            return subject_of(self._failing)
        turn = self.turn
        if turn is None or self._get_ident() != self._ident:
            turn = _turn.get()
            if turn is None or turn.done:
                return NOTHING
        con = self.connections.get(turn.event.con)
        return Subject(turn.event.con) if con is None else subject_of(con)

    # --- calls beside events ---

    def call(self, what: str, function: Callable[..., Any], *args: Any) -> bool:
        """Call a user's plain function outside an event. False if it raised."""
        try:
            check_returned(function(*args))
        except BaseException as error:
            self.escaped(what, error)
            self._note_raised(what)
            return False
        self._end_if_forked(None)
        return True

    def _note_raised(self, what: str) -> None:
        self.times.raised(what)
        if what != "on_start":
            # A batch would report that the worker has started.
            self.times.urgent()

    async def call_async(self, what: str, function: Callable[..., Any], *args: Any) -> bool:
        """Call a user's function outside an event, which may be async. False if it raised."""
        try:
            returned = function(*args)
            if hasattr(returned, "__await__"):
                await returned
        except BaseException as error:
            self.escaped(what, error)
            self._note_raised(what)
            return False
        self._end_if_forked(None)
        return True

    # --- commands ---

    def command(self, record: Record, size: int = 0) -> None:
        """Put a command into the outbox it belongs to, or send it (see the module's docstring).
        `size`: bytes of its data. Raises RuntimeError in a thread, and ValueError for a command
        that exceeds a batch, or with which the commands of its event exceed their limit."""
        turn = self.turn
        if turn is None or self._get_ident() != self._ident:
            turn = self._current()
        size += RECORD_COST
        if turn is not None:
            total = turn.size + size
            if total > self.link.room:
                self._cut(turn, size)
            turn.size = total
            turn.records.append(record)
        elif size > self.link.room:
            raise ValueError(self._too_large(size))
        elif self.link.command(record, size):
            self.output_ready()
        else:
            # Without its content, which may be secret.
            log.debug("there is no gateway; dropped: %s", type(record).__struct_config__.tag)

    def _cut(self, turn: Turn, size: int) -> None:
        """Make a part of an event's commands if they do not fit into one batch. Raises ValueError
        if one more command of this size is too large, or exceeds the limit of the event."""
        link = self.link
        if size > link.room:
            raise ValueError(self._too_large(size))
        if turn.size + size > link.event_limit:
            raise ValueError(
                "this event's handler has sent too much: its messages leave when it returns, and "
                f"together they may have at most {link.event_limit} bytes, each counted as its "
                f"data and {RECORD_COST}. wsraw.flush() sends the messages so far"
            )
        turn.cut(size, link.room)

    def _too_large(self, size: int) -> str:
        room = self.link.room - RECORD_COST
        return f"a message of {size - RECORD_COST} bytes is too large; the maximum is {room}"

    def _current(self) -> Turn | None:
        if self._get_ident() != self._ident:
            if self._end_fork is not None:
                raise RuntimeError(FORKED)
            raise RuntimeError("a thread cannot do this itself: use wsraw.call_soon(function, …)")
        turn = self.turn
        if turn is None:
            turn = _turn.get()
            if turn is not None and turn.done:
                return None
        return turn

    def open(self, fields: dict[str, Any], options: dict[str, Any]) -> Connection:
        """Open a connection, which can be used at once. Raises ConnectionError without a
        gateway."""
        turn = self._current()
        size = len(encode([fields, options]))
        try:
            con_id = self.link.new_id()
        except LookupError as error:
            raise ConnectionError(f"nothing can be opened now: {error}") from None
        if turn is not None:
            options["during"] = turn.event.con
        con = self.meet(con_id)
        con.about = {"target": fields["target"], "kind": fields["protocol"]}
        con._opened_in = self.link.session
        record = Open(con_id, **fields, options=options)
        try:
            self.command(record, size)
        except ValueError:
            self._undo([record])
            raise
        return con

    def splice(self, con: Connection, other_id: int, options: dict[str, Any]) -> None:
        """Let the gateway forward between two connections; their messages are not for handlers any
        more. If it cannot, it closes them. Raises ValueError where that is known here."""
        other = self.connection(other_id)
        if con.id == other_id:
            raise ValueError(f"{con!r} cannot be spliced with itself")
        for each in (con, other):
            if each.kind == "http":
                raise ValueError(f"{each!r} is an HTTP request, which cannot be spliced")
        last, other_last = self._last_begun(con), self._last_begun(other)
        self.command(Splice(con.id, other.id, last, other_last, options))
        con._flags |= SPLICED
        other._flags |= SPLICED

    def _last_begun(self, con: Connection) -> int:
        """The number of the last event of a connection whose handler has begun, or a higher one
        that all its later events are above; 0 without a session."""
        if not self.link.session:
            return 0
        for events in (con._waiting or (), self.queue):
            for event in events:
                if event.con == con.id:
                    return event.seq - 1
        plain = self._plain
        seq = plain.event.seq if plain.session == self.link.session else 0
        return max(seq, self.taken)

    def flush(self) -> None:
        """Send the commands of the current handler so far, before its ack."""
        turn = self._current()
        if turn is not None:
            self._flush(turn)
        self.send_now()

    def _flush(self, turn: Turn) -> None:
        """Let the commands of a handler so far be sent; they cannot be undone any more."""
        if turn.seen:
            self._save(turn)
        turn.users = None
        if turn.records or turn.parts:
            turn.flushed = turn.event
        self.link.flush(turn)

    def _ask(self, question: Record) -> bool:
        """Send a question at once, without the commands of the current handler. False without a
        session."""
        self._current()
        sent = self.link.command(question)
        if sent:
            self.output_ready()
        return sent

    def drained(self, con: Connection) -> Asked[bool]:
        """Send the commands of the current handler so far, and ask when the output of a connection
        is written."""
        turn = self._current()
        if turn is not None:
            self._flush(turn)
        return self.questions.drained(con.id)

    def joins(self, con: Connection, group: str, since: str | None) -> Asked[Joined]:
        """Add a connection to a group from a position on, and ask what the connection was sent."""
        turn = self._current()

        def ask() -> None:
            if turn is not None and not turn.done and self._current() is turn:
                self._flush(turn)
                self.output_ready()

        ref, asked = self.questions.joined(ask)
        size = values.size(group) + values.size(since or "")
        if turn is None and not self.link.session:
            # There is no gateway to answer.
            self.questions.not_asked(ref)
        else:
            self.command(Join(con.id, group, since, ref), size)
        return asked

    def buffered(self, con: Connection) -> Asked[int]:
        """Ask for the bytes that wait for the connection."""
        return self.questions.buffered(con.id)

    # --- state ---

    def serves(self, con: Connection) -> bool:
        """Whether this worker serves the connection."""
        return self.connections.get(con.id) is con

    def reads_state(self, con: Connection) -> None:
        """Note a state that the current handler reads and may change in place. Raises LookupError
        if another worker serves the connection."""
        turn = self._current()
        if turn is not None and self._keeps_state(con, turn):
            if con not in turn.seen:
                turn.seen.append(con)
        elif not self.serves(con):
            raise LookupError(f"{con!r}: its state is with the worker that serves it, not here")

    def sets_state(self, con: Connection, data: bytes) -> None:
        """Keep a state that was set: with the event's ack, or at once outside an event. Raises
        RuntimeError where it cannot be kept."""
        turn = self._current()
        if not self._keeps_state(con, turn):
            raise RuntimeError(
                f"{con!r}: con.state is set in an event of that connection, "
                "or by the worker that has opened it"
            )
        con._saved, con._state = data, UNREAD
        if turn is None:
            con._kept = data
            self.command(State(con.id, data))
        elif con not in turn.seen:
            turn.seen.append(con)

    def sets_user(self, con: Connection, user: str) -> None:
        """Bind a connection to a user, or with "" to none. Raises RuntimeError if that could
        overtake another worker's command."""
        turn = self._current()
        if not self._keeps_state(con, turn):
            raise RuntimeError(
                f"{con!r}: con.user is set in an event of that connection, "
                "or by the worker that has opened it"
            )
        if con.kind == "http":
            raise RuntimeError(f"{con!r} is an HTTP request, which has no user")
        self.command(User(con.id, user), values.size(user))
        if turn is not None:
            # Plain handlers share a turn: it may still hold changes of an earlier event.
            if turn.users is None or turn.users[0] is not turn.event:
                turn.users = (turn.event, [])
            turn.users[1].append((con, con.user))
        _note_user(con, user)

    def _keeps_state(self, con: Connection, turn: Turn | None) -> bool:
        """Whether the gateway accepts a state from here, in order with those of other workers."""
        if turn is not None and turn.event.con == con.id:
            return True
        return self.serves(con) and con._opened_in == self.link.session != 0

    def _save(self, turn: Turn) -> None:
        """Add commands for changed states. Raises TypeError or ValueError for invalid ones."""
        states = [
            (con, con._saved if con._state is UNREAD else encode_state(con._state))
            for con in turn.seen
        ]
        for con, data in states:
            if data != con._kept:
                size = RECORD_COST + len(data)
                if turn.size + size > self.link.room:
                    self._cut(turn, size)
                turn.size += size
                turn.records.append(State(con.id, data))
        for con, data in states:
            con._saved = con._kept = data
            con._state = UNREAD
        turn.seen = []

    # --- the end ---

    def forked(self, end: Callable[[BaseException | None], object]) -> None:
        """Prepare a fork of the worker's process: there commands raise, and when a handler returns,
        `end` is called with its exception."""
        self._end_fork = end
        # No thread has this number, and a lost link takes no acks; the worker checks both anyway,
        # so that the hot path needs no check for forks.
        self._ident = -1
        self.link.abandon()
        self.queue.clear()

    def _end_if_forked(self, error: BaseException | None) -> None:
        if self._end_fork is not None:
            self._end_fork(error)

    @property
    def is_ready(self) -> bool:
        """Whether there is a session."""
        return self.link.state in (LinkState.READY, LinkState.DRAINING)

    @property
    def is_draining(self) -> bool:
        """Whether the gateway drains this worker, so that no new events come."""
        return self.link.state is LinkState.DRAINING

    def bye(self) -> None:
        """End the session: handled events are acked, others return to the gateway."""
        self.queue.clear()
        if self.is_ready:
            self.link.bye()


def _note_user(con: Connection, user: str | None) -> None:
    if user:
        con.about["user"] = user
    else:
        con.about.pop("user", None)


def to_msg(event: OnMessage) -> dict[str, Any]:
    """The msg of on_message. Text is a `str`; a raw message has data only."""
    kind = event.type
    if kind == "text":
        return {"type": "text", "data": event.data.decode(), "final": event.final}
    if kind == "raw":
        return {"data": event.data}
    return {"type": kind, "data": event.data, "final": event.final}


def log_exception(what: str, error: BaseException) -> None:
    """Log the traceback of the user's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        # Our own frames come before the user's.
        trace = trace.tb_next
    log.error("%s raised", what, exc_info=(type(error), error, trace))


def subject_of(con: Connection) -> Subject:
    """The subject of a log line about a connection."""
    return Subject(con.id, con.peer or without_secrets(con.target))


def log_left_out(why: str) -> None:
    """Log why the gateway has rejected a command."""
    log.error("the gateway rejected a command: %s", why)


def name_of(event: Event) -> str:
    """An event's name for the log."""
    tag = type(event).__struct_config__.tag
    return f"{tag} of connection {event.con} (delivery {event.delivery})"


def check_returned(value: object) -> None:
    """Raise TypeError for a coroutine that nobody would await."""
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()
        raise TypeError("a plain handler returned a coroutine: write it as async def")
