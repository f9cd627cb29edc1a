"""I/O. Listening sockets that a service manager has opened for the run, as in sd_listen_fds(3)."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import MutableMapping, Sequence
from typing import Final

from wsraw.config.addresses import FIRST_PASSED, Listen
from wsraw.runtime.sockets import adopt, printable, tune

VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class PassedSocketError(Exception):
    """A passed socket cannot be used, or is missing; the text says what to do."""


class PassedSockets:
    """The sockets that the variables name, which are removed from `environ`; also other inherited
    sockets, by their numbers.

    Must be made before the process opens files of its own, because inherited sockets are recognized
    by their numbers.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        count, pid, names, _ = (environ.pop(name, "") for name in VARIABLES)
        self.numbers: list[int] = []
        self.names: dict[int, str] = {}
        if sys.platform == "win32" or not count.isdigit() or pid != str(os.getpid()):
            # Windows passes none, and these variables may be for the process that started us.
            return
        self.numbers = list(range(FIRST_PASSED, FIRST_PASSED + int(count)))
        self.names = dict(zip(self.numbers, names.split(":"), strict=False)) if names else {}
        for number in self.numbers:
            # Workers, and programs of handlers, must not inherit them.
            os.set_inheritable(number, False)

    def assign(self, listens: Sequence[Listen]) -> dict[str, socket.socket]:
        """By name, the passed socket of each listener that has one: listeners with `fd:`, and
        listeners of the same address. Raises PassedSocketError, also if a passed socket is left
        over: the service manager has opened it, and clients would wait for ever."""
        found: dict[str, socket.socket] = {}
        free: dict[int, socket.socket] = {}
        try:
            for number in self.numbers:
                free[number] = self._adopt(number, f"fd:{number}")
            for listen in listens:
                if listen.fd:
                    found[listen.name] = self._named(listen, free)
            for listen in listens:
                same = [number for number, sock in free.items() if _is_same(listen, sock)]
                if same:
                    found[listen.name] = free.pop(same[0])
            if free:
                told = ", ".join(f"fd:{n} ({self._describe(n, s)})" for n, s in free.items())
                raise PassedSocketError(
                    f"sockets were passed that no --listen takes: {told}; give --listen with fd: "
                    "and the number or the name, or with the same address"
                )
        except BaseException:
            for sock in (*free.values(), *found.values()):
                sock.close()
            raise
        return found

    def _named(self, listen: Listen, free: dict[int, socket.socket]) -> socket.socket:
        if listen.fd.isdigit():
            number = int(listen.fd)
            if number in self.numbers and number not in free:
                raise PassedSocketError(
                    f"cannot listen on {listen.name}: another --listen has this socket already"
                )
            return free.pop(number) if number in free else self._adopt(number, listen.name)
        found = [number for number in free if self.names.get(number) == listen.fd]
        if len(found) == 1:
            return free.pop(found[0])
        if found:
            those = " and ".join(f"fd:{number}" for number in found)
            raise PassedSocketError(
                f"cannot listen on {listen.name}: {len(found)} sockets have this name; write "
                f"{those}"
            )
        names = " and ".join(sorted(set(self.names.values()))) or "none"
        raise PassedSocketError(
            f"cannot listen on {listen.name}: no socket of this name was passed "
            f"(FileDescriptorName= of the socket unit); names: {names}"
        )

    def _adopt(self, number: int, name: str) -> socket.socket:
        what = f"cannot listen on {name}"
        if sys.platform == "win32":
            raise PassedSocketError(f"{what}: Windows passes no sockets; give HOST:PORT")
        try:
            # Files that this process has opened are not inheritable.
            if number not in self.numbers and not os.get_inheritable(number):
                raise OSError
            sock = adopt(str(number))
        except OSError:
            raise PassedSocketError(
                f"{what}: no socket was passed as descriptor {number}; start wsraw by a service "
                "manager with a socket unit, or give HOST:PORT"
            ) from None
        if not _is_listening(sock):
            sock.detach()
            raise PassedSocketError(
                f"{what}: descriptor {number} is not a listening stream socket; in a socket unit, "
                "give ListenStream= and Accept=no"
            )
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            # Connections inherit these options.
            tune(sock)
        return sock

    def _describe(self, number: int, sock: socket.socket) -> str:
        name = self.names.get(number, "")
        return f"{printable(sock.getsockname())}{f', {name}' if name else ''}"


def _is_listening(sock: socket.socket) -> bool:
    accepts = getattr(socket, "SO_ACCEPTCONN", None)
    return sock.type == socket.SOCK_STREAM and (
        accepts is None or bool(sock.getsockopt(socket.SOL_SOCKET, accepts))
    )


def _is_same(listen: Listen, sock: socket.socket) -> bool:
    """Whether the socket has the address of that listener."""
    own = sock.getsockname()
    if listen.path:
        return bool(own == os.path.abspath(listen.path) or own == listen.path)
    if listen.fd or not listen.port or not isinstance(own, tuple):
        return False
    try:
        found = socket.getaddrinfo(
            listen.host or None, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError):
        # `bind` reports the problem.
        return False
    return bool(found[0][4][:2] == own[:2])
