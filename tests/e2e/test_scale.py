"""Scaling at run time, and recycling: workers start and stop, connections stay."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.deadline import eventually
from tests.e2e.command_line import ask, done, until_ready, while_serving
from tests.e2e.load import Client, Load, RawClient, WebClient, echo
from tests.e2e.serving import ECHO, TIMEOUT, Serving, linux, posix, serve

Write = Callable[[str], Path]

PID = """
    import os, time
    def on_message(msg, con):
        time.sleep(0.02)
        return str(os.getpid())
"""


def test_workers_are_added_and_removed(handlers: Write) -> None:
    with serve(ECHO) as serving, serving.ws() as client:
        assert done(serving, "scale", "3") == "3 workers\n"
        assert [worker["n"] for worker in until_ready(serving, 3)] == [1, 2, 3]
        assert done(serving, "scale", "default=1") == "1 worker\n"
        assert [worker["n"] for worker in until_ready(serving, 1)] == [1]
        client.send("still here")
        assert client.recv(TIMEOUT) == "still here"


def test_a_new_worker_takes_load_at_once(handlers: Write) -> None:
    with serve(handlers(PID)) as serving, ExitStack() as stack:
        clients = [stack.enter_context(serving.ws()) for _ in range(8)]
        done(serving, "scale", "2")

        def seen() -> set[object]:
            for client in clients:
                client.send("x")
            return {client.recv(TIMEOUT) for client in clients}

        # At first all events may fit into the window of the first worker, before its speed is
        # measured.
        second = str(serving.worker(2))
        eventually(lambda: second in seen(), "a connection from before it came to be served by it")


def test_a_wrong_number_of_workers_is_refused() -> None:
    with serve(ECHO) as serving:
        for wrong, why in (
            ("0", "must be from 1 to"),
            ("many", "must be from 1 to"),
            ("web=2", "there is no pool 'web'"),
        ):
            told = ask(serving, "scale", wrong)
            assert told.returncode == 1
            assert why in told.stderr
            assert told.stderr.count("\n") == 1
        until_ready(serving, 1)


@posix
def test_sigttin_and_sigttou_change_the_number_of_workers() -> None:
    with serve(ECHO, workers=2) as serving:
        serving.run.send(signal.SIGTTIN)
        until_ready(serving, 3)
        serving.run.line("SIGTTIN: scaling to 3")
        for n in (1, 2, 3):
            serving.run.send(signal.SIGTTOU)
            serving.run.line("SIGTTOU: scaling to", n)
        assert len(until_ready(serving, 1)) == 1, "never below one"


@linux
def test_scaling_loses_nothing() -> None:
    with serve(ECHO, workers=1) as serving:
        asyncio.run(scale_up_and_down(serving))


async def scale_up_and_down(serving: Serving) -> None:
    clients: list[Client] = [kind(64, 0.02, echo) for kind in [WebClient] * 15 + [RawClient] * 5]
    async with Load(clients) as load:
        await load.start(serving)
        for count in ("4", "1", "3", "2"):
            await load.more(100)
            await while_serving(serving, "scale", count)
        await load.more(200)
        await load.finish()


@linux
def test_a_worker_that_holds_too_much_memory_is_replaced(handlers: Write) -> None:
    text = """
        hoard = []
        def on_message(msg, con):
            hoard.append(bytearray(200_000_000))
            return "fat"
    """
    with (
        serve(handlers(text), "--max-memory=150000000", workers=2) as serving,
        serving.ws() as client,
    ):
        client.send("x")
        assert client.recv(TIMEOUT) == "fat"
        serving.run.line(r"replacing worker [12]: it holds [0-9.]+ [KMG]iB of memory")
        eventually(lambda: sum(w["n"] for w in until_ready(serving, 2)) > 3)
        assert all(each["rss"] < 150_000_000 for each in serving.status()["workers"])
        assert [each["restarts"] for each in serving.status()["workers"]] == [0, 0]
        client.send("x")
        assert client.recv(TIMEOUT) == "fat"


def test_a_worker_that_has_handled_enough_is_replaced(handlers: Write) -> None:
    with serve(ECHO, "--max-events=50") as serving, serving.ws() as client:
        for n in range(100):
            client.send(str(n))
            assert client.recv(TIMEOUT) == str(n)
        serving.run.line(r"replacing worker 1: it has handled \d+ events")
        (worker,) = until_ready(serving, 1)
        assert (worker["n"], worker["restarts"]) == (2, 0)
        client.send("x")
        assert client.recv(TIMEOUT) == "x"
