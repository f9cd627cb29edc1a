"""New handlers are tried on a share of the connections, and no client is disconnected."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.deadline import COMMAND_DEADLINE, DEADLINE, UNIT, eventually
from tests.e2e.command_line import ask, done
from tests.e2e.serving import Serving, receive_exactly, serve
from tests.needs import KILL
from tests.running import command, environment

Write = Callable[[str], Path]

ANSWERS = """
    from shop import ANSWER
    def on_message(msg, con):
        return ANSWER
"""

CLIENTS = 40


class Clients:
    """Raw clients, and the last answer to each."""

    def __init__(self, serving: Serving) -> None:
        self.socks = [serving.tcp() for _ in range(CLIENTS)]
        self.answers: list[bytes] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *details: object) -> None:
        for sock in self.socks:
            sock.close()

    def ask(self) -> set[bytes]:
        for sock in self.socks:
            sock.sendall(b"x")
        self.answers = [receive_exactly(sock, 3) for sock in self.socks]
        return set(self.answers)


def reload(serving: Serving, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("reload", "--canary", *options, "--run-dir", str(serving.folder)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def shop(handlers: Write, answer: str) -> Path:
    file = handlers(ANSWERS)
    file.with_name("shop.py").write_text(f"ANSWER = b{answer!r}\n")
    return file


def test_a_good_version_is_tried_and_then_given_to_all_as_it_was_tried(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        assert clients.ask() == {b"old"}
        file = shop(handlers, "new")
        with reload(serving, "50%", "--for", f"{10 * UNIT:g}s") as command:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            # Some connections have moved already. The others move before this request is answered,
            # as they are idle.
            (pool,) = serving.status()["pools"]
            assert pool["canary"]["stage"] == "on trial"
            clients.ask()
            assert 5 <= clients.answers.count(b"new") <= 35
            first = list(clients.answers)
            assert (clients.ask(), clients.answers) == ({b"old", b"new"}, first), "the same ones"
            text = "canary in the pool default: version 2 is on trial with 50 % of the connections"
            assert text in done(serving, "status")
            listed = done(serving, "connections", "--pool", "default/canary", "--json")
            assert len(listed.splitlines()) == first.count(b"new")
            # From here on the file on disk differs from the version on trial.
            file.with_name("shop.py").write_text("not Python")
            while command.poll() is None:
                clients.ask()
                time.sleep(0.05)
            out, _ = command.communicate(timeout=COMMAND_DEADLINE)
        assert (command.returncode, out) == (0, "reloaded: 2 workers\n")
        assert clients.ask() == {b"new"}
        assert done(serving, "rollback") == "rolled back to version 1: 2 workers\n"
        assert clients.ask() == {b"old"}


RAISES = """
    def on_message(msg, con):
        if msg["data"] == b"!":
            raise ValueError("new")
        return b"new"
"""


def test_a_version_that_raises_is_rolled_back(handlers: Write) -> None:
    """Only one client is disconnected, not one after another."""
    with (
        serve(shop(handlers, "old"), workers=2, tracebacks=True) as serving,
        Clients(serving) as clients,
    ):
        clients.ask()
        handlers(RAISES)
        with reload(serving, "50%", "--for=1h") as command:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            victim = clients.socks.pop(clients.answers.index(b"new"))
            victim.sendall(b"!")
            while command.poll() is None:
                clients.ask()
            _, error = command.communicate(timeout=DEADLINE)
        assert command.returncode == 1
        assert "rolled back: on_message raised an exception in " in error
        assert "2 workers of the old version serve all connections" in error
        eventually(lambda: clients.ask() == {b"old"}, "the old handlers")
        for n in (1, 2):
            os.kill(serving.worker(n), KILL)
        assert clients.ask() == {b"old"}, "whatever is on disk"
        victim.close()


def test_a_version_whose_worker_dies_loses_nothing(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving, Clients(serving) as clients:
        clients.ask()
        handlers("""
            import os
            def on_message(msg, con):
                os._exit(7)
        """)
        with reload(serving, "50%") as command:
            while command.poll() is None:
                assert clients.ask() == {b"old"}, "the old ones answer what the new one did not"
            _, error = command.communicate(timeout=DEADLINE)
        assert command.returncode == 1
        assert "worker 3 exited with code 7" in error
        assert clients.ask() == {b"old"}


def test_a_version_that_does_not_load_is_not_tried(handlers: Write) -> None:
    with serve(shop(handlers, "old"), tracebacks=True) as serving, Clients(serving) as clients:
        handlers("import no_such_module")
        refused = ask(serving, "reload", "--canary")
        assert refused.returncode == 1
        assert "rolled back: the new worker exited with code 3" in refused.stderr
        assert "No module named 'no_such_module'" in refused.stderr
        assert clients.ask() == {b"old"}


def test_a_rollback_ends_a_canary(handlers: Write) -> None:
    with serve(shop(handlers, "old")) as serving, Clients(serving) as clients:
        shop(handlers, "new")
        with reload(serving, "50", "--for=1h") as command:
            eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            again = ask(serving, "reload", "--canary")
            assert "a canary of the pool default is under way; `wsraw rollback` ends it" in (
                again.stderr
            )
            text = "the old workers serve all connections of default again\n"
            assert done(serving, "rollback") == text
            _, error = command.communicate(timeout=DEADLINE)
        assert "a rollback was asked for" in error
        eventually(lambda: clients.ask() == {b"old"}, "the old handlers")


def test_wrong_shares_and_times_are_refused(handlers: Write) -> None:
    with serve(shop(handlers, "old")) as serving:
        for options, why in (
            (("--canary", "100%"), "the share of a canary is more than 0 % and less than 100 %"),
            (("--canary", "0"), "the share of a canary is more than 0 % and less than 100 %"),
            (("--canary", "--for", "0"), "the time of a canary is more than 0 s"),
            (("--canary", "ten"), "--canary ten: write a number of percent, as in 10%"),
            (("--canary", "--for", "long"), "--for: 'long' is not a length of time"),
            (("--for", "3s"), "--for is the time of a canary: give --canary too"),
            (("--shield",), "--shield is for the time of a canary: give --canary too"),
        ):
            refused = ask(serving, "reload", *options)
            assert refused.returncode in (1, 2)
            assert why in refused.stderr


def test_a_canary_survives_the_death_of_the_gateway(handlers: Write) -> None:
    with serve(shop(handlers, "old"), workers=2) as serving:
        shop(handlers, "new")
        with reload(serving, "50%", "--for=1h") as command:
            with Clients(serving) as clients:
                eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            os.kill(serving.gateway, KILL)
            eventually(lambda: serving.status()["gateway"]["state"] == "ready", "the next gateway")
            with Clients(serving) as clients:
                eventually(lambda: clients.ask() == {b"old", b"new"}, "its share")
            done(serving, "reload")
            command.communicate(timeout=DEADLINE)
            with Clients(serving) as clients:
                assert clients.ask() == {b"new"}


FAILS = """
    def on_message(msg, con):
        con.state = "new"
        con.send(b"???")
        raise ValueError("new")
"""


def test_a_shielded_version_that_raises_costs_no_client(handlers: Write) -> None:
    """The old version answers the events that the new version failed at, and the output of the
    failed handlers is dropped.
    """
    with (
        serve(shop(handlers, "old"), workers=2, tracebacks=True) as serving,
        Clients(serving) as clients,
    ):
        clients.ask()
        handlers(FAILS)
        with reload(serving, "50%", "--for=1h", "--shield") as command:
            while command.poll() is None:
                assert clients.ask() == {b"old"}
            _, error = command.communicate(timeout=DEADLINE)
        assert command.returncode == 1
        assert "rolled back: on_message raised " in error
        assert clients.ask() == {b"old"}
        (pool,) = serving.status()["pools"]
        assert pool["given_back"]
        assert pool["canaries"]["exceptions"] == 1


LOST_AT_MOST = 8
"""The most clients that may be lost to a version that raises at each message: those in the first
window of its worker, and twice that, as the machine may be busy.
"""


@pytest.mark.parametrize("word", ["def", pytest.param("async def", marks=pytest.mark.long)])
def test_a_version_that_always_raises_costs_few_clients(handlers: Write, word: str) -> None:
    """Far fewer clients are lost than the share of the version, though all of them send at once."""
    with serve(shop(handlers, "old"), workers=2, tracebacks=True) as serving:
        with ExitStack() as stack:
            socks = [stack.enter_context(serving.tcp()) for _ in range(100)]
            lost = asked(socks)
            assert not lost
            handlers(f"{word} on_message(msg, con):\n    raise ValueError('new')\n")
            with reload(serving, "50%", "--for=1h") as command:
                while command.poll() is None:
                    lost |= asked(socks)
                _, error = command.communicate(timeout=DEADLINE)
            lost |= asked(socks)
        assert "rolled back: on_message raised " in error
        assert 0 < len(lost) <= LOST_AT_MOST
        text = "last canary in the pool default: version 2 was rolled back: on_message raised "
        assert text in done(serving, "status")


def asked(socks: list[socket.socket]) -> set[int]:
    """Let all clients send; returns those that were disconnected instead of answered."""
    sent = []
    for sock in socks:
        with suppress(OSError):
            sock.sendall(b"x")
            sent.append(sock)
    lost = set(range(len(socks)))
    for sock in sent:
        with suppress(OSError):
            if sock.recv(3):
                lost.discard(socks.index(sock))
    return lost
