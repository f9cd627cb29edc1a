"""I/O. The HTTP server of the admin address. Few, short connections; whatever comes, it goes on."""

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

from wsraw.admin.answers import Answer, Pieces, Request, Route, text
from wsraw.admin.page.access import OwnToken
from wsraw.admin.routes import ROUTES
from wsraw.admin.run import Run
from wsraw.link.rules import split_host_port
from wsraw.runtime.printable import printable, shown_url

log = logging.getLogger("wsraw.admin")

MOST_CONNECTIONS: Final = 32
"""Connections at the same time. For a further one, the one whose request is overdue for the longest
time is closed; if all have sent theirs, it is answered with 503."""

MAKE_ROOM: Final = 0.5
"""Seconds that a new connection waits for the thread of one that was closed for it."""

SILENT_FOR: Final = 10.0
"""Seconds that a client may neither send nor read anything."""

LONGEST_REQUEST: Final = 30.0
"""Seconds from the accept to the end of the answer, but for one that goes on piece by piece: a
client that sends a byte now and then must not keep a thread."""

KEPT_FOR_READER: Final = 32 * 1024
"""Bytes of an answer in pieces that the kernel may keep, about twice, for one who does not read."""

THROWN_AWAY: Final = 64 * 1024
"""Bytes read at a time from a client that sends more than a request."""

NO_TOKEN: Final = "it needs the header Authorization: Bearer TOKEN"

BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 21\r\n"
    b"Connection: close\r\n\r\ntoo many connections\r\n"
)


class Server(ThreadingHTTPServer):
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
        """The open connections that must end in time, and when."""
        self._unheard: dict[socket.socket, None] = {}
        """Those whose request has not come, the oldest first."""

    def token(self) -> str:
        """The token that requests must carry, read anew so that it can be changed; "" without one.
        Raises OSError."""
        return read_token(self.token_file) if self.token_file else ""

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, if there may be one more."""
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
        """Close a connection that says nothing, so that those who hold connections open cannot keep
        health checks out. False if there is none."""
        for request in list(self._unheard):
            # Its thread may have heard it just now.
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
        """Let the answer on this connection take as long as it likes, while it is read: with a
        small buffer it does not take minutes to notice that the reader is gone."""
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
        """A client that has left, or was too slow, is no error."""
        log.debug("a connection of the admin address has failed", exc_info=True)


def _end(request: socket.socket) -> None:
    """Shut a connection down; its thread finds the end, and closes it."""
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
    server: Server

    def do_GET(self) -> None:
        answer = self._answer()
        try:
            self._send(answer)
        finally:
            if not isinstance(answer.body, bytes):
                answer.body.close()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET  # noqa: N815

    def _answer(self) -> Answer:
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
            # A web page can make a browser ask this address by a name of its own (DNS rebinding).
            # A browser always sends a Host; the checks of a load balancer need not.
            return text(HTTPStatus.FORBIDDEN, "ask for it by its IP address, or as localhost")
        if route.needs_token:
            page_token = self.server.page_token
            token = token or (page_token.text if page_token is not None else "")
            if not token:
                return text(HTTPStatus.SERVICE_UNAVAILABLE, "the run has no token for the page")
        if token and not route.is_open and not self._has(token):
            return text(HTTPStatus.UNAUTHORIZED, NO_TOKEN)
        return self._pass_on(route, url.query)

    def _publishing(self, route: Route, query: str) -> Answer:
        """With a token of its own: whoever may publish may not see and change the run."""
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

    def _pass_on(self, route: Route, query: str) -> Answer:
        body = self._body(route.most_body)
        if body is None:
            most = f"send Content-Length, and at most {route.most_body} bytes"
            return text(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, most)
        self.server.heard(self.connection)
        headers = dict(self.headers.items())
        run, has_left = self.server.run, self._has_left
        return route.answer(Request(self.command, query, headers, body, run, has_left))

    def _has_left(self, within: float) -> bool:
        """Whether the client closes the connection in so many seconds. What it sends beyond its
        request is thrown away: each connection has one answer."""
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
        """The body of the request; None if it is too long, or does not say how long it is. Raises
        OSError if the rest of it does not come: only a whole request asks for something."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            return None
        if len(length) > 10 or int(length) > most:
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client has left in the middle of its request")
        return body

    def _send(self, answer: Answer) -> None:
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
            # A browser does not ask for it by itself: the page does.
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
            # Whoever has read it has closed the page.
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """What the library would print to stderr."""
        told = re.sub(r"[?#]\S*", "?...", format % args)
        log.debug("%s: %s", self.address_string(), printable(told))

    def handle_one_request(self) -> None:
        """Handle a request. A bug of ours costs this request alone, and is logged."""
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
    """The token in a file: its first line. Raises OSError, with advice if there is none."""
    with open(path, encoding="utf-8", errors="replace") as file:
        token = file.readline(4096).strip()
    if not token:
        raise OSError(0, "it is empty; write a secret into it")
    return token
