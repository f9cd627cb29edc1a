"""I/O. POST /publish: messages to groups and users, from any program that speaks HTTP.

An object is a message, and a list of objects are several, in order. All are read before the first
one is published: if one is wrong, none is.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode
from http import HTTPStatus
from typing import Any, Final

from wsraw.admin.http import AdminRequest, AdminResponse, text
from wsraw.admin.run import NoAnswerError
from wsraw.link.records import GROUP_LIMIT

JSON: Final = "application/json"

MOST_DATA: Final = 1024 * 1024
"""Bytes of a message: as many as the gateway accepts."""

MOST_BODY: Final = 2 * 1024 * 1024
"""Bytes of a request: a megabyte of data, which base64 makes a third longer."""

FIELDS: Final = ("group", "user", "data", "base64", "exclude")

EXAMPLE: Final = '{"group": "room", "data": "hello"}'

MOST_EXCLUDED: Final = 10_000

MOST_AT_ONCE: Final = 100
"""Messages in a request: they are given to the gateway one after the other."""

Asked = tuple[str, dict[str, Any]]
"""A request to the gateway, and its options."""


def publish(request: AdminRequest) -> AdminResponse:
    """Send messages to all members of groups, or to all connections of users."""
    try:
        messages = read_all(request.body)
    except ValueError as error:
        return text(HTTPStatus.BAD_REQUEST, str(error))
    is_list = isinstance(messages, list)
    sent: list[int] = []
    for what, options in messages if isinstance(messages, list) else [messages]:
        so_far = f"message {len(sent) + 1}, after {len(sent)} that were sent: " if is_list else ""
        try:
            done = request.run.ask_gateway(what, options)
        except NoAnswerError as error:
            return text(HTTPStatus.SERVICE_UNAVAILABLE, f"{so_far}{error}")
        if not done.ok:
            return text(HTTPStatus.BAD_REQUEST, f"{so_far}{done.text}")
        sent.append(done.data["sent"])
    body = json.dumps({"sent": sent if is_list else sent[0]}) + "\n"
    return AdminResponse(HTTPStatus.OK, body.encode(), JSON)


def read_all(body: bytes) -> Asked | list[Asked]:
    """The requests to the gateway for one message or for each of a list. Raises ValueError, which
    says what to write."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        return _read(found)
    if len(found) > MOST_AT_ONCE:
        raise ValueError(f"{len(found)} messages; at most {MOST_AT_ONCE} can be published at once")
    messages = []
    for number, each in enumerate(found, 1):
        try:
            messages.append(_read(each))
        except ValueError as error:
            raise ValueError(f"message {number}: {error}; none was sent") from error
    return messages


def _read(found: object) -> Asked:
    if not isinstance(found, dict):
        raise ValueError(f"the body must be a JSON object, such as {EXAMPLE}, or a list of them")
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
    if len(found[name]) > GROUP_LIMIT:
        raise ValueError(f"{name}: a name has at most {GROUP_LIMIT} characters")
    return {name: found[name]}


def _data(found: dict[str, Any]) -> dict[str, Any]:
    given = [name for name in ("data", "base64") if name in found]
    if len(given) != 1:
        raise ValueError("write either data, a text, or base64, the bytes of a binary message")
    (name,) = given
    value = found[name]
    if name == "data" and not isinstance(value, str):
        # As whoever reads the message would write it.
        try:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            raise ValueError("data: JSON has no Infinity and no NaN; write null") from error
    if not isinstance(value, str):
        raise ValueError(f"{name}: write a text in quotes")
    _check_text(name, value)
    if name == "data":
        return _sized(value.encode(), False)
    try:
        data = b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"base64: {error}") from error
    return _sized(data, True)


def _sized(data: bytes, binary: bool) -> dict[str, Any]:
    if len(data) > MOST_DATA:
        raise ValueError(f"{len(data)} bytes; at most {MOST_DATA} can be sent at once")
    return {"data": data, "binary": binary}


def _check_text(name: str, value: str) -> None:
    """Raises ValueError for text that UTF-8 cannot hold: JSON can contain half a surrogate pair."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise ValueError(f"{name}: {half} is half of a character; send both halves") from error
