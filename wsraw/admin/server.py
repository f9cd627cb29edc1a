"""I/O. The HTTP server of the admin address: few, short connections. No request can stop it."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import urlsplit

from wsraw.admin.http import AdminRequest, AdminResponse, Pieces, Route, text
from wsraw.admin.page.access import OwnToken
from wsraw.admin.routes import ROUTES
from wsraw.admin.run import Run
from wsraw.link.rules import split_host_port
from wsraw.runtime.printable import printable, shown_url

log = logging.getLogger("wsraw.admin")

MOST_CONNECTIONS: Final = 32
"""Connections at the same time. To make room for a further one, the connection whose request has
been overdue for longest is closed. If all have sent their requests, the new one is answered with
503."""

MAKE_ROOM: Final = 0.5
"""Seconds that a new connection waits at most for the thread of the one that was closed for it."""

SILENT_FOR: Final = 10.0
"""Seconds that a client may neither send nor read anything."""

LONGEST_REQUEST: Final = 30.0
"""Seconds from the accept to the end of the answer, except for an answer in pieces: a client that
sends a byte now and then must not keep a thread."""

KEPT_FOR_READER: Final = 32 * 1024
"""Bytes of an answer in pieces that we ask the kernel to keep at most for a slow reader; it keeps
about twice as many."""

THROWN_AWAY: Final = 64 * 1024
"""Bytes read at a time from a client that sends more than a request; they are discarded."""

NO_TOKEN: Final = "it needs the header Authorization: Bearer TOKEN"

BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n"
    b"Connection: close\r\n\r\ntoo many connections\r\n"
)


class AdminServer(ThreadingHTTPServer):
    """Serves `routes` on a socket that listens."""

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        sock: socket.socket,
        run: Run,
        token_file: str = "",
        routes: Mapping[str, Route] = ROUTES,
        page_token: OwnToken | None = None,
        publish_token_file: str = "",
    ) -> None:
        """`token_file`: the file with the token that requests must carry; none without one.
        `page_token`: that of the page, which always needs one. `publish_token_file`: the file with
        the token that publishing needs; without one it is refused."""
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = sock
        self.server_address = sock.getsockname()
        self.run = run
        self.routes = routes
        self.token_file = token_file
        self.page_token = page_token
        if page_token is not None:
            page_token.keep()
        self.publish_token_file = publish_token_file
        self._free = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._until: dict[socket.socket, float] = {}
        """The open connections that must end in time, and when they must."""
        self._unheard: dict[socket.socket, None] = {}
        """The connections whose request has not come, the oldest first."""

    def token(self) -> str:
        """The token that requests must carry, read again each time so that it can be changed; "" if
        none is required. Raises OSError."""
        return read_token(self.token_file) if self.token_file else ""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, if one is free."""
        if not (self._free.acquire(blocking=False) or self._make_room()):
            request.setblocking(False)
            with suppress(OSError):
                request.send(BUSY)
            self.shutdown_request(request)
            return
        self._until[request] = time.monotonic() + LONGEST_REQUEST
        self._unheard[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._release(request)

    def _make_room(self) -> bool:
        """Close a connection that has sent no request, so that clients that hold connections open
        cannot keep health checks out. False if there is none."""
        for request in list(self._unheard):
            # Its thread may have received the request just now.
            if self._unheard.pop(request, self) is not self:
                _end(request)
                return self._free.acquire(timeout=MAKE_ROOM)
        return False

    def _release(self, request: socket.socket) -> None:
        self._until.pop(request, None)
        self._unheard.pop(request, None)
        self._free.release()

    def heard(self, request: socket.socket) -> None:
        """The request on this connection has come."""
        self._unheard.pop(request, None)

    def keep(self, request: socket.socket) -> None:
        """Let the answer on this connection take as long as it needs, while the client reads it. A
        small buffer makes it quickly noticeable that the client is gone."""
        self._until.pop(request, None)
        request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KEPT_FOR_READER)

    def service_actions(self) -> None:
        """About twice a second: end the connections whose time is over."""
        if self.page_token is not None:
            self.page_token.keep()
        now = time.monotonic()
        for request, until in list(self._until.items()):
            if now > until:
                self._until.pop(request, None)
                _end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that have left or were too slow."""
        log.debug("a connection of the admin address has failed", exc_info=True)


def _end(request: socket.socket) -> None:
    """Shut a connection down; its thread notices the end and closes it."""
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One request, as each answer ends its connection."""

    protocol_version = "HTTP/1.1"
    server_version = "wsraw"
    sys_version = ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(message)s\n"
    timeout = SILENT_FOR
    server: AdminServer

    def do_GET(self) -> None:
        answer = self._answer()
        try:
            self._send(answer)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET  # noqa: N815

    def _answer(self) -> AdminResponse:
        try:
            url = urlsplit(self.path)
        except ValueError:
            return text(HTTPStatus.BAD_REQUEST, "the address cannot be read")
        route = self.server.routes.get(url.path)
        if route is None:
            there = ", ".join(self.server.routes)
            return text(HTTPStatus.NOT_FOUND, f"there is no such page; there are {there}")
        if self.command not in route.methods:
            allowed = " and ".join(route.methods)
            answer = text(HTTPStatus.METHOD_NOT_ALLOWED, f"this page accepts only {allowed}")
            return answer._replace(headers=(("Allow", ", ".join(route.methods)),))
        if route.is_publishing:
            return self._publishing(route, url.query)
        try:
            token = self.server.token()
        except OSError as error:
            log.error("admin_token: %s: %s", self.server.token_file, error.strerror)
            return text(HTTPStatus.SERVICE_UNAVAILABLE, "the token of the run cannot be read")
        host = self.headers.get("Host")
        if not token and host is not None and not _is_address(host):
            # A web page can make a browser send requests to this address under a name of its own
            # (DNS rebinding). A browser always sends a Host; health checks of a load balancer need
            # not.
            return text(HTTPStatus.FORBIDDEN, "ask for it by its IP address, or as localhost")
        if route.needs_token:
            page_token = self.server.page_token
            token = token or (page_token.text if page_token is not None else "")
            if not token:
                return text(HTTPStatus.SERVICE_UNAVAILABLE, "the run has no token for the page")
        if token and not route.is_open and not self._has(token):
            return text(HTTPStatus.UNAUTHORIZED, NO_TOKEN)
        return self._pass_on(route, url.query)

    def _publishing(self, route: Route, query: str) -> AdminResponse:
        """Check the token of publish_token: whoever may publish may not necessarily see and change
        the run."""
        path = self.server.publish_token_file
        if not path:
            why = "publishing over HTTP is off: set publish_token, the name of a file with a secret"
            return text(HTTPStatus.FORBIDDEN, why)
        try:
            token = read_token(path)
        except OSError as error:
            log.error("publish_token: %s: %s", path, error.strerror)
            return text(HTTPStatus.SERVICE_UNAVAILABLE, "the token of publishing cannot be read")
        if not self._has(token):
            return text(HTTPStatus.UNAUTHORIZED, NO_TOKEN)
        return self._pass_on(route, query)

    def _pass_on(self, route: Route, query: str) -> AdminResponse:
        body = self._body(route.most_body)
        if body is None:
            most = f"send Content-Length, and at most {route.most_body} bytes"
            return text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
        self.server.heard(self.connection)
        headers = dict(self.headers.items())
        run, has_left = self.server.run, self._has_left
        return route.answer(AdminRequest(self.command, query, headers, body, run, has_left))

    def _has_left(self, within: float) -> bool:
        """Whether the client closes the connection within this many seconds. What it sends after
        its request is discarded: each connection has one answer."""
        until = time.monotonic() + within
        with selectors.DefaultSelector() as selector, suppress(OSError):
            selector.register(self.connection, selectors.EVENT_READ)
            while selector.select(within):
                if not self.connection.recv(THROWN_AWAY):
                    return True
                within = until - time.monotonic()
                if within <= 0:
                    return False
            return False
        return True

    def _has(self, token: str) -> bool:
        scheme, _, given = self.headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode())

    def _body(self, most: int) -> bytes | None:
        """The body of the request; None if it is too long, or its length is not given. Raises
        OSError if the rest of it does not come: incomplete requests are not carried out."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            return None
        if len(length) > 10 or int(length) > most:
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client has left in the middle of its request")
        return body

    def _send(self, answer: AdminResponse) -> None:
        body = answer.body
        self.close_connection = True
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        for name, value in answer.headers:
            self.send_header(name, value)
        if isinstance(body, bytes):
            self.send_header("Content-Length", str(len(body)))
        if answer.status is HTTPStatus.UNAUTHORIZED:
            # Browsers show no login dialog for Bearer: the page asks for the token.
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(body, bytes):
            self.wfile.write(body)
        else:
            self._send_pieces(body)

    def _send_pieces(self, pieces: Pieces) -> None:
        self.server.keep(self.connection)
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            # The reader has closed the page.
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Log at debug level what http.server would print to stderr."""
        told = re.sub(r"[?#]\S*", "?...", format % args)
        log.debug("%s: %s", self.address_string(), printable(told))

    def handle_one_request(self) -> None:
        """Handle a request. A bug in wsraw costs this request alone, and is logged."""
        try:
            super().handle_one_request()
        except OSError:
            raise
        except Exception:
            log.exception("a request for %s was ended by a bug", shown_url(str(self.path)))
            self.close_connection = True


def _is_address(host: str) -> bool:
    """Whether a Host header is an IP address, or localhost."""
    name = (split_host_port(host) or (host.strip("[]"), None))[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True


def read_token(path: str) -> str:
    """The token in a file: its first line. Raises OSError, with advice if the line is empty."""
    with open(path, encoding="utf-8", errors="replace") as file:
        token = file.readline(4096).strip()
    if not token:
        raise OSError(0, "it is empty; write a secret into it")
    return token
