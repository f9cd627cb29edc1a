"""I/O. Listening sockets: bound with advice, accepted from within bounds, paused when exhausted."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import sys
from collections.abc import Callable
from typing import Final

from wsraw.loop import Loop
from wsraw.settings import Listen

log = logging.getLogger("wsraw.gateway")

ACCEPT_BUDGET: Final = 64
"""Connections accepted from one listener in a turn; a storm must not starve those who are in."""

ACCEPT_PAUSE: Final = 0.5
"""Seconds without accepting after the system refused us a descriptor or memory."""

COMPLAIN_EVERY: Final = 10.0
"""Seconds between two lines in the log about the same trouble."""

BACKLOG: Final = 4096
"""Connections the kernel may hold for us; it caps this at its own limit (somaxconn)."""

EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

Accepted = Callable[[Listen, socket.socket, object], object]
"""Called with each new connection: its listener's setting, the socket, the peer's address."""


class Listener:
    """A listening socket. Raises OSError, with advice, when it cannot be opened."""

    def __init__(self, loop: Loop, listen: Listen, accepted: Accepted) -> None:
        self.listen = listen
        self._loop = loop
        self._accepted = accepted
        self._accepting = False
        self._exhausted_until = 0.0
        self._complained_at = -COMPLAIN_EVERY
        try:
            self._sock = _bind_unix(listen.path) if listen.path else _bind_tcp(listen)
        except OSError as error:
            raise OSError(error.errno, _advice(listen, error)) from error
        self._sock.setblocking(False)

    @property
    def address(self) -> str:
        """Where it really listens, port 0 resolved."""
        return printable(self._sock.getsockname())

    def judge(self, room: bool, now: float) -> None:
        """Accept while there is room; called once a turn."""
        accepting = room and now >= self._exhausted_until
        if accepting is not self._accepting:
            self._accepting = accepting
            if accepting:
                self._loop.watch(self._sock, self._handle, read=True)
            else:
                self._loop.unwatch(self._sock)

    def _handle(self, readable: bool, writable: bool) -> None:
        for _ in range(ACCEPT_BUDGET):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause(error)
                    return
                # accept(2) also passes on what has happened to a connection before we came.
                continue
            self._accepted(self.listen, sock, address)

    def _pause(self, error: OSError) -> None:
        now = self._loop.now
        self._exhausted_until = now + ACCEPT_PAUSE
        # Only to wake the loop; `judge` does the rest.
        self._loop.call_at(self._exhausted_until, lambda: None)
        if now - self._complained_at >= COMPLAIN_EVERY:
            self._complained_at = now
            log.error(
                "cannot accept on %s: %s; paused, trying again every %s s. "
                "Raise the limit of open files (ulimit -n) to hold more connections",
                self.listen.name,
                error.strerror,
                ACCEPT_PAUSE,
            )

    def close(self) -> None:
        """No new connections from here on."""
        self._loop.unwatch(self._sock)
        self._sock.close()
        if self.listen.path:
            try:
                os.unlink(self.listen.path)
            except OSError:
                pass


def _bind_unix(path: str) -> socket.socket:
    family = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise OSError(errno.EAFNOSUPPORT, "this platform has no unix sockets")
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # A socket file that nobody listens on is left from a run that was killed.
        # (Connecting to a file of another kind is refused in the same words.)
        if _is_socket(path) and probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


def _bind_tcp(listen: Listen) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:
        # A label that is empty or longer than 63 bytes never gets as far as a name server.
        raise socket.gaierror(socket.EAI_NONAME, f"no name: {error}") from error
    family, _, _, _, address = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # There SO_REUSEADDR means that two programs may share the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            # Connections of the last run in TIME_WAIT must not keep this one from binding.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _advice(listen: Listen, error: OSError) -> str:
    what = f"cannot listen on {listen.name}"
    if isinstance(error, socket.gaierror):
        return f"{what}: {error.strerror}; write an address of this machine, or a name it knows"
    if error.errno == errno.EADDRINUSE:
        return f"{what}: the address is in use; stop the other program or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what}: not permitted; choose a port above 1023, or a folder you may write to"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what}: this machine has no such address; 0.0.0.0 and [::] mean all it has"
    return f"{what}: {error.strerror or error}"


def printable(address: object) -> str:
    """A socket address as people write it."""
    if isinstance(address, tuple):
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        return f"{host}:{address[1]}"
    return f"unix:{address}" if isinstance(address, str) and address else "unix"
