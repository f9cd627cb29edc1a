"""Several pools: each client gets its own pool, and faults in one pool do not affect the others."""

from __future__ import annotations

import os
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect as ws_connect

from tests.deadline import eventually
from tests.e2e.command_line import ask, done
from tests.e2e.serving import TIMEOUT, Serving, posix, receive_all, receive_exactly, serve
from tests.needs import KILL
from tests.running import Running, command, environment

Write = Callable[[str], Path]

CHAT = """
    import os
    def on_connect(inf, con):
        con.send(f"{sorted(con.params.items())} {con.subprotocol}")
    def on_message(msg, con):
        return str(os.getpid())
"""
FEED = """
    import os, pathlib
    def on_start():
        if pathlib.Path(__file__).with_suffix(".broken").exists():
            os._exit(1)
    def on_message(msg, con):
        if msg["data"] == b"die" and con.delivery == 1:
            os.kill(os.getpid(), 9)
        return b"feed " + msg["data"]
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """The handlers of two pools."""
    chat, feed = tmp_path / "chat.py", tmp_path / "feed.py"
    chat.write_text(textwrap.dedent(CHAT), "utf-8")
    feed.write_text(textwrap.dedent(FEED), "utf-8")
    return chat, feed


@contextmanager
def two_pools(files: tuple[Path, Path], *options: str, chat: int = 2) -> Iterator[Serving]:
    given = (
        f"--pool=chat={files[0]}:{chat}",
        f"--pool=feed={files[1]}",
        "--route=/rooms/{room}=chat",
        "--route=/files/{name...}=chat",
        "--route=raw=feed",
    )
    with serve(None, *given, *options, workers=chat + 1) as serving:
        yield serving


def pids(serving: Serving, pool: str) -> set[int]:
    """The pids of the ready workers of a pool."""
    workers = serving.status()["workers"]
    return {who["pid"] for who in workers if who["pool"] == pool and who["state"] == "ready"}


def test_each_client_comes_to_its_pool(files: tuple[Path, Path]) -> None:
    with two_pools(files) as serving:
        with serving.ws(path="/rooms/a%2Fb?x=1") as client:
            assert client.recv(TIMEOUT) == "[('room', 'a/b')] None"
            client.send("who")
            assert int(client.recv(TIMEOUT)) in pids(serving, "chat")
        with serving.ws(path="/files/a/b.txt") as client:
            assert client.recv(TIMEOUT) == "[('name', 'a/b.txt')] None"
        for path in ("/", "/rooms", "/rooms/", "/rooms/%2e%2e", "/rooms/a/../b"):
            with pytest.raises(InvalidStatus) as caught:
                serving.ws(path=path)
            assert caught.value.response.status_code == 404
        with serving.tcp() as raw:
            raw.sendall(b"hello")
            assert receive_exactly(raw, 10) == b"feed hello"
        serving.run.line("limit routes: refused a client .*no route for the WebSocket '/'")
        shown = {pool["name"]: pool for pool in serving.status()["pools"]}
        assert (shown["chat"]["ready"], shown["feed"]["ready"]) == (2, 1)


def test_raw_clients_without_a_pool_are_reset(files: tuple[Path, Path]) -> None:
    """On a raw:// listener they are reset before they have sent anything."""
    options = (f"--pool=chat={files[0]}", "--route=websocket=chat")
    listen = ("127.0.0.1:0", "raw://127.0.0.1:0")
    with serve(None, *options, listen=listen) as serving:
        with serving.tcp() as raw:
            raw.sendall(b"hello")
            with pytest.raises(ConnectionResetError):
                receive_all(raw)
        # The reset may come before the client has seen the connection.
        with pytest.raises(ConnectionResetError), serving.tcp(1) as raw:
            receive_all(raw)
        with serving.ws() as client:
            assert client.recv(TIMEOUT) == "[] None"


def test_pools_and_routes_are_read_from_a_file(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        "workers = 'feed.py'\n"
        "[[pools]]\nname = 'chat'\nworkers = 'chat.py'\nsubprotocols = ['x', 'y']\n"
        "[[routes]]\npath = '/soap'\nsubprotocol = 'soap'\npool = 'chat'\n"
        "[[routes]]\npath = '/chat'\nhost = 'example.org'\npool = 'chat'\n"
    )
    with serve(None, f"--config={tmp_path / 'w.toml'}", workers=2) as serving:
        offers = ["y", "soap"]
        with serving.ws(path="/soap", subprotocols=offers) as client:
            assert client.recv(TIMEOUT) == "[] soap"
        with ws_connect(
            "ws://example.org/chat",
            sock=serving.tcp(),
            subprotocols=offers,
            proxy=None,
            open_timeout=TIMEOUT,
        ) as client:
            assert client.recv(TIMEOUT) == "[] y"
        with serving.ws(path="/chat", subprotocols=offers) as client:
            client.send(b"x")
            assert client.recv(TIMEOUT) == b"feed x", "the pool of workers takes the others"
            assert client.subprotocol is None


class Talking:
    """A client that sends requests for as long as the block lasts."""

    def __init__(self, serving: Serving, path: str) -> None:
        self.answers = 0
        self._serving, self._path = serving, path
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._talk)

    def _talk(self) -> None:
        try:
            with self._serving.ws(path=self._path) as client:
                client.recv(TIMEOUT)
                while not self._over.wait(0.002):
                    client.send("x")
                    client.recv(TIMEOUT)
                    self.answers += 1
        except BaseException as error:
            self._error = error

    def until_more(self) -> None:
        """Wait for one more answer."""
        before = self.answers
        eventually(lambda: self.answers > before or self._error, "an answer")

    def __enter__(self) -> Talking:
        self._thread.start()
        self.until_more()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


@pytest.mark.long
@posix
def test_deaths_in_one_pool_do_not_touch_another(files: tuple[Path, Path]) -> None:
    with two_pools(files) as serving:
        chat = pids(serving, "chat")
        with serving.tcp() as raw, Talking(serving, "/rooms/1") as talking:
            for n in range(10):
                (pid,) = eventually(lambda: pids(serving, "feed"), "a worker")
                os.kill(pid, KILL)
                raw.sendall(b"%d" % n)
                talking.until_more()
                assert receive_exactly(raw, 6) == b"feed %d" % n
            raw.sendall(b"die")
            assert receive_exactly(raw, 8) == b"feed die", "handled again by the next one"
        assert pids(serving, "chat") == chat


@posix
def test_a_crash_loop_in_one_pool_does_not_touch_another(files: tuple[Path, Path]) -> None:
    options = ("--restart-intensity=2", "--worker-wait-timeout=1")
    with two_pools(files, *options) as serving, serving.tcp() as old:
        old.sendall(b"1")
        assert receive_exactly(old, 6) == b"feed 1"
        broken = files[1].with_suffix(".broken")
        broken.touch()
        (pid,) = pids(serving, "feed")
        with Talking(serving, "/rooms/1") as talking:
            os.kill(pid, KILL)
            serving.run.line("crash loop in the pool feed")
            with serving.tcp() as raw:
                raw.sendall(b"x")
                with pytest.raises(ConnectionResetError):
                    receive_all(raw)
            shown = {pool["name"]: pool for pool in serving.status()["pools"]}
            assert (shown["chat"]["crash_loop"], shown["feed"]["crash_loop"]) == (False, True)
            old.sendall(b"2")
            talking.until_more()
            # Another death in the healthy pool does not count towards that crash loop.
            one = min(pids(serving, "chat"))
            os.kill(one, KILL)
            eventually(lambda: len(pids(serving, "chat") - {one}) == 2, "a new one")
            broken.unlink()
            told = done(serving, "reload", "--pool", "feed")
            assert told == "feed: reloaded: 1 worker\n"
            assert receive_exactly(old, 6) == b"feed 2", "it has waited, and was not closed"
            talking.until_more()


def test_each_pool_is_scaled_and_reloaded_by_itself(files: tuple[Path, Path]) -> None:
    with two_pools(files) as serving, serving.ws(path="/rooms/1") as client:
        chat, feed = pids(serving, "chat"), pids(serving, "feed")
        assert done(serving, "scale", "feed=2") == "feed: 2 workers\n"
        assert done(serving, "scale", "feed/feed.py=1") == "feed: 1 worker\n"
        assert done(serving, "reload", "--pool=feed") == "feed: reloaded: 1 worker\n"
        assert not feed & pids(serving, "feed")
        assert pids(serving, "chat") == chat
        assert done(serving, "scale", "chat.py=1") == "chat: 1 worker\n"
        assert done(serving, "reload") == "chat: reloaded: 1 worker; feed: reloaded: 1 worker\n"
        assert not chat & pids(serving, "chat")
        client.recv(TIMEOUT)
        client.send("x")
        assert int(client.recv(TIMEOUT)) in pids(serving, "chat")
        for wrong, why in (
            (("scale", "2"), "there are several; say which, as NAME=N, of 'chat/chat.py', 'feed/"),
            (("scale", "web=2"), "there is no 'web'"),
            (("reload", "--pool=web"), "there is no pool 'web'; there are chat, feed"),
        ):
            told = ask(serving, *wrong)
            assert told.returncode == 1
            assert why in told.stderr


def test_a_file_that_does_not_load_is_refused_in_its_pool(files: tuple[Path, Path]) -> None:
    with two_pools(files) as serving:
        feed = pids(serving, "feed")
        files[1].write_text("syntax error", "utf-8")
        told = ask(serving, "reload")
        assert told.returncode == 1
        assert "feed: refused: the new worker exited with code 3" in told.stderr
        assert "chat: reloaded: 2 workers" in told.stderr
        assert pids(serving, "feed") == feed


def test_a_boot_failure_in_any_pool_ends_the_run(files: tuple[Path, Path]) -> None:
    files[1].write_text("syntax error", "utf-8")
    options = [f"--pool=chat={files[0]}", f"--pool=feed={files[1]}"]
    with Running(*options, "--route=/chat=chat", "--route=raw=feed") as run:
        assert run.wait() == 3
        assert "SyntaxError" in str(run)


def test_a_pool_without_processes_is_served_by_workers_started_by_hand(
    files: tuple[Path, Path],
) -> None:
    options = ("--pool=feed", f"--run-dir={files[0].parent / 'run'}")
    with Running(*options) as run:
        serving = Serving(run)
        with serving.tcp() as raw:
            raw.sendall(b"1")
            processes = []
            place = ("--run-dir", str(serving.folder))
            for pool in ("feed", "fede"):
                arguments = command("worker", str(files[1]), *place, "--pool", pool)
                processes.append(
                    subprocess.Popen(arguments, env=environment(), stdin=subprocess.DEVNULL)
                )
            try:
                assert receive_exactly(raw, 6) == b"feed 1"
                run.line("no route leads to its pool fede, so it gets no clients")
                told = ask(serving, "reload", "--pool=feed")
                assert "the pool 'feed' has no workers of its own" in told.stderr
                told = ask(serving, "scale", "2")
                assert "this run has no workers of its own" in told.stderr
                assert {who["pool"] for who in serving.status()["by_hand"]} == {"feed", "fede"}
            finally:
                for process in processes:
                    process.terminate()
                for process in processes:
                    process.wait()
        serving.stop()
        assert run.wait() == 0


@posix
def test_the_end_of_a_gateway_is_reported_in_each_pool(files: tuple[Path, Path]) -> None:
    for file in files:
        with open(file, "a", encoding="utf-8") as stream:
            stream.write("\ndef on_close(con):\n    print(__file__, con.params, con.close_cause)\n")
    with two_pools(files) as serving, serving.tcp() as raw, serving.ws(path="/rooms/1") as client:
        raw.sendall(b"x")
        receive_exactly(raw, 6)
        client.recv(TIMEOUT)
        os.kill(serving.gateway, KILL)
        serving.run.line(r"chat.py \{'room': '1'\} gateway-died")
        serving.run.line(r"feed.py \{\} gateway-died")
