"""I/O. What the page can ask the run to do, and the facts of one connection."""

from __future__ import annotations

import json
from collections.abc import Generator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from wsraw.admin.http import AdminRequest, AdminResponse, text
from wsraw.admin.run import NoAnswerError, Run
from wsraw.runtime.log.line import LARGEST_ID

JSON: Final = "application/json"

LONGEST: Final = 120.0
"""Seconds that a reload or a change of the number of workers may take until the page is told."""

KICKED: Final = "disconnected by an operator"


def connection(request: AdminRequest) -> AdminResponse:
    """All that is known about a connection."""
    number = parse_qs(request.query).get("id", [""])[-1]
    if not (number.isascii() and number.isdigit() and len(number) < 20):
        return text(HTTPStatus.BAD_REQUEST, "write ?id=NUMBER")
    return _told(request.run, "connection", {"id": int(number)})


def kick(request: AdminRequest) -> AdminResponse:
    """Close a connection: {"id": NUMBER}."""
    found = _body(request)
    if isinstance(found, AdminResponse):
        return found
    number = found.get("id")
    if type(number) is not int or not 0 <= number <= LARGEST_ID:
        return text(HTTPStatus.BAD_REQUEST, 'write {"id": NUMBER}')
    options = {"id": number, "code": 1008, "reason": KICKED}
    return _told(request.run, "kick", options, "it was closed")


def reload(request: AdminRequest) -> AdminResponse:
    """Replace the workers: {} or {"pool": NAME}."""
    found = _body(request)
    if isinstance(found, AdminResponse):
        return found
    pool = found.get("pool", "")
    if not isinstance(pool, str):
        return text(HTTPStatus.BAD_REQUEST, 'write {"pool": "NAME"}')
    return _done(request.run, "reload", [pool] if pool else [])


def scale(request: AdminRequest) -> AdminResponse:
    """Change the number of workers: {"workers": "NAME=N"}, as for `wsraw scale`."""
    found = _body(request)
    if isinstance(found, AdminResponse):
        return found
    workers = found.get("workers")
    if not isinstance(workers, str):
        return text(HTTPStatus.BAD_REQUEST, 'write {"workers": "NAME=N"}')
    return _done(request.run, "scale", [workers])


def _body(request: AdminRequest) -> dict[str, Any] | AdminResponse:
    """The JSON object of a request that may change something; else the answer."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    origin = headers.get("origin")
    # The token already protects against pages of other sites, which do not know it. This check
    # tells such a page apart from one with a wrong token.
    if origin is not None and origin.partition("://")[2] != headers.get("host", ""):
        return text(HTTPStatus.FORBIDDEN, "pages of another origin may not do this")
    if headers.get("content-type", "").partition(";")[0].strip() != JSON:
        return text(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"write Content-Type: {JSON}")
    try:
        found = json.loads(request.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return text(HTTPStatus.BAD_REQUEST, "the body must be a JSON object")
    return found


def _told(run: Run, what: str, options: dict[str, Any], said: str = "") -> AdminResponse:
    """The gateway's answer."""
    try:
        done = run.ask_gateway(what, options)
    except NoAnswerError as error:
        return _json(False, str(error))
    return _json(done.ok, done.text or (said if done.ok else "it was refused"), done.data)


def _done(run: Run, what: str, args: list[str]) -> AdminResponse:
    """The supervisor's answer, in pieces, because it may take long."""

    def pieces() -> Generator[bytes]:
        try:
            done = run.ask(what, args, LONGEST)
        except NoAnswerError as error:
            yield _told_body(False, str(error))
        else:
            yield _told_body(done.ok, done.text)

    return AdminResponse(HTTPStatus.OK, pieces(), JSON)


def _json(ok: bool, told: str, data: Any = None) -> AdminResponse:
    return AdminResponse(HTTPStatus.OK, _told_body(ok, told, data), JSON)


def _told_body(ok: bool, told: str, data: Any = None) -> bytes:
    return json.dumps({"ok": ok, "text": told, "data": data}).encode()
