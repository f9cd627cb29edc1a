"""TLS connections behind a pump: a real client on one side, the plain end of a socketpair on the
other, and the pump's own loop in between."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest

from tests.authority import client_context, server_context
from tests.deadline import DEADLINE, eventually
from tests.exchange import exchange
from tests.needs import unix_sockets
from wsraw.gateway.connection.output import Output
from wsraw.gateway.handover.channel import pair
from wsraw.gateway.handover.pump import Pump, Pumped
from wsraw.gateway.sockets.transport import TRUNCATED, PumpedTransport
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.gateway.tls.marks import PUMP_BUFFER

pytestmark = unix_sockets


class Side:
    """A client after its handshake, the gateway's end, and the pump between them."""

    def __init__(self, *, is_silent: bool = False) -> None:
        engine = TlsEngine(server_context(), server_side=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            raw = socket.socket()
            raw.connect(server.getsockname())
            theirs, _ = server.accept()
        raw.settimeout(DEADLINE)
        theirs.settimeout(DEADLINE)
        self.shake = threading.Thread(target=self._shake, args=(raw,), daemon=True)
        self.shake.start()
        while not engine.established:
            engine.handshake(theirs.recv(65536))
            theirs.sendall(engine.data_to_send())
        self.shake.join(DEADLINE)
        theirs.setblocking(False)
        ours, self.gateway = pair(PUMP_BUFFER)
        self.gateway.setblocking(True)
        self.gateway.settimeout(DEADLINE)
        self.transport = PumpedTransport(self.gateway)
        self.raw_client = theirs
        self.pump = Pump([Pumped(theirs, ours, engine, engine.data_to_send(), is_silent)])
        self.thread = threading.Thread(target=self.pump.run, args=(None,), daemon=True)

    def _shake(self, raw: socket.socket) -> None:
        self.client = client_context().wrap_socket(raw, server_hostname="localhost")

    def begin(self) -> Side:
        self.thread.start()
        return self

    def is_over(self) -> bool:
        self.thread.join(0.01)
        return not self.thread.is_alive()

    def close(self) -> None:
        self.client.close()
        self.gateway.close()
        if self.thread.ident is not None:
            eventually(self.is_over, "the pump to end")


@pytest.fixture
def side() -> Iterator[Side]:
    made = Side().begin()
    yield made
    made.close()


def receive(sock: socket.socket, size: int) -> bytes:
    got = bytearray()
    while len(got) < size and (part := sock.recv(size - len(got))):
        got += part
    return bytes(got)


def test_plaintext_goes_both_ways(side: Side) -> None:
    side.client.sendall(b"hello")
    assert receive(side.gateway, 5) == b"hello"
    side.gateway.sendall(b"world!")
    assert receive(side.client, 6) == b"world!"


def test_much_goes_both_ways_at_once_past_slow_readers(side: Side) -> None:
    to_gateway = random.Random(1).randbytes(8_000_000)
    to_client = random.Random(2).randbytes(8_000_000)
    got: dict[str, bytes] = {}
    # OpenSSL allows one user of a connection at a time, so the client has one thread.
    threads = [
        threading.Thread(target=side.gateway.sendall, args=(to_client,), daemon=True),
        threading.Thread(
            target=lambda: got.update(gateway=receive(side.gateway, len(to_gateway))), daemon=True
        ),
        threading.Thread(
            target=lambda: got.update(client=exchange(side.client, to_gateway)), daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert got["gateway"] == to_gateway
    assert got["client"] == to_client


def test_an_end_that_does_not_read_makes_the_other_end_wait(side: Side) -> None:
    side.gateway.setblocking(False)
    sent = 0

    def fills() -> bool:
        time.sleep(0.1)
        nonlocal sent
        before = sent
        try:
            while True:
                sent += side.gateway.send(b"x" * 65536)
        except BlockingIOError:
            pass
        return sent == before

    eventually(fills, "the pump to take no more")
    side.gateway.settimeout(DEADLINE)
    assert receive(side.client, sent) == b"x" * sent


def test_the_end_of_the_gateway_is_a_close_notify(side: Side) -> None:
    side.gateway.sendall(b"bye")
    assert side.transport.finish()
    side.gateway.shutdown(socket.SHUT_WR)
    assert receive(side.client, 10) == b"bye"
    # The other direction is still open after the close_notify.
    side.client.sendall(b"late")
    assert receive(side.gateway, 4) == b"late"


def test_the_end_of_the_client_is_an_end(side: Side) -> None:
    side.client.sendall(b"last")
    raw = side.client.unwrap
    threading.Thread(target=lambda: _ignore(raw), daemon=True).start()
    assert receive(side.gateway, 10) == b"last"
    side.gateway.sendall(b"answer")
    assert side.transport.finish()
    side.gateway.close()
    eventually(side.is_over, "the pump to end")


def _ignore(call: object) -> None:
    try:
        call()  # type: ignore[operator]
    except (OSError, ssl.SSLError):
        pass


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_client_that_is_cut_off_ends_its_connection(is_silent: bool) -> None:
    """Without a close_notify this is an error of a raw connection, and the plain end of a
    WebSocket.
    """
    side = Side(is_silent=is_silent).begin()
    socket.socket.shutdown(side.client, socket.SHUT_WR)
    if is_silent:
        assert side.transport.recv(100) == b""
    else:
        with pytest.raises(OSError) as error:
            side.transport.recv(100)
        assert str(error.value) == TRUNCATED
    side.close()


def test_a_client_that_resets_is_reported_as_reset(side: Side) -> None:
    side.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    socket.socket.close(side.client)
    with pytest.raises(OSError, match=r"[Rr]eset"):
        side.transport.recv(100)


def test_a_reset_of_the_gateway_is_a_reset(side: Side) -> None:
    side.gateway.sendall(b"hello")
    # The messages that TLS sends after a handshake come with this data.
    assert receive(side.client, 5) == b"hello"
    side.transport.reset()
    with pytest.raises(ConnectionResetError):
        # Python's TLS reports a reset as an end.
        socket.socket.recv(side.client, 1)
    eventually(side.is_over, "the pump to end")


def test_a_gateway_that_is_gone_ends_the_connection(side: Side) -> None:
    side.gateway.close()
    # The client sees an end, or a reset if our side had unread data.
    try:
        assert side.client.recv(1) == b""
    except OSError:
        pass
    side.client.close()
    eventually(side.is_over, "the pump to end")


def test_what_the_old_gateway_has_not_read_or_sent_is_not_lost() -> None:
    side = Side()
    (relay,) = side.pump._relays
    side.client.sendall(b"early")
    eventually(lambda: side.raw_client.recv(1, socket.MSG_PEEK), "the bytes")
    # Half of the record was read before the upgrade, and waits in the engine.
    half = side.raw_client.recv(10)
    assert relay._engine.receive_data(half) == b""
    relay._to_client = relay._engine.encrypt(b"unsent")
    side.begin()
    assert receive(side.gateway, 5) == b"early"
    assert receive(side.client, 6) == b"unsent"
    side.close()


def test_a_signal_ends_a_pump(side: Side) -> None:
    side.pump.stop()
    eventually(side.is_over, "the pump to end")


def test_output_goes_through_the_transport(side: Side) -> None:
    output = Output()
    output.append(b"hello")
    assert side.transport.write(output) == 5
    assert side.transport.finish()
    assert receive(side.client, 5) == b"hello"
