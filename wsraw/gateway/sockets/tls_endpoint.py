"""I/O. An endpoint below whose connection TLS lies, or may lie.

An accepted socket is looked at before it is read: the first byte says whether TLS begins there, and
what is not TLS stays in the kernel for the plain endpoint that this one then is. Only behind a
PROXY header it does not: who reads that has read more than its own.

The connection hears of nothing until TLS stands. From then on its socket is a `TlsSocket`, and the
plain endpoint's way of reading and writing is the right one again; what is left to do here are the
few bytes that TLS has to say for itself.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from wsraw.gateway.admission.sniffer import METHODS
from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.weights import EARLY, TLS, TLS_HANDSHAKE
from wsraw.gateway.http import answer_for, http_answer
from wsraw.gateway.sockets.endpoint import LEAST_READ, Endpoint, Owner
from wsraw.gateway.sockets.tls_socket import MOST_TOIL, TlsSocket
from wsraw.gateway.tls.client_hello import HANDSHAKE, Hello, HelloReader
from wsraw.gateway.tls.engine import Context, TlsEngine
from wsraw.gateway.tls.handshake_queue import HandshakeQueue
from wsraw.runtime.printable import without_secrets

log = logging.getLogger("wsraw.gateway")

HANDSHAKE_READ: Final = 16 * 1024
"""Bytes read at a time while TLS does not stand."""

GLANCE: Final = 8
"""Bytes looked at: the longest method of HTTP, and a space."""

_METHODS: Final = (*METHODS, b"PRI ")


class TlsOwner(Owner):
    """What endpoints with TLS share beside the rest."""

    handshakes: HandshakeQueue


class AcceptTls(NamedTuple):
    """How an accepted socket gets its TLS."""

    is_required: bool
    context_for: Callable[[str], Context]
    """The context for the server name that the client gives; empty: it gives none."""


class OpenTls(NamedTuple):
    """How an opened one does."""

    context: Context
    server_name: str


class TlsEndpoint(Endpoint):
    """In its handshake while there are `_terms`; then it stands, or it is plain without `_tls`."""

    __slots__ = (
        "_answer",
        "_handshakes",
        "_hello",
        "_is_unheard",
        "_raw",
        "_said_goodbye",
        "_server_name",
        "_terms",
        "_tls",
    )

    def __init__(
        self, owner: TlsOwner, sock: socket.socket, con: Connection, terms: AcceptTls | OpenTls
    ) -> None:
        """Raises ValueError for a server name that cannot be one."""
        super().__init__(owner, sock, con)
        self._handshakes = owner.handshakes
        self._raw = sock
        self._terms: AcceptTls | OpenTls | None = terms
        self._tls: TlsSocket | None = None
        self._hello: HelloReader | None = None
        self._answer: HelloReader | None = None
        self._server_name = ""
        self._is_unheard = False
        """More came while it waits for its turn; that stays in the kernel until then."""
        self._said_goodbye = False
        if isinstance(terms, OpenTls):
            self._server_name = terms.server_name
            self._answer = HelloReader(of_server=True)
            self._begin(TlsEngine(terms.context, server_side=False, server_name=terms.server_name))
            self._handshakes.waiting[self] = b""
        else:
            self._hello = HelloReader()

    def _begin(self, tls: TlsEngine) -> TlsSocket:
        self._tls = wrapped = TlsSocket(self._raw, tls, self.con.output)
        flow = self._owner.registry.flow
        flow.settle(self.con)
        flow.keep(self.con, TLS + TLS_HANDSHAKE)
        if self.watched is not None:
            # The loop knows those that it does not read from by their object.
            self._owner.loop.unwatch(self._raw)
            self.watched = None
        self.sock = cast(socket.socket, wrapped)
        return wrapped

    def is_on(self, sock: socket.socket) -> bool:
        """Whether it is this socket below TLS."""
        return self._raw is sock

    # --- the handshake ---

    def _read(self) -> None:
        if self._terms is not None:
            self._read_early()
            return
        tls = self._tls
        if tls is None:
            super()._read()
            return
        tls.may_truncate = self.con.kind == "websocket"
        super()._read()
        if tls.is_restless and not self.eof and not self.lingering:
            # close_notify, or an error, came along with data: select will not tell of it.
            super()._read()
        if tls.unsent:
            self._owner.dirty[self.con] = None
        if tls.toil > MOST_TOIL and not self.eof and not self.lingering:
            self._portion = LEAST_READ
            self._is_busy = True
            self.judge_reading()

    def _read_early(self) -> None:
        waiting = self._handshakes.waiting
        if self in waiting:
            self._is_unheard = True
            self.judge_reading()
            return
        if self.con.awaits_header:
            data = self._receive()
            if data:
                self._read_header(data)
            return
        if self._hello is not None and not self._hello.buffer:
            # Looked at, and left where it is: a plain connection reads it in its own way.
            glance = self._receive(GLANCE, socket.MSG_PEEK)
            if not glance:
                return
            if not self._is_tls(glance):
                if self._terms is None and self.con.state is not CLOSED:
                    super()._read()
                return
        data = self._receive()
        if data:
            self._handshakes.waiting[self] = data

    def _receive(self, size: int = HANDSHAKE_READ, flags: int = 0) -> bytes:
        """What has come; nothing if there is nothing, or it is over."""
        try:
            data = self._raw.recv(size, flags)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            self._lost(error.strerror or str(error))
            return b""
        if not data:
            self._end_early()
        elif not flags:
            self._owner.registry.flow.keep(self.con, EARLY * len(data))
        return data

    def _end_early(self) -> None:
        """The peer has shut its side."""
        owner, con = self._owner, self.con
        self.eof = True
        if self._tls is not None or (self._hello is not None and self._hello.buffer):
            self._fail("the connection was closed in the handshake")
            return
        # A look whether the port is open.
        self._terms = self._hello = None
        owner.registry.receive_eof(con, owner.loop.now)
        owner.dirty[con] = None

    def _read_header(self, data: bytes) -> None:
        """A PROXY header comes before all else; what came behind it is no longer in the kernel."""
        owner, con = self._owner, self.con
        now = owner.loop.now
        events, rest = con.receive_header(data, now)
        owner.registry.take(con, events, now)
        owner.dirty[con] = None
        if not rest:
            return
        if self._is_tls(rest):
            self._handshakes.waiting[self] = rest
        elif self._terms is None and con.state is not CLOSED:
            owner.registry.take(con, con.receive_data(rest, now), now)
            self.judge_reading()

    def _is_tls(self, first: bytes) -> bool:
        """By the first byte. What is no TLS is let in where it may be, or turned away."""
        con, now = self.con, self._owner.loop.now
        self._owner.dirty[con] = None
        if first[0] == HANDSHAKE:
            con.expect_tls(now)
            return True
        if not cast(AcceptTls, self._terms).is_required:
            self._terms = self._hello = None
            self._owner.registry.take(con, con.secured(now), now)
        elif any(method.startswith(first) for method in _METHODS) or first.startswith(_METHODS):
            answer = answer_for(first, http_answer(400, "TLS is needed here"))
            self._fail("an HTTP request without TLS", answer)
        else:
            self._fail("bytes that are not TLS")
            con.reset = True
        return False

    def take_turn(self, data: bytes) -> None:
        """Go one step in the handshake with what came; after it, read what select is silent of."""
        if self.con.state is CLOSED:
            return
        if self._terms is None:
            if self.reading:
                self._read()
            return
        tls = self._tls
        if tls is None:
            tls, data = self._hear_hello(self._terms, data)
        elif self._answer is not None:
            data = self._hear_answer(self._answer, data)
        if tls is not None and self._shakes_hands():
            tls.tls.handshake(data)
            tls.unsent += tls.tls.data_to_send()
            if tls.unsent:
                self._owner.dirty[self.con] = None
            if tls.tls.error:
                self._fail(tls.tls.error)
            elif tls.tls.established:
                self._stand(tls)
        if self._is_unheard or self.watched is None:
            self._is_unheard = False
            self.judge_reading()

    def _shakes_hands(self) -> bool:
        # A method, as what was heard may have ended it, and compiled code would not look again.
        return self._terms is not None

    def _hear_hello(
        self, terms: AcceptTls | OpenTls, data: bytes
    ) -> tuple[TlsSocket | None, bytes]:
        """OpenSSL begins when the whole ClientHello is here, and has been found harmless."""
        reader = self._hello
        assert reader is not None
        assert isinstance(terms, AcceptTls)
        hello: Hello | None = reader.receive_data(data)
        if hello is None:
            return None, b""
        if hello.error:
            self._fail(hello.error, hello.alert)
            return None, b""
        self._server_name = hello.server_name
        self._hello = None
        context = terms.context_for(hello.server_name)
        return self._begin(TlsEngine(context, server_side=True)), bytes(reader.buffer)

    def _hear_answer(self, reader: HelloReader, data: bytes) -> bytes:
        """The same for the first message of a server, which says what we would have to compute."""
        hello = reader.receive_data(data)
        if hello is None:
            return b""
        self._answer = None
        if hello.error:
            self._fail(hello.error)
            return b""
        return bytes(reader.buffer)

    def _stand(self, tls: TlsSocket) -> None:
        owner, con = self._owner, self.con
        now = owner.loop.now
        self._terms = None
        self._handshakes.completed += 1
        con.about["tls"] = tls.tls.about(self._server_name)
        owner.registry.flow.settle(con)
        events = con.connected(now) if con.opened else con.secured(now)
        owner.registry.take(con, events, now)
        owner.dirty[con] = None
        self.judge_standing(now)
        self.judge_reading()

    def _fail(self, why: str, answer: bytes = b"") -> None:
        """It never stands. What is left to be written (an alert, an answer) still is."""
        owner, con = self._owner, self.con
        now = owner.loop.now
        self._terms = self._hello = None
        self._handshakes.failed += 1
        log.debug("connection %d: no TLS: %s", con.id, why)
        if con.opened:
            events = con.connect_failed(f"TLS to {without_secrets(con.target)}: {why}", now)
        else:
            events = con.turn_away(answer)
        owner.registry.take(con, events, now)
        owner.dirty[con] = None

    # --- reading and writing ---

    def judge_reading(self) -> None:
        """As ever; and what OpenSSL has already is brought out when reading goes on."""
        if self._terms is not None:
            self.reading = not self.eof and not self._is_unheard
            self.watch()
            return
        super().judge_reading()
        if self.reading and self._tls is not None and self._tls.is_restless:
            self._handshakes.waiting[self] = b""

    def flush(self) -> None:
        """Write what TLS has to say, then what the connection has."""
        con, tls = self.con, self._tls
        if tls is None:
            super().flush()
            return
        if tls.unsent and (self._terms is not None or not con.output.size):
            try:
                tls.push()
            except OSError as error:
                self._lost(error.strerror or str(error))
                return
        if con.state is CLOSED and not tls.tls.established:
            con.output.drop()
        if self._terms is None or con.state is CLOSED:
            super().flush()
        elif con.deadline < self._timer_at:
            # Output may wait already: that of a raw connection that was just opened.
            self._arm(con.deadline)
        writing = bool(tls.unsent) or (con.output.size > 0 and tls.tls.established)
        if writing is not self.writing:
            self.writing = writing
            self.watch()

    # --- the end ---

    def _finish(self) -> None:
        con, tls = self.con, self._tls
        if tls is None or con.reset or con.ends_with_reset or con.output.size:
            super()._finish()
            return
        tls.discards = True
        if not self._said_goodbye and tls.tls.established and not tls.tls.error:
            self._said_goodbye = True
            tls.say_goodbye()
        try:
            is_through = tls.push()
        except OSError:
            self._owner.doomed.append(self)
            return
        if is_through:
            super()._finish()
        elif not self.lingering:
            self.lingering = True
            self.reading = not self.eof
            self._linger()
            self.watch()

    def close(self) -> None:
        """Free the descriptor, and leave the queue."""
        self._handshakes.waiting.pop(self, None)
        super().close()
