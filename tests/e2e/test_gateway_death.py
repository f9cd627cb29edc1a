"""A gateway or a supervisor is killed: which clients are refused, and which processes are left."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.deadline import eventually
from tests.e2e.command_line import done
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    Serving,
    receive_exactly,
    serve,
)
from tests.needs import KILL, KILLED, signals
from tests.running import is_alive
from wsraw.runtime.link.connection import HAS_UNIX
from wsraw.supervisor.decisions.restarts import STABLE_AFTER

KILLS = int(os.environ.get("WSRAW_SOAK", "4"))
"""How often a gateway, and a supervisor, is killed; `make soak` sets more."""

AT_ONCE = 4
"""Deaths in a row of a gateway that was not up for long enough to count as stable. More would be
a crash loop, after which the next start waits for half a minute.
"""


class Knocker(threading.Thread):
    """Connects again and again, from before the death until after it."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.connects = 0
        self.over = threading.Event()
        self.error: OSError | None = None

    def run(self) -> None:
        while not self.over.wait(0.002):
            try:
                self.knock().close()
            except OSError as error:
                self.error = error
                return
            self.connects += 1

    def knock(self) -> socket.socket:
        if isinstance(self.address, str):
            with ExitStack() as stack:
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.settimeout(TIMEOUT)
                eventually(lambda: took(sock, self.address), "room in the backlog")
                stack.pop_all()
                return sock
        return socket.create_connection(self.address, TIMEOUT)


def took(sock: socket.socket, address: str | tuple[str, int]) -> bool:
    """Whether a connect succeeds. A unix socket with a full backlog raises where TCP waits."""
    try:
        sock.connect(address)
    except BlockingIOError:
        return False
    return True


def echo(serving: Serving, n: int) -> None:
    with serving.tcp(n) as sock:
        sock.sendall(b"hello")
        assert receive_exactly(sock, 5) == b"hello"


def kill_gateway(serving: Serving, count: int) -> None:
    if count > AT_ONCE:
        eventually(
            lambda: serving.status()["gateway"]["age"] > 1.5 * STABLE_AFTER, "it to be proved"
        )
    old = serving.gateway
    os.kill(old, KILL)
    serving.run.line("the gateway is up", count + 1)
    assert serving.gateway != old


def test_while_a_gateway_is_replaced_no_connect_is_refused(tmp_path: Path) -> None:
    listen = ["127.0.0.1:0", f"unix:{tmp_path / 's'}", "raw://127.0.0.1:0"]
    if not HAS_UNIX:
        del listen[1]
    with serve(ECHO, workers=2, listen=listen) as serving:
        knockers = [Knocker(address) for address in serving.addresses]
        for knocker in knockers:
            knocker.start()
        for count in range(1, KILLS + 1):
            kill_gateway(serving, count)
            for n in range(len(listen)):
                echo(serving, n)
            # A gateway that was up for a second counts as stable; after an earlier death the
            # restart is delayed.
            serving.run.line("is ready", 2 + 2 * count)
        for knocker in knockers:
            knocker.over.set()
            knocker.join()
            assert knocker.error is None
            assert knocker.connects > KILLS
        assert len(serving.run.pids("worker [0-9]+")) == 2, "workers live on"


CLOSES = """
import wsraw
def on_message(msg, con):
    con.state = "known"
    return msg
def on_close(con):
    print(f"closed {con.id} {con.close_cause} {con.close_code}")
"""


def test_every_connection_of_a_dead_gateway_gets_its_on_close_once(tmp_path: Path) -> None:
    """The connections are busy or idle, and some of their workers were replaced after their last
    message.
    """
    file = tmp_path / "handlers.py"
    file.write_text(CLOSES)
    with serve(file, workers=3) as serving, ExitStack() as stack:
        expected = 0
        for count in range(1, KILLS + 1):
            clients = [stack.enter_context(serving.tcp()) for _ in range(30)]
            for sock in clients:
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"
            if count % 2:
                done(serving, "reload")
            for sock in clients[:10]:
                sock.sendall(b"hello")
                assert receive_exactly(sock, 5) == b"hello"
            kill_gateway(serving, count)
            expected += len(clients)
            closed = r"closed (\d+) gateway-died 1006"
            serving.run.line(closed, expected)
            echo(serving, 0)
            serving.run.line(r"closed \d+ (eof|peer|lost)", count)
        ids = re.findall(closed, str(serving))
        assert len(ids) == len(set(ids)) == expected


def test_a_late_answer_to_a_dead_gateway_does_not_ban_its_worker(tmp_path: Path) -> None:
    """The next gateway gets that answer as its first batch from the worker, longer than any
    hello.
    """
    gate = tmp_path / "gate"
    file = tmp_path / "handlers.py"
    file.write_text(
        "import os, time\n"
        "def on_message(msg, con):\n"
        "    print('in the handler')\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    return b'x' * (4 << 20)\n"
    )
    with serve(file) as serving:
        worker = serving.worker(1)
        with serving.tcp() as sock:
            sock.sendall(b"?")
            serving.run.line("in the handler")
            kill_gateway(serving, 1)
            gate.touch()
            serving.run.line("worker 1 is ready", 2)
        with serving.tcp() as sock:
            sock.sendall(b"?")
            assert receive_exactly(sock, 4 << 20) == b"x" * (4 << 20)
        assert serving.worker(1) == worker
        assert "was rejected" not in str(serving)


@signals
def test_a_client_that_connects_while_the_gateway_dies_is_served_by_the_next_one() -> None:
    with serve(ECHO) as serving:
        gateway = serving.gateway
        os.kill(gateway, signal.SIGSTOP)
        with serving.tcp() as sock:
            # The connection waits in the kernel's queue, which the next gateway inherits.
            sock.sendall(b"hello")
            os.kill(gateway, KILL)
            assert receive_exactly(sock, 5) == b"hello"


def test_the_first_restart_of_a_gateway_is_immediate() -> None:
    with serve(ECHO) as serving:
        os.kill(serving.gateway, KILL)
        line = serving.run.line(rf"gateway {KILLED}.*; starting another (.*)")
        assert line[1] == "at once"
        serving.run.line("the gateway is up", 2)


@signals
def test_after_a_stop_connects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with serve(ECHO, listen=["127.0.0.1:0", f"unix:{path}"]) as serving:
        with serving.ws() as client:
            client.send("x")
            serving.run.send(signal.SIGTERM)
            assert serving.run.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            serving.tcp()
        assert not path.exists()


@signals
def test_during_a_stop_connects_are_refused(tmp_path: Path) -> None:
    """No process would accept the clients, so they must not be left in a queue."""
    gate = tmp_path / "gate"
    file = tmp_path / "handlers.py"
    file.write_text(
        "import os, time\n"
        "def on_message(msg, con):\n"
        "    print('in the handler')\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    with serve(file) as serving, serving.tcp() as busy:
        busy.sendall(b"x")
        serving.run.line("in the handler")
        serving.run.send(signal.SIGTERM)

        def refused() -> bool:
            try:
                serving.tcp().close()
            except ConnectionRefusedError:
                return True
            return False

        eventually(refused)
        gate.touch()
        assert serving.run.wait() == 0


def test_a_killed_supervisor_leaves_no_process_under_load() -> None:
    for _ in range(KILLS):
        with serve(ECHO, workers=2) as serving:
            knocker = Knocker(serving.addresses[0])
            knocker.start()
            # With a bound on unread messages, the library would read on only when it closes.
            with serving.ws(max_queue=None) as client:
                for n in range(20):
                    client.send(str(n))
                serving.run.process.kill()
                serving.run.process.wait()
                eventually(
                    lambda: not any(map(is_alive, serving.run.pids())),
                    "everybody to be gone",
                )
            knocker.over.set()
            knocker.join()


@signals
def test_a_gateway_that_hangs_is_replaced_and_its_stack_is_logged() -> None:
    """The supervisor notices any hang by the missing answers alone."""
    with serve(ECHO, "--gateway-timeout=2s") as serving:
        first = serving.gateway
        with serving.tcp() as lost, serving.tcp() as beside:
            beside.sendall(b"here")
            assert receive_exactly(beside, 4) == b"here"
            os.kill(first, signal.SIGSTOP)
            serving.run.line(r"aborting gateway: no answer for gateway_timeout \(2 s\)")
            serving.run.line(r"gateway: Fatal Python error: Aborted")
            serving.run.line(r'gateway:   File ".*gateway\.py", line \d+ in main')
            serving.run.line(r"gateway was killed by SIGABRT \(no answer for gateway_timeout")
            lost.settimeout(TIMEOUT)
            assert lost.recv(1) == b""
        with serving.tcp() as again:
            again.sendall(b"hello")
            assert receive_exactly(again, 5) == b"hello"
        assert serving.gateway != first
