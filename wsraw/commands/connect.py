"""`wsraw connect`: talk to a server, as a person or in a script."""

from __future__ import annotations

from typing import Any

import click

from wsraw.commands.failures import Failed, WrongUse

_SECONDS = click.FloatRange(min=0)


@click.command()
@click.argument("url")
@click.option(
    "-x",
    "--exec",
    "commands",
    metavar="DATA",
    multiple=True,
    help="Send DATA, wait for answers, and end. DATA is what could be typed, so /ping and /close "
    "work too. May be repeated.",
)
@click.option(
    "--count",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    help="End when N messages have come (of a stream: N lines). Exit code 4: fewer have come.",
)
@click.option(
    "-w",
    "--wait",
    type=_SECONDS,
    metavar="SECONDS",
    default=1.0,
    show_default=True,
    help="After the end of the input, end when nothing has come for this long; 0: wait until the "
    "server closes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each event.")
@click.option(
    "--binary",
    is_flag=True,
    help="The data is bytes: send it in binary frames, without line ends, and write binary frames "
    "as they are if stdout is not a terminal.",
)
@click.option("--crlf", is_flag=True, help="End lines with CR LF, where they are sent over TCP.")
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
    help="Send a WebSocket ping this often, and end if it is not answered as soon. Default: never.",
)
@click.option(
    "--ca", metavar="FILE", default="", help="Trust the authorities in this file (PEM) for TLS."
)
@click.option(
    "--cert", metavar="FILE", default="", help="Certificate of this client for TLS (PEM)."
)
@click.option(
    "--key", metavar="FILE", default="", help="Its key. Default: it is in the file of --cert."
)
@click.option("--insecure", is_flag=True, help="Accept every certificate. For tests only.")
@click.option(
    "--timeout",
    type=_SECONDS,
    metavar="SECONDS",
    default=10.0,
    show_default=True,
    help="How long connecting may take; 0: no limit.",
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

    At a terminal, each line that you type is sent, and /help shows commands; Ctrl-D ends. If stdin
    is a pipe or a file, each line is a message of a WebSocket; over TCP it is sent as it is.

    Exit code 0: the connection ended normally. 1: no connection. 2: wrong use. 3: the connection
    was lost, or closed with another code than 1000, 1001 or none. 4: see --count.
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
