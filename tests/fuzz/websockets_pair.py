"""Connections after the handshake, for both roles."""

from __future__ import annotations

import base64
import functools
from random import SystemRandom
from unittest import mock

from websockets.utils import accept_key

from tests.corpus import OFFER, UPGRADE
from wsraw.config.addresses import Listen
from wsraw.config.settings import Settings
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.connection import accepting
from wsraw.gateway.connection.connection import OPEN, Connection
from wsraw.gateway.connection.dialing import dialed
from wsraw.gateway.counters import Counters
from wsraw.link.open_options import check
from wsraw.link.records import Open

LISTEN = Listen(name="test")
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = accept_key(KEY).encode()
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\n%s\r\n"
)
AGREED = (
    b"Sec-WebSocket-Extensions: permessage-deflate; "
    b"server_no_context_takeover; client_no_context_takeover\r\n"
)


ASKED = check(Open(8, "example.com:80", "websocket"))


@functools.cache
def _policy(settings: Settings) -> AdmissionPolicy:
    """One policy for all connections, as in a gateway."""
    return AdmissionPolicy(settings, Counters())


def accepted(settings: Settings, deflate: bool) -> Connection:
    con = accepting.accepted(7, LISTEN, settings, {}, 0.0, _policy(settings))
    con.receive_data(UPGRADE % (OFFER if deflate else b""), 0.0)
    return _cleared(con)


def asked(settings: Settings) -> Connection:
    """A connection that we have opened, after its request; ACCEPT answers it."""
    # With a random key, the result of an answer would vary.
    with mock.patch.object(SystemRandom, "randbytes", lambda *_: base64.b64decode(KEY)):
        con = dialed(8, ASKED, settings, {}, 0.0)
    con.connected(0.0)
    con.output.drop()
    return con


def dialled(settings: Settings, deflate: bool) -> Connection:
    con = asked(settings)
    con.receive_data(ANSWER % (ACCEPT, AGREED if deflate else b""), 0.0)
    return _cleared(con)


def _cleared(con: Connection) -> Connection:
    assert con.state is OPEN
    con.output.drop()
    return con
