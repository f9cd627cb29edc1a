"""Shows lines above the line that is being typed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import Final

from wsraw.tools.display_width import cells

SAVE: Final = "\x1b7"
RESTORE: Final = "\x1b8"


def rows(text: str, width: int) -> Iterator[str]:
    """Cut a line into rows of a terminal; an empty line is one row."""
    row: list[str] = []
    used = 0
    for char in text.expandtabs():
        size = cells(char)
        if used + size > width:
            yield "".join(row)
            row, used = [], 0
        row.append(char)
        used += size
    yield "".join(row)


def above(text: str, width: int, height: int) -> str:
    """The characters that make a terminal show a text above the row of the cursor.

    The cursor stays in its column, and what is typed there is not touched. Where the screen is
    full, it scrolls.
    """
    parts = []
    for line in text.split("\n"):
        pending: list[str] = []
        for row in rows(line, width):
            pending.append(row)
            if len(pending) == max(height - 1, 1):
                parts.append(_insert(pending))
                pending = []
        if pending:
            parts.append(_insert(pending))
    return "".join(parts)


def _insert(lines: list[str]) -> str:
    """Insert the rows of one line: written as one, so that it is copied as one."""
    n = len(lines)
    # Make room below (which may scroll), go up, push the typed row down, and write where it was.
    room = "\n" * n + f"\x1b[{n}A\x1b[{n}L\r"
    return f"{SAVE}{room}{''.join(lines)}{RESTORE}\x1b[{n}B"


class Screen:
    """A terminal on which a line is typed while others come."""

    def __init__(self) -> None:
        self._is_plain = os.environ.get("TERM") == "dumb"
        if sys.platform == "win32":
            # Makes the console obey escape sequences.
            os.system("")

    def show(self, text: str) -> None:
        """Show lines; they must have no control characters but line breaks and tabs."""
        if self._is_plain:
            self._write(f"{text}\n")
        else:
            width, height = shutil.get_terminal_size()
            self._write(above(text, width, height))

    def end(self, text: str) -> None:
        """Show the last lines, in place of the line that is being typed."""
        self._write(f"\n{text}\n" if self._is_plain else f"\r\x1b[K{text}\n")

    def _write(self, text: str) -> None:
        # In one piece, because the editor of the line writes, too.
        sys.stdout.write(text)
        sys.stdout.flush()
