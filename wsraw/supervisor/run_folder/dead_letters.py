"""I/O. Dead letters: events that killed workers, read from the file that the gateway has
written."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any, Final

from wsraw.link.records import decode_value
from wsraw.runtime.printable import printable
from wsraw.supervisor.run_folder import folder as folders

SHOWN: Final = 60
"""Bytes of the data that the list shows."""


class NoDeadLettersError(Exception):
    """There is no file of dead letters; the text says where it was expected."""


def find(run_dir: str) -> Path:
    """The file of dead letters in the given run folder, or in the only one that has any. Raises
    NoDeadLettersError."""
    if run_dir:
        return Path(run_dir).absolute() / folders.DEAD_LETTERS
    files = [path / folders.DEAD_LETTERS for path in folders.fresh_folders()]
    files = [file for file in files if file.exists()]
    if len(files) > 1:
        names = ", ".join(str(file.parent) for file in files)
        raise NoDeadLettersError(f"several runs have dead letters; choose with --run-dir: {names}")
    return files[0] if files else folders.base() / folders.DEAD_LETTERS


def read(file: Path) -> list[dict[str, Any]]:
    """All dead letters, in order; none if there is no file. Damaged lines are skipped. Raises
    OSError."""
    letters = []
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    letter = json.loads(line)
                except ValueError:
                    continue
                if isinstance(letter, dict):
                    letters.append(letter)
    except FileNotFoundError:
        pass
    return letters


def line(number: int, letter: dict[str, Any]) -> str:
    data = data_of(letter)
    shown = repr(data[:SHOWN]) + ("…" if len(data) > SHOWN else "")
    return (
        f"{number}  {_when(letter)}  {letter.get('event', '?')}  connection "
        f"{letter.get('con', '?')} ({letter.get('kind', '?')})  {len(data)} bytes  {shown}"
    )


def whole(letter: dict[str, Any]) -> str:
    lines = [f"time: {_when(letter)}"]
    for key, value in letter.items():
        if key == "data":
            lines.append(f"data: {data_of(letter)!r}")
        elif key == "state":
            lines.append(f"state: {_state_of(letter)}")
        elif isinstance(value, dict):
            lines += [f"{key}.{name}: {each}" for name, each in value.items()]
        elif key != "time":
            lines.append(f"{key}: {value}")
    # Most of this was written by a peer; it must not add lines or control the terminal.
    return "\n".join(map(printable, lines))


def data_of(letter: dict[str, Any]) -> bytes:
    """The bytes of the message; none for other events."""
    return _decoded(letter.get("data"))


def _state_of(letter: dict[str, Any]) -> str:
    """`con.state`, decoded; its bytes if they are not MessagePack."""
    data = _decoded(letter["state"])
    try:
        return repr(decode_value(data)) if data else "None"
    except ValueError:
        return repr(data)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text or "")
    except (ValueError, TypeError):
        return b""


def _when(letter: dict[str, Any]) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["time"]))
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "?"
