"""I/O. The interface of shells to the connection with the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from wsraw.runtime.bell import Bell

if TYPE_CHECKING:
    # Not at run time, because it takes 30 ms: a plain worker needs none of it.
    from asyncio import AbstractEventLoop

BYE_LINGER: Final = 2.0
"""Seconds for the last batch to be sent, so that its events are not repeated."""


class LinkKeys(NamedTuple):
    """CURVE keys in Z85."""

    secret: str
    gateway: str
    """The gateway's public key, which proves who it is."""


class Dealer(Protocol):
    """The worker's DEALER socket: whole batches in and out. It reconnects automatically, for ever.

    A plain shell calls `wait`; an asyncio shell calls `attach` instead. `send` and `flush` may be
    called in another thread while no other method runs.
    """

    endpoint: str
    bell: Bell
    probe_every: float
    """Seconds without a session after which the shell sends the empty message again; infinite if
    the first one certainly arrives."""

    def receive(self) -> bytes | memoryview | None:
        """The next batch. None if there is none, or if `is_lost`."""

    @property
    def is_lost(self) -> bool:
        """Whether a connection has ended. Until `reconnect` is called, nothing is received or sent
        over another one, so that no data for one gateway reaches another."""

    def reconnect(self) -> None:
        """Continue after a loss."""

    @property
    def why(self) -> str:
        """Why the last connection or attempt has ended, as far as known."""

    def send(self, batch: bytes) -> bool:
        """Send a batch; False if there is no gateway or it does not keep up."""

    @property
    def has_unsent(self) -> bool:
        """Whether sent data is still to be written, by `wait` or `flush`."""

    def flush(self, seconds: float) -> None:
        """Write unsent data, for at most this many seconds. Like `send`, for other threads."""

    def is_connected(self) -> bool:
        """Whether a gateway takes our batches."""

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        """Wait until a batch can be received (or sent), the connection is lost, the bell rings, or
        time is up. True if there is a batch to receive, or a loss."""

    def attach(self, loop: AbstractEventLoop, ready: Callable[[], object]) -> None:
        """Have the loop call `ready` whenever a batch or a loss may have come, or room for a batch
        to send. `ready` must receive until there is nothing more, or call itself again."""

    def detach(self) -> None:
        """End `attach`; `ready` may be called once more."""

    def forked(self) -> None:
        """Close a forked child's copy of the connection, so that the gateway sees the worker's
        end."""

    def close(self, *, after_bye: bool = False) -> None:
        """After the bye, wait until it is sent."""
