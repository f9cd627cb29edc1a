"""I/O. The file in which the handlers of a drill's own run write down each on_close (echo.py).

A witness is a client, and dies with the gateway just when there is most to tell. What a handler
does outside wsraw can happen twice, though: it writes, and its worker is killed before that counts.
Then the event comes again with a higher `delivery`, and that is the one that counts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wsraw.tools.drill.target.ends import Told

VARIABLE: Final = "DRILL_LEDGER"
"""The environment variable that names the file."""


class Ledger:
    """Reads what has been added. Each line: peer, code, cause, state, connection id, delivery."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._seen: set[str] = set()

    def read(self) -> list[Told]:
        """Those that have come since the last time."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        # A line that is just being written is for the next time.
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        told = []
        for line in data.decode("utf-8", "backslashreplace").splitlines():
            name, code, cause, kept, con, delivery = (line.split() + ["?"] * 6)[:6]
            if con in self._seen and delivery != "1":
                continue
            self._seen.add(con)
            told.append(Told(name, code, cause, kept))
        return told
