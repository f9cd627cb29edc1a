"""I/O. The gateway's ZeroMQ sockets: the only place here that knows zmq.

Three things about them must be remembered (all were reproduced):

- The descriptor (zmq.FD) is edge-triggered, and a *send* can eat the edge of a message that has
  come in meanwhile. So it only wakes the loop; each turn drains, and asks `pending` before it
  sleeps.
- A ROUTER drops messages to peers it does not know in silence, unless ROUTER_MANDATORY is set.
- EHOSTUNREACH comes before the last batches of a dead peer have been read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import Enum
from typing import Final

import zmq

MAX_BATCH: Final = 64 * 1024 * 1024
"""The largest batch a worker may send; libzmq drops the peer that sends more."""

RECEIVE_QUEUE: Final = 1000
"""Batches that libzmq holds for us from each worker; beyond that its sends wait."""


class Sent(Enum):
    """What became of a send."""

    OK = "ok"
    FULL = "full"
    """Its queue is full: no sign of death, nor of life."""
    GONE = "gone"


class WorkerWire:
    """The ROUTER that workers connect to."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], run_dir: str) -> None:
        self._socket = socket = context.socket(zmq.ROUTER)
        socket.set(zmq.ROUTER_MANDATORY, 1)
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, MAX_BATCH)
        socket.set(zmq.RCVHWM, RECEIVE_QUEUE)
        if sys.platform != "win32" and run_dir:
            path = os.path.join(run_dir, "link.sock")
            self.endpoint = f"ipc://{path}"
            socket.bind(self.endpoint)
            os.chmod(path, 0o600)
        else:
            socket.bind("tcp://127.0.0.1:*")
            self.endpoint = socket.get_string(zmq.LAST_ENDPOINT)
        self.fd = _get_int(socket, zmq.FD)

    def drain(self, receive: Callable[[bytes, bytes], None], budget: int) -> bool:
        """Hand over each waiting (identity, data), at most `budget`; True if none is left."""
        recv = self._socket.recv_multipart
        try:
            for _ in range(budget):
                frames = recv(zmq.NOBLOCK)
                if frames[0][0]:
                    # An identity of its own choice: two workers with the same would be one for us.
                    # libzmq's begin with a zero byte, and nobody can choose those.
                    continue
                # More frames than two are no batch; empty data is what PROBE_ROUTER sends.
                receive(frames[0], frames[1] if len(frames) == 2 else b"\xc1")
        except zmq.Again:
            return True
        return False

    def send(self, identity: bytes, data: bytes) -> Sent:
        """Send one batch; never waits."""
        try:
            self._socket.send_multipart((identity, data), zmq.NOBLOCK)
        except zmq.Again:
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.GONE
            raise
        return Sent.OK

    def pending(self) -> bool:
        """Whether a message waits: to be asked after every send, before every sleep."""
        return bool(_get_int(self._socket, zmq.EVENTS) & zmq.POLLIN)

    def close(self) -> None:
        """Close at once; what workers still send is lost with us."""
        self._socket.close(0)


class ControlWire:
    """The DEALER to the supervisor, whose ROUTER outlives gateways."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._socket = socket = context.socket(zmq.DEALER)
        socket.set(zmq.LINGER, 1000)
        socket.connect(endpoint)
        self.fd = _get_int(socket, zmq.FD)

    def receive(self) -> bytes | None:
        """The next waiting message, or None."""
        try:
            return self._socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def send(self, data: bytes) -> None:
        """Send one batch. The queue is large for what is said here; full, it is dropped."""
        try:
            self._socket.send(data, zmq.NOBLOCK)
        except zmq.Again:
            pass

    def pending(self) -> bool:
        """Whether a message waits."""
        return bool(_get_int(self._socket, zmq.EVENTS) & zmq.POLLIN)

    def close(self) -> None:
        """Close when what was said is out, or after a second."""
        self._socket.close()


def _get_int(socket: zmq.Socket[bytes], option: int) -> int:
    value = socket.get(option)
    assert isinstance(value, int)
    return value


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """One per process."""
    return zmq.Context()
