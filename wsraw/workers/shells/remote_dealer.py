"""I/O. The worker's DEALER over libzmq."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import zmq

from wsraw.link.batches import COPIED_BELOW, LARGEST_BATCH, READ_IN_PLACE
from wsraw.link.rules import split_host_port
from wsraw.runtime.bell import Bell
from wsraw.workers.shells.dealer import BYE_LINGER, LinkKeys

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

BATCHES_HELD: Final = 100
"""Batches that ZeroMQ may queue; the window limits their events far earlier."""

HEARTBEAT: Final = 2000
"""Milliseconds between ZMTP heartbeats."""

HEARTBEAT_EXPIRY: Final = 6000
"""Milliseconds of silence until a tcp link reconnects."""

KEY_HINT: Final = (
    "its log says whether it accepts our key; if it says nothing, --gateway-key is not its key, or "
    "the address is wrong"
)
"""With a wrong gateway key the handshake fails before the gateway sees our key."""

RECONNECT_FIRST: Final = 100
"""Milliseconds between the end of a connection and the next attempt, at first."""

CONNECT_TIMEOUT: Final = 5000
"""Milliseconds for TCP, and again for the ZMTP handshake, before the next try."""

PROBE_EVERY: Final = 1.0
"""Seconds. In about one of 300 connects on a busy machine, libzmq 4.3.5 keeps its own probe until
something else is sent: the gateway would never notice an idle worker."""

RETRY_SEND: Final = 0.05
"""Seconds until a batch that could not be sent may be tried again."""

_READABLE: Final = int(zmq.POLLIN)


class RemoteDealer:
    """A DEALER socket of libzmq, which reconnects it."""

    probe_every = PROBE_EVERY

    def __init__(self, endpoint: str, bell: Bell, keys: LinkKeys | None = None) -> None:
        """Raises OSError for an invalid endpoint."""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._is_lost = False
        self._has_keys = keys is not None
        self.bell = bell
        self.endpoint = endpoint
        self._loop: AbstractEventLoop | None = None
        self._ready: Callable[[], object] = lambda: None
        self._retry_due = False
        # No routing id of our own, because two equal ones would clash.
        for option, value in (
            # With IMMEDIATE nothing is queued without a gateway, so stale batches vanish; the probe
            # on each connect tells a new gateway of an idle worker.
            (zmq.IMMEDIATE, 1),
            (zmq.PROBE_ROUTER, 1),
            (zmq.LINGER, 0),
            (zmq.RCVHWM, BATCHES_HELD),
            (zmq.SNDHWM, BATCHES_HELD),
            (zmq.MAXMSGSIZE, LARGEST_BATCH),
            (zmq.RECONNECT_IVL, RECONNECT_FIRST),
            (zmq.RECONNECT_IVL_MAX, 1000),
        ):
            self._socket.setsockopt(option, value)
        if endpoint.startswith("tcp://"):
            self._socket.setsockopt(zmq.IPV6, 1)
            self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT)
            self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_EXPIRY)
            self._socket.setsockopt(zmq.HEARTBEAT_TTL, HEARTBEAT_EXPIRY)
            self._socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_TIMEOUT)
            self._socket.setsockopt(zmq.HANDSHAKE_IVL, CONNECT_TIMEOUT)
        if keys is not None:
            secret = keys.secret.encode()
            self._socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
            self._socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
            self._socket.setsockopt(zmq.CURVE_SERVERKEY, keys.gateway.encode())
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise OSError(error.errno, error.strerror) from None

    @property
    def is_lost(self) -> bool:
        """Whether a connection, or an attempt to connect, has ended. libzmq connects again
        automatically, RECONNECT_FIRST later at the earliest: so the end is reported before any data
        of the next connection can be received."""
        # This is checked for each batch, and an exception would cost more than the check.
        while int(self._monitor.get(zmq.EVENTS)) & _READABLE:
            self._monitor.recv_multipart(zmq.NOBLOCK)
            self._is_lost = True
        return self._is_lost

    @property
    def why(self) -> str:
        """libzmq does not report why it has no connection."""
        return KEY_HINT if self._has_keys else ""

    def reconnect(self) -> None:
        self._is_lost = False

    def is_readable(self) -> bool:
        """Whether a batch is waiting."""
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def is_connected(self) -> bool:
        """Whether a gateway takes our batches."""
        events = int(self._socket.getsockopt(zmq.EVENTS))
        if self._loop is not None and events & zmq.POLLIN:
            # This check has consumed the edge.
            self._loop.call_soon(self._ready)
        return bool(events & zmq.POLLOUT)

    def receive(self) -> bytes | memoryview | None:
        """The next batch. None if there is none, or if `is_lost`."""
        if self.is_lost:
            # Remaining data of that connection is void.
            return None
        try:
            frame = self._socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        return frame.bytes if len(frame) < READ_IN_PLACE else frame.buffer

    def send(self, batch: bytes) -> bool:
        """Send a batch; False if there is no gateway or its queue is full."""
        sent = not self.is_lost
        if sent:
            try:
                self._socket.send(batch, zmq.NOBLOCK, copy=len(batch) < COPIED_BELOW)
            except zmq.Again:
                sent = False
        if self._loop is not None:
            self._look_again(self._loop, sent)
        return sent

    @property
    def has_unsent(self) -> bool:
        """libzmq writes in a thread of its own."""
        return False

    def flush(self, seconds: float) -> None:
        """Do nothing: libzmq writes in a thread of its own."""

    def _look_again(self, loop: AbstractEventLoop, sent: bool) -> None:
        """After a send, check again, because the descriptors are edge-triggered: the send may have
        consumed the edge of an arrival, or of a loss."""
        if self._is_lost or self.is_readable():
            loop.call_soon(self._ready)
        elif not sent and not self._retry_due:
            self._retry_due = True
            loop.call_later(RETRY_SEND, self._retry)

    def _retry(self) -> None:
        self._retry_due = False
        self._ready()

    def wait(self, seconds: float, *, to_send: bool = False) -> bool:
        """Wait until a batch can be received (or sent), the connection is lost, the bell rings, or
        time is up. True if there is a batch to receive, or a loss."""
        interest = zmq.POLLIN | zmq.POLLOUT if to_send else zmq.POLLIN
        milliseconds = -1 if seconds == float("inf") else max(0, int(seconds * 1000 + 0.999))
        readable = self.is_lost
        for who, what in zmq.zmq_poll(
            [
                (self._socket, interest),
                (self._monitor, zmq.POLLIN),
                (self.bell.reader, zmq.POLLIN),
            ],
            0 if readable else milliseconds,
        ):
            if who == self.bell.reader:
                self.bell.quiet()
            elif what & zmq.POLLIN:
                readable = True
        return readable

    def attach(self, loop: AbstractEventLoop, ready: Callable[[], object]) -> None:
        """Let the loop call `ready` whenever a batch or a loss may have come, or there may be room
        for a batch to send. `ready` must receive all batches, because libzmq's descriptors are
        edge-triggered."""
        self._loop, self._ready = loop, ready
        for each in (self._socket, self._monitor):
            loop.add_reader(_descriptor(each), ready)

    def detach(self) -> None:
        if self._loop is not None:
            for each in (self._socket, self._monitor):
                self._loop.remove_reader(_descriptor(each))
            self._loop = None

    def forked(self) -> None:
        """Close a forked child's copy of the connection, so that the gateway sees the worker's end.
        libzmq cannot do it, because its threads do not exist in the child."""
        scheme, _, place = self.endpoint.partition("://")
        address = split_host_port(place)
        for descriptor in _descriptors():
            peer = _peer(descriptor)
            if isinstance(peer, str):
                found = scheme == "ipc" and os.path.realpath(peer) == os.path.realpath(place)
            else:
                # With the option IPV6, IPv4 addresses are mapped. Host names are not looked up; for
                # them the heartbeat shows the end.
                host = str(peer[0]).removeprefix("::ffff:")
                found = scheme == "tcp" and (host, peer[1]) == address
            if found:
                os.close(descriptor)

    def close(self, *, after_bye: bool = False) -> None:
        """After the bye, wait until it is sent."""
        self._socket.setsockopt(zmq.LINGER, int(1000 * BYE_LINGER) if after_bye else 0)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close()
        self._context.term()


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(zmq.FD))


def _descriptors() -> list[int]:
    """Open descriptors of this process, if the system lists them."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return [int(name) for name in os.listdir(folder)]
    return []


def _peer(descriptor: int) -> tuple[object, ...] | str:
    """Peer address of a connected socket, or ""."""
    timeout = socket.getdefaulttimeout()
    # A default timeout would make the shared socket non-blocking.
    socket.setdefaulttimeout(None)
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return ""
    finally:
        socket.setdefaulttimeout(timeout)
    try:
        peer: tuple[object, ...] | str | bytes = sock.getpeername()
    except OSError:
        return ""
    finally:
        sock.detach()
    # Bytes are a name in the abstract namespace, where no gateway listens.
    return "" if isinstance(peer, bytes) else peer
