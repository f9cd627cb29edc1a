"""Commands about connections: list them, and look at one."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from wsraw.commands.control import run_dir_option, timeout_option
from wsraw.commands.failures import Failed, WrongUse, show

F = TypeVar("F", bound=Callable[..., Any])

ON_A_SCREEN: Final = 100
"""Connections that a terminal is shown, unless it asks for more."""


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    from wsraw.config.units import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise WrongUse(f"--{parameter.name}: {error}") from error


FILTERS: Final = (
    click.option("--pool", metavar="NAME", help="Only connections of this pool."),
    click.option("--group", metavar="NAME", help="Only members of this group."),
    click.option(
        "--address",
        metavar="ADDRESS",
        help="Only clients from this address (192.0.2.7, ::1, unix), network (10.0.0.0/8), or "
        "address and port (192.0.2.7:50123).",
    ),
    click.option(
        "--path",
        metavar="PATTERN",
        help="Only WebSockets with this path. {name} stands for one segment, {name...} for the "
        "rest: /rooms/{room}.",
    ),
    click.option("--kind", metavar="[websocket|raw|unknown]", help="Only this kind."),
    click.option(
        "--state",
        metavar="[sniffing|connecting|open|closing|closed]",
        help="Only connections in this state.",
    ),
    click.option("--worker", type=int, metavar="N", help="Only connections of this worker."),
    click.option("--slow", is_flag=True, help="Only clients that do not read what is sent."),
    click.option("--paused", is_flag=True, help="Only connections that are not read from."),
    click.option(
        "--idle", callback=_time, metavar="TIME", help="Only connections without data for so long."
    ),
    click.option("--opened", is_flag=True, help="Only connections that handlers have opened."),
)


def filter_options(command: F) -> F:
    """Add the options that say which connections are meant."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def pages(run_dir: str, what: str, options: dict[str, Any], timeout: float) -> Iterator[Any]:
    """The answers of the gateway, `Done`s. Options that were not given are left out."""
    from wsraw.supervisor.control import client

    given = {name: value for name, value in options.items() if value not in (None, "", False)}
    try:
        for done in client.pages(client.find(run_dir), what, given, timeout):
            if not done.ok:
                raise Failed(f"{what}: {done.text}")
            yield done
    except client.NoRunError as error:
        raise WrongUse(str(error)) from error
    except (TimeoutError, client.RefusedError) as error:
        raise Failed(f"{what}: {error}") from error


@click.command()
@filter_options
@click.option(
    "--sort",
    metavar="[age|idle|output|events|sent]",
    help="Show the largest first. Default: in the order in which they connected.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Show so many at most; 0: all. Default: {ON_A_SCREEN} on a terminal, else all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
@run_dir_option
@timeout_option(10.0)
def connections(
    run_dir: str, timeout: float, as_json: bool, limit: int | None, **options: Any
) -> None:
    """List connections, those that fit all of the given options.

    Queries of paths are not shown, as they may hold secrets.
    """
    from wsraw.supervisor.connections import table

    if limit is None:
        limit = ON_A_SCREEN if sys.stdout.isatty() and not as_json else 0
    rows: list[dict[str, Any]] = []
    matched = 0
    for done in pages(run_dir, "connections", options | {"limit": limit}, timeout):
        matched = done.data.get("matched", 0)
        if as_json:
            for row in done.data["rows"]:
                click.echo(json.dumps(row))
        else:
            rows += done.data["rows"]
    if not as_json:
        show(table(rows, matched))


@click.command()
@click.argument("con_id", metavar="ID", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@run_dir_option
@timeout_option(10.0)
def connection(con_id: int, run_dir: str, timeout: float, as_json: bool) -> None:
    """Show all that is known of a connection.

    ID is its number in the log and in `wsraw connections`; handlers know it as con.id.
    """
    from wsraw.supervisor.connections import details

    for done in pages(run_dir, "connection", {"id": con_id}, timeout):
        show(json.dumps(done.data) if as_json else details(done.data))
