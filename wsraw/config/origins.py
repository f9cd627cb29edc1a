"""Sans-I/O. The settings `origins` and `hosts`: which web pages may connect, and to which names.

A browser lets a page of any site open a WebSocket to any server, with the user's cookies
(cross-site WebSocket hijacking), and send it requests with any body. It names the page's site in
`Origin` (RFC 6454), which the page cannot change. A GET may have no Origin; then the browser sends
`Sec-Fetch-Site: cross-site`, if the server uses TLS or is this machine. A client that sends neither
is not a browser: no cookies of a user are at risk, and it could send any Origin that it likes, so
it is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from wsraw.config.addresses import parse_address
from wsraw.link.rules import split_host_port

ANY: Final = "any"
SAME_ORIGIN: Final = "same-origin"
NULL: Final = "null"
"""The Origin of pages from files, and of sandboxed frames."""

_PORTS: Final = {"http": 80, "ws": 80, "https": 443, "wss": 443}
_PAGE: Final = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@]+)")
_PROGRAM: Final = re.compile(r"([a-z][a-z0-9+.-]*)://[a-z0-9._*-]*")
"""Origins of programs with their own scheme: `file://`, `app://.`."""
_NAME: Final = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\.?")


class Origins:
    """The setting `origins`. Raises ValueError with a line that says what to write instead."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._any = self._same = self._null = False
        self._pages: list[tuple[str, str, int]] = []
        self._programs: set[str] = set()
        for text in texts:
            if text == ANY:
                self._any = True
            elif text == SAME_ORIGIN:
                self._same = True
            elif text == NULL:
                self._null = True
            else:
                self._add(text.lower())

    def _add(self, text: str) -> None:
        # A file has no host, so the slash that ends a path is the third one.
        text = text.removesuffix("/") if not text.endswith("://") else text
        page = _parse_page(text)
        if page is not None:
            self._pages.append(page)
            return
        program = _PROGRAM.fullmatch(text)
        if program is None or program[1] in _PORTS:
            raise ValueError(
                f"{text!r}: write https://example.org, https://*.example.org, "
                "http://localhost:3000, file://, same-origin, null or any"
            )
        self._programs.add(text)

    def allow(self, origin: str | None, hosts: Iterable[str], cross_site: bool = False) -> bool:
        """Whether a page of this origin may connect to one of these hosts: the Host header, and the
        host that a trusted proxy reports. `cross_site`: the browser sent `Sec-Fetch-Site:
        cross-site`, which matters without an Origin."""
        if self._any:
            return True
        if origin is None:
            return not cross_site
        if origin == NULL:
            return self._null
        if origin.lower() in self._programs:
            return True
        page = _parse_page(origin.lower())
        if page is None or page[1].startswith("*"):
            return False
        if self._same and any(_is_same(page, host) for host in hosts):
            return True
        scheme, host, port = page
        return any(
            scheme == allowed and port == number and _matches(name, host)
            for allowed, name, number in self._pages
        )


class Hosts:
    """The setting `hosts`. Raises ValueError with a line that says what to write instead."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._any = False
        self._names: list[tuple[str, int | None]] = []
        for text in texts:
            if text == ANY:
                self._any = True
                continue
            name = _parse_host(text.lower())
            if name is None:
                raise ValueError(
                    f"{text!r}: write example.org, *.example.org, 127.0.0.1:8000, [::1] or any"
                )
            self._names.append(name)

    def allow(self, host: str) -> bool:
        """Whether that Host is allowed. A pattern without a port allows all ports."""
        if self._any:
            return True
        asked = _parse_host(host.lower())
        if asked is None or asked[0].startswith("*"):
            return False
        return any(
            (port is None or port == asked[1]) and _matches(name, asked[0])
            for name, port in self._names
        )


def _matches(pattern: str, name: str) -> bool:
    """Whether a name matches: `*.example.org` is every name below example.org, and not example.org
    itself."""
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) >= len(pattern)
    return pattern == name


def _is_same(page: tuple[str, str, int], host: str) -> bool:
    """Whether a page comes from the host that it connects to. Schemes are not compared: behind a
    proxy that terminates TLS the original one is unknown.

    A page of this machine may connect to any port of it: that is how pages are developed, and
    cookies do not depend on the port anyway (RFC 6265, section 8.5).
    """
    asked = _parse_host(host.lower())
    if asked is None:
        return False
    scheme, name, port = page
    if _is_loopback(name) and _is_loopback(asked[0]):
        return True
    return name == asked[0] and port == (asked[1] or _PORTS.get(scheme, 0))


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = parse_address(name.strip("[]"))
    return address is not None and address.is_loopback


def _parse_page(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of an origin."""
    found = _PAGE.fullmatch(text)
    host = found and _parse_host(found[2])
    if not found or not host:
        return None
    return found[1], host[0], host[1] if host[1] is not None else _PORTS.get(found[1], 0)


def _parse_host(text: str) -> tuple[str, int | None] | None:
    """Name and port of a Host header; an IPv6 address keeps its brackets."""
    name, port = split_host_port(text) or ("", None)
    if text.startswith("["):
        address = parse_address(name)
        if address is None:
            return None
        return f"[{address}]" if address.version == 6 else str(address), port
    return (name.removesuffix("."), port) if _NAME.fullmatch(name) else None
