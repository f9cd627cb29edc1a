"""I/O. What a shell needs of the connection to the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from wsraw.runtime.link.bell import Bell

if TYPE_CHECKING:
    # Not at run time, as it takes 30 ms: a plain worker needs none of it.
    from asyncio import AbstractEventLoop


class LinkKeys(NamedTuple):
    """CURVE keys in Z85."""

    secret: str
    gateway: str
    """The gateway's public key, which proves who it is."""


class Dealer(Protocol):
    """The worker's DEALER socket: whole batches in and out. It reconnects by itself, for ever.

    A plain shell calls `wait`; an asyncio shell calls `attach` instead. `send` may be called in
    another thread while no other method runs.
    """

    endpoint: str
    bell: Bell

    def receive(self) -> bytes | memoryview | None:
        """The next batch. None if there is none, or if `is_lost`."""

    @property
    def is_lost(self) -> bool:
        """Whether a connection has ended. Nothing of another one is received, and nothing is sent
        there, until `reconnect` is called: so what is meant for one gateway reaches no other."""

    def reconnect(self) -> None:
        """Go on after a loss."""

    def send(self, batch: bytes) -> bool:
        """Send a batch; False if there is no gateway or it does not keep up."""

    def is_connected(self) -> bool:
        """Whether a gateway takes our batches."""

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        """Wait until a batch can be received (or sent), the connection is lost, the bell rings, or
        time is up. True if there is a batch to receive, or a loss."""

    def attach(self, loop: AbstractEventLoop, ready: Callable[[], object]) -> None:
        """Have the loop call `ready` whenever a batch or a loss may have come, or room for a batch
        to send."""

    def detach(self) -> None:
        """End `attach`; `ready` may be called once more."""

    def forked(self) -> None:
        """Close a forked child's copy of the connection, so that the gateway sees the worker's
        end."""

    def close(self, *, after_bye: bool = False) -> None:
        """After the bye, wait until it is sent."""
