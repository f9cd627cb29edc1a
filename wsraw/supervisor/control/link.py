"""I/O. The control link: what the supervisor and its gateway say to each other, and what the
command line asks.

The supervisor binds, so that each new gateway finds it. A batch is `[token, record, …]`. The
gateway's token is new for each gateway and known to nobody else; the command line's stands in the
run folder.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import zmq

from wsraw.link.records import Decoder, Do, Done, FromGateway, FromSupervisor, encode

LARGEST_BATCH: Final = 4 * 1024 * 1024
"""Bytes; the longest that is said here is the report of a thousand workers."""

LAST_WORDS: Final = 500
"""Milliseconds: how long what was said last may take to go out."""


class ControlError(Exception):
    """There is no control link; the text says why."""


class Asked(NamedTuple):
    """What somebody at the command line wants; the answer goes to `who`."""

    who: bytes
    do: Do


class Control:
    """The supervisor's end. Raises ControlError when the endpoint cannot be bound."""

    def __init__(self, folder: Path) -> None:
        self.client_token = secrets.token_hex(16)
        """Lets commands of the command line in."""
        self._token = secrets.token_hex(16)
        self._gateway: bytes | None = None
        self._decoder = Decoder(str, FromGateway | Do)
        self.endpoint = ""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, LAST_WORDS)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BATCH)
        try:
            self.bind(folder)
        except ControlError:
            self.close()
            raise
        self.fd = self._socket.getsockopt(zmq.FD)
        """Readable when it is worth to `receive`. Edge-triggered: a send may swallow the edge of
        what came in meanwhile, so receive before every sleep, whatever woke you."""

    def bind(self, folder: Path) -> None:
        """Listen in that folder; again, after somebody has removed the socket's file. What has
        connected before stays connected. Raises ControlError."""
        try:
            self._socket.bind(
                f"ipc://{folder / 'control.sock'}" if zmq.has("ipc") else "tcp://127.0.0.1:*"
            )
        except zmq.ZMQError as error:
            raise ControlError(f"{folder}: {error.strerror}") from error
        # The old listener is not unbound: libzmq would remove the new one's file with it.
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def expect(self) -> str:
        """A gateway will be spawned: the token it needs. What the last one says is void now."""
        self.forget()
        self._token = secrets.token_hex(16)
        return self._token

    def forget(self) -> None:
        """The gateway is gone."""
        self._gateway = None

    def receive(self) -> list[FromGateway | Asked] | None:
        """What is said in the next batch, by the gateway or the command line; None if there is
        none. Raises LinkError for what is no batch."""
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return None
            if len(frames) != 2:
                continue
            token, records, _ = self._decoder.decode(frames[1])
            if hmac.compare_digest(token.encode(), self._token.encode()):
                self._gateway = frames[0]
                return [r for r in records if r is not None and not isinstance(r, Do)]
            if hmac.compare_digest(token.encode(), self.client_token.encode()):
                return [Asked(frames[0], record) for record in records if isinstance(record, Do)]

    def tell(self, *records: FromSupervisor) -> None:
        """Say it to the gateway, if there is one: a new one must be told everything anyway."""
        if self._gateway is not None:
            self._send(self._gateway, encode([self._token, *records]))

    def answer(self, who: bytes, done: Done) -> None:
        """Answer the command line; it may be gone meanwhile."""
        self._send(who, encode([self.client_token, done]))

    def _send(self, to: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([to, data], zmq.NOBLOCK)
        except zmq.ZMQError:
            # It died a moment ago; if it is the gateway, its exit is on the way.
            pass

    def close(self) -> None:
        """Free the socket, once what was said is out."""
        self._socket.close()
        self._context.term()
