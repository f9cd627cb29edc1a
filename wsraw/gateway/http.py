"""Sans-I/O. The few answers in HTTP that a gateway gives itself."""

from __future__ import annotations

from http import HTTPStatus


def http_answer(status: int, text: str, *headers: tuple[str, str]) -> bytes:
    """A short answer in plain text, after which the connection is closed."""
    body = f"{text}\n".encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "Connection: close" if status != 426 else "Connection: Upgrade, close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
    ]
    if status == 426:
        # RFC 9110, section 15.5.22: it must name what to upgrade to.
        lines.append("Upgrade: websocket")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*lines, "\r\n"]).encode("ascii") + body
