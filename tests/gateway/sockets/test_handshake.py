"""Real sockets in one thread; the clients are Python's own TLS."""

from __future__ import annotations

import os
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from authority import ca, ca_file, client_context, leaf, odd_file, server_context, server_file
from stage import HANDSHAKE

from tests.gateway.hellos import FFDHE8192, X25519, retry
from tests.gateway.served import Served
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.delivery.entry import EVENT_COST
from wsraw.gateway.sockets.endpoint import LEAST_READ
from wsraw.gateway.sockets.transport import MOST_UNSENT, TRUNCATED, TlsTransport
from wsraw.link.records import (
    Close,
    Mark,
    OnClose,
    OnConnect,
    OnError,
    OnMessage,
    Open,
    Reached,
    Record,
    Send,
    encode,
)

V12 = ssl.TLSVersion.TLSv1_2

Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    made: list[Served] = []

    def serve(listen: str = "127.0.0.1:0", **settings: Any) -> Served:
        settings.setdefault("tls_cert", (server_file(tmp_path),))
        made.append(Served(listen, **settings))
        return made[-1]

    yield serve
    for served in made:
        served.close()


class Client:
    """A TLS client that never blocks: each try is a turn of the gateway."""

    def __init__(
        self,
        served: Served,
        context: ssl.SSLContext | None = None,
        name: str = "localhost",
        buffer: int = 0,
    ) -> None:
        self.served = served
        self.sock = (context or client_context()).wrap_socket(
            served.connect(buffer), server_hostname=name, do_handshake_on_connect=False
        )
        served.clients.append(self.sock)

    def until(self, step: Callable[[], Any]) -> Any:
        result: list[Any] = []

        def turn() -> bool:
            try:
                result.append(step())
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            return True

        self.served.until(turn)
        return result[0]

    def shake(self) -> Client:
        self.until(self.sock.do_handshake)
        return self

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.until(partial(self.sock.send, view)) :]

    def receive(self, size: int) -> bytes:
        got = bytearray()
        while len(got) < size:
            part = self.until(partial(self.sock.recv, size - len(got)))
            assert part, f"closed after {len(got)} bytes"
            got += part
        return bytes(got)

    def receive_all(self) -> bytes:
        got = bytearray()
        while True:
            try:
                part = self.until(partial(self.sock.recv, 1 << 16))
            except ssl.SSLZeroReturnError:
                # So the library says it where we have said close_notify before.
                part = b""
            if not part:
                return bytes(got)
            got += part

    def close_notify(self) -> None:
        """Say that we end, without waiting for the other side."""
        try:
            self.sock._sslobj.shutdown()  # type: ignore[attr-defined]
        except ssl.SSLWantReadError:
            pass


def echo(event: Any) -> tuple[Record, ...]:
    return (Send(event.con, event.data),) if type(event) is OnMessage else ()


def take_little(served: Served) -> None:
    """Have the kernel take less than what is encrypted at a time."""
    served.endpoint.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


# --- what it is ---


@pytest.mark.parametrize("version", [None, V12])
def test_raw_data_goes_both_ways_over_tls(serve: Serve, version: ssl.TLSVersion | None) -> None:
    served = serve()
    served.handle = echo
    client = Client(served, client_context(version=version)).shake()
    client.send(b"hello")
    assert client.receive(5) == b"hello"
    about = served.heard[0].about["tls"]
    assert about["version"] == client.sock.version()
    assert about["server_name"] == "localhost"
    assert about["cipher"] == (client.sock.cipher() or ("",))[0]
    assert "client" not in about
    assert served.sockets.handshakes.figures() == {"waiting": 0, "completed": 1, "failed": 0}


def test_a_websocket_over_tls_agrees_on_http(serve: Serve) -> None:
    served, context = serve("wss://127.0.0.1:0"), client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    client = Client(served, context).shake()
    client.send(HANDSHAKE)
    assert client.receive(12) == b"HTTP/1.1 101"
    served.until(lambda: served.heard)
    assert served.heard[0].about["tls"]["alpn"] == "http/1.1"
    assert served.con.kind == "websocket"


def test_a_client_of_a_raw_listener_is_reported_after_the_tls_handshake(serve: Serve) -> None:
    served = serve("tls://127.0.0.1:0")
    client = Client(served)
    served.turn()
    assert not served.heard
    client.shake()
    served.until(lambda: served.kinds() == [OnConnect])


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", b"HEAD / HTTP/1.1", b"POST /x", b"G"])
def test_an_http_request_without_tls_is_answered_with_400(serve: Serve, first: bytes) -> None:
    served = serve()
    client = served.connect()
    client.sendall(first)
    got = bytearray()

    def answered() -> bool:
        try:
            part = client.recv(1000)
        except BlockingIOError:
            return False
        got.extend(part)
        return not part

    served.until(answered)
    assert got.startswith(b"HTTP/1.1 400 ")
    # An answer to a HEAD has no body.
    assert (b"TLS is needed here" in got) == (not first.startswith(b"HEAD"))
    client.close()
    served.until(lambda: not served.sockets.endpoints)
    assert not served.heard


def test_other_plain_bytes_are_reset(serve: Serve) -> None:
    served = serve()
    client = served.connect()
    client.sendall(b"hello")
    served.until(lambda: not served.sockets.endpoints)
    with pytest.raises(ConnectionResetError):
        client.recv(10)
    assert not served.heard


def test_optional_tls_is_recognized_by_the_first_byte(serve: Serve) -> None:
    served = serve(tls="optional")
    served.handle = echo
    plain = served.connect()
    plain.sendall(b"plain")
    served.until(lambda: served.data() == b"plain")
    assert "tls" not in served.heard[0].about
    Client(served).shake().send(b"secret")
    served.until(lambda: served.data() == b"plainsecret")
    plain.close()
    served.until(lambda: OnClose in served.kinds())


def test_tls_bytes_on_a_plain_port_are_raw_data(serve: Serve) -> None:
    served = serve(tls="off")
    client = Client(served)
    with pytest.raises(ssl.SSLWantReadError):
        client.sock.do_handshake()
    served.until(lambda: served.data()[:1] == b"\x16")


# --- handshakes that come to nothing ---


def test_an_old_tls_version_is_answered_with_an_alert(serve: Serve) -> None:
    served = serve(tls_min_version="1.3")
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        Client(served, client_context(version=V12)).shake()
    assert served.sockets.handshakes.failed == 1
    assert not served.heard


def test_an_unfinished_tls_handshake_ends_in_time(serve: Serve) -> None:
    served = serve(handshake_timeout=10.0)
    silent, half = served.connect(), served.connect()
    half.sendall(b"\x16\3\1\2\0")
    served.until(lambda: not served.sockets.endpoints, 0.4)
    assert served.clock.time - 1000 >= 10
    for client in (silent, half):
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert not served.heard


def test_with_optional_tls_the_handshake_timeout_applies_only_to_tls(serve: Serve) -> None:
    served = serve(tls="optional", handshake_timeout=10.0)
    silent, half = served.connect(), served.connect()
    half.sendall(b"\x16\3\1\2\0")
    served.until(lambda: len(served.sockets.endpoints) == 1, 0.4)
    assert served.sockets.registry.counters.counts == {"handshake_timeout": 1}
    silent.sendall(b"late")
    served.until(lambda: served.data() == b"late")


def test_a_client_that_is_silent_after_its_tls_handshake_is_cut_off(serve: Serve) -> None:
    served = serve(tls="optional", silence_timeout=5.0)
    Client(served).shake()
    served.until(lambda: not served.sockets.endpoints, 0.4)
    assert served.sockets.registry.counters.counts == {"silence_timeout": 1}


def test_a_client_that_leaves_during_its_tls_handshake_is_forgotten(serve: Serve) -> None:
    served = serve()
    for data in (b"", b"\x16", b"\x16\3\1\2\0xx"):
        client = served.connect()
        client.sendall(data)
        served.turn()
        client.close()
        served.until(lambda: not served.sockets.endpoints)
    assert not served.sockets.handshakes.waiting
    assert not served.heard


def test_tls_handshakes_are_served_in_turn(serve: Serve) -> None:
    served = serve()
    clock = iter(range(10_000))
    # Each look at the clock is a second later: one step is more than the budget of a turn.
    served.sockets.handshakes._clock = lambda: float(next(clock))
    clients = [Client(served) for _ in range(5)]
    for client in clients:
        with pytest.raises(ssl.SSLWantReadError):
            client.sock.do_handshake()
    served.until(lambda: len(served.sockets.handshakes.waiting) == 4)
    served.turn()
    assert len(served.sockets.handshakes.waiting) == 3
    for client in clients:
        client.shake()
    served.until(lambda: served.sockets.handshakes.completed == 5)


def test_a_client_that_waits_for_its_handshake_is_not_read(serve: Serve) -> None:
    served = serve()
    client = Client(served)
    work, served.sockets.handshakes.work = served.sockets.handshakes.work, lambda: None  # type: ignore[method-assign]
    with pytest.raises(ssl.SSLWantReadError):
        client.sock.do_handshake()
    served.until(lambda: served.sockets.handshakes.waiting)
    os.write(client.sock.fileno(), b"\x17\3\3\0\x20" + bytes(32))
    served.until(lambda: not served.endpoint.reading)
    served.sockets.handshakes.work = work  # type: ignore[method-assign]
    # What came too early is no TLS: read after its turn, it ends the handshake.
    served.until(lambda: served.sockets.handshakes.failed)


# --- data ---


def test_large_messages_go_both_ways_past_a_slow_reader(serve: Serve) -> None:
    served = serve(output_limit=1 << 26)
    client = Client(served, buffer=4096).shake()
    data = random.Random(1).randbytes(3_000_000)
    client.send(data)
    served.until(lambda: served.data() == data)
    take_little(served)
    served.mate.say(Send(served.con.id, data))
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
    served.until(lambda: served.con.paused)
    # What was glued together in one read came whole; the rest is in the kernel.
    client.send(b"y" * 40_000)
    served.turn()
    served.working = True
    served.until(lambda: served.data() == b"x" * 40_000 + b"y" * 40_000)


def test_data_received_with_the_handshake_is_read_after_a_pause(serve: Serve) -> None:
    """select will never tell of it: the kernel has nothing left."""
    # The on_connect alone is more than that: until it is acked nothing is read.
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
    served.until(lambda: served.mate.events)
    for _ in range(5):
        served.turn()
    assert [type(event) for event in served.mate.events] == [OnConnect]
    served.working = True
    served.until(lambda: served.data() == b"glued")


def test_a_mark_is_reached_when_the_kernel_has_all_bytes(serve: Serve) -> None:
    served = serve(output_limit=1 << 26)
    client = Client(served, buffer=4096).shake()
    client.send(b"x")
    served.until(served.data)
    take_little(served)
    served.mate.say(Send(served.con.id, bytes(1_000_000)), Mark(served.con.id, 7))
    served.until(lambda: served.con.output.encrypted)
    assert served.endpoint.writing
    assert not served.mate.take(Reached)
    client.receive(1_000_000)
    served.until(lambda: served.mate.take(Reached))


# --- the end ---


def test_a_close_notify_is_a_half_close(serve: Serve) -> None:
    served = serve()
    served.handle = echo
    client = Client(served).shake()
    served.working = False
    client.send(b"last")
    client.close_notify()
    served.until(lambda: served.con.half_closed)
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
    served.mate.say(Send(served.con.id, data), Close(served.con.id))
    # suppress_ragged_eofs would hide a missing close_notify; here it is an error.
    client.sock.suppress_ragged_eofs = False
    assert client.receive_all() == data
    client.sock.close()
    served.until(lambda: not served.sockets.endpoints)


def test_an_abort_resets_without_close_notify(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    served.mate.say(Close(served.con.id, 1011))
    client.sock.suppress_ragged_eofs = False
    # OpenSSL 3 calls a reset an EOF; what counts is that there was no close_notify.
    with pytest.raises((ConnectionResetError, ssl.SSLEOFError)):
        client.receive_all()


def test_a_broken_record_closes_the_connection(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    os.write(client.sock.fileno(), b"\x17\3\3\0\x20" + bytes(32))
    served.until(lambda: OnClose in served.kinds())
    assert served.heard[-2].message.startswith("TLS: ")
    served.until(lambda: not served.sockets.endpoints)


def test_a_client_that_does_not_read_tls_answers_is_cut_off(serve: Serve) -> None:
    served = serve()
    client = Client(served).shake()
    client.send(b"x")
    served.until(served.data)
    # As a flood of key updates would: more to say than the peer reads.
    transport = served.endpoint.transport
    assert isinstance(transport, TlsTransport)
    transport.unsent = bytes(MOST_UNSENT + 1)
    client.send(b"y")
    served.until(lambda: OnClose in served.kinds())
    assert "does not read" in served.heard[-2].message


# --- certificates ---


def test_the_certificate_is_chosen_by_the_requested_name(serve: Serve, tmp_path: Path) -> None:
    other = server_file(tmp_path, "example.org", "*.example.org")
    served = serve(tls_cert=(server_file(tmp_path), f"example.org,*.example.org={other}"))
    for name in ("localhost", "example.org", "a.example.org"):
        client = Client(served, name=name).shake()
        assert client.sock.getpeercert()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        Client(served, name="a.b.example.org").shake()


def test_reloaded_certificates_are_used_for_new_connections(serve: Serve, tmp_path: Path) -> None:
    file = tmp_path / "cert.pem"
    file.write_bytes(Path(server_file(tmp_path)).read_bytes())
    served = serve(tls_cert=(str(file),))
    served.handle = echo
    old = Client(served).shake()
    before = old.sock.getpeercert(True)
    file.write_bytes(b"nonsense")
    assert "tls_cert" in served.sockets.reload_certificates()
    assert Client(served).shake().sock.getpeercert(True) == before
    file.write_bytes(Path(server_file(tmp_path, "localhost")).read_bytes())
    assert served.sockets.reload_certificates() == ""
    assert Client(served).shake().sock.getpeercert(True) != before
    old.send(b"still here")
    assert old.receive(10) == b"still here"


@pytest.mark.parametrize("version", [None, V12])
def test_handlers_see_a_client_certificate(
    serve: Serve, tmp_path: Path, version: ssl.TLSVersion | None
) -> None:
    served = serve(tls_client_ca=ca_file(tmp_path), tls_client_auth="optional")
    Client(served, client_context(leaf("client.example"), version)).shake().send(b"x")
    served.until(served.data)
    client = served.heard[0].about["tls"]["client"]
    assert client["subject"].startswith("CN=client.example,")
    assert client["names"] == ["DNS:client.example"]
    assert "O=ours" in client["issuer"]
    Client(served, client_context(version=version)).shake().send(b"nobody")
    served.until(lambda: served.data() == b"xnobody")
    assert "client" not in served.heard[-2].about["tls"]


@pytest.mark.parametrize("name", [b"a\xff\xfeb", b"\xed\xa0\x80", b"a\0b", b""])
def test_a_client_certificate_with_an_invalid_name_is_reported_without_it(
    serve: Serve, tmp_path: Path, name: bytes
) -> None:
    """An authority may sign anything."""
    served = serve(tls_client_ca=ca_file(tmp_path), tls_client_auth="required")
    context = client_context()
    context.load_cert_chain(odd_file(tmp_path, name))
    Client(served, context).shake().send(b"x")
    served.until(served.data)
    client = served.heard[0].about["tls"]["client"]
    assert len(client["sha256"]) == 64
    assert client["subject"] in ("CN=odd", "")
    encode([0, served.heard[0]])


@pytest.mark.parametrize("cert", [None, "theirs", "expired"])
def test_a_client_without_a_required_certificate_is_refused(
    serve: Serve, tmp_path: Path, cert: str | None
) -> None:
    served = serve(tls_client_ca=ca_file(tmp_path), tls_client_auth="required")
    shown = {
        None: None,
        "theirs": leaf("c", of="theirs"),
        "expired": leaf("c", days=-1),
    }[cert]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        # With TLS 1.3 a client stands before the server has looked at its certificate.
        Client(served, client_context(shown)).shake().receive(1)
    assert served.sockets.handshakes.completed == 0
    assert not served.heard


# --- what we open ---


class Upstream:
    """A TLS server in the same thread."""

    def __init__(self, served: Served, context: ssl.SSLContext) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        served.clients.append(self.listener)
        self.port = self.listener.getsockname()[1]
        self.served = served
        self.context = context

    def accept(self) -> Client:
        client = Client.__new__(Client)
        client.served = self.served
        self.served.until(self._try)
        client.sock = self.sock
        return client

    def _try(self) -> bool:
        try:
            sock, _ = self.listener.accept()
        except BlockingIOError:
            return False
        sock.setblocking(False)
        self.sock = self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self.served.clients.append(self.sock)
        return True


def open_(served: Served, target: str, **options: Any) -> int:
    served.turn()
    con = served.mate.link.new_id()
    options.setdefault("ca", ca_pem())
    served.mate.say(Open(con, target, options=options), Send(con, b"early"))
    return con


def ca_pem() -> str:
    return ca().cert_pem.bytes().decode()


def test_an_opened_connection_verifies_its_server(serve: Serve) -> None:
    served = serve()
    upstream = Upstream(served, server_context())
    con = open_(served, f"tls://localhost:{upstream.port}", reconnect=True)
    server = upstream.accept().shake()
    assert server.receive(5) == b"early"
    server.send(b"answer")
    served.until(lambda: served.data() == b"answer")
    assert [event.con for event in served.heard] == [con, con]
    assert served.heard[0].about["tls"]["server_name"] == "localhost"


@pytest.mark.parametrize(
    ("cert", "options", "why"),
    [
        (leaf("other.example"), {}, "Hostname mismatch"),
        (leaf(days=-1), {}, "expired"),
        (leaf(of="theirs"), {}, "local issuer"),
        (leaf(), {"ca": None}, "local issuer"),
        (leaf(), {"ca": "x"}, "option ca"),
        (leaf(), {"cert": "x"}, "cert and key"),
    ],
)
def test_a_failed_tls_handshake_of_an_opened_connection_is_reported(
    serve: Serve, cert: Any, options: dict[str, Any], why: str
) -> None:
    served = serve()
    upstream = Upstream(served, server_context(cert))
    open_(served, f"tls://localhost:{upstream.port}", **options)
    if why in ("Hostname mismatch", "expired", "local issuer"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            upstream.accept().shake()
    served.until(lambda: OnClose in served.kinds())
    assert served.kinds() == [OnError, OnClose]
    assert why in served.heard[0].message
    assert served.heard[1].cause == "connect-failed"


def test_the_tls_options_of_an_opened_connection_are_used(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    served, context = serve(), server_context(leaf("other.example"))
    context.verify_mode = ssl.CERT_REQUIRED
    ca().configure_trust(context)
    upstream = Upstream(served, context)
    mine = leaf("me")
    show = {
        "cert": "".join(pem.bytes().decode() for pem in mine.cert_chain_pems),
        "key": mine.private_key_pem.bytes().decode(),
    }
    open_(served, f"tls://localhost:{upstream.port}", server_name="other.example", **show)
    server = upstream.accept().shake()
    assert server.receive(5) == b"early"
    names = (server.sock.getpeercert() or {})["subjectAltName"]
    assert names == (("DNS", "me"),)
    open_(served, f"tls://localhost:{upstream.port}", verify=False, **show)
    assert upstream.accept().shake().receive(5) == b"early"
    assert "verify=False" in caplog.text


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a hello of TLS"),
        (b"\x15\3\3\0\2\2\x28", "alert handshake failure"),
        (retry(FFDHE8192), "finite-field key exchange"),
        # What OpenSSL reads, and does not like.
        (retry(X25519), "invalid session id"),
    ],
)
def test_an_invalid_answer_of_a_server_ends_the_opened_connection(
    serve: Serve, answer: bytes, why: str
) -> None:
    served = serve()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_(served, f"tls://localhost:{listener.getsockname()[1]}")
        listener.setblocking(False)
        accepted: list[socket.socket] = []

        def accept() -> bool:
            try:
                accepted.append(listener.accept()[0])
            except BlockingIOError:
                return False
            return True

        served.until(accept)
        # In two parts: whatever is known of the first one, it goes on with the second.
        accepted[0].sendall(answer[:6])
        served.turn()
        accepted[0].sendall(answer[6:])
        served.until(lambda: OnClose in served.kinds())
        accepted[0].close()
    assert why in served.heard[0].message


def test_a_silent_server_is_waited_for_up_to_the_timeout(serve: Serve) -> None:
    served = serve()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        open_(served, f"tls://localhost:{listener.getsockname()[1]}", connect_timeout=5.0)
        served.until(lambda: OnClose in served.kinds(), 0.4)
    assert "timed out" in served.heard[0].message
    assert not [e for e in served.sockets.endpoints if e.con.state is not CLOSED]
    assert all(isinstance(each.transport, TlsTransport) for each in served.sockets.endpoints)


# --- behind a proxy ---

HEADER = b"PROXY TCP4 192.0.2.7 127.0.0.1 4242 443\r\n"


def through_proxy(served: Served, header: bytes) -> Client:
    sock = served.connect()
    sock.sendall(header)
    client = Client.__new__(Client)
    client.served = served
    client.sock = client_context().wrap_socket(
        sock, server_hostname="localhost", do_handshake_on_connect=False
    )
    served.clients.append(client.sock)
    return client


@pytest.mark.parametrize("cut", [0, 1, len(HEADER) - 1, len(HEADER)])
@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_proxy_header_comes_before_tls(serve: Serve, cut: int, mode: str) -> None:
    served = serve(
        f"127.0.0.1:0?proxy_protocol={mode}", trusted_proxies=("127.0.0.1",), tls="optional"
    )
    client = through_proxy(served, HEADER[:cut])
    served.turn()
    os.write(client.sock.fileno(), HEADER[cut:])
    client.shake().send(b"x")
    served.until(served.data)
    assert served.heard[0].about["peer"] == "192.0.2.7:4242"
    assert served.heard[0].about["scheme"] == "tls"


def test_a_proxy_header_and_the_client_hello_may_arrive_together(serve: Serve) -> None:
    served = serve("tls://127.0.0.1:0?proxy_protocol=required", trusted_proxies=("127.0.0.1",))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    served.connect().sendall(HEADER + outgoing.read())
    served.until(lambda: served.con.about.get("proxy"))
    served.until(lambda: isinstance(served.endpoint.transport, TlsTransport))
    assert not served.heard


@pytest.mark.parametrize("tls", ["required", "optional"])
def test_plain_bytes_behind_a_proxy_header_are_refused_where_tls_is_required(
    serve: Serve, tls: str
) -> None:
    served = serve("127.0.0.1:0?proxy_protocol=required", trusted_proxies=("127.0.0.1",), tls=tls)
    client = served.connect()
    client.sendall(HEADER + b"plain")
    if tls == "optional":
        served.until(lambda: served.data() == b"plain")
    else:
        served.until(lambda: not served.sockets.endpoints)
        assert not served.heard


@pytest.mark.parametrize("data", [b"", b"PROX", b"hello"])
def test_plain_bytes_reach_no_handler_where_tls_is_required(serve: Serve, data: bytes) -> None:
    served = serve("127.0.0.1:0?proxy_protocol=optional", trusted_proxies=("127.0.0.1",))
    client = served.connect()
    client.sendall(data)
    served.turn()
    client.close()
    served.until(lambda: not served.sockets.endpoints)
    assert not served.heard


@pytest.mark.parametrize("known", [True, False])
def test_a_client_that_sends_tiny_records_is_read_from_a_queue(serve: Serve, known: bool) -> None:
    """They are work, and so are changes of keys, which Python's TLS cannot send."""
    served = serve(max_header_size=1 << 20)
    client = Client(served).shake()
    first = b"x" if known else b"GET /"
    client.send(first)
    served.until(lambda: known == (served.con.entry is not None))
    endpoint = served.endpoint
    queued = 0
    for _ in range(4000):
        # All at once: no turn of the gateway between them.
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
