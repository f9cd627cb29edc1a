"""An HTTP client over a pipe, and workers that answer its requests, for the tests of this
folder.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import h11

from tests.gateway.harness import Harness, LinkedWorker
from wsraw.link.records import OnRequest, Respond
from wsraw.testing.pipe import Pipe


class Client:
    """The peer of an accepted connection, which is driven turn by turn."""

    def __init__(self, harness: Harness, **listen: Any) -> None:
        self.harness = harness
        self.pipe = Pipe(harness.registry, harness.raw(b"", plain_http="handlers", **listen))

    def send(self, data: bytes, *cuts: int) -> None:
        """Send bytes, cut at these places."""
        last = 0
        for cut in [*cuts, len(data)]:
            self.pipe.incoming += data[last:cut]
            last = cut
            self.step()

    def step(self) -> None:
        """Take turns until nothing moves."""
        while self.pipe.step(self.harness.now):
            pass
        self.harness.turn()

    def end(self) -> None:
        """Half-close: send no more."""
        self.pipe.peer_closed = True
        self.step()

    def output(self) -> bytes:
        """The bytes that have arrived since the last call."""
        self.step()
        data = bytes(self.pipe.outgoing)
        self.pipe.outgoing.clear()
        return data

    @property
    def is_over(self) -> bool:
        return self.pipe.closed or self.pipe.shut


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    is_whole: bool = True


def read(data: bytes, *methods: str) -> list[Answer]:
    """The responses to requests with these methods, parsed by a third-party implementation."""
    found = []
    for method in methods:
        conn = h11.Connection(h11.CLIENT)
        conn.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        conn.send(h11.EndOfMessage())
        conn.receive_data(data)
        conn.receive_data(b"")
        head, body = None, b""
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError:
                assert head is not None
                return [*found, Answer(head.status_code, _named(head), body, False)]
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert head is not None
        found.append(Answer(head.status_code, _named(head), body))
        data = conn.trailing_data[0]
    assert not data
    return found


def _named(head: h11.Response) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in head.headers}


def answer_all(linked: LinkedWorker, *clients: Client) -> list[OnRequest]:
    """Answer each request with its own content until no more come; returns the requests."""
    seen = []
    while True:
        for client in clients:
            client.step()
        linked.harness.turn()
        events = [event for event in linked.events if isinstance(event, OnRequest)]
        if not events:
            return seen
        for event in events:
            seen.append(event)
            body = b"%s %s %s" % (
                event.inf["method"].encode(),
                event.inf["url"].encode(),
                event.body,
            )
            linked.ack(event, commands=(Respond(event.con, body=body),))
