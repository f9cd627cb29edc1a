"""I/O. The listening end of the worker link, in a loop: the gateway's for workers of this machine,
and the supervisor's for the gateway and the command line.

It listens on a unix socket that only this user can reach, or on a port of the loopback interface
where there are no unix sockets. A connection whose first batch is not good within some seconds is
closed, and the number of those is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.link.batches import LARGEST_BATCH
from wsraw.runtime.link.connection import READ_BUDGET, Batch, LinkSocket
from wsraw.runtime.loop import Loop

STRANGER_LIMIT: Final = 2 * 1024 * 1024
"""Bytes of a batch from a connection that is not admitted yet."""

HELLO_TIMEOUT: Final = 10.0
"""Seconds for a connection to be admitted, and before that for its ZMTP handshake."""

MOST_GREETING: Final = 256
"""Connections whose ZMTP handshake is not done. One more closes the eldest of them."""

MOST_STRANGERS: Final = 1000
"""Connections that are not admitted yet. One more closes the eldest of them."""


class Link:
    """A connection of a LinkServer, known to its owner by identity (it can be a key of a dict)."""

    def __init__(self, server: LinkServer, socket: LinkSocket) -> None:
        self.is_admitted = False
        self.ended = False
        """Nothing more is received, and what is sent goes nowhere."""

    @property
    def unsent(self) -> int:
        """Bytes of batches that the system has not taken yet."""
        raise NotImplementedError

    def admit(self, limit: int = LARGEST_BATCH) -> None:
        """Its first batch was good: it stays, and may send batches of up to `limit` bytes."""
        raise NotImplementedError

    def send(self, batch: bytes) -> bool:
        """Write a batch now, behind what is unsent; what the system does not take is written when
        it does. False if it goes nowhere, because the connection has ended."""
        raise NotImplementedError

    def read(self, budget: int = READ_BUDGET) -> None:
        """Receive what has come, without waiting for the loop to say so: `receive` and `ended` of
        the server are called. For last batches of a process whose exit was reported, and midway
        in a turn."""
        raise NotImplementedError

    def pause(self) -> None:
        """Read nothing (also no end) until `resume`."""
        raise NotImplementedError

    def resume(self) -> None:
        """Read again, from the next turn on."""
        raise NotImplementedError

    def cut(self, why: str) -> None:
        """End it for a reason that the peer's log will show (an ERROR command), and drop what is
        unsent. `ended` is not called. The socket is closed when the reason is sent, or after some
        seconds."""
        raise NotImplementedError

    def close(self) -> None:
        """End it when what is unsent was sent, or after some seconds; receive nothing more.
        `ended` is not called. For an owner whose peer has said goodbye."""
        raise NotImplementedError

    def handle_fault(self, error: BaseException) -> None:
        """End it for an exception of our own."""
        raise NotImplementedError


class LinkServer:
    """Listens, accepts, and reads. Raises OSError if it cannot listen.

    Callbacks are called in the loop's handlers and in its timers, and may use every method of a
    link and of the server but `close` of the server.
    """

    def __init__(
        self,
        loop: Loop,
        folder: str,
        name: str,
        *,
        receive: Callable[[Link, Batch], object],
        ended: Callable[[Link, str], object],
        stranger_limit: int = STRANGER_LIMIT,
        hello_timeout: float = HELLO_TIMEOUT,
    ) -> None:
        """Listens on the socket `name`.sock in that folder; on loopback TCP without a folder.

        `receive` gets each batch, also the empty one that libzmq sends on connect (PROBE_ROUTER).
        `ended` is called once for each link from which a batch was received, unless its owner has
        cut or closed it: after all its batches, with the reason.
        """
        self.endpoint = ""
        """ipc:///…/link.sock or tcp://127.0.0.1:port."""
        raise NotImplementedError

    def bind(self, folder: str) -> None:
        """Listen in that folder, again, after somebody has removed the socket's file; does nothing
        if it is there. Connections stay. Raises OSError."""
        raise NotImplementedError

    def close(self, linger: float = 0.0) -> None:
        """Close everything when what is unsent was written, after so many seconds at the latest;
        remove the socket's file if it is still ours. Blocks. `ended` is not called."""
        raise NotImplementedError

    def forked(self) -> None:
        """In a forked child: close our copies of all descriptors, and touch nothing else."""
        raise NotImplementedError
