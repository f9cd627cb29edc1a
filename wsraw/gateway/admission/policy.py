"""Sans-I/O. Who may come in, and to which pool: what the settings say, and what was turned away.

One for a gateway. It knows of a client the address (from the socket, or from a proxy that is
trusted), of a WebSocket the Host that it asked for, the Origin of the page that it is, and what
routes look at.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.config.addresses import Address, Listen, Networks
from wsraw.config.origins import Hosts, Origins
from wsraw.config.settings import Settings
from wsraw.gateway.admission.forwarded import Client, forwarded, x_forwarded_for
from wsraw.gateway.admission.per_address import AddressLimits, address_key
from wsraw.gateway.admission.routes import Found, Routes
from wsraw.gateway.connection.states import Life
from wsraw.gateway.counters import Counters
from wsraw.gateway.http import lower_names
from wsraw.runtime.printable import shown_url

_READERS: Final = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded}


class AdmissionPolicy:
    """The settings origins, hosts, trusted_proxies, proxy_protocol, forwarded and routes, at
    work."""

    def __init__(self, settings: Settings, limits: Counters) -> None:
        self._limits = limits
        self._trusted = Networks(settings.trusted_proxies)
        self._origins = Origins(settings.origins)
        self._hosts = Hosts(settings.hosts)
        self._routing = Routes(settings)
        self.admission: AddressLimits | None = None
        """Who counts connections; the shell sets it."""
        self._read = _READERS.get(settings.forwarded)

    def trusts(self, address: Address | str | None) -> bool:
        """Whether that peer is a proxy of ours, and to be believed."""
        return address in self._trusted

    def refuses_at_once(self, listen: Listen, address: Address | str | None) -> bool:
        """Nobody but our proxies has a business with this listener."""
        return listen.proxy_protocol == "required" and not self.trusts(address)

    def judge_handshake(self, con: Life, listen: Listen, now: float) -> tuple[int, str] | None:
        """Look at the head of a WebSocket's request: who the client is, whether it may come in, and
        to which pool. Returns the HTTP status and text of a refusal, or None."""
        headers = lower_names(con.inf)
        client = self._identify(con, headers)
        if client and client.peer and not self.has_place(con):
            return 429, "too many connections from your address"
        hosts = _hosts_of(headers, client)
        host = hosts[-1]
        refusal = self._judge_host(con, hosts, now) or self._judge_origin(con, headers, hosts, now)
        if refusal is not None:
            return refusal
        ws = con.websocket
        assert ws is not None
        target = con.inf["url"]
        found = self._routing.websocket(listen, target, host, ws.offered)
        if found is None:
            why = f"no route for the WebSocket {shown_url(target)} (Host {shown_url(host)})"
            self.refuse("routes", con.about, why, now)
            return 404, "nothing is served here"
        _lead(con, found)
        ws.choose((found.subprotocol,) if found.subprotocol else con.settings.subprotocols)
        return None

    def judge_page(self, con: Life, headers: dict[str, str], now: float) -> tuple[int, str] | None:
        """Look at a request that is not a WebSocket's, its `headers` by lower-case names: any page
        can make a browser send one, with a body that a raw handler would take for its client's
        words. Returns the HTTP status and text of a refusal, or None."""
        if "origin" not in headers and "sec-fetch-site" not in headers:
            return None
        hosts = _hosts_of(headers, self._read_client(con, headers))
        return self._judge_origin(con, headers, hosts, now)

    def judge_host(self, con: Life, headers: dict[str, str], now: float) -> tuple[int, str] | None:
        """The same for the Host of a request that handlers would get: with DNS rebinding a page of
        another site is of the same origin. Who does not name a Host is not a browser."""
        hosts = _hosts_of(headers, self._read_client(con, headers))
        return self._judge_host(con, hosts, now) if hosts[-1] else None

    def _judge_host(self, con: Life, hosts: list[str], now: float) -> tuple[int, str] | None:
        if self._hosts.allow(hosts[-1]):
            return None
        self.refuse("hosts", con.about, f"the Host {shown_url(hosts[0])} is not ours", now)
        return 421, "this server does not answer for that Host; see its setting hosts"

    def _judge_origin(
        self, con: Life, headers: dict[str, str], hosts: list[str], now: float
    ) -> tuple[int, str] | None:
        origin = headers.get("origin")
        cross_site = headers.get("sec-fetch-site", "").lower() == "cross-site"
        if self._origins.allow(origin, hosts, cross_site):
            return None
        page = "a page of another site" if origin is None else f"the Origin {shown_url(origin)}"
        told = (
            "pages of other sites may not connect here, nor link here; open the address itself, or "
            if origin is None
            else "pages of this Origin may not connect here; "
        )
        self.refuse("origins", con.about, f"{page} may not (Host {shown_url(hosts[0])})", now)
        return 403, f"{told}see the server's setting origins"

    def has_raw(self, con: Life, listen: Listen, now: float) -> bool:
        """Whether some pool is for this raw client; then it belongs to that."""
        found = self._routing.raw(listen)
        if found is None:
            self.refuse("routes", con.about, f"no route for raw clients of {listen.name}", now)
            return False
        _lead(con, found)
        return True

    def _identify(self, con: Life, headers: dict[str, str]) -> Client | None:
        """Believe what proxies say in headers, if it is a proxy of ours that we talk to."""
        client = self._read_client(con, headers)
        if client is None:
            return None
        if client.peer:
            con.met(client.address, client.peer)
        if client.scheme:
            con.about["scheme"] = "wss" if client.scheme == "https" else "ws"
        return client

    def _read_client(self, con: Life, headers: dict[str, str]) -> Client | None:
        if self._read is None or not self.trusts(con.address):
            return None
        return self._read(headers, self._trusted)

    def has_place(self, con: Life) -> bool:
        """A proxy has told who the client is: whether one more of that address may come in."""
        if self.admission is None:
            return True
        key = address_key(con.address)
        con.limit = self.admission.refusal(key, 0)
        if con.limit:
            return False
        self.admission.leave(con.counted)
        self.admission.enter(key)
        con.counted = key
        return True

    def refuse(self, setting: str, about: dict[str, Any], why: str, now: float) -> None:
        """Count it by the setting that is the reason, and say so in the log now and then."""
        self._limits.hit(setting, now, f"{about.get('peer', 'a client')}: {why}")

    def rejected(self, now: float) -> None:
        """A handler has sent somebody away."""
        self._limits.hit("verdict", now)


def _hosts_of(headers: dict[str, str], client: Client | None) -> list[str]:
    """The Host that was asked for, and last what a trusted proxy says that it was, if it does."""
    asked = headers.get("host", "")
    return [asked, client.host] if client and client.host else [asked]


def _lead(con: Life, found: Found) -> None:
    con.pool = found.pool
    con.settings = found.settings
    if found.params:
        con.about["params"] = found.params
