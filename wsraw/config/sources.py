"""I/O. Where settings come from: the command line overrides the environment, which overrides a
TOML file, which overrides defaults. An error is one line that names the source of the value.

The variable of a setting is WSRAW_ and its name in capitals. Other variables that begin with WSRAW_
are ignored (Kubernetes sets WSRAW_PORT for a service named wsraw), unless the name is nearly that
of a setting: then it was probably mistyped.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote_plus

from wsraw.config import checks, programs
from wsraw.config import options as options_module
from wsraw.config.addresses import SCHEMES, Listen, parse_listen, split_certificate, tls_pairs
from wsraw.config.options import Option
from wsraw.config.settings import Settings, replaced
from wsraw.link.rules import hide_logins

PREFIX: Final = "WSRAW_"

NEARLY: Final = 0.9
"""How similar a variable is to the name of a setting of which it is a typing error."""

LARGEST: Final = 1 << 20
"""Bytes of a settings file."""


class ConfigurationError(ValueError):
    """The settings cannot be used; the text is one line for the user. Values that it quotes are
    shown without passwords."""

    def __init__(self, text: str) -> None:
        super().__init__(hide_logins(text))


class Configuration(NamedTuple):
    """Settings, and the source of each that is not at its default."""

    settings: Settings
    sources: dict[str, str]
    file: SettingsFile | None = None


class SettingsFile:
    """The text of a settings file, for the line that an error is about."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self._lines = text.split("\n")

    def where(self, message: str) -> str:
        """The path, with the line that a message is about. The message begins with the name of a
        setting and, for one of several tables, its number and key. If there is not exactly one such
        line, the path alone."""
        named = _SUBJECT.match(message)
        line = self._find(named[1], int(named[2] or 0), named[3] or "") if named else 0
        return f"{self.path}:{line}" if line else self.path

    def _find(self, name: str, table: int, key: str) -> int:
        heads, keys, found = 0, "", 0
        for number, line in enumerate(self._lines, 1):
            if head := _HEAD_OF_TABLE.match(line):
                heads += head[1] == name
                keys = head[1]
                if keys == name and table in (0, heads):
                    found = 0 if found and not table else number
            elif (assigned := _ASSIGNED.match(line)) and (
                (not keys and assigned[1] == name)
                or (keys == name and table == heads and assigned[1] == key)
            ):
                return number
        return found if table or heads == 1 else 0


_SUBJECT: Final = re.compile(r"([\w.-]+)(?:: table (\d+):(?: ([\w-]+):)?)?")
_HEAD_OF_TABLE: Final = re.compile(r"\s*\[\[?\s*([\w-]+)\s*\]")
_ASSIGNED: Final = re.compile(r"""\s*["']?([\w-]+)["']?\s*=""")


def gather(given: Mapping[str, Any], environ: Mapping[str, str], path: str = "") -> Configuration:
    """The settings in force. `given` are the options of the command line, `path` is the settings
    file, if any.

    Raises ConfigurationError.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file: SettingsFile | None = None
    if path:
        folder = Path(path).absolute().parent
        text = _text(path)
        file = SettingsFile(path, text)
        for name, value in _parsed(path, text).items():
            sources[name] = path
            value = _read(path, name, value, file)
            values[name] = _anchored(options_module.option(name), value, folder)
    for name, variable in _variables(environ).items():
        is_list = options_module.option(name).kind in ("texts", "tables")
        text = environ[variable]
        values[name] = _read(variable, name, tuple(text.split()) if is_list else text)
        sources[name] = variable
    for name, value in given.items():
        sources[name] = f"--{options_module.option(name).flag}"
        values[name] = _read(sources[name], name, value)
    settings = Settings(**values)
    try:
        checks.check(settings)
    except ValueError as error:
        raise ConfigurationError(_located(str(error), sources, file)) from error
    return Configuration(settings, sources, file)


def show(configuration: Configuration, folder: str, secrets: bool = False) -> str:
    """All settings as TOML, each with its source. Relative paths are made absolute from `folder`,
    so that the text can be saved anywhere. Without `secrets`, passwords are hidden in it."""
    lines = []
    for option in options_module.options():
        value = _anchored(option, getattr(configuration.settings, option.name), Path(folder))
        public = value if secrets else options_module.without_secrets(value)
        text = f"{option.name} = {options_module.toml(option, public)}"
        note = configuration.sources.get(option.name, "default")
        note += "; use --secrets to show what is hidden" if public != value else ""
        lines.append(f"{text}  # {note}")
    return "\n".join(lines)


def check_tls_files(configuration: Configuration) -> None:
    """Check that the TLS files can be read. Raises ConfigurationError for the first one that cannot
    be. The gateway checks their content."""
    settings = configuration.settings
    for text in settings.listen:
        listen = parse_listen(text, settings)
        for name, file in _tls_files(listen) if listen.tls != "off" else ():
            try:
                if os.path.exists(file) and not os.path.isfile(file):
                    # Opening a FIFO would block, and reading /dev/zero would not end.
                    raise OSError(0, "it is not a regular file")
                with open(file, "rb"):
                    continue
            except OSError as error:
                message = f"{name}: {file}: {error.strerror or error}"
            if getattr(listen, name) != getattr(settings, name):
                # The file is an option of that listener.
                name, message = "listen", f"listen: {text!r}: {message}"
            source = configuration.sources.get(name, name)
            raise ConfigurationError(_blame(source, name, message, configuration.file))


def _tls_files(listen: Listen) -> Iterator[tuple[str, str]]:
    """Each file, with the setting that names it."""
    for pair in tls_pairs(listen):
        yield "tls_cert", pair.cert
        if pair.key:
            yield "tls_key", pair.key
    if listen.tls_client_ca:
        yield "tls_client_ca", listen.tls_client_ca


# --- the file ---


def _text(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            data = stream.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{path}: there is no such settings file") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    if len(data) > LARGEST:
        raise ConfigurationError(f"{path}: more than {LARGEST} bytes; this is not a settings file")
    try:
        # Some editors on Windows write a BOM, which TOML does not allow.
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}: line {line} is not UTF-8") from error


def _parsed(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: this is not TOML: {error}") from error


def _anchored(option: Option, value: Any, folder: PurePath) -> Any:
    """The value with its relative paths made absolute from `folder`."""
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
    if option.name == "bridges":
        return tuple(
            replaced(
                bridge,
                listener=_anchored_address(bridge.listener, folder),
                tokens=str(folder / bridge.tokens) if bridge.tokens else "",
            )
            for bridge in value
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
    """A command stays as it is, because it is not known which of its words are paths."""

    def is_file(name: str) -> bool:
        return Path(folder, name).is_file()

    try:
        program = programs.parse(text, is_file).program
    except ValueError:
        return text
    if program.file is None:
        return text
    # Quotes are not needed any more: the whole text is the name of a file.
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
    """The variables that are set and not empty, by the names of their settings."""
    known = {option.name for option in options_module.options()}
    found = {}
    for variable, text in environ.items():
        # Windows has variables in capitals only; on other systems case matters.
        name = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or not text:
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


# --- the source of an error ---


def _read(source: str, name: str, value: Any, file: SettingsFile | None = None) -> Any:
    try:
        return options_module.read(name, value)
    except ValueError as error:
        raise ConfigurationError(_blame(source, name, str(error), file)) from error


def _blame(source: str, name: str, message: str, file: SettingsFile | None) -> str:
    """The message, which begins with the name of a setting, with the source of the value: a
    variable or an option replaces the name, a file and its line precede it."""
    if source.startswith((PREFIX, "--")):
        return source + message.removeprefix(name)
    if file is not None and source == file.path:
        source = file.where(message)
    return f"{source}: {message}"


def _located(message: str, sources: Mapping[str, str], file: SettingsFile | None) -> str:
    """A message about settings that contradict each other, with the source of the first of them
    that is not at its default."""
    for word in re.findall(r"[a-z_]+", message):
        if word in sources and message.startswith(word):
            return _blame(sources[word], word, message, file)
        if word in sources:
            source = sources[word]
            if file is not None and source == file.path:
                source = file.where(f"{word}: ")
            return f"{source}: {message}"
    return message
