"""Sans-I/O. The request that opened a connection: `Inf` as it came, `Request` in its parts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar, overload
from urllib.parse import parse_qsl, unquote

T = TypeVar("T")

GATEWAYS_OWN: Final = ("method", "url", "Protocol")
"""The entries of an `Inf` that are not header fields, spelled exactly so."""

_ESCAPED: Final = re.compile(r"\\(?:([0-3][0-7]{2})|(.))", re.DOTALL)


class Inf(dict[str, str]):
    """Header fields by name, ignoring case (RFC 9110, section 5.1), and the gateway's own entries.

    An exact match wins, so `inf["Protocol"]`, `inf["method"]` and `inf["url"]` are always the
    gateway's, whatever headers a peer sends.
    """

    __slots__ = ()

    def __missing__(self, name: str) -> str:
        lower = name.lower()
        for each, value in self.items():
            if each.lower() == lower:
                return value
        raise KeyError(name)

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, name: str, default: str, /) -> str: ...
    @overload
    def get(self, name: str, default: T, /) -> str | T: ...

    def get(self, name: str, default: object = None, /) -> object:
        """The value of that name, ignoring case, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def copy(self) -> Inf:
        return Inf(self)


class Headers(Inf):
    """The header fields of a request. Names keep the peer's spelling; look-ups ignore case.

    Fields that came more than once have one value here, joined with ``, `` (cookies with ``; ``).
    """

    __slots__ = ("_repeated",)

    def __init__(
        self, fields: Mapping[str, str] = {}, repeated: Mapping[str, list[str]] = {}
    ) -> None:
        super().__init__(fields)
        self._repeated = repeated

    def get_all(self, name: str) -> list[str]:
        """Every value of that field, in the order in which they came; empty without the field.

        Several `Cookie` fields are one, as RFC 9113 (section 8.2.3) joins them.
        """
        values = self._repeated.get(name.lower())
        if values is not None:
            return list(values)
        value = self.get(name)
        return [] if value is None else [value]

    def copy(self) -> Headers:
        return Headers(self, self._repeated)


class QueryFields(dict[str, str]):
    """The fields of a query such as ``a=1&b=2&a=3``, decoded: the first value of each name."""

    __slots__ = ("_pairs",)

    def __init__(self, text: str = "") -> None:
        self._pairs = parse_qsl(text, keep_blank_values=True, errors="replace")
        super().__init__(reversed(self._pairs))

    def get_all(self, name: str) -> list[str]:
        """Every value of that name, in their order; empty if there is none."""
        return [value for each, value in self._pairs if each == name]


class Request:
    """The HTTP request of a client, in its parts. Everything in it was chosen by the client.

    The parts are made when they are asked for.
    """

    __slots__ = ("_cookies", "_headers", "_query", "_repeated", "body", "http_version", "inf")

    def __init__(
        self, inf: Mapping[str, str], about: Mapping[str, Any] | None = None, body: bytes = b""
    ) -> None:
        """`inf` and `about` are those of on_connect."""
        about = about or {}
        self.http_version = str(about.get("http_version", "1.1"))
        """`1.1`, or `1.0` for a client that is not a WebSocket."""
        self.body = body
        """The body; empty for a WebSocket."""
        self.inf = inf
        """The request as a dict, as on_connect gets it."""
        self._repeated: Mapping[str, list[str]] = about.get("repeated", {})
        self._headers: Headers | None = None
        self._query: QueryFields | None = None
        self._cookies: dict[str, str] | None = None

    @property
    def method(self) -> str:
        """The method, such as `GET`, which every WebSocket has."""
        return self.inf["method"]

    @property
    def target(self) -> str:
        """The target, path and query, as it was sent: ``/caf%C3%A9?x=1``."""
        return self.inf["url"]

    @property
    def path(self) -> str:
        """The path, decoded: ``/café``. Bytes that are not UTF-8 become U+FFFD.

        It may contain anything, ``/../`` too: do not make a file name of it.
        """
        return unquote(self._split()[0], errors="replace")

    @property
    def query(self) -> QueryFields:
        """The fields of the query, decoded: ``query["x"]`` is the first value of `x`, and
        ``query.get_all("x")`` lists all."""
        query = self._query
        if query is None:
            query = self._query = QueryFields(self.query_string)
        return query

    @property
    def query_string(self) -> str:
        """The part after the first ``?``, as it was sent; empty if there is none."""
        return self._split()[1]

    @property
    def headers(self) -> Headers:
        """The header fields: ``headers["Host"]``, or ``headers.get_all("X-Forwarded-For")`` where
        a field may come more than once."""
        headers = self._headers
        if headers is None:
            headers = Headers(self.inf, self._repeated)
            for name in GATEWAYS_OWN:
                headers.pop(name, None)
            self._headers = headers
        return headers

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name. Of two with the same name the first is kept: browsers send the one
        with the longer path first (RFC 6265, section 5.4)."""
        cookies = self._cookies
        if cookies is None:
            cookies = self._cookies = parse_cookies(self.headers.get("Cookie", ""))
        return cookies

    def _split(self) -> tuple[str, str]:
        path, _, query = self.target.partition("?")
        if not path.startswith("/") and "://" in path:
            # A whole URL is allowed, too (RFC 9112, section 3.2.2).
            path = "/" + path.partition("://")[2].partition("/")[2]
        return path, query

    def __repr__(self) -> str:
        # Without the query, which may be secret.
        return f"<Request {self.method} {self.path!r}>"


def parse_cookies(text: str) -> dict[str, str]:
    """The cookies in a `Cookie` field, by name. Parts that are not ``name=value`` are left out."""
    cookies: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = part.partition("=")
        name = name.strip()
        if equals and name:
            cookies.setdefault(name, _unquote(value.strip()))
    return cookies


def _unquote(value: str) -> str:
    """The value of a cookie, unquoted like in http.cookies, in the encoding that browsers use."""
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = _ESCAPED.sub(lambda m: chr(int(m[1], 8)) if m[1] else m[2], value[1:-1])
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value
