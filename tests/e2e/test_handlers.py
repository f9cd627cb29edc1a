"""The guarantees to handlers, through real processes."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosedError

from tests.deadline import eventually
from tests.e2e.serving import TIMEOUT, posix, receive_all, receive_exactly, serve
from tests.e2e.upstream import raw_upstream
from tests.ports import free_port

Write = Callable[[str], Path]


def test_output_of_handlers_is_logged_with_the_name_of_their_worker(handlers: Write) -> None:
    text = """
    import sys

    def on_message(msg, con):
        print("said", msg["data"])
        print("complained", file=sys.stderr)
        sys.stdout.write("no line end")
        return "done"

    def on_stop():
        print("last words")
    """
    with serve(handlers(text)) as serving, serving.ws() as client:
        client.send("aloud – żółw")
        assert client.recv(TIMEOUT) == "done"
        serving.run.line(r"T\d\d:\d\d:\d\d\S+ info worker 1: said aloud – żółw \(connection ")
        serving.run.line(r"info worker 1: complained \(connection ")
    assert "no line end" in str(serving)
    assert "info worker 1: " in next(line for line in serving.run.lines if "last words" in line)


def test_without_handlers_every_event_is_printed_and_none_is_answered() -> None:
    with serve(None) as serving:
        with serving.tcp() as sock:
            sock.sendall(b"hello")
            serving.run.line(r"worker 1: .*on_connect .*'Protocol': 'raw'")
            serving.run.line(r"worker 1: .*on_message .*b'hello'")
            sock.shutdown(socket.SHUT_WR)
            assert receive_all(sock) == b""
            serving.run.line(r"worker 1: .*on_close 1000 '' eof")
        with serving.ws(path="/there", additional_headers={"X-Mine": "yes"}) as client:
            client.send("text")
            serving.run.line(r"on_connect .*'url': '/there'.*'Protocol': 'websocket server'")
            serving.run.line(r"'X-Mine': 'yes'")
            serving.run.line(r"on_message \{.*'text'")
            client.close(4000, "so long")
            serving.run.line(r"on_close 4000 'so long' peer")


def test_a_hundred_async_handlers_wait_at_the_same_time(handlers: Write) -> None:
    text = """
    import asyncio

    waiting = 0
    most = 0

    async def on_message(msg, con):
        global waiting, most
        waiting += 1
        most = max(most, waiting)
        # All of a hundred must be here before any may leave: this proves that they are.
        while most < 100:
            await asyncio.sleep(0.01)
        waiting -= 1
        return msg
    """
    with serve(handlers(text)) as serving:
        socks = [serving.tcp() for _ in range(100)]
        for n, sock in enumerate(socks):
            sock.sendall(b"%03d" % n)
        for n, sock in enumerate(socks):
            assert receive_exactly(sock, 3) == b"%03d" % n
            sock.close()


def test_async_handlers_keep_the_order_of_a_connection(handlers: Write) -> None:
    text = """
    import asyncio, random

    async def on_message(msg, con):
        await asyncio.sleep(random.random() / 100)
        return msg
    """
    with serve(handlers(text), workers=2) as serving, serving.ws() as one, serving.ws() as two:
        for n in range(50):
            one.send(f"{n}")
            two.send(f"{n}")
        for client in (one, two):
            assert [client.recv(TIMEOUT) for _ in range(50)] == [f"{n}" for n in range(50)]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_an_exception_closes_only_its_own_connection(handlers: Write, kind: str) -> None:
    text = f"""
    {kind} on_message(msg, con):
        con.send("never seen")
        if msg["data"] == "break":
            raise ValueError("broken on purpose")
    """
    with serve(handlers(text), tracebacks=True) as serving:
        with serving.ws() as client, serving.ws() as other:
            client.send("break")
            with pytest.raises(ConnectionClosedError) as closed:
                client.recv(TIMEOUT)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1011
            serving.run.line("worker 1: .*Traceback")
            serving.run.line("ValueError: broken on purpose")
            other.send("fine")
            assert other.recv(TIMEOUT) == "never seen"
        assert len(serving.run.pids("worker 1")) == 1


def test_with_on_exception_keep_the_connection_stays(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        con.send("discarded")
        if msg["data"] == "break":
            raise ValueError("broken on purpose")
        return "kept"
    """
    with (
        serve(handlers(text), "--on-exception=keep", tracebacks=True) as serving,
        serving.ws() as client,
    ):
        client.send("break")
        client.send("go on")
        assert [client.recv(TIMEOUT), client.recv(TIMEOUT)] == ["discarded", "kept"]


def test_a_returned_value_is_the_reply(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        return {"str": "text", "bytes": b"bin", "none": None,
                "dict": {"type": "text", "data": "part", "final": True}}[msg["data"]]
    """
    with serve(handlers(text)) as serving, serving.ws() as client:
        for word in ("str", "none", "bytes", "dict"):
            client.send(word)
        assert [client.recv(TIMEOUT) for _ in range(3)] == ["text", b"bin", "part"]


def test_the_state_of_a_connection_follows_it_to_other_workers(handlers: Write) -> None:
    text = """
    import os, time

    def on_message(msg, con):
        con.state = (con.state or 0) + 1
        if msg["data"] == "slow":
            time.sleep(0.3)
        return f"{con.state} {os.getpid()}"
    """
    with serve(handlers(text), workers=2) as serving, ExitStack() as stack:
        clients = [stack.enter_context(serving.ws()) for _ in range(4)]
        seen: list[set[str]] = [set() for _ in clients]
        counts = [0] * len(clients)
        turn = 0

        def answer(n: int) -> None:
            state, pid = str(clients[n].recv(TIMEOUT)).split()
            counts[n] += 1
            assert int(state) == counts[n]
            seen[n].add(pid)

        def has_moved() -> bool:
            # While its worker is busy with another connection, a connection goes to a worker that
            # is idle. The gateway decides how soon a worker counts as busy, so try until it does.
            nonlocal turn
            turn = (turn + 1) % len(clients)
            clients[turn].send("slow")
            time.sleep(0.1)
            for n, client in enumerate(clients):
                if n != turn:
                    client.send("quick")
                    answer(n)
            answer(turn)
            return all(len(pids) == 2 for pids in seen)

        eventually(has_moved, f"each to be served by both workers: {seen}")


def test_a_connection_that_cannot_be_opened_reports_an_error_and_a_close(handlers: Write) -> None:
    port = free_port()
    text = """
    from wsraw import open_client_connection

    def on_message(msg, con):
        open_client_connection(msg["data"], connect_timeout=1)

    def on_error(error_message, con):
        print("on_error", con.target, error_message)

    def on_close(con):
        print("on_close", con.target, con.close_cause)
    """
    with serve(handlers(text)) as serving, serving.ws() as client:
        for target in (f"127.0.0.1:{port}", "no-such-host.invalid:1", "unix:/no/such/socket"):
            client.send(target)
            serving.run.line(f"on_error {target} .+")
            serving.run.line(f"on_close {target} connect-failed")
        client.send(f"ws://127.0.0.1:{port}/")
        serving.run.line(f"on_close ws://127.0.0.1:{port}/ connect-failed")
        client.send("wss://127.0.0.1:1/")
        serving.run.line("on_error wss://127.0.0.1:1/ .+")


def test_the_refusal_of_a_server_reaches_the_handlers(handlers: Write) -> None:
    """The target also gets the password from its URL, which handlers do not see (websockets
    #373).
    """
    text = """
    from wsraw import open_client_connection

    def on_message(msg, con):
        open_client_connection(msg["data"])

    def on_error(error_message, con):
        print("on_error", con.target, con.response.status, con.response.headers["Retry-After"],
              con.response.body)
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        serve(handlers(text)) as serving,
        serving.ws() as client,
    ):
        port = server.getsockname()[1]
        client.send(f"ws://ann:secret@127.0.0.1:{port}/x")
        upstream = server.accept()[0]
        with upstream:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += upstream.recv(4096)
            assert b"\r\nAuthorization: Basic YW5uOnNlY3JldA==\r\n" in request
            upstream.sendall(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\nlater")
        serving.run.line(rf"on_error ws://127.0.0.1:{port}/x 503 7 b'later'")
        assert "secret" not in str(serving.run)


def test_a_named_connection_is_opened_once_for_all_workers(handlers: Write) -> None:
    text = """
    import os
    from wsraw import open_client_connection

    def on_start():
        global upstream
        upstream = open_client_connection(os.environ["UPSTREAM"], name="one")

    def on_message(msg, con):
        if msg["data"] == "use":
            upstream.send(f"{os.getpid()}\\n")
        elif con.id != upstream.id:
            con.send(str(upstream.id))
    """
    got: list[bytes] = []

    def handle(sock: socket.socket) -> None:
        while data := sock.recv(100):
            got.append(data)

    with raw_upstream(handle) as upstream:
        env = {"UPSTREAM": f"127.0.0.1:{upstream.port}"}
        with serve(handlers(text), workers=2, env=env) as serving:
            pids = {str(serving.worker(n)).encode() for n in (1, 2)}

            def used_by_both() -> bool:
                with ExitStack() as stack:
                    for _ in range(4):
                        stack.enter_context(serving.ws()).send("use")
                return pids <= set(b"".join(got).split())

            eventually(used_by_both, "both workers to have used it")
            assert upstream.came == 1


def test_a_slow_handler_does_not_delay_the_others(handlers: Write, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    text = f"""
    import os, time

    def on_message(msg, con):
        while msg["data"] == "slow" and not os.path.exists({str(gate)!r}):
            time.sleep(0.01)
        return msg
    """
    with (
        serve(handlers(text), workers=2) as serving,
        serving.ws() as slow,
        serving.ws() as quick,
    ):
        slow.send("slow")
        for n in range(100):
            quick.send(f"{n}")
            assert quick.recv(TIMEOUT) == f"{n}"
        gate.touch()
        assert slow.recv(TIMEOUT) == "slow"


@posix
@pytest.mark.parametrize("kind", ["", "async "])
def test_a_handler_that_closes_all_descriptors_ends_its_worker(handlers: Write, kind: str) -> None:
    """The worker exits by itself: a loop that cannot wait any more would spin for ever."""
    text = f"""
    import os

    {kind}def on_message(msg, con):
        if con.delivery == 1:
            os.closerange(3, 256)
        return "done"
    """
    with serve(handlers(text), workers=2, tracebacks=True) as serving:
        serving.run.line("worker 2 is ready")
        with serving.ws() as client:
            client.send("close them")
            assert client.recv(TIMEOUT) == "done"
        serving.run.line(r"worker \d exited with code \d+; starting another")


def test_a_timer_that_does_not_return_ends_its_worker_which_is_replaced(
    tmp_path: Path,
) -> None:
    once = tmp_path / "once"
    file = tmp_path / "prices.py"
    file.write_text(
        "import os, time\n"
        "from wsraw import every\n"
        "@every(0.2)\n"
        "def look_up():\n"
        f"    if not os.path.exists({str(once)!r}):\n"
        f"        open({str(once)!r}, 'w').close()\n"
        "        time.sleep(3600)\n"
        "def on_message(msg, con):\n"
        "    return msg\n"
    )
    with serve(file, "--handler-timeout=1", tracebacks=True) as serving:
        serving.run.line(r"error worker 1: the timer look_up has run for 1 s: this worker ends")
        serving.run.line(r"error worker 1:     time\.sleep\(3600\)")
        serving.run.line(r"worker 1 exited with code 5: a timer or a call_soon function took too")
        with serving.ws() as client:
            client.send("by the next one")
            assert client.recv(TIMEOUT) == "by the next one"
        status = serving.status()
        assert status["pools"][0]["restarts"] == {**status["pools"][0]["restarts"], "hung": 1}
        assert "look_up has run for 1 s" in status["workers"][0]["last_error"]
