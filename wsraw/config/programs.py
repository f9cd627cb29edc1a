"""Sans-I/O. What workers run: a handlers file in Python, or a command in any language.

An entry of the setting `workers` ends with the number of processes, `:N`. One word that ends in
`.py` is a handlers file, and so are several words if a file has exactly that name. A module such as
`chat.handlers` is the file `chat/handlers.py`, if there is one. Everything else is a command. The
word `none` alone means that the run starts no workers.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Final, NamedTuple

from wsraw.link.rules import hide_logins

NONE: Final = "none"
"""In place of all entries: start no workers."""

INIT: Final = "__init__.py"
"""The file that makes a folder a package."""

KEPT: Final = "kept:"
"""Prefix of the folder of a version from which a worker loads its handlers. Without the prefix, the
worker saves there the files that it loads."""

LOADED: Final = "loaded"
"""A file in the folder of a version. It says that a worker has loaded the version, so that all
files it needs are there."""

MOST: Final = 1000
"""Processes of a run."""


class Program(NamedTuple):
    """What a worker process runs."""

    name: str
    """The text of the entry, without the number."""
    file: str | None = None
    """A handlers file."""
    words: tuple[str, ...] = ()
    """A command. Without a file and a command: handlers that print."""
    label: str = ""
    """A short name, unique in its pool."""
    module: str = ""
    """Handlers of wsraw's own."""

    @property
    def is_foreign(self) -> bool:
        """Whether a worker runs a command in another language."""
        return bool(self.words)


STATIC: Final = Program("static", label="files", module="wsraw.workers.static.files")
"""Serves the folder of the setting `static`."""

PRINTS: Final = Program("", label="no handlers: events are printed")


class WorkerSpec(NamedTuple):
    """An entry of the setting `workers`: a program, and its number of processes."""

    program: Program
    number: int


def _never(path: str) -> bool:
    return False


def parse(text: str, is_file: Callable[[str], bool] = _never) -> WorkerSpec:
    """Read one entry. `is_file` says whether a file has that name.

    Raises ValueError that begins with `workers: `.
    """
    name, colon, count = text.rpartition(":")
    # A colon may belong to the path (C:\handlers.py); what follows the last one must be a number.
    if not colon or not (count.isascii() and count.isdigit()):
        name, count = text, "1"
    if "\0" in text:
        raise ValueError(f"workers: {text!r}: it contains a null character")
    if not name.strip():
        raise ValueError(f"workers: {text!r}: write FILE or FILE:N, as in handlers.py:4")
    if not (len(count) < 5 and 1 <= int(count) <= MOST):
        raise ValueError(f"workers: {text!r}: the number of processes must be from 1 to {MOST}")
    if is_handlers_file(name, is_file):
        return WorkerSpec(Program(name, file=name, label=PurePath(name).name), int(count))
    file = _module_file(name, is_file)
    if file:
        return WorkerSpec(Program(name, file=file, label=name), int(count))
    file, number = _python_file(text)
    if file and not is_file(text):
        raise ValueError(
            f"workers: {text!r}: {number!r} is not a number of processes; write it as {file}:4"
        )
    try:
        words = split(name)
    except ValueError as error:
        raise ValueError(f"workers: {text!r}: {str(error).lower()}") from error
    if len(words) == 1 and words[0].endswith(".py"):
        return WorkerSpec(Program(name, file=words[0], label=PurePath(words[0]).name), int(count))
    if not words or not words[0]:
        raise ValueError(f"workers: {text!r}: write FILE or COMMAND, or with a number FILE:N")
    return WorkerSpec(Program(name, words=words, label=hide_logins(name)), int(count))


class Place(NamedTuple):
    """Where Python imports a file from."""

    folder: PurePath
    """The folder on sys.path: the one of the file, or the one that contains its package."""
    module: str
    """The name within a package, such as `chat.handlers`; empty if the file is in no package."""


def place(file: PurePath, is_file: Callable[[str], bool]) -> Place:
    """Where to import a file from. Folders with an `__init__.py` are packages."""
    folder, names = file.parent, [] if file.name == INIT else [file.stem]
    while is_file(str(folder / INIT)) and folder != folder.parent:
        names.insert(0, folder.name)
        folder = folder.parent
    if folder == file.parent or not all(name.isidentifier() for name in names):
        return Place(file.parent, "")
    return Place(folder, ".".join(names))


def is_module(name: str) -> bool:
    """Whether a text can be the name of a module in a package."""
    return "." in name and all(part.isidentifier() for part in name.split("."))


def _module_file(name: str, is_file: Callable[[str], bool]) -> str:
    """The file of a module in a package; empty if the name is not one. Raises ValueError for a
    folder that is not a package."""
    if not is_module(name):
        return ""
    path = PurePath(*name.split("."))
    files = [str(path.with_name(f"{path.name}.py")), str(path / INIT)]
    file = next(filter(is_file, files), "")
    for folder in [*path.parents][:-1] if file else ():
        if not is_file(str(folder / INIT)):
            raise ValueError(
                f"workers: {name!r}: the folder {folder} is not a package; "
                f"put an empty file {INIT} into it"
            )
    return file


def _python_file(text: str) -> tuple[str, str]:
    """The file of an entry such as `app.py:app`, as other servers take it, and the text after the
    colon. Empty for all other entries."""
    file, colon, rest = text.partition(".py:")
    return (f"{file}.py", rest) if colon and text.isprintable() and " " not in text else ("", "")


def parse_all(
    texts: Iterable[str], is_file: Callable[[str], bool] = _never
) -> tuple[WorkerSpec, ...]:
    """All entries; one worker that prints if there are none. Raises ValueError as `parse` does."""
    texts = tuple(texts)
    if texts == (NONE,):
        return ()
    if NONE in texts:
        raise ValueError(f"workers: {NONE!r} excludes all others: leave it out, or the others")
    entries = [parse(text, is_file) for text in texts] or [WorkerSpec(PRINTS, 1)]
    labels = [entry.program.label for entry in entries]
    found = []
    for program, count in entries:
        if [entry.program.name for entry in entries].count(program.name) > 1:
            raise ValueError(
                f"workers: {program.name!r} is given twice; give it once, with :N behind it"
            )
        if labels.count(program.label) > 1:
            program = program._replace(label=hide_logins(program.name))
        found.append(WorkerSpec(program, count))
    if sum(entry.number for entry in found) > MOST:
        raise ValueError(f"workers: more than {MOST} processes in total")
    return tuple(found)


def is_handlers_file(name: str, is_file: Callable[[str], bool]) -> bool:
    """Whether the whole text, with its white space, is the name of a Python file."""
    return name.endswith(".py") and (len(name.split()) == 1 or is_file(name))


def split(command: str) -> tuple[str, ...]:
    """The words of a command, with the quotes of this platform. Raises ValueError."""
    if sys.platform != "win32":
        return tuple(shlex.split(command))
    # There, backslashes separate paths, and only double quotes quote.
    if command.count('"') % 2:
        raise ValueError("No closing quotation")
    return tuple(word.replace('"', "") for word in re.findall(r'(?:"[^"]*"|[^\s"])+', command))


def find(programs: Sequence[Program], name: str) -> Program | None:
    """The program with that name, or with a word that no other program has, such as `echo.mjs` of
    `node src/echo.mjs`. None if there is none, or more than one."""
    for program in programs:
        if name in (program.name, program.label):
            return program
    meant = [program for program in programs if name in _names(program)]
    return meant[0] if len(meant) == 1 else None


def _names(program: Program) -> set[str]:
    words = program.words or (program.name,)
    return {*words, *(PurePath(word).name for word in words)}
