"""Both shells with libzmq's DEALER, and a gateway that has not received the probe: sometimes
libzmq keeps the probe until something else is sent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from tests.deadline import DEADLINE, eventually
from tests.workers import routers
from wsraw.link.gateway_end import GatewayEnd, who
from wsraw.link.records import Hello, gateway_decoder
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.bell import Bell
from wsraw.workers import api
from wsraw.workers.loading.handlers import Handlers
from wsraw.workers.runtime import Runtime
from wsraw.workers.shells.asyncio_shell import AsyncioShell
from wsraw.workers.shells.plain_shell import PlainShell
from wsraw.workers.shells.shell import Shell, Stopper, connect

FIRST_ID = 1 << 36 | 1


def plain(*parts: Any) -> Shell:
    return PlainShell(*parts)


def in_a_loop(*parts: Any) -> Shell:
    return AsyncioShell(*parts, 64)


class Alone:
    """A shell in a thread, and a ROUTER with which a test plays the gateway."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make
        self.context = zmq.Context()
        self.router = routers.bind(self.context, routers.TCP)
        self.endpoint = routers.endpoint_of(self.router)
        self.sessions = 0
        self.bell = Bell()
        self.stopper = Stopper(self.bell)
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        link = WorkerEnd(pool="default", token="t", instance="i", language="python")
        runtime = Runtime(link, Handlers(SimpleNamespace()), "close", threading.get_ident)
        api.install(runtime, self.stopper.call_soon)
        self.shell = self.make(runtime, connect(self.endpoint, self.bell), self.stopper)
        self.shell.run()

    def receive(self) -> bytes:
        assert self.router.poll(1000 * DEADLINE), "the worker says nothing"
        self.identity, data = self.router.recv_multipart()
        return data

    def is_heard_again(self) -> None:
        """Check that the worker sends its probe again; the first one does not count."""
        assert self.receive() == b""
        assert self.receive() == b""

    def hello(self) -> bytes:
        """The worker's answer to a `who`; empty messages may come before it."""
        self.router.send_multipart([self.identity, who()])
        while not (data := self.receive()):
            pass
        return data

    def welcome(self, data: bytes) -> None:
        """Begin a session; returns when the worker is in it."""
        self.sessions += 1
        end: GatewayEnd[None] = GatewayEnd(b"", gateway_decoder())
        (hello,) = end.receive(data)
        assert type(hello) is Hello
        end.welcome(hello, self.sessions, 1, range(FIRST_ID, FIRST_ID + 100))
        self.router.send_multipart([self.identity, end.data_to_send() or b""])

    def replace_gateway(self) -> None:
        self.router.close()
        self.router = routers.bind_again(self.context, self.endpoint)

    def close(self) -> None:
        self.stopper.stop()
        self.thread.join(DEADLINE)
        api.uninstall()
        self.bell.close()
        self.router.close()
        self.context.term()


@pytest.fixture(params=[plain, in_a_loop], ids=["plain", "asyncio"])
def alone(request: pytest.FixtureRequest) -> Iterator[Alone]:
    made = Alone(request.param)
    yield made
    made.close()
    assert not made.thread.is_alive()


def test_a_worker_says_again_that_it_is_there_until_it_is_asked(alone: Alone) -> None:
    alone.is_heard_again()
    alone.welcome(alone.hello())
    # After a lost link, the worker must not warn that there never was a gateway.
    eventually(lambda: alone.shell._warn_at == float("inf"))
    for _ in range(2):
        alone.replace_gateway()
        alone.is_heard_again()
        alone.welcome(alone.hello())


def test_a_worker_that_is_not_welcomed_says_again_that_it_is_there(alone: Alone) -> None:
    alone.is_heard_again()
    alone.welcome(alone.hello())
    # The gateway has given up the worker, and does not get its hello.
    alone.hello()
    alone.is_heard_again()
    alone.welcome(alone.hello())
