"""I/O. Connections we open: names resolved off the loop, addresses tried one by one."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from wsraw.gateway.client_contexts import ClientContexts, make, read_options
from wsraw.gateway.connection import CLOSED, Connection
from wsraw.gateway.resolver import Address, Resolver
from wsraw.gateway.target import Target, parse_target
from wsraw.gateway.tls import Context
from wsraw.gateway.tls_endpoint import OpenTls
from wsraw.listen import printable
from wsraw.loop import Loop, Timer
from wsraw.tuning import tune

UNDER_WAY: Final = {
    0,
    errno.EINPROGRESS,
    errno.EWOULDBLOCK,
    errno.EAGAIN,
    getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK),
}

Connected = Callable[[Connection, socket.socket, OpenTls | None], object]
Failed = Callable[[Connection, str], object]


class Dialler:
    """Dials connections; each ends in `connected` or `failed`, once."""

    def __init__(self, loop: Loop, connected: Connected, failed: Failed) -> None:
        self._loop = loop
        self._connected = connected
        self._failed = failed
        self._resolver = Resolver(loop.call_soon_threadsafe)
        self._contexts = ClientContexts()
        self.attempts: set[_Attempt] = set()

    def dial(self, con: Connection) -> None:
        """Begin. The connection's deadline (connect_timeout) ends it at the latest."""
        if con.state is CLOSED:
            return
        attempt = _Attempt(self._loop, self, con)
        self.attempts.add(attempt)
        try:
            target = parse_target(con.target)
        except ValueError as error:
            attempt.fail(str(error))
            return
        if target.tls:
            self._secure(attempt, target)
        else:
            self._begin(attempt, target)

    def _begin(self, attempt: _Attempt, target: Target) -> None:
        if not target.path:
            self._resolver.resolve(target.host, target.port, attempt.resolved)
        elif hasattr(socket, "AF_UNIX"):
            attempt.resolved([(socket.AF_UNIX, target.path)], "")
        else:
            attempt.fail("this platform has no unix sockets")

    def _secure(self, attempt: _Attempt, target: Target) -> None:
        """First the TLS context: making one may take longer than a turn of the loop may."""
        given = attempt.con.open_options
        name = given.get("server_name") or target.host
        try:
            options = read_options(given, attempt.con.kind == "websocket")
            if not isinstance(name, str):
                raise ValueError("the option server_name must be a name")
        except ValueError as error:
            attempt.fail(str(error))
            return

        def made(context: Context | None, why: str) -> None:
            if context is None:
                attempt.fail(why)
                return
            self._contexts.keep(options, context)
            attempt.terms = OpenTls(context, name)
            self._begin(attempt, target)

        context = self._contexts.find(options)
        if context is not None:
            made(context, "")
        else:
            self._resolver.call(partial(make, options), made)

    def finish(self, attempt: _Attempt, sock: socket.socket | None, why: str) -> None:
        """An attempt is over."""
        self.attempts.discard(attempt)
        if sock is not None:
            self._connected(attempt.con, sock, attempt.terms)
        else:
            self._failed(attempt.con, why)


class _Attempt:
    """One connection on its way; at most one socket at a time."""

    def __init__(self, loop: Loop, dialler: Dialler, con: Connection) -> None:
        self.con = con
        self.terms: OpenTls | None = None
        self._loop = loop
        self._dialler = dialler
        self._addresses: list[Address] = []
        self._sock: socket.socket | None = None
        self._over = False
        self._timer: Timer | None = None
        if con.deadline < math.inf:
            self._timer = loop.call_at(con.deadline, partial(self.fail, "timed out"))

    def resolved(self, addresses: list[Address], why: str) -> None:
        """The name has these addresses, or none."""
        if not self._over:
            self._addresses = addresses
            self._next(why or "the name has no address")

    def _next(self, why: str) -> None:
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                why = f"cannot open a socket: {error.strerror}"
                continue
            try:
                tune(sock)
                code = sock.connect_ex(address)
            except OSError as error:
                code = error.errno or errno.EIO
            # A unix socket says EAGAIN when the backlog is full, and is not under way then.
            if code in UNDER_WAY and not (code == errno.EAGAIN and isinstance(address, str)):
                self._sock = sock
                self._loop.watch(sock, partial(self._handle, address), write=True)
                return
            sock.close()
            why = _why_not(address, code)
        self.fail(why)

    def _handle(self, address: object, readable: bool, writable: bool) -> None:
        sock, self._sock = self._sock, None
        assert sock is not None
        self._loop.unwatch(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            sock.close()
            self._next(_why_not(address, code))
            return
        self._end()
        self._dialler.finish(self, sock, "")

    def fail(self, why: str) -> None:
        """Give up."""
        if not self._over:
            self._end()
            self._dialler.finish(self, None, why)

    def _end(self) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._sock is not None:
            self._loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None


def _why_not(address: object, code: int) -> str:
    return f"cannot connect to {printable(address)}: {os.strerror(code)}"
