"""I/O. The socketpair between a gateway and a pump, which does the TLS of a connection.

A mark tells what a unix socket itself cannot: a byte that is sent with a descriptor. A read may
return earlier data, and the mark as its last byte (unix(7)).
"""

from __future__ import annotations

import os
import socket
import sys
from array import array
from contextlib import suppress
from enum import Enum
from functools import cache
from typing import Final

PUMP_BUFFER: Final = 64 * 1024
"""Size in bytes of a direction's buffer that we ask the system for."""

MARK_BUFFER: Final = 192 * 1024
"""Size in bytes of the buffer once a mark is sent, so that there is always room for it."""

MARK_ROOM: Final = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
"""Bytes of ancillary data for one descriptor."""

LONGEST_REASON: Final = 1024
"""Bytes of the reason of a loss: far fewer than a pipe takes at once."""


class PumpMark(Enum):
    """A message beside the data. Two versions exchange these values."""

    END = b"E"
    """From the gateway: nothing more comes. An end of the socket without it is the death of the
    gateway."""
    RESET = b"R"
    """From the gateway: reset the connection."""
    LOST = b"L"
    """From the pump: the connection was lost. The descriptor is a pipe with the reason."""


def send_mark(sock: socket.socket, mark: PumpMark, why: str = "") -> None:
    """Send a mark after all earlier data, unless the other end is gone."""
    assert sys.platform != "win32"
    number, is_own = blank(), False
    if why:
        with suppress(OSError):
            number, end = os.pipe()
            is_own = True
            os.write(end, why.encode("utf-8", "replace")[:LONGEST_REASON])
            os.close(end)
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MARK_BUFFER)
        rights = array("i", [number])
        sock.sendmsg([mark.value], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    if is_own:
        os.close(number)


def receive(sock: socket.socket, size: int) -> tuple[bytes, PumpMark | None, str]:
    """At most `size` bytes, b"" at the end; a mark that came after them, and its reason. Raises
    BlockingIOError or OSError."""
    assert sys.platform != "win32"
    data, rights, _, _ = sock.recvmsg(size, MARK_ROOM)
    if not rights:
        return data, None, ""
    why = ""
    for _, _, told in rights:
        numbers = array("i")
        numbers.frombytes(told[: len(told) - len(told) % numbers.itemsize])
        for number in numbers:
            # A closed pipe, or /dev/null: neither blocks.
            why = os.read(number, LONGEST_REASON).decode("utf-8", "replace")
            os.close(number)
    return data[:-1], PumpMark(data[-1:]), why


@cache
def blank() -> int:
    """A descriptor without a message."""
    return os.open(os.devnull, os.O_RDONLY)
