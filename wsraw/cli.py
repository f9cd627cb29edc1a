"""The command line: the commands of commands/, each imported when it is used."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import click

from wsraw.commands.failures import show
from wsraw.version import VERSION

COMMANDS: Final = {
    "Serve clients": {
        **dict.fromkeys(("init", "check"), "scaffold"),
        **dict.fromkeys(("settings", "run", "bridge"), "run"),
        "worker": "worker",
        "keygen": "keys",
    },
    "Operate a run": dict.fromkeys(
        (
            *("status", "top", "reload", "rollback", "upgrade"),
            *("scale", "stop", "drain", "dead-letters"),
        ),
        "control",
    ),
    "Work with connections": dict.fromkeys(
        ("connections", "connection", "trace", "kick", "send", "publish"), "clients"
    ),
    "Try and test": dict.fromkeys(("connect", "drill", "conform"), "tools"),
}
"""Heading of the help → its commands, each with its module in commands/."""


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
    """Let no character of a handler, a client or a path end a command with an encoding error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # The process was started without an output (pythonw, `2>&-`): nobody reads it.
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # On Windows a pipe or a file would use the system's code page, which has few
            # characters, and which no reader could know.
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
    """A stream that raises BrokenPipeError, which callers handle, when its reader has left; a
    terminal stays as it is."""
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
        click.echo(f"wsraw {VERSION}" + (" (compiled)" if is_compiled() else ""))
        context.exit()


class _Commands(click.Group):
    """The commands, shown in the help under headings. Each is imported when it is used: `wsraw
    status` need not load what `wsraw run` imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for commands in COMMANDS.values():
            if cmd_name in commands:
                module = import_module(f"wsraw.commands.{commands[cmd_name]}")
                command: click.Command = getattr(module, cmd_name.replace("-", "_"))
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names and the first lines of all commands."""
        found = commands()
        room = formatter.width - 6 - max(map(len, found))
        for heading, names in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl([(name, found[name].get_short_help_str(room)) for name in names])


def commands() -> dict[str, click.Command]:
    """All commands, by their names."""
    context = click.Context(cli)
    found = {name: cli.get_command(context, name) for name in cli.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


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


if __name__ == "__main__":
    sys.exit(main())
