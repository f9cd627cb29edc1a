"""I/O. Where settings come from: the command line, over the environment, over a file in TOML, over
defaults. What is wrong is refused in one line that says where it stands.

A variable of the environment is WSRAW_ and the name of a setting in capitals. Other variables that
begin so are none of ours (Kubernetes makes a WSRAW_PORT for a service named wsraw), unless they
nearly have such a name: then somebody has mistyped it.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_plus

from wsraw.config import options as options_module
from wsraw.config import programs
from wsraw.config.addresses import SCHEMES, split_certificate
from wsraw.config.checks import from_options
from wsraw.config.options import Option
from wsraw.config.pools import TableError
from wsraw.config.settings import Settings, replaced

PREFIX: Final = "WSRAW_"

NEARLY: Final = 0.9
"""How alike two names are of which one is the other, mistyped."""

LARGEST: Final = 1 << 20
"""Bytes of a file; one that is larger is no configuration."""

_WORDS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class ConfigurationError(ValueError):
    """Nothing to run with: one line for the user."""


class Configuration(NamedTuple):
    """Settings, and where each that is not at its default was said."""

    settings: Settings
    sources: dict[str, str]


def gather(given: Mapping[str, Any], environ: Mapping[str, str], path: str = "") -> Configuration:
    """Settings in force. `given` is what the command line says, `path` the file, if there is one.

    Raises ConfigurationError.
    """
    file = _File(path) if path else None
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    if file is not None:
        for name, value in file.values.items():
            values[name] = file.read(name, value)
            sources[name] = file.place(name)
    for name, variable in _variables(environ).items():
        values[name] = _from_text(name, variable, environ[variable])
        sources[name] = variable
    for name, value in given.items():
        sources[name] = _flag(name)
        values[name] = _blame(sources[name], name, value)
    try:
        return Configuration(from_options(values), sources)
    except TableError as error:
        name = error.place[0]
        where = sources[name]
        if file is not None and where == file.place(name):
            where = file.place(*error.place)
        raise ConfigurationError(at(where, name, str(error))) from error
    except ValueError as error:
        raise ConfigurationError(_located(str(error), sources)) from error


def show(configuration: Configuration, folder: str) -> str:
    """All settings as TOML, each with where it was said; relative paths are made those of
    `folder`, so that the text can be put into a file anywhere."""
    lines = []
    for option in options_module.options():
        value = _anchored(option, getattr(configuration.settings, option.name), Path(folder))
        text = f"{option.name} = {options_module.toml(option, value)}"
        lines.append(f"{text}  # {configuration.sources.get(option.name, 'default')}")
    return "\n".join(lines)


# --- the file ---


class _File:
    def __init__(self, path: str) -> None:
        self.path = path
        try:
            with open(path, "rb") as stream:
                data = stream.read(LARGEST + 1)
        except FileNotFoundError as error:
            raise ConfigurationError(f"{path}: there is no such configuration file") from error
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror or error}") from error
        if len(data) > LARGEST:
            raise ConfigurationError(f"{path}: more than {LARGEST} bytes; it is no configuration")
        try:
            # A BOM is what some editors on Windows leave; TOML knows no such thing.
            self.text = data.decode("utf-8-sig").replace("\r\n", "\n")
        except UnicodeDecodeError as error:
            line = data[: error.start].count(b"\n") + 1
            raise ConfigurationError(f"{path}:{line}: this is not UTF-8") from error
        try:
            self.values = tomllib.loads(self.text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            what, _, place = str(error).partition(" (at ")
            found = re.match(r"line ([0-9]+)", place)
            line = int(found[1]) if found else self.text.count("\n") + 1
            raise ConfigurationError(f"{path}:{line}: this is no TOML: {what}") from error

        self._lines = _lines_of_keys(self.text)

    def read(self, name: str, value: Any) -> Any:
        """One value, checked; a relative path in it is relative to the file."""
        if _is_table(value) or (isinstance(value, list) and value and _is_table(value[0])):
            known = options_module.names()
            why = "there is no such table" + options_module.did_you_mean(name)
            if name in known:
                why = f"this is no table; write {name} = …"
            if name not in options_module.TABLES:
                raise ConfigurationError(f"{self.place(name)}: {name}: {why}")
        try:
            value = options_module.read(name, value)
        except TableError as error:
            place = self.place(*error.place)
            raise ConfigurationError(at(place, name, str(error))) from error
        except ValueError as error:
            raise ConfigurationError(at(self.place(name), name, str(error))) from error
        return _anchored(options_module.option(name), value, Path(self.path).absolute().parent)

    def place(self, name: str, index: int | None = None, key: str = "") -> str:
        """File and line of a setting; of a table of it, or of a key there, as near as is known."""
        places = (name, index, key), (name, index, ""), (name, None, "")
        line = next((self._lines[place] for place in places if place in self._lines), 1)
        return f"{self.path}:{line}"


_Place = tuple[str, int | None, str]
"""A setting; of one that is tables the how manieth (from 0), and a key in that."""


def _lines_of_keys(text: str) -> dict[_Place, int]:
    """Where each key at the top, or table, begins; and each key in tables of which there are many.

    tomllib does not tell. But every statement of TOML is TOML by itself.
    """
    places: dict[_Place, int] = {}
    table: str | None = None
    counts: Counter[str] = Counter()
    for line, statement in _statements(text):
        is_header = statement.startswith("[")
        for name in tomllib.loads(statement):
            if is_header:
                table = name
                counts[name] += 1
                places.setdefault((name, counts[name] - 1, ""), line)
            if is_header or table is None:
                places.setdefault((name, None, ""), line)
            else:
                places.setdefault((table, counts[table] - 1, name), line)
    return places


_TOKEN: Final = re.compile(
    r""""{3}(?:\\.|[^\\])*?"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|#[^\n]*|[][{}\n]""",
    re.DOTALL,
)
"""What says in TOML where a statement ends: texts, comments, brackets, and ends of lines."""


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each statement of what is known to be TOML, and the line it begins on."""
    start, line, depth = 0, 1, 0
    for token in _TOKEN.finditer(f"{text}\n"):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if token[0] != "\n" or depth:
            continue
        end = token.end()
        statement = text[start:end]
        body = statement.lstrip()
        if body and body[0] != "#":
            yield line + statement[: len(statement) - len(body)].count("\n"), body
        line += statement.count("\n")
        start = end


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _anchored(option: Option, value: Any, folder: PurePath) -> Any:
    """The same with its relative paths made those of `folder`."""
    if option.name == "listen":
        return tuple(_anchored_address(text, folder) for text in value)
    if option.name == "pools":
        workers = options_module.option("workers")
        return tuple(
            replaced(pool, workers=_anchored(workers, pool.workers, folder)) for pool in value
        )
    if option.name == "routes":
        return tuple(
            replaced(route, listener=_anchored_address(route.listener, folder)) for route in value
        )
    if not option.is_path:
        return value
    if option.name == "tls_cert":
        return tuple(_anchored_certificate(text, folder) for text in value)
    if option.name == "workers":
        return tuple(_anchored_program(text, folder) for text in value)
    if isinstance(value, tuple):
        return tuple(str(folder / text) for text in value)
    return str(folder / value) if value else value


def _anchored_program(text: str, folder: PurePath) -> str:
    """A command is left as it is: nobody knows which of its words are paths."""

    def is_file(name: str) -> bool:
        return Path(folder, name).is_file()

    try:
        program = programs.parse(text, is_file).program
    except ValueError:
        return text
    if program.file is None:
        return text
    # What was quoted need not be any more: it is looked for as a whole.
    return str(folder / (program.file + text.removeprefix(program.name)))


def _anchored_certificate(text: str, folder: PurePath) -> str:
    names, path = split_certificate(text)
    return f"{names}={folder / path}" if names else str(folder / path)


def _anchored_address(text: str, folder: PurePath) -> str:
    before, unix, path = text.partition("unix:")
    if path and before in ("", *(f"{scheme}://" for scheme in SCHEMES)):
        text = f"{before}{unix}{folder / path}"
    return _OF_LISTENER.sub(lambda match: _anchored_option(match, folder), text)


def _anchored_option(match: re.Match[str], folder: PurePath) -> str:
    name, value = match[1], unquote_plus(match[2])
    path = _anchored_certificate(value, folder) if "tls_cert=" in name else str(folder / value)
    return name + quote(path, safe="/=,*")


_OF_LISTENER: Final = re.compile(r"([?&](?:tls_cert|tls_key|tls_client_ca)=)([^&]+)")
"""The options of a listener that are files."""


# --- the environment ---


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Names of settings and of the variables that say them; an empty one says nothing."""
    known = options_module.names()
    found = {}
    for variable in environ:
        # Windows has them in capitals only; elsewhere case counts.
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not environ[variable]:
            continue
        if name in known:
            found[name] = variable
            continue
        near = options_module.nearest(name, NEARLY)
        if near is not None:
            raise ConfigurationError(
                f"{variable}: there is no such setting; did you mean {PREFIX}{near.upper()}?"
            )
    return found


def _from_text(name: str, variable: str, text: str) -> Any:
    option = options_module.option(name)
    value: Any = text
    if option.kind in ("texts", "tables"):
        value = tuple(text.split())
    elif option.kind == "switch":
        value = _WORDS.get(text.lower(), text)
    elif option.kind in ("count", "number"):
        try:
            value = int(text) if option.kind == "count" else float(text)
        except ValueError as error:
            raise ConfigurationError(f"{variable}: {text!r} is no number") from error
    return _blame(variable, name, value)


# --- who is to blame ---


def _blame(where: str, name: str, value: Any) -> Any:
    """One value, checked; what is wrong with it is said of the place that it came from."""
    try:
        return options_module.read(name, value)
    except ValueError as error:
        raise ConfigurationError(at(where, name, str(error))) from error


def at(where: str, name: str, message: str) -> str:
    """A file has a line, on which the name stands; elsewhere the place itself is a name."""
    if ":" in where:
        return f"{where}: {message}"
    return where + message.removeprefix(name)


def _located(message: str, sources: Mapping[str, str]) -> str:
    """A message about settings that do not fit each other, with where the first of them that was
    set at all was said."""
    for word in re.findall(r"[a-z_]+", message):
        where = sources.get(word)
        if where is not None:
            if message.startswith(word):
                return at(where, word, message)
            return f"{where}: {message}"
    return message


def _flag(name: str) -> str:
    return f"--{options_module.option(name).flag}"
