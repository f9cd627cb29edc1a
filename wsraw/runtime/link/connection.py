"""I/O. One connection of the worker link: a ZMTP peer over a non-blocking socket. No loop in it.

Everything here returns at once. Whoever owns a connection knows when it can be read or written,
and for how long it may be kept.
"""

from __future__ import annotations

import socket
from typing import Final

READ_BUFFER: Final = 256 * 1024
"""Bytes of the buffer that all connections of a server share; a client has one of its own."""

READ_BUDGET: Final = 1024 * 1024
"""Bytes that one call reads from a connection, before others have their turn."""

Batch = bytes | memoryview


class LinkSocket:
    """A connected, non-blocking socket and its peer. What arrives is received whole and in order:
    `ended` is set only after everything before the end was handed out."""

    def __init__(self, sock: socket.socket, peer: object, buffer: memoryview) -> None:
        """`buffer` is used during `receive` only, so that connections of one thread can share it.
        The greeting is queued; `flush` sends it."""
        self.peer = peer
        self.unsent = 0
        """Bytes that are queued and that the system has not taken yet."""
        self.ended = False
        """Whether nothing more will be received; `why` has the reason."""
        self.why = ""
        """Why it has ended: an error of the socket, of the peer's protocol, or what an ERROR
        command of the peer says."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The descriptor; -1 once closed."""
        raise NotImplementedError

    def receive(self, budget: int = READ_BUDGET) -> list[Batch]:
        """Read until there is no more, or about `budget` bytes were read. An error of the peer
        queues an ERROR command for it, which `flush` sends, and ends the connection."""
        raise NotImplementedError

    def send(self, batch: bytes) -> None:
        """Queue a batch; `flush` writes it."""
        raise NotImplementedError

    def flush(self) -> bool:
        """Write as much as the system takes. True if nothing is left that could still be sent.

        If the peer is gone, the output is dropped; `receive` then finds the end, after what the
        peer had sent before.
        """
        raise NotImplementedError

    def fail(self, why: str) -> None:
        """Refuse the peer: drop the batches that are unsent, queue an ERROR command with the
        reason, and receive nothing more."""
        raise NotImplementedError

    def close(self) -> None:
        """Free the descriptor; what is unsent is lost."""
        raise NotImplementedError
