"""The ways in which a run ends: gracefully, at once, or killed. No process is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.deadline import eventually
from tests.e2e.command_line import done
from tests.e2e.serving import (
    ECHO,
    TIMEOUT,
    UPGRADE,
    Serving,
    assert_gone,
    frame,
    linux,
    read_head,
    receive_exactly,
    serve,
)
from tests.needs import signals
from tests.ports import free_port
from tests.running import Running, command, environment, is_alive

Write = Callable[[str], Path]

pytestmark = signals

SLOW = """
    from pathlib import Path

    def on_message(msg, con):
        print("handling", flush=True)
        while not Path(__file__).with_name("go").exists():
            time.sleep(0.01)
        return "finished"

    import time
"""

HANGS = """
    import signal, threading

    def on_message(msg, con):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("hanging", flush=True)
        while True:
            threading.Event().wait()
"""


@linux
def test_signals_that_were_blocked_at_the_start_are_heard() -> None:
    """A run inherits the signals that the launcher's thread has blocked. HAProxy and Node have
    met such launchers.
    """
    with ExitStack() as stack:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            serving = stack.enter_context(serve(ECHO))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for pid in (serving.run.process.pid, serving.gateway, serving.worker(1)):
            status = Path(f"/proc/{pid}/status").read_text()
            assert re.search(r"^SigBlk:\s+0+$", status, re.MULTILINE), status
        # Leaving the block sends SIGTERM.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_closes_clients_with_going_away(number: int) -> None:
    with (
        serve(ECHO, workers=2) as serving,
        serving.ws() as client,
        serving.tcp() as sock,
        serving.tcp() as silent,
    ):
        client.send("here")
        assert client.recv(TIMEOUT) == "here"
        sock.sendall(b"here")
        assert receive_exactly(sock, 4) == b"here"
        serving.run.send(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert sock.recv(1) == b""
        assert silent.recv(1) == b""
        sock.close()
        silent.close()
        assert serving.run.wait() == 0


def test_a_slow_handler_finishes_and_its_reply_arrives(handlers: Write) -> None:
    file = handlers(SLOW)
    with serve(file) as serving, serving.ws() as client, serving.tcp() as sock:
        client.send("work")
        serving.run.line("handling")
        sock.sendall(b"work")
        serving.run.send(signal.SIGTERM)
        serving.run.line("SIGTERM: stopping")
        # New clients are refused.
        eventually(lambda: is_refused(serving), "the listener to be closed")
        file.with_name("go").touch()
        assert client.recv(TIMEOUT) == "finished"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert receive_exactly(sock, 100) in (b"finished", b"")
        sock.close()
        assert serving.run.wait() == 0


def is_refused(serving: Serving) -> bool:
    try:
        serving.tcp().close()
    except OSError:
        return True
    return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(handlers: Write, number: int, code: int) -> None:
    with serve(handlers(HANGS)) as serving, serving.tcp() as sock:
        sock.sendall(b"hang")
        serving.run.line("hanging")
        serving.run.send(number)
        serving.run.line("stopping")
        serving.run.send_again(number)
        assert serving.run.wait() == code
        assert_gone(serving)


def test_a_handler_that_hangs_delays_a_stop_until_its_deadline(handlers: Write) -> None:
    with serve(handlers(HANGS), "--stop-timeout=1") as serving, serving.tcp() as sock:
        sock.sendall(b"hang")
        serving.run.line("hanging")
        serving.run.send(signal.SIGTERM)
        # The exit code after a kill is not specified; only that the run ends is.
        serving.run.wait()
        assert_gone(serving)


@pytest.mark.parametrize("state", ["idle", "hanging", "stopped"])
def test_a_killed_supervisor_leaves_no_process(handlers: Write, state: str) -> None:
    with (
        serve(handlers(HANGS) if state == "hanging" else ECHO, workers=2) as serving,
        serving.ws() as client,
    ):
        client.send("x")
        if state == "hanging":
            serving.run.line("hanging")
        else:
            assert client.recv(TIMEOUT) == "x"
        if state == "stopped":
            os.kill(serving.worker(1), signal.SIGSTOP)
        pids = serving.run.pids()
        assert len(pids) == 3
        serving.run.process.kill()
        serving.run.process.wait()
        eventually(lambda: not any(map(is_alive, pids)), f"no orphan\n{serving}")


def test_ctrl_c_in_a_terminal_stops_the_run_gracefully() -> None:
    """The terminal signals its whole foreground process group, not only the supervisor."""
    with serve(ECHO) as serving, serving.ws() as client:
        client.send("here")
        assert client.recv(TIMEOUT) == "here"
        group = os.getpgid(serving.run.process.pid)
        members = [pid for pid in serving.run.pids() if os.getpgid(pid) == group]
        for pid in [*members, serving.run.process.pid]:
            os.kill(pid, signal.SIGINT)
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(TIMEOUT)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert serving.run.wait() == 0


SHELL = """
import fcntl, subprocess, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
modes = termios.tcgetattr(0)
modes[3] |= termios.TOSTOP
termios.tcsetattr(0, termios.TCSANOW, modes)
job = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, process_group=0)
with open(sys.argv[1], "w") as file:
    file.write(f"{job.pid}\\n")
sys.exit(job.wait())
"""


def test_a_background_job_of_a_terminal_that_stops_those_hears_signals(tmp_path: Path) -> None:
    """`stty tostop; wsraw run … &`: the terminal's SIGTTOU at each line changed the scale, and
    no other signal was handled.
    """
    import pty
    import select
    import time

    master, slave = pty.openpty()
    run = command("run", f"--workers={ECHO}:2", "--listen=127.0.0.1:0")
    shell = subprocess.Popen(
        [sys.executable, "-c", SHELL, str(tmp_path / "pid"), *run],
        env=environment() | {"XDG_RUNTIME_DIR": str(tmp_path)},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    seen = b""
    until = time.monotonic() + TIMEOUT
    try:
        while b"ready, pid" not in seen and time.monotonic() < until:
            if select.select([master], [], [], 0.1)[0]:
                seen += os.read(master, 65536)
        assert b"ready, pid" in seen, seen
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
        assert shell.wait(TIMEOUT) == 0
        while select.select([master], [], [], 0)[0]:
            seen += os.read(master, 65536)
    except OSError:
        pass  # The pty reports its end once no process has it open.
    finally:
        if shell.poll() is None and (tmp_path / "pid").exists():
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        shell.kill()
        shell.wait()
        os.close(master)
    assert b"SIGTTOU" not in seen
    assert b"SIGTERM: stopping" in seen


def test_a_killed_gateway_is_replaced_and_workers_come_back() -> None:
    port = free_port()
    with serve(ECHO, workers=2, listen=[f"127.0.0.1:{port}"]) as serving:
        run = serving.run
        workers = [serving.worker(1), serving.worker(2)]
        with serving.tcp() as sock:
            sock.sendall(b"x")
            assert receive_exactly(sock, 1) == b"x"
            os.kill(serving.gateway, signal.SIGKILL)
            assert sock.recv(1) == b""
        run.line("the gateway is up", 2)
        run.line("worker 1 is ready", 2)
        run.line("worker 2 is ready", 2)
        with serving.ws() as client:
            client.send("new")
            assert client.recv(TIMEOUT) == "new"
        # The processes are the same: workers outlive their gateway.
        assert run.pids("worker [0-9]+") == workers


def test_a_stop_under_load_answers_what_it_has_taken() -> None:
    """Up to some point, all answers come, complete and in order, before the close frame."""
    with serve(ECHO, workers=2) as serving, ExitStack() as stack:
        clients = [stack.enter_context(serving.ws()) for _ in range(10)]
        for n in range(300):
            for client in clients:
                client.send(f"{n}")
            if n == 200:
                serving.run.send(signal.SIGTERM)
                break
        for client in clients:
            got = []
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    got.append(client.recv(TIMEOUT))
            assert got == [f"{n}" for n in range(len(got))]
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
        assert serving.run.wait() == 0


def test_a_stop_does_not_wait_for_ever_for_a_client_that_does_not_read(handlers: Write) -> None:
    text = """
    def on_message(msg, con):
        return b"x" * 3_000_000
    """
    with (
        serve(handlers(text), "--stop-timeout=2") as serving,
        serving.tcp() as sock,
        serving.tcp() as deaf,
    ):
        sock.sendall(b"big")
        assert sock.recv(1) == b"x"
        deaf.sendall(UPGRADE + frame(1, b"big"))
        read_head(deaf)
        serving.run.send(signal.SIGTERM)
        assert serving.run.wait() == 0


def test_a_stop_does_not_wait_for_what_an_on_close_opens(handlers: Write) -> None:
    text = """
    from wsraw import open_client_connection

    def on_close(con):
        print("closed")
        open_client_connection("127.0.0.1:1")
    """
    with serve(handlers(text), "--stop-timeout=600") as serving, serving.tcp() as sock:
        sock.sendall(b"hello")
        eventually(lambda: serving.status()["gateway"]["connections"], "the client")
        serving.run.send(signal.SIGTERM)
        serving.run.line("closed")
        assert serving.run.wait() == 0


DAEMON = """
    import os, sys, time
    sys.stdout.flush()

    def on_message(msg, con):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            time.sleep(600)
            os._exit(0)
        return str(pid)
"""


def test_a_process_that_outlives_the_run_does_not_block_the_next_one(
    handlers: Write, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Such a daemon kept the lock of the run folder: `wsraw stop` waited, and no run could start
    again.
    """
    folder = tmp_path_factory.mktemp("run") / "run"
    pids = []
    try:
        for _ in range(2):
            run = Running(f"--workers={handlers(DAEMON)}", f"--run-dir={folder}")
            with run:
                serving = Serving(run)
                with serving.ws() as client:
                    client.send("fork")
                    pids.append(int(client.recv(TIMEOUT)))
                assert done(serving, "stop") == "stopped, exit code 0\n"
                assert run.wait() == 0
            assert is_alive(pids[-1])
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
