"""I/O. Records with descriptors, over a unix socket: what a handover is made of.

A frame is a head, the families of its sockets, one byte each, and its data. Its descriptors
(SCM_RIGHTS, unix(7)) go with its first byte. Neither end blocks: its owner waits.
"""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from wsraw.runtime.printable import os_error

MOST_SOCKETS: Final = 250
"""Sockets in a frame. Linux takes 253 descriptors a message (SCM_MAX_FD)."""

BUFFER: Final = 1024 * 1024
"""Size in bytes of the buffers that we ask the system for; it may give less."""

READ_SIZE: Final = 256 * 1024

_HEAD: Final = struct.Struct(">IBB")
"""Size of the data, kind, number of sockets."""

RECORD: Final = 0
"""Part of the state."""
OWN: Final = 1
"""Data of the process that is not part of the state; see giving.py."""
LAST: Final = 2
"""The last frame."""


class Frame(NamedTuple):
    """A received frame."""

    kind: int
    data: bytes
    sockets: list[socket.socket]


class ChannelError(Exception):
    """The received data cannot be used; the text says why."""


def pair(size: int = BUFFER) -> tuple[socket.socket, socket.socket]:
    """Both ends of a channel, with buffers of this size. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return ours, theirs


class Sender:
    """The giver's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data: memoryview = memoryview(b"")
        self._sockets: Sequence[socket.socket] = ()
        self.bytes = 0
        """Bytes sent so far."""

    @property
    def is_done(self) -> bool:
        """Whether the system has taken the whole last frame."""
        return not self._data

    def put(self, kind: int, data: bytes, sockets: Sequence[socket.socket] = ()) -> None:
        """Begin with the next frame, once the last one is done."""
        assert len(sockets) <= MOST_SOCKETS
        families = bytes(sock.family for sock in sockets)
        head = _HEAD.pack(len(data), kind, len(sockets))
        self._data = memoryview(b"".join((head, families, data)))
        self._sockets = sockets

    def send(self) -> bool:
        """Send as much as the system takes; return whether that was anything. Raises OSError if the
        other end is gone."""
        assert sys.platform != "win32"
        before = len(self._data)
        try:
            while self._data:
                rights: list[tuple[int, int, array.array[int]]] = []
                if self._sockets:
                    numbers = array.array("i", [sock.fileno() for sock in self._sockets])
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)]
                size = self._sock.sendmsg([self._data], rights)
                self._sockets = ()
                self._data = self._data[size:]
                self.bytes += size
        except BlockingIOError:
            pass
        except OSError as error:
            # Linux limits how many descriptors of a user may be in transit at a time.
            if error.errno != errno.ETOOMANYREFS:
                raise
            time.sleep(0.001)
        return len(self._data) < before


class Receiver:
    """The taker's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = bytearray()
        self._numbers: deque[int] = deque()
        self.ended = False

    def receive(self) -> list[Frame]:
        """The frames that have arrived completely. Raises ChannelError."""
        assert sys.platform != "win32"
        room = socket.CMSG_SPACE(4 * (MOST_SOCKETS + 3))
        frames: list[Frame] = []
        while not self.ended:
            try:
                data, rights, flags, _ = self._sock.recvmsg(
                    READ_SIZE, room, getattr(socket, "MSG_CMSG_CLOEXEC", 0)
                )
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                # The other end was closed before it had read everything.
                data, rights, flags = b"", [], 0
            for _, kind, numbers in rights:
                if kind == socket.SCM_RIGHTS:
                    self._take(numbers)
            if flags & socket.MSG_CTRUNC:
                raise ChannelError(
                    "there are too few descriptors for what the old gateway holds; raise the limit "
                    "of open files (ulimit -Hn)"
                )
            if not data:
                self.ended = True
            self._data += data
            self._split(frames)
            if len(data) < READ_SIZE and frames:
                break
        return frames

    def _take(self, data: bytes) -> None:
        numbers = array.array("i")
        numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
        if not getattr(socket, "MSG_CMSG_CLOEXEC", 0):
            for number in numbers:
                os.set_inheritable(number, False)
        self._numbers.extend(numbers)

    def _split(self, frames: list[Frame]) -> None:
        while len(self._data) >= _HEAD.size:
            length, kind, count = _HEAD.unpack_from(self._data)
            begin = _HEAD.size + count
            if len(self._data) < begin + length:
                break
            families = bytes(self._data[_HEAD.size : begin])
            data = bytes(self._data[begin : begin + length])
            del self._data[: begin + length]
            frames.append(Frame(kind, data, self._adopt(families)))

    def _adopt(self, families: bytes) -> list[socket.socket]:
        sockets = []
        for family in families:
            if not self._numbers:
                raise ChannelError("a descriptor of the old gateway did not arrive")
            try:
                sock = socket.socket(family, socket.SOCK_STREAM, 0, self._numbers.popleft())
            except OSError as error:
                raise ChannelError(f"a descriptor cannot be used: {os_error(error)}") from error
            sockets.append(sock)
        return sockets

    def close(self) -> None:
        """Close the received descriptors that were not handed out."""
        while self._numbers:
            os.close(self._numbers.popleft())
        self._sock.close()
