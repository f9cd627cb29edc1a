"""Sans-I/O. One HTTP request and its response, read and written by h11.

Requests that h11 would accept but a proxy in front may read differently are refused here: those
with folded fields, with a length beside a transfer coding, or with two lengths.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import h11

from wsraw.gateway.websocket.handshake import Values, repeated, to_inf
from wsraw.link.rules import OF_RESPONSES, VALUE, header_problem

SHARE: Final = 64
"""Chunks of a body that are read at once, so that many small ones do not hold up others."""

LONGEST_CHUNK_LINE: Final = 1024
"""Bytes of the line before a chunk, and of trailers: extensions there are rarely used."""

_FOLDED: Final = re.compile(rb"\n[ \t]")
_LENGTHS: Final = re.compile(rb"\ncontent-length[ \t]*:([^\n]*)", re.IGNORECASE)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_NO_CONTENT: Final = (204, 205, 304)
"""Statuses of responses without a body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5)."""


class RequestError(ValueError):
    """The request cannot be accepted; `status` tells the client why, and `limit` is the setting
    that it exceeds, if any."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.limit = "max_message_size" if status == 413 else ""


class Progress(NamedTuple):
    """The progress of an exchange: all that another gateway needs to continue it, with `again`."""

    head: bytes
    max_body: int
    front: bytes
    """The bytes before those in `body`: of a body in chunks, the complete chunks as one, and the
    line of the next chunk."""
    body: bytes
    """The bytes of the body so far; of a body in chunks, those of the incomplete chunk."""
    back: bytes
    """The bytes behind those in `body`: of a body in chunks, its end."""
    rest: bytes
    """Bytes that were received and not read yet."""
    is_complete: bool
    has_more: bool
    waits: bool
    """The client waits for a 100 before it sends the body."""
    response: tuple[int, bytes, list[tuple[bytes, bytes]]] | None
    """The head of the response, once it has begun."""
    sent: int
    """Bytes of the response's body so far."""


class _Blank:
    """Stands for bytes of a body that were sent; h11 needs only their number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class Exchange:
    """A request that is being received, then its response that is being sent."""

    def __init__(self, head: bytes, max_body: int) -> None:
        """Read a complete head. Raises RequestError."""
        self._head = head
        self._is_chunked = False
        self._response: h11.Response | None = None
        self._sent = 0
        if _FOLDED.search(head):
            raise RequestError(400, "a header field may not be folded")
        # If several lengths agree, h11 would make them one.
        lengths = _LENGTHS.findall(head)
        if lengths and (len(lengths) > 1 or not lengths[0].strip().isdigit()):
            raise RequestError(400, "exactly one Content-Length is needed, a number")
        most = max(len(head), LONGEST_CHUNK_LINE)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
        self._max_body = max_body
        self._body = bytearray()
        self._in_chunk = 0
        """For a body in chunks: its bytes since the last complete chunk."""
        self._around = b""
        """What was read since then that is not the body's data: the end of that chunk, and the line
        of the next one."""
        self._without_body = False
        self.is_complete = False
        """The request is complete, with its body."""
        self.has_more = False
        """Some received bytes are not read yet."""
        request = self._next(head)
        if not isinstance(request, h11.Request):
            raise RequestError(400, "the request is not valid HTTP/1.1")
        self.method = request.method.decode("ascii")
        self.target = request.target.decode("latin-1")
        self.version = request.http_version.decode("ascii")
        self._fields = [
            (name.decode("ascii"), value.decode("latin-1"))
            for name, value in request.headers.raw_items()
        ]
        self.values: Values = Values(list)
        """Values of the head's fields by their lower-case names."""
        for name, value in self._fields:
            self.values[name.lower()].append(value)
        self._check()

    def _check(self) -> None:
        lengths, codings = self.values["content-length"], self.values["transfer-encoding"]
        self._is_chunked = bool(codings)
        if codings and (lengths or self.version == "1.0"):
            raise RequestError(400, "Transfer-Encoding contradicts the rest of the head")
        if self.method == "CONNECT":
            raise RequestError(501, "this server is not a proxy")
        if not self.target.startswith("/") and not (
            self.method == "OPTIONS" and self.target == "*"
        ):
            raise RequestError(400, "the target of the request must begin with a slash")
        if lengths and int(lengths[0]) > self._max_body:
            raise RequestError(413, "the body is larger than this server accepts")
        others = [each for each in self.values["expect"] if each.lower() != "100-continue"]
        if others:
            raise RequestError(417, "only Expect: 100-continue is supported")

    # --- the request ---

    def receive_data(self, data: bytes) -> None:
        """Read bytes behind the head, up to a turn's share. Raises RequestError."""
        self.has_more = False
        for _ in range(SHARE):
            event = self._next(data)
            data = b""
            if event is h11.NEED_DATA:
                return
            if isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._max_body:
                    raise RequestError(413, "the body is larger than this server accepts")
            elif isinstance(event, h11.EndOfMessage):
                self.is_complete = True
                return
        self.has_more = True

    def _next(self, data: bytes) -> object:
        unread = self._h11.trailing_data[0] + data if self._is_chunked else b""
        try:
            if data:
                self._h11.receive_data(data)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            # h11's message quotes the client, and its hint 431 is about the line of a chunk: heads
            # were measured before.
            if error.error_status_hint == 501:
                raise RequestError(501, "only Transfer-Encoding: chunked is supported") from error
            if " Host: header" in str(error):
                raise RequestError(400, "exactly one Host header is needed") from error
            raise RequestError(400, "the request is not valid HTTP/1.1") from error
        if self._is_chunked:
            self._follow_chunks(event, unread)
        return event

    def _follow_chunks(self, event: object, unread: bytes) -> None:
        """Keep what another gateway needs to continue within a chunk: h11 reports where chunks end,
        not how long they are."""
        read = unread[: len(unread) - len(self._h11.trailing_data[0])]
        if not isinstance(event, h11.Data):
            self._around += read
        elif event.chunk_end:
            self._around, self._in_chunk = b"", 0
        else:
            self._around += read[: len(read) - len(event.data)]
            self._in_chunk += len(event.data)

    @property
    def unfinished(self) -> int:
        """Bytes of an incomplete body."""
        return len(self._body)

    def interim(self) -> bytes:
        """The 100 that the client waits for before it sends the body; empty if it does not wait."""
        if not self._h11.they_are_waiting_for_100_continue:
            return b""
        return self._send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))

    def take_body(self) -> bytes:
        """The body of a complete request."""
        body, self._body = bytes(self._body), bytearray()
        return body

    def take_rest(self) -> bytes:
        """The bytes that came behind a complete request."""
        return self._h11.trailing_data[0]

    def inf(self) -> dict[str, str]:
        """The request's head for handlers."""
        ours = {"method": self.method, "url": self.target, "Protocol": "http"}
        return to_inf(ours, self._fields)

    def facts(self) -> dict[str, object]:
        """Further facts from the head, for `about`."""
        found: dict[str, object] = {"http_version": self.version}
        several = repeated(self.values)
        if several:
            found["repeated"] = several
        return found

    # --- the response ---

    def respond(
        self,
        status: int,
        reason: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        final: bool,
    ) -> bytes:
        """Begin the response, or send it whole. Raises ValueError for a response that cannot be
        sent."""
        if not 200 <= status <= 599:
            raise ValueError(f"status {status}: the status of a response is from 200 to 599")
        why = header_problem(headers, OF_RESPONSES)
        if why:
            raise ValueError(why)
        if not VALUE.fullmatch(reason):
            raise ValueError("the reason must be one line of Latin-1 characters")
        known = {name.lower() for name, _ in headers}
        fields = [*headers]
        if "date" not in known:
            # The only look at the clock in here; nothing depends on it.
            fields.append(("Date", formatdate(usegmt=True)))
        if final and "content-length" not in known and status not in _NO_CONTENT:
            fields.append(("Content-Length", str(len(body))))
        elif status == 205 and "content-length" not in known:
            fields.append(("Content-Length", "0"))
        try:
            response = h11.Response(
                status_code=status,
                headers=[(name.encode("ascii"), value.encode("latin-1")) for name, value in fields],
                reason=(reason or _PHRASES.get(status, "")).encode("latin-1"),
            )
        except h11.LocalProtocolError as error:
            raise ValueError(f"the response cannot be sent: {error}") from error
        out = self._begin(response)
        return out + self.send(body, final)

    def _begin(self, response: h11.Response) -> bytes:
        out = self._send(response)
        self._response = response
        self._without_body = self.method == "HEAD" or response.status_code in _NO_CONTENT
        return out

    def send(self, data: bytes, final: bool) -> bytes:
        """Send more of the body. Raises ValueError if it contradicts the Content-Length of the
        head."""
        out = b""
        if data and not self._without_body:
            out = self._send(h11.Data(data=data))
            self._sent += len(data)
        return out + self._send(h11.EndOfMessage()) if final else out

    def _send(self, event: h11.Event) -> bytes:
        try:
            return self._h11.send(event) or b""
        except h11.LocalProtocolError as error:
            raise ValueError(f"the response cannot be sent: {error}") from error

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow the response."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    # --- to go on in another gateway ---

    @property
    def progress(self) -> Progress:
        """How far the exchange has come."""
        front, body, back = self._replayed()
        response = self._response
        return Progress(
            self._head,
            self._max_body,
            front,
            body,
            back,
            b"" if self.is_complete else self._h11.trailing_data[0],
            self.is_complete,
            self.has_more,
            self._h11.they_are_waiting_for_100_continue,
            (response.status_code, response.reason, list(response.headers))
            if response is not None
            else None,
            self._sent,
        )

    def _replayed(self) -> tuple[bytes, bytes, bytes]:
        """The bytes that bring a new exchange to the same point of the body, as `front`, `body` and
        `back`."""
        body = bytes(self._body)
        if not self._is_chunked:
            return b"", body, b""
        if self.is_complete:
            return b"", body, b"0\r\n\r\n"
        done = len(body) - self._in_chunk
        front = b"%x\r\n%b" % (done, body[:done]) if done else b""
        return front + self._around, body[done:], b""

    @classmethod
    def again(cls, progress: Progress) -> Exchange:
        """An exchange that continues from this progress. Raises RequestError."""
        self = cls(progress.head, progress.max_body)
        if not progress.waits:
            self.interim()
        body = progress.body
        if progress.is_complete and self.values["content-length"]:
            # The body was accepted before, and only its end matters.
            body = bytes(int(self.values["content-length"][0]))
        self._read_again(progress.front + body + progress.back)
        self.is_complete, self.has_more = progress.is_complete, progress.has_more
        if self.is_complete:
            self._body.clear()
        elif progress.rest:
            self._h11.receive_data(progress.rest)
        if progress.response is not None:
            status, reason, headers = progress.response
            self._begin(h11.Response(status_code=status, reason=reason, headers=headers))
            blank: Any = _Blank(progress.sent)
            if progress.sent:
                self._h11.send_with_data_passthrough(h11.Data(data=blank))
            self._sent = progress.sent
        return self

    def _read_again(self, data: bytes) -> None:
        event = self._next(data)
        while isinstance(event, h11.Data):
            self._body += event.data
            event = self._next(b"")
