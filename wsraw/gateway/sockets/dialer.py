"""I/O. Connections that handlers open: names are resolved in threads, addresses tried as in RFC
8305.

The next address is tried when the one before has failed, or has not answered for ATTEMPT_DELAY;
attempts without an answer continue. The first address that answers wins.
"""

from __future__ import annotations

import errno
import math
import socket
from collections.abc import Callable
from functools import partial
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.sockets.descriptors import TOO_MANY, Descriptors
from wsraw.gateway.sockets.proxy_handshake import HttpConnect, Socks5, handshake_with
from wsraw.gateway.sockets.resolver import Address, Resolver
from wsraw.gateway.tls.client_contexts import OpenTls, TlsOptions, keep, make_context, options_of
from wsraw.link.open_options import Opening, Proxy, is_local, parse_proxy
from wsraw.runtime.loop import Loop, Timer
from wsraw.runtime.sockets import printable, strerror, tune

if TYPE_CHECKING:
    from wsraw.gateway.tls.engine import Context

ATTEMPT_DELAY: Final = 0.25
"""Seconds after which the next address is tried in parallel (RFC 8305, section 5)."""

MOST_ADDRESSES: Final = 8
"""Addresses of a name that are tried; each attempt without an answer holds a descriptor."""

MOST_PEEKED: Final = 4096
"""Bytes of a proxy that are peeked at in one call."""

IN_PROGRESS: Final = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EAGAIN}

Connected = Callable[[Connection, socket.socket, OpenTls | None], object]
Failed = Callable[[Connection, str], object]
Fault = Callable[[Connection, BaseException], object]


class Dialer:
    """Dials connections; each attempt ends in `connected`, `failed` or `fault`, once."""

    def __init__(
        self,
        loop: Loop,
        connected: Connected,
        failed: Failed,
        fault: Fault,
        descriptors: Descriptors | None = None,
        proxy: str = "",
    ) -> None:
        """`proxy`: the setting `connect_proxy`."""
        self._proxy = parse_proxy(proxy) if proxy else None
        self.descriptors = descriptors or Descriptors()
        self._loop = loop
        self.connected = connected
        self.failed = failed
        self.fault = fault
        self._resolver = Resolver(loop.call_soon_threadsafe, self.descriptors.look_ups)
        self._contexts: dict[TlsOptions, Context] = {}
        self.attempts: set[_Attempt] = set()

    def dial(self, con: Connection) -> None:
        """Begin to connect; the connection's deadline (connect_timeout) ends it at the latest."""
        asked = con.phase.opening
        if con.state is CLOSED or asked is None:
            return
        attempt = _Attempt(self._loop, self, con, asked, self._proxy_for(asked))
        self.attempts.add(attempt)
        if asked.target.tls:
            self._secure(attempt, asked)
        else:
            self._begin(attempt, asked)

    def _proxy_for(self, asked: Opening) -> Proxy | None:
        """The proxy to connect through: the one given for this connection, or the one of the
        setting for all targets except this machine."""
        if asked.proxy is None:
            return None if is_local(asked.target) else self._proxy
        return asked.proxy if isinstance(asked.proxy, Proxy) else None

    def _begin(self, attempt: _Attempt, asked: Opening) -> None:
        target = asked.target
        place = attempt.proxy or target
        if not target.path:
            what = f"the name {place.host!r} was not resolved"
            attempt.wait(what, self._resolver.resolve, place.host, place.port, attempt.resolved)
        elif hasattr(socket, "AF_UNIX"):
            attempt.resolved([(socket.AF_UNIX, target.path)], "")
        else:
            attempt.fail("this platform has no unix sockets")

    def _secure(self, attempt: _Attempt, asked: Opening) -> None:
        """First find the TLS context, or make one in a thread: that takes longer than a turn
        may."""
        options = options_of(asked)

        def made(attempt: _Attempt, context: Context | None, why: str) -> None:
            if context is None:
                attempt.fail(why)
                return
            keep(options, context, self._contexts)
            attempt.terms = OpenTls(context, asked.server_name)
            self._begin(attempt, asked)

        context = self._contexts.get(options)
        if context is not None:
            made(attempt, context, "")
        else:
            # The attempt is an argument, so that an exception ends it (loop.owner_of).
            attempt.wait(
                "its certificates were not read",
                self._resolver.call,
                options,
                partial(make_context, options),
                partial(made, attempt),
            )

    def give_up(self, con: Connection) -> None:
        for attempt in [attempt for attempt in self.attempts if attempt.con is con]:
            attempt.end()


class _Attempt:
    """The attempt to connect one connection: addresses not tried yet, and sockets without an
    answer."""

    def __init__(
        self, loop: Loop, dialer: Dialer, con: Connection, asked: Opening, proxy: Proxy | None
    ) -> None:
        self.con = con
        self.proxy = proxy
        self._asked = asked
        self._host = proxy.host if proxy is not None else asked.target.host
        self._handshake: HttpConnect | Socks5 | None = None
        """The handshake with the proxy, once the proxy is connected."""
        self.terms: OpenTls | None = None
        self._loop = loop
        self._dialer = dialer
        self._addresses: list[Address] = []
        self._socks: dict[socket.socket, Any] = {}
        """Sockets without an answer, each with its address."""
        self._cancel: Callable[[], None] | None = None
        self._waits_for = ""
        self._over = False
        self._why = ""
        self._timer: Timer | None = None
        self._next_timer: Timer | None = None
        if con.keepalive.deadline < math.inf:
            self._timer = loop.call_at(con.keepalive.deadline, self._time_out)

    def wait(self, what: str, ask: Callable[..., Callable[[], None]], *args: Any) -> None:
        """Run a job in a thread; `end` cancels it."""
        self._waits_for = what
        self._cancel = ask(*args)

    def resolved(self, addresses: list[Address] | None, why: str) -> None:
        """Take the addresses of the name, or the reason why there are none."""
        self._waits_for = ""
        if not self._over:
            self._addresses = _interleaved(addresses or [])[:MOST_ADDRESSES]
            self._why = f"cannot resolve {self._host!r}: {why or 'it has no address'}"
            self._next()

    def _next(self) -> None:
        """Try one more address; an address that fails at once does not count."""
        self._stop_waiting()
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                self._why = f"cannot open a socket: {error.strerror}"
                continue
            self._socks[sock] = address
            if self._dialer.descriptors.is_beyond(sock):
                del self._socks[sock]
                sock.close()
                self._why = f"cannot open a socket: {TOO_MANY.strerror} (see ulimit -Hn)"
                break
            try:
                tune(sock)
                code = sock.connect_ex(address)
            except (OSError, ValueError) as error:
                code = getattr(error, "errno", None) or errno.EINVAL
            # For a unix socket, EAGAIN means that the backlog is full: no connection is being made.
            if code in IN_PROGRESS and not (code == errno.EAGAIN and isinstance(address, str)):
                self._loop.watch(sock, partial(self._handle, sock), write=True)
                if self._addresses:
                    self._next_timer = self._loop.call_later(ATTEMPT_DELAY, self._next)
                return
            del self._socks[sock]
            sock.close()
            self._why = _why_not(address, code)
        if not self._socks:
            self.fail(self._why)

    def _handle(self, sock: socket.socket, readable: bool, writable: bool) -> None:
        if sock not in self._socks:
            # The socket was closed in this turn, because another address was faster.
            return
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._loop.unwatch(sock)
        address = self._socks.pop(sock)
        if code:
            sock.close()
            self._why = _why_not(address, code)
            self._next()
            return
        try:
            if self.proxy is not None:
                self._ask_proxy(self.proxy, sock, address)
            else:
                self._succeed(sock)
        except Exception:
            if sock not in self._socks:
                # No connection owns it.
                sock.close()
            raise

    def _succeed(self, sock: socket.socket) -> None:
        why = _send_first(sock, self._asked.preface or b"")
        if why:
            sock.close()
            self.fail(why)
            return
        self.end()
        self._dialer.connected(self.con, sock, self.terms)

    def _ask_proxy(self, proxy: Proxy, sock: socket.socket, address: Any) -> None:
        """The proxy is connected: ask it for the target. Its other addresses are not needed any
        more."""
        self._stop_waiting()
        self._addresses = []
        self._close_sockets()
        self._socks[sock] = address
        self._handshake = handshake_with(proxy, self._asked.target)
        self._loop.watch(sock, partial(self._talk, sock, self._handshake), read=True, write=True)

    def _talk(
        self, sock: socket.socket, said: HttpConnect | Socks5, readable: bool, writable: bool
    ) -> None:
        """Continue the handshake with the proxy. Bytes of the target are not read, because TLS may
        begin there."""
        if sock not in self._socks:
            return
        try:
            if readable:
                data = sock.recv(MOST_PEEKED, socket.MSG_PEEK)
                if not data:
                    raise OSError("it closed the connection")
                sock.recv(said.receive_data(data))
            if said.output and not said.error:
                said.output = said.output[sock.send(said.output) :]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            said.error = f"the proxy was lost: {error.strerror or error}"
        if said.error:
            shown = self.proxy.shown if self.proxy is not None else ""
            self.fail(f"{shown}: {said.error}")
        elif said.done:
            self._loop.unwatch(sock)
            del self._socks[sock]
            try:
                self._succeed(sock)
            except Exception:
                sock.close()
                raise
        else:
            handle = partial(self._talk, sock, said)
            self._loop.watch(sock, handle, read=True, write=bool(said.output))

    def _time_out(self) -> None:
        unanswered = ", ".join(printable(address) for address in self._socks.values())
        whom = "the proxy " if self.proxy is not None else ""
        what = f"no answer from {whom}{unanswered}" if unanswered else self._waits_for
        self.fail(f"timed out: {what}" if what else "timed out")

    def fail(self, why: str) -> None:
        if not self._over:
            self.end()
            self._dialer.failed(self.con, why)

    def handle_fault(self, error: BaseException) -> None:
        """End the connection because of a bug in wsraw."""
        try:
            self.end()
        finally:
            self._dialer.fault(self.con, error)

    def _stop_waiting(self) -> None:
        if self._next_timer is not None:
            self._next_timer.cancel()
            self._next_timer = None

    def end(self) -> None:
        """Cancel everything that is in progress."""
        self._over = True
        self._dialer.attempts.discard(self)
        self._stop_waiting()
        if self._timer is not None:
            self._timer.cancel()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._close_sockets()

    def _close_sockets(self) -> None:
        while self._socks:
            sock, _ = self._socks.popitem()
            try:
                self._loop.unwatch(sock)
            finally:
                sock.close()


def _send_first(sock: socket.socket, data: bytes) -> str:
    """Send what comes before TLS, and before everything else; return why that failed, or "". A new
    socket has room for it."""
    try:
        whole = not data or sock.send(data) == len(data)
    except OSError as error:
        return f"cannot send the PROXY header: {strerror(error.errno or 0)}"
    return "" if whole else "cannot send the PROXY header"


def _interleaved(addresses: list[Address]) -> list[Address]:
    """The addresses in their order, but with alternating families, so that a broken family costs
    little time (RFC 8305, section 4)."""
    families: dict[int, list[Address]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    return [each for each in chain(*zip_longest(*families.values())) if each is not None]


def _why_not(address: object, code: int) -> str:
    return f"cannot connect to {printable(address)}: {strerror(code)}"
