"""Sans-I/O. Why a process has ended, from the last lines that it has written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wsraw.runtime.log.line import LogLine, cut

FRAME: Final = '  File "'
"""The beginning of a frame in a traceback of Python."""

WORKER: Final = "wsraw.worker"
"""The logger of workers."""

MOST: Final = 200
"""Bytes of an exception in a list of workers."""


def error_in(lines: Sequence[LogLine]) -> str:
    """The last line of the last traceback, or what a worker has said instead, bounded; "" if there
    is neither. The traceback of a record is one of its fields; what Python prints itself comes line
    by line."""
    for at in range(len(lines) - 1, -1, -1):
        found = ""
        if lines[at].exception:
            found = _last(lines[at].exception.split("\n"))
        elif lines[at].message.startswith(FRAME):
            found = _last([line.message for line in lines[at + 1 :]])
        if found:
            return cut(found, MOST)
    said = [line.message for line in lines if line.logger == WORKER and line.level == "error"]
    return cut(said[-1].split("\n")[0], MOST) if said else ""


def _last(texts: Sequence[str]) -> str:
    """The exception is the first line that is not indented after the last frame."""
    frames = [n for n, text in enumerate(texts) if text.startswith(FRAME)]
    rest = texts[frames[-1] + 1 if frames else 0 :]
    return next((text for text in rest if text and not text[0].isspace()), "")
