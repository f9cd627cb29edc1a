"""Random lives of a TLS connection behind a pump: what each side sends, when each side reads,
and how the connection ends. One thread drives the pump and both ends, so each life can be
repeated in the same order.
"""

from __future__ import annotations

import socket
import struct
import time
from contextlib import suppress

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.authority import client_context, server_context
from tests.deadline import DEADLINE
from tests.needs import unix_sockets
from wsraw.gateway.handover.channel import pair
from wsraw.gateway.handover.pump import Pump, Pumped
from wsraw.gateway.sockets.transport import TRUNCATED, PumpedTransport
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.gateway.tls.marks import PUMP_BUFFER

pytestmark = unix_sockets

SIZES = st.sampled_from([1, 100, 4096, 16_384, 16_385, 70_000, 300_000])

STEPS = st.one_of(
    st.tuples(
        st.sampled_from(["client sends", "gateway sends", "client reads", "gateway reads"]), SIZES
    ),
    st.tuples(st.just("turns"), st.integers(1, 5)),
)

ENDS = (
    "the gateway ends",
    "the client ends",
    "the client is cut off",
    "the client resets",
    "the gateway resets",
    "the gateway dies",
)

SMALL = 16 * 1024
"""Bytes that TCP takes at a time, so that some always wait. (A small receive window would make
TCP wait for its timers.)
"""

SERVER, CLIENT = server_context(), client_context()


def text(size: int, begin: int) -> bytes:
    """Bytes in which each position can be recognized."""
    return b"".join(struct.pack(">I", n) for n in range(begin // 4, (begin + size) // 4 + 2))[
        begin % 4 : begin % 4 + size
    ]


class Life:
    """A client, a pump, and the gateway's end."""

    def __init__(self, *, is_silent: bool) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.client = socket.socket()
            self.client.connect(server.getsockname())
            theirs, _ = server.accept()
        for sock in (self.client, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            sock.setblocking(False)
        self.engine = TlsEngine(CLIENT, server_side=False, server_name="localhost")
        engine = TlsEngine(SERVER, server_side=True)
        engine.handshake(b"")
        while not (self.engine.established and engine.established):
            self.engine.handshake(engine.data_to_send())
            engine.handshake(self.engine.data_to_send())
        ours, self.gateway = pair(PUMP_BUFFER)
        self.transport = PumpedTransport(self.gateway)
        # The messages that TLS sends after a handshake.
        self.pump = Pump([Pumped(theirs, ours, engine, engine.data_to_send(), is_silent)])
        self.pump.loop.before_sleep = self.pump._before_sleep
        (self.relay,) = self.pump._relays
        self.relay.begin()
        self.unsent = b""
        """Encrypted data that the client has not sent."""
        self.sent = {"client": 0, "gateway": 0}
        self.got = {"client": bytearray(), "gateway": bytearray()}
        self.client_saw = self.gateway_saw = ""
        """How the connection has ended for each side."""

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.pump.loop.turn(may_sleep=False)

    def client_sends(self, size: int) -> None:
        if len(self.unsent) < 1_000_000:
            self.unsent += self.engine.encrypt(text(size, self.sent["client"]))
            self.sent["client"] += size
        self.push()

    def push(self) -> None:
        try:
            while self.unsent:
                self.unsent = self.unsent[self.client.send(self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            # The system reports the error only once.
            self.unsent = b""
            self.client_saw = self.client_saw or "a reset"

    def gateway_sends(self, size: int) -> None:
        with suppress(OSError):
            self.sent["gateway"] += self.gateway.send(text(size, self.sent["gateway"]))

    def client_reads(self, size: int) -> None:
        if self.client_saw:
            return
        try:
            data = self.client.recv(size)
        except BlockingIOError:
            return
        except OSError:
            self.client_saw = "a reset"
            return
        self.got["client"] += self.engine.receive_data(data)
        assert not self.engine.error
        if self.engine.ended:
            self.client_saw = "an end"
        elif not data:
            self.client_saw = "a cut"

    def gateway_reads(self, size: int) -> None:
        if self.gateway_saw:
            return
        try:
            data = self.transport.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self.gateway_saw = str(error)
            return
        self.got["gateway"] += data
        if not data:
            self.gateway_saw = "an end"

    def step(self, name: str, number: int) -> None:
        getattr(self, name.replace(" ", "_"))(number)
        for who, other in (("client", "gateway"), ("gateway", "client")):
            got = bytes(self.got[other])
            assert got == text(self.sent[who], 0)[: len(got)], f"what the {who} has sent"

    def until(self, what: str, is_so: object) -> None:
        """Let both sides read until the condition is true."""
        until = time.monotonic() + DEADLINE
        while not is_so():  # type: ignore[operator]
            assert time.monotonic() < until, f"{what}: {self.client_saw!r} {self.gateway_saw!r}"
            self.push()
            self.step("turns", 1)
            self.step("client reads", 65_536)
            self.step("gateway reads", 65_536)

    def close(self) -> None:
        self.client.close()
        self.gateway.close()
        until = time.monotonic() + DEADLINE
        while self.pump._relays:
            assert time.monotonic() < until, "the pump does not end"
            self.turns(1)
        self.pump.loop.close()


def all_is_there(life: Life, who: str, other: str) -> bool:
    return len(life.got[other]) == life.sent[who]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=25), st.sampled_from(ENDS), st.booleans(), st.integers(0, 5))
def test_a_pump_passes_every_byte_in_any_life(
    steps: list[tuple[str, int]], end: str, is_silent: bool, turns: int
) -> None:
    life = Life(is_silent=is_silent)
    try:
        for step in steps:
            life.step(*step)
        {
            "the gateway ends": the_gateway_ends,
            "the client ends": the_client_ends,
            "the client is cut off": the_client_is_cut_off,
            "the client resets": the_client_resets,
            "the gateway resets": the_gateway_resets,
            "the gateway dies": the_gateway_dies,
        }[end](life, turns, is_silent)
    finally:
        life.close()


def the_gateway_ends(life: Life, turns: int, is_silent: bool) -> None:
    """All data of the gateway comes, followed by a close_notify; the other direction stays open."""
    assert life.transport.finish()
    life.gateway.shutdown(socket.SHUT_WR)
    life.turns(turns)
    life.until("the client to hear of the end", lambda: life.client_saw)
    assert life.client_saw == "an end"
    assert all_is_there(life, "gateway", "client")
    life.client_sends(100)
    life.until("the rest to come", lambda: all_is_there(life, "client", "gateway"))


def the_client_ends(life: Life, turns: int, is_silent: bool) -> None:
    life.until("the client to send", lambda: not life.unsent)
    life.engine.close()
    life.unsent = life.engine.data_to_send()
    life.turns(turns)
    life.until("the gateway to hear of the end", lambda: life.gateway_saw)
    assert life.gateway_saw == "an end"
    assert all_is_there(life, "client", "gateway")


def the_client_is_cut_off(life: Life, turns: int, is_silent: bool) -> None:
    """All data of the client comes, followed by the end that a plain socket would report."""
    was_all = not life.unsent
    life.unsent = b""
    life.client.shutdown(socket.SHUT_WR)
    life.turns(turns)
    life.until("the gateway to hear of the end", lambda: life.gateway_saw)
    assert life.gateway_saw == ("an end" if is_silent else TRUNCATED)
    assert not was_all or all_is_there(life, "client", "gateway")


def the_client_resets(life: Life, turns: int, is_silent: bool) -> None:
    life.unsent = b""
    life.client_saw = "nothing"
    life.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    life.client.close()
    life.turns(turns)
    life.until("the gateway to hear of the end", lambda: life.gateway_saw)
    assert "reset" in life.gateway_saw.lower() or "broken pipe" in life.gateway_saw.lower()


def the_gateway_resets(life: Life, turns: int, is_silent: bool) -> None:
    """The reset comes through even if the socket is full."""
    life.transport.reset()
    life.gateway_saw = "nothing"
    life.turns(turns)
    life.until("the client to hear of it", lambda: life.client_saw)
    assert life.client_saw == "a reset"


def the_gateway_dies(life: Life, turns: int, is_silent: bool) -> None:
    """No close_notify tells the client that it has received everything."""
    life.gateway.close()
    life.gateway_saw = "nothing"
    life.turns(turns)
    life.until("the client to hear of it", lambda: life.client_saw)
    assert life.client_saw == "a reset"


def test_a_client_that_never_reads_does_not_keep_a_pump() -> None:
    """The gateway has closed the connection long ago."""
    life = Life(is_silent=False)
    for _ in range(20):
        life.step("gateway sends", 300_000)
        life.turns(3)
    assert life.relay._to_client
    life.transport.reset()
    life.turns(2)
    assert life.relay._timer is not None
    assert life.relay._timer.callback is not None
    life.relay._timer.callback()
    life.turns(1)
    assert not life.pump._relays
    life.client.close()
    life.pump.loop.close()
