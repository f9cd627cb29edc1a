"""Commands about connections: list, show, close, send to and trace them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import click

from wsraw.commands.control import run_dir_option, timeout_option
from wsraw.commands.failures import Failed, WrongUse, show

F = TypeVar("F", bound=Callable[..., Any])

MOST_READ: Final = 1024 * 1024
"""Bytes that can be sent at once."""

ON_A_SCREEN: Final = 100
"""Connections that are listed on a terminal, unless an option asks for more."""


class NotDone(Failed):
    """The run has refused a request; `data` says more."""

    def __init__(self, text: str, data: Any) -> None:
        super().__init__(text)
        self.data = data


def _time(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
    from wsraw.config.units import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise WrongUse(f"--{parameter.name}: {error}") from error


FILTERS: Final = (
    click.option("--pool", metavar="NAME", help="Only connections of this pool."),
    click.option("--group", metavar="NAME", help="Only members of this group."),
    click.option("--user", metavar="NAME", help="Only connections of this user (con.user)."),
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
        help="Only connections in this state. sniffing: the protocol is not known yet.",
    ),
    click.option("--worker", type=int, metavar="N", help="Only connections of this worker."),
    click.option("--slow", is_flag=True, help="Only clients that do not read what is sent."),
    click.option("--paused", is_flag=True, help="Only connections from which reading is paused."),
    click.option(
        "--idle",
        callback=_time,
        metavar="TIME",
        help="Only connections without data for this long.",
    ),
    click.option("--opened", is_flag=True, help="Only connections that handlers have opened."),
)


def filter_options(command: F) -> F:
    """Add the options that say which connections are meant."""
    for option in reversed(FILTERS):
        command = option(command)
    return command


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ""


def pages(run_dir: str, what: str, options: dict[str, Any], timeout: float) -> Iterator[Any]:
    """The answers of the gateway, each a `Done`. Options that were not given are left out."""
    from wsraw.supervisor.control import client

    given = {name: value for name, value in options.items() if _is_given(value)}
    try:
        for done in client.pages(client.find(run_dir), what, given, timeout):
            if not done.ok:
                raise NotDone(f"{what}: {done.text}", done.data)
            yield done
    except client.NoRunError as error:
        raise WrongUse(str(error)) from error
    except (TimeoutError, client.RequestRefusedError) as error:
        raise Failed(f"{what}: {error}") from error


@click.command()
@filter_options
@click.option(
    "--sort",
    metavar="[age|idle|output|events|sent]",
    help="Show the largest first. Default: the order in which the connections sent their first "
    "data.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Show at most N; 0: all. Default: {ON_A_SCREEN} on a terminal, otherwise all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
@run_dir_option
@timeout_option(10.0)
def connections(
    run_dir: str, timeout: float, as_json: bool, limit: int | None, **options: Any
) -> None:
    """List the connections that match all given options.

    Paths are shown without their query, which may contain secrets.
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
    """Show all that is known about a connection.

    ID is the number of the connection in the log and in `wsraw connections`: con.id in handlers.
    """
    from wsraw.supervisor.connections import details

    for done in pages(run_dir, "connection", {"id": con_id}, timeout):
        show(json.dumps(done.data) if as_json else details(done.data))


@click.command()
@click.argument("place", metavar="[ID|REF]", required=False)
@filter_options
@click.option("--all", is_flag=True, help="Close all that match, even if there are several.")
@click.option(
    "--code",
    type=int,
    default=1008,
    show_default=True,
    metavar="CODE",
    help="The WebSocket close code. Raw clients get an orderly end for 1000 and 1001, and a reset "
    "for any other code.",
)
@click.option("--reason", metavar="TEXT", default="", help="The reason in the close frame.")
@click.option("--dry-run", is_flag=True, help="Only list the connections that would be closed.")
@run_dir_option
@timeout_option(10.0)
def kick(
    place: str | None,
    all: bool,
    code: int,
    reason: str,
    dry_run: bool,
    run_dir: str,
    timeout: float,
    **options: Any,
) -> None:
    """Close a connection, or all that match the given options.

    Messages that the client has already sent are still handled; then on_close comes with the cause
    "kicked". Output that waits for the client is dropped.

    In a cluster, REF (con.ref, written node/id) is a connection at any gateway. --user NAME --all,
    without other options, closes the connections of that user at all gateways.
    """
    con_id = None if place is None or "/" in place else _number(place)
    chosen = {name for name, value in options.items() if _is_given(value)}
    if place is not None and (chosen or all):
        raise WrongUse("give an ID or options that choose connections, not both")
    if place is None and not (chosen or all):
        raise WrongUse("say which connections: an ID, --address, --slow, …, or --all")
    if place is not None and con_id is None:
        if dry_run:
            raise WrongUse(
                "--dry-run needs an ID: this run does not know the connections of other gateways"
            )
        options["ref"] = place
    if dry_run:
        _show_chosen(con_id, run_dir, timeout, options)
        return
    if con_id is not None:
        options["id"] = con_id
    options |= {"all": all, "code": code, "reason": reason}
    try:
        done = _only(run_dir, "kick", options, timeout)
    except NotDone as error:
        count = (error.data or {}).get("matched", 0)
        if count < 2 or not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        click.confirm(f"Close {count:,} connections?", abort=True, err=True)
        done = _only(run_dir, "kick", options | {"all": True}, timeout)
    told = done.data.get("told")
    if told and not done.data["closed"]:
        show("told the other gateways")
        return
    others = ", and told the other gateways" if told else ""
    show(f"closed {_connections(done.data['closed'])}{others}")


def _number(text: str) -> int:
    """The number of a connection. Raises WrongUse."""
    try:
        return int(text)
    except ValueError:
        raise WrongUse(f"{text!r} is not the ID of a connection, a number") from None


def _show_chosen(con_id: int | None, run_dir: str, timeout: float, options: Any) -> None:
    """List the connections that `kick` would close."""
    from wsraw.supervisor.connections import table

    if con_id is not None:
        rows = [_only(run_dir, "connection", {"id": con_id}, timeout).data]
    else:
        found = pages(run_dir, "connections", options, timeout)
        rows = [row for done in found for row in done.data["rows"]]
    show(f"{table(rows, len(rows))}\n{_connections(len(rows))} would be closed")


def _only(run_dir: str, what: str, options: dict[str, Any], timeout: float) -> Any:
    """The answer to a request that has one page."""
    (done,) = pages(run_dir, what, options, timeout)
    return done


def _connections(count: int) -> str:
    return f"{count:,} connection{'' if count == 1 else 's'}"


def data_options(command: F) -> F:
    """Add the options that say what is sent."""
    command = click.option(
        "--binary", is_flag=True, help="Send a binary message. Default: a text message."
    )(command)
    command = click.option("--file", metavar="FILE", help="Send the content of this file.")(command)
    return click.argument("data", metavar="[DATA|-]", required=False)(command)


def _read(data: str | None, file: str | None, binary: bool) -> bytes:
    """The data to send: an argument, a file, or for `-` the standard input."""
    if (data is None) == (file is None):
        raise WrongUse("give DATA, - for the standard input, or --file")
    if file is not None:
        try:
            with open(file, "rb") as stream:
                found = stream.read(MOST_READ + 1)
        except OSError as error:
            raise WrongUse(f"{file}: {error.strerror}") from error
    elif data == "-":
        found = sys.stdin.buffer.read(MOST_READ + 1)
    else:
        # Bytes that are not UTF-8 have become surrogates.
        found = (data or "").encode("utf-8", "surrogateescape")
    if len(found) > MOST_READ:
        raise WrongUse(f"more than {MOST_READ} bytes cannot be sent at once")
    if not binary:
        try:
            found.decode()
        except UnicodeDecodeError as error:
            raise WrongUse(f"byte {error.start} is not UTF-8; send it with --binary") from error
    return found


@click.command()
@click.argument("group", metavar="GROUP")
@data_options
@run_dir_option
@timeout_option(10.0)
def publish(
    group: str, data: str | None, file: str | None, binary: bool, run_dir: str, timeout: float
) -> None:
    """Send a message to all members of a group.

    This does the same as wsraw.publish in a handler. With -, the message is read from stdin. Raw
    clients get the message as bytes. The command does not wait until the clients have read it.
    """
    options = {"group": group, "data": _read(data, file, binary), "binary": binary}
    count = _only(run_dir, "publish", options, timeout).data["sent"]
    show(f"published to {_connections(count)}")


@click.command()
@click.argument("con_id", metavar="ID", type=int)
@data_options
@run_dir_option
@timeout_option(10.0)
def send(
    con_id: int, data: str | None, file: str | None, binary: bool, run_dir: str, timeout: float
) -> None:
    """Send a message to a connection, as con.send does.

    With -, the message is read from stdin. A raw client gets the message as bytes. The command does
    not wait until the client has read it.
    """
    options = {"id": con_id, "data": _read(data, file, binary), "binary": binary}
    count = _only(run_dir, "send", options, timeout).data["sent"]
    show(f"sent to {_connections(count)}")


@click.command()
@click.argument("which", metavar="ID|ADDRESS|PATH")
@click.option("--new", is_flag=True, help="Only connections that begin from now on. Default: any.")
@click.option(
    "--connections",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    metavar="N",
    help="Trace up to N connections with this address or path.",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N lines.")
@click.option(
    "--bytes",
    "most_bytes",
    type=click.IntRange(0, 65536),
    default=200,
    show_default=True,
    metavar="N",
    help="Show at most N bytes of each payload.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")
@run_dir_option
def trace(
    which: str,
    new: bool,
    connections: int,
    limit: int | None,
    most_bytes: int,
    as_json: bool,
    run_dir: str,
) -> None:
    """Show events, commands and frames of a connection, live.

    The trace ends when the connection has ended, or with Ctrl-C. With an address, a network or a
    path (/rooms/{room}), it shows an open connection that matches, or the next one that does.

    Payloads are shown, even if they contain secrets. Of an HTTP request, the path is shown without
    its query, and of the headers only those that hold no secrets.
    """
    options: dict[str, Any] = {"bytes": most_bytes, "new": new, "connections": connections}
    if which.isascii() and which.isdigit():
        options = {"bytes": most_bytes, "id": int(which)}
    else:
        options["path" if which.startswith("/") else "address"] = which
    left = limit
    try:
        for done in pages(run_dir, "trace", options, 0):
            rows = done.data["rows"][:left]
            for row in rows:
                click.echo(_line(row, as_json, with_id=connections > 1))
            if left is not None:
                left -= len(rows)
                if not left:
                    break
    except KeyboardInterrupt:
        raise click.Abort from None


def _line(row: dict[str, Any], as_json: bool, with_id: bool) -> str:
    import datetime

    from wsraw.supervisor.connections import trace_line, visible

    time = datetime.datetime.fromtimestamp(row["time"]).astimezone()
    if as_json:
        facts = row | {"time": time.isoformat(), "data": visible(row["data"])}
        return json.dumps(facts)
    return trace_line(row, f"{time:%H:%M:%S.%f}", with_id=with_id)
