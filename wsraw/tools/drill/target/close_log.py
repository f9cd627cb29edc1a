"""I/O. The file in which the handlers of the drill's own run write each on_close (echo.py).

A handler can write a line twice: if its worker is killed before the event counts as handled, the
event comes again with a higher `delivery`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from wsraw.tools.drill.target.close_records import CloseReport

VARIABLE: Final = "DRILL_CLOSE_LOG"
"""The environment variable that names the file."""


class CloseLog:
    """Reads what was added. Each line: peer, code, cause, state, connection id, delivery."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._seen: set[str] = set()

    def exists(self) -> bool:
        """Whether the handlers write it: they create it when they are loaded."""
        return self._path.exists()

    def read(self) -> list[CloseReport]:
        """The reports since the last call."""
        try:
            with open(self._path, "rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return []
        # The next call takes a line that is just being written.
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        reports = []
        for line in data.decode("utf-8", "backslashreplace").splitlines():
            name, code, cause, state, con, delivery = (line.split() + ["?"] * 6)[:6]
            if con in self._seen and delivery != "1":
                continue
            self._seen.add(con)
            reports.append(CloseReport(name, code, cause, state))
        return reports
