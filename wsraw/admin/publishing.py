"""I/O. POST /publish: messages to groups and users, from any program that speaks HTTP."""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from http import HTTPStatus
from typing import Any, Final

from wsraw.admin.answers import Answer, Request, text
from wsraw.admin.run import NoAnswerError

JSON: Final = "application/json"

MOST_BODY: Final = 2 * 1024 * 1024
"""Bytes of a request: a megabyte of data, which base64 makes a third longer."""

FIELDS: Final = ("group", "user", "data", "base64", "exclude")

EXAMPLE: Final = '{"group": "room", "data": "hello"}'

MOST_EXCLUDED: Final = 10_000


def publish(request: Request) -> Answer:
    """Send a message to all members of a group, or to all connections of a user."""
    try:
        what, options = read(request.body)
    except ValueError as error:
        return text(HTTPStatus.BAD_REQUEST, str(error))
    try:
        done = request.run.ask_gateway(what, options)
    except NoAnswerError as error:
        return text(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    if not done.ok:
        return text(HTTPStatus.BAD_REQUEST, done.text)
    body = json.dumps({"sent": done.data["sent"]}) + "\n"
    return Answer(HTTPStatus.OK, body.encode(), JSON)


def read(body: bytes) -> tuple[str, dict[str, Any]]:
    """What the gateway is asked, and its options. Raises ValueError that says what to write."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"the body must be a JSON object, such as {EXAMPLE}")
    for name in found:
        if name not in FIELDS:
            raise ValueError(f"there is no field {name[:60]!r}; there are {', '.join(FIELDS)}")
    options = _whom(found) | _data(found)
    excluded = found.get("exclude", [])
    if not isinstance(excluded, list) or not all(
        isinstance(con, int) and not isinstance(con, bool) and 0 <= con < 1 << 53
        for con in excluded
    ):
        raise ValueError("exclude: write a list of ids of connections")
    if len(excluded) > MOST_EXCLUDED:
        raise ValueError(f"exclude: at most {MOST_EXCLUDED} connections can be left out")
    options["exclude"] = excluded
    return "send_to_user" if "user" in options else "publish", options


def _whom(found: dict[str, Any]) -> dict[str, Any]:
    given = [name for name in ("group", "user") if name in found]
    if len(given) != 1:
        raise ValueError(f"write either group or user, as in {EXAMPLE}")
    (name,) = given
    if not isinstance(found[name], str):
        raise ValueError(f"{name}: write a name in quotes")
    _check_text(name, found[name])
    return {name: found[name]}


def _data(found: dict[str, Any]) -> dict[str, Any]:
    given = [name for name in ("data", "base64") if name in found]
    if len(given) != 1:
        raise ValueError("write either data, a text, or base64, the bytes of a binary message")
    (name,) = given
    value = found[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: write a text in quotes")
    _check_text(name, value)
    if name == "data":
        return {"data": value.encode(), "binary": False}
    try:
        return {"data": b64decode(value, validate=True), "binary": True}
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"base64: {error}") from error


def _check_text(name: str, value: str) -> None:
    """Raises ValueError for what UTF-8 cannot hold: JSON can contain half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise ValueError(f"{name}: {half} is half of a character; send both halves") from error
