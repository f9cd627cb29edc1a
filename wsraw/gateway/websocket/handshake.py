"""Sans-I/O. The handshake of a WebSocket, both roles (RFC 6455, section 4)."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from random import SystemRandom
from typing import Any, Final, NamedTuple

from wsraw.config.settings import Settings
from wsraw.gateway.http import http_head
from wsraw.gateway.websocket import deflate
from wsraw.link.open_options import Opening
from wsraw.link.rules import NAME

try:
    # Python's own SHA-1, as its module random uses it: hashlib loads OpenSSL, 4 MiB that a gateway
    # without TLS does not need otherwise. Some Pythons are built without it.
    from _sha1 import sha1  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha1

_RANDOM: Final = SystemRandom()

Fields = list[tuple[str, str]]
"""Names and values of header fields, in order, as the peer spelled them."""

Values = defaultdict[str, list[str]]
"""Values by the lower-case names of their fields."""

_TOKEN: Final = r"[-!#$%&'*+.^_`|~0-9a-zA-Z]++"
_FIELDS: Final = rf"((?:{_TOKEN}:[\t -~\x80-\xff]*+\r?\n)*+)\r?\n"
# A lone LF ends a line, too (RFC 9112, section 2.2).
_REQUEST: Final = re.compile(rf"([!-~]++) ([!-~]++) HTTP/1\.([01])\r?\n{_FIELDS}".encode("ascii"))
# Some servers omit the space in front of an empty reason (section 4).
_STATUS: Final = rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [\t -~\x80-\xff]*+)?\r?\n"
_STATUS_LINE: Final = re.compile(_STATUS)
_RESPONSE: Final = re.compile(_STATUS + _FIELDS.encode("ascii"))
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_KEY: Final = re.compile(r"[0-9a-zA-Z+/]{22}==")
_ACCEPT_SALT: Final = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HandshakeError(ValueError):
    """The peer's request or response does not open a WebSocket."""

    def __init__(self, why: str, status: int = 400, *headers: tuple[str, str]) -> None:
        super().__init__(why)
        self.status = status
        """The status of our response to a client."""
        self.headers = headers


# --- fields ---


def _split_fields(lines: bytes) -> Fields:
    fields = []
    for line in lines.decode("latin-1").split("\n")[:-1]:
        name, _, value = line.partition(":")
        fields.append((name, value.strip("\t\r ")))
    return fields


def _by_name(fields: Fields) -> Values:
    values: Values = defaultdict(list)
    for name, value in fields:
        values[name.lower()].append(value)
    return values


def _elements(values: Iterable[str]) -> list[str]:
    """The elements of a list. Empty ones are ignored (RFC 9110, section 5.6.1)."""
    elements = [element.strip(" \t") for value in values for element in value.split(",")]
    return [element for element in elements if element]


def _token(text: str, field: str = "Sec-WebSocket-Extensions") -> str:
    if not NAME.fullmatch(text):
        raise HandshakeError(f"{field}: {text!r} is not a token")
    return text


def _tokens(values: Values, field: str) -> list[str]:
    return [_token(element, field) for element in _elements(values[field.lower()])]


def to_inf(ours: dict[str, str], fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Header fields for handlers: names as the peer spelled them, values of the same name joined
    (cookies as in RFC 9113, section 8.2.3). Items of `ours` replace fields of the same names."""
    inf = dict(ours)
    spelled: dict[str, str] = {}
    for name, value in fields:
        lower = name.lower()
        known = spelled.setdefault(lower, name)
        joint = "; " if lower == "cookie" else ", "
        inf[known] = f"{inf[known]}{joint}{value}" if known in inf else value
    inf.update(ours)
    return inf


def repeated(values: Values) -> dict[str, list[str]]:
    """The values of fields that came more than once. An `inf` joins them, and cannot be split again
    where values contain commas. Without cookies, which contain none."""
    return {name: each for name, each in values.items() if len(each) > 1 and name != "cookie"}


def accept_key(key: str) -> str:
    """The proof that a server has read the client's key (RFC 6455, section 4.2.2)."""
    return base64.b64encode(sha1((key + _ACCEPT_SALT).encode()).digest()).decode()


# --- extensions ---


def _read_extensions(values: Values) -> Iterable[tuple[str, deflate.Parameters]]:
    """Names and parameters, in order (RFC 6455, section 9.1)."""
    # The content of a quoted value must be a token, so it has no separators.
    for element in _elements(values["sec-websocket-extensions"]):
        name, *parts = (part.strip(" \t") for part in element.split(";"))
        yield _token(name), [_read_parameter(part) for part in parts]


def _read_parameter(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        return _token(name), None
    value = value.strip(" \t")
    if value.startswith('"') and value.endswith('"') and len(value) > 1:
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    return _token(name.strip(" \t")), _token(value)


def _show_parameters(parameters: deflate.Parameters) -> str:
    parts = [name if value is None else f"{name}={value}" for name, value in parameters]
    return "; ".join((deflate.NAME, *parts))


# --- server ---


class ServerHandshake:
    """A client's request, and our response to it."""

    __slots__ = ("_answer", "inf", "offered", "repeated", "terms")

    def __init__(self, head: bytes, settings: Settings) -> None:
        """Read a complete request head. Raises HandshakeError."""
        found = _REQUEST.fullmatch(head)
        if found is None:
            raise HandshakeError("the request is not valid HTTP/1.1")
        method, url, version, lines = found.groups()
        fields = _split_fields(lines)
        values = _by_name(fields)
        key = _check_request(method, version, values)
        ours = {"method": "GET", "url": url.decode(), "Protocol": "websocket server"}
        self.inf = to_inf(ours, fields)
        self.repeated = repeated(values)
        self.offered = _tokens(values, "Sec-WebSocket-Protocol")
        """The subprotocols that the client speaks."""
        self._answer = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(key)),
        ]
        self.terms: deflate.Terms | None = None
        """The terms of compression, if both sides agree on it."""
        if settings.deflate:
            self._negotiate(values, settings)

    def _negotiate(self, values: Values, settings: Settings) -> None:
        """Accept the first possible offer."""
        for name, parameters in _read_extensions(values):
            if name != deflate.NAME or self.terms is not None:
                continue
            try:
                said, self.terms = deflate.answer(parameters, settings)
            except ValueError:
                continue
            self._answer.append(("Sec-WebSocket-Extensions", _show_parameters(said)))

    def answer(self, subprotocol: str | None, headers: Sequence[tuple[str, str]]) -> bytes:
        """The response that opens the WebSocket."""
        fields = self._answer
        if subprotocol is not None:
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        # A 101 needs no Date (RFC 9110, section 6.6.1).
        return http_head(101, "Switching Protocols", [*fields, *headers])


def _check_request(method: bytes, version: bytes, values: Values) -> str:
    """Check a request for a WebSocket, and return its key. Raises HandshakeError."""
    if values["transfer-encoding"] or not set(values["content-length"]) <= {"0"}:
        raise HandshakeError("a request for a WebSocket has no body")
    # RFC 6455, section 4.2.1, and RFC 9112, section 3.2.
    if len(values["host"]) != 1:
        raise HandshakeError("exactly one Host header is needed")
    versions = values["sec-websocket-version"]
    if versions and versions != ["13"]:
        # RFC 6455, section 4.4: name the version that we support.
        raise HandshakeError("only version 13 is supported", 426, ("Sec-WebSocket-Version", "13"))
    if method != b"GET":
        raise HandshakeError("the method must be GET", 405, ("Allow", "GET"))
    if version != b"1":
        raise HandshakeError("HTTP/1.1 is needed", 505)
    _check_upgrade(values)
    keys = values["sec-websocket-key"]
    if len(keys) != 1 or not _KEY.fullmatch(keys[0]):
        raise HandshakeError("exactly one Sec-WebSocket-Key of 16 bytes in Base64 is needed")
    if not versions:
        raise HandshakeError("the header Sec-WebSocket-Version is missing")
    if len(values["origin"]) > 1:
        raise HandshakeError("more than one Origin header")
    return keys[0]


def _check_upgrade(values: Values) -> None:
    if "upgrade" not in map(str.lower, _tokens(values, "Connection")):
        raise HandshakeError("the header Connection does not list Upgrade", 426)
    if "websocket" not in map(str.lower, _elements(values["upgrade"])):
        raise HandshakeError("the header Upgrade does not list websocket", 426)


# --- client ---

MOST_HEAD: Final = 64 * 1024
"""Bytes of a response's head."""

MOST_FIELDS: Final = 128

MOST_BODY: Final = 64 * 1024
"""Bytes of a response's body that handlers see; the rest is cut off."""

MOST_INTERIM: Final = 16
"""Interim responses that are skipped, such as 103."""

MOST_CHUNKS: Final = 1000
"""Chunks of a response's body that are read; each takes a few µs."""

LONGEST_CHUNK_LINE: Final = 256
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}(?=[;\s])")


class HandshakeResponse(NamedTuple):
    """A server's response to our request."""

    status: int
    fields: Fields
    body: bytes = b""

    def shown(self) -> dict[str, Any]:
        return {"status": self.status, "headers": to_inf({}, self.fields), "body": self.body}


class ClientHandshake:
    """Our request, and the server's response to it."""

    def __init__(self, settings: Settings, asked: Opening) -> None:
        self._settings = settings
        self._key = base64.b64encode(_RANDOM.randbytes(16)).decode()
        self._subprotocols = asked.subprotocols
        wants_deflate = settings.deflate if asked.deflate is None else asked.deflate
        self._offers = deflate.offers(settings) if wants_deflate else []
        fields = {name.lower(): (name, value) for name, value in asked.headers}
        own = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Version", "13"),
        ]
        if self._offers:
            offers = ", ".join(_show_parameters(offer) for offer in self._offers)
            own.append(("Sec-WebSocket-Extensions", offers))
        if self._subprotocols:
            own.append(("Sec-WebSocket-Protocol", ", ".join(self._subprotocols)))
        lines = [f"{name}: {value}\r\n" for name, value in (*fields.values(), *own)]
        self.request = f"GET {asked.url} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")
        self._buffer = bytearray()
        self._eof = False
        self._reading = self._read()
        next(self._reading)
        self.response: HandshakeResponse | None = None
        """The server's response, once it is complete."""
        self.terms: deflate.Terms | None = None
        """The terms of compression, if both sides agree on it."""
        self.subprotocol: str | None = None

    @property
    def repeated(self) -> dict[str, list[str]]:
        """The values of the response's fields that came more than once."""
        return repeated(_by_name(self.response.fields)) if self.response is not None else {}

    @property
    def unfinished(self) -> int:
        """Bytes of an incomplete response."""
        return len(self._buffer)

    def receive_data(self, data: bytes) -> bytes | None:
        """Receive bytes of the response. Returns the bytes behind it once it has opened the
        WebSocket, else None. Raises HandshakeError; `response` is set if one was complete."""
        self._buffer += data
        return self._go_on()

    def receive_eof(self) -> None:
        """The server sends no more. Raises HandshakeError."""
        self._eof = True
        self._go_on()
        raise HandshakeError("the connection was closed during the handshake")

    def close(self) -> None:
        """Free the buffer at once: the generator and this object refer to each other."""
        self._reading.close()

    def _go_on(self) -> bytes | None:
        try:
            next(self._reading)
        except StopIteration as done:
            self.response = done.value
            self._check(done.value)
            return bytes(self._buffer)
        return None

    def _check(self, response: HandshakeResponse) -> None:
        """Raises HandshakeError if the response does not open the WebSocket that we asked for."""
        if response.status != 101:
            raise HandshakeError(f"server rejected WebSocket connection: HTTP {response.status}")
        values = _by_name(response.fields)
        _check_upgrade(values)
        if len(_elements(values["upgrade"])) > 1:
            raise HandshakeError("the response's header Upgrade is not just websocket")
        if values["sec-websocket-accept"] != [accept_key(self._key)]:
            raise HandshakeError("the response's Sec-WebSocket-Accept does not match our key")
        for name, parameters in _read_extensions(values):
            if name != deflate.NAME or not self._offers or self.terms is not None:
                raise HandshakeError(f"the server chose extension {name}, which was not offered")
            try:
                self.terms = deflate.accept(parameters, self._settings)
            except ValueError as error:
                raise HandshakeError(f"the server chose an invalid extension: {error}") from error
        chosen = _tokens(values, "Sec-WebSocket-Protocol")
        if chosen:
            if len(chosen) > 1 or chosen[0] not in self._subprotocols:
                what = ", ".join(chosen)
                raise HandshakeError(f"Sec-WebSocket-Protocol: {what} was not offered")
            self.subprotocol = chosen[0]

    # --- reading the response; each yield waits for more bytes ---

    def _read(self) -> Generator[None, None, HandshakeResponse]:
        """Read the final response, behind interim ones (RFC 9110, section 15.2). The body is read
        only as far as handlers see it: a server may never finish it."""
        for _ in range(MOST_INTERIM):
            response, is_old = yield from self._read_head()
            if response.status == 101 and is_old:
                raise HandshakeError("the server speaks HTTP/1.0")
            if response.status == 101:
                return response
            if response.status >= 200:
                break
        body = b""
        if response.status >= 200 and response.status not in (204, 304):
            body = yield from self._read_body(_by_name(response.fields))
        return response._replace(body=body)

    def _read_head(self) -> Generator[None, None, tuple[HandshakeResponse, bool]]:
        buffer = self._buffer
        seen = 0
        while (end := _HEAD_END.search(buffer, seen)) is None:
            line = buffer.find(b"\n")
            wrong = line >= 0 and not _STATUS_LINE.match(buffer)
            if wrong or self._eof or len(buffer) > MOST_HEAD:
                raise HandshakeError("the server did not send a valid HTTP response")
            seen = max(0, len(buffer) - 2)
            yield
        head = bytes(buffer[: end.end()])
        found = _RESPONSE.fullmatch(head)
        if found is None or len(head) > MOST_HEAD or head.count(b"\n") > MOST_FIELDS + 2:
            raise HandshakeError("the server did not send a valid HTTP response")
        del buffer[: len(head)]
        return HandshakeResponse(int(found[2]), _split_fields(found[3])), found[1] == b"0"

    def _read_body(self, values: Values) -> Generator[None, None, bytes]:
        if values["transfer-encoding"]:
            return (yield from self._read_chunks())
        length = "".join(values["content-length"][:1])
        most = int(length) if re.fullmatch("[0-9]{1,18}", length) else MOST_BODY
        return (yield from self._read_some(min(most, MOST_BODY)))

    def _read_some(self, size: int) -> Generator[None, None, bytes]:
        """Read this many bytes, or fewer before EOF."""
        buffer = self._buffer
        while len(buffer) < size and not self._eof:
            yield
        data = bytes(buffer[:size])
        del buffer[:size]
        return data

    def _read_chunks(self) -> Generator[None, None, bytes]:
        """Read a chunked body (RFC 9112, section 7.1), as long as the chunks are valid."""
        body = bytearray()
        for _ in range(MOST_CHUNKS):
            while (end := self._buffer.find(b"\n", 0, LONGEST_CHUNK_LINE)) < 0:
                if self._eof or len(self._buffer) >= LONGEST_CHUNK_LINE:
                    return bytes(body)
                yield
            size = _CHUNK_SIZE.match(bytes(self._buffer[: end + 1]))
            if size is None:
                break
            del self._buffer[: end + 1]
            left = min(int(size[0], 16), MOST_BODY - len(body))
            body += yield from self._read_some(left)
            if not left or (yield from self._read_some(2)) != b"\r\n":
                break
        return bytes(body)
