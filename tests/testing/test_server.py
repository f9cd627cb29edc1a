"""The real server, and faults on request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.deadline import COMMAND_DEADLINE, DEADLINE, eventually
from tests.running import environment, is_alive
from wsraw import cli
from wsraw.config import options
from wsraw.testing import Server
from wsraw.testing.server import StalledClient, _options

TIMEOUT = DEADLINE
HANDLERS = """
import time
def on_connect(inf, con):
    print("came", con.kind)
def on_message(msg, con):
    if con.kind == "raw":
        print("a read of", len(msg["data"]))
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
    with Server(file, workers=2, output_limit="1MiB", close_timeout="1s", timeout=TIMEOUT) as made:
        yield made
    assert not made.run_dir.exists()


def test_a_test_server_serves_clients(server: Server) -> None:
    with server.connect("/x") as client, server.raw() as sock:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"
        sock.sendall(b"raw")
        assert sock.recv(100) == b"raw"
    server.wait_for_line("came raw")
    assert "came websocket" in server.log


def test_a_test_server_takes_every_setting_under_its_own_name() -> None:
    known = {name for each in cli.commands()["run"].params for name in each.opts}
    for each in options.options():
        (option,) = _options({each.name: "x"})
        assert option.partition("=")[0] in known


def test_a_bridge_can_be_tested() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        place = f"tcp://127.0.0.1:{target.getsockname()[1]}"
        with (
            Server(bridges=[f"/vnc={place}"], timeout=TIMEOUT) as server,
            server.connect("/vnc") as client,
        ):
            client.send(b"hello")
            sock, _ = target.accept()
            with sock:
                assert sock.recv(100) == b"hello"


@pytest.mark.parametrize("k", [1, 40, 10_000])
def test_the_server_can_split_a_message_at_a_byte(server: Server, k: int) -> None:
    """The byte is in the request line, in a header, or in a frame."""
    with server.split_at(k) as client:
        client.send("ü" * 10_000)
        assert client.recv(TIMEOUT) == "ü" * 10_000


def test_raw_data_can_be_split(server: Server) -> None:
    """The first bytes are sent alone: the server reads twice, unless a busy machine reads them
    together.
    """

    def are_two_reads() -> bool:
        before = server.log.count("a read of 2")
        with server.split_raw(2) as sock:
            sock.sendall(b"abcd")
            received = b""
            while len(received) < 4:
                received += sock.recv(100)
            assert received == b"abcd"
            server.wait_for_line("a read of")
        return server.log.count("a read of 2") == before + 2

    eventually(are_two_reads, "two reads")


def test_a_worker_dies_in_the_middle_of_an_event(server: Server) -> None:
    with server.connect() as client:
        client.send("slow")
        client.send("next")
        pid = server.kill_worker(mid_event=True)
        # No client is disconnected, and each message is answered once, in order.
        assert [client.recv(TIMEOUT) for _ in range(2)] == ["slow", "next"]
    assert pid not in [who["pid"] for who in server.status()["workers"]]
    assert server.kill_worker() != pid


def test_a_client_can_stop_reading(server: Server) -> None:
    with server.stall_reader() as client:
        # The output exceeds the limit for one connection, even if it is written quickly.
        for _ in range(8):
            client.send("flood")
        server.wait_for_line("limit output_limit")
        messages, code = client.read_all()
        assert len(messages) < 8 * 100 and code in (1006, 1008)


def test_a_client_can_read_late(server: Server) -> None:
    """The client reads everything in order, whether it waited at the gateway or in between."""
    texts = [f"{n} " + "x" * 10_000 for n in range(50)]
    with server.stall_reader() as client:
        for text in texts:
            client.send(text)
        assert [client.recv() for _ in texts] == texts
        client.send("and goes on")
        assert client.recv() == "and goes on"


def test_waiting_for_an_end_that_does_not_come_raises(tmp_path: Path) -> None:
    """Pings must not prolong the wait."""
    file = tmp_path / "echo.py"
    file.write_text("def on_message(msg, con):\n    return msg\n", "utf-8")
    with Server(file, ping_interval="500ms", timeout=TIMEOUT) as quick:
        for timeout in (0.2, 1.2):
            client = StalledClient(quick.host, quick.port, "/", timeout)
            with client, pytest.raises(TimeoutError, match=f"within {timeout} s"):
                client.read_all()
        with quick.stall_reader() as client:
            stopping = threading.Thread(target=quick.stop)
            stopping.start()
            assert client.read_all() == ([], 1001)
            with pytest.raises(ConnectionError, match="with 1001"):
                client.recv()
        stopping.join()


def test_a_server_that_is_asked_to_stop_ends_in_good_order(tmp_path: Path) -> None:
    """This is the way where no signal stops the server."""
    file = tmp_path / "closing.py"
    file.write_text("def on_close(con): print('closed by', con.close_cause)", "utf-8")
    with Server(file, timeout=TIMEOUT) as server, server.connect() as client:
        asking = threading.Thread(target=server._ask_to_stop)
        asking.start()
        with pytest.raises(ConnectionClosed):
            client.recv(TIMEOUT)
        assert client.close_code == 1001
        asking.join()
        eventually(lambda: server._codes, "the end of the run")
        assert "closed by going-away" in server.log
        # The server does not answer any more.
        server._ask_to_stop()


def test_the_server_can_be_reloaded(server: Server) -> None:
    pids = {who["pid"] for who in server.status()["workers"]}
    with server.connect() as client:
        server.reload()
        client.send("still here")
        assert client.recv(TIMEOUT) == "still here"
    assert not pids & {who["pid"] for who in server.status()["workers"]}


def test_a_server_that_does_not_start_raises_with_its_log(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("1 / 0", "utf-8")
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        Server(file, timeout=TIMEOUT)


def test_modules_of_the_current_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was started there does not import them, either."""
    for name in ("selectors.py", "wsraw.py"):
        (tmp_path / name).write_text("1 / 0", "utf-8")
    (tmp_path / "echo.py").write_text("def on_message(msg, con):\n    return msg\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with Server("echo.py", timeout=TIMEOUT) as server, server.connect() as client:
        client.send("hello")
        assert client.recv(TIMEOUT) == "hello"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells of it")
def test_the_server_ends_with_tests_that_are_killed(tmp_path: Path) -> None:
    source = (
        "import os, signal; from wsraw.testing import Server; server = Server();"
        "print(server.process.pid, server.run_dir.parent, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        env=environment() | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        encoding="utf-8",
        timeout=TIMEOUT,
        check=False,
    )
    pid, folder = done.stdout.split()
    assert Path(folder).parent == tmp_path
    try:
        eventually(lambda: not is_alive(int(pid)), "the end of the run")
    except BaseException:
        os.kill(int(pid), signal.SIGTERM)
        raise


def test_a_server_started_in_a_thread_outlives_it() -> None:
    made: list[Server] = []
    thread = threading.Thread(target=lambda: made.append(Server(timeout=TIMEOUT)))
    thread.start()
    thread.join()
    with made[0] as server:
        server.reload()
        assert "SIGTERM" not in server.log


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
    server = wsraw_server("handlers.py", workers=1, timeout=60, max_message_size="64KiB")
    with server.connect() as client:
        client.send("y")
        assert client.recv(60) == "Y"

def test_server_shows_its_log(wsraw_server):
    server = wsraw_server("handlers.py", timeout=60)
    with server.connect() as client:
        client.send("print this")
        client.recv(60)
    assert False
"""


def test_the_plugin_runs_the_tests_of_the_docs(pytester: pytest.Pytester) -> None:
    """In a project of one's own, paths are relative to the test file, too."""
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
        "-q", "-p", "wsraw.testing.plugin", "-W", "error", timeout=COMMAND_DEADLINE
    )
    result.assert_outcomes(passed=2, failed=2)
    said = result.stdout.str()
    assert "KeyError: 'from the handler'" in said
    assert "handled print this" in said and "--- wsraw on port" in said


def test_a_server_with_two_pools_serves_both(tmp_path: Path) -> None:
    file = tmp_path / "params.py"
    file.write_text("def on_message(msg, con):\n    return str(con.params)\n", "utf-8")
    pools, routes = [f"chat={file}:2", f"feed={file}"], ["/chat/{name}=chat", "/feed=feed"]
    with Server(pools=pools, routes=routes, timeout=TIMEOUT) as server:
        assert [who["pool"] for who in server.status()["workers"]] == ["chat", "chat", "feed"]
        with server.connect("/chat/ann") as client:
            client.send("x")
            assert client.recv(TIMEOUT) == "{'name': 'ann'}"
        before = {who["pid"] for who in server.status()["workers"] if who["pool"] == "chat"}
        server.reload("feed")
        after = {who["pid"] for who in server.status()["workers"] if who["pool"] == "chat"}
        assert before == after
