"""The command line: `wsraw run`, `wsraw settings`, and the other commands of commands/."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from wsraw.commands import clients, connect, control, keys, scaffold, tools, worker
from wsraw.commands.checks import check_all, unused_file
from wsraw.commands.failures import CannotStart, Failed, WrongUse, show
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The `wsraw` command; returns its exit code."""
    _prepare_output()
    try:
        code = cli.main(args=arguments, prog_name="wsraw", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" ({context.command_path} --help)" if context else ""
        show(f"wsraw: {error.format_message()}{hint}", err=True)
        return error.exit_code
    except click.Abort:
        return 130
    return int(code or 0)


def _prepare_output() -> None:
    """Let no character that a handler, a client or a path brings end a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Started without any (pythonw, `2>&-`): nobody reads.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # On Windows a pipe or a file would have the code page of the system, which has few
            # characters, and no reader could tell which.
            is_set = stream.isatty() or bool(os.environ.get("PYTHONIOENCODING"))
            encoding = None if is_set or sys.platform != "win32" else "utf-8"
            errors = "backslashreplace" if stream.errors == "strict" else stream.errors
            if sys.platform == "win32" and stream is getattr(sys, f"__{name}__"):
                stream = _with_broken_pipes(stream)
                setattr(sys, name, stream)
            stream.reconfigure(encoding=encoding, errors=errors)


class _Output(io.FileIO):
    """Standard output on Windows, where EINVAL means that the reader of a pipe has left."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
            raise


def _with_broken_pipes(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same stream, but of a terminal, with the exception that everybody handles."""
    if stream.isatty():
        return stream
    output = io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(
        output,
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def is_compiled() -> bool:
    """Whether the extension modules of the hot path are loaded (docs/compiled.md)."""
    from importlib.machinery import EXTENSION_SUFFIXES

    from wsraw.runtime import loop

    return str(loop.__file__).endswith(tuple(EXTENSION_SUFFIXES))


def _version(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            version = metadata.version("wsraw")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        click.echo(f"wsraw {version}" + (" (compiled)" if is_compiled() else ""))
        context.exit()


class _Commands(click.Group):
    """The commands, which its help shows under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and the first lines of all commands."""
        room = formatter.width - 6 - max(map(len, self.commands))
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(each.name), each.get_short_help_str(room)) for each in commands]
                )


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Serve WebSocket and raw TCP clients on one port, with handlers in worker processes."""


@cli.command(cls=GroupedCommand, params=[CONFIG, *setting_options()])
def run(config: str | None, **values: Any) -> int:
    """Serve clients until Ctrl-C or SIGTERM.

    A second signal stops at once, without waiting for handlers.

    Sizes and times may have a unit (64KiB, 1MB; 500ms, 30s, 5m). Options that may be repeated are
    lists in the settings file. Numbers such as (503) and (1013) are the HTTP status or the
    WebSocket close code that the client gets; "raw: reset" means that a raw client gets a reset.
    """
    return _run(lambda: gather(values, config or ""), unused_file(config))


def _run(read: Callable[[], sources.Configuration], unused: str = "") -> int:
    """`read`: to be called again when the settings may have changed."""
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
    except supervisor.CannotStart as error:
        by_code = {each.exit_code: each for each in (Failed, WrongUse, CannotStart)}
        raise by_code[error.code](str(error)) from error


@cli.command(cls=GroupedCommand, params=bridge_options())
def bridge(**values: Any) -> int:
    """Connect clients to a server, without workers.

    \b
    wsraw bridge --listen ws://127.0.0.1:6080 --to tcp://127.0.0.1:5900
    wsraw bridge --listen raw://127.0.0.1:7000 --to wss://example.org/feed --framing line

    The gateway itself forwards between WebSocket and raw clients and servers: as websockify does,
    and also in the other direction. The other options are those of `wsraw run`. For several
    targets, give a file of tokens, or use [[bridges]] in the settings file of `wsraw run`.
    """
    return _run(lambda: gather_bridge(values))


@cli.command("settings", cls=GroupedCommand, params=[CONFIG, *setting_options()])
def show_settings(config: str | None, **values: Any) -> None:
    """Show all settings, and where each value comes from.

    The settings are those that `wsraw run` would use with the same options. The output is TOML; it
    can be saved as a file for --config.
    """
    click.echo(sources.show(gather(values, config or ""), os.getcwd()))


COMMANDS: Final = {
    "Serve clients": (
        *(scaffold.init, scaffold.check, show_settings),
        *(run, bridge, worker.worker, keys.keygen),
    ),
    "Operate a run": (
        *(control.status, control.top, control.reload, control.rollback, control.upgrade),
        *(control.scale, control.stop, control.drain, control.dead_letters),
    ),
    "Work with connections": (
        *(clients.connections, clients.connection, clients.trace),
        *(clients.kick, clients.send, clients.publish),
    ),
    "Try and test": (connect.connect, tools.drill, tools.conform),
}
"""Heading of the help → its commands."""

for command in (each for commands in COMMANDS.values() for each in commands):
    cli.add_command(command)

if __name__ == "__main__":
    sys.exit(main())
