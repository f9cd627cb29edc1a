"""Workers inside other programs: asyncio, threads, and FastAPI."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

import wsraw
from tests.deadline import eventually
from tests.e2e.serving import ECHO, EXAMPLES, TIMEOUT, Serving, posix, serve
from tests.needs import HAS_SIGNALS, KILL
from tests.running import Running, environment
from wsraw.runtime.link import place
from wsraw.supervisor.control import client
from wsraw.testing import Server
from wsraw.workers import api, embedded_threads
from wsraw.workers import embedded_asyncio as wsraw_asyncio

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


NOWHERE = "tcp://127.0.0.1:9"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Handlers that send each client its id, and put it into the group `all`."""
    file = tmp_path_factory.mktemp("chat") / "ids.py"
    file.write_text(
        "def on_connect(inf, con):\n    con.join('all')\n    con.send(str(con.id))\n", "utf-8"
    )
    with Server(file, timeout=TIMEOUT) as server:
        yield server


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run in a loop that can wait for a link, also on Windows."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main)


@asynccontextmanager
async def joined(run_dir: Path | None, handlers: Any = None, **options: Any) -> AsyncIterator[Any]:
    assert run_dir is not None
    async with (
        asyncio.timeout(TIMEOUT),
        wsraw_asyncio.Worker(handlers, run_dir=run_dir, **options) as worker,
    ):
        await worker.ready()
        yield worker


def test_an_embedded_worker_without_handlers_sends_and_takes_no_events(chat: Server) -> None:
    async def main() -> None:
        async with joined(chat.run_dir) as worker:
            with (
                await asyncio.to_thread(chat.connect) as one,
                await asyncio.to_thread(chat.connect) as two,
            ):
                first, second = int(one.recv(TIMEOUT)), int(two.recv(TIMEOUT))
                await worker.send(first, "to one")
                await worker.publish("all", b"to all", exclude=[first])
                await worker.leave("all", second)
                await worker.join("all", first)
                await worker.publish("all", "to the first")
                assert await worker.members("all") == [first]
                await worker.close(second, 4000, "enough")
                assert one.recv(TIMEOUT) == "to one"
                assert one.recv(TIMEOUT) == "to the first"
                assert two.recv(TIMEOUT) == b"to all"
                with pytest.raises(ConnectionClosed):
                    two.recv(TIMEOUT)
                assert two.close_code == 4000

    run(main())
    assert not api.installed()


def test_an_embedded_worker_runs_handlers_of_its_program(tmp_path: Path) -> None:
    """Several handlers run at once, but one event at a time for each connection. Timers run,
    too. When the worker leaves, all handlers finish first.
    """
    seen: list[str] = []

    async def on_message(msg: dict[str, Any], con: wsraw.Connection) -> str:
        await asyncio.sleep(0.01)
        seen.append(msg["data"])
        return msg["data"].upper()

    stopped: list[bool] = []
    handlers = SimpleNamespace(on_message=on_message, on_stop=lambda: stopped.append(True))

    async def main(serving: Serving) -> None:
        async with joined(serving.folder, handlers):
            with await asyncio.to_thread(serving.ws) as client:
                for n in range(20):
                    await asyncio.to_thread(client.send, f"a{n}")
                replies = [await asyncio.to_thread(client.recv, TIMEOUT) for n in range(20)]
        assert replies == [f"A{n}" for n in range(20)]

    # A connection goes to the worker with the fewest connections, and stays there.
    with serve(ECHO, "--dispatch=sticky") as serving, serving.ws() as other:
        other.send("is at the worker that was here before")
        other.recv(TIMEOUT)
        run(main(serving))
    assert seen == [f"a{n}" for n in range(20)]
    assert stopped == [True]


def stop(run: Running, folder: Path) -> None:
    if HAS_SIGNALS:
        run.send(signal.SIGTERM)
    else:
        client.ask(folder, "stop", (), TIMEOUT)


def test_an_embedded_worker_joins_the_next_gateway_and_the_next_run(tmp_path: Path) -> None:
    """The gateway is killed in the first case; in the second, the run is stopped and started
    again.
    """
    folder = tmp_path / "run"
    options = [f"--run-dir={folder}", "--workers=" + str(ECHO)]

    async def main() -> None:
        async with asyncio.timeout(4 * TIMEOUT):
            async with wsraw_asyncio.Worker(run_dir=folder) as worker:
                assert not worker.is_ready
                with Running(*options) as run:
                    await asyncio.to_thread(run.ready)
                    await worker.ready()
                    os.kill(run.pids("gateway")[0], KILL)
                    # Both workers become ready at both gateways.
                    await asyncio.to_thread(run.line, r"worker \w+ is ready", 4)
                    await worker.ready()
                    await asyncio.to_thread(stop, run, folder)
                    # An embedded worker does not delay the stop of a run either.
                    assert await asyncio.to_thread(run.wait) == 0
                while worker.is_ready:
                    await asyncio.sleep(0.01)
                with Running(*options) as run:
                    await asyncio.to_thread(run.ready)
                    await worker.ready()
                    await worker.publish("nobody", "x")
                    await asyncio.to_thread(stop, run, folder)
                    assert await asyncio.to_thread(run.wait) == 0

    run(main())


def test_an_embedded_worker_that_is_refused_raises_with_the_reason(chat: Server) -> None:
    async def main() -> None:
        endpoint = place.endpoint(chat.run_dir)
        async with (
            asyncio.timeout(TIMEOUT),
            wsraw_asyncio.Worker(endpoint=endpoint, token="wrong") as worker,
        ):
            with pytest.raises(ConnectionError, match="token is wrong"):
                await worker.send(1, "x")

    run(main())


def test_an_embedded_worker_without_an_address_is_refused() -> None:
    with pytest.raises(ValueError, match="run_dir"):
        wsraw_asyncio.Worker()
    with pytest.raises(ValueError, match="token"):
        wsraw_asyncio.Worker(endpoint=NOWHERE)

    async def two() -> None:
        async with (
            wsraw_asyncio.Worker(endpoint=NOWHERE, token="t"),
            wsraw_asyncio.Worker(endpoint=NOWHERE, token="t"),
        ):
            pass

    with pytest.raises(RuntimeError, match="one process, one worker"):
        run(two())

    async def nowhere() -> None:
        async with wsraw_asyncio.Worker(endpoint="nonsense", token="t"):
            pass

    with pytest.raises(OSError):
        run(nowhere())
    with pytest.raises(OSError), embedded_threads.Worker(endpoint="nonsense", token="t"):
        pass


async def leave() -> None:
    sys.exit(3)


def test_several_threads_send_through_one_embedded_worker(chat: Server) -> None:
    with embedded_threads.Worker(run_dir=chat.run_dir) as worker, chat.connect() as client:
        worker.ready(TIMEOUT)
        con = int(client.recv(TIMEOUT))
        senders = [threading.Thread(target=worker.send, args=(con, f"{n}")) for n in range(10)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join()
        assert sorted(int(client.recv(TIMEOUT)) for _ in range(10)) == list(range(10))
        assert con in worker.members("all", timeout=TIMEOUT)
        assert worker.count("all", timeout=TIMEOUT) == len(worker.members("all"))
        worker.call_soon_threadsafe(wsraw.publish, "all", "from within")
        assert client.recv(TIMEOUT) == "from within"
        tasks: list[Any] = []
        worker.call_soon_threadsafe(lambda: tasks.append(asyncio.ensure_future(leave())))
        eventually(lambda: tasks and tasks[0].done(), "the task's end")
        # Otherwise asyncio would report the error during whichever test is running when the task is
        # collected.
        assert isinstance(tasks[0].exception(), SystemExit)
        worker.call_soon_threadsafe(wsraw.publish, "all", "from the same thread")
        assert client.recv(TIMEOUT) == "from the same thread"
        worker.close(con, timeout=TIMEOUT)
        with pytest.raises(TypeError):
            worker.send(con, 3)  # type: ignore[arg-type]
    with pytest.raises(ConnectionError):
        worker.send(con, "x")


def test_a_thread_opens_a_connection_through_an_embedded_worker(chat: Server) -> None:
    heard: list[Any] = []
    handlers = SimpleNamespace(on_message=lambda msg, con: heard.append((msg["data"], con.id)))
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        upstream.settimeout(TIMEOUT)
        with embedded_threads.Worker(handlers, run_dir=chat.run_dir) as worker:
            con = worker.open(f"127.0.0.1:{upstream.getsockname()[1]}", timeout=TIMEOUT)
            worker.send(con, b"hello")
            with upstream.accept()[0] as sock:
                assert sock.recv(100) == b"hello"
                sock.sendall(b"and back")
                eventually(lambda: heard, "the event of it")
    assert heard == [(b"and back", con.id)]


FORKS = """
import asyncio, os, sys, threading
from wsraw.workers import embedded_asyncio, embedded_threads
import wsraw

run_dir = sys.argv[1]

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except Exception as error:
            print(type(error).__name__, error)
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)

with embedded_threads.Worker(run_dir=run_dir) as worker:
    worker.ready()
    in_child(lambda: wsraw.publish("all", "lost"))
    in_child(lambda: worker.publish("all", "lost"))
    in_child(lambda: worker.call_soon_threadsafe(print))
    def one_of_its_own():
        with embedded_threads.Worker(run_dir=run_dir) as worker:
            worker.publish("all", "from the child", timeout=60)
    in_child(one_of_its_own)
    worker.publish("all", "from the parent", timeout=60)

async def main():
    async with embedded_asyncio.Worker(run_dir=run_dir) as worker:
        await worker.ready()
        in_child(lambda: asyncio.run(worker.publish("all", "lost")))
        await worker.publish("all", "from asyncio")

asyncio.run(main())
"""


def run_beside(chat: Server, program: str) -> tuple[subprocess.CompletedProcess[str], list[object]]:
    """Run a program with an embedded worker; also returns the three messages that a client gets
    from it.
    """
    with chat.connect() as client:
        client.recv(TIMEOUT)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program, str(chat.run_dir)],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=2 * TIMEOUT,
            check=True,
        )
        return done, [client.recv(TIMEOUT) for _ in range(3)]


@forks
def test_an_embedded_worker_survives_a_fork_of_its_program(chat: Server) -> None:
    """gunicorn forks so, after it has loaded the application (pyzmq #841)."""
    done, told = run_beside(chat, FORKS)
    assert told == ["from the child", "from the parent", "from asyncio"]
    forked = "this process was forked from a wsraw worker"
    assert [line.partition(" and cannot")[0] for line in done.stdout.splitlines()] == [
        f"RuntimeError {forked}",
        "ConnectionError the worker is not running",
        f"ConnectionError {forked}",
        f"ConnectionError {forked}",
    ]
    assert done.stderr == ""


LEAVING = """
import asyncio, os, sys
from wsraw.workers.embedded_asyncio import Worker

async def main(how):
    async with Worker(run_dir=sys.argv[1]) as worker:
        await worker.ready()
        pid = os.fork()
        if pid == 0:
            if how == "exits":
                sys.exit(7)
            if how == "raises":
                raise KeyError(how)
            return
        print(how, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        await worker.publish("all", how)

for how in ("returns", "exits", "raises"):
    asyncio.run(main(how))
"""


@forks
def test_a_forked_child_ends_where_it_leaves_the_worker_of_its_parent(chat: Server) -> None:
    """Otherwise the child would wait for ever, or close the loop that it shares with its parent."""
    done, told = run_beside(chat, LEAVING)
    assert told == ["returns", "exits", "raises"]
    assert done.stdout.split() == ["returns", "0", "exits", "7", "raises", "1"]
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.endswith("KeyError: 'raises'\n")


def test_a_thread_gives_up_after_its_timeout(tmp_path: Path) -> None:
    with embedded_threads.Worker(run_dir=tmp_path) as worker, pytest.raises(TimeoutError):
        worker.publish("all", "x", timeout=0.05)


@pytest.mark.long
@posix
def test_fastapi_pushes_to_sockets(tmp_path: Path) -> None:
    """A real server in a process of its own, and HTTP requests from outside."""
    with serve(EXAMPLES / "rooms.py", workers=2) as serving:
        server = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "fastapi_push:app", "--port=0"],
            cwd=EXAMPLES,
            env=environment() | {"WSRAW_RUN_DIR": str(serving.folder)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            encoding="utf-8",
        )
        assert server.stderr is not None
        try:
            found = None
            said = []
            while found is None:
                line = server.stderr.readline()
                said.append(line)
                assert line, "".join(said)
                found = re.search(r"running on (http://[\w.:]+)", line)
            url = found[1]
            with serving.ws(path="/?room=a") as one, serving.ws(path="/?room=b") as two:
                ids = [int(client.recv(TIMEOUT)) for client in (one, two)]
                eventually(lambda: post(f"{url}/push/a", b"to a") == 202, "the worker to be let in")
                assert post(f"{url}/push/b", "zu b: \u00fc".encode()) == 202
                assert one.recv(TIMEOUT) == "to a"
                assert two.recv(TIMEOUT) == "zu b: \u00fc"
                # The application closes a connection by its id.
                assert post(f"{url}/close/{ids[0]}") == 202
                with pytest.raises(ConnectionClosed):
                    one.recv(TIMEOUT)
                assert one.close_code == 4000
            # The application survives the death of the gateway.
            os.kill(serving.gateway, KILL)
            serving.run.line("gateway started, pid", 2)
            serving.run.line(r"worker \w+ is ready", 5)
            with serving.ws(path="/?room=a") as one:
                one.recv(TIMEOUT)
                eventually(lambda: post(f"{url}/push/a", b"again") == 202, "it to come back")
                assert one.recv(TIMEOUT) == "again"
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                assert server.wait(TIMEOUT) in (0, -signal.SIGTERM)
            finally:
                server.kill()
                server.communicate()


def post(url: str, body: bytes = b"") -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, method="POST")) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
