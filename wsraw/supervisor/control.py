"""I/O. The control link: what the supervisor and its gateway say to each other.

The supervisor binds, so that each new gateway finds it. A batch is `[token, record, …]`; the token
is new for each gateway and known to nobody else.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final

import zmq

from wsraw import messages as m

LARGEST_BATCH: Final = 1024 * 1024
"""Bytes; a gateway says little."""


class ControlError(Exception):
    """There is no control link; the text says why."""


class Control:
    """The supervisor's end. Raises ControlError when the endpoint cannot be bound."""

    def __init__(self, folder: Path) -> None:
        self._token = secrets.token_hex(16)
        self._gateway: bytes | None = None
        self._decoder = m.Decoder(str, m.FromGateway)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BATCH)
        try:
            self._socket.bind(
                f"ipc://{folder / 'control.sock'}" if zmq.has("ipc") else "tcp://127.0.0.1:*"
            )
        except zmq.ZMQError as error:
            self.close()
            raise ControlError(f"{folder}: {error.strerror}") from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.fd = self._socket.getsockopt(zmq.FD)
        """Readable when it is worth to `receive`. Edge-triggered: a send may swallow the edge of
        what came in meanwhile, so receive before every sleep, whatever woke you."""

    def expect(self) -> str:
        """A gateway will be spawned: the token it needs. What the last one says is void now."""
        self.forget()
        self._token = secrets.token_hex(16)
        return self._token

    def forget(self) -> None:
        """The gateway is gone."""
        self._gateway = None

    def receive(self) -> list[m.FromGateway] | None:
        """What the gateway says in its next batch; None if there is none. Raises LinkError for
        what is no batch."""
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
                return [record for record in records if record is not None]

    def tell(self, *records: m.FromSupervisor) -> None:
        """Say it to the gateway, if there is one: a new one must be told everything anyway."""
        if self._gateway is None:
            return
        try:
            self._socket.send_multipart(
                [self._gateway, m.encode([self._token, *records])], zmq.NOBLOCK
            )
        except zmq.ZMQError:
            # It died a moment ago; its exit is on the way.
            pass

    def close(self) -> None:
        """Free the socket."""
        self._socket.close()
        self._context.term()
