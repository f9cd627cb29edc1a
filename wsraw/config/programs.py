"""Sans-I/O. What workers run: a handlers file of Python, or a command of any language.

An entry of the setting `workers` ends with how many processes run it, `:N`. One word that ends in
`.py` is a handlers file. So is more than one where a file has just that name: whoever reads entries
may look. All else is a command, and run as it is. The word `none` alone means that the run starts
no workers: they come from elsewhere.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple

NONE: Final = "none"
"""Instead of entries: no workers of the run's own."""

MOST: Final = 1000
"""Processes of one entry."""


class Program(NamedTuple):
    """What a worker process is started as."""

    name: str
    """As the command line says it, without the number."""
    file: str | None = None
    """A handlers file."""
    words: tuple[str, ...] = ()
    """A command; without it and a file, the handlers that print."""
    label: str = ""
    """Of its pool's programs, what people call it: mostly less than the name."""

    @property
    def is_foreign(self) -> bool:
        """Whether it is a command rather than a worker of ours."""
        return bool(self.words)


PRINTS: Final = Program("", label="no handlers: events are printed")


class Entry(NamedTuple):
    """A program, and how many processes of it there are to be."""

    program: Program
    number: int


def _never(path: str) -> bool:
    return False


def parse(text: str, is_file: Callable[[str], bool] = _never) -> Entry:
    """Read one entry. Raises ValueError with a line that says what to write.

    `is_file` says whether there is a file of that name.
    """
    name, colon, count = text.rpartition(":")
    # A colon may belong to the path (C:\handlers.py); what follows the last one must be a number.
    if not colon or not (count.isascii() and count.isdigit()):
        name, count = text, "1"
    if "\0" in text:
        raise ValueError(f"workers: {text!r}: a null character is in no name")
    if not name.strip():
        raise ValueError(f"workers: {text!r}: write FILE or FILE:N, as in handlers.py:4")
    if not (len(count) < 5 and 1 <= int(count) <= MOST):
        raise ValueError(f"workers: {text!r}: the number of processes must be from 1 to {MOST}")
    if is_handlers_file(name, is_file):
        return Entry(Program(name, file=name, label=PurePath(name).name), int(count))
    file, number = _python_file(text)
    if file and not is_file(text):
        raise ValueError(
            f"workers: {text!r}: behind {file}: stands how many processes run it, as in {file}:4, "
            f"not {number!r}"
        )
    try:
        words = split(name)
    except ValueError as error:
        raise ValueError(f"workers: {text!r}: {str(error).lower()}") from error
    if len(words) == 1 and words[0].endswith(".py"):
        return Entry(Program(name, file=words[0], label=PurePath(words[0]).name), int(count))
    if not words or not words[0]:
        raise ValueError(f"workers: {text!r}: write FILE or COMMAND, and :N behind it")
    return Entry(Program(name, words=words, label=name), int(count))


def _python_file(text: str) -> tuple[str, str]:
    """The file of an entry that names one, and what stands behind its colon: other servers take
    the name of an application there. Empty for all other entries."""
    file, colon, rest = text.partition(".py:")
    return (f"{file}.py", rest) if colon and len(text.split()) == 1 else ("", "")


def parse_all(texts: Iterable[str], is_file: Callable[[str], bool] = _never) -> tuple[Entry, ...]:
    """All entries; without any, one worker that prints, and for `none` none. Raises ValueError, as
    above."""
    texts = tuple(texts)
    if texts == (NONE,):
        return ()
    if NONE in texts:
        raise ValueError(f"workers: {NONE!r} means that there are none: leave it or the rest out")
    entries = [parse(text, is_file) for text in texts] or [Entry(PRINTS, 1)]
    labels = [entry.program.label for entry in entries]
    found = []
    for program, count in entries:
        if [entry.program.name for entry in entries].count(program.name) > 1:
            raise ValueError(
                f"workers: {program.name!r} is there twice; say once how many there are to be: "
                f"{program.name}:N"
            )
        if labels.count(program.label) > 1:
            program = program._replace(label=program.name)
        found.append(Entry(program, count))
    if sum(entry.number for entry in found) > MOST:
        raise ValueError(f"workers: more than {MOST} processes in all")
    return tuple(found)


def is_handlers_file(name: str, is_file: Callable[[str], bool]) -> bool:
    """Whether the whole name, with all its white space, is that of a Python file."""
    return name.endswith(".py") and (len(name.split()) == 1 or is_file(name))


def split(command: str) -> tuple[str, ...]:
    """The words of a command, quoted as people do where this runs. Raises ValueError."""
    if sys.platform != "win32":
        return tuple(shlex.split(command))
    # A backslash is a path's, and only double quotes quote.
    if command.count('"') % 2:
        raise ValueError("No closing quotation")
    return tuple(word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|[^\s"])+', command))


def find(programs: Sequence[Program], name: str) -> Program | None:
    """The one that is meant: by its whole name, or by a word of it that no other has, such as
    `echo.mjs` of `node src/echo.mjs`. None if there is none, or more than one."""
    for program in programs:
        if name in (program.name, program.label):
            return program
    meant = [program for program in programs if name in _names(program)]
    return meant[0] if len(meant) == 1 else None


def _names(program: Program) -> set[str]:
    words = program.words or (program.name,)
    return {*words, *(PurePath(word).name for word in words)}
