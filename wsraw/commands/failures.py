"""How a command that fails ends: with one line that says what to do, and an exit code."""

from __future__ import annotations

import click

from wsraw.runtime.printable import printable_lines


class Failed(click.ClickException):
    """The command was right, and could not be carried out."""

    exit_code = 1


class WrongUse(click.ClickException):
    """The command, or a setting, is wrong."""

    exit_code = 2


class CannotStart(click.ClickException):
    """The gateway or the first worker could not start. Trying again gives the same result."""

    exit_code = 3


def show(text: str, err: bool = False) -> None:
    """Print text that may contain data of clients, workers or handlers."""
    click.echo(printable_lines(text), err=err)
