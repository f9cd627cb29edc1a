"""The real thing, and its faults on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deadline import UNIT

from wsraw.testing import Server

TIMEOUT = 15 * UNIT
HANDLERS = """
import time
def on_connect(inf, con):
    print("came", con.kind)
def on_message(msg, con):
    if msg["data"] == "flood":
        for _ in range(100):
            con.send(bytes(100_000))
    if msg["data"] == "slow" and con.delivery == 1:
        time.sleep(20)
    return msg["data"]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("handlers") / "slow.py"
    file.write_text(HANDLERS, "utf-8")
    with Server(file, workers=2, output_limit="1MiB", close_timeout="1s") as made:
        yield made
    assert made.process.returncode == 0
    assert not made.run_dir.exists()


def test_it_serves(server: Server) -> None:
    with server.connect("/x") as client, server.raw() as sock:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        sock.sendall(b"raw")
        assert sock.recv(100) == b"raw"
    server.wait_for_line("came raw")
    assert "came websocket" in server.log


@pytest.mark.parametrize("k", [1, 40, 10_000])
def test_split_at(server: Server, k: int) -> None:
    """In the request line, in a header, in a frame."""
    with server.split_at(k) as client:
        client.send("ü" * 10_000)
        assert client.recv(TIMEOUT) == "ü" * 10_000


def test_split_raw(server: Server) -> None:
    """What a connection is shows at its first bytes; these are two reads."""
    with server.split_raw(2) as sock:
        sock.sendall(b"abcd")
        assert sock.recv(100) == b"ab"
        assert sock.recv(100) == b"cd"


def test_a_worker_dies_in_the_middle_of_an_event(server: Server) -> None:
    with server.connect() as client:
        client.send("slow")
        client.send("next")
        pid = server.kill_worker(mid_event=True)
        # Nobody is disconnected, and each is answered once, in order.
        assert [client.recv(TIMEOUT) for _ in range(2)] == ["slow", "next"]
    assert pid not in [who["pid"] for who in server.status()["workers"]]
    assert server.kill_worker() != pid


def test_one_who_does_not_read(server: Server) -> None:
    with server.stall_reader() as client:
        client.send("flood")
        server.wait_for_line("limit output_limit")
        messages, code = client.read_all()
        assert len(messages) < 100 and code in (1006, 1008)


def test_reload(server: Server) -> None:
    pids = {who["pid"] for who in server.status()["workers"]}
    with server.connect() as client:
        server.reload()
        client.send("still here")
        assert client.recv(TIMEOUT) == "still here"
    assert not pids & {who["pid"] for who in server.status()["workers"]}


def test_what_does_not_start(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("1 / 0", "utf-8")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        Server(file)


SAMPLE = """
import pytest

def test_app(wsraw_app):
    app = wsraw_app("handlers.py")
    client = app.websocket("/chat?x=1")
    client.send("x")
    assert client.received == ["X"]

def test_raises(wsraw_app):
    wsraw_app("handlers.py").websocket().send("oops")

def test_server(wsraw_server):
    server = wsraw_server("handlers.py", workers=1, max_message_size="64KiB")
    with server.connect() as client:
        client.send("y")
        assert client.recv(10) == "Y"

def test_server_shows_its_log(wsraw_server):
    server = wsraw_server("handlers.py")
    with server.connect() as client:
        client.send("print this")
        client.recv(10)
    assert False
"""


def test_the_plugin(pytester: pytest.Pytester) -> None:
    """As in a project of its own: paths are beside the test file."""
    pytester.makepyfile(test_sample=SAMPLE)
    pytester.makepyfile(
        handlers="""
        def on_message(msg, con):
            print("handled", msg["data"])
            if msg["data"] == "oops":
                raise KeyError("from the handler")
            return msg["data"].upper()
        """
    )
    result = pytester.runpytest_subprocess(
        "-q", "-p", "wsraw.testing.plugin", "-W", "error", timeout=60 * UNIT
    )
    result.assert_outcomes(passed=2, failed=2)
    said = result.stdout.str()
    assert "KeyError: 'from the handler'" in said
    assert "handled print this" in said and "--- wsraw on port" in said


def test_two_pools(tmp_path: Path) -> None:
    file = tmp_path / "params.py"
    file.write_text("def on_message(msg, con):\n    return str(con.params)\n", "utf-8")
    pools, routes = [f"chat={file}:2", f"feed={file}"], ["/chat/{name}=chat", "/feed=feed"]
    with Server(pools=pools, routes=routes) as server:
        assert [who["pool"] for who in server.status()["workers"]] == ["chat", "chat", "feed"]
        with server.connect("/chat/ann") as client:
            client.send("x")
            assert client.recv(TIMEOUT) == "{'name': 'ann'}"
        before = {who["pid"] for who in server.status()["workers"] if who["pool"] == "chat"}
        server.reload("feed")
        after = {who["pid"] for who in server.status()["workers"] if who["pool"] == "chat"}
        assert before == after
