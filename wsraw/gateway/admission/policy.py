"""Sans-I/O. Which clients are accepted, and into which pool. The settings decide, and refusals are
counted under the setting.

There is one policy for a gateway. It decides by facts about a client: its address (from the socket,
or from a trusted proxy), and for HTTP the Host and the Origin of its request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from wsraw.config.addresses import Address, Listen, Networks
from wsraw.config.origins import Hosts, Origins
from wsraw.config.settings import Settings
from wsraw.gateway.admission.forwarded import Forwarded, forwarded, x_forwarded_for
from wsraw.gateway.admission.per_address import AddressLimits, address_key
from wsraw.gateway.admission.routes import Found, Routes
from wsraw.gateway.counters import Counters
from wsraw.runtime.log.line import Subject
from wsraw.runtime.printable import shown_url

_READERS: Final = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded}


class Client:
    """What is known of a client that has connected."""

    __slots__ = ("about", "address", "address_key")

    def __init__(
        self, about: dict[str, Any], address: Address | str | None, address_key: bytes | None = None
    ) -> None:
        self.about = about
        """The facts that handlers see: peer, proxy, scheme, listener."""
        self.address = address
        """An IP address, `unix`, or None for a client whose address a proxy hides."""
        self.address_key = address_key
        """The key under which max_connections_per_address counts it; None: it is not counted."""

    def identify(self, address: Address | None, peer: str) -> None:
        """Replace the address by the one of the client behind a trusted proxy."""
        self.address = address
        self.about.setdefault("proxy", self.about.get("peer", ""))
        self.about["peer"] = peer


class Refusal(NamedTuple):
    """An HTTP answer instead of a connection."""

    status: int
    text: str
    limit: str = ""
    """The limit that was reached, if it is the reason; it is counted when the client has gone."""


class AdmissionPolicy:
    """Decides by the settings origins, hosts, trusted_proxies, proxy_protocol, forwarded and
    routes."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._counters = counters
        self._trusted = Networks(settings.trusted_proxies)
        self._origins = Origins(settings.origins)
        self._hosts = Hosts(settings.hosts)
        self._routes = Routes(settings)
        self.address_limits = AddressLimits(0, 0)
        """Counts the connections of each address; set by the owner of the sockets."""
        self._read = _READERS.get(settings.forwarded)

    def trusts(self, address: Address | str | None) -> bool:
        return address in self._trusted

    def refuses_at_once(self, listen: Listen, address: Address | str | None) -> bool:
        """Whether a peer may not even send a byte, because the listener is for trusted proxies
        alone and the peer is not one."""
        return listen.proxy_protocol == "required" and not self.trusts(address)

    def check_handshake(
        self,
        client: Client,
        listen: Listen,
        inf: dict[str, str],
        offered: Sequence[str],
        now: float,
    ) -> Found | Refusal:
        """The pool of a WebSocket client, or why it is refused, from the head of its request and
        the subprotocols that it offers."""
        headers = {name.lower(): value for name, value in inf.items()}
        told = self._read_client(client, headers)
        if told and told.scheme:
            client.about["scheme"] = "wss" if told.scheme == "https" else "ws"
        refusal = self._identify(client, told)
        if refusal is not None:
            return refusal
        hosts = _hosts_of(headers, told)
        host = hosts[-1]
        refusal = self._check_host(client, hosts, now)
        if refusal is None:
            refusal = self._check_origin(client, headers, hosts, now)
        if refusal is not None:
            return refusal
        target = inf["url"]
        found = self._routes.websocket(listen, target, host, offered)
        if found is None:
            why = f"no route for the WebSocket {shown_url(target)} (Host {shown_url(host)})"
            self.refuse("routes", client.about, why, now)
            return Refusal(404, "nothing is served here")
        return found

    def _identify(self, client: Client, told: Forwarded | None) -> Refusal | None:
        """If a trusted proxy has reported its client, use that client's address, and check its
        limit."""
        if told is None or not told.peer:
            return None
        client.identify(told.address, told.peer)
        limit = self.claim_place(client)
        return Refusal(429, "too many connections from your address", limit) if limit else None

    def route_request(
        self, client: Client, listen: Listen, target: str, headers: dict[str, str], now: float
    ) -> list[Found] | Refusal:
        """The pools that may answer an HTTP request, in order, or why it is refused. `headers` has
        lower-case names."""
        told = self._read_client(client, headers)
        if told and told.scheme:
            client.about["scheme"] = told.scheme
        refusal = self._identify(client, told)
        if refusal is not None:
            return refusal
        hosts = _hosts_of(headers, told)
        refusal = self._check_host(client, hosts, now) if hosts[-1] else None
        if refusal is not None:
            return refusal
        found = self._routes.request(listen, target, hosts[-1])
        if not found:
            why = f"no route for the request {shown_url(target)} (Host {shown_url(hosts[-1])})"
            self.refuse("routes", client.about, why, now)
            return Refusal(404, "nothing is served here")
        return found

    def check_request(
        self, client: Client, headers: dict[str, str], now: float, may_link: bool = False
    ) -> Refusal | None:
        """Why the Origin of an HTTP request that is not a handshake is refused, or None; `headers`
        has lower-case names. Any web page can make a browser send such a request, with a body that
        a raw handler would take for its client's data. `may_link`: pages of other sites may link
        here, as anywhere in the web."""
        if "origin" not in headers and "sec-fetch-site" not in headers:
            return None
        if may_link and "origin" not in headers and headers.get("sec-fetch-mode") == "navigate":
            return None
        hosts = _hosts_of(headers, self._read_client(client, headers))
        return self._check_origin(client, headers, hosts, now)

    def check_host(self, client: Client, headers: dict[str, str], now: float) -> Refusal | None:
        """Why the Host of a request for handlers is refused, or None: with DNS rebinding, a page of
        another site has our origin. A client that sends no Host is not a browser."""
        hosts = _hosts_of(headers, self._read_client(client, headers))
        return self._check_host(client, hosts, now) if hosts[-1] else None

    def route_raw(self, client: Client, listen: Listen, now: float) -> Found | None:
        """The pool of a raw client, or None if no route leads to one."""
        found = self._routes.raw(listen)
        if found is None:
            why = f"no route for raw clients of {listen.name}"
            self.refuse("routes", client.about, why, now)
        return found

    def claim_place(self, client: Client) -> str:
        """Count a client that a trusted proxy has identified, or return the limit that forbids one
        more connection from its address."""
        limits = self.address_limits
        key = address_key(client.address)
        limit = limits.refusal(key, 0)
        if not limit:
            limits.leave(client.address_key)
            limits.enter(key)
            client.address_key = key
        return limit

    def refuse(self, setting: str, about: dict[str, Any], why: str, now: float) -> None:
        """Count a refusal under the setting that is its reason, and log it unless the last log line
        about that setting is too recent."""
        self._counters.hit(setting, now, Subject(peer=about.get("peer", "")), why)

    def _check_host(self, client: Client, hosts: list[str], now: float) -> Refusal | None:
        if self._hosts.allow(hosts[-1]):
            return None
        self.refuse("hosts", client.about, f"the Host {shown_url(hosts[0])} is not ours", now)
        return Refusal(421, "this server does not answer for that Host; see its setting hosts")

    def _check_origin(
        self, client: Client, headers: dict[str, str], hosts: list[str], now: float
    ) -> Refusal | None:
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
        why = f"{page} may not connect (Host {shown_url(hosts[0])})"
        self.refuse("origins", client.about, why, now)
        return Refusal(403, f"{told}see the server's setting origins")

    def _read_client(self, client: Client, headers: dict[str, str]) -> Forwarded | None:
        """The client according to the headers; None unless a trusted proxy has sent them."""
        if self._read is None or not self.trusts(client.address):
            return None
        return self._read(headers, self._trusted)


def _hosts_of(headers: dict[str, str], told: Forwarded | None) -> list[str]:
    """The Host of the request, and last the host that a trusted proxy reports, if it does."""
    asked = headers.get("host", "")
    return [asked, told.host] if told and told.host else [asked]
