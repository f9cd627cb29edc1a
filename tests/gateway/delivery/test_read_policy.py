"""The read policy, and its users: the endpoint, the in-memory server of wsraw.testing, and the
model check. All of them must read as the policy says.
"""

from __future__ import annotations

import logging
import math
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.corpus import UPGRADE, frame
from tests.deadline import UNIT, eventually
from tests.gateway.harness import Harness, LinkedWorker
from tests.gateway.model.peers import Socket
from tests.gateway.socket_harness import SocketHarness
from wsraw.config.addresses import Listen
from wsraw.gateway.connection.accepting import accepted
from wsraw.gateway.connection.connection import CLOSED, CONNECTING, Connection
from wsraw.gateway.delivery.entry import (
    PAUSED_COUPLED,
    PAUSED_OWN,
    PAUSED_RATE,
    PAUSED_STOPPING,
    Entry,
    Pause,
)
from wsraw.gateway.delivery.read_policy import EARLY_LIMIT, Reading, may_read, must_wait
from wsraw.link.records import Accept, Close, OnMessage, Reject
from wsraw.testing.pipe import Pipe

MEMORY = 4 << 20
NOT_OF_BYTES = (PAUSED_COUPLED, PAUSED_RATE, PAUSED_STOPPING)
REASONS = (*NOT_OF_BYTES, PAUSED_OWN)
SETTINGS: dict[str, Any] = {"high_water_mark": MEMORY, "deflate": False}
"""The high-water mark is large, as the holders read portions of different sizes: a smaller one
would stop one of them before the others.
"""


# --- the policy ---


def answer(con: Connection, **socket: bool) -> Reading:
    return may_read(con, **{"eof": False, "lingering": False, **socket})


def asking(harness: Harness) -> Connection:
    """A WebSocket whose handshake waits for the verdict of on_connect."""
    return harness.raw(UPGRADE % b"")


def pause(harness: Harness, con: Connection, why: Pause = PAUSED_COUPLED) -> None:
    harness.registry.flow.pause(con.entry, why)


def test_a_client_that_has_not_said_what_it_is_may_be_read() -> None:
    con = Harness().raw(b"GE")
    assert con.entry is None
    assert answer(con) is Reading.YES


def test_an_open_connection_may_be_read_while_it_is_not_paused() -> None:
    harness = Harness()
    con = harness.raw()
    assert answer(con) is Reading.YES
    for why in REASONS:
        pause(harness, con, why)
        assert answer(con) is Reading.NO
    for why in REASONS:
        assert answer(con) is Reading.NO
        harness.registry.flow.resume(con.entry, why)
    assert answer(con) is Reading.YES


def test_a_handshake_may_be_read_whatever_the_pauses_until_too_much_has_come() -> None:
    harness = Harness(verdict="handlers")
    con = asking(harness)
    pause(harness, con)
    harness.say(con, bytes(EARLY_LIMIT - 1))
    assert answer(con) is Reading.YES
    harness.say(con, b"x")
    assert answer(con) is Reading.NO


def test_a_websocket_that_closes_may_be_read_whatever_the_pauses() -> None:
    harness = Harness()
    con = harness.websocket()
    pause(harness, con)
    harness.registry.close(con.entry, 1000, "", "handler", 0.0)
    assert answer(con) is Reading.YES


def test_after_eof_nothing_is_read() -> None:
    harness = Harness()
    con = harness.raw()
    harness.registry.receive_eof(con, 0.0)
    assert con.intake.half_closed
    assert answer(con, eof=True) is answer(con) is Reading.NO


def test_a_closed_connection_is_read_while_its_socket_lingers() -> None:
    harness = Harness()
    con = harness.raw()
    pause(harness, con)
    harness.registry.close(con.entry, 1000, "", "handler", 0.0)
    assert answer(con, lingering=True) is Reading.YES
    assert answer(con, lingering=True, eof=True) is Reading.NO


def test_a_client_with_much_to_parse_waits_for_its_turn() -> None:
    harness = Harness()
    con = harness.websocket()
    assert answer(con, is_busy=True) is Reading.IN_TURN
    harness.say(con, frame(0x81, b"x") * 1000)
    assert con.intake.has_more
    assert answer(con) is answer(con, eof=True) is Reading.IN_TURN
    pause(harness, con)
    assert answer(con, is_busy=True) is Reading.NO


def test_full_memory_pauses_whoever_is_about_to_be_read_but_those_who_come_and_go() -> None:
    harness = Harness(memory_limit=MEMORY, verdict="handlers")
    flow, con = harness.registry.flow, harness.raw()
    assert not must_wait(flow, con)
    flow.hold(MEMORY)
    assert flow.is_check_due
    assert must_wait(flow, con), "it is not known yet how much there is"
    assert answer(con) is Reading.YES
    harness.deadlines.check_memory(0.0)
    assert flow.full
    for other in (harness.raw(b"GE"), asking(harness)):
        assert not must_wait(flow, other)
    assert must_wait(flow, con)
    assert answer(con) is Reading.NO
    flow.hold(-MEMORY)
    harness.deadlines.check_memory(0.0)
    assert answer(con) is Reading.YES
    assert not must_wait(flow, con)


# --- users of the policy ---


class Holder:
    """A connection of one client, in one of the implementations that hold sockets."""

    def __init__(self, harness: Harness, linked: LinkedWorker) -> None:
        self.harness = harness
        self.linked = linked
        self.con: Connection
        self.heard = bytearray()
        self.is_shut = False
        """The client has shut its side."""
        self.was_closed = False
        """A handler has closed the connection: events that were parked then are dropped, and
        their number depends on the size of the reads.
        """
        self.had_verdict = harness.settings.verdict == "handlers"

    @property
    def reading(self) -> bool:
        raise NotImplementedError

    @property
    def is_waited_for(self) -> bool:
        """Whether an event is in flight or parked."""
        entry = self.con.entry
        return isinstance(entry, Entry) and bool(entry.in_flight or entry.parked)

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def shut(self) -> None:
        raise NotImplementedError

    def turn(self) -> None:
        """Take one turn of a gateway. The worker receives events, and acks none by itself."""
        raise NotImplementedError

    def ack(self) -> None:
        """All handlers return."""
        for event in self.linked.events:
            if type(event) is OnMessage:
                self.heard += event.data
        if self.linked.events:
            self.linked.ack()

    def view(self) -> tuple[object, ...]:
        """The state that must be the same in all implementations."""
        con, entry = self.con, self.con.entry
        events = list(self.linked.events)
        if entry is not None:
            events += [event for event, *_ in entry.parked]
        read = len(self.heard) + sum([len(e.data) for e in events if type(e) is OnMessage])
        if self.was_closed:
            read = 0
        if con.state is CLOSED:
            return con.state, con.ending.cause, read
        pauses = entry.pauses if entry is not None else 0
        has_deadline = not math.isinf(con.keepalive.deadline)
        # The bytes that are read before the verdict depend on the size of a read, and so do the
        # bytes that are parsed after a pause; the rest waits in the kernel.
        is_early = con.state is CONNECTING or (self.had_verdict and pauses)
        unparsed = 0 if is_early else con.unfinished
        return con.state, con.intake.paused, pauses, self.reading, read, unparsed, has_deadline


class AtEndpoint(Holder):
    """A real socket."""

    def __init__(self, **settings: Any) -> None:
        self._served = served = SocketHarness(memory_limit=MEMORY, **settings)
        served.working = False
        super().__init__(served.harness, served.linked)
        self._client = served.connect()
        self._client.setblocking(True)
        self._endpoint = served.endpoint
        self.con = served.con

    @property
    def reading(self) -> bool:
        return self._endpoint.reading

    def send(self, data: bytes) -> None:
        try:
            self._client.sendall(data)
        except OSError:
            assert self.con.state is CLOSED

    def shut(self) -> None:
        try:
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            assert self.con.state is CLOSED

    def turn(self) -> None:
        self._served.turn()

    def close(self) -> None:
        self._served.close()


class InMemory(Holder):
    """The base of the two implementations without a network; they differ in the code that drives
    them.
    """

    def __init__(self, make: type[Pipe] | type[Socket], **settings: Any) -> None:
        harness = Harness(memory_limit=MEMORY, **settings)
        super().__init__(harness, harness.worker())
        listen = Listen(name="test")
        registry = harness.registry
        self.con = accepted(registry.ids.new(), listen, harness.settings, {}, 0.0)
        self.socket = make(registry, self.con)
        registry.take(self.con, self.con.first_events(0.0), 0.0)

    @property
    def reading(self) -> bool:
        return self.socket.reading

    def send(self, data: bytes) -> None:
        self.socket.incoming += data

    def shut(self) -> None:
        self.socket.peer_closed = True

    def end_turn(self) -> None:
        flow = self.harness.registry.flow
        if flow.is_check_due:
            self.harness.deadlines.check_memory(self.harness.now)
        changed = flow.changed
        for entry in list(changed):
            changed.pop(entry, None)
            if entry.con.endpoint is not None:
                entry.con.endpoint.apply_pause(self.harness.now)
        self.harness.turn()

    def close(self) -> None:
        pass


class AtPipe(InMemory):
    """The implementation of wsraw.testing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Pipe, **settings)

    def turn(self) -> None:
        assert isinstance(self.socket, Pipe)
        self.socket.step(self.harness.now)
        self.end_turn()


class AtModel(InMemory):
    """The implementation of the model check."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(Socket, **settings)

    def turn(self) -> None:
        assert isinstance(self.socket, Socket)
        if self.socket.readable:
            self.socket.read(65536, self.harness.now)
        self.socket.flush(1 << 20, self.harness.now)
        self.end_turn()


SAID = {
    "little": b"little",
    "much": bytes(9000),
    "frame": frame(0x82, b"hello"),
    "frames": frame(0x82, b"many") * 700,
    "large": frame(0x82, bytes(12_000)),
    "violation": frame(0x83, b"a reserved opcode"),
    "part": frame(0x82, bytes(3000))[:2000],
}
STEPS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(sorted(SAID))),
    st.tuples(st.sampled_from(("pause", "resume")), st.sampled_from(NOT_OF_BYTES)),
    st.tuples(st.sampled_from(("hold", "ack", "let go", "accept", "reject", "close", "shut"))),
)


def take_step(holder: Holder, step: tuple[Any, ...]) -> None:
    flow, con = holder.harness.registry.flow, holder.con
    entry = con.entry
    match step:
        case "send", what if not holder.is_shut:
            holder.send(SAID[what])
        case "pause", why if entry is not None and con.state is not CLOSED:
            flow.pause(entry, why)
        case "resume", why if entry is not None and con.state is not CLOSED:
            flow.resume(entry, why)
        case ("hold",) if not flow.shared:
            flow.hold(MEMORY)
        case ("let go",) if flow.shared:
            flow.hold(-MEMORY)
        case ("ack",):
            holder.ack()
        case ("accept",) if con.undecided:
            holder.linked.say(Accept(con.id))
        case ("reject",) if con.undecided:
            holder.was_closed = True
            holder.linked.say(Reject(con.id, 403))
        case ("close",) if entry is not None and con.state is not CLOSED:
            holder.was_closed = True
            holder.linked.say(Close(con.id, 1000, ""))
        case ("shut",):
            holder.is_shut = True
            holder.shut()


def settle(holders: list[Holder], handlers_return: bool = False) -> None:
    """Take turns until all holders are in the same state, and check that they stay in it. Reads
    of different sizes give different numbers of events, so handlers return until none is left.
    """

    def agreed() -> bool:
        for holder in holders:
            for _ in range(4):
                if handlers_return:
                    holder.ack()
                holder.turn()
        if handlers_return and any(holder.is_waited_for for holder in holders):
            return False
        return len({holder.view() for holder in holders}) == 1

    try:
        eventually(agreed, seconds=20 * UNIT)
    except AssertionError:
        views = "\n".join(f"{type(each).__name__}: {each.view()}" for each in holders)
        raise AssertionError(f"they do not agree:\n{views}") from None
    assert agreed()


@pytest.fixture
def quiet() -> Iterator[None]:
    """Silence the gateway's warnings, as memory becomes full again and again."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", ["raw", "websocket", "asking"])
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, max_size=25))
def test_every_holder_of_a_socket_pauses_reading_alike(
    kind: str, steps: list[tuple[Any, ...]]
) -> None:
    options = {**SETTINGS, "verdict": "handlers" if kind == "asking" else "gateway"}
    holders: list[Holder] = []
    try:
        for make in (AtEndpoint, AtPipe, AtModel):
            holders.append(make(**options))
        begin = b"raw" if kind == "raw" else UPGRADE % b""
        for holder in holders:
            holder.send(begin)
        settle(holders)
        for step in steps:
            for holder in holders:
                take_step(holder, step)
            settle(holders, handlers_return=step == ("ack",))
        settle(holders, handlers_return=True)
        assert len({bytes(holder.heard) for holder in holders}) == 1 or holders[0].was_closed
    finally:
        for holder in holders:
            holder.close()
