"""I/O. The worker's DEALER to a gateway on this machine: a plain socket, without libzmq and without
a thread."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Final

from wsraw.link.batches import Batch
from wsraw.runtime.bell import Bell
from wsraw.runtime.clock import monotonic
from wsraw.runtime.link.client import LinkClient
from wsraw.runtime.selector import READ, WRITE, Selector
from wsraw.workers.shells.dealer import BYE_LINGER

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, TimerHandle

LONGEST_WAIT: Final = 60.0
"""Seconds; some systems do not take infinity."""


class LocalDealer:
    """A client of the link whose descriptor is polled by this class itself, or by a loop."""

    probe_every = inf

    def __init__(self, endpoint: str, bell: Bell) -> None:
        """Raises OSError for an invalid endpoint."""
        self.endpoint = endpoint
        self.bell = bell
        self._client = client = LinkClient(endpoint, probe=True)
        # Without a method call between, because each message needs both.
        self.receive: Callable[[], Batch | None] = client.receive
        self.send: Callable[[bytes], bool] = client.send
        self.has_unsent = False
        self._descriptor = -1
        """The client's descriptor, while it is watched."""
        self._selector: Selector | None = None
        self._loop: AbstractEventLoop | None = None
        self._ready: Callable[[], object]
        self._timer: TimerHandle | None = None
        """When the client must work even if its descriptor is not ready."""

    @property
    def is_lost(self) -> bool:
        return self._client.is_lost

    @property
    def why(self) -> str:
        return self._client.why

    def reconnect(self) -> None:
        """Continue after a loss."""
        self._client.reconnect()
        self._arm()

    def flush(self, seconds: float) -> None:
        """Write unsent data, for at most this many seconds."""
        self._client.flush(seconds)

    def is_connected(self) -> bool:
        return self._client.is_connected

    # --- without a loop ---

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        """Wait until a batch can be received (or more can be sent), the connection is lost, the
        bell rings, or time is up. True if there is a batch to receive, or a loss."""
        client = self._client
        if client.is_readable:
            return True
        selector = self._selector or self._begin()
        is_due = client.wait_until != inf
        if is_due:
            seconds = min(seconds, client.wait_until - monotonic())
        for key, _ in selector.select(max(0.0, min(seconds, LONGEST_WAIT))):
            if key.data is self.bell:
                self.bell.quiet()
            else:
                is_due = True
        if is_due:
            client.work(monotonic())
        return client.is_readable

    def _begin(self) -> Selector:
        self._selector = selector = Selector()
        selector.register(self.bell.reader, READ, self.bell)
        self._client.on_change = self._follow
        return selector

    def _follow(self) -> None:
        """Watch the client's present descriptor for what the client wants now."""
        client, selector, before = self._client, self._selector, self._descriptor
        assert selector is not None
        self.has_unsent = client.wants_write
        now = self._descriptor = client.fileno()
        events = READ | WRITE if client.wants_write else READ
        if now == before >= 0:
            selector.modify(now, events)
            return
        if before >= 0:
            selector.unregister(before)
        if now >= 0:
            selector.register(now, events)

    # --- in a loop ---

    def attach(self, loop: AbstractEventLoop, ready: Callable[[], object]) -> None:
        """Have the loop call `ready` whenever a batch or a loss may have come, or room for a batch
        to send."""
        self._loop, self._ready = loop, ready
        self._client.on_change = self._follow_in_loop
        self._arm()

    def detach(self) -> None:
        loop, self._loop = self._loop, None
        if loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._descriptor >= 0:
            loop.remove_reader(self._descriptor)
            loop.remove_writer(self._descriptor)
            self._descriptor = -1

    def _work(self) -> None:
        self._client.work(monotonic())
        if self._timer is not None or self._client.wait_until != inf:
            self._arm()
        self._ready()

    def _arm(self) -> None:
        """Let the client work when it wants to, in a loop."""
        loop, until = self._loop, self._client.wait_until
        if loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if until != inf:
            self._timer = loop.call_later(max(0.0, until - monotonic()), self._work)

    def _follow_in_loop(self) -> None:
        client, loop, before = self._client, self._loop, self._descriptor
        if loop is None:
            return
        self.has_unsent = client.wants_write
        now = self._descriptor = client.fileno()
        if before >= 0 and now != before:
            loop.remove_reader(before)
            loop.remove_writer(before)
        if now >= 0:
            loop.add_reader(now, self._work)
            if client.wants_write:
                loop.add_writer(now, self._work)
            else:
                loop.remove_writer(now)
        self._arm()

    # --- the end ---

    def forked(self) -> None:
        """Close a forked child's copy of the connection, so that the gateway sees the worker's
        end."""
        self._client.forked()
        if self._selector is not None:
            self._selector.close()

    def close(self, *, after_bye: bool = False) -> None:
        """After the bye, wait until it is sent."""
        self.detach()
        self._client.close(BYE_LINGER if after_bye else 0.0)
        if self._selector is not None:
            self._selector.close()
