"""I/O. The socketpair between a gateway and a pump, which does the TLS of a connection.

What a unix socket cannot tell, a mark does: a byte that goes with a descriptor. A read may return
what was sent before it, and the mark as its last byte (unix(7)).
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
"""Bytes on their way from one end to the other that we ask the system for."""

MARK_BUFFER: Final = 192 * 1024
"""The same once a mark is sent, for which there is always room so."""

MARK_ROOM: Final = socket.CMSG_SPACE(4) if hasattr(socket, "CMSG_SPACE") else 0
"""Bytes of ancillary data for one descriptor."""

LONGEST_REASON: Final = 1024
"""Bytes of the reason of a loss: far less than a pipe takes at once."""


class PumpMark(Enum):
    """What is said beside data. The values are on the wire between two versions."""

    END = b"E"
    """From the gateway: nothing more comes. Without it, the end of the socket is the death of the
    gateway."""
    RESET = b"R"
    """From the gateway: reset the connection."""
    LOST = b"L"
    """From the pump: the connection was lost. The descriptor is a pipe with the reason."""


def send_mark(sock: socket.socket, mark: PumpMark, why: str = "") -> None:
    """Send a mark behind all that was sent before, unless the other end is gone."""
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
    """At most `size` bytes, none at the end; a mark that came behind them, and its reason. Raises
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
            # A pipe with nothing more to come, or /dev/null: neither blocks.
            why = os.read(number, LONGEST_REASON).decode("utf-8", "replace")
            os.close(number)
    return data[:-1], PumpMark(data[-1:]), why


@cache
def blank() -> int:
    """A descriptor that says nothing."""
    return os.open(os.devnull, os.O_RDONLY)
