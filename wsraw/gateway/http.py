"""Sans-I/O. HTTP around WebSockets: header fields, and responses to clients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final

from wsraw.link.rules import OF_ANSWERS, VALUE, header_problem

MAX_ANSWER: Final = 64 * 1024
"""Bytes of body and fields that a handler's response may have."""

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}


def answer_problem(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """Why a handler may not send this response, or None."""
    if not 300 <= status <= 599:
        return f"status {status}: the status of a rejection is from 300 to 599"
    if not VALUE.fullmatch(reason):
        return f"{reason!r} is not a reason: write one line of Latin-1 characters"
    size = len(body) + sum(len(name) + len(value) for name, value in headers.items())
    if size > MAX_ANSWER:
        return f"the answer has {size} bytes; at most {MAX_ANSWER} are sent"
    return header_problem(headers.items(), OF_ANSWERS) or None


def answer(status: int, reason: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """A handler's response, after which the connection is closed; check the response with
    `answer_problem`.

    The default for the reason is the standard one, the default for the body is the reason.
    """
    reason = reason or _PHRASES.get(status, "Refused")
    known = {name.lower() for name in headers}
    fields = [("Connection", "Upgrade, close" if "upgrade" in known else "close")]
    if status == 304:
        # This status has no body (RFC 9110, section 15.4.5).
        body = b""
    else:
        body = body or f"{reason}\n".encode()
        if "content-type" not in known:
            fields.append(("Content-Type", "text/plain; charset=utf-8"))
        fields.append(("Content-Length", str(len(body))))
    return http_head(status, reason, [*fields, *headers.items()]) + body


def http_head(status: int, reason: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Status line, fields, and the empty line behind them."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields), "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def http_answer(status: int, text: str, *headers: tuple[str, str]) -> bytes:
    """A short plain-text response of the gateway itself, after which the connection is closed."""
    fields = dict(headers)
    if status == 426:
        # The protocol to upgrade to must be named (RFC 9110, section 15.5.22).
        fields["Upgrade"] = "websocket"
    return answer(status, "", fields, f"{text}\n".encode())


def answer_for(first: bytes, answer: bytes) -> bytes:
    """The response to a request with these first bytes; without a body if the method is HEAD (RFC
    9110, section 9.3.2)."""
    if not first.startswith(b"HEAD"):
        return answer
    head, end, _ = answer.partition(b"\r\n\r\n")
    return head + end


def fields_of(head: bytes) -> dict[str, str]:
    """The fields of a request that is not a handshake: names in lower case, values of the same name
    joined. Lines that are not fields are ignored."""
    fields: dict[str, str] = {}
    for line in head.decode("latin-1").split("\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.strip().lower(), value.strip()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
