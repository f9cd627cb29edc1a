"""I/O. ROUTER sockets for workers, over libzmq.

Three things about them must be remembered (all were reproduced):

- The descriptor (zmq.FD) is edge-triggered, and a *send* can eat the edge of a message that has
  come in meanwhile. So it only wakes the loop; each turn drains, and asks `pending` before it
  sleeps.
- A ROUTER drops messages to peers it does not know in silence, unless ROUTER_MANDATORY is set.
- EHOSTUNREACH comes before the last batches of a dead peer have been read.

Identities of remote workers carry a mark, so that none is that of a worker on this machine.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Container, Sequence
from enum import Enum
from typing import Final

import zmq

from wsraw.link.batches import (
    COPIED_BELOW,
    LARGEST_REMOTE_BATCH,
    NO_BATCH,
    Batch,
)
from wsraw.runtime.clock import monotonic

RECEIVE_QUEUE: Final = 16
"""Batches from each worker that libzmq holds for us; if there are more, the worker's sends wait. It
counts batches, not bytes: a worker can make it hold this many of the largest ones."""

TURN_BYTES: Final = 8 * 1024 * 1024
"""Bytes of batches that are read from one socket in a turn, in addition to the budget of
batches."""

DRAIN_TIME: Final = 0.0015
"""Seconds of a turn for batches of one socket; answering a flood can take long, too."""

HANDSHAKE_TIMEOUT: Final = 5000
"""Milliseconds for a ZMTP handshake; also the delay before a peer whose key is rejected tries
again."""

EXPIRY_BEATS: Final = 3
"""Missed heartbeats after which the link of a remote worker is lost."""

REMOTE_MARK: Final = b"\x01"
"""Prefix of the identities of remote workers; libzmq's own begin with a zero byte."""

ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"

ZAP_BUDGET: Final = 32
"""Handshakes that are answered in a turn."""

# As plain numbers: pyzmq's are enums, whose operations take a microsecond.
_READABLE: Final = int(zmq.POLLIN)
_EVENTS: Final = int(zmq.EVENTS)
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE_FOLLOWS: Final = _NOBLOCK | int(zmq.SNDMORE)


class Sent(Enum):
    """The result of a send."""

    OK = "ok"
    FULL = "full"
    """The queue is full: a sign of neither death nor life."""
    GONE = "gone"


class Wire:
    """A descriptor that wakes the loop, and the check that must follow it. The check costs 2 µs, a
    receive in vain 4 µs: so it is done only when its result may have changed, after a wake-up and
    after a send."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self.fd = _get_int(socket, zmq.FD)
        self._must_ask = True
        self._clock = monotonic

    def wake(self, readable: bool, writable: bool) -> None:
        """Called by the loop: the descriptor is ready. The turn itself drains the socket."""
        self._must_ask = True

    def look_again(self) -> None:
        """The descriptor may have missed a message: check."""
        self._must_ask = True

    def pending(self) -> bool:
        """Whether a message waits: to be asked after every send, and before every sleep."""
        return self._has_message()

    def _has_message(self) -> bool:
        if self._must_ask:
            self._must_ask = bool(_get_int(self._socket, _EVENTS) & _READABLE)
        return self._must_ask

    def close(self) -> None:
        """Close at once; messages that are not read or sent are lost."""
        self._socket.close(0)


class RouterSocket(Wire):
    """A ROUTER socket: batches from workers and to them, each known by its identity."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        super().__init__(socket)
        self.drained = True
        """Whether the last drain has read all that there was."""

    def pending(self) -> bool:
        """Whether a message waits, or may wait."""
        return not self.drained or self._has_message()

    def drain(
        self, receive: Callable[[bytes, Batch], None], budget: int, seconds: float = DRAIN_TIME
    ) -> None:
        """Pass on each waiting (identity, data), at most `budget`."""
        left = TURN_BYTES
        until = self._clock() + seconds
        for _ in range(budget):
            if not self._has_message():
                self.drained = True
                return
            message = self._receive()
            if message is None:
                continue
            identity, data = message
            receive(identity, data)
            left -= len(data)
            if left < 0 or self._clock() > until:
                break
        self.drained = False

    @abstractmethod
    def _receive(self) -> tuple[bytes, Batch] | None:
        """The next message; None if it must be ignored."""

    def send(self, identity: bytes, data: bytes) -> Sent:
        """Send one batch; never waits."""
        self._must_ask = True
        socket = self._socket
        try:
            socket.send(identity, _MORE_FOLLOWS)
            socket.send(data, _NOBLOCK, copy=len(data) < COPIED_BELOW)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.OK


class RemoteSocket(RouterSocket):
    """The ROUTER that workers on other machines connect to. Raises OSError when it cannot bind."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoints: Sequence[str],
        secret: str,
        heartbeat: float,
        known: Container[bytes],
        meet: Callable[[bytes, str, str], bool],
    ) -> None:
        """With a `secret` key, the socket speaks CURVE, and asks a Gatekeeper, which must exist
        already. For an identity that is not `known`, `meet` is asked first, with its address and
        the user id of its key ("" if there is none); if it returns False, the data is dropped,
        unread and uncopied."""
        socket = context.socket(zmq.ROUTER)
        super().__init__(socket)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, LARGEST_REMOTE_BATCH)
        socket.set(zmq.RCVHWM, RECEIVE_QUEUE)
        self._known = known
        self._meet = meet
        socket.set(zmq.IPV6, int(any("[" in endpoint for endpoint in endpoints)))
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_TIMEOUT)
        if heartbeat:
            # The death of a remote worker is not reported, and a cut cable sends no FIN.
            expiry = int(heartbeat * 1000 * EXPIRY_BEATS)
            socket.set(zmq.HEARTBEAT_IVL, max(1, int(heartbeat * 1000)))
            socket.set(zmq.HEARTBEAT_TIMEOUT, expiry)
            # In tenths of a second, and 16 bits wide (ZeroMQ RFC 37).
            socket.set(zmq.HEARTBEAT_TTL, min(expiry, 6_553_500))
        if secret:
            socket.set(zmq.CURVE_SERVER, 1)
            socket.set(zmq.CURVE_SECRETKEY, secret.encode())
            socket.set(zmq.ZAP_DOMAIN, b"wsraw")
        self.endpoints = []
        for endpoint in endpoints:
            try:
                socket.bind(endpoint)
            except zmq.ZMQError as error:
                socket.close(0)
                text = f"worker_listen: {endpoint}: {error.strerror}"
                raise OSError(error.errno, text) from None
            self.endpoints.append(socket.get_string(zmq.LAST_ENDPOINT))

    def _receive(self) -> tuple[bytes, Batch] | None:
        frames = self._socket.recv_multipart(_NOBLOCK, copy=False)
        chosen = frames[0].bytes
        if chosen[0]:
            return None
        identity = REMOTE_MARK + chosen
        if identity not in self._known and not self._meet(
            identity, _property(frames[0], "Peer-Address"), _property(frames[0], "User-Id")
        ):
            return None
        return identity, frames[1].buffer if len(frames) == 2 else NO_BATCH

    def send(self, identity: bytes, data: bytes) -> Sent:
        """Send one batch; never waits."""
        return super().send(identity[1:], data)


OK: Final = b"200"
LATER: Final = b"300"
"""The status for unknown keys. Not 400, which means never: libzmq's client would not try again as
long as its process lives, although its key may be accepted a minute later."""

MECHANISM: Final = 5
CREDENTIALS: Final = 6
ADDRESS: Final = 3
# Indexes in a request: version, request id, domain, address, routing id, mechanism, credentials.


def zap_reply(
    request: Sequence[bytes], lets_in: Callable[[bytes], str | None]
) -> tuple[list[bytes], str]:
    """The answer to a ZAP request, and the address to log, "" if the peer is let in. `lets_in`
    gives the user id for a public key, or None."""
    user = None
    if len(request) == CREDENTIALS + 1 and request[MECHANISM] == b"CURVE":
        user = lets_in(request[CREDENTIALS])
    head = list(request[:2]) if len(request) > 1 else [b"1.0", b""]
    if user is None:
        address = request[ADDRESS].decode(errors="replace") if len(request) > ADDRESS else "?"
        return [*head, LATER, b"this key is not let in", b"", b""], address
    return [*head, OK, b"OK", user.encode(), b""], ""


class Gatekeeper(Wire):
    """Answers libzmq's question whether a key is accepted (ZAP). It runs in our loop, without a
    thread: a handshake waits for a turn, and nothing else waits for it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        """There is one for each context, made before the first RemoteSocket with a key."""
        super().__init__(context.socket(zmq.REP))
        self._socket.set(zmq.LINGER, 0)
        self._socket.bind(ZAP_ENDPOINT)

    def answer(
        self, lets_in: Callable[[bytes], str | None], refused: Callable[[str], object]
    ) -> None:
        """Answer the waiting handshakes. `lets_in` gives a user id for a public key, or None; then
        `refused` is called with the address."""
        for _ in range(ZAP_BUDGET):
            if not self.pending():
                return
            reply, address = zap_reply(self._socket.recv_multipart(_NOBLOCK), lets_in)
            self._socket.send_multipart(reply)
            self._must_ask = True
            if address:
                refused(address)


def _property(frame: zmq.Frame, name: str) -> str:
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


def _get_int(socket: zmq.Socket[bytes], option: int) -> int:
    value = socket.get(option)
    assert isinstance(value, int)
    return value


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """The context; there is one in a process."""
    return zmq.Context()
