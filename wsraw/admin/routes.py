"""I/O. What the admin address serves, by path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from wsraw.admin import health, metrics
from wsraw.admin.run import NoAnswerError, Run

TEXT: Final = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """A request whose path, method and token are good."""

    method: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    run: Run


class Answer(NamedTuple):
    """What is answered. A body that is an iterator is sent piece by piece, until it ends."""

    status: HTTPStatus
    body: bytes | Iterator[bytes]
    content_type: str = TEXT


class Route(NamedTuple):
    """What is at a path. `is_open`: without the token, too."""

    answer: Callable[[Request], Answer]
    methods: tuple[str, ...] = ("GET", "HEAD")
    is_open: bool = False


def text(status: HTTPStatus, *lines: str) -> Answer:
    """An answer of these lines."""
    return Answer(status, "".join(f"{line}\n" for line in lines).encode())


def _metrics(request: Request) -> Answer:
    try:
        body, content_type = metrics.page(request.run.figures(), request.headers.get("Accept", ""))
    except NoAnswerError as error:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return Answer(HTTPStatus.OK, body, content_type)


def _healthz(request: Request) -> Answer:
    try:
        request.run.figures()
    except NoAnswerError as error:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return text(HTTPStatus.OK, "ok")


def _readyz(request: Request) -> Answer:
    try:
        why = health.not_ready(request.run.figures())
    except NoAnswerError as error:
        why = [str(error)]
    if why:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, *why)
    return text(HTTPStatus.OK, "ok")


ROUTES: Final[dict[str, Route]] = {
    "/metrics": Route(_metrics),
    "/healthz": Route(_healthz, is_open=True),
    "/readyz": Route(_readyz, is_open=True),
}
