"""Sans-I/O. The responses of handlers to HTTP requests, as records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from wsraw.link.records import Respond
from wsraw.link.rules import OF_RESPONSES, header_problem
from wsraw.workers import values

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
BINARY: Final = "application/octet-stream"

HEADERS_LIMIT: Final = 64 * 1024
"""Bytes of the header fields of a response."""


def from_value(con: int, value: Any) -> tuple[Respond, int]:
    """The value that on_request has returned, as a record, and the bytes of its data. Raises
    TypeError or ValueError."""
    if isinstance(value, tuple):
        if len(value) != 3:
            raise TypeError(
                f"on_request returned a tuple of {len(value)}; return (status, headers, body)"
            )
        status, headers, body = value
        return respond(con, status, headers, body, True)
    return respond(con, 200, None, value, True)


def respond(con: int, status: Any, headers: Any, body: Any, final: Any) -> tuple[Respond, int]:
    """A response as a record, and the bytes of its data. Raises TypeError or ValueError.

    The type of the content is that of the body, unless the headers have one.
    """
    number = values.whole(status, "the status")
    if not 200 <= number <= 599:
        raise ValueError(f"status {number}: write one from 200 to 599, as 200 or 404")
    fields = _fields(headers)
    data, kind = _data(body)
    if data and "content-type" not in {name.lower() for name, _ in fields}:
        fields.append(("Content-Type", kind))
    size = len(data) + sum(len(name) + values.size(value) for name, value in fields)
    return Respond(con, number, fields, data, values.flag(final, "final")), size


def _fields(headers: Any) -> list[tuple[str, str]]:
    if headers is None:
        return []
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a dict, not {values.kind_of(headers)}")
    fields = []
    for name, content in headers.items():
        plain = values.text(name, "the name of a header")
        several = content if isinstance(content, list | tuple) else (content,)
        for each in several:
            fields.append((plain, values.text(each, f"the header {values.brief(plain)}")))
    why = header_problem(fields, OF_RESPONSES)
    if why:
        raise ValueError(why)
    total = sum(len(name) + values.size(value) for name, value in fields)
    if total > HEADERS_LIMIT:
        raise ValueError(f"headers of {total} bytes; at most {HEADERS_LIMIT} are sent")
    return fields


def _data(body: Any) -> tuple[bytes, str]:
    if body is None:
        return b"", TEXT
    if isinstance(body, dict | list):
        return json.dumps(body, ensure_ascii=False).encode(), JSON
    if hasattr(body, "__await__"):
        raise TypeError("a coroutine is not a body: is an await or an async def missing?")
    if isinstance(body, str | bytes | bytearray | memoryview):
        data = values.binary(body, "the body")
        return data, TEXT if isinstance(body, str) else BINARY
    raise TypeError(
        f"the body must be str, bytes, or a dict or list for JSON, not {values.kind_of(body)}"
    )
