"""Sans-I/O. An accepted connection, from its first byte until it is known what the client speaks.

There are layers: first the PROXY header of a trusted proxy, if the listener wants one; then TLS, in
the endpoint; then the first bytes show whether the connection is raw or a WebSocket.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from wsraw.config.addresses import Address, Listen
from wsraw.config.settings import Settings
from wsraw.gateway.admission.per_address import (
    ENOUGH,
    OVER_LIMIT,
    REFUSAL_TIMEOUT,
    RETRY_AFTER,
)
from wsraw.gateway.admission.policy import AdmissionPolicy, Client, Refusal
from wsraw.gateway.admission.proxy_protocol import ProxyReader
from wsraw.gateway.admission.routes import Found
from wsraw.gateway.admission.sniffer import Finding, Sniffer, speaks_http
from wsraw.gateway.connection.connection import Connection, Ending, Phase, Step
from wsraw.gateway.connection.phases import establish, open_raw
from wsraw.gateway.connection.requests.phases import Receiving
from wsraw.gateway.connection.verdict import AwaitingVerdict
from wsraw.gateway.counters import Counters
from wsraw.gateway.http import answer_for, fields_of, http_answer
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.records import Event


def accepted(
    con_id: int,
    listen: Listen,
    settings: Settings,
    about: dict[str, Any],
    now: float,
    policy: AdmissionPolicy | None = None,
    address: Address | str | None = None,
    address_key: bytes | None = None,
) -> Connection:
    """A connection that a listener has accepted, from this address (or `unix`), which is counted as
    `address_key`. Its `first_events` come next."""
    policy = policy or AdmissionPolicy(settings, Counters())
    phase = _Accepting(listen, settings, policy, Client(about, address, address_key))
    con = Connection(con_id, settings, about, phase, opened=False)
    con.address_key = address_key
    phase.arm(con, now)
    return con


def refused(
    con_id: int, settings: Settings, about: dict[str, Any], answer: bytes, now: float
) -> Connection:
    """A connection above a limit: it gets the answer if it speaks HTTP, otherwise a reset."""
    con = Connection(con_id, settings, about, _OverLimit(answer), opened=False)
    con.keepalive.arm(REFUSAL_TIMEOUT, now)
    return con


class _Accepting(Phase):
    """Holds the first bytes until they show what the client speaks."""

    __slots__ = ("_awaits_tls", "_client", "_in_tls", "_listen", "_policy", "_proxy", "_sniffer")

    def __init__(
        self, listen: Listen, settings: Settings, policy: AdmissionPolicy, client: Client
    ) -> None:
        self._listen = listen
        self._policy = policy
        self._client = client
        self._sniffer = Sniffer(settings.max_header_size, self._only_websocket)
        self._awaits_tls = listen.tls != "off"
        self._in_tls = False
        self._proxy: ProxyReader | None = None
        if listen.proxy_protocol != "off":
            optional = listen.proxy_protocol == "optional"
            self._proxy = ProxyReader(optional, policy.trusts(client.address))

    @property
    def _only_websocket(self) -> bool:
        return self._listen.protocol == "websocket"

    @property
    def _must_speak(self) -> bool:
        """Whether a silent client breaks a rule: its listener is not for raw clients, or a PROXY
        header or TLS must come first."""
        return (
            self._only_websocket
            or self._in_tls
            or (self._awaits_tls and self._listen.tls == "required")
            or (self._proxy is not None and self._listen.proxy_protocol == "required")
        )

    def arm(self, con: Connection, now: float) -> None:
        if self._must_speak:
            timeout = con.settings.handshake_timeout
        else:
            timeout = self._listen.first_byte_timeout or con.settings.silence_timeout
        con.keepalive.arm(timeout, now)

    def first_events(self, con: Connection, now: float) -> list[Event]:
        """The events before any byte has come, or after the PROXY header."""
        if self._listen.protocol == "raw" and self._proxy is None and not self._awaits_tls:
            return self._become_raw(con, b"", now)
        return []

    def expect_tls(self, con: Connection, now: float) -> None:
        timeout = con.settings.handshake_timeout
        self._in_tls = True
        if timeout and now + timeout < con.keepalive.deadline:
            con.keepalive.arm(timeout, now)

    def secured(self, con: Connection, now: float) -> list[Event]:
        self._awaits_tls = self._in_tls = False
        if "tls" in con.about:
            con.about["scheme"] = "wss" if self._only_websocket else "tls"
        self.arm(con, now)
        return self.first_events(con, now)

    # --- the PROXY header ---

    @property
    def awaits_header(self) -> bool:
        return self._proxy is not None

    def receive_header(self, con: Connection, data: bytes, now: float) -> tuple[list[Event], bytes]:
        reader = self._proxy
        assert reader is not None
        if not reader.begun:
            con.keepalive.arm(con.settings.handshake_timeout, now)
        reader.receive_data(data)
        if reader.state == "wrong":
            return self._refuse_header(con, reader.error, now), b""
        if reader.state == "reading":
            return [], b""
        return self._end_header(con, reader, now), reader.rest

    def _end_header(self, con: Connection, reader: ProxyReader, now: float) -> list[Event]:
        self._proxy = None
        if reader.address is not None:
            self._client.identify(reader.address, reader.peer)
            limit = self._policy.claim_place(self._client)
            if limit:
                return self._turn_away(con, limit, now)
            con.address_key = self._client.address_key
            if reader.tls:
                con.about["scheme"] = "wss" if self._only_websocket else "tls"
        self.arm(con, now)
        return self.first_events(con, now)

    def _turn_away(self, con: Connection, limit: str, now: float) -> list[Event]:
        if self._listen.protocol == "raw" or self._awaits_tls:
            # The peer cannot be told why, or only after a handshake that costs more than it is
            # worth.
            return _reset(con, 1006, limit)
        con.phase = _OverLimit(OVER_LIMIT)
        con.ending = Ending(limit=limit)
        con.keepalive.arm(REFUSAL_TIMEOUT, now)
        return []

    def _refuse_header(self, con: Connection, why: str, now: float) -> list[Event]:
        self._policy.refuse("proxy_protocol", con.about, why, now)
        return _reset(con, 1002)

    # --- what it is ---

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        if self._proxy is not None:
            events, rest = self.receive_header(con, data, now)
            return events + con.phase.receive_data(con, rest, now) if rest else events
        if self._awaits_tls:
            # The stream has ended before it was known whether the bytes, which are not a PROXY
            # header, are TLS.
            return _reset(con, 1002)
        sniffer = self._sniffer
        if not sniffer.buffer:
            con.keepalive.arm(con.settings.handshake_timeout, now)
        finding = sniffer.receive_data(data)
        if finding is Finding.UNKNOWN or finding is Finding.HTTP:
            return []
        if finding is Finding.WEBSOCKET:
            return self._upgrade(con, now)
        if finding is Finding.TOO_BIG:
            why = "the request head has too many bytes or headers"
            return self._answer(con, 431, why, limit="max_header_size")
        if finding is Finding.PLAIN_HTTP:
            return self._take_request(con, now)
        if self._only_websocket:
            return _reset(con, 1002)
        return self._become_raw(con, bytes(sniffer.buffer), now)

    def _take_request(self, con: Connection, now: float) -> list[Event]:
        """Handle a request that is not a WebSocket's."""
        sniffer, listen = self._sniffer, self._listen
        head = bytes(sniffer.buffer[: sniffer.head_size])
        fields = fields_of(head)
        is_for_handlers = listen.plain_http in ("handlers", "static")
        may_link = is_for_handlers and head.startswith((b"GET ", b"HEAD "))
        refusal = self._policy.check_request(self._client, fields, now, may_link)
        if refusal is not None:
            return self._answer(con, *refusal)
        if is_for_handlers:
            return self._pass_request(con, head, fields, now)
        if listen.plain_http == "health":
            return self._answer(con, 200, "ok")
        if listen.plain_http == "reject" or self._only_websocket:
            return self._answer(con, 426, "a WebSocket is needed here")
        refusal = self._policy.check_host(self._client, fields, now)
        if refusal is not None:
            return self._answer(con, *refusal)
        return self._become_raw(con, bytes(sniffer.buffer), now)

    def _pass_request(
        self, con: Connection, head: bytes, fields: dict[str, str], now: float
    ) -> list[Event]:
        """Pass a request to handlers. Behind a proxy each request has a client of its own."""
        # Imported here because few gateways need it.
        from wsraw.gateway.connection.requests.exchange import Exchange, RequestError

        before, settings = self._client, con.settings
        about = dict(before.about)
        about["scheme"] = "https" if "tls" in about or about.get("scheme") == "tls" else "http"
        client = self._client = Client(about, before.address, before.address_key)
        try:
            exchange = Exchange(head, con.settings.max_message_size)
        except RequestError as error:
            return self._answer(con, error.status, str(error), error.limit)
        found = self._policy.route_request(client, self._listen, exchange.target, fields, now)
        con.about, con.address_key = about, client.address_key
        if isinstance(found, Refusal):
            return self._answer(con, *found)
        _assign(con, found[0])
        following = partial(_following, self._listen, settings, self._policy, before)
        phase = Receiving(exchange, found, following)
        return phase.begin(con, bytes(self._sniffer.buffer[self._sniffer.head_size :]), now)

    def _become_raw(self, con: Connection, data: bytes, now: float) -> list[Event]:
        found = self._policy.route_raw(self._client, self._listen, now)
        if found is not None:
            _assign(con, found)
            return open_raw(con, data)
        if self._sniffer.finding is Finding.PLAIN_HTTP:
            # A client that speaks HTTP can be told why.
            return self._answer(con, 404, "nothing is served here")
        return _reset(con, 1002)

    def _upgrade(self, con: Connection, now: float) -> list[Event]:
        sniffer = self._sniffer
        con.step(Step.UPGRADE)
        con.websocket = ws = WebSocket(con.settings)
        good = ws.receive_head(bytes(sniffer.buffer[: sniffer.head_size]))
        con.collect(ws)
        if not good:
            return con.end(1002, "", "protocol-error")
        con.inf = ws.inf
        if ws.repeated:
            con.about["repeated"] = ws.repeated
        if "scheme" in con.about:
            con.about["scheme"] = "wss"
        found = self._policy.check_handshake(self._client, self._listen, ws.inf, ws.offered, now)
        if isinstance(found, Refusal):
            return self._answer(con, *found)
        con.address_key = self._client.address_key
        _assign(con, found)
        ws.choose((found.subprotocol,) if found.subprotocol else con.settings.subprotocols)
        rest = bytes(sniffer.buffer[sniffer.head_size :])
        if con.needs_verdict:
            con.phase = AwaitingVerdict(self._policy)
            con.keepalive.arm(con.settings.verdict_timeout, now)
            con.intake.unparsed = rest
            return con.announce()
        ws.let_in()
        con.collect(ws)
        establish(con, now)
        events = con.announce()
        return events + con.phase.receive_data(con, rest, now) if rest else events

    def _answer(self, con: Connection, status: int, text: str, limit: str = "") -> list[Event]:
        headers = [("Retry-After", str(RETRY_AFTER))] if status == 429 else []
        answer = http_answer(status, text, *headers)
        con.output.append(answer_for(bytes(self._sniffer.buffer[:4]), answer))
        events = con.end(1002, "", "protocol-error", limit=limit)
        con.ending.status = status
        return events

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        sniffer = self._sniffer
        if self._proxy is not None:
            return self._end_without_header(con, self._proxy, now) + con.receive_eof(now)
        if sniffer.finding is Finding.HTTP:
            return self._answer(con, 400, "the request is not complete")
        if not sniffer.buffer or self._only_websocket:
            return con.end(1006, "", "lost")
        return self._become_raw(con, bytes(sniffer.buffer), now) + con.receive_eof(now)

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        if self._proxy is not None and self._proxy.begun:
            return self._end_without_header(con, self._proxy, now)
        if self._sniffer.finding is Finding.HTTP:
            why = "the request did not come in time"
            return self._answer(con, 408, why, limit="handshake_timeout")
        silent = not self._sniffer.buffer and not self._listen.first_byte_timeout
        if silent or self._only_websocket or self._proxy is not None or self._awaits_tls:
            limit = "handshake_timeout" if self._must_speak else "silence_timeout"
            con.cut()
            return con.end(1006, "", "handshake-timeout", limit=limit)
        return self._become_raw(con, bytes(self._sniffer.buffer), now)

    def _end_without_header(self, con: Connection, reader: ProxyReader, now: float) -> list[Event]:
        """No more of a PROXY header will come: the stream has ended, or the time is over."""
        if not reader.begun:
            # Connected and closed without a byte: a port scan or a health check.
            self._proxy = None
            return []
        reader.receive_eof()
        if reader.state == "wrong":
            return self._refuse_header(con, reader.error, now)
        events = self._end_header(con, reader, now)
        return events + con.phase.receive_data(con, reader.rest, now)

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        return con.end(code, reason, cause)


class _NextRequest(_Accepting):
    """What follows a request on its connection: another request, or a WebSocket, but no raw
    data."""

    __slots__ = ("_begun",)

    def __init__(
        self,
        listen: Listen,
        settings: Settings,
        policy: AdmissionPolicy,
        client: Client,
        begun: bytes,
    ) -> None:
        super().__init__(listen, settings, policy, client)
        self._awaits_tls = False
        self._proxy = None
        self._begun = begun

    @property
    def _only_websocket(self) -> bool:
        return True

    def arm(self, con: Connection, now: float) -> None:
        con.keepalive.arm(con.settings.silence_timeout, now)

    def first_events(self, con: Connection, now: float) -> list[Event]:
        begun, self._begun = self._begun, b""
        return self.receive_data(con, begun, now) if begun else []

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        sniffer = self._sniffer
        if sniffer.finding is Finding.UNKNOWN and not sniffer.buffer:
            # Empty lines between requests are ignored (RFC 9112, section 2.2).
            data = data.lstrip(b"\r\n")
            if not data:
                return []
        events = super().receive_data(con, data, now)
        if sniffer.finding is Finding.RAW and con.output.reset:
            con.output.reset = False
            con.output.append(http_answer(400, "the request is not valid HTTP/1.1"))
        return events

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        if self._sniffer.buffer:
            return super().handle_timeout(con, now)
        return con.end(1000, "", "handshake-timeout")


def _following(
    listen: Listen,
    settings: Settings,
    policy: AdmissionPolicy,
    client: Client,
    con_id: int,
    now: float,
    begun: bytes,
) -> Connection:
    """The connection that continues on the socket of a request."""
    about = dict(client.about)
    again = Client(about, client.address, client.address_key)
    phase = _NextRequest(listen, settings, policy, again, begun)
    con = Connection(con_id, settings, about, phase, opened=False)
    con.address_key = client.address_key
    phase.arm(con, now)
    return con


class _OverLimit(Phase):
    """A client above a limit. Its first bytes decide whether it gets an answer or a reset."""

    __slots__ = ("_answer", "_seen")

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._seen = b""

    def receive_data(self, con: Connection, data: bytes, now: float) -> list[Event]:
        self._seen += data[:ENOUGH]
        speaks = speaks_http(self._seen)
        if speaks:
            con.output.append(answer_for(self._seen, self._answer))
            return con.end(1002, "", "protocol-error")
        return [] if speaks is None else _reset(con, 1006)

    def receive_eof(self, con: Connection, now: float) -> list[Event]:
        return _reset(con, 1006)

    def handle_timeout(self, con: Connection, now: float) -> list[Event]:
        return _reset(con, 1006)

    def close(self, con: Connection, code: int, reason: str, cause: str, now: float) -> list[Event]:
        return _reset(con, 1006)


def _reset(con: Connection, code: int, limit: str = "") -> list[Event]:
    con.cut()
    return con.end(code, "", "protocol-error", limit=limit)


def _assign(con: Connection, found: Found) -> None:
    """Assign the connection to a pool."""
    con.pool = found.pool
    con.settings = found.settings
    if found.params:
        con.about["params"] = found.params
