"""I/O. Where a bridge connects a client to: one target, or one of a file of tokens.

The file is read again when it has changed, so that targets come and go without a reload. It is that
of websockify's plugin TokenFile: ``token: host:port`` on each line, and # begins a comment. A
target may also be written as for `open`, with its scheme.
"""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import parse_qs

from wsraw.config.settings import BridgeSettings
from wsraw.gateway.connection.connection import Connection
from wsraw.link.open_options import Opening, check, open_of, read_tokens
from wsraw.runtime.printable import os_error

LOOK_AGAIN: Final = 1.0
"""Seconds after which the file is looked at again."""

LARGEST: Final = 4 * 1024 * 1024
"""Bytes of a file of tokens: it is read within a turn."""


class NoTargetError(LookupError):
    """There is none for this client; with the HTTP status for it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Targets:
    """The targets of one bridge."""

    def __init__(self, bridge: BridgeSettings) -> None:
        self._bridge = bridge
        self._tokens: dict[str, str] = {}
        self._known: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._trouble = ""

    def find(self, con: Connection, offered: list[str], now: float) -> Opening:
        """What to open for a client, to which these subprotocols are passed on. Raises
        NoTargetError."""
        target = self._bridge.to
        if not target:
            target = self._by_token(token_of(con), now)
        asked = open_of(self._bridge, target, offered)
        try:
            return check(asked)._replace(tells_open=True)
        except ValueError as error:
            raise NoTargetError(502, f"the target cannot be opened: {error}") from error

    def _by_token(self, token: str, now: float) -> str:
        if now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._read_if_changed()
        target = self._tokens.get(token)
        if target is not None:
            return target
        if self._trouble:
            raise NoTargetError(502, self._trouble)
        raise NoTargetError(404, "no such token" if token else "no token in the request")

    def _read_if_changed(self) -> None:
        path = self._bridge.tokens
        try:
            found = os.stat(path)
            known = found.st_mtime_ns, found.st_size, found.st_ino
            if known == self._known:
                return
            with open(path, "rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            # What was read before stays: a file that is replaced may be missing for a moment.
            self._trouble = f"the file of tokens cannot be read: {os_error(error)}"
            return
        self._known, self._trouble = known, ""
        try:
            if len(data) > LARGEST:
                raise ValueError(f"more than {LARGEST} bytes")
            self._tokens = read_tokens(data.decode("utf-8-sig"))
        except ValueError as error:
            self._trouble = f"the file of tokens cannot be used: {error}"


def token_of(con: Connection) -> str:
    """The token of a client: the parameter of its path, else that of its query."""
    params: dict[str, Any] = con.about.get("params", {})
    if "token" in params:
        return str(params["token"])
    query = con.inf.get("url", "").partition("?")[2]
    return parse_qs(query).get("token", [""])[0]
