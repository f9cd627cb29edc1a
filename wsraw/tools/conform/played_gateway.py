"""Sans-I/O. The gateway that `wsraw conform` plays, for one worker at a time.

Checks send events and notices through it and wait for the worker's answers; everything that the
worker sends is also checked against the continuous rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from wsraw.link.batches import EVENT_LIMIT, LARGEST_BATCH
from wsraw.link.records import (
    ID_EPOCH_SHIFT,
    PROTOCOL_VERSION,
    STATE_LIMIT,
    STATS_EVERY,
    Ack,
    Bye,
    Hello,
    LinkError,
    Mark,
    Part,
    Query,
    Record,
    encode,
    gateway_decoder,
)
from wsraw.tools.conform import rendering
from wsraw.tools.conform.continuous_rules import Breach, ContinuousRules
from wsraw.tools.conform.session import Received, Session

FIRST_EPOCH: Final = 131_000
"""Near the highest epoch, 2**17, so that ids have nearly all of their 53 bits."""

FIRST_SESSION: Final = 1 << 40

QUIET: Final = 0.15
"""Seconds after which a missing record is assumed not to come."""

IDS: Final = 2000
"""Ids in a range for `open`."""

ABOUT: Final = {"peer": "192.0.2.1:4711", "listener": "conform"}
"""Facts about a client, as the gateway tells them."""


class Outside(Protocol):
    """The worker's process and the ROUTER socket, as the played gateway uses them."""

    def start(self, pool: str, token: str, instance: str) -> None:
        """Start the worker's process."""

    def kill(self) -> None:
        """End the process at once."""

    def send(self, identity: bytes, data: bytes) -> None:
        """Send a message to this routing id."""

    def down(self) -> None:
        """Close the socket at once, like a gateway that dies."""

    def up(self) -> None:
        """Open a socket again, at the same endpoint."""

    def now(self) -> float:
        """The clock, in seconds."""

    def receive(self, gateway: PlayedGateway, seconds: float) -> None:
        """Wait for a message or the end of the process, for at most this many seconds, and pass it
        to `receive` or `exited`."""


class PlayedGateway:
    """One worker, one link, one session at a time."""

    def __init__(
        self, outside: Outside, pool: str, secret: Callable[[], str], timeout: float
    ) -> None:
        """`secret` makes random texts; `timeout`: seconds in which an answer must come."""
        self.timeout = timeout
        self.rules = ContinuousRules()
        self.session = Session(0, range(0))
        self.hello: Hello | None = None
        """The last hello; None while it is awaited."""
        self.running = False
        self.exit_code: int | None = None
        """The exit code of a process that has ended."""
        self.identity = b""
        self.epoch = FIRST_EPOCH
        self.unasked = 0
        """How often the worker has sent hello without a who."""
        self._outside = outside
        self._pool = pool
        self._secret = secret
        self._token = ""
        self._decoder = gateway_decoder()
        self._asked = False
        self._last_session = FIRST_SESSION
        self._connections = 1 << 35
        self._out: list[list[Any]] = []

    # --- what a check waits for ---

    def until(
        self, condition: Callable[[], bool], what: str | Callable[[], str], seconds: float = 0.0
    ) -> None:
        """Wait for a condition. Raises Breach if it does not become true, or the worker ends."""
        seconds = seconds or self.timeout
        met = self._receive_until(lambda: condition() or not self.running, seconds)
        if condition():
            return
        what = what if isinstance(what, str) else what()
        if met:
            raise Breach(f"the worker has ended with code {self.exit_code}, without {what}")
        raise Breach(f"not within {seconds:g} s: {what}")

    def quiet(self, seconds: float = QUIET) -> None:
        """Wait for the whole time, whatever is received."""
        self._receive_until(lambda: False, seconds)

    def _receive_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        until = self._outside.now() + seconds
        while not condition():
            left = until - self._outside.now()
            if left <= 0:
                return False
            self._outside.receive(self, left)
        return True

    def deliver(self, seconds: float = 0.0) -> None:
        """Send what is queued and wait until every event is acked."""
        self.flush()
        session = self.session

        def what() -> str:
            return f"an ack of {rendering.record(session.unfinished())}"

        self.until(lambda: session.unfinished() is None, what, seconds)

    # --- the dialog ---

    def begin(self) -> None:
        """Begin a fresh session, with a new process only if none is running."""
        if not self.running:
            self.start()
        what = "an empty message as PROBE_ROUTER sends it (is WSRAW_ENDPOINT connected to?)"
        self.until(lambda: bool(self.identity), what, 2 * self.timeout)
        self.enter()

    def enter(self) -> None:
        """Exchange `who`, `hello` and `welcome`."""
        self.ask()
        self.until(lambda: self.hello is not None, "a hello in answer to who")
        self.welcome()
        assert self.hello is not None
        if self.hello.starting:
            session = self.session
            what = "a first batch of a worker whose hello had `starting`"
            self.until(lambda: session.batches > 0, what)

    def start(self) -> None:
        """Start a process, which will connect."""
        self._token = self._secret()
        self.running = True
        self.exit_code = None
        self._link_lost()
        self.rules.new_process()
        self._outside.start(self._pool, self._token, self._secret())

    def stop(self) -> None:
        """End the process; no more is expected of it."""
        if self.running:
            self._outside.kill()
            self.running = False
        self._link_lost()

    def down(self) -> None:
        """Lose the link, like a gateway that dies."""
        self._outside.down()
        self._link_lost()

    def up(self) -> None:
        """Become the next gateway, with a new epoch, at the same endpoint."""
        self.epoch += 1
        self._outside.up()

    def _link_lost(self) -> None:
        self.identity = b""
        self._asked = False
        self._end_session()

    def _end_session(self) -> None:
        self.session = Session(0, range(0))
        self._out = []

    def ask(self) -> None:
        """Send `who`, which ends the session."""
        self._end_session()
        self.hello = None
        self._asked = True
        self._send([0, ["who"]])

    def welcome(self) -> None:
        """Begin a session, in answer to `hello`."""
        self._last_session += 1
        ids = self._new_range()
        self.session = Session(self._last_session, ids)
        limits = {
            "state": STATE_LIMIT,
            "window_bytes": 1 << 20,
            "batch": LARGEST_BATCH,
            "event": EVENT_LIMIT,
            "stats": STATS_EVERY,
        }
        fields = [PROTOCOL_VERSION, self._last_session, self.epoch, ids[0], ids[-1], self.window]
        self._send([self._last_session, ["welcome", *fields, limits]])

    def refuse(self, why: str) -> None:
        """Reject the worker, in answer to `hello` or within a session."""
        self._send([self.session.number, ["refused", 0, 0, why]])

    @property
    def window(self) -> int:
        """How many events the worker wants in flight at most."""
        return max(1, min(self.hello.window, 10_000)) if self.hello is not None else 1

    # --- events and notices ---

    def new_con(self) -> int:
        """An id that was not used before."""
        self._connections += 1
        return self.epoch << ID_EPOCH_SHIFT | self._connections

    def _new_range(self) -> range:
        first = self.new_con()
        self._connections += IDS
        return range(first, first + IDS)

    def event(self, tag: str, con: int, *fields: Any) -> int:
        """Queue an event; returns its seq."""
        record = [tag, 0, con, *fields]
        seq = self.session.number_event(record)
        self.notice(record)
        return seq

    def notice(self, record: list[Any]) -> None:
        """Queue a record unchanged."""
        self._out.append(record)
        self.rules.given(record)

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
        """Send a `drain` after everything queued."""
        self.notice(["drain", self.timeout])
        self.flush()

    def flush(self) -> None:
        """Send what is queued as one batch, as far as the window allows; the rest follows."""
        self.session.waiting += self._out
        self._out = []
        if not self._send_waiting() and not self.session.waiting:
            self._send([self.session.number])

    def _send_waiting(self) -> bool:
        records = self.session.take(self.window)
        if records:
            self._send([self.session.number, *records])
        return bool(records)

    def _send(self, batch: list[Any]) -> None:
        self._outside.send(self.identity, encode(batch))

    def send_empty(self) -> None:
        """Send the message that is not a batch, like a ROUTER that probes."""
        self._outside.send(self.identity, b"")

    # --- what comes ---

    def exited(self, code: int) -> None:
        if self.running:
            self.running = False
            self.exit_code = code
            self._asked = False

    def receive(self, identity: bytes, frames: list[bytes]) -> None:
        check = self.rules.check
        data = frames[-1] if frames else b""

        def text() -> str:
            return rendering.batch(data) if data else "an empty message"

        if not check("batch", len(frames) == 1, f"a message of {len(frames)} frames", text):
            return
        if identity != self.identity:
            self.identity = identity
            check("probe", not data, "a link began with something else", text)
            why = "a routing id that libzmq makes begins with a zero byte"
            check("routing-id", identity[:1] == b"\0", why, lambda: identity.hex(" "))
        if not data:
            return
        try:
            number, records, wrong = self._decoder.decode(data)
        except LinkError as error:
            check("batch", False, str(error), text)
            return
        for index, error_text in wrong:
            check("records", False, f"record {index}: {error_text}", text)
        for record in records:
            if type(record) is Hello:
                alone = number == 0 and len(records) == 1
                check("session", alone, "hello is alone in a batch with number 0", text)
                self._receive_hello(record, text)
                return
        known = FIRST_SESSION < number <= self._last_session
        check("session", known, f"no session has the number {number}", text)
        # A batch of an earlier session is dropped whole, as a gateway does.
        if known and number == self.session.number:
            self._receive_batch(records, text)

    def _receive_hello(self, hello: Hello, text: Callable[[], str]) -> None:
        why = "a hello that no who has asked for"
        if self.rules.check("hello-asked", self._asked, why, text):
            self._asked = False
            self.hello = hello
            self.rules.hello(hello, self._pool, self._token)
        else:
            self.unasked += 1

    def _receive_batch(self, records: list[Any], text: Callable[[], str]) -> None:
        rules, session = self.rules, self.session
        rules.check("bye-last", not session.over, "a batch after bye", text)
        kinds = [type(record) for record in records]
        if Part in kinds:
            alone = kinds.index(Part) == len(kinds) - 1 and not {Ack, Bye} & set(kinds)
            why = "part is the last record of its batch, without acks and bye"
            rules.check("records", alone, why, text)
        session.batches += 1
        for index, record in enumerate(records):
            if record is None:
                continue
            rules.check("records", True, "", text)
            rules.check("bye-last", not session.over, "a record after bye", text)
            received = Received(session.batches, index, record)
            session.received.append(received)
            rules.command(session, received)
            session.over = session.over or type(record) is Bye
            self._answer(record)
        self._send_waiting()

    def _answer(self, record: Record) -> None:
        """Answer queries and marks at once, so that any worker can continue."""
        reply: list[Any]
        match record:
            case Query(what="ids"):
                ids = self._new_range()
                self.session.ids.append(ids)
                reply = ["answer", record.ref, [ids[0], ids[-1]]]
            case Query(what="members"):
                reply = ["answer", record.ref, []]
            case Query():
                reply = ["answer", record.ref, 0]
            case Mark():
                reply = ["reached", record.con, record.ref]
            case _:
                return
        self._send([self.session.number, reply])
