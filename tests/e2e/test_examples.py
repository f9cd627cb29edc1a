"""Each example, with two workers and real clients."""

from __future__ import annotations

import hashlib
import http.client
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection
from websockets.sync.server import ServerConnection

from tests.deadline import UNIT, eventually
from tests.e2e.serving import EXAMPLES, TIMEOUT, Serving, linux, receive_all, receive_exactly, serve
from tests.e2e.upstream import raw_upstream, web_upstream
from tests.needs import unix_sockets
from tests.ports import free_port
from wsraw.workers.embedded_threads import Worker

MIB = 1 << 20


class Lines:
    """A plain socket that is read line by line."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")

    def read(self) -> str:
        return self._file.readline().decode().rstrip("\n")

    def until(self, text: str) -> None:
        while (line := self.read()) != text:
            assert line, f"the end instead of {text!r}"

    def close(self) -> None:
        self._file.close()


# --- common ---


def test_the_common_example_does_what_those_in_other_languages_do() -> None:
    heard: list[str | bytes] = []

    def handle(connection: ServerConnection) -> None:
        heard.append(connection.recv(TIMEOUT))
        connection.send("unheard")
        connection.recv(TIMEOUT)

    with (
        web_upstream(handle) as upstream,
        serve(EXAMPLES / "common.py", workers=2) as serving,
        serving.ws() as client,
        serving.tcp() as raw,
    ):
        for said, wanted in (
            ("upper grün", "GRüN"),
            (b"upper \xff\x00a", b"\xff\x00A"),
            ("count", "3"),
            ("slow 5", "slow 5"),
            (b"slow down", b"slow down"),
            ("count", "6"),
        ):
            client.send(said)
            assert client.recv(TIMEOUT) == wanted
        client.send(f"open ws://127.0.0.1:{upstream.port}/")
        opened = client.recv(TIMEOUT)
        assert isinstance(opened, str)
        assert opened.startswith("opened ")
        eventually(lambda: heard == ["hi"], "hi")
        client.send("count")
        assert client.recv(TIMEOUT) == "8"
        raw.sendall(b"upper raw\n")
        assert receive_exactly(raw, 4) == b"RAW\n"


# --- chat ---


@pytest.fixture(scope="module")
def chat() -> Iterator[Serving]:
    with serve(EXAMPLES / "chat.py", workers=2) as serving:
        yield serving


def until(client: ClientConnection, ending: str) -> str:
    while not (text := client.recv(TIMEOUT)).endswith(ending):
        pass
    assert isinstance(text, str)
    return text


def test_chat_connects_websocket_and_raw_clients_in_one_room(chat: Serving) -> None:
    with chat.ws() as ann:
        ann_name = until(ann, " has come").removesuffix(" has come")
        chat_with(chat, ann, ann_name)


def chat_with(chat: Serving, ann: ClientConnection, ann_name: str) -> None:
    with chat.ws() as ben, chat.tcp() as sock:
        until(ann, " has come")
        lines = Lines(sock)
        # The parts of a line are joined, whichever workers handle them.
        for part in (b"he", b"llo fr", b"om raw\nand ", b"again\n"):
            sock.sendall(part)
        for client in (ann, ben):
            line = until(client, ": hello from raw")
            raw_name = line.removesuffix(": hello from raw")
            assert client.recv(TIMEOUT) == f"{raw_name}: and again"
        lines.until(f"{raw_name}: and again")
        ann.send("hello from web")
        assert until(ben, "hello from web") == f"{ann_name}: hello from web"
        lines.until(f"{ann_name}: hello from web")
        ann.close()
        lines.until(f"{ann_name} has left")
        assert until(ben, "has left") == f"{ann_name} has left"
        lines.close()


def test_chat_serves_its_page(chat: Serving) -> None:
    host, port = chat.addresses[0]
    done = subprocess.run(
        ["curl", "-sS", "-f", f"http://{host}:{port}/"],
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout == (EXAMPLES / "chat.html").read_bytes()


def test_chat_does_not_take_an_http_request_for_messages(chat: Serving) -> None:
    """A page can make a browser send any lines after the head of a request. A gateway with a raw
    listener, or one that allows all origins, does not check for that.
    """
    with chat.ws() as ann, chat.tcp() as request, chat.tcp() as raw:
        for part in (b"PO", b"ST / HTTP/1.1\r\nHost: a\r\n", b"\r\nsay this\n"):
            request.sendall(part)
        assert receive_all(request).startswith(b"HTTP/1.1 405 ")
        raw.sendall(b"over\n")
        heard = []
        while not heard or not heard[-1].endswith(": over"):
            heard.append(str(ann.recv(TIMEOUT)))
        assert not re.search("POST|Host|say this", " ".join(heard))


# --- pools ---


@unix_sockets  # by its run folder a worker is found only there
def test_the_pools_example_sends_each_client_to_its_handlers() -> None:
    with (
        serve(None, f"--config={EXAMPLES / 'pools.toml'}", workers=3) as serving,
        serving.ws(path="/rooms/kitchen") as cook,
        serving.ws() as ann,
        serving.tcp() as raw,
    ):
        assert cook.recv(TIMEOUT).isdigit(), "its id"
        until(ann, " has come")
        raw.sendall(b"hello\n")
        assert until(ann, ": hello").endswith(": hello")
        with Worker(run_dir=serving.folder or "") as worker:
            worker.publish("kitchen", "soup", timeout=TIMEOUT)
        assert cook.recv(TIMEOUT) == "soup"


# --- feed ---


def test_feed_opens_one_connection_for_all_workers_and_clients() -> None:
    go, over = threading.Event(), threading.Event()

    def handle(connection: ServerConnection) -> None:
        # A client cannot know that it has joined the group before a message comes.
        while not go.wait(0.05):
            connection.send("soon")
        for n in range(100):
            connection.send(f"price {n}")
        over.wait(TIMEOUT)

    with web_upstream(handle) as upstream:
        feed = {"FEED": f"ws://127.0.0.1:{upstream.port}/"}
        with (
            serve(EXAMPLES / "feed.py", workers=2, env=feed) as serving,
            serving.ws() as one,
            serving.ws() as two,
            serving.tcp() as raw,
        ):
            raw.sendall(b"me, too")
            for client in (one, two):
                assert client.recv(TIMEOUT) == "soon"
            assert receive_exactly(raw, 4) == b"soon"
            go.set()
            prices = [f"price {n}" for n in range(100)]
            for client in (one, two):
                while (first := client.recv(TIMEOUT)) == "soon":
                    pass
                assert [first, *(client.recv(TIMEOUT) for _ in range(99))] == prices
            over.set()
            wanted = "".join(prices)
            got = receive_exactly(raw, len(wanted)).decode()
            while got.startswith("soon"):
                got = got[4:] + receive_exactly(raw, 4).decode()
            assert got == wanted
        assert upstream.came == 1


# --- the converters ---

SIZE = 64 * MIB
CHUNK = bytes(range(256)) * 256
ALLOWED = 24 * MIB
"""The most that the gateway's memory may grow: kernel buffers are not part of it, and the
high-water marks are 256 KiB.
"""


def numbered(n: int) -> bytes:
    return n.to_bytes(8, "big") + CHUNK[8:]


def digest_of_all() -> str:
    digest = hashlib.sha256()
    for n in range(SIZE // len(CHUNK)):
        digest.update(numbered(n))
    return digest.hexdigest()


def digest_of(read: Callable[[], bytes]) -> str:
    digest, size = hashlib.sha256(), 0
    while size < SIZE and (data := read()):
        digest.update(data)
        size += len(data)
    assert size == SIZE
    return digest.hexdigest()


class Sleeper:
    """Watches the gateway's memory while a reader sleeps. The sleep ends when no more data
    moves.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._before = serving.rss()
        self.sent = 0

    def sleep(self) -> None:
        eventually(lambda: self.sent, "the writer to begin")
        still_since, last = time.monotonic(), -1
        while time.monotonic() - still_since < 0.5 * UNIT:
            if self.sent != last:
                still_since, last = time.monotonic(), self.sent
            time.sleep(0.01)
        assert self.sent < SIZE, "the writer was not paused"
        self.check()

    def check(self) -> None:
        grown = self._serving.rss() - self._before
        assert grown < ALLOWED, f"{grown / MIB:.1f} MiB more"


@pytest.mark.long
@linux
@pytest.mark.parametrize("who_sleeps", ["client", "upstream"])
@pytest.mark.parametrize("example", ["raw_to_web", "web_to_raw", "relay"])
def test_a_proxied_64_mib_survive_a_reader_that_sleeps(example: str, who_sleeps: str) -> None:
    wanted = digest_of_all()
    found: list[str] = []
    sleepers: list[Sleeper] = []
    ready = threading.Event()

    def push(send: Callable[[bytes], object]) -> None:
        assert ready.wait(TIMEOUT)
        for n in range(SIZE // len(CHUNK)):
            send(numbered(n))
            sleepers[0].sent += len(CHUNK)

    def pull(read: Callable[[], bytes]) -> None:
        assert ready.wait(TIMEOUT)
        sleepers[0].sleep()
        found.append(digest_of(read))
        sleepers[0].check()

    upstream_does = push if who_sleeps == "client" else pull
    client_does = pull if who_sleeps == "client" else push

    def raw_end(sock: socket.socket, do: Callable[..., None]) -> None:
        sock.settimeout(4 * TIMEOUT)
        do((lambda: sock.recv(1 << 16)) if do is pull else sock.sendall)

    def web_end(connection: ServerConnection | ClientConnection, do: Callable[..., None]) -> None:
        do((lambda: connection.recv(4 * TIMEOUT)) if do is pull else connection.send)

    done = threading.Event()
    if example == "raw_to_web":

        def serve_web(connection: ServerConnection) -> None:
            web_end(connection, upstream_does)
            done.wait(4 * TIMEOUT)

        upstream_server = web_upstream(serve_web)
        scheme = "ws://"
    else:

        def serve_raw(sock: socket.socket) -> None:
            raw_end(sock, upstream_does)
            done.wait(4 * TIMEOUT)

        upstream_server = raw_upstream(serve_raw)
        scheme = ""
    with upstream_server as upstream:
        env = {"TARGET": f"{scheme}127.0.0.1:{upstream.port}"}
        with serve(EXAMPLES / f"{example}.py", workers=2, env=env) as serving:
            sleepers.append(Sleeper(serving))
            try:
                if example == "raw_to_web":
                    with serving.tcp() as sock:
                        if who_sleeps == "client":
                            sock.sendall(b"wake up")
                        ready.set()
                        raw_end(sock, client_does)
                        eventually(lambda: found, "the other end")
                else:
                    with serving.ws(compression=None, max_queue=2) as client:
                        ready.set()
                        web_end(client, client_does)
                        eventually(lambda: found, "the other end")
            finally:
                ready.set()
                done.set()
    assert found == [wanted]


@pytest.mark.parametrize("example", ["web_to_raw", "relay"])
def test_web_to_raw_talks_and_ends_both_ways(example: str) -> None:
    def handle(sock: socket.socket) -> None:
        while (data := sock.recv(4096)) and data != b"quit":
            sock.sendall(data)

    with raw_upstream(handle) as upstream:
        env = {"TARGET": f"127.0.0.1:{upstream.port}"}
        with serve(EXAMPLES / f"{example}.py", workers=2, env=env) as serving:
            with serving.ws() as client:
                if example == "relay":
                    client.send("admin shutdown")
                    assert client.recv(TIMEOUT) == "not for you\n"
                client.send("text")
                assert client.recv(TIMEOUT) == b"text"
                client.send("quit")
                with pytest.raises(ConnectionClosed) as closed:
                    client.recv(TIMEOUT)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1000
            with serving.ws() as client:
                client.send(b"more")
                assert client.recv(TIMEOUT) == b"more"
            # The client's end must also end its raw connection, or else the upstream's thread
            # hangs.


def test_raw_to_web_talks_and_ends_both_ways() -> None:
    def handle(connection: ServerConnection) -> None:
        for message in connection:
            if message == b"quit":
                return
            connection.send(message)

    with web_upstream(handle) as upstream:
        env = {"TARGET": f"ws://127.0.0.1:{upstream.port}/"}
        with (
            serve(EXAMPLES / "raw_to_web.py", workers=2, env=env) as serving,
            serving.tcp() as sock,
        ):
            sock.sendall(b"bytes")
            assert receive_exactly(sock, 5) == b"bytes"
            sock.sendall(b"quit")
            assert receive_all(sock) == b""
            with serving.tcp() as sock:
                # Send a request and then FIN, as `nc -N` does.
                sock.sendall(b"question")
                sock.shutdown(socket.SHUT_WR)
                assert receive_exactly(sock, 8) == b"question"


@pytest.mark.parametrize(
    ("example", "code", "reason"),
    [("web_to_raw", 1014, "the target cannot be reached"), ("relay", 1011, "connect-failed")],
)
def test_a_proxy_whose_target_is_down_closes_its_client(
    example: str, code: int, reason: str
) -> None:
    port = free_port()
    with serve(EXAMPLES / f"{example}.py", env={"TARGET": f"127.0.0.1:{port}"}) as serving:
        with serving.ws() as client:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
        serving.run.line("refused")


# --- site ---


def test_the_site_has_a_page_an_api_and_a_websocket() -> None:
    folder = EXAMPLES / "site"
    options = ("--plain-http=handlers", f"--static={folder / 'public'}")
    with serve(folder / "handlers.py", *options) as serving, serving.ws() as page:
        con = http.client.HTTPConnection("127.0.0.1", serving.run.port, timeout=TIMEOUT)

        def ask(method: str, target: str, body: str = "") -> tuple[int, bytes]:
            con.request(method, target, body or None)
            response = con.getresponse()
            return response.status, response.read()

        eventually(lambda: ask("GET", "/")[0] == 200)
        assert b"<script>" in ask("GET", "/")[1]
        assert ask("GET", "/style.css")[0] == 200
        assert ask("POST", "/api/votes", "tea") == (201, b"counted\n")
        assert page.recv(TIMEOUT) == "tea"
        assert ask("GET", "/api/votes") == (200, b'{"tea": 1}')
        assert ask("POST", "/api/votes", "<b>")[0] == 400
        assert ask("PUT", "/api/votes", "tea")[0] == 405
        assert ask("GET", "/api/none")[0] == 404
        con.close()
