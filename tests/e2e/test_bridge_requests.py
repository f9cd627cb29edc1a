"""The requests that the targets of `wsraw bridge` get, received by third-party servers."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection
from websockets.sync.server import serve as ws_serve

from tests.authority import leaf, pem
from tests.deadline import eventually
from tests.e2e.serving import TIMEOUT, receive_all
from tests.e2e.test_proxies import PATH
from tests.e2e.upstream import raw_upstream, web_upstream
from tests.ports import free_port
from tests.running import Running
from wsraw.gateway.admission.proxy_protocol import ProxyReader


def bridge(listen: str, *arguments: str) -> Running:
    return Running(*arguments, listen=[listen], subcommand="bridge")


def tell(connection: ServerConnection) -> None:
    """Answers with the request that it received."""
    request = connection.request
    assert request is not None
    lines = [f"{name}: {value}" for name, value in request.headers.raw_items()]
    connection.send("\n".join([request.path, *lines]))


def test_a_request_is_passed_on() -> None:
    with (
        web_upstream(tell) as upstream,
        bridge(
            "ws://127.0.0.1:0",
            f"--to=ws://127.0.0.1:{upstream.port}/in/{{room}}",
            "--path=/rooms/{room}",
            "--set-headers=X-Key: 7",
            "--set-headers=User-Agent:",
        ) as run,
    ):
        port = run.ready().port
        origin = f"http://127.0.0.1:{port}"
        forged = {
            "User-Agent": "me",
            "Cookie": "a=1",
            "X-Forwarded-For": "6.6.6.6",
            "Forwarded": "for=6.6.6.6",
        }
        url = f"ws://127.0.0.1:{port}/rooms/a%2Fb?x=1"
        with connect(url, origin=origin, additional_headers=forged) as client:  # type: ignore[arg-type]
            told = client.recv(TIMEOUT)
        assert isinstance(told, str)
        path, *lines = told.splitlines()
        assert path == "/in/a%2Fb?x=1"
        found = dict(line.split(": ", 1) for line in lines)
        assert len(found) == len(lines)
        assert found.pop("Sec-WebSocket-Key")
        del found["Sec-WebSocket-Extensions"]
        assert found == {
            "Host": f"127.0.0.1:{port}",
            "Origin": origin,
            "Cookie": "a=1",
            "X-Forwarded-For": "127.0.0.1",
            "X-Forwarded-Host": f"127.0.0.1:{port}",
            "X-Forwarded-Proto": "http",
            "X-Key": "7",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
        }


def test_what_the_target_answers_reaches_the_client() -> None:
    def decide(connection: ServerConnection, request: Request) -> Response | None:
        if request.headers.get("Authorization") == "Bearer good":
            return None
        answer = connection.respond(401, "log in first\n")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def greet(connection: ServerConnection, request: Request, answer: Response) -> None:
        answer.headers["Set-Cookie"] = "a=1"
        answer.headers["Set-Cookie"] = "b=2"

    server: Server
    with ws_serve(tell, "127.0.0.1", 0, process_request=decide, process_response=greet) as server:
        import threading

        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            port = server.socket.getsockname()[1]
            with bridge("ws://127.0.0.1:0", f"--to=ws://127.0.0.1:{port}") as run:
                url = f"ws://127.0.0.1:{run.ready().port}/"
                with pytest.raises(InvalidStatus) as refused:
                    connect(url)
                said = refused.value.response
                assert (said.status_code, said.body) == (401, b"log in first\n")
                assert said.headers["WWW-Authenticate"] == "Bearer"
                login = {"Authorization": "Bearer good"}
                with connect(url, additional_headers=login) as client:
                    assert client.response is not None
                    assert client.response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
                    assert client.recv(TIMEOUT)
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kind", ["raw", "tls", "ws"])
def test_a_target_gets_a_proxy_header(version: str, kind: str, tmp_path: Path) -> None:
    """The header comes before TLS, for every protocol of the client."""
    cert = tmp_path / "cert.pem"
    cert.write_bytes(pem(leaf("localhost")))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert)

    def serve(sock: socket.socket) -> None:
        reader = ProxyReader()
        while reader.state == "reading":
            reader.receive_data(sock.recv(1))
        said = f"{reader.state} {reader.peer}".encode()
        if kind == "tls":
            with context.wrap_socket(sock, server_side=True) as secure:
                secure.sendall(said)
                secure.unwrap()
        else:
            sock.sendall(said)

    scheme = "tls" if kind == "tls" else "tcp"
    with (
        raw_upstream(serve) as upstream,
        bridge(
            f"{'ws' if kind == 'ws' else 'raw'}://127.0.0.1:0",
            f"--to={scheme}://localhost:{upstream.port}",
            "--no-verify",
            f"--send-proxy={version}",
        ) as run,
    ):
        port = run.ready().port
        if kind == "ws":
            sock = socket.create_connection(("127.0.0.1", port), TIMEOUT)
            own = sock.getsockname()[1]
            with connect(f"ws://127.0.0.1:{port}/", sock=sock) as client:
                assert client.recv(TIMEOUT) == f"done 127.0.0.1:{own}".encode()
        else:
            with socket.create_connection(("127.0.0.1", port), TIMEOUT) as sock:
                own = sock.getsockname()[1]
                assert receive_all(sock) == f"done 127.0.0.1:{own}".encode()


def answers(port: int) -> bool:
    with socket.socket() as sock:
        return not sock.connect_ex(("127.0.0.1", port))


HAPROXY = """
defaults
    mode http
    timeout client 10s
    timeout connect 10s
    timeout server 10s
frontend in
    bind 127.0.0.1:{port} accept-proxy
    http-request return status 200 %s "%%[src] %%[src_port] %%[dst_port]"
"""


@pytest.mark.skipif(not shutil.which("haproxy", path=PATH), reason="needs HAProxy")
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_reads_the_header(version: str, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port) % "content-type text/plain lf-string", "utf-8")
    words = ["haproxy", "-W", "-f", str(file)]
    with subprocess.Popen(words, env=os.environ | {"PATH": PATH}) as haproxy:
        try:
            eventually(lambda: answers(port), "HAProxy")
            to = f"--to=tcp://127.0.0.1:{port}"
            with (
                bridge("raw://127.0.0.1:0", to, f"--send-proxy={version}") as run,
                socket.create_connection(("127.0.0.1", run.ready().port), TIMEOUT) as sock,
            ):
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                said = receive_all(sock).rpartition(b"\r\n")[2].split()
                own, theirs = sock.getsockname(), sock.getpeername()
                assert [each.decode() for each in said] == [own[0], str(own[1]), str(theirs[1])]
        finally:
            haproxy.terminate()
