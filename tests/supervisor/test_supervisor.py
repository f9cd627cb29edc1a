from __future__ import annotations

import io
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.authority import leaf, pem, write
from tests.deadline import DEADLINE, eventually
from tests.needs import signals
from tests.ports import free_port
from tests.running import Running, is_alive
from wsraw.config.settings import Settings
from wsraw.link.records import Do, Done
from wsraw.runtime import descriptors
from wsraw.supervisor.control.client import ask
from wsraw.supervisor.control.link import ControlRequest
from wsraw.supervisor.decisions.policy import RunPhase
from wsraw.supervisor.log import Log, LogHandler
from wsraw.supervisor.run_folder.folder import Folder
from wsraw.supervisor.supervisor import Supervisor

pytestmark = signals

HANDLERS = """
import os, sys
print("up as", os.getpid())
def on_message(msg, con):
    print("got", msg["data"])
    return msg
"""


@pytest.fixture
def handlers(tmp_path: Path) -> str:
    file = tmp_path / "handlers.py"
    file.write_text(HANDLERS)
    return str(file)


Start = Callable[..., Running]


@pytest.fixture
def start(handlers: str) -> Iterator[Start]:
    runs: list[Running] = []

    def begin(*arguments: str, count: int = 1) -> Running:
        run = Running("--workers", f"{handlers}:{count}", *arguments)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        with run:
            pass


def echo(run: Running) -> bytes:
    with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
        client.sendall(b"hello")
        return client.recv(100)


# --- start ---


def test_reload_without_a_file_to_watch_is_reported() -> None:
    with Running("--workers=none", "--reload") as run:
        run.line(
            "warning wsraw: --reload: no worker is a Python file, so there is nothing to watch"
        )


def test_the_addresses_are_logged_once_clients_are_served(start: Start) -> None:
    run = start(count=2).ready()
    line = run.line("listening on").string
    address = f"127.0.0.1:{run.port}"
    assert f"listening on ws://{address} and tcp://{address} (2 workers, handlers.py)" in line
    assert echo(run) == b"hello"
    run.send(signal.SIGTERM)
    run.wait()
    assert sum("listening on" in line for line in run.lines) == 1


def test_without_handlers_events_are_printed() -> None:
    with Running() as run:
        run.ready()
        assert "no handlers: events are printed" in str(run)
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"hello")
            run.line("worker 1: .*hello")


def test_output_of_workers_is_logged_with_their_name(start: Start) -> None:
    run = start(count=2).ready()
    for n in (1, 2):
        assert int(run.line(f"info worker {n}: up as ([0-9]+)")[1]) == run.pid(f"worker {n}")


def test_workers_do_not_get_secrets_of_the_supervisor(handlers: str) -> None:
    Path(handlers).write_text(
        "import os, sys\n"
        "print('seen:', sorted(n for n in os.environ if n.startswith('WSRAW')), "
        "[n for n in ('click', 'websockets', 'wsraw.runtime.loop', 'wsraw.cli') "
        "if n in sys.modules])\n"
    )
    with Running("--workers", handlers) as run:
        assert run.line("seen: (.*)")[1] == "[] []"


# --- death ---


def test_a_killed_worker_is_replaced(start: Start) -> None:
    run = start().ready()
    os.kill(run.pid("worker 1"), signal.SIGKILL)
    run.line(r"worker 1 was killed by SIGKILL \(perhaps out of memory\?\); starting another")
    run.line("worker 2: up as")
    assert echo(run) == b"hello"


def test_a_killed_gateway_is_replaced_and_its_workers_stay(start: Start, tmp_path: Path) -> None:
    port = free_port()
    with Running("--workers", str(tmp_path / "handlers.py"), listen=[f"127.0.0.1:{port}"]) as run:
        run.ready()
        worker = run.pid("worker 1")
        os.kill(run.pid("gateway"), signal.SIGKILL)
        run.line("the gateway is up", 2)
        assert run.line("the gateway is up, .* epoch ([0-9]+)", 2)[1] == "2"
        assert echo(run) == b"hello"
        assert is_alive(worker)
        assert len(run.pids("worker [0-9]+")) == 1


def test_a_worker_that_cannot_start_is_given_up(handlers: str) -> None:
    Path(handlers).write_text("import os\nos._exit(7)\n")
    with Running("--workers", handlers) as run:
        assert run.wait() == 1
        assert "exited with code 7" in str(run)
        assert "giving up" in str(run)


def test_a_crash_loop_keeps_gateway_and_connections(handlers: str, start: Start) -> None:
    run = start("--restart-intensity", "1").ready()
    with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        worker = run.pid("worker 1")
        Path(handlers).write_text("import os\nos._exit(7)\n")
        os.kill(worker, signal.SIGKILL)
        run.line("crash loop: more than 1 early deaths within 30 s")
        client.sendall(b"still here")
        Path(handlers).write_text(HANDLERS)
        run.send(signal.SIGHUP)
        assert client.recv(100) == b"still here"
    run.line("the crash loop is over|reloaded: 1 worker")


# --- stop ---


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_run_gracefully(start: Start, number: signal.Signals) -> None:
    run = start(count=2).ready()
    run.pid("worker 2")
    run.send(number)
    assert run.wait() == 0
    assert not any(map(is_alive, run.pids()))
    assert "Traceback" not in str(run)
    assert "killing" not in str(run)


def test_a_stop_closes_clients(start: Start) -> None:
    run = start().ready()
    with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"hello"
        run.send(signal.SIGTERM)
        assert client.recv(100) == b""
    assert run.wait() == 0


def test_a_handler_may_finish_in_a_stop(handlers: str, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    Path(handlers).write_text(
        "import os, time\n"
        "def on_message(msg, con):\n"
        "    print('in the handler')\n"
        f"    while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "    return 'finished'\n"
    )
    with Running("--workers", handlers) as run:
        run.ready()
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"hello")
            run.line("in the handler")
            run.send(signal.SIGTERM)
            run.line("SIGTERM: stopping")
            gate.touch()
            assert client.recv(100) == b"finished"
        assert run.wait() == 0


def test_a_handler_that_does_not_finish_is_killed_at_the_deadline(handlers: str) -> None:
    Path(handlers).write_text(
        "import signal, time\n"
        "def on_message(msg, con):\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    print('in the handler')\n"
        "    while True: time.sleep(1)\n"
    )
    with Running("--workers", handlers, "--stop-timeout", "0.5") as run:
        run.ready()
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"hello")
            run.line("in the handler")
            run.send(signal.SIGTERM)
            assert run.wait() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_stops_at_once(handlers: str, number: signal.Signals, code: int) -> None:
    Path(handlers).write_text(
        "import time\n"
        "def on_message(msg, con):\n"
        "    print('in the handler')\n"
        "    while True: time.sleep(1)\n"
    )
    with Running("--workers", handlers) as run:
        run.ready()
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"hello")
            run.line("in the handler")
            run.send(number)
            run.line("stopping gracefully; a second signal")
            run.send_again(number)
            assert run.wait() == code
        assert not any(map(is_alive, run.pids()))


def test_a_signal_before_the_run_is_up_stops_it(start: Start) -> None:
    run = start()
    run.pid("gateway")
    run.send(signal.SIGTERM)
    assert run.wait() == 0


# --- nobody is orphaned ---


def test_a_killed_supervisor_leaves_no_process(start: Start) -> None:
    run = start(count=2).ready()
    run.pid("worker 2")
    run.send(signal.SIGKILL)
    run.process.wait()
    eventually(lambda: not any(map(is_alive, run.pids())), "everybody to be gone")


def test_a_killed_supervisor_leaves_not_even_a_hanging_worker(handlers: str) -> None:
    Path(handlers).write_text(
        "def on_message(msg, con):\n    print('in the handler')\n    while True: pass\n"
    )
    with Running("--workers", handlers) as run:
        run.ready()
        with socket.create_connection(("127.0.0.1", run.port), DEADLINE) as client:
            client.sendall(b"hello")
            run.line("in the handler")
            run.send(signal.SIGKILL)
            run.process.wait()
            eventually(lambda: not any(map(is_alive, run.pids())), "all to be gone")


def test_a_supervisor_killed_while_children_start_leaves_no_process(start: Start) -> None:
    run = start()
    run.pid("gateway")
    run.send(signal.SIGKILL)
    run.process.wait()
    eventually(lambda: not any(map(is_alive, run.pids())), "everybody to be gone")


# --- the run folder ---


def test_a_second_run_in_a_folder_is_refused(start: Start, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    run = start("--run-dir", folder).ready()
    second = start("--run-dir", folder)
    assert second.wait() == 2
    assert "in use by another run" in str(second)
    run.send(signal.SIGTERM)
    assert run.wait() == 0
    third = start("--run-dir", folder).ready()
    assert third.line("epoch ([0-9]+)")[1] == "2", "ids of the first run never come again"


def test_a_daemon_that_a_handler_starts_does_not_hold_the_folder(
    handlers: str, tmp_path: Path
) -> None:
    Path(handlers).write_text(
        "import os\nprint('daemon', os.spawnlp(os.P_NOWAIT, 'sleep', 'sleep', '600'))\n"
    )
    folder = str(tmp_path / "run")
    with Running("--workers", handlers, "--run-dir", folder) as run:
        run.ready()
        daemon = int(run.line("daemon ([0-9]+)")[1])
        try:
            run.send(signal.SIGTERM)
            assert run.wait() == 0
            with Running("--workers", handlers, "--run-dir", folder) as second:
                second.ready()
                os.kill(int(second.line("daemon ([0-9]+)")[1]), signal.SIGKILL)
        finally:
            os.kill(daemon, signal.SIGKILL)


def test_a_worker_by_hand_finds_the_token(start: Start, handlers: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = start("--run-dir", str(folder)).ready()
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
    assert f"link ipc://{folder}/link.sock" in str(run)
    run.send(signal.SIGTERM)
    run.wait()
    assert not (folder / "token").exists()


def test_an_address_that_a_gateway_without_supervisor_holds_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill -9, an immediate start once exited with a code after which service managers
    do not retry.
    """
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    left = Folder("", print)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = Settings(listen=(f"127.0.0.1:{server.getsockname()[1]}",))
        holder = subprocess.Popen(
            [sys.executable, "-c", "import sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            pass_fds=[left.lock, server.fileno()],
        )
    os.close(left.lock)

    class Stream(io.StringIO):
        def write(self, text: str) -> int:
            if "waiting for the gateway of an earlier run" in text:
                holder.communicate()
            return super().write(text)

    log = Log(Stream(), "info")
    try:
        Supervisor(settings, log)._close()
    finally:
        holder.communicate()
        log.close()


# --- open files ---


@pytest.fixture
def few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which every Python may have 100 open files."""
    if "sitecustomize" in sys.modules:
        pytest.skip("this Python has a sitecustomize of its own")
    (tmp_path / "sitecustomize.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_more_workers_than_the_descriptors_allow_are_refused(few_files: None, start: Start) -> None:
    """The run reports an error, and the gateway never lacks descriptors (compare Supervisor's
    minfds).
    """
    run = start(count=20)
    assert run.wait() == 2
    found = run.line(r"20 workers need (\d+) open files, and 100 may be open; raise that limit")
    need = int(found[1])
    for limit, is_enough in ((need - 1, False), (need, True)):
        assert (descriptors.reserve(limit, 20) + descriptors.LEAST <= limit) is is_enough


def test_scaling_beyond_the_descriptors_is_refused(few_files: None, start: Start) -> None:
    run = start(count=1).ready()
    for count in (2, 3, 4):
        run.send(signal.SIGTTIN)
        run.line(rf"SIGTTIN: scaling to {count}")
    run.send(signal.SIGTTIN)
    run.line(r"SIGTTIN: there are open files for 4 workers at most; raise their limit")
    assert echo(run) == b"hello"


@pytest.mark.parametrize(("own", "expected"), [(30.0, 4.0), (2.0, 2.0), (0.0, 4.0)])
def test_the_end_of_a_session_leaves_little_time(
    tmp_path: Path, own: float, expected: float
) -> None:
    """On Windows the end of a session is reported in another thread."""
    log = Log(io.StringIO(), "info")
    settings = Settings(listen=("127.0.0.1:0",), run_dir=str(tmp_path / "run"), stop_timeout=own)
    supervisor = Supervisor(settings, log)
    found: list[float | None] = []
    try:
        supervisor.policy.stop = lambda now, timeout=None: found.append(timeout) or []  # type: ignore[method-assign, func-returns-value]
        supervisor._signals.end_session("asked to close", None)
        supervisor._signals.end_session("the session ends", 4.0)
        supervisor.loop.turn(may_sleep=False)
        assert found == [None, expected]
    finally:
        supervisor._close()
        log.close()


def test_a_storm_of_sighup_is_one_reload(tmp_path: Path) -> None:
    """Each reload would start a worker and end the one before, and no client would be served
    meanwhile.
    """
    log = Log(io.StringIO(), "info")
    supervisor = Supervisor(Settings(listen=("127.0.0.1:0",), run_dir=str(tmp_path / "run")), log)
    handled: list[int] = []
    try:
        supervisor.read_certificates = lambda: handled.append(1)  # type: ignore[method-assign]
        for _ in range(2):
            for _ in range(100):
                supervisor._signals.catch(signal.SIGHUP, None)
            supervisor.loop.turn(may_sleep=False)
        assert handled == [1, 1]
    finally:
        supervisor._children.kill_all()
        supervisor._children.read_rest()
        supervisor._close()
        log.close()


@pytest.mark.parametrize("asked", ["reload", "upgrade", "SIGHUP", "SIGUSR2"])
def test_a_bug_in_what_is_asked_for_does_not_end_the_run(tmp_path: Path, asked: str) -> None:
    def reread() -> Settings:
        raise KeyError("a bug")

    settings = Settings(listen=("127.0.0.1:0",), run_dir=str(tmp_path / "run"))
    lines = io.StringIO()
    log = Log(lines, "info")
    handler = LogHandler(log)
    logging.getLogger("wsraw").addHandler(handler)
    supervisor = Supervisor(settings, log, reread=reread)
    answers: list[Done] = []
    try:
        supervisor.control.answer = lambda who, done: answers.append(done)  # type: ignore[method-assign, assignment]
        supervisor.policy.phase = RunPhase.RUNNING
        supervisor.policy.refusal_to_upgrade = lambda: ""  # type: ignore[method-assign]
        if asked.startswith("SIG"):
            supervisor._signals.handle(getattr(signal, asked))
        else:
            supervisor._requests.handle(ControlRequest(None, Do(1, asked, [])))  # type: ignore[arg-type]
            [done] = answers
            assert not done.ok
            assert "a bug in wsraw: KeyError" in done.text
    finally:
        logging.getLogger("wsraw").removeHandler(handler)
        supervisor._children.kill_all()
        supervisor._close()
        log.close()
    assert "KeyError: 'a bug'" in lines.getvalue()


@pytest.mark.parametrize("lost", ["what the gateway is told", "its answer"])
def test_a_reload_of_certificates_is_answered_although_the_link_is_lost(
    tmp_path: Path, lost: str
) -> None:
    folder = tmp_path / "run"
    settings = Settings(
        listen=("127.0.0.1:0",),
        run_dir=str(folder),
        workers=("none",),
        tls_cert=(write(tmp_path, "cert.pem", pem(leaf())),),
    )
    log = Log(io.StringIO(), "info")
    supervisor = Supervisor(settings, log)
    read = supervisor.read_certificates
    answers: list[Done] = []
    asking = threading.Thread(target=lambda: answers.append(ask(folder, "reload")))

    def cut() -> None:
        assert supervisor.control._gateway is not None
        supervisor.control._gateway.cut("for a test")

    def read_and_lose() -> bool:
        if lost == "its answer":
            began = read()
            cut()
        else:
            cut()
            began = read()
        return began

    def look() -> bool:
        supervisor.loop.call_later(0.01, lambda: None)
        supervisor.loop.turn()
        return not asking.is_alive()

    try:
        supervisor.read_certificates = read_and_lose  # type: ignore[method-assign]
        supervisor._keeper.begin()
        supervisor.loop.before_sleep = supervisor._before_sleep
        supervisor._decide()
        eventually(lambda: look() and supervisor._announced, "the run is up")
        asking.start()
        eventually(look, "an answer")
        assert [(done.ok, done.text) for done in answers] == [(True, "reloaded: 0 workers")]
    finally:
        supervisor._requests.finish(0)
        supervisor._children.kill_all()
        supervisor._children.read_rest()
        supervisor._close()
        log.close()
