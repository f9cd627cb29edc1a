"""A worker inside another program, with a ROUTER of the tests; tests/e2e/test_embedded.py has real
runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.workers import routers
from wsraw.link.gateway_end import GatewayEnd, who
from wsraw.link.records import Publish, gateway_decoder
from wsraw.workers import embedded_asyncio
from wsraw.workers.embedded_threads import Worker

from .conftest import EPOCH, TOKEN, con_id


class Gateway:
    """A gateway that answers when a test tells it to."""

    def __init__(self, endpoint: str) -> None:
        self.context = zmq.Context()
        self.end: GatewayEnd[None]
        self.router = routers.bind(self.context, endpoint)
        self.endpoint = routers.endpoint_of(self.router)
        self.sessions = 0

    def receive(self) -> bytes:
        assert self.router.poll(1000 * DEADLINE), "the worker says nothing"
        identity, batch = self.router.recv_multipart()
        self.end.identity = identity
        return batch

    def batch(self) -> bytes:
        """The next batch; until the gateway asks, the probe is repeated."""
        while not (batch := self.receive()):
            pass
        return batch

    def ask(self) -> Any:
        """The hello of a worker that has just connected."""
        self.end = GatewayEnd(b"", gateway_decoder())
        assert self.receive() == b"", "the probe is the first that it sends"
        self.router.send_multipart([self.end.identity, who()])
        (hello,) = self.end.receive(self.batch())
        return hello

    def welcome(self, hello: Any) -> None:
        self.sessions += 1
        self.end.welcome(hello, self.sessions, EPOCH, range(con_id(5000), con_id(7000)))
        batch = self.end.data_to_send()
        assert batch is not None
        self.router.send_multipart([self.end.identity, batch])

    def commands(self) -> list[Any]:
        return self.end.receive(self.batch())

    def close(self) -> None:
        self.router.close()
        self.context.term()


@pytest.fixture
def gateway() -> Iterator[Callable[[str], Gateway]]:
    made = []

    def make(endpoint: str) -> Gateway:
        made.append(Gateway(endpoint))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("scheme", ["ipc", "tcp"])
def test_a_worker_is_not_ready_between_a_lost_link_and_the_next_welcome(
    gateway: Callable[[str], Gateway], scheme: str, tmp_path: Path
) -> None:
    """Until the next gateway asked who it is, such a worker once called itself ready, and lost
    its commands.
    """
    made = gateway(routers.on_this_machine(tmp_path) if scheme == "ipc" else routers.TCP)
    with Worker(endpoint=made.endpoint, token=TOKEN) as worker:
        assert not worker.is_ready
        made.welcome(made.ask())
        worker.ready(DEADLINE)
        made.router.close()
        eventually(lambda: not worker.is_ready, "the loss to be seen")
        made.router = routers.bind_again(made.context, made.endpoint)
        hello = made.ask()
        assert not worker.is_ready
        with pytest.raises(TimeoutError):
            worker.publish("group", "to nobody", timeout=0.01)
        made.welcome(hello)
        worker.ready(DEADLINE)
        worker.publish("group", "to the next", timeout=DEADLINE)
        assert made.commands() == [Publish("group", b"to the next", "text")]


class Deaf(asyncio.SelectorEventLoop):
    """Like the loop of asyncio.run on Windows, this loop cannot watch sockets."""

    add_reader = asyncio.AbstractEventLoop.add_reader  # type: ignore[assignment]


def test_a_loop_that_cannot_wait_for_a_link_is_refused_with_advice() -> None:
    async def enter() -> None:
        async with embedded_asyncio.Worker(endpoint="tcp://127.0.0.1:9", token="x"):
            pass

    for loop in (Deaf, getattr(asyncio, "ProactorEventLoop", Deaf)):
        with (
            asyncio.Runner(loop_factory=loop) as runner,
            pytest.raises(RuntimeError, match=f"{loop.__name__} cannot wait .*SelectorEventLoop"),
        ):
            runner.run(enter())
