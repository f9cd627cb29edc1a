"""I/O. The ROUTER socket of the played gateway, which can die and come back at its endpoint.

It uses libzmq on purpose: a check against another implementation of the link proves more.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from wsraw.runtime.link.connection import HAS_UNIX, LONGEST_SOCKET_PATH

LARGEST_BATCH: Final = 64 * 1024 * 1024
RECEIVE_QUEUE: Final = 1000


class Router:
    """A socket like the gateway's for workers of this machine, or for those of other machines."""

    def __init__(self, *, remote: bool = False) -> None:
        """`remote`: on TCP, and with keys. Every key is accepted; the worker gets the gateway's key
        in its environment."""
        self.variables: dict[str, str] = {}
        """The further variables of a worker, beside the endpoint."""
        self._secret = b""
        # For this user alone: a process that can reach the socket can pose as the worker.
        self._folder = tempfile.mkdtemp(prefix="wsraw-conform-")
        path = os.path.join(self._folder, "link.sock")
        if remote:
            self.endpoint = "tcp://127.0.0.1:*"
            self._make_keys()
        elif not HAS_UNIX or len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            self.endpoint = "tcp://127.0.0.1:*"
        else:
            self.endpoint = f"ipc://{path}"
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._links = 0
        self.up()

    def _make_keys(self) -> None:
        ours, self._secret = zmq.curve_keypair()
        public, secret = zmq.curve_keypair()
        for name, key in (("SERVER", ours), ("PUBLIC", public), ("SECRET", secret)):
            self.variables[f"WSRAW_CURVE_{name}KEY"] = key.decode()

    def up(self) -> None:
        self._context = zmq.Context()
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, LARGEST_BATCH)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_QUEUE)
        if self._secret:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
        self._monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._links = 0
        socket.bind(self.endpoint)
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._socket = socket

    def down(self) -> None:
        """Close at once, with all links, and wait until the endpoint is free. A socket that is
        merely closed frees it later, and would then remove the file of the next socket."""
        if self._socket is not None and self._context is not None:
            self._socket.disable_monitor()
            if self._monitor is not None:
                self._monitor.close(0)
            self._socket.close(0)
            self._context.term()
            self._socket = self._context = self._monitor = None

    def is_linked(self) -> bool:
        """Whether a worker is connected. If not, all that it has sent can be received: libzmq
        reports the end of a link after its last message."""
        monitor = self._monitor
        while monitor is not None and monitor.poll(0):
            event = recv_monitor_message(monitor)["event"]
            self._links += 1 if event == zmq.EVENT_ACCEPTED else -1
        return self._links > 0

    def send(self, identity: bytes, data: bytes) -> None:
        """Send a message. If that fails, the check will miss the answer."""
        if self._socket is None:
            return
        try:
            self._socket.send_multipart([identity, data], zmq.NOBLOCK)
        except zmq.ZMQError:
            pass

    def receive(self, seconds: float) -> tuple[bytes, list[bytes]] | None:
        """The next message with its routing id; None if none comes within that time."""
        milliseconds = max(0, int(seconds * 1000 + 0.999))
        if self._socket is None:
            # Nothing can come while the socket is closed.
            zmq.zmq_poll([], milliseconds)
            return None
        if not self._socket.poll(milliseconds):
            return None
        identity, *frames = self._socket.recv_multipart()
        return identity, frames

    def close(self) -> None:
        self.down()
        shutil.rmtree(self._folder, ignore_errors=True)
