"""I/O. The connecting end of the worker link: of a worker, of the gateway to its supervisor, and of
the command line. It has no loop: the caller polls its descriptor, and calls `work`."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from wsraw.link.batches import LARGEST_BATCH, Batch
from wsraw.link.zmtp import ZmtpPeer
from wsraw.runtime.clock import monotonic
from wsraw.runtime.link.connection import HAS_UNIX, LONGEST_SOCKET_PATH, LinkSocket, tune
from wsraw.runtime.sockets import strerror

RETRY_FIRST: Final = 0.02
"""Seconds before the second attempt to connect."""

RETRY_MOST: Final = 1.0
"""The longest pause in seconds between two attempts; also how long a connection must last for the
next pause to be the shortest one again."""

LONGER_ABSENT: Final = 1.125
"""Factor by which each pause grows while no server answers: an attempt costs little, and a server
is found after at most an eighth of the time that it was away."""

LONGER_REFUSED: Final = 2.0
"""Factor by which each pause grows after a connection that has ended: each makes work, and log
lines, at both ends."""

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for an attempt, including the ZMTP handshake."""

UNSENT_LIMIT: Final = 1024 * 1024
"""Unsent bytes up to which one more batch is accepted."""

_Address = str | tuple[str, int]


class LinkClient:
    """A connection to a LinkServer (or a ROUTER of libzmq) that is made again and again.

    A loss is reported once and in order: after the last batch of a connection that has ended,
    `receive` returns None and `is_lost` is True until `reconnect` is called. So no batch for one
    server can reach the next one.

    Poll `fileno()` for reading (and for writing while `wants_write`), until `wait_until` at most;
    then call `work`. Calls from several threads need a lock.
    """

    def __init__(self, endpoint: str, *, limit: int = LARGEST_BATCH, probe: bool = False) -> None:
        """Raises OSError for an invalid endpoint. The client connects in the first call of `work`.

        With `probe`, the first thing on each connection is an empty batch, like libzmq's
        PROBE_ROUTER: it makes a gateway ask who is there.
        """
        self.endpoint = endpoint
        self.is_connected = False
        """Whether both ends have exchanged READY, and `send` works."""
        self.wants_write = False
        """Whether to poll for writability, too."""
        self.wait_until = 0.0
        """When to call `work` even if the descriptor is not ready, by the clock that `work` is
        given; infinity if that is not needed."""
        self.why = ""
        """Why the last connection, or the last attempt, has ended: an error of the system, or what
        an ERROR command of the other end says."""
        self.on_change: Callable[[], object] = _nothing
        """Called when `fileno()` or `wants_write` has changed, or a write has failed (so that
        `work` is due); before an old descriptor is closed, with `fileno()` already without it. No
        call of `work` closes one and opens another."""
        self._family, self._address = _parse(endpoint)
        self._limit = limit
        self._probe = probe
        self._socket: LinkSocket | None = None
        self._connecting: socket.socket | None = None
        """While TCP connects."""
        self._batches: deque[Batch] = deque()
        self._is_lost = False
        self._pause = RETRY_FIRST
        self._since = 0.0
        """When the attempt began, and then, when the connection was made."""

    @property
    def is_lost(self) -> bool:
        """Whether a connection has ended (`why` has the reason) and all its batches are taken; only
        `reconnect` resets this. A failed attempt is not a loss: it is repeated automatically."""
        return self._is_lost and not self._batches

    @property
    def is_readable(self) -> bool:
        """Whether `receive` has a batch, or a loss must be reported."""
        return self._is_lost or bool(self._batches)

    @property
    def unsent(self) -> int:
        """Bytes that the system has not taken yet."""
        return 0 if self._socket is None else self._socket.unsent

    def fileno(self) -> int:
        """The descriptor to poll; -1 while there is none."""
        if self._socket is not None:
            return self._socket.fileno()
        return -1 if self._connecting is None else self._connecting.fileno()

    def work(self, now: float) -> None:
        """Connect, write and read as far as possible without waiting. To be called when the
        descriptor is ready or `wait_until` has come. Nothing is read while batches wait for
        `receive`."""
        socket = self._socket
        if socket is None:
            if self._connecting is not None:
                self._go_on(now)
            elif now >= self.wait_until and not self._is_lost:
                self._connect(now)
            return
        if self.wants_write:
            self._flush(socket)
        if self._batches:
            return
        batches = socket.receive()
        if batches:
            self._batches += batches
        if socket.unsent and not self.wants_write:
            # The answer to a greeting, to a PING, or to an error.
            self._flush(socket)
        if socket.ended:
            self._lose(socket, now)
        elif not self.is_connected:
            self._greet(socket, now)

    def receive(self) -> Batch | None:
        """The next batch that `work` has read, or None."""
        return self._batches.popleft() if self._batches else None

    def send(self, batch: bytes) -> bool:
        """Write a batch now, as far as possible, the rest in `work`. False, and nothing is sent, if
        there is no gateway or UNSENT_LIMIT bytes are unsent."""
        socket = self._socket
        if not self.is_connected or socket is None or socket.unsent > UNSENT_LIMIT:
            return False
        if not socket.send(batch):
            self._update(socket)
        return True

    def _flush(self, socket: LinkSocket) -> None:
        socket.flush()
        self._update(socket)

    def _update(self, socket: LinkSocket) -> None:
        """After a write: update whether to wait for writability."""
        wants = socket.unsent > 0
        if socket.broken:
            # Earlier data is still to be read: `work` finds the end after it.
            self.is_connected = wants = False
            self.wait_until = 0.0
        if wants is not self.wants_write or socket.broken:
            self.wants_write = wants
            self.on_change()

    # --- connecting ---

    def _connect(self, now: float) -> None:
        self._since = now
        try:
            sock = socket.socket(self._family, socket.SOCK_STREAM)
        except OSError as error:
            self._fail(str(error), now)
            return
        try:
            tune(sock)
            sock.connect(self._address)
        except BlockingIOError as error:
            if self._family != getattr(socket, "AF_UNIX", None):
                self._connecting = sock
                self.wants_write = True
                self.wait_until = now + CONNECT_TIMEOUT
                self.on_change()
                return
            # The queue of the listening socket is full, and a unix socket does not wait there.
            sock.close()
            self._fail(error.strerror or str(error), now)
        except OSError as error:
            sock.close()
            self._fail(error.strerror or str(error), now)
        else:
            self._begin(sock, now)

    def _go_on(self, now: float) -> None:
        """Continue after TCP was connecting."""
        sock = self._connecting
        assert sock is not None
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not error:
            try:
                sock.getpeername()
            except OSError:
                if now < self.wait_until:
                    return
                error = errno.ETIMEDOUT
        if not error:
            self._connecting = None
            self._begin(sock, now)
            return
        self._connecting = None
        self.wants_write = False
        self.on_change()
        sock.close()
        self._fail(strerror(error), now)

    def _begin(self, sock: socket.socket, now: float) -> None:
        """The socket is connected: send the greeting."""
        self._socket = LinkSocket(
            sock, ZmtpPeer("DEALER", ("ROUTER",), self._limit, as_server=False)
        )
        self.wait_until = now + CONNECT_TIMEOUT
        self.wants_write = False
        self.on_change()
        self._flush(self._socket)

    def _greet(self, socket: LinkSocket, now: float) -> None:
        if socket.peer.is_ready:
            self.is_connected = True
            self._since = now
            self.wait_until = float("inf")
            if self._probe:
                self.send(b"")
        elif now >= self.wait_until and not socket.broken:
            socket.fail(f"no ZMTP handshake within {CONNECT_TIMEOUT:g} s")
            self._lose(socket, now)

    def _lose(self, socket: LinkSocket, now: float) -> None:
        """Handle the end of a connection, which is a loss if it was established."""
        self._is_lost = socket.peer.is_ready
        self.is_connected = self.wants_write = False
        if self._is_lost and now - self._since >= RETRY_MOST:
            self._pause = RETRY_FIRST
        self._socket = None
        self.on_change()
        socket.close()
        self._fail(socket.why, now, LONGER_REFUSED)

    def _fail(self, why: str, now: float, longer: float = LONGER_ABSENT) -> None:
        """Try again after a pause."""
        self.why = why
        self.wait_until = now + self._pause
        self._pause = min(RETRY_MOST, longer * self._pause)

    def reconnect(self) -> None:
        """After a loss, let `work` connect again, after a pause."""
        self._is_lost = False

    # --- the end ---

    def flush(self, seconds: float) -> bool:
        """Write unsent bytes, waiting at most this many seconds. Returns whether nothing is left.
        Blocks."""
        socket = self._socket
        if socket is None:
            return True
        written = _write_out(socket, monotonic() + seconds)
        self._update(socket)
        return written

    def close(self, linger: float = 0.0) -> None:
        """Close when unsent bytes were written, after this many seconds at the latest. Blocks."""
        socket = self._socket
        if socket is not None and self.is_connected:
            until = monotonic() + linger
            _write_out(socket, until)
            if socket.is_tcp and not socket.broken:
                # Closing with unread data would destroy what the other end has not read yet.
                socket.finish()
                while monotonic() < until and _wait(socket.fileno(), until, to_write=False):
                    if not socket.discard():
                        break
        opened = self._detach()
        self.on_change()
        for each in opened:
            each.close()

    def forked(self) -> None:
        """In a forked child: close our copy of the descriptor, so that the gateway sees the
        worker's end, and leave unsent bytes to the parent."""
        for each in self._detach():
            each.close()

    def _detach(self) -> list[LinkSocket | socket.socket]:
        """Release the descriptor for good; the caller closes its socket."""
        opened = [each for each in (self._socket, self._connecting) if each is not None]
        self._socket = self._connecting = None
        self.is_connected = self.wants_write = False
        self.wait_until = float("inf")
        return opened


def _nothing() -> None:
    """The default of `on_change`."""


def _parse(endpoint: str) -> tuple[int, _Address]:
    """Family and address of an endpoint. Raises OSError if it can never work here."""
    scheme, _, place = endpoint.partition("://")
    if scheme == "ipc" and place:
        if not HAS_UNIX:
            raise OSError(errno.EAFNOSUPPORT, f"{endpoint}: this platform has no unix sockets")
        if len(os.fsencode(place)) > LONGEST_SOCKET_PATH:
            raise OSError(errno.ENAMETOOLONG, f"{endpoint}: choose a shorter path")
        return socket.AF_UNIX, place
    host, _, port = place.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if scheme == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 65536:
        return socket.AF_INET6 if ":" in host else socket.AF_INET, (host, int(port))
    raise OSError(errno.EINVAL, f"{endpoint}: not an endpoint of a link on this machine")


def _write_out(socket: LinkSocket, until: float) -> bool:
    """Write unsent bytes. Returns whether nothing is left."""
    while not socket.flush():
        if socket.broken or not _wait(socket.fileno(), until, to_write=True):
            return False
    return True


def _wait(descriptor: int, until: float, *, to_write: bool) -> bool:
    """Wait until a descriptor is ready, in a way that works for any descriptor number."""
    seconds = max(0.0, until - monotonic())
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT if to_write else select.POLLIN)
        return bool(poll.poll(math.ceil(seconds * 1000)))
    waiting = [descriptor]
    return any(select.select([] if to_write else waiting, waiting if to_write else [], [], seconds))
