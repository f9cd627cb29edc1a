"""Sans-I/O. Who may come in, and to which pool: what the settings say, and what was turned away.

One for a gateway. It knows of a client the address (from the socket, or from a proxy that is
trusted), of a WebSocket the Host that it asked for, the Origin of the page that it is, and what
routes look at.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.admission import Admission, address_key
from wsraw.gateway.forwarded import Client, forwarded, x_forwarded_for
from wsraw.gateway.http import lower_names
from wsraw.gateway.life import Life
from wsraw.gateway.limits import Limits
from wsraw.gateway.routing import Found, Routing
from wsraw.listeners import Listen
from wsraw.networks import Address, Networks
from wsraw.origins import Hosts, Origins
from wsraw.settings import Settings

_READERS: Final = {"x-forwarded-for": x_forwarded_for, "forwarded": forwarded}

_SHOWN: Final = 100
"""Characters of what a client has sent that a line in the log shows."""


class Entrance:
    """The settings origins, hosts, trusted_proxies, proxy_protocol, forwarded and routes, at
    work."""

    def __init__(self, settings: Settings, limits: Limits) -> None:
        self._limits = limits
        self._trusted = Networks(settings.trusted_proxies)
        self._origins = Origins(settings.origins)
        self._hosts = Hosts(settings.hosts)
        self._routing = Routing(settings)
        self.admission: Admission | None = None
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
        asked = headers.get("host", "")
        host = client.host or asked if client else asked
        if not self._hosts.allow(host):
            self.refuse("hosts", con.about, f"the Host {_shown(asked)} is not ours", now)
            return 421, "this server does not answer for that Host; see its setting hosts"
        hosts = [asked, client.host] if client and client.host else [asked]
        origin = headers.get("origin")
        if not self._origins.allow(origin, hosts):
            why = f"the Origin {_shown(origin or '')} may not (Host {_shown(asked)})"
            self.refuse("origins", con.about, why, now)
            return (
                403,
                "pages of this Origin may not connect here; see the server's setting origins",
            )
        ws = con.websocket
        assert ws is not None
        target = con.inf["url"]
        found = self._routing.websocket(listen, target, host, ws.offered)
        if found is None:
            why = f"no route for the WebSocket {_shown(target)} (Host {_shown(host)})"
            self.refuse("routes", con.about, why, now)
            return 404, "nothing is served here"
        _lead(con, found)
        ws.choose((found.subprotocol,) if found.subprotocol else con.settings.subprotocols)
        return None

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
        if self._read is None or not self.trusts(con.address):
            return None
        client = self._read(headers, self._trusted)
        if client is None:
            return None
        if client.peer:
            con.met(client.address, client.peer)
        if client.scheme:
            con.about["scheme"] = "wss" if client.scheme == "https" else "ws"
        return client

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


def _lead(con: Life, found: Found) -> None:
    con.pool = found.pool
    con.settings = found.settings
    if found.params:
        con.about["params"] = found.params


def _shown(text: str) -> str:
    """For the log, which must not be written by clients."""
    return ascii(text[:_SHOWN])
