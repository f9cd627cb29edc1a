"""`wsraw run`, `wsraw bridge`, and `wsraw settings`, which shows what these would use."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

import click

from wsraw.commands.checks import check_all, unused_file
from wsraw.commands.failures import CannotStart, Failed, WrongUse
from wsraw.commands.options import (
    CONFIG,
    GroupedCommand,
    bridge_options,
    gather,
    gather_bridge,
    setting_options,
)
from wsraw.config import settings as settings_module
from wsraw.config import sources


@click.command(cls=GroupedCommand, params=[CONFIG, *setting_options()])
def run(config: str | None, **values: Any) -> int:
    """Serve clients until Ctrl-C or SIGTERM.

    A second signal stops at once, without waiting for handlers.

    Sizes and times may have a unit (64KiB, 1MB; 500ms, 30s, 5m). Options that may be repeated are
    lists in the settings file. Numbers such as (503) and (1013) are the HTTP status or the
    WebSocket close code that the client gets; "raw: reset" means that a raw client gets a reset.
    """
    return _run(lambda: gather(values, config or ""), unused_file(config), config or "")


def _run(read: Callable[[], sources.Configuration], unused: str = "", config: str = "") -> int:
    """`read`: reads the settings, also again when they may have changed. `config`: the settings
    file, if one was given."""
    from wsraw.supervisor.replacing import records, replacement

    told = replacement.taken()
    if told is None or told[1]:
        found = read()
        check_all(found)
    from wsraw.supervisor import supervisor
    from wsraw.supervisor.service_manager.passed_sockets import PassedSockets

    passed = PassedSockets(os.environ)
    record = None
    if told is not None:
        try:
            record = supervisor.understood(told[0])
        except records.NotUnderstoodError as error:
            raise Failed(str(error)) from error
        if told[1]:
            click.echo(replacement.UNDERSTOOD)
            return 0
        passed.numbers, passed.names = record.numbers, record.names

    def with_passed(found: sources.Configuration) -> settings_module.Settings:
        if passed.numbers and "listen" not in found.sources:
            listen = tuple(f"fd:{number}" for number in passed.numbers)
            return settings_module.replaced(found.settings, listen=listen)
        return found.settings

    def reread() -> settings_module.Settings:
        if is_pipe(config):
            # A pipe that was read once would look like an empty file, and all settings would have
            # their defaults.
            raise ValueError(f"{config}: a pipe cannot be read again; give --config a file")
        try:
            again = read()
            check_all(again)
        except WrongUse as error:
            raise ValueError(error.format_message()) from error
        return with_passed(again)

    try:
        if record is not None:
            settings = settings_module.from_json(record.settings)
            return supervisor.run(settings, passed, "", reread, record)
        return supervisor.run(with_passed(found), passed, unused, reread)
    except supervisor.StartError as error:
        by_code = {each.exit_code: each for each in (Failed, WrongUse, CannotStart)}
        raise by_code[error.code](str(error)) from error


def is_pipe(path: str) -> bool:
    try:
        return stat.S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False


@click.command(cls=GroupedCommand, params=bridge_options())
def bridge(**values: Any) -> int:
    """Forward clients to another server, without workers.

    \b
    wsraw bridge --listen ws://127.0.0.1:6080 --to tcp://127.0.0.1:5900
    wsraw bridge --listen raw://127.0.0.1:7000 --to wss://example.org/feed --framing line

    The gateway itself forwards between WebSocket and raw clients and servers: as websockify does,
    and also in the other direction. The other options are those of `wsraw run`. For several
    targets, give --tokens, or use [[bridges]] in the settings file of `wsraw run`.
    """
    return _run(lambda: gather_bridge(values))


SECRETS = click.Option(
    ["--secrets"],
    is_flag=True,
    help="Show what is hidden by default: user names and passwords in URLs, query strings of "
    "bridges' targets, and values of set_headers.",
)


@click.command("settings", cls=GroupedCommand, params=[CONFIG, SECRETS, *setting_options()])
def settings(config: str | None, secrets: bool, **values: Any) -> None:
    """Show all settings, and where each value comes from.

    The settings are those that `wsraw run` would use with the same options. The output is TOML;
    with --secrets it can be saved as a file for --config.
    """
    click.echo(sources.show(gather(values, config or ""), os.getcwd(), secrets))
