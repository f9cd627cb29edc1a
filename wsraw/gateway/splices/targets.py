"""I/O. The target to which a bridge connects a client: the only one, or one of a token file.

The file is read again when it has changed, so that targets come and go without a reload. Its format
is that of websockify's plugin TokenFile: ``token: host:port`` on each line, and # begins a comment.
A target may also be written as for `open`, with its scheme.

Reading a large file takes longer than a turn may, so it is read in slices, one in each turn.
Clients that come meanwhile wait: the old file may name a target that the new one does not.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import parse_qs

from wsraw.config.settings import BridgeSettings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.splices.passing import request_of
from wsraw.link.open_options import Opening, check, open_of, read_tokens
from wsraw.runtime.printable import os_error

LOOK_AGAIN: Final = 1.0
"""Seconds after which the file is checked for changes again."""

LARGEST: Final = 4 * 1024 * 1024
"""Bytes of a token file."""

SLICE: Final = 16 * 1024
"""Bytes of the file that are read in a turn: 1 to 2 ms."""

FREED: Final = 1000
"""Tokens of the old file that are freed in a turn."""


class NoTargetError(LookupError):
    """No target exists for this client; `status` is the HTTP status for it."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Targets:
    """The targets of one bridge."""

    def __init__(self, bridge: BridgeSettings) -> None:
        self.bridge = bridge
        self._tokens: dict[str, str] = {}
        self._known: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._trouble = ""
        self._reading: Iterator[None] | None = None

    def find(self, con: Connection) -> Opening:
        """The target for a client; to be called after `look`. Raises NoTargetError."""
        bridge, token = self.bridge, ""
        target = bridge.to
        if not target:
            token = token_of(con)
            target = self._by_token(token)
        offered = con.websocket.offered if con.websocket is not None else None
        try:
            asked = request_of(bridge, con, open_of(bridge, target, offered))
            return check(asked)._replace(preface=b"")
        except ValueError as error:
            raise NoTargetError(502, f"the target cannot be opened: {error}") from error

    def _by_token(self, token: str) -> str:
        target = self._tokens.get(token)
        if target is not None:
            return target
        if self._trouble:
            raise NoTargetError(502, self._trouble)
        raise NoTargetError(404, "no such token" if token else "no token in the request")

    # --- the file ---

    def look(self, now: float) -> bool:
        """Check the file for changes from time to time. Returns whether it is being read: then call
        `go_on` once a turn, and `find` once that is over."""
        if self._reading is None and self.bridge.tokens and now >= self._look_at:
            self._look_at = now + LOOK_AGAIN
            self._reading = self._read_if_changed()
            # A small file is read at once.
            self.go_on()
        return self._reading is not None

    def go_on(self) -> bool:
        """Read one more slice. Returns whether there is more to read."""
        reading = self._reading
        if reading is not None:
            for _ in reading:
                return True
            self._reading = None
        return False

    def _read_if_changed(self) -> Iterator[None]:
        path = self.bridge.tokens
        try:
            found = os.stat(path)
            known = found.st_mtime_ns, found.st_size, found.st_ino
            if known == self._known:
                return
            if not stat.S_ISREG(found.st_mode):
                # Opening a pipe, and reading it, would wait for its writer.
                raise ValueError("it is not a regular file")
            tokens: dict[str, str] = {}
            with open(path, "rb") as file:
                yield from _read_slices(file, tokens)
        except OSError as error:
            # The old targets stay: a file that is being replaced may be missing for a moment.
            self._trouble = f"the file of tokens cannot be read: {os_error(error)}"
            return
        except ValueError as error:
            self._known = known
            self._trouble = f"the file of tokens cannot be used: {error}"
            return
        self._known, self._trouble = known, ""
        self._tokens, old = tokens, self._tokens
        while len(old) > FREED:
            for _ in range(FREED):
                old.popitem()
            yield


def _read_slices(file: Any, tokens: dict[str, str]) -> Iterator[None]:
    """Add the tokens of a file, and pause after each slice except the last. Raises ValueError."""
    size, line, encoding = 0, 1, "utf-8-sig"
    while data := file.read(SLICE):
        data += file.readline(LARGEST)
        size += len(data)
        if size > LARGEST:
            raise ValueError(f"more than {LARGEST} bytes")
        tokens.update(read_tokens(data.decode(encoding), line))
        line += data.count(b"\n")
        encoding = "utf-8"
        if len(data) >= SLICE:
            yield


def token_of(con: Connection) -> str:
    """The token of a client: the parameter of its path, or else of its query."""
    params: dict[str, Any] = con.about.get("params", {})
    if "token" in params:
        return str(params["token"])
    query = con.inf.get("url", "").partition("?")[2]
    return parse_qs(query).get("token", [""])[0]
