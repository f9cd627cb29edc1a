"""Sans-I/O. One HTTP request and its response, read and written by h11.

What h11 would forgive and a proxy in front may read in another way is refused here: folded fields,
a length beside a transfer coding, and a length that is given twice.
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
"""Bytes of the line before a chunk, and of trailers: nobody needs the extensions in there."""

_FOLDED: Final = re.compile(rb"\n[ \t]")
_LENGTHS: Final = re.compile(rb"\ncontent-length[ \t]*:([^\n]*)", re.IGNORECASE)
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_NO_CONTENT: Final = (204, 205, 304)
"""Statuses of responses without a body (RFC 9110, sections 15.3.5, 15.3.6 and 15.4.5)."""


class RequestError(ValueError):
    """The request cannot be taken; `status` says why to the client, and `limit` is the setting that
    it exceeds, if any."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.limit = "max_message_size" if status == 413 else ""


class Progress(NamedTuple):
    """How far an exchange has come: all that another gateway needs to go on, by `again`."""

    head: bytes
    max_body: int
    front: bytes
    """Before the body: of one in chunks, the chunks that are complete, as one, and the line of the
    next chunk."""
    body: bytes
    """What has come of the body; of one in chunks, of the chunk that is not complete."""
    back: bytes
    """Behind it: of one in chunks, its end."""
    rest: bytes
    """What has come and is not read."""
    is_complete: bool
    has_more: bool
    waits: bool
    """The client waits for a 100 before it sends the body."""
    response: tuple[int, bytes, list[tuple[bytes, bytes]]] | None
    """The head of the response, once that has begun."""
    sent: int
    """Bytes of its body so far."""


class _Blank:
    """Stands for the bytes of a body that were sent; h11 asks only for their number."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


class Exchange:
    """A request as it comes in, then its response as it goes out."""

    def __init__(self, head: bytes, max_body: int) -> None:
        """Read a complete head. Raises RequestError."""
        self._head = head
        self._is_chunked = False
        self._response: h11.Response | None = None
        self._sent = 0
        if _FOLDED.search(head):
            raise RequestError(400, "a header field may not be folded")
        # Of several lengths that agree h11 would make one.
        lengths = _LENGTHS.findall(head)
        if lengths and (len(lengths) > 1 or not lengths[0].strip().isdigit()):
            raise RequestError(400, "exactly one Content-Length is needed, a number")
        most = max(len(head), LONGEST_CHUNK_LINE)
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=most)
        self._max_body = max_body
        self._body = bytearray()
        self._in_chunk = 0
        """Bytes of the body since the last complete chunk, of a body in chunks."""
        self._around = b""
        """What was read beside the body since then: the end of that chunk, the next one's line."""
        self._without_body = False
        self.is_complete = False
        """The request is, with its body."""
        self.has_more = False
        """Something that was received is not read yet."""
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
        """Read bytes behind the head, as far as a turn's share goes. Raises RequestError."""
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
            # Its words quote the client, and its hint 431 is about the line of a chunk: heads are
            # measured before.
            if error.error_status_hint == 501:
                raise RequestError(501, "only Transfer-Encoding: chunked is supported") from error
            if " Host: header" in str(error):
                raise RequestError(400, "exactly one Host header is needed") from error
            raise RequestError(400, "the request is not valid HTTP/1.1") from error
        if self._is_chunked:
            self._follow_chunks(event, unread)
        return event

    def _follow_chunks(self, event: object, unread: bytes) -> None:
        """Keep what another gateway needs to go on within a chunk: h11 tells where chunks end, not
        how long they are."""
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
        """Bytes of a body that is not complete."""
        return len(self._body)

    def interim(self) -> bytes:
        """The 100 that the client waits for before it sends the body; empty if it does not."""
        if not self._h11.they_are_waiting_for_100_continue:
            return b""
        return self._send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))

    def take_body(self) -> bytes:
        """The body of a complete request."""
        body, self._body = bytes(self._body), bytearray()
        return body

    def take_rest(self) -> bytes:
        """What came behind a complete request."""
        return self._h11.trailing_data[0]

    def inf(self) -> dict[str, str]:
        """The head for handlers."""
        ours = {"method": self.method, "url": self.target, "Protocol": "http"}
        return to_inf(ours, self._fields)

    def facts(self) -> dict[str, object]:
        """What else the head says, for `about`."""
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
        """Begin the response, or give it whole. Raises ValueError for one that cannot be sent."""
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
            # The one look at the clock here, which decides nothing.
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
        """More of the body. Raises ValueError if it contradicts the Content-Length of the head."""
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
        """After the response: whether another request may follow."""
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    # --- to go on in another gateway ---

    @property
    def progress(self) -> Progress:
        """How far it has come."""
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
        """What brings a new exchange as far with the body, as `front`, `body` and `back`."""
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
        """An exchange that has come as far. Raises RequestError."""
        self = cls(progress.head, progress.max_body)
        if not progress.waits:
            self.interim()
        body = progress.body
        if progress.is_complete and self.values["content-length"]:
            # It was taken, and only its end counts.
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
