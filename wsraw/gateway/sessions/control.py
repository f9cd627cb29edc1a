"""I/O. The gateway's end of the control link to the supervisor."""

from __future__ import annotations

from typing import Final

import zmq

# As plain numbers: pyzmq's are enums, and an operation on those takes a microsecond.
_READABLE: Final = int(zmq.POLLIN)
_EVENTS: Final = int(zmq.EVENTS)
_NOBLOCK: Final = int(zmq.NOBLOCK)


class ControlSocket:
    """The DEALER to the supervisor, whose ROUTER outlives gateways.

    Its descriptor is edge-triggered, and a send can consume the edge: so it only wakes the loop,
    and each turn asks `pending` before it sleeps.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        socket = self._socket = context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 1000)
        socket.connect(endpoint)
        self.fd = self._get_int(zmq.FD)
        self._must_ask = True

    def _get_int(self, option: int) -> int:
        value = self._socket.get(option)
        assert isinstance(value, int)
        return value

    def wake(self, readable: bool, writable: bool) -> None:
        """The loop's call: the descriptor is ready. The turn itself reads the socket."""
        self._must_ask = True

    def look_again(self) -> None:
        """The descriptor may have missed a message: ask."""
        self._must_ask = True

    def pending(self) -> bool:
        """Whether a message waits: to be asked after every send, before every sleep."""
        if self._must_ask:
            self._must_ask = bool(self._get_int(_EVENTS) & _READABLE)
        return self._must_ask

    def receive(self) -> bytes | None:
        """The next waiting message, or None."""
        return self._socket.recv(_NOBLOCK) if self.pending() else None

    def send(self, data: bytes) -> None:
        """Send one batch. The queue is large for what is said here; full, it is dropped."""
        self._must_ask = True
        try:
            self._socket.send(data, _NOBLOCK)
        except zmq.Again:
            pass

    def close(self) -> None:
        """Close when what was said is out, or after a second."""
        self._socket.close()


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One per process."""
    return zmq.Context()
