"""Sans-I/O. The gateway as `wsraw conform` plays it, for one worker at a time.

Scripts speak through it and wait for what it has heard; it keeps the standing rules in mind
(watch.py). What is to be done outside stands in `actions`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    STATE_LIMIT,
    Bye,
    Hello,
    LinkError,
    Mark,
    Query,
    Record,
    encode,
    gateway_decoder,
)
from wsraw.tools.conform import show
from wsraw.tools.conform.rules import Breach, Script, Until
from wsraw.tools.conform.session import Heard, Session
from wsraw.tools.conform.watch import Watch

FIRST_EPOCH: Final = 131_000
"""Near its end, 2**17: so ids have nearly all of their 53 bits."""

FIRST_SESSION: Final = 1 << 40

QUIET: Final = 0.15
"""Seconds after which what has not come is taken not to come."""

IDS: Final = 2000
"""Ids in a range for `open`."""

ABOUT: Final = {"peer": "192.0.2.1:4711", "listener": "conform"}
"""What the gateway knows of a client."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start the worker's process."""

    pool: str
    token: str
    instance: str


@dataclass(frozen=True, slots=True)
class Kill:
    """End it."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to that identity."""

    identity: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Down:
    """Close the socket at once, as a gateway that dies."""


@dataclass(frozen=True, slots=True)
class Up:
    """Open one again, at the same endpoint."""


Action: TypeAlias = Start | Kill | Send | Down | Up


class Stage:
    """One worker, one link, one session at a time."""

    def __init__(self, pool: str, secret: Callable[[], str], patience: float) -> None:
        """`secret` makes random texts; `patience`: seconds that an answer may take."""
        self.now = 0.0
        self.patience = patience
        self.actions: deque[Action] = deque()
        self.watch = Watch()
        self.session = Session(0, range(0))
        self.hello: Hello | None = None
        """The one that came last; None while it is awaited."""
        self.running = False
        self.exit_code: int | None = None
        """Of a process that has ended."""
        self.identity = b""
        self.epoch = FIRST_EPOCH
        self._pool = pool
        self._secret = secret
        self._token = ""
        self._decoder = gateway_decoder()
        self._asked = False
        self.unasked = 0
        """How often it has said hello without a who."""
        self._numbers = {0}
        self._number = FIRST_SESSION
        self._connections = 1 << 35
        self._out: list[list[Any]] = []

    # --- what the script waits for ---

    def until(
        self, condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = 0.0
    ) -> Script:
        """Wait for a condition. Raises Breach when it does not come true, or the worker ends."""
        seconds = seconds or self.patience
        met = yield Until(lambda: condition() or not self.running, seconds)
        if condition():
            return
        what = what if isinstance(what, str) else what()
        if met:
            raise Breach(f"the worker has ended with code {self.exit_code}, without {what}")
        raise Breach(f"not within {seconds:g} s: {what}")

    def quiet(self, seconds: float = QUIET) -> Script:
        """Wait for so long, whatever comes."""
        yield Until(lambda: False, seconds)

    def all_acked(self, seconds: float = 0.0) -> Script:
        """Wait until nothing is in flight."""
        session = self.session

        def what() -> str:
            return f"an ack of {show.record(session.unfinished())}"

        yield from self.until(lambda: session.unfinished() is None, what, seconds)

    def shown(self, record: list[Any]) -> str:
        """A record for people."""
        return show.record(record)

    # --- the dialog ---

    def begin(self) -> Script:
        """A session that is fresh, with a process that may not be."""
        if not self.running:
            self.start()
        what = "an empty message as PROBE_ROUTER sends it (is WSRAW_ENDPOINT connected to?)"
        yield from self.until(lambda: bool(self.identity), what, 2 * self.patience)
        yield from self.enter()

    def enter(self) -> Script:
        """`who`, `hello`, `welcome`."""
        self.ask()
        yield from self.until(lambda: self.hello is not None, "a hello in answer to who")
        self.welcome()
        assert self.hello is not None
        if self.hello.starting:
            session = self.session
            what = "a first batch of a worker that said `starting`"
            yield from self.until(lambda: session.batches > 0, what)

    def start(self) -> None:
        """A process, which will connect."""
        self._token = self._secret()
        self.running = True
        self.exit_code = None
        self._link_lost()
        self.watch.new_process()
        self.actions.append(Start(self._pool, self._token, self._secret()))

    def stop(self) -> None:
        """End the process; nothing is expected of it any more."""
        if self.running:
            self.actions.append(Kill())
            self.running = False
        self._link_lost()

    def down(self) -> None:
        """The gateway dies."""
        self.actions.append(Down())
        self._link_lost()

    def up(self) -> None:
        """The next one, of a new epoch, where the old one was."""
        self.epoch += 1
        self.actions.append(Up())

    def _link_lost(self) -> None:
        self.identity = b""
        self._asked = False
        self._end_session()

    def _end_session(self) -> None:
        self.session = Session(0, range(0))
        self._out = []

    def ask(self) -> None:
        """Say `who`. The session is over with that."""
        self._end_session()
        self.hello = None
        self._asked = True
        self._send([0, ["who"]])

    def welcome(self) -> None:
        """Begin a session, in answer to `hello`."""
        assert self.hello is not None
        self._number += 1
        self._numbers.add(self._number)
        first = self.new_con()
        self._connections += IDS
        self.session = Session(self._number, range(first, first + IDS))
        limits = {"state": STATE_LIMIT, "window_bytes": 1 << 20, "batch": 1 << 26}
        fields = [PROTOCOL_VERSION, self._number, self.epoch, first, first + IDS - 1, self.window]
        self._send([self._number, ["welcome", *fields, limits]])

    def refuse(self, why: str) -> None:
        """Shut the worker out: in answer to `hello`, or of the session that stands."""
        self._send([self.session.number, ["refused", 0, 0, why]])

    @property
    def window(self) -> int:
        """How many events the worker wants in flight at most."""
        return max(1, min(self.hello.window, 10_000)) if self.hello is not None else 1

    # --- events and notices ---

    def new_con(self) -> int:
        """An id that was never used."""
        self._connections += 1
        return self.epoch << ID_EPOCH_SHIFT | self._connections

    def event(self, tag: str, con: int, *fields: Any) -> int:
        """Queue an event; returns its seq."""
        record = [tag, 0, con, *fields]
        seq = self.session.number_event(record)
        self.notice(record)
        return seq

    def notice(self, record: list[Any]) -> None:
        """Queue a record as it is."""
        self._out.append(record)
        self.watch.given(record)

    def connect(self, con: int = 0) -> int:
        """Queue the `on_connect` of a client; returns the connection."""
        con = con or self.new_con()
        inf = {"Protocol": "websocket server", "method": "GET", "url": "/", "Host": "conform"}
        self.event("on_connect", con, inf, False, 1, ABOUT)
        return con

    def message(
        self, con: int, data: bytes, kind: str = "text", final: bool = True, delivery: int = 1
    ) -> int:
        """Queue an `on_message`; returns its seq."""
        return self.event("on_message", con, data, kind, final, delivery)

    def close(self, con: int, cause: str = "peer") -> int:
        """Queue an `on_close`; returns its seq."""
        return self.event("on_close", con, 1006 if cause == "gateway-died" else 1000, "", cause, 1)

    def drain(self) -> None:
        """Queue a `drain`."""
        self.notice(["drain", self.patience])

    def flush(self) -> None:
        """Send what is queued as one batch, as far as the window goes; the rest follows."""
        self.session.waiting += self._out
        self._out = []
        if not self._pump() and not self.session.waiting:
            self._send([self.session.number])

    def _pump(self) -> bool:
        records = self.session.take(self.window)
        if records:
            self._send([self.session.number, *records])
        return bool(records)

    def _send(self, batch: list[Any]) -> None:
        self.actions.append(Send(self.identity, encode(batch)))

    def send_empty(self) -> None:
        """The message that is no batch, as from a ROUTER that probes."""
        self.actions.append(Send(self.identity, b""))

    # --- what comes ---

    def exited(self, code: int) -> None:
        """The process is gone."""
        if self.running:
            self.running = False
            self.exit_code = code
            self._asked = False

    def receive(self, identity: bytes, frames: list[bytes]) -> None:
        """One message of the worker."""
        watch = self.watch
        data = frames[-1] if frames else b""

        def text() -> str:
            return show.batch(data) if data else "an empty message"

        why = f"a message of {len(frames)} frames"
        if not watch.see("batch", len(frames) == 1, why, text):
            return
        if identity != self.identity:
            self.identity = identity
            watch.see("probe", not data, "a link began with something else", text)
            why = "a routing id that libzmq makes begins with a zero byte"
            watch.see("routing-id", identity[:1] == b"\0", why, identity.hex(" "))
        if not data:
            return
        try:
            number, records, wrong = self._decoder.decode(data)
        except LinkError as error:
            watch.see("batch", False, str(error), text)
            return
        for index, error_text in wrong:
            watch.see("records", False, f"record {index}: {error_text}", text)
        self._receive(number, records, text)

    def _receive(self, number: int, records: list[Any], text: Callable[[], str]) -> None:
        watch, session = self.watch, self.session
        for record in records:
            if type(record) is Hello:
                alone = number == 0 and len(records) == 1
                watch.see("session", alone, "hello is alone in a batch with number 0", text)
                if watch.see("hello-asked", self._asked, "a hello that no who has asked for", text):
                    self._asked = False
                    self.hello = record
                    watch.hello(record, self._pool, self._token)
                else:
                    self.unasked += 1
                return
        if not watch.see("session", number and number in self._numbers, f"{number} is none", text):
            return
        if number != session.number:
            # Of a session that is over: dropped whole, as it should be.
            return
        watch.see("bye-last", not session.over, "a batch after bye", text)
        session.batches += 1
        for index, record in enumerate(records):
            if record is None:
                continue
            watch.touched.add("records")
            watch.see("bye-last", not session.over, "a record after bye", text)
            heard = Heard(session.batches, index, record)
            session.heard.append(heard)
            watch.record(session, heard, text)
            session.over = session.over or type(record) is Bye
            self._answer(record)
        self._pump()

    def _answer(self, record: Record) -> None:
        """What a gateway would answer at once, so that any worker can go on."""
        reply: list[Any]
        match record:
            case Query(what="ids"):
                first = self.new_con()
                self._connections += IDS
                self.session.ids.append(range(first, first + IDS))
                reply = ["answer", record.ref, [first, first + IDS - 1]]
            case Query():
                reply = ["answer", record.ref, []]
            case Mark():
                reply = ["reached", record.con, record.ref]
            case _:
                return
        self._send([self.session.number, reply])
