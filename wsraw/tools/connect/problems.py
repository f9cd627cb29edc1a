"""Why a connection failed, in a line that says what to do."""

from __future__ import annotations

import enum
import re
import socket
import ssl
from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

from websockets.exceptions import InvalidMessage, InvalidStatus, NegotiationError
from websockets.http11 import Response

from wsraw.config.units import show_time
from wsraw.runtime.printable import os_error, printable, without_secrets
from wsraw.tools.connect.plan import Plan, Target

WITH_TLS: Final = "write wss… instead of ws…"
_TLS_IS_NEEDED: Final = re.compile(r"\b(?:TLS|SSL|HTTPS)\b", re.IGNORECASE)

MOST_OF_A_BODY: Final = 200
"""Characters of a rejection's body that are shown."""


class Stage(enum.Enum):
    """The stage in which an attempt failed."""

    CONNECT = "connect"
    HANDSHAKE = "handshake"


def explain(error: BaseException, plan: Plan, stage: Stage) -> str:
    """The problem, and what to do."""
    target = plan.target
    if isinstance(error, TimeoutError) and not isinstance(error, ssl.SSLError):
        return _timeout(error, plan, stage)
    for each in _causes(error):
        if isinstance(each, ssl.SSLError):
            return _tls(each, plan)
        if isinstance(each, InvalidStatus):
            return rejection(each.response, plan)
        if isinstance(each, NegotiationError):
            return f"{target.shown}: the server's answer does not fit what was asked for: {each}"
    if isinstance(error, InvalidMessage):
        return _no_answer(error, plan)
    if isinstance(error, socket.gaierror):
        return (
            f"the name {target.host!r} is not known ({error.strerror}): is it spelt correctly, and "
            "does this machine have a network?"
        )
    if isinstance(error, UnicodeError):
        return f"{target.host!r} is not the name of a host"
    if isinstance(error, OSError):
        return _os(error, target, stage)
    return f"{target.shown}: the handshake has failed: {printable(str(error))}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _timeout(error: TimeoutError, plan: Plan, stage: Stage) -> str:
    shown = plan.target.shown
    # The system's own time limit may be shorter than ours; its error has a number.
    limit = "" if error.errno else f" within {show_time(plan.timeout)} (--timeout)"
    if stage is Stage.CONNECT:
        return (
            f"{shown}: no answer{limit}: is the address right, and does no firewall drop the "
            "connection?"
        )
    what = "TLS" if plan.target.has_tls else "WebSocket"
    return (
        f"{shown}: connected, but the {what} handshake was not answered{limit}: is this a server "
        f"for {'TLS' if plan.target.has_tls else 'WebSockets'}?"
    )


def _os(error: OSError, target: Target, stage: Stage) -> str:
    shown = target.shown
    if stage is Stage.HANDSHAKE:
        if target.has_tls and isinstance(error, ConnectionError):
            return _closed_in_tls(target)
        return f"{shown}: the connection broke during the handshake: {os_error(error)}"
    if isinstance(error, ConnectionRefusedError):
        hint = "the socket's server has ended" if target.unix else "is it started, on this port?"
        return f"{shown}: no server is listening there (connection refused): {hint}"
    if isinstance(error, FileNotFoundError):
        return f"{shown}: there is no such socket: is the server started, and the path right?"
    if isinstance(error, PermissionError) and target.unix:
        return f"{shown}: permission denied: run this as a user who may use the socket"
    return f"{shown}: cannot connect: {os_error(error)}"


# --- TLS ---


_NOT_TLS: Final = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "PACKET_LENGTH",
    "UNEXPECTED_MESSAGE",
)
_WANTS_CERTIFICATE: Final = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE", "BAD_CERTIFICATE")


def _tls(error: ssl.SSLError, plan: Plan) -> str:
    target, shown = plan.target, plan.target.shown
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"{shown}: the server's certificate is not trusted: {printable(error.verify_message)}: "
            "give its authority with --ca FILE, or its name with --host, or check nothing with "
            "--insecure"
        )
    if any(word in reason for word in _NOT_TLS):
        return f"{shown}: the server does not speak TLS on this port: {_without_tls(target)}"
    if any(word in reason for word in _WANTS_CERTIFICATE):
        more = "another --cert" if plan.cert else "--cert FILE"
        return f"{shown}: the server wants a certificate of the client: give {more} ({reason})"
    if isinstance(error, ssl.SSLEOFError):
        return _closed_in_tls(target)
    return f"{shown}: TLS has failed: {(reason or str(error)).replace('_', ' ').lower()}"


def _without_tls(target: Target) -> str:
    if not target.is_websocket:
        return "write tcp://… instead of tls://…"
    return "write ws… instead of wss…"


def _closed_in_tls(target: Target) -> str:
    return (
        f"{target.shown}: the server closed the connection during the TLS handshake: if it does "
        f"not speak TLS, {_without_tls(target)}"
    )


# --- answers to the handshake ---


def _no_answer(error: InvalidMessage, plan: Plan) -> str:
    target = plan.target
    ended = any(isinstance(each, EOFError | ConnectionError) for each in _causes(error))
    what = "closed the connection" if ended else "sent something else than HTTP"
    told = f"{target.shown}: the server {what} instead of answering the WebSocket handshake"
    if target.has_tls:
        cert = "" if plan.cert else "if it wants a certificate of the client, give --cert FILE; "
        return f"{told}: {cert}if it is not for WebSockets, write tls://…"
    return f"{told}: if it speaks TLS, {WITH_TLS}; if it is not for WebSockets, write tcp://…"


def rejection(response: Response, plan: Plan) -> str:
    """The response of a server that has not opened the WebSocket."""
    code = response.status_code
    try:
        phrase = HTTPStatus(code).phrase
    except ValueError:
        phrase = response.reason_phrase
    said = _first_line(response)
    told = f"{plan.target.shown}: the server answered {code} {printable(phrase)}"
    if said and said.lower() not in (phrase.lower(), f"{code} {phrase}".lower()):
        told += f": {said}"
        if code >= 403:
            # The server's explanation is better than ours.
            return told
    return f"{told} ({_advice(code, response, plan)})"


def _first_line(response: Response) -> str:
    kind = response.headers.get("Content-Type", "text/plain")
    text = (response.body or b"").decode("utf-8", "replace").strip()
    if "html" in kind:
        # The title of a page says most.
        found = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
        text = found[1].strip() if found else ""
    lines = text.splitlines()
    return printable(lines[0].strip()[:MOST_OF_A_BODY]) if lines else ""


def _advice(code: int, response: Response, plan: Plan) -> str:
    match code:
        case 301 | 302 | 303 | 307 | 308:
            where = printable(without_secrets(response.headers.get("Location", "")))
            return f"it redirects to {where or 'another URL'}: connect there"
        case 401 | 407:
            return (
                "it wants credentials: give --header 'Authorization: …', or USER:PASSWORD@ in the "
                "URL"
            )
        case 403:
            origin = "another --origin" if plan.origin is not None else "--origin"
            return f"it does not allow this client: try {origin}, or credentials with --header"
        case 404:
            return "nothing is at this path: check the path of the URL"
        case 400 if not plan.target.has_tls and _TLS_IS_NEEDED.search(_first_line(response)):
            return WITH_TLS
        case 400:
            return "it does not accept the request: check --header, --host and --subprotocol"
        case 421:
            return "it does not serve this host name: check the URL, or give --host"
        case 426:
            return "it does not accept this version of the protocol, or no WebSocket here"
        case 429 | 503:
            return "it is busy, or has too many clients: try again later"
    if code < 400:
        return "it answers as a web server, and opened no WebSocket: check the path of the URL"
    if code >= 500:
        return "the server, or a proxy before it, has failed: its log says more"
    return "it does not allow this WebSocket"
