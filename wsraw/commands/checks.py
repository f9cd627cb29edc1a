"""Checks that commands make before they start anything: here a mistake is one line in the terminal;
in a run it would be a crash loop, or a line in a child's log."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from wsraw.commands.failures import WrongUse
from wsraw.config import pools, sources
from wsraw.config.programs import Program, WorkerSpec, is_module
from wsraw.config.settings import BridgeSettings, Settings
from wsraw.link.open_options import check, is_local, open_of, parse_target, read_tokens
from wsraw.link.records import DEFAULT_POOL

SETTINGS_FILE: Final = "wsraw.toml"
"""The name under which `wsraw init` writes the settings file."""


def check_all(found: sources.Configuration) -> dict[str, tuple[WorkerSpec, ...]]:
    """Check that the programs, and the files that settings name, exist; return what each pool runs.
    Raises WrongUse."""
    try:
        in_pools = pools.entries(found.settings, os.path.isfile)
    except ValueError as error:
        # The message is about something that only a look at the files can show.
        raise WrongUse(str(error)) from error
    for name, entries in in_pools.items():
        for entry in entries:
            where = "--workers " if name == DEFAULT_POOL else f"--pool {name}="
            check_program(entry.program, where)
    check_keys(found.settings)
    check_admin_token(found.settings)
    check_cluster(found.settings)
    for bridge in found.settings.bridges:
        targets_of(bridge)
    static = found.settings.static
    if static and not os.path.isdir(static):
        raise WrongUse(f"static: {static}: there is no such folder")
    try:
        sources.check_tls_files(found)
    except sources.ConfigurationError as error:
        raise WrongUse(str(error)) from error
    return in_pools


def unused_file(config: str | None) -> str:
    """A warning if this folder has a settings file that the command was not given; else ""."""
    if config or not os.path.isfile(SETTINGS_FILE):
        return ""
    return f"{SETTINGS_FILE} in this folder is not used; add --config {SETTINGS_FILE}"


def check_program(program: Program, where: str = "--workers ") -> None:
    """Check that the file or the command exists. Raises WrongUse."""
    if program.module:
        return
    if program.file is not None or os.path.isdir(program.name):
        _check_file(program.file or program.name)
    elif program.is_foreign and shutil.which(program.words[0]) is None:
        first = program.words[0]
        hint = "is it installed, and in PATH?"
        if os.path.isfile(first):
            hint = "the file is not executable (chmod +x); or write its interpreter before it"
        elif is_module(first):
            file = os.path.join(*first.split(".")) + ".py"
            hint = f"there is no {file} in this folder either"
        elif ":" in first and "/" not in first:
            hint = "a handlers file is given by its name, as in handlers.py:4"
        elif program.name.endswith(".py"):
            hint = f"there is no handlers file {program.name!r} either"
        raise WrongUse(f"{where}{program.name!r}: {first}: no such program; {hint}")


def _check_file(file: str) -> None:
    try:
        os.stat(file)
    except PermissionError:
        raise WrongUse(f"{file}: its folder cannot be entered; check the permissions") from None
    except (OSError, ValueError):
        raise WrongUse(f"{file}: there is no such handlers file") from None
    if not os.path.isfile(file):
        raise WrongUse(f"{file} is not a file; name the Python file with the handlers")
    if not os.access(file, os.R_OK):
        raise WrongUse(f"{file} cannot be read; check its permissions")


def check_admin_token(settings: Settings) -> None:
    """Check that the token file of the admin address can be read. Raises WrongUse."""
    if not settings.admin_token:
        return
    try:
        with open(settings.admin_token, encoding="utf-8", errors="replace") as file:
            is_empty = not file.readline().strip()
    except OSError as error:
        raise WrongUse(f"admin_token: {settings.admin_token}: {error.strerror}") from error
    if is_empty:
        raise WrongUse(f"admin_token: {settings.admin_token} is empty: write a secret into it")


def check_cluster(settings: Settings) -> None:
    """Check that the agent of a cluster could start: that its library and the files that it reads
    are there. Raises WrongUse."""
    if not settings.cluster:
        return
    if importlib.util.find_spec("nats") is None:
        raise WrongUse("cluster needs nats-py: pip install 'wsraw[cluster]'")
    if settings.cluster_credentials and importlib.util.find_spec("nkeys") is None:
        raise WrongUse("cluster_credentials needs nkeys: pip install 'wsraw[cluster]'")
    for name in ("cluster_credentials", "cluster_ca"):
        path = getattr(settings, name)
        if not path:
            continue
        try:
            open(path, "rb").close()
        except OSError as error:
            raise WrongUse(f"{name}: {path}: {error.strerror}") from error


def check_keys(settings: Settings) -> None:
    """Check that the key files of the link can be used. Raises WrongUse."""
    if not settings.link_key:
        return
    from wsraw.runtime import keys

    try:
        keys.read_secret(settings.link_key)
        keys.AllowedKeys(settings.worker_keys)
    except keys.KeyFileError as error:
        raise WrongUse(str(error)) from error


# --- bridges ---

TRY_FOR: Final = 3.0
"""Seconds within which a target of a bridge must take a connection."""

MOST_TRIED: Final = 20
"""Targets of a token file that are tried."""


def targets_of(bridge: BridgeSettings) -> list[str]:
    """The targets of a bridge. Raises WrongUse for a token file that cannot be used."""
    if bridge.to:
        return [bridge.to]
    where = f"bridges: {bridge.tokens}: "
    try:
        if os.path.exists(bridge.tokens) and not os.path.isfile(bridge.tokens):
            raise ValueError("it is not a regular file")
        with open(bridge.tokens, encoding="utf-8-sig") as file:
            targets = read_tokens(file.read())
        for target in targets.values():
            check(open_of(bridge, target))
    except OSError as error:
        raise WrongUse(f"{where}{error.strerror or error}") from error
    except ValueError as error:
        raise WrongUse(f"{where}{error}") from error
    return list(targets.values())


def try_target(target: str) -> str:
    """Connect to a target and close again; return why that failed, or "". No TLS or WebSocket
    handshake is tried."""
    found = parse_target(target)
    try:
        if found.path:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(TRY_FOR)
                sock.connect(found.path)
        else:
            socket.create_connection((found.host, found.port), TRY_FOR).close()
    except (OSError, AttributeError) as error:
        return getattr(error, "strerror", "") or str(error)
    return ""


def try_targets(bridge: BridgeSettings, proxy: str) -> list[tuple[str, str]]:
    """Try at most MOST_TRIED targets of a bridge; return each with the result of `try_target`.
    Targets that are reached through a proxy are left out. `proxy` is the setting connect_proxy.
    Raises WrongUse."""
    through = proxy if bridge.proxy is None else bridge.proxy
    targets = [
        target
        for target in targets_of(bridge)[:MOST_TRIED]
        if not through or (bridge.proxy is None and is_local(parse_target(target)))
    ]
    with ThreadPoolExecutor(MOST_TRIED) as pool:
        return list(zip(targets, pool.map(try_target, targets), strict=True))
