"""I/O. The control link: between supervisor and gateway, and from the command line.

The supervisor binds, so that each new gateway finds it. A batch is `[token, record, …]`. Each
gateway has a token of its own; the command line finds its token in the run folder.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import zmq

from wsraw.link.records import Decoder, Do, Done, FromGateway, FromSupervisor, encode
from wsraw.supervisor.run_folder.folder import FolderError

LARGEST_BATCH: Final = 4 * 1024 * 1024
"""Bytes; the longest batch is the status report of a thousand workers."""

LAST_WORDS: Final = 500
"""Milliseconds for the last batches to be sent at the end."""


class Asked(NamedTuple):
    """A request of the command line; the answer goes to `who`."""

    who: bytes
    do: Do


class Control:
    """The supervisor's end. Raises FolderError when the endpoint cannot be bound."""

    def __init__(self, folder: Path) -> None:
        self.client_token = secrets.token_hex(16)
        """Token of the command line."""
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
        except FolderError:
            self.close()
            raise
        self.fd = self._socket.getsockopt(zmq.FD)
        """Readable when there may be something to receive. Edge-triggered: a send may consume the
        edge of what arrived meanwhile, so call `receive` before every sleep."""

    def bind(self, folder: Path) -> None:
        """Bind the socket in that folder, also again after its file was removed; existing
        connections stay. Raises FolderError."""
        try:
            self._socket.bind(
                f"ipc://{folder / 'control.sock'}" if zmq.has("ipc") else "tcp://127.0.0.1:*"
            )
        except zmq.ZMQError as error:
            raise FolderError(f"run folder {folder}: {error.strerror}") from error
        # The old listener is not unbound: libzmq would remove the new one's file with it.
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def expect(self) -> str:
        """The token for the gateway that is about to start; it replaces the last one."""
        self._gateway = None
        self._token = secrets.token_hex(16)
        return self._token

    def receive(self) -> list[FromGateway | Asked] | None:
        """Records of the next batch, or None if there is none. Raises LinkError for a malformed
        one."""
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
        """Send to the gateway, if there is one; a new gateway is told everything anyway."""
        if self._gateway is not None:
            self._send(self._gateway, encode([self._token, *records]))

    def answer(self, who: bytes, done: Done) -> None:
        """Answer the command line, which may be gone by now."""
        self._send(who, encode([self.client_token, done]))

    def _send(self, to: bytes, data: bytes) -> None:
        try:
            self._socket.send_multipart([to, data], zmq.NOBLOCK)
        except zmq.ZMQError:
            # The peer is gone; if it was the gateway, its exit is reported next.
            pass

    def close(self) -> None:
        self._socket.close()
        self._context.term()
