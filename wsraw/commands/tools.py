"""Tools beside the server: `wsraw connect` talks to a server, `wsraw drill` proves a run, and
`wsraw conform` proves a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from wsraw.commands.checks import check_program
from wsraw.commands.failures import Failed, WrongUse
from wsraw.config import programs

F = TypeVar("F", bound=Callable[..., Any])


def _number(
    flag: str, default: float, meaning: str, *, kind: click.ParamType[Any]
) -> Callable[[F], F]:
    return click.option(
        flag, type=kind, metavar="N", default=default, show_default=True, help=meaning
    )


def _every(flag: str, default: float, meaning: str) -> Callable[[F], F]:
    return click.option(
        flag,
        type=click.FloatRange(min=0),
        metavar="SECONDS",
        default=default,
        show_default=True,
        help=f"{meaning}; 0: never.",
    )


POSITIVE = click.FloatRange(min=0, min_open=True)
_SECONDS = click.FloatRange(min=0)


@click.command()
@click.argument("url")
@click.option(
    "-x",
    "--exec",
    "commands",
    metavar="DATA",
    multiple=True,
    help="Send DATA, wait for answers, and end. DATA may be anything that you could type, such as "
    "/ping or /close. May be repeated.",
)
@click.option(
    "--count",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="End when N messages (of a stream: N lines) have arrived. Exit code 4: there were fewer.",
)
@click.option(
    "-w",
    "--wait",
    type=_SECONDS,
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="After the end of the input, end when nothing has arrived for this long; 0: wait until "
    "the server closes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
@click.option(
    "--binary",
    is_flag=True,
    help="Send the input as bytes, in binary frames, without added line ends. If stdout is not a "
    "terminal, write received binary frames as they are.",
)
@click.option("--crlf", is_flag=True, help="Over TCP, end lines with CR LF.")
@click.option(
    "-H",
    "--header",
    "headers",
    metavar="NAME: VALUE",
    multiple=True,
    help="Header of the WebSocket handshake. May be repeated.",
)
@click.option(
    "-s",
    "--subprotocol",
    "subprotocols",
    metavar="NAME",
    multiple=True,
    help="WebSocket subprotocol to offer. May be repeated.",
)
@click.option("-o", "--origin", metavar="ORIGIN", help="Origin header, as in https://example.org.")
@click.option(
    "--host",
    metavar="NAME",
    default="",
    help="Name for the Host header and for TLS. Default: the host of the URL.",
)
@click.option(
    "--ping",
    type=_SECONDS,
    metavar="SECONDS",
    default=0.0,
    help="Send a WebSocket ping at this interval, and end if one is not answered before the next. "
    "Default: never.",
)
@click.option(
    "--ca", metavar="FILE", default="", help="Trust the authorities in this file (PEM) for TLS."
)
@click.option(
    "--cert", metavar="FILE", default="", help="File with this client's certificate for TLS (PEM)."
)
@click.option(
    "--key",
    metavar="FILE",
    default="",
    help="File with the key of that certificate. Default: the file of --cert.",
)
@click.option("--insecure", is_flag=True, help="Accept every certificate. For tests only.")
@click.option(
    "--timeout",
    type=_SECONDS,
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="Time limit for connecting; 0: no limit.",
)
def connect(
    url: str,
    host: str,
    headers: tuple[str, ...],
    commands: tuple[str, ...],
    key: str,
    cert: str,
    **values: Any,
) -> int:
    """Talk to a server: WebSocket, TCP, TLS or unix socket.

    URL is ws://HOST:PORT/PATH, wss://HOST/PATH, tcp://HOST:PORT, tls://HOST:PORT, unix:PATH or
    ws+unix:SOCKET:/PATH.

    At a terminal, each line that you type is sent, and /help shows commands; Ctrl-D quits.
    If stdin is a pipe or a file, each line is sent as a WebSocket message; over TCP the input is
    sent as it is.

    Exit code 0: the connection ended normally. 1: no connection. 2: wrong use. 3: the connection
    was lost, or closed with a code other than 1000 and 1001. 4: see --count.
    """
    from wsraw.tools.connect import plan as plans
    from wsraw.tools.connect import session
    from wsraw.tools.connect.dialing import NotConnectedError

    if key and not cert:
        raise WrongUse("--key: it belongs to a certificate: give --cert FILE too")
    try:
        plan = plans.Plan(
            target=plans.parse_url(url, host),
            headers=plans.parse_headers(headers),
            commands=commands or None,
            cert=cert,
            key=key,
            **values,
        )
        plans.check(plan)
        return session.main(plan)
    except plans.PlanError as error:
        raise WrongUse(str(error)) from error
    except NotConnectedError as error:
        raise Failed(str(error)) from error


@click.command()
@click.option(
    "--connect",
    metavar="HOST:PORT",
    default="",
    help="Test the run that listens at this address. Default: start a run on a free port.",
)
@click.option(
    "--run-dir",
    metavar="FOLDER",
    default="",
    help="The run folder of the run at --connect. Default: WSRAW_RUN_DIR. Without it, the drill "
    "causes no faults, only load.",
)
@_number("--seconds", 30, "How long to test, in seconds.", kind=POSITIVE)
@click.option(
    "--workers",
    metavar="N|COMMAND[:N]",
    multiple=True,
    default=("4",),
    show_default=True,
    help="Workers to start: N with the drill's own handlers, or commands of workers that do the "
    "same, as in `wsraw run --workers`. May be repeated.",
)
@click.option(
    "--remote",
    is_flag=True,
    help="Have the workers connect as if from other machines: over tcp://, with keys (CURVE).",
)
@_number("--websockets", 200, "Number of WebSocket connections.", kind=click.IntRange(min=0))
@_number("--raw", 50, "Number of raw connections.", kind=click.IntRange(min=0))
@_number("--rate", 5000, "Messages per second, on all connections together.", kind=POSITIVE)
@_number("--size", 64, "Size of a message, in bytes.", kind=click.IntRange(min=16))
@_every("--kill-every", 0.5, "Kill a worker (SIGKILL) this often")
@_every("--hang-every", 0, "Make the handler of a worker hang this often")
@_every("--stop-every", 10, "Suspend a worker (SIGSTOP) this often")
@click.option(
    "--stop-for",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=2,
    show_default=True,
    help="Resume a suspended worker (SIGCONT) after this long.",
)
@_every("--reload-every", 5, "Reload the workers this often")
@_every("--kill-gateway-every", 0, "Kill the gateway this often")
@_every("--upgrade-every", 0, "Upgrade the run (wsraw upgrade) this often")
@click.option(
    "--upgrade-to",
    metavar="PYTHON",
    multiple=True,
    help="Upgrade to the wsraw of this Python. May be repeated: the upgrades go to each in turn.",
)
@click.option(
    "--delivery",
    type=click.Choice(["at-least-once", "at-most-once"]),
    default="at-least-once",
    show_default=True,
    help="The setting `delivery` of the run. With at-most-once, clients of a worker that died may "
    "be disconnected.",
)
@click.option(
    "--log", metavar="FILE", default="", help="Write the log of the drill's run to this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def drill(as_json: bool, workers: tuple[str, ...], **values: Any) -> int:
    """Cause faults, and check that no message or client is lost.

    The drill starts a run of its own, serves clients, and kills, suspends and replaces workers
    meanwhile. It checks that no message is lost, duplicated or reordered, and that no client is
    disconnected. Exit code 1: a check failed.
    """
    from wsraw.tools.drill import drill as drills
    from wsraw.tools.drill.plan import DrillError, Plan

    numbers = [text for text in workers if text.isascii() and text.isdigit()]
    counts = [click.IntRange(1, programs.MOST)(text) for text in numbers]
    also = tuple(text for text in workers if text not in numbers)
    if values["connect"] and not values["run_dir"]:
        # Without --connect the variable is not for us: the drill starts a run of its own.
        values["run_dir"] = os.environ.get("WSRAW_RUN_DIR", "")
    try:
        plan = Plan(workers=sum(counts), also=also, **values)
        for entry in programs.parse_all(also, os.path.isfile) if also else ():
            check_program(entry.program)
        return drills.main(plan, as_json)
    except DrillError as error:
        raise WrongUse(str(error)) from error


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--generic", is_flag=True, help="Skip the rules that need the behaviour of the example workers."
)
@click.option(
    "--remote",
    is_flag=True,
    help="Act as a gateway on another machine: over tcp://, with keys (CURVE).",
)
@click.option(
    "--rules", metavar="NAME[,NAME…]", default="", help="Check only these rules. Default: all."
)
@click.option(
    "--timeout",
    type=POSITIVE,
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="How long to wait for an answer from the worker.",
)
@click.option(
    "--log", metavar="FILE", default="", help="Write the output of the worker to this file."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def conform(
    command: tuple[str, ...],
    generic: bool,
    remote: bool,
    rules: str,
    timeout: float,
    log: str,
    as_json: bool,
) -> int:
    """Check that a worker implements the worker protocol.

    Start COMMAND as a worker, act as its gateway, and check one rule after another. Exit code 1:
    the worker breaks a rule.

    The worker gets WSRAW_ENDPOINT, WSRAW_TOKEN, WSRAW_POOL and WSRAW_INSTANCE in its environment,
    and with --remote the keys, in WSRAW_CURVE_SERVERKEY, _PUBLICKEY and _SECRETKEY.
    """
    from wsraw.tools.conform import run as runner

    names = [name.strip() for name in rules.split(",") if name.strip()]
    try:
        return runner.main(
            command,
            names,
            generic=generic,
            remote=remote,
            timeout=timeout,
            as_json=as_json,
            log=log,
        )
    except runner.CannotConform as error:
        raise WrongUse(str(error)) from error
