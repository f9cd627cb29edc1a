"""I/O. What the admin address serves, by path."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from wsraw.admin import health, metrics, publishing
from wsraw.admin.http import AdminRequest, AdminResponse, Route, text
from wsraw.admin.page import actions
from wsraw.admin.page.document import document
from wsraw.admin.page.stream import stream
from wsraw.admin.run import NoAnswerError


def _metrics(request: AdminRequest) -> AdminResponse:
    try:
        body, content_type = metrics.page(request.run.figures(), request.headers.get("Accept", ""))
    except NoAnswerError as error:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return AdminResponse(HTTPStatus.OK, body, content_type)


def _healthz(request: AdminRequest) -> AdminResponse:
    try:
        request.run.figures()
    except NoAnswerError as error:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    return text(HTTPStatus.OK, "ok")


def _readyz(request: AdminRequest) -> AdminResponse:
    try:
        why = health.not_ready(request.run.figures())
    except NoAnswerError as error:
        why = [str(error)]
    if why:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, *why)
    return text(HTTPStatus.OK, "ok")


def _page(request: AdminRequest) -> AdminResponse:
    """The page, without any data: its script asks for that."""
    found = document()
    headers = (
        ("Content-Security-Policy", found.policy),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
    )
    return AdminResponse(HTTPStatus.OK, found.body, "text/html; charset=utf-8", headers)


ROUTES: Final[dict[str, Route]] = {
    "/": Route(_page, is_open=True),
    "/api/stream": Route(stream, ("GET",), needs_token=True),
    "/api/connection": Route(actions.connection, ("GET",), needs_token=True),
    "/api/kick": Route(actions.kick, ("POST",), needs_token=True),
    "/api/reload": Route(actions.reload, ("POST",), needs_token=True),
    "/api/scale": Route(actions.scale, ("POST",), needs_token=True),
    "/publish": Route(
        publishing.publish, ("POST",), is_publishing=True, most_body=publishing.MOST_BODY
    ),
    "/metrics": Route(_metrics),
    "/healthz": Route(_healthz, is_open=True),
    "/readyz": Route(_readyz, is_open=True),
}
