"""I/O. The beginning of a connection that uses TLS, or may use it.

The first byte of an accepted connection, or the first one after a PROXY header, says whether TLS
begins there. Plain bytes are passed to the endpoint.

The connection is involved only once TLS is established. Until then, only the few bytes of TLS
itself are read and written, in turns (see handshake_queue.py), because each step is expensive.
"""

from __future__ import annotations

import logging
from typing import Final

from wsraw.gateway.admission.sniffer import METHODS
from wsraw.gateway.connection.connection import CLOSED
from wsraw.gateway.delivery.accounts import EARLY, TLS, TLS_HANDSHAKE
from wsraw.gateway.http import answer_for, http_answer
from wsraw.gateway.sockets.endpoint import Endpoint
from wsraw.gateway.sockets.transport import TlsTransport
from wsraw.gateway.tls.client_contexts import OpenTls
from wsraw.gateway.tls.client_hello import HANDSHAKE, HelloReader, TlsHello
from wsraw.gateway.tls.engine import TlsEngine
from wsraw.gateway.tls.server_contexts import ServerContexts
from wsraw.runtime.printable import without_secrets

log = logging.getLogger("wsraw.gateway")

HANDSHAKE_READ: Final = 16 * 1024
"""Bytes read at a time during a handshake."""

_METHODS: Final = (*METHODS, b"PRI ")


class TlsHandshake:
    """Reads for its endpoint until TLS is established, or turns out not to be used."""

    __slots__ = (
        "_endpoint",
        "_hello",
        "_server_name",
        "_shared",
        "_terms",
        "_tls",
        "con",
    )

    def __init__(self, endpoint: Endpoint, terms: ServerContexts | OpenTls) -> None:
        """Raises ValueError for a server name that is not valid."""
        self.con = endpoint.con
        self._endpoint = endpoint
        self._shared = endpoint.shared
        self._terms = terms
        self._tls: TlsTransport | None = None
        self._server_name = ""
        self._hello: HelloReader | None = HelloReader(of_server=isinstance(terms, OpenTls))
        """Reads the peer's first message, before OpenSSL does."""
        if isinstance(terms, OpenTls):
            self._server_name = terms.server_name
            name = terms.server_name
            self._begin(TlsEngine(terms.context, server_side=False, server_name=name))
            self._wait(b"")

    def _is_over(self) -> bool:
        # A method, because an earlier read may have ended the connection. If this expression is
        # written out twice, mypy assumes the same result for the second one, and compiled code
        # raises TypeError for None.
        return self._endpoint.handshake is not self

    def _wait(self, data: bytes) -> None:
        self._shared.handshakes.waiting[self._endpoint] = data

    def _begin(self, engine: TlsEngine) -> None:
        endpoint, flow = self._endpoint, self._shared.registry.flow
        endpoint.transport = self._tls = TlsTransport(endpoint.sock, engine, self.con)
        flow.weigh(self.con)
        flow.keep(self.con, TLS + TLS_HANDSHAKE)

    # --- first bytes ---

    def read(self) -> None:
        """Read from the readable socket."""
        endpoint, con, shared = self._endpoint, self.con, self._shared
        now, flow = shared.loop.now, shared.registry.flow
        if endpoint in shared.handshakes.waiting:
            # More bytes came while it waits for its turn; they stay in the kernel until then.
            endpoint.reading = False
            endpoint.watch()
            return
        data = self._receive()
        if data and con.phase.awaits_header:
            flow.keep(con, EARLY * len(data))
            events, data = con.phase.receive_header(con, data, now)
            shared.registry.take(con, events, now)
            shared.dirty[con] = None
        if not data:
            return
        if self._has_begun() or self._is_tls(data):
            flow.keep(con, EARLY * len(data))
            self._wait(data)
        elif self._is_over() and con.state is not CLOSED:
            endpoint.receive(data, now)
            endpoint.update_reading()

    def _has_begun(self) -> bool:
        """Whether bytes of TLS were read or sent."""
        return self._tls is not None or (self._hello is not None and bool(self._hello.buffer))

    def _receive(self) -> bytes:
        """The bytes that have come; b"" if there are none, or the connection has ended."""
        try:
            data = self._endpoint.sock.recv(HANDSHAKE_READ)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            self._endpoint.lost(error.strerror or str(error))
            return b""
        if not data:
            self._receive_eof()
        return data

    def _receive_eof(self) -> None:
        shared, endpoint = self._shared, self._endpoint
        endpoint.eof = True
        if self._has_begun():
            self._fail("the connection was closed during the handshake")
            return
        # Connected and closed without a byte: a port scan or a health check.
        endpoint.handshake = None
        shared.registry.receive_eof(self.con, shared.loop.now)
        shared.dirty[self.con] = None

    def _is_tls(self, first: bytes) -> bool:
        """Whether the first bytes are TLS; plain bytes are accepted or refused."""
        con, shared, terms = self.con, self._shared, self._terms
        now = shared.loop.now
        shared.dirty[con] = None
        if first[0] == HANDSHAKE:
            con.phase.expect_tls(con, now)
            return True
        if isinstance(terms, ServerContexts) and not terms.is_required:
            self._endpoint.handshake = None
            shared.registry.take(con, con.phase.secured(con, now), now)
        elif any(method.startswith(first) for method in _METHODS) or first.startswith(_METHODS):
            answer = answer_for(first, http_answer(400, "TLS is needed here"))
            self._fail("an HTTP request without TLS", answer)
        else:
            self._fail("bytes that are not TLS")
            con.output.reset = True
        return False

    # --- the handshake ---

    def take_turn(self, data: bytes) -> None:
        """Take one step with the bytes that have come."""
        if self.con.state is CLOSED or self._is_over():
            return
        if self._hello is not None:
            data = self._read_hello(self._hello, data)
        tls = self._tls
        if tls is not None and not self._is_over():
            tls.handshake(data)
            if tls.unsent:
                self._shared.dirty[self.con] = None
            if tls.engine.error:
                self._fail(tls.engine.error)
            elif tls.engine.established:
                self._succeed(tls.engine)
        if not self._endpoint.reading:
            self._endpoint.update_reading()

    def _read_hello(self, reader: HelloReader, data: bytes) -> bytes:
        """Read the peer's first message, which shows what it would make us compute. Returns the
        message for OpenSSL, once it is complete and harmless."""
        hello: TlsHello | None = reader.receive_data(data)
        if hello is None:
            return b""
        self._hello = None
        if hello.error:
            self._fail(hello.error, hello.alert)
            return b""
        if isinstance(self._terms, ServerContexts):
            self._server_name = hello.server_name
            context = self._terms.context_for(hello.server_name)
            self._begin(TlsEngine(context, server_side=True))
        return bytes(reader.buffer)

    def _succeed(self, engine: TlsEngine) -> None:
        shared, endpoint, con = self._shared, self._endpoint, self.con
        now = shared.loop.now
        endpoint.handshake = None
        shared.handshakes.completed += 1
        con.about["tls"] = engine.about(self._server_name)
        shared.registry.flow.weigh(con)
        events = con.connected(now) if con.opened else con.phase.secured(con, now)
        shared.registry.take(con, events, now)
        shared.dirty[con] = None
        endpoint.after_opening(now)
        endpoint.update_reading()

    def _fail(self, why: str, answer: bytes = b"") -> None:
        """End the connection. A TLS alert, or an answer, is still written."""
        shared, endpoint, con = self._shared, self._endpoint, self.con
        now = shared.loop.now
        endpoint.handshake = None
        shared.handshakes.failed += 1
        log.debug(
            "connection %d: the TLS handshake failed: %s", con.id, why, extra=con.subject.extra()
        )
        if con.opened:
            events = con.connect_failed(f"TLS to {without_secrets(con.target)}: {why}", now)
        else:
            events = con.turn_away(answer)
        shared.registry.take(con, events, now)
        shared.dirty[con] = None
