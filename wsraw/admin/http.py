"""Requests of the admin address, and answers to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from wsraw.admin.run import Run

MOST_BODY: Final = 64 * 1024
"""Bytes of the body of most requests."""

TEXT: Final = "text/plain; charset=utf-8"


class AdminRequest(NamedTuple):
    """A request whose path, method and token are good."""

    method: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    run: Run
    has_left: Callable[[float], bool]
    """Wait at most this many seconds; True as soon as the client has left."""


class Pieces(Protocol):
    """A body that is sent piece by piece. `close` is called in any case, even if not all of it was
    sent."""

    def __iter__(self) -> Iterator[bytes]: ...

    def close(self) -> None: ...


class AdminResponse(NamedTuple):
    """A response. A body in pieces is sent until it ends."""

    status: HTTPStatus
    body: bytes | Pieces
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers."""


class Route(NamedTuple):
    """What the admin address serves at a path. `is_open`: no token is needed. `needs_token`: a
    token is needed even if the setting admin_token is not set. `is_publishing`: the token of the
    setting publish_token is needed, and no other one is accepted."""

    answer: Callable[[AdminRequest], AdminResponse]
    methods: tuple[str, ...] = ("GET", "HEAD")
    is_open: bool = False
    needs_token: bool = False
    is_publishing: bool = False
    most_body: int = MOST_BODY


def text(status: HTTPStatus, *lines: str) -> AdminResponse:
    """A plain-text answer of these lines."""
    return AdminResponse(status, "".join(f"{line}\n" for line in lines).encode())
