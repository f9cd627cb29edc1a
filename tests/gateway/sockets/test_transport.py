"""Transport over TLS; test_endpoint.py has plain sockets."""

from __future__ import annotations

import random
import socket
import ssl

import pytest

from tests.authority import client_context
from tests.gateway.harness import HANDSHAKE
from tests.gateway.socket_harness import SocketHarness
from tests.gateway.tls_client import Client, Serve, echo, send_plainly
from wsraw.gateway.delivery.entry import EVENT_COST
from wsraw.gateway.sockets.endpoint import LEAST_READ
from wsraw.gateway.sockets.transport import MOST_UNSENT, TRUNCATED, TlsTransport
from wsraw.link.records import (
    Close,
    Mark,
    OnClose,
    OnConnect,
    OnError,
    Reached,
    Send,
)


def take_little(served: SocketHarness) -> None:
    """Make the kernel take less than what is encrypted at a time."""
    served.endpoint.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


# --- data ---


def test_large_messages_go_both_ways_past_a_slow_reader(serve: Serve) -> None:
    served = serve(output_limit=1 << 26)
    client = Client(served, buffer=4096).shake()
    data = random.Random(1).randbytes(3_000_000)
    client.send(data)
    served.until(lambda: served.data() == data)
    take_little(served)
    served.linked.say(Send(served.con.id, data))
    served.until(lambda: served.con.output.encrypted)
    assert served.endpoint.writing
    assert served.con.output.size > 500_000
    assert client.receive(len(data)) == data
    served.until(lambda: not served.con.output.size)
    assert not served.con.output.encrypted


def test_a_pause_stops_reading_and_loses_nothing(serve: Serve) -> None:
    served = serve(high_water_mark=1000)
    client = Client(served).shake()
    served.working = False
    client.send(b"x" * 40_000)
    served.until(lambda: served.con.intake.paused)
    # The data of one read came whole; the rest is in the kernel.
    client.send(b"y" * 40_000)
    served.turn()
    served.working = True
    served.until(lambda: served.data() == b"x" * 40_000 + b"y" * 40_000)


def test_data_received_with_the_handshake_is_read_after_a_pause(serve: Serve) -> None:
    """select does not report this data, as the kernel has nothing left."""
    # The on_connect alone exceeds the mark, so nothing is read until it is acked.
    served = serve("tls://127.0.0.1:0", high_water_mark=EVENT_COST - 1)
    served.working = False
    context = client_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    client = served.connect()
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    client.sendall(outgoing.read())

    def shaken() -> bool:
        try:
            incoming.write(client.recv(65536))
            tls.do_handshake()
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return True

    served.until(shaken)
    tls.write(b"glued")
    client.sendall(outgoing.read())
    served.until(lambda: served.linked.events)
    for _ in range(5):
        served.turn()
    assert [type(event) for event in served.linked.events] == [OnConnect]
    served.working = True
    served.until(lambda: served.data() == b"glued")


def test_a_mark_is_reached_when_the_kernel_has_all_bytes(serve: Serve) -> None:
    served = serve(output_limit=1 << 26)
    client = Client(served, buffer=4096).shake()
    client.send(b"x")
    served.until(served.data)
    take_little(served)
    served.linked.say(Send(served.con.id, bytes(1_000_000)), Mark(served.con.id, 7))
    served.until(lambda: served.con.output.encrypted)
    assert served.endpoint.writing
    assert not served.linked.take(Reached)
    client.receive(1_000_000)
    served.until(lambda: served.linked.take(Reached))


# --- the end ---


def test_a_close_notify_is_a_half_close(serve: Serve) -> None:
    served = serve()
    served.handle = echo
    client = Client(served).shake()
    served.working = False
    client.send(b"last")
    client.close_notify()
    served.until(lambda: served.con.intake.half_closed)
    served.working = True
    served.until(lambda: OnClose in served.kinds())
    assert served.data() == b"last"
    assert served.heard[-1].cause == "eof"
    assert client.receive_all() == b"last"
    client.sock.close()
    served.until(lambda: not served.sockets.endpoints)


def test_an_end_of_file_without_close_notify_is_an_error_for_a_raw_client(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"half of it")
    served.until(served.data)
    client.sock.shutdown(socket.SHUT_WR)
    served.until(lambda: OnClose in served.kinds())
    assert served.heard[-2].message == TRUNCATED
    assert served.heard[-1].cause == "lost"


def test_an_end_of_file_without_close_notify_is_a_normal_end_for_a_websocket(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(HANDSHAKE)
    client.receive(12)
    client.sock.shutdown(socket.SHUT_WR)
    served.until(lambda: OnClose in served.kinds())
    assert OnError not in served.kinds()
    assert (served.heard[-1].code, served.heard[-1].cause) == (1006, "lost")


def test_a_close_sends_close_notify_behind_all_output(serve: Serve) -> None:
    served = serve(output_limit=1 << 26)
    client = Client(served, buffer=4096).shake()
    client.send(b"x")
    served.until(served.data)
    data = random.Random(2).randbytes(1_000_000)
    served.linked.say(Send(served.con.id, data), Close(served.con.id))
    # suppress_ragged_eofs would hide a missing close_notify; here it raises.
    client.sock.suppress_ragged_eofs = False
    assert client.receive_all() == data
    client.sock.close()
    served.until(lambda: not served.sockets.endpoints)


def test_an_abort_resets_without_close_notify(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    served.linked.say(Close(served.con.id, 1011))
    client.sock.suppress_ragged_eofs = False
    # OpenSSL 3 reports a reset as EOF; only the missing close_notify matters.
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        client.receive_all()


def test_a_broken_record_closes_the_connection(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    send_plainly(client.sock, b"\x17\3\3\0\x20" + bytes(32))
    served.until(lambda: OnClose in served.kinds())
    assert served.heard[-2].message.startswith("TLS: ")
    served.until(lambda: not served.sockets.endpoints)


def test_a_client_that_does_not_read_tls_answers_is_cut_off(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    # A flood of key updates does the same: there is more to send than the peer reads.
    transport = served.endpoint.transport
    assert isinstance(transport, TlsTransport)
    transport.unsent = bytes(MOST_UNSENT + 1)
    client.send(b"y")
    served.until(lambda: OnClose in served.kinds())
    assert "does not read" in served.heard[-2].message


# --- records ---


@pytest.mark.parametrize("known", [True, False])
def test_a_client_that_sends_tiny_records_is_read_from_a_queue(serve: Serve, known: bool) -> None:
    """Tiny records take time, as do key updates, which Python's TLS cannot send."""
    served = serve(max_header_size=1 << 20)
    client = Client(served).shake()
    first = b"x" if known else b"GET /"
    client.send(first)
    served.until(lambda: known == (served.con.entry is not None))
    endpoint = served.endpoint
    queued = 0
    for _ in range(4000):
        # All records are sent at once, without a turn of the gateway in between.
        assert client.sock.send(b"y") == 1
    for _ in range(500):
        served.turn()
        queued += endpoint in served.sockets.shared.read_queue
    assert queued > 5, "whoever sends little is read from before"
    assert endpoint not in served.sockets.shared.read_queue, (
        "all is read: it is left to the selector again"
    )
    client.send(b"z" * 100_000)
    if known:
        served.until(lambda: len(served.data()) == 1 + 4000 + 100_000)
        assert served.data() == b"x" + b"y" * 4000 + b"z" * 100_000


@pytest.mark.parametrize("size", [16_000, 200_000])
def test_a_first_record_that_arrives_in_parts_is_read(serve: Serve, size: int) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"z" * size)
    served.until(lambda: len(served.data()) == size)


def test_a_client_that_stops_within_a_record_is_not_polled(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"first")
    served.until(lambda: served.data() == b"first")
    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    peer = client_context().wrap_bio(inside, outside, server_hostname="localhost")
    sock = served.connect()

    def shakes() -> bool:
        try:
            peer.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            return True
        finally:
            sock.sendall(outside.read())
        try:
            inside.write(sock.recv(1 << 16))
        except BlockingIOError:
            pass
        return False

    served.until(shakes)
    peer.write(b"z" * 16_000)
    record = outside.read()
    sock.sendall(record[: 2 * LEAST_READ])
    for _ in range(50):
        served.turn()
    assert not served.sockets.shared.read_queue
    sock.sendall(record[2 * LEAST_READ :])
    served.until(lambda: len(served.data()) == 5 + 16_000)
