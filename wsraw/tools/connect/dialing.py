"""I/O. Opens the connection that a plan describes: socket, TLS, handshake."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Origin, Subprotocol

from wsraw.tools.connect import problems
from wsraw.tools.connect.channels import Channel, StreamChannel, WebSocketChannel
from wsraw.tools.connect.plan import Plan, PlanError, Target

MOST_OF_A_MESSAGE = 64 << 20
"""Bytes of a received message; a larger one closes the connection (1009)."""


class NotConnectedError(Exception):
    """There is no connection. The text says why, and what to do."""


async def open_channel(plan: Plan, context: ssl.SSLContext | None, *, by_lines: bool) -> Channel:
    """Connect. Raises NotConnectedError.

    `by_lines`: bytes of a stream are shown to a person, so lines should be complete.
    """
    stage = problems.Stage.CONNECT
    sock: socket.socket | None = None
    try:
        async with asyncio.timeout(plan.timeout or None):
            sock = await _connect(plan.target)
            stage = problems.Stage.HANDSHAKE
            if plan.target.is_websocket:
                return await _websocket(plan, sock, context)
            return await _stream(plan.target, sock, context, by_lines)
    except (OSError, WebSocketException, EOFError, ValueError) as error:
        if sock is not None:
            sock.close()
        raise NotConnectedError(problems.explain(error, plan, stage)) from error


async def _connect(target: Target) -> socket.socket:
    """A connected socket, to the first address of the host that accepts."""
    loop = asyncio.get_running_loop()
    if target.unix:
        if not hasattr(socket, "AF_UNIX"):
            raise OSError("this system has no unix sockets")
        return await _connect_one(loop, socket.AF_UNIX, target.unix)
    # For a look-up the name is encoded, which may fail.
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for family, _, _, _, address in found:
        try:
            sock = await _connect_one(loop, family, address)
        except OSError as error:
            # The first address is the one that the system prefers.
            failure = failure or error
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise failure or OSError("the host has no address")


async def _connect_one(
    loop: asyncio.AbstractEventLoop, family: int, address: str | tuple[object, ...]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _websocket(
    plan: Plan, sock: socket.socket, context: ssl.SSLContext | None
) -> WebSocketChannel:
    ws = await connect(
        plan.target.url,
        sock=sock,
        ssl=context,
        additional_headers=list(plan.headers),
        subprotocols=[Subprotocol(name) for name in plan.subprotocols] or None,
        origin=Origin(plan.origin) if plan.origin is not None else None,
        user_agent_header="wsraw connect",
        # Our own time limit covers everything.
        open_timeout=None,
        ping_interval=plan.ping or None,
        ping_timeout=plan.ping or None,
        max_size=MOST_OF_A_MESSAGE,
        proxy=None,
    )
    details = [f"subprotocol {ws.subprotocol}"] if ws.subprotocol else []
    if plan.subprotocols and not ws.subprotocol:
        details.append("the server has chosen no subprotocol")
    if ws.response is not None and "Sec-WebSocket-Extensions" in ws.response.headers:
        details.append("compressed")
    return WebSocketChannel(ws, [*_tls_details(ws.transport), *details])


async def _stream(
    target: Target, sock: socket.socket, context: ssl.SSLContext | None, by_lines: bool
) -> StreamChannel:
    name = (target.url or target.host) if context is not None else None
    reader, writer = await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    return StreamChannel(reader, writer, _tls_details(writer.transport), by_lines=by_lines)


def _tls_details(transport: asyncio.BaseTransport) -> list[str]:
    found = transport.get_extra_info("ssl_object")
    version = found.version() if found is not None else None
    return [version.replace("TLSv", "TLS ")] if version else []


def tls_context(plan: Plan) -> ssl.SSLContext | None:
    """The TLS context, if the URL has TLS. Raises PlanError."""
    if not plan.target.has_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=plan.ca or None)
    except (OSError, ValueError) as error:
        raise PlanError(f"--ca {plan.ca}: {_why(error, 'certificates (PEM)')}") from None
    if plan.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if plan.cert:
        try:
            # No passphrase is asked for: stdin has the data.
            context.load_cert_chain(plan.cert, plan.key or None, password="")
        except (OSError, ValueError) as error:
            for file in filter(None, (plan.cert, plan.key)):
                if not os.path.exists(file):
                    raise PlanError(f"--cert: {file}: there is no such file") from None
            wanted = (
                "a certificate and its key (PEM, without a passphrase); --key names another file"
            )
            raise PlanError(f"--cert {plan.cert}: {_why(error, wanted)}") from None
    return context


def _why(error: Exception, wanted: str) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    return f"the file does not contain {wanted}"
