"""Inputs that once broke a target, one in each file; they are tried again in every run.

The first line names the origin. Each other line is a Python bytes literal, possibly with a factor:
``4400 * b'9'``.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "crashes"
WIDTH = 60


def save(target: str, data: bytes, origin: str, folder: Path = FOLDER) -> Path:
    file = folder / f"{target}-{hashlib.sha256(data).hexdigest()[:8]}.case"
    lines = [repr(data[i : i + WIDTH]) for i in range(0, len(data), WIDTH)] or ["b''"]
    file.write_text("\n".join([f"# origin: {origin}", *lines, ""]), encoding="ascii")
    return file


def read(file: Path) -> bytes:
    first, *lines = file.read_text("ascii").splitlines()
    assert first.startswith("# origin: "), f"{file}: the first line says where it comes from"
    return b"".join(_line(line) for line in lines)


def _line(line: str) -> bytes:
    times, star, literal = line.rpartition(" * ") if line[:1].isdigit() else ("", "", line)
    data = ast.literal_eval(literal)
    assert isinstance(data, bytes)
    return data * int(times) if star else data


def known() -> Iterator[tuple[str, Path]]:
    """The target and the file of each input."""
    for file in sorted(FOLDER.glob("*.case")):
        yield file.name.partition("-")[0], file
