"""A worker that has the token and sends any data, on a real link: sometimes the local one,
sometimes the one for other machines.

The worker is alone in a pool of its own: in another pool it could simply close the connections of
its events.
"""

from __future__ import annotations

import random

import zmq

from tests.e2e.remote import endpoint
from tests.e2e.serving import TIMEOUT, Serving
from tests.fuzz.mutate import Mutator
from tests.fuzz.records import batches
from tests.fuzz.target import load
from wsraw.link.records import Command, Event, Refused
from wsraw.link.states import LinkState
from wsraw.link.worker_end import WorkerEnd
from wsraw.runtime.link import place

BATCHES = 300
"""The batches that a worker sends before it leaves, unless it is shut out earlier."""


class BadWorker:
    """Bad workers, one after another, each with a link of its own."""

    def __init__(self, serving: Serving, choose: random.Random) -> None:
        assert serving.folder is not None
        self._endpoints = [place.endpoint(serving.folder), endpoint(serving)]
        self._token = place.token(serving.folder)
        self._choose = choose
        target = load("link_gateway")
        self._mutator = Mutator(choose, target.seeds, (), target.largest)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._link = WorkerEnd(pool="", token="", instance="", language="")
        self._left = 0
        self.batches = 0
        self.sessions = 0

    def attack(self) -> None:
        """Send one input as a few batches."""
        self._left -= 1
        if self._socket is None or self._left < 0 or self._link.state is LinkState.GONE:
            self._begin()
        assert self._socket is not None
        for batch in batches(self._mutator.next(), self._link.session, Command):
            self._send(batch)
        self.batches += 1
        self._hear()

    def _begin(self) -> None:
        self.leave()
        self._socket = socket = self._context.socket(zmq.DEALER)
        socket.set(zmq.IMMEDIATE, 1)
        socket.set(zmq.PROBE_ROUTER, 1)
        socket.set(zmq.LINGER, 0)
        socket.connect(self._endpoints[self.sessions % len(self._endpoints)])
        self.sessions += 1
        self._left = BATCHES
        self._link = WorkerEnd(
            pool="bad", token=self._token, instance=f"bad{self.sessions}", language="none"
        )
        while not self._link.session:
            assert socket.poll(int(TIMEOUT * 1000)), "no welcome"
            self._hear()

    def _hear(self) -> None:
        """Ack all events, as the gateway rightly keeps the others."""
        assert self._socket is not None
        while self._socket.poll(0):
            for record in self._link.receive(self._socket.recv()):
                if type(record) is Refused and not record.batch:
                    # The gateway has shut the worker out.
                    self._left = 0
                elif isinstance(record, Event):
                    self._link.done(self._link.outbox(record))
            said = self._link.data_to_send()
            if said is not None:
                self._send(said)

    def _send(self, batch: bytes) -> None:
        assert self._socket is not None
        if self._socket.poll(int(TIMEOUT * 1000), zmq.POLLOUT):
            self._socket.send(batch)

    def leave(self) -> None:
        """Leave without a bye, as after a kill."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        self.leave()
        self._context.term()
