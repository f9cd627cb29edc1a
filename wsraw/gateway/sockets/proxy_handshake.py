"""Sans-I/O. The handshake with a proxy through which a connection is opened.

SOCKS 5 (RFC 1928), with user and password (RFC 1929), and HTTP CONNECT (RFC 9110, section 9.3.6).
The proxy resolves the name of the target.

`receive_data` gets received bytes and returns how many of them are the proxy's: the following ones
are the target's.
"""

from __future__ import annotations

import base64
import re
from ipaddress import ip_address
from typing import Final

from wsraw.link.open_options import Proxy, Target

LONGEST_HEAD: Final = 16 * 1024
"""Bytes of a proxy's answer."""

LOG_IN: Final = "write USER:PASSWORD@ before its host"
"""Advice. A whole URL would not be shown: anything that looks like a login is left out of the
log."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n]{0,100}))?")


def handshake_with(proxy: Proxy, target: Target) -> HttpConnect | Socks5:
    """The handshake that asks a proxy for a target."""
    return HttpConnect(proxy, target) if proxy.kind == "http" else Socks5(proxy, target)


class HttpConnect:
    """A CONNECT request, and its answer."""

    def __init__(self, proxy: Proxy, target: Target) -> None:
        host = target.host.partition("%")[0]
        where = f"[{host}]:{target.port}" if ":" in host else f"{_ascii(host)}:{target.port}"
        lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
        if proxy.user or proxy.password:
            login = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {login}")
        self.output = "\r\n".join([*lines, "", ""]).encode()
        """Bytes to write; the caller removes what was written."""
        self.done = False
        self.error = ""
        self._head = b""

    def receive_data(self, data: bytes) -> int:
        """Take bytes of the proxy; return how many."""
        before = len(self._head)
        head = self._head + data
        end = head.find(b"\r\n\r\n", max(0, before - 3))
        if end < 0:
            self._head = head
            if len(head) > LONGEST_HEAD:
                self.error = "the proxy's answer has no end"
            elif not b"HTTP/1.".startswith(head[:7]) and not head.startswith(b"HTTP/1."):
                self.error = "the proxy does not speak HTTP"
            return len(data)
        status = _STATUS.match(head)
        if status is None:
            self.error = "the proxy does not speak HTTP"
        elif status[1].startswith(b"2"):
            self.done = True
        else:
            said = (status[2] or b"").decode("ascii", "replace")
            self.error = _REFUSALS.get(status[1], f"the proxy answered {status[1].decode()} {said}")
        return end + 4 - before


_REFUSALS: Final = {
    b"403": "the proxy does not allow this target (403)",
    b"407": f"the proxy needs a login, or rejects this one (407); {LOG_IN}",
    b"502": "the proxy cannot reach the target (502)",
    b"504": "the target did not answer the proxy in time (504)",
}


class Socks5:
    """The choice of a method, perhaps a login, and a request."""

    def __init__(self, proxy: Proxy, target: Target) -> None:
        self._login = (proxy.user.encode(), proxy.password.encode())
        methods = b"\0\2" if any(self._login) else b"\0"
        self.output = bytes((5, len(methods))) + methods
        self.done = False
        self.error = ""
        self._request = b"\5\1\0" + _address(target) + target.port.to_bytes(2, "big")
        self._expects = self._read_method
        self._buffer = b""
        self._needed = 2

    def receive_data(self, data: bytes) -> int:
        """Take bytes of the proxy; return how many."""
        used = 0
        while not (self.done or self.error):
            missing = self._needed - len(self._buffer)
            if missing > len(data) - used:
                self._buffer += data[used:]
                return len(data)
            self._buffer += data[used : used + missing]
            used += missing
            self._expects()
        return used

    def _next(self, needed: int) -> None:
        self._buffer, self._needed = b"", needed

    def _read_method(self) -> None:
        version, method = self._buffer
        if version != 5:
            self.error = "the proxy does not speak SOCKS 5"
        elif method == 0:
            self._ask()
        elif method == 2 and any(self._login):
            user, password = self._login
            self.output += b"\1" + bytes((len(user),)) + user + bytes((len(password),)) + password
            self._expects = self._read_login
            self._next(2)
        else:
            self.error = f"the proxy needs a login; {LOG_IN}"

    def _read_login(self) -> None:
        if self._buffer[1]:
            self.error = "the proxy rejects this user and password"
        else:
            self._ask()

    def _ask(self) -> None:
        self.output += self._request
        self._expects = self._read_reply
        self._next(5)

    def _read_reply(self) -> None:
        """Read the reply. The address that the proxy uses in it does not matter."""
        version, code, _, kind, first = self._buffer[:5]
        if version != 5:
            self.error = "the proxy does not speak SOCKS 5"
        elif code:
            self.error = _CODES.get(code, f"the proxy answered with error {code}")
        elif len(self._buffer) == 5:
            size = {1: 4, 3: 1 + first, 4: 16}.get(kind)
            if size is None:
                self.error = "the proxy answered with an address of an unknown kind"
            else:
                self._needed = 4 + size + 2
        else:
            self.done = True


_CODES: Final = {
    1: "the proxy has failed",
    2: "the proxy does not allow this target",
    3: "the proxy has no route to the target's network",
    4: "the proxy cannot reach the target's host",
    5: "the target refused the proxy's connection",
    6: "the target did not answer the proxy in time",
    7: "the proxy does not connect to others",
    8: "the proxy does not take this kind of address",
}
"""RFC 1928, section 6."""


def _address(target: Target) -> bytes:
    host = target.host.partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        name = _ascii(host).encode()
        return b"\3" + bytes((len(name),)) + name
    return (b"\1" if address.version == 4 else b"\4") + address.packed


def _ascii(host: str) -> str:
    """A name in the form of DNS."""
    return host if host.isascii() else host.encode("idna").decode()
