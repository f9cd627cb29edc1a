"""Handlers whose output for one event is larger than a batch of the link."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.e2e.remote import RemoteWorker, endpoint, gateway, remote_workers_ready
from tests.e2e.serving import Serving, linux, receive_exactly, serve
from wsraw.link.batches import EVENT_LIMIT, RECORD_COST
from wsraw.link.records import decode_value, encode
from wsraw.runtime.link import place

Write = Callable[[str], Path]

MIB = 1 << 20
COUNT = 96
MEMORY = "--memory-limit=1GiB"

LARGE = """
import random

{define} on_message(msg, con):
    for n in range(96):
        con.send(random.Random(n).randbytes(1 << 20))
    con.send(msg["data"])
"""


def check_answer(client: socket.socket) -> None:
    """Check 96 MiB byte for byte, and the answer after them."""
    for n in range(COUNT):
        got = receive_exactly(client, MIB)
        wanted = random.Random(n).randbytes(MIB)
        # Compare hashes: a failure should not print the difference of two megabytes.
        assert hashlib.sha256(got).digest() == hashlib.sha256(wanted).digest(), f"chunk {n}"
    assert receive_exactly(client, 2) == b"go"


@pytest.mark.parametrize("define", ["def", pytest.param("async def", marks=pytest.mark.long)])
def test_a_client_gets_all_that_a_handler_sends_for_one_event(handlers: Write, define: str) -> None:
    with serve(handlers(LARGE.format(define=define)), MEMORY) as serving, serving.tcp() as client:
        for _ in range(2):
            client.sendall(b"go")
            check_answer(client)
        assert serving.status()["gateway"]["limits"] == {}


@pytest.mark.long
def test_a_worker_on_another_machine_sends_as_much_in_more_parts(handlers: Write) -> None:
    file = handlers(LARGE.format(define="def"))
    with gateway(MEMORY, workers=0) as serving:
        where = endpoint(serving)
        token = (serving.folder / "token").read_text().strip() if serving.folder else ""
        with RemoteWorker(f"--connect={where}", f"--token={token}", handlers=file) as worker:
            remote_workers_ready(serving, 1)
            with serving.tcp() as client:
                client.sendall(b"go")
                check_answer(client)
            worker.stop()


@pytest.mark.parametrize("define", ["def", "async def"])
def test_a_handler_is_told_at_the_call_that_exceeds_what_an_event_may_send(
    handlers: Write, define: str
) -> None:
    text = f"""
    {define} on_message(msg, con):
        if msg["data"] == b"much":
            data, n = bytes(1 << 20), 0
            try:
                while True:
                    con.send(data)
                    n += 1
            except ValueError:
                print("that was", n)
                raise
        return msg
    """
    with (
        serve(handlers(text), MEMORY, tracebacks=True) as serving,
        serving.tcp() as client,
        serving.tcp() as other,
    ):
        client.sendall(b"much")
        serving.run.line(rf"that was {EVENT_LIMIT // (MIB + RECORD_COST)} ")
        serving.run.line(rf"ValueError: this event's handler has sent too much.* {EVENT_LIMIT} by")
        # None of the output has left, and the worker continues.
        with pytest.raises(ConnectionResetError):
            receive_exactly(client, 1)
        other.sendall(b"little")
        assert receive_exactly(other, 6) == b"little"
        assert len(serving.run.pids()) == 2


@linux
def test_parts_of_a_worker_that_dies_before_the_last_part_are_not_sent() -> None:
    """The worker is played by the test, so that it can die between two parts."""
    with serve(None, "--workers=none", MEMORY, workers=0) as serving, serving.tcp() as client:
        first = ForeignWorker(serving, "first")
        client.sendall(b"go")
        seq, con = first.message()
        before = held(serving)
        first.say(*(["send", con, bytes(MIB)] for _ in range(60)), ["part", seq])
        eventually(lambda: held(serving) > before + 60 * MIB, "the part to be kept")
        first.die()
        eventually(lambda: held(serving) < before + MIB, "the part to be dropped")
        second = ForeignWorker(serving, "second")
        seq, again = second.message()
        assert again == con
        second.say(["send", con, b"on"], ["part", seq])
        second.say(["send", con, b"ce"], ["close", con], ["ack", seq, seq])
        assert receive_exactly(client, 5) == b"once"
        second.die()


def held(serving: Serving) -> int:
    """The bytes that count towards `memory_limit`."""
    size: int = serving.status()["gateway"]["bytes"]
    return size


class ForeignWorker:
    """A worker of the default pool that sends what a test wants."""

    def __init__(self, serving: Serving, name: str) -> None:
        assert serving.folder is not None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._context.socket(zmq.DEALER)
        self._dealer.set(zmq.RCVTIMEO, int(1000 * DEADLINE))
        self._dealer.set(zmq.PROBE_ROUTER, 1)
        self._dealer.connect(place.endpoint(serving.folder))
        self._token = place.token(serving.folder)
        self._name = name
        self._session = 0

    def say(self, *records: list[Any]) -> None:
        self._dealer.send(encode([self._session, *records]))

    def message(self) -> tuple[int, int]:
        """Seq and connection of the next message. Starts a session if there is none, and acks
        all events before the message.
        """
        while True:
            number, *records = decode_value(self._dealer.recv())
            for record in records:
                if record[0] == "who":
                    hello = ["hello", 1, "default", self._name, "test", self._token, 10, 1, []]
                    self._dealer.send(encode([0, hello]))
                elif record[0] == "welcome":
                    self._session = number
                elif record[0] == "on_message":
                    return record[1], record[2]
                elif record[0].startswith("on_"):
                    self.say(["ack", record[1], record[1]])

    def die(self) -> None:
        self._context.destroy(linger=0)
