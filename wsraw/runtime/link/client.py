"""I/O. The connecting end of the worker link: of a worker, of the gateway to its supervisor, and of
the command line. No loop in it: the caller polls its descriptor, and calls `work`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from wsraw.link.batches import LARGEST_BATCH
from wsraw.runtime.link.connection import Batch

RETRY_FIRST: Final = 0.1
"""Seconds until the second attempt to connect; doubled for each further one."""

RETRY_MOST: Final = 1.0
"""Seconds between two attempts at most."""

UNSENT_LIMIT: Final = 1024 * 1024
"""Bytes that may be unsent for one more batch to be taken."""


class LinkClient:
    """A connection to a LinkServer (or a ROUTER of libzmq) that is made again and again.

    A loss is told once and in order: after the last batch of a connection that has ended, `receive`
    returns None and `is_lost` is True until `reconnect` is called. So nothing that was meant for
    one server can reach the next one.

    Poll `fileno()` for reading (and for writing while `wants_write`), until `wait_until` at most;
    then call `work`. Calls from several threads need a lock.
    """

    def __init__(self, endpoint: str, *, limit: int = LARGEST_BATCH, probe: bool = False) -> None:
        """Raises OSError for an invalid endpoint. It connects in the first call of `work`.

        With `probe`, the first thing on each connection is an empty batch, like libzmq's
        PROBE_ROUTER: it makes a gateway ask who is there.
        """
        self.endpoint = endpoint
        self.is_connected = False
        """Whether both ends have exchanged READY: `send` works."""
        self.wants_write = False
        """Whether to poll for writability, too."""
        self.wait_until = 0.0
        """When to call `work` even if the descriptor is not ready (time.monotonic); infinity while
        there is no reason to."""
        self.is_lost = False
        """Whether a connection has ended (`why` has the reason); only `reconnect` ends this. An
        attempt that fails is no loss: it is made again by itself."""
        self.why = ""
        """Why the last connection, or the last attempt, has ended: an error of the system, or what
        an ERROR command of the other end says."""
        self.on_change: Callable[[], object] = lambda: None
        """Called when `fileno()` or `wants_write` has changed; before an old descriptor is closed,
        with `fileno()` already without it."""

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken yet."""
        raise NotImplementedError

    def fileno(self) -> int:
        """The descriptor to poll; -1 while there is none."""
        raise NotImplementedError

    def work(self, now: float) -> None:
        """Connect, write, read: as far as it goes without waiting. Call it when the descriptor is
        ready or `wait_until` has come. It reads nothing while batches wait for `receive`."""
        raise NotImplementedError

    def receive(self) -> Batch | None:
        """The next batch that `work` has read, or None."""
        raise NotImplementedError

    def send(self, batch: bytes) -> bool:
        """Write a batch now, as far as it goes, the rest in `work`. False, and nothing is sent, if
        there is no gateway or UNSENT_LIMIT bytes are still unsent."""
        raise NotImplementedError

    def reconnect(self) -> None:
        """Go on after a loss: connect again in `work`, after a pause."""
        raise NotImplementedError

    def close(self, linger: float = 0.0) -> None:
        """Close when what is unsent was written, after so many seconds at the latest. Blocks."""
        raise NotImplementedError

    def forked(self) -> None:
        """In a forked child: close our copy of the descriptor, so that the gateway sees the
        worker's end. The child can neither send nor receive."""
        raise NotImplementedError
