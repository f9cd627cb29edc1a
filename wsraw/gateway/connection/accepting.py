"""Sans-I/O. How an accepted connection begins: from its first byte until it is known what it is.

In layers: the PROXY header of a trusted proxy, where the listener wants one; then TLS, in the
shell; then the first bytes say whether it is raw or a WebSocket.
"""

from __future__ import annotations

from wsraw.config.addresses import Listen
from wsraw.gateway.admission.per_address import RETRY_AFTER
from wsraw.gateway.admission.policy import AdmissionPolicy
from wsraw.gateway.admission.proxy_protocol import ProxyReader
from wsraw.gateway.admission.sniffer import Sniffer, Verdict
from wsraw.gateway.connection.over_limit import TooMany
from wsraw.gateway.connection.standing import Standing
from wsraw.gateway.connection.states import Step
from wsraw.gateway.connection.verdict import Asking
from wsraw.gateway.http import fields_of, http_answer, without_body
from wsraw.gateway.websocket.websocket import WebSocket
from wsraw.link.records import Event


class Accepting:
    """Holds the first bytes until they say enough."""

    __slots__ = ("_awaits_tls", "_con", "_entrance", "_in_tls", "_listen", "_proxy", "_sniffer")

    def __init__(
        self, con: Standing, listen: Listen, entrance: AdmissionPolicy, now: float
    ) -> None:
        self._con = con
        self._listen = listen
        self._entrance = entrance
        settings = con.settings
        self._sniffer = Sniffer(settings.max_header_size, self._only_websocket)
        self._awaits_tls = listen.tls != "off"
        self._in_tls = False
        self._proxy: ProxyReader | None = None
        if listen.proxy_protocol != "off":
            optional = listen.proxy_protocol == "optional"
            self._proxy = ProxyReader(optional, entrance.trusts(con.address))
        if listen.proxy_protocol == "required":
            con.arm(con.settings.handshake_timeout, now)
        else:
            self._arm(now)

    def _arm(self, now: float) -> None:
        # Only a listener for WebSockets, or for TLS, can blame those who say nothing.
        blames = self._only_websocket or (self._awaits_tls and self._listen.tls == "required")
        settings = self._con.settings
        timeout = self._listen.first_byte_timeout or settings.silence_timeout
        self._con.arm(settings.handshake_timeout if blames else timeout, now)

    @property
    def _only_websocket(self) -> bool:
        return self._listen.protocol == "websocket"

    def opened(self, now: float) -> list[Event]:
        """The events before anything has come, or behind the PROXY header."""
        if self._listen.protocol == "raw" and self._proxy is None and not self._awaits_tls:
            return self._become_raw(b"", now)
        return []

    def expect_tls(self, now: float) -> None:
        """It has begun with TLS where it need not: its time is limited now."""
        con = self._con
        timeout = con.settings.handshake_timeout
        self._in_tls = True
        if timeout and now + timeout < con.deadline:
            con.arm(timeout, now)

    def secured(self, now: float) -> list[Event]:
        """The layers below are through: TLS stands, or there is none."""
        self._awaits_tls = self._in_tls = False
        if "tls" in self._con.about:
            self._con.about["scheme"] = "wss" if self._only_websocket else "tls"
        self._arm(now)
        return self.opened(now)

    # --- the PROXY header ---

    @property
    def awaits_header(self) -> bool:
        """Whether the next bytes are, or may be, a PROXY header: they go to `receive_header`."""
        return self._proxy is not None

    def receive_header(self, data: bytes, now: float) -> tuple[list[Event], bytes]:
        """The first bytes of a connection: events, and what is behind the header. Until there is
        something behind it, or the connection has ended, nothing is."""
        reader, con = self._proxy, self._con
        assert reader is not None
        if not reader.begun:
            con.arm(con.settings.handshake_timeout, now)
        reader.receive_data(data)
        if reader.state == "wrong":
            return self._refuse_header(reader.error, now), b""
        if reader.state == "reading":
            return [], b""
        return self._end_header(now), reader.rest

    def _end_header(self, now: float) -> list[Event]:
        reader, con = self._proxy, self._con
        assert reader is not None
        self._proxy = None
        if reader.address is not None:
            con.met(reader.address, reader.peer)
            if not self._entrance.has_place(con):
                return self._turn_away(now)
            if reader.tls:
                con.about["scheme"] = "wss" if self._only_websocket else "tls"
        self._arm(now)
        return self.opened(now)

    def _turn_away(self, now: float) -> list[Event]:
        con = self._con
        if self._listen.protocol == "raw" or self._awaits_tls:
            # It cannot be told, or not without a handshake that costs more than it is worth.
            con.cut()
            return con.end(1006, "", "protocol-error")
        con.beginning = TooMany(con, now)
        return []

    def _refuse_header(self, why: str, now: float) -> list[Event]:
        self._entrance.refuse("proxy_protocol", self._con.about, why, now)
        self._con.cut()
        return self._con.end(1002, "", "protocol-error")

    # --- what it is ---

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """Bytes of the client."""
        con = self._con
        if self._proxy is not None:
            events, rest = self.receive_header(data, now)
            return events + con.receive_data(rest, now) if rest else events
        if self._awaits_tls:
            # A PROXY header that was none, and ended before it could be found out what it is.
            con.cut()
            return con.end(1002, "", "protocol-error")
        sniffer = self._sniffer
        if not sniffer.buffer:
            con.arm(con.settings.handshake_timeout, now)
        verdict = sniffer.receive_data(data)
        if verdict is Verdict.UNKNOWN or verdict is Verdict.HTTP:
            return []
        if verdict is Verdict.WEBSOCKET:
            return self._upgrade(now)
        if verdict is Verdict.TOO_BIG:
            con.limit = "max_header_size"
            return self._answer(431, "the request head has too many bytes or headers")
        if verdict is Verdict.PLAIN_HTTP:
            return self._take_request(now)
        if self._only_websocket:
            con.cut()
            return con.end(1002, "", "protocol-error")
        return self._become_raw(bytes(sniffer.buffer), now)

    def _take_request(self, now: float) -> list[Event]:
        """A request that is not a WebSocket's."""
        sniffer, listen = self._sniffer, self._listen
        fields = fields_of(bytes(sniffer.buffer[: sniffer.head_size]))
        refusal = self._entrance.judge_page(self._con, fields, now)
        if refusal is not None:
            return self._answer(*refusal)
        if listen.plain_http == "health":
            return self._answer(200, "ok")
        if listen.plain_http == "reject" or self._only_websocket:
            return self._answer(426, "a WebSocket is needed here")
        refusal = self._entrance.judge_host(self._con, fields, now)
        if refusal is not None:
            return self._answer(*refusal)
        return self._become_raw(bytes(sniffer.buffer), now)

    def _become_raw(self, data: bytes, now: float) -> list[Event]:
        con = self._con
        if self._entrance.has_raw(con, self._listen, now):
            return con.become_raw(data)
        if self._sniffer.verdict is Verdict.PLAIN_HTTP:
            # Who speaks HTTP can be told why.
            return self._answer(404, "nothing is served here")
        con.cut()
        return con.end(1002, "", "protocol-error")

    def _upgrade(self, now: float) -> list[Event]:
        sniffer, con = self._sniffer, self._con
        con.step(Step.UPGRADE)
        con.kind = "websocket"
        con.websocket = ws = WebSocket.server(con.settings)
        good = ws.receive_head(bytes(sniffer.buffer[: sniffer.head_size]))
        con.collect(ws)
        if not good:
            return con.end(1002, "", "protocol-error")
        con.inf = ws.inf
        if "scheme" in con.about:
            con.about["scheme"] = "wss"
        refusal = self._entrance.judge_handshake(con, self._listen, now)
        if refusal is not None:
            return self._answer(*refusal)
        rest = bytes(sniffer.buffer[sniffer.head_size :])
        if con.asks:
            con.beginning = Asking(con, self._entrance, now)
            con.hold(rest)
            return con.announce()
        ws.let_in()
        con.collect(ws)
        events = con.stand(True, now)
        return events + con.receive_data(rest, now) if rest else events

    def _answer(self, status: int, text: str) -> list[Event]:
        headers = [("Retry-After", str(RETRY_AFTER))] if status == 429 else []
        answer = http_answer(status, text, *headers)
        self._con.output.append(without_body(answer) if self._sniffer.is_head else answer)
        return self._con.end(1002, "", "protocol-error")

    def receive_eof(self, now: float) -> list[Event]:
        """The client has shut its side."""
        sniffer, con = self._sniffer, self._con
        if self._proxy is not None:
            return self._without_header(now) + con.receive_eof(now)
        if sniffer.verdict is Verdict.HTTP:
            return self._answer(400, "the request is not complete")
        if not sniffer.buffer or self._only_websocket:
            return con.end(1006, "", "lost")
        return self._become_raw(bytes(sniffer.buffer), now) + con.receive_eof(now)

    def handle_timeout(self, now: float) -> list[Event]:
        """It has had the time to say what it is."""
        con = self._con
        if self._proxy is not None and self._proxy.begun:
            return self._without_header(now)
        if self._sniffer.verdict is Verdict.HTTP:
            con.limit = "handshake_timeout"
            return self._answer(408, "the request did not come in time")
        silent = not self._sniffer.buffer and not self._listen.first_byte_timeout
        if silent or self._only_websocket or self._proxy is not None or self._awaits_tls:
            required = self._listen.proxy_protocol == "required" and self._proxy is not None
            tls = self._in_tls or (self._listen.tls == "required" and self._awaits_tls)
            strict = self._only_websocket or required or tls
            con.limit = "handshake_timeout" if strict else "silence_timeout"
            con.cut()
            return con.end(1006, "", "handshake-timeout")
        return self._become_raw(bytes(self._sniffer.buffer), now)

    def _without_header(self, now: float) -> list[Event]:
        """No more of a PROXY header will come."""
        reader, con = self._proxy, self._con
        assert reader is not None
        if not reader.begun:
            # A look whether the port is open.
            self._proxy = None
            return []
        reader.receive_eof()
        if reader.state == "wrong":
            return self._refuse_header(reader.error, now)
        events = self._end_header(now)
        return events + con.receive_data(reader.rest, now)

    def close(self, code: int, reason: str, cause: str, now: float) -> list[Event]:
        """Nobody has heard of it."""
        return self._con.end(code, reason, cause)
