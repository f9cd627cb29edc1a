"""I/O. The selector of this platform: epoll made faster, and select for any number on Windows."""

from __future__ import annotations

import math
import select
import selectors
import socket
import sys
import time
from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import FileDescriptorLike

MOST_READY: Final = 256
"""Most descriptors per turn. epoll reports the others first in the next turn."""

# Globals, because they are used twice for each ready descriptor.
READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

_HANDLE: Final = "Q" if sys.maxsize > 1 << 32 else "I"

Sockets: TypeAlias = "array[int]"
"""A Winsock fd_set of any length: the number of handles, then the handles."""

Wait: TypeAlias = "Callable[[Sockets, Sockets, Sockets, float | None], object]"
"""Wait this many seconds (None: for ever) for sockets that can be read, can be written, or cannot
connect. Leaves the ready ones in each set."""


class FdSet:
    """Sockets in an fd_set; its memory is copied for each wait."""

    def __init__(self) -> None:
        self._sockets: Sockets = array(_HANDLE, [0])
        self._places: dict[int, int] = {}

    def add(self, handle: int) -> None:
        self._places[handle] = len(self._sockets)
        self._sockets.append(handle)

    def discard(self, handle: int) -> None:
        place = self._places.pop(handle, 0)
        if place:
            last = self._sockets.pop()
            if last != handle:
                self._sockets[place] = last
                self._places[last] = place

    def copy(self) -> Sockets:
        copied = self._sockets[:]
        copied[0] = len(copied) - 1
        return copied


def _ready(sockets: Sockets) -> Sockets:
    """The sockets that a wait has left in a set."""
    # The count takes four bytes of the first item, and the other four do not matter.
    return sockets[1 : 1 + (sockets[0] & 0xFFFF_FFFF)]


class FdSetSelector(selectors._BaseSelectorImpl):
    """The library's SelectSelector on Windows, but for any number of sockets. CPython accepts 512
    there, and raises an exception for more."""

    def __init__(self, wait: Wait) -> None:
        super().__init__()
        self._wait = wait
        self._readers = FdSet()
        self._writers = FdSet()

    def register(
        self, fileobj: FileDescriptorLike, events: int, data: Any = None
    ) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        if events & READ:
            self._readers.add(key.fd)
        if events & WRITE:
            self._writers.add(key.fd)
        return key

    def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._readers.discard(key.fd)
        self._writers.discard(key.fd)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Like the library's method."""
        keys: Mapping[int, selectors.SelectorKey] = self._fd_to_key  # type: ignore[attr-defined]
        timeout = None if timeout is None else max(0.0, timeout)
        if not keys and timeout is not None:
            # Winsock refuses to wait for nothing.
            time.sleep(timeout)
            return []
        to_read, to_write, failing = (
            each.copy() for each in (self._readers, self._writers, self._writers)
        )
        self._wait(to_read, to_write, failing, timeout)
        masks = dict.fromkeys(_ready(to_read), READ)
        # On Windows, a connection that cannot be made does not become writable.
        for handle in (*_ready(to_write), *_ready(failing)):
            masks[handle] = masks.get(handle, 0) | WRITE
        return [(keys[handle], mask) for handle, mask in masks.items()]


if sys.platform == "linux" and hasattr(select, "epoll"):
    _READABLE: Final = select.EPOLLIN

    class Selector(selectors.EpollSelector):
        """Asks for at most MOST_READY events. The library's selector allocates room for all
        descriptors each time: 120 KB a turn with 10,000 connections."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Like the library's method, but always with a timeout."""
            assert timeout is not None
            keys: Any = self._fd_to_key  # type: ignore[attr-defined]
            epoll: select.epoll = self._selector  # type: ignore[attr-defined]
            ready = []
            # epoll counts in milliseconds: round up, so as not to wake too early repeatedly.
            for fd, event in epoll.poll(math.ceil(timeout * 1e3) * 1e-3, MOST_READY):
                key = keys.get(fd)
                if key is None:
                    continue
                if event == _READABLE:
                    # The usual case.
                    ready.append((key, key.events & READ))
                else:
                    # An error or a hang-up counts as both.
                    mask = READ if event & ~select.EPOLLOUT else 0
                    if event & ~select.EPOLLIN:
                        mask |= WRITE
                    ready.append((key, mask & key.events))
            return ready

elif sys.platform == "win32":
    import ctypes

    _winsock = ctypes.WinDLL("ws2_32", use_last_error=True)

    class _Time(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("microseconds", ctypes.c_long))

    class _Poll(ctypes.Structure):
        _fields_ = (
            ("socket", ctypes.c_size_t),
            ("events", ctypes.c_short),
            ("found", ctypes.c_short),
        )

    _winsock.select.argtypes = (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.POINTER(_Time),
    )
    _winsock.WSAPoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_int)
    _ERROR: Final = 1
    _INVALID: Final = 4

    def _wait(to_read: Sockets, to_write: Sockets, failing: Sockets, timeout: float | None) -> None:
        """Winsock's own select. Raises OSError."""
        until = None
        if timeout is not None:
            microseconds = math.ceil(timeout * 1e6)
            until = _Time(microseconds // 1_000_000, microseconds % 1_000_000)
        sets = [each.buffer_info()[0] for each in (to_read, to_write, failing)]
        if _winsock.select(0, *sets, until) < 0:
            raise ctypes.WinError(ctypes.get_last_error())

    class Selector(FdSetSelector):
        """Winsock's select."""

        def __init__(self) -> None:
            super().__init__(_wait)

    def failed(socks: Iterable[socket.socket]) -> list[socket.socket]:
        """Sockets that have an error. SO_ERROR does not report a reset on Windows, WSAPoll does."""
        asked = list(socks)
        polls = (_Poll * len(asked))()
        for sock, poll in zip(asked, polls, strict=True):
            poll.socket = sock.fileno()
        if asked and _winsock.WSAPoll(polls, len(asked), 0) > 0:
            pairs = zip(asked, polls, strict=True)
            return [sock for sock, poll in pairs if poll.found & (_ERROR | _INVALID)]
        return []

else:
    Selector = selectors.DefaultSelector  # type: ignore[misc, assignment, unused-ignore]


if sys.platform != "win32":

    def failed(socks: Iterable[socket.socket]) -> list[socket.socket]:
        """Sockets that have an error or are closed."""
        return [
            sock
            for sock in socks
            if sock.fileno() < 0 or sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        ]
