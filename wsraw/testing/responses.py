"""Sans-I/O. HTTP requests of a client in memory, and the responses to them."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from wsraw.workers.request import Headers


class HttpResponse(NamedTuple):
    """The response that a client has got."""

    status: int
    headers: Headers
    """Look-ups ignore case; fields that came more than once are joined."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


def request_bytes(
    method: str, target: str, headers: Mapping[str, str], body: bytes, host: str
) -> bytes:
    """The bytes of a request after which the connection is closed."""
    fields = {"Host": host, "Connection": "close", "Content-Length": str(len(body)), **headers}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


class _Received:
    """A stand-in for a socket, from which http.client reads."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def read_response(data: bytes, method: str) -> HttpResponse:
    """Read a response. Raises http.client.HTTPException if it is not complete."""
    response = http.client.HTTPResponse(cast(Any, _Received(data)), method=method)
    response.begin()
    fields: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for name in response.headers:
        values = response.headers.get_all(name) or []
        fields.setdefault(name, ", ".join(values))
        if len(values) > 1:
            repeated[name.lower()] = list(values)
    return HttpResponse(response.status, Headers(fields, repeated), response.read())
