"""The configurations of docs/proxies.md, each with its real proxy in front of a real run.

Only ports, paths and times are replaced. Proxies that are not installed are skipped; with
WSRAW_TEST_PROXIES=must, as .ci/run sets it, they are failures.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests import authority
from tests.deadline import DEADLINE, eventually
from tests.e2e.serving import TIMEOUT, Serving, receive_exactly, serve
from tests.needs import signals
from tests.ports import free_port
from tests.running import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs 127.0.0.2")

PAGE = (ROOT / "docs" / "proxies.md").read_text("utf-8")
CLIENT = "127.0.0.2"
"""A client address that differs from the proxy's."""

IDLE = 2.0
"""Seconds that replace the long timeouts of the proxies."""

HANDLERS = """
    def on_message(msg, con):
        data = msg["data"]
        if data in ("who", b"who"):
            who = f"{con.peer} {con.proxy} {con.scheme}"
            return who if isinstance(data, str) else who.encode() + b"\\n"
        return msg
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Debian has nginx and HAProxy in a folder that is not in the PATH of its users."""


class Proxy:
    """A proxy in a folder of its own."""

    program = ""
    raw = True

    def __init__(self, folder: Path, serving: Serving) -> None:
        self.folder = folder
        self.web, self.tcp = free_port(), free_port()
        cert = authority.leaf("example.org")
        self.pem = authority.write(folder, "example.org.pem", authority.pem(cert))
        self._ports = {
            "443": self.web,
            "9000": self.tcp,
            "8000": serving.addresses[0][1],
            "9001": serving.addresses[1][1],
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def reload(self) -> None:
        """Reload as the page describes; returns when the reload has begun."""
        raise NotImplementedError

    def fill(self, text: str) -> str:
        """A configuration of the page, with the ports, paths and times of this test."""
        for said, here in self._ports.items():
            text, count = re.subn(rf"(?<=[: ]){said}\b", str(here), text)
            assert count or said not in text
        text = re.sub(r"/etc/ssl/example\.org\.\w+", self.pem, text)
        return re.sub(r"\b(?:1h|60s)\b", f"{IDLE:g}s", text)

    def spawn(self, *words: str | Path) -> subprocess.Popen[bytes]:
        self.log = open(self.folder / "log", "wb")  # noqa: SIM115
        return subprocess.Popen(
            words,
            # Caddy keeps its files below HOME.
            env=os.environ | {"PATH": PATH, "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            cwd=self.folder,
        )

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(DEADLINE)
        finally:
            self.process.kill()
            self.process.wait()
            self.log.close()

    # --- clients ---

    def ws(self, **options: Any) -> ClientConnection:
        context = ssl.create_default_context(cadata=authority.ca().cert_pem.bytes().decode())
        return connect(
            f"wss://example.org:{self.web}/",
            sock=self._socket(self.web),
            ssl=context,
            server_hostname="example.org",
            open_timeout=TIMEOUT,
            ping_interval=None,
            proxy=None,
            **options,
        )

    def socket(self) -> socket.socket:
        return self._socket(self.tcp)

    def _socket(self, port: int) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), TIMEOUT, (CLIENT, 0))


class Nginx(Proxy):
    program = "nginx"

    def _start(self) -> subprocess.Popen[bytes]:
        web, stream = blocks("nginx")
        module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        load = f"load_module {module};" if module.exists() else ""
        places = "".join(
            f"{name}_temp_path {self.folder};\n"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = self.folder / "nginx.conf"
        file.write_text(
            f"{load} user root; daemon off; pid {self.folder}/pid; worker_processes 1;\n"
            f"events {{}}\nhttp {{ access_log off; {places}\n{self.fill(web)} }}\n"
            f"{self.fill(stream)}"
        )
        return self.spawn("nginx", "-e", "stderr", "-p", self.folder, "-c", file)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGHUP)


class HAProxy(Proxy):
    program = "haproxy"

    def _start(self) -> subprocess.Popen[bytes]:
        [text] = blocks("haproxy")
        file = self.folder / "haproxy.cfg"
        file.write_text(self.fill(text))
        return self.spawn("haproxy", "-W", "-f", file)

    def ws(self, **options: Any) -> ClientConnection:
        # On a busy machine HAProxy 2.6 sometimes misses the request that comes with the end of the
        # TLS handshake: wsraw gets no connection for it, and the client gets 408.
        for _ in range(5):
            try:
                return super().ws(**options)
            except InvalidStatus as error:
                if error.response.status_code != 408:
                    raise
        return super().ws(**options)

    def reload(self) -> None:
        self.process.send_signal(signal.SIGUSR2)


class Caddy(Proxy):
    program = "caddy"
    raw = False

    def _start(self) -> subprocess.Popen[bytes]:
        [text] = blocks("caddy")
        self.file = self.folder / "Caddyfile"
        head, brace, rest = self.fill(text).partition("{\n")
        self.admin = f"unix/{self.folder}/admin"
        self.file.write_text(
            f"{{\nadmin {self.admin}\nauto_https off\nstorage file_system {self.folder}\n}}\n"
            f"https://{head.strip()}:{self.web} {brace}tls {self.pem} {self.pem}\n{rest}"
        )
        return self.spawn("caddy", "run", "--config", self.file, "--adapter", "caddyfile")

    def reload(self) -> None:
        # Caddy does not reload an unchanged configuration.
        self.file.write_text(self.file.read_text().replace("{\n", "{\ngrace_period 10s\n", 1))
        subprocess.run(
            ["caddy", "reload", "--config", self.file, "--adapter", "caddyfile", "--address",
             self.admin],
            check=True, capture_output=True, timeout=DEADLINE,
        )  # fmt: skip


@pytest.fixture(scope="module", params=[Nginx, HAProxy, Caddy], ids=lambda kind: kind.program)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    kind: type[Proxy] = request.param
    if not shutil.which(kind.program, path=PATH):
        must = os.environ.get("WSRAW_TEST_PROXIES") == "must"
        (pytest.fail if must else pytest.skip)(f"no {kind.program} here")
    folder = tmp_path_factory.mktemp(kind.program)
    handlers = folder / "handlers.py"
    handlers.write_text(textwrap.dedent(HANDLERS))
    with running(kind, folder, handlers) as proxy:
        yield proxy


@contextmanager
def running(kind: type[Proxy], folder: Path, handlers: Path) -> Iterator[Proxy]:
    listen = ["127.0.0.1:0?plain_http=health", "raw://127.0.0.1:0?proxy_protocol=required"]
    options = ["--trusted-proxies=127.0.0.1", f"--ping-interval={IDLE / 5:g}"]
    with serve(handlers, *options, listen=listen) as serving:
        proxy = kind(folder, serving)
        try:
            eventually(
                lambda: is_open(proxy.web) and proxy.process.poll() is None,
                f"{kind.program} to listen",
            )
            yield proxy
        except BaseException:
            print((folder / "log").read_text())
            raise
        finally:
            proxy.close()


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), TIMEOUT).close()
    except ConnectionRefusedError:
        return False
    return True


@signals  # The proxies reload on a signal.
def test_a_proxy_passes_on_who_the_client_is_and_does_not_cut_it(proxy: Proxy) -> None:
    forged = {"X-Forwarded-For": "192.0.2.66", "Forwarded": "for=192.0.2.66"}
    with proxy.ws(additional_headers=forged) as client:
        client.send("who")
        peer, by, scheme = str(client.recv(TIMEOUT)).split()
        assert peer.split(":")[0] == CLIENT, "what the client claims is not believed"
        assert (by.split(":")[0], scheme) == ("127.0.0.1", "wss")
        client.send("x" * 70_000)
        assert client.recv(TIMEOUT) == "x" * 70_000
        with pytest.raises(TimeoutError):
            # Only pings are sent, for longer than the proxy's timeout.
            client.recv(1.6 * IDLE)
        client.send("still here")
        assert client.recv(TIMEOUT) == "still here"
        client.send("before the reload")
        assert client.recv(TIMEOUT) == "before the reload"
        proxy.reload()
        with proxy.ws() as other:
            other.send("during the reload")
            assert other.recv(TIMEOUT) == "during the reload"
        if isinstance(proxy, Caddy):
            with pytest.raises(ConnectionClosed):
                client.recv(TIMEOUT)
        else:
            client.send("after the reload")
            assert client.recv(TIMEOUT) == "after the reload"
    if not proxy.raw:
        return
    with proxy.socket() as sock:
        sock.sendall(b"who")
        answer = receive_exactly(sock, 10)
        while not answer.endswith(b"\n"):
            answer += receive_exactly(sock, 1)
        assert answer.startswith(f"{CLIENT}:{sock.getsockname()[1]} 127.0.0.1".encode())
        # The counterpart: without pings, the proxy cuts a silent connection.
        sock.settimeout(10 * IDLE)
        assert sock.recv(1) == b""


def test_a_request_that_is_no_websocket_reaches_the_health_answer(proxy: Proxy) -> None:
    context = ssl.create_default_context(cadata=authority.ca().cert_pem.bytes().decode())
    with context.wrap_socket(proxy._socket(proxy.web), server_hostname="example.org") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")
        assert receive_exactly(sock, 15).startswith(b"HTTP/1.1 200")
