"""TLS handshakes over real sockets in one thread, with clients of Python's ssl."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.authority import ca, ca_file, client_context, leaf, odd_file, server_context, server_file
from tests.gateway.harness import HANDSHAKE
from tests.gateway.socket_harness import SocketHarness
from tests.gateway.tls.handshake_messages import FFDHE8192, X25519, retry
from tests.gateway.tls_client import Client, Serve, echo, send_plainly
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.sockets.transport import TlsTransport
from wsraw.link.records import (
    OnClose,
    OnConnect,
    OnError,
    Open,
    Send,
    encode,
)

V12 = ssl.TLSVersion.TLSv1_2


# --- recognizing TLS ---


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
    # The answer to a HEAD has no body.
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
    # Each look at the clock advances it by a second, so that one step exceeds the budget of a turn.
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
    send_plainly(client.sock, b"\x17\3\3\0\x20" + bytes(32))
    served.until(lambda: not served.endpoint.reading)
    served.sockets.handshakes.work = work  # type: ignore[method-assign]
    # The early data is not TLS: when its turn comes, it ends the handshake.
    served.until(lambda: served.sockets.handshakes.failed)


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
    """An authority may sign any name."""
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
        # With TLS 1.3 the client's handshake ends before the server has checked its certificate.
        Client(served, client_context(shown)).shake().receive(1)
    assert served.sockets.handshakes.completed == 0
    assert not served.heard


# --- opened connections ---


class Upstream:
    """A TLS server in the same thread."""

    def __init__(self, served: SocketHarness, context: ssl.SSLContext) -> None:
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


def open_(served: SocketHarness, target: str, **options: Any) -> int:
    served.turn()
    con = served.linked.link.new_id()
    options.setdefault("ca", ca_pem())
    served.linked.say(Open(con, target, options=options), Send(con, b"early"))
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
        # OpenSSL parses this answer and rejects it.
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
        # The answer comes in two parts, and the check continues with the second one.
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


def through_proxy(served: SocketHarness, header: bytes) -> Client:
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
    send_plainly(client.sock, HEADER[cut:])
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
