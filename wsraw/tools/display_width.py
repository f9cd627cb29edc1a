"""Sans-I/O. How wide a text is on a terminal."""

from __future__ import annotations

import unicodedata


def cells(char: str) -> int:
    """How many cells of a terminal a character takes."""
    if char.isascii():
        return 1
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
