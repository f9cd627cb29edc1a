"""Sans-I/O. The machine of a worker: batches in, handlers called, commands and acks out.

Both shells drive it the same way: `receive` what came, `handle` (or await `handle_async`) what is
in `queue`, send `link.data_to_send()`. The machine knows which event is being handled, and so in
which outbox a command belongs:

- in a plain handler: `turn`, as nothing else runs meanwhile;
- in an async handler, and in what it calls: the context's turn, as long as that is not done;
- else none: the command goes out at once, without an ack, at most once.

A connection belongs to this worker from its on_connect, its attach or our own open until its
detach, or the end of the session. A new session knows nothing: what it needs comes with attach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from wsraw.link.batches import RECORD_COST
from wsraw.link.records import (
    Attach,
    Close,
    Detach,
    Event,
    Hung,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Opened,
    Record,
    Refused,
    Reject,
    State,
    Welcome,
    encode,
)
from wsraw.link.states import LinkState
from wsraw.link.worker_end import ONLY_MESSAGES, Outbox, Unencodable, WorkerEnd
from wsraw.workers.connection import (
    ATTACHED,
    CLOSED,
    DEAF,
    FORKED,
    UNDECIDED,
    UNREAD,
    Connection,
    encode_state,
)
from wsraw.workers.handshake_info import Inf
from wsraw.workers.reporting.stacks import shortened, where
from wsraw.workers.reporting.worker_log import log

if TYPE_CHECKING:
    from wsraw.workers.loading.handlers import Handlers


MOST_SHOWN: Final = 5
"""Handlers whose stacks are logged where it is not known which one of them hangs."""

INTERNAL_ERROR: Final = 1011
"""How a connection is closed whose handler raised (RFC 6455, section 7.4.1)."""


class Turn(Outbox):
    """The outbox of one event, and the connections whose state its handler has looked at."""

    __slots__ = ("done", "seen")

    def __init__(self, session: int, event: Event) -> None:
        super().__init__(session, event)
        self.done = False
        self.seen: list[Connection] = []


_turn: ContextVar[Turn | None] = ContextVar("wsraw_turn", default=None)


class Runtime:
    """One worker's connections, and the event that is being handled.

    `get_ident` names the calling thread: only the one that made the runtime may command.
    """

    def __init__(
        self, link: WorkerEnd, handlers: Handlers, on_exception: str, get_ident: Callable[[], int]
    ) -> None:
        self.link = link
        self.handlers = handlers
        self.queue: deque[Event] = deque()
        """Events that wait for their handler, in order."""
        self.turn: Turn | None = None
        """That of the plain handler that runs now."""
        self.connections: dict[int, Connection] = {}
        self.shut_out = ""
        """Why the gateway does not let us in; empty while it does."""
        self.output_ready: Callable[[], None] = _nothing
        """Called when a command wants to go out at once."""
        self.send_now: Callable[[], None] = _nothing
        """Called by `flush`: what the link holds is to be sent before it returns."""
        self.report: Callable[[str, BaseException], None] = log_exception
        """Called with what a handler has raised, and which one it was."""
        self.left_out: Callable[[str], None] = log_left_out
        """Called with a command that the gateway has left out, and why."""
        self.passes: Callable[[BaseException], bool] = _is_never
        """Whether what was raised is not for us: the end of what the handler runs in."""
        link.replace = self._replace
        self._end_fork: Callable[[BaseException | None], object] | None = None
        """In a process that was forked from the worker's: ends it."""
        self._plain = Turn(0, OnError(0, 0, ""))
        self._bereft: dict[int, Connection] = {}
        """Those of a gateway that died, until their on_close."""
        self._epoch_known = 0
        self._known: WeakValueDictionary[int, Connection] = WeakValueDictionary()
        self._keep = on_exception == "keep"
        self._get_ident = get_ident
        self._ident = get_ident()
        self._on_message = handlers.on_message
        self._functions = {
            OnConnect: handlers.on_connect,
            OnMessage: handlers.on_message,
            OnError: handlers.on_error,
            OnClose: handlers.on_close,
        }
        names = ("on_connect", "on_message", "on_error", "on_close")
        self._awaited = frozenset(
            kind
            for kind, name in zip(self._functions, names, strict=True)
            if name in handlers.awaited
        )
        """The events whose handlers have to be awaited; all, where on_attach is one of those."""
        self._awaits_all = "on_attach" in handlers.awaited

    @property
    def epoch(self) -> int:
        """That of the gateway we talk to; 0 before the first."""
        return self.link.epoch

    # --- bytes in ---

    def receive(self, data: bytes | memoryview) -> None:
        """Take one batch: notices take effect now, events wait in `queue`."""
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
            elif kind is Refused:
                self._refused(record)
            elif kind is Hung:
                self._hung(record)
        if not self.link.session:
            # `who` was in it: what waits is over, before the welcome comes.
            self._forget_events()

    def _attach(self, attach: Attach) -> None:
        con = self.meet(attach.con)
        if attach.inf is not None:
            con.inf = Inf(attach.inf)
        con.about = attach.about
        con._saved = con._kept = attach.state
        con._state = UNREAD
        con._flags |= ATTACHED

    def _detach(self, detach: Detach) -> None:
        con = self.connections.pop(detach.con, None)
        if con is not None:
            con._held = False

    def _forget_all(self) -> None:
        """A new session knows no connections but those that it will be told of."""
        self._forget_events()
        if self.link.epoch != self._epoch_known:
            # Each of them gets its on_close from the new gateway, which knows neither their inf
            # nor their state.
            self._epoch_known = self.link.epoch
            self._bereft.update(self.connections)
        for con in self.connections.values():
            con._held = False
        self.connections.clear()

    def _forget_events(self) -> None:
        """Those of a session that is over come again, to whom the gateway chooses."""
        self.queue.clear()
        for con in self.connections.values():
            if con._waiting is not None:
                con._waiting.clear()

    def _opened(self, opened: Opened) -> None:
        """Our named `open` found one standing: the connection we gave out is that one."""
        con = self.connections.pop(opened.asked, None)
        self.link.held.discard(opened.asked)
        if con is not None:
            con._held = False
            con.id = opened.con
            self._known.setdefault(opened.con, con)

    def _hung(self, hung: Hung) -> None:
        """We are about to be killed. A handler that blocks keeps this from being read, and its
        stack is shown by the kill; that of one that awaits is only known here."""
        con = self.connections.get(hung.con)
        if con is not None and con._handling is not None:
            _log_where(f"the handler of connection {con.id} takes too long; it awaits:", con)
            return
        busy = [con for con in self.connections.values() if con._handling is not None]
        for con in busy[:MOST_SHOWN]:
            text = f"connection {hung.con} waits for its turn behind that of connection {con.id}"
            _log_where(f"{text}, which awaits:", con)

    def _refused(self, refused: Refused) -> None:
        if refused.batch == 0:
            self.shut_out = refused.why
        else:
            self.left_out(refused.why)

    def meet(self, con_id: int) -> Connection:
        """The connection of that id, now ours. Somebody may hold it from an earlier time."""
        con = self.connections.get(con_id)
        if con is None:
            con = self._bereft.pop(con_id, None) or self.connection(con_id)
            self.connections[con_id] = con
            con._flags = 0
            con._held = True
        return con

    def connection(self, con_id: int) -> Connection:
        """The connection of that id, whoever serves it: one object for each id."""
        con = self.connections.get(con_id) or self._known.get(con_id)
        if con is None:
            con = self._known[con_id] = Connection(self, con_id)
        return con

    # --- events ---

    def is_async(self, event: Event) -> bool:
        """Whether the handlers of this event have to be awaited."""
        return self._awaits_all or type(event) in self._awaited

    def handle(self, event: Event) -> None:
        """Call the plain handler of an event; its commands and its ack are with the link then."""
        con = self.connections.get(event.con) or self.meet(event.con)
        # Plain handlers run one after the other, and share a turn.
        turn = self.turn = self._plain
        turn.session = self.link.session
        turn.seq = event.seq
        turn.size = 0
        turn.event = event
        con.delivery = event.delivery
        try:
            if con._flags and self._is_unheard(con, event):
                pass
            elif type(event) is OnMessage:
                if self._on_message is not None:
                    reply = self._on_message(to_msg(event), con)
                    if reply is not None:
                        con.send(reply)
            else:
                returned = self._call(event, con)
                if returned is not None:
                    check_returned(returned)
            if turn.seen:
                self._save(turn)
        except BaseException as error:
            self._failed(turn, con, error)
        self.turn = None
        if not self.link.done(turn):
            self._discard(turn)
        elif turn.records:
            turn.records = []

    async def handle_async(self, event: Event) -> None:
        """Await the handler of an event, in a task of its own; plain ones may be among them."""
        con = self.connections.get(event.con) or self.meet(event.con)
        turn = Turn(self.link.session, event)
        _turn.set(turn)
        con.delivery = event.delivery
        try:
            if con._flags & ATTACHED:
                con._flags &= ~ATTACHED
                if self.handlers.on_attach is not None:
                    returned = self.handlers.on_attach(con)
                    if hasattr(returned, "__await__"):
                        con._handling = returned
                        await returned
            if not (con._flags and self._is_unheard(con, event)):
                reply = self._call(event, con)
                if hasattr(reply, "__await__"):
                    con._handling = reply
                    reply = await reply
                if reply is not None and type(event) is OnMessage:
                    con.send(reply)
            if turn.seen:
                self._save(turn)
        except BaseException as error:
            self._failed(turn, con, error)
        con._handling = None
        turn.done = True
        if not self.link.done(turn):
            self._discard(turn)

    def _is_unheard(self, con: Connection, event: Event) -> bool:
        """What is unusual about a connection; True if its handler must not see this event."""
        if con._flags & ATTACHED:
            con._flags &= ~ATTACHED
            if self.handlers.on_attach is not None:
                check_returned(self.handlers.on_attach(con))
        con._flags &= ~UNDECIDED
        return bool(con._flags & DEAF) and type(event) is not OnClose

    def _call(self, event: Event, con: Connection) -> Any:
        """Call the handler of an event; what it returned."""
        function = self._functions[type(event)]
        if isinstance(event, OnMessage):
            return function(to_msg(event), con) if function is not None else None
        if isinstance(event, OnConnect):
            con.inf, con.about = Inf(event.inf), event.about
            if event.verdict:
                con._flags |= UNDECIDED
            return function(con.inf, con) if function is not None else None
        if event.about:
            con.about = event.about
        if isinstance(event, OnError):
            return function(event.message, con) if function is not None else None
        con._flags |= CLOSED
        if con.close_cause:
            # Handled before, and the gateway died before it had our ack.
            con.delivery = event.delivery + 1
        con.close_code, con.close_reason = event.code, event.reason
        con.close_cause = event.cause
        return function(con) if function is not None else None

    def _failed(self, turn: Turn, con: Connection, error: BaseException) -> None:
        """A handler raised: nothing that it commanded happens, the event counts as handled."""
        self._end_if_forked(error)
        if self.passes(error):
            # The event is not handled, another worker will do it.
            self.turn = None
            raise error
        self.report(name_of(turn.event), error)
        self._discard(turn)
        turn.records = self._end(turn.event, con)
        turn.size = RECORD_COST

    def _end(self, event: Event, con: Connection) -> list[Record]:
        """What becomes of a connection whose handler has failed."""
        if type(event) is OnConnect and event.verdict:
            # Also with on_exception = keep: who was not decided on must not come in.
            con._flags |= DEAF
            return [Reject(con.id, 500)]
        if not self._keep and type(event) is not OnClose:
            con._flags |= DEAF
            return [Close(con.id, INTERNAL_ERROR, "internal error")]
        return []

    def _discard(self, turn: Turn) -> None:
        """What a handler has commanded will not happen: nor will we believe that it has."""
        self._end_if_forked(None)
        self._undo(turn.records)
        turn.records = []
        turn.size = 0
        for con in turn.seen:
            con._saved, con._state = con._kept, UNREAD

    def _undo(self, records: list[Record]) -> None:
        for record in records:
            if type(record) is Close or type(record) is Reject:
                closed = self.connections.get(record.con)
                if closed is not None:
                    closed._flags &= ~DEAF
            elif type(record) is Open:
                self.link.held.discard(record.con)
                opened = self.connections.pop(record.con, None)
                if opened is not None:
                    opened._held = False
                    opened._flags |= CLOSED

    def _replace(self, spoilt: Unencodable) -> list[Record]:
        """The net below the checks of each call: what cannot be encoded costs its event what that
        has commanded, as if its handler had raised."""
        event, tag = spoilt.event, type(spoilt.record).__struct_config__.tag
        where = "no event" if event is None else name_of(event)
        self.report(f"encoding a command ({tag}) of {where}", spoilt.error)
        self._undo(spoilt.records)
        if event is None:
            return []
        # A state is bytes, and was kept here when the handler returned: so it is kept there, too.
        states = [record for record in spoilt.records if type(record) is State]
        return states + self._end(event, self.connection(event.con))

    # --- beside the events ---

    def escaped(self, what: str, error: BaseException) -> None:
        """Something of the handlers' was raised where nobody called them."""
        self._end_if_forked(error)
        self.report(what, error)

    def call(self, what: str, function: Callable[..., Any], *args: Any) -> bool:
        """Call a plain function of the user that belongs to no event. False if it raised."""
        try:
            check_returned(function(*args))
        except BaseException as error:
            self._end_if_forked(error)
            if self.passes(error):
                raise
            self.report(what, error)
            return False
        self._end_if_forked(None)
        return True

    async def call_async(self, what: str, function: Callable[..., Any], *args: Any) -> bool:
        """The same for one that may have to be awaited."""
        try:
            returned = function(*args)
            if hasattr(returned, "__await__"):
                await returned
        except BaseException as error:
            self._end_if_forked(error)
            if self.passes(error):
                raise
            self.report(what, error)
            return False
        self._end_if_forked(None)
        return True

    # --- commands ---

    def command(self, record: Record, size: int = 0) -> None:
        """Put it where it belongs: see the module's docstring. `size`: bytes of its data. Raises
        RuntimeError in a thread, and ValueError when an event would command more than a batch
        carries."""
        turn = self.turn
        if turn is None or self._get_ident() != self._ident:
            turn = self._current()
        size += RECORD_COST
        if turn is not None:
            total = turn.size + size
            if total > self.link.room:
                raise ValueError(self._too_much(size))
            turn.size = total
            turn.records.append(record)
        elif size > self.link.room:
            raise ValueError(self._too_much(size))
        elif self.link.command(record, size):
            self.output_ready()
        else:
            # Not what is in it: that may be anybody's secret.
            log.debug("the gateway is away; lost: %s", type(record).__struct_config__.tag)

    def _too_much(self, size: int) -> str:
        room = self.link.room - RECORD_COST
        if size - RECORD_COST > room:
            return f"{size - RECORD_COST} bytes are too many for one message; at most {room} fit"
        return (
            "this event's handler has commanded too much: its messages go out when it returns, and "
            f"together they may have at most {room} bytes (each counts {RECORD_COST} more). "
            "wsraw.flush() sends what there is so far"
        )

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
        """Open a connection; it can be used at once. Raises ConnectionError without a gateway."""
        turn = self._current()
        size = len(encode([fields, options]))
        try:
            con_id = self.link.new_id()
        except LookupError as error:
            raise ConnectionError(f"nothing can be opened now: {error}") from None
        if turn is not None:
            options["during"] = turn.event.con
        con = self.meet(con_id)
        con._kind = fields["protocol"]
        con.about = {"target": fields["target"]}
        con._opened_in = self.link.session
        record = Open(con_id, **fields, options=options)
        try:
            self.command(record, size)
        except ValueError:
            self._undo([record])
            raise
        return con

    def flush(self) -> None:
        """Send what the current event's handler has commanded so far, ahead of its ack."""
        turn = self._current()
        if turn is not None:
            if turn.seen:
                self._save(turn)
            self.link.flush(turn)
        self.send_now()

    # --- state ---

    def reads_state(self, con: Connection) -> None:
        """Whoever reads it may change it in place: look again when the event is done."""
        turn = self._current()
        if not con._held and not (turn is not None and turn.event.con == con.id):
            raise LookupError(f"{con!r}: its state is with the worker that serves it, not here")
        if turn is not None and con not in turn.seen and self._keeps_state(con, turn):
            turn.seen.append(con)

    def sets_state(self, con: Connection) -> None:
        """Keep what was set: with the event's ack, or at once when there is no event."""
        turn = self._current()
        if not self._keeps_state(con, turn):
            raise RuntimeError(
                f"{con!r}: con.state is set in an event of that connection, "
                "or by the worker that has opened it"
            )
        if turn is None:
            con._kept = con._saved
            self.command(State(con.id, con._saved))
        elif con not in turn.seen:
            turn.seen.append(con)

    def _keeps_state(self, con: Connection, turn: Turn | None) -> bool:
        """The gateway takes a state only from whom no other can overtake."""
        if turn is not None and turn.event.con == con.id:
            return True
        return con._held and con._opened_in == self.link.session != 0

    def _save(self, turn: Turn) -> None:
        """Command what has changed. Raises TypeError or ValueError for what cannot be kept."""
        for con in turn.seen:
            data = con._saved if con._state is UNREAD else encode_state(con._state)
            if data != con._kept:
                turn.size += RECORD_COST + len(data)
                if turn.size > self.link.room:
                    raise ValueError(self._too_much(len(data)))
                turn.records.append(State(con.id, data))
        for con in turn.seen:
            if con._state is not UNREAD:
                con._saved, con._state = encode_state(con._state), UNREAD
            con._kept = con._saved
        turn.seen = []

    # --- the end ---

    def forked(self, end: Callable[[BaseException | None], object]) -> None:
        """This process was forked from the worker's. Commands raise here from now on; a handler
        that comes back is followed by `end`, with what it has raised."""
        self._end_fork = end
        # No thread has this number, and a link that is gone takes no acks: so the worker itself,
        # which asks for both with each event, need not ask whether it is one.
        self._ident = -1
        self.link.state = LinkState.GONE
        self.queue.clear()

    def _end_if_forked(self, error: BaseException | None) -> None:
        if self._end_fork is not None:
            self._end_fork(error)

    @property
    def is_ready(self) -> bool:
        """Whether a session stands."""
        return self.link.state in (LinkState.READY, LinkState.DRAINING)

    @property
    def is_draining(self) -> bool:
        """Whether the gateway wants us to finish; no new events come."""
        return self.link.state is LinkState.DRAINING

    def bye(self) -> None:
        """What was handled is acked; what was not goes back to the gateway."""
        self.queue.clear()
        if self.is_ready:
            self.link.bye()


def to_msg(event: OnMessage) -> dict[str, Any]:
    """What on_message is called with. Text comes as `str`; a raw message has data only."""
    kind = event.type
    if kind == "text":
        return {"type": "text", "data": event.data.decode(), "final": event.final}
    if kind == "raw":
        return {"data": event.data}
    return {"type": kind, "data": event.data, "final": event.final}


def log_exception(what: str, error: BaseException) -> None:
    """The traceback of the user's code into the log."""
    trace = _from_handler_on(error.__traceback__)
    with shortened(error) as left_out:
        but = f" ({left_out} exceptions between the first and the last ones left out)"
        exc_info = (type(error), error, trace)
        log.error("%s raised%s", what, but if left_out else "", exc_info=exc_info)


def _log_where(text: str, con: Connection) -> None:
    """Log a text and what this connection's handler awaits. Each line is a record of its own, as
    the log shows a line break within one as an escape (runtime/printable.py)."""
    for line in (text, *where(con._handling).splitlines()):
        log.error("%s", line)


def log_left_out(why: str) -> None:
    """A command that did not happen is the mistake of a handler that nothing else tells it of."""
    log.error("the gateway rejected a command: %s", why)


def name_of(event: Event) -> str:
    """For the log."""
    tag = type(event).__struct_config__.tag
    return f"{tag} of connection {event.con} (delivery {event.delivery})"


def check_returned(value: object) -> None:
    """Raises TypeError for a coroutine that nobody will await."""
    if hasattr(value, "__await__"):
        if hasattr(value, "close"):
            value.close()
        raise TypeError("a plain handler returned a coroutine: write it as async def")


def _from_handler_on(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without our own frames above the user's."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    return trace


def _is_never(error: BaseException) -> bool:
    return False


def _nothing() -> None:
    pass
