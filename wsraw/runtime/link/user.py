"""I/O. The process at the other end of a unix socket, if the system tells."""

from __future__ import annotations

import os
import socket
import struct
import sys
from typing import Final

_SOL_LOCAL: Final = 0
_LOCAL_PEERCRED: Final = 1
_XUCRED_SIZE: Final = 76
"""Bytes of `struct xucred` on macOS and FreeBSD (sys/ucred.h): version, user, count of groups,
16 groups. FreeBSD's is longer, and may be asked for in part."""


def credentials(sock: socket.socket) -> tuple[int, int] | None:
    """Process and user that have connected. Process is 0 if the system tells only the user; the
    result is None if it tells neither. Raises OSError if the peer is already gone."""
    if sock.family != getattr(socket, "AF_UNIX", None):
        return None
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        pid, user, _ = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return pid, user
    if sys.platform == "darwin" or sys.platform.startswith("freebsd"):
        data = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE)
        return 0, struct.unpack_from("=II", data)[1]
    return None


def is_ours(user: int) -> bool:
    """Whether a process of that user may connect to a socket that is only for us: our own user, and
    root, which could connect anyway."""
    return sys.platform == "win32" or user in (0, os.geteuid())
