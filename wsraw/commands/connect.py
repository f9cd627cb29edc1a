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
    help="The data is bytes: send it in binary frames, without line ends, and write binary frames "
    "as they are if stdout is not a terminal.",
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
    help="Send a WebSocket ping at this interval, and end if it is not answered before the next. "
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

    At a terminal, each line that you type is sent, and /help shows commands; Ctrl-D ends. If stdin
    is a pipe or a file, each line is a message of a WebSocket; over TCP it is sent as it is.

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
