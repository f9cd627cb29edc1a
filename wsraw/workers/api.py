"""Sans-I/O. The functions that a handlers file imports from wsraw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from types import EllipsisType
from typing import TYPE_CHECKING, Any, overload

from wsraw.link import open_options
from wsraw.link.records import Open, Publish, SendToUser
from wsraw.workers import values
from wsraw.workers.connection import (
    AnyConnection,
    Connection,
    Connections,
    Message,
    RemoteConnection,
    parse_message,
    to_id,
    to_ids,
)
from wsraw.workers.questions import Asked, Joined

if TYPE_CHECKING:
    from wsraw.workers.runtime import Runtime


CallSoon = Callable[[Callable[..., Any], tuple[Any, ...]], None]
_installed: tuple[Runtime, CallSoon] | None = None
_why_none = NO_WORKER = "this works in a wsraw worker, while its handlers run"


def install(runtime: Runtime, call_soon: CallSoon) -> None:
    """Make this the worker of the process, which the functions below use."""
    global _installed
    _installed = runtime, call_soon


def installed() -> bool:
    """Whether this process has a worker."""
    return _installed is not None


def uninstall(why_none: str = NO_WORKER) -> None:
    """Remove the worker; the functions below raise until there is another one."""
    global _installed, _why_none
    _installed, _why_none = None, why_none


def _worker() -> tuple[Runtime, CallSoon]:
    if _installed is None:
        raise RuntimeError(_why_none)
    return _installed


def _runtime() -> Runtime:
    return _worker()[0]


def send_message(msg: Message, con: AnyConnection | int | str) -> None:
    """Send to a connection: `str` as text, bytes as binary, or a mapping with data, type, final.

    The same as ``con.send(msg)``.
    """
    connection(con).send(msg)


def open_client_connection(
    target: str,
    protocol: str = "raw",
    url: str | None = None,
    host: str | None = None,
    orig: str = "",
    *,
    name: str | None = None,
    couple: Connection | int | EllipsisType | None = ...,
    headers: Mapping[str, str] | None = None,
    subprotocols: Iterable[str] | None = None,
    connect_timeout: float | None = None,
    reconnect: bool = False,
    deflate: bool | None = None,
    verify: bool = True,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    key: str | Path | None = None,
    server_name: str | None = None,
    proxy: str | None = None,
) -> Connection:
    """Open a connection to another server. It is returned, and can be sent to, at once.

    Its events are like those of any other connection. If it cannot be opened, on_error and
    on_close are called.

    - `target`: ``host:port``, ``tcp://host:port``, ``tls://host:port``, ``unix:path``, or
      ``ws://[user:password@]host:port/path`` and ``wss://…``, which mean protocol `websocket`.
    - `url`, `host`, `orig`: path, Host and Origin of a WebSocket's request (default: path and host
      of the target, no Origin). `headers`: additional fields. `subprotocols`: offered in this
      order. `deflate`: whether compression is offered (default: the setting).
    - `connect_timeout`: seconds until the connection must be open (default: the setting).
    - `reconnect`: if the connection ends and no handler closed it, open another one, with a new id.
    - `name`: there is at most one connection of each name; opening it again returns that one.
    - `couple`: the connection that is not read while this one cannot write, and vice versa
      (default: the one whose event is being handled; None: no coupling).
    - `ca`, `cert`, `key`: files, or PEM texts: authorities to trust, our certificate and its key.
      `server_name`: what the certificate must prove, if it is not the target's host. `verify`:
      False accepts any certificate.
    - `proxy`: ``http://[user:password@]host:port`` or ``socks5://…`` (default: the setting
      `connect_proxy`; "": none).

    Raises TypeError or ValueError for invalid arguments (a target without a port, a header with a
    line break, a negative timeout), OSError for a file that cannot be read, and ConnectionError
    while there is no gateway.
    """
    target = values.text(target, "target")
    options = _tls_options(verify, ca, cert, key, server_name)
    if headers is not None:
        options["headers"] = values.headers(headers)
    if subprotocols is not None:
        names = values.many(subprotocols, "subprotocols must be a list of str")
        options["subprotocols"] = [values.token(each, "a subprotocol") for each in names]
    if deflate is not None:
        options["deflate"] = values.flag(deflate, "deflate")
    if name is not None:
        options["name"] = values.text(name, "name")
    if not isinstance(couple, EllipsisType):
        options["couple"] = None if couple is None else to_id(couple)
    options |= _dial_options(connect_timeout, reconnect, proxy)
    protocol = values.text(protocol, "protocol")
    if open_options.is_websocket_target(target):
        protocol = "websocket"
    fields = {
        # In the record, the url "/" means the target's path.
        "target": open_options.without_path(target) if url == "/" else target,
        "protocol": protocol,
        "url": ("" if url is None else values.text(url, "url")) or "/",
        "host": "" if host is None else values.text(host, "host"),
        "orig": values.text(orig, "orig"),
    }
    asked = open_options.check(Open(0, **fields, options=options))
    fields["target"] = asked.shown
    if asked.login:
        # Kept out of the target, which is shown and logged.
        options["headers"] = {"Authorization": asked.login, **options.get("headers", {})}
    return _runtime().open(fields, options)


def _dial_options(
    connect_timeout: float | None, reconnect: bool, proxy: str | None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if connect_timeout is not None:
        options["connect_timeout"] = values.seconds(
            connect_timeout, "connect_timeout", or_zero=True
        )
    if proxy is not None:
        options["proxy"] = values.text(proxy, "proxy")
    if values.flag(reconnect, "reconnect"):
        options["reconnect"] = True
    return options


def _tls_options(
    verify: bool,
    ca: str | Path | None,
    cert: str | Path | None,
    key: str | Path | None,
    server_name: str | None,
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if not values.flag(verify, "verify"):
        options["verify"] = False
    for part, pem in (("ca", ca), ("cert", cert), ("key", key)):
        if pem is not None:
            options[part] = _pem(pem, part)
    if server_name is not None:
        options["server_name"] = values.text(server_name, "server_name")
    return options


def _pem(value: str | Path, part: str) -> str:
    """Read a PEM file here, because the gateway may run on another machine."""
    if not isinstance(value, str | PurePath):
        raise TypeError(f"{part} must be a file or a PEM text, not {values.kind_of(value)}")
    if isinstance(value, str) and "-----BEGIN" in value:
        return values.text(value, part)
    # Certificates are ASCII; comments around them may have any encoding.
    return Path(value).read_text("utf-8", "replace")


@overload
def connection(con: Connection | int) -> Connection: ...
@overload
def connection(con: RemoteConnection | str) -> Connection | RemoteConnection: ...
def connection(con: AnyConnection | int | str) -> AnyConnection:
    """The connection of that id, whichever worker serves it, so that it can be sent to or closed.

    With a reference (`con.ref`), the connection may be at another gateway of the cluster; then it
    can only be sent to and closed. It may be closed already; only its events show that. Raises
    TypeError for anything that is neither, ValueError for a text that is not a reference.
    """
    if isinstance(con, Connection | RemoteConnection):
        return con
    return _runtime().reached(values.reference(con) if isinstance(con, str) else to_id(con))


@overload
def join(group: str, con: Connection | int) -> None: ...
@overload
def join(group: str, con: Connection | int, *, since: str | None) -> Asked[Joined]: ...


def join(
    group: str, con: Connection | int, *, since: str | EllipsisType | None = ...
) -> Asked[Joined] | None:
    """Add a connection to a group, like ``con.join(group)``, or from a position on, like
    ``con.join(group, since=position)``."""
    if isinstance(since, EllipsisType):
        connection(con).join(group)
        return None
    return connection(con).join(group, since=since)


def leave(group: str, con: Connection | int) -> None:
    """Remove a connection from a group, like ``con.leave(group)``."""
    connection(con).leave(group)


def publish(
    group: str,
    msg: Message,
    *,
    exclude: Connection | int | Iterable[Connection | int] = (),
) -> None:
    """Send a message to all connections of a group, whichever workers serve them.

    `exclude`: a connection, or connections, that do not get it. Raises TypeError or ValueError for
    anything that is not a whole message.
    """
    _runtime().command(*publish_command(group, msg, exclude))


def publish_command(
    group: str, msg: Message, exclude: Connection | int | Iterable[Connection | int]
) -> tuple[Publish, int]:
    """The command of `publish`, and the bytes of its data."""
    name = values.group(group)
    data, type_, options, size = _published(msg, exclude)
    return Publish(name, data, type_, options), size + values.size(name)


def send_to_user(
    user: str,
    msg: Message,
    *,
    exclude: Connection | int | Iterable[Connection | int] = (),
) -> None:
    """Send a message to all connections that are bound to a user by `con.user`, whichever workers
    serve them; otherwise like `publish`. Nothing is sent to a user who has no connection."""
    _runtime().command(*send_to_user_command(user, msg, exclude))


def send_to_user_command(
    user: str, msg: Message, exclude: Connection | int | Iterable[Connection | int]
) -> tuple[SendToUser, int]:
    """The command of `send_to_user`, and the bytes of its data."""
    name = values.user(user)
    data, type_, options, size = _published(msg, exclude)
    return SendToUser(name, data, type_, options), size + values.size(name)


def _published(
    msg: Message, exclude: Connection | int | Iterable[Connection | int]
) -> tuple[bytes, str, dict[str, Any], int]:
    """Data, type and options of a message for many, and the bytes of both."""
    data, type_, final = parse_message(msg)
    if not final:
        raise ValueError("only a whole message can be published; this one has final=False")
    ids = to_ids(exclude)
    return data, type_, {"except": ids} if ids else {}, len(data) + 9 * len(ids)


def members(group: str) -> Asked[list[int | str]]:
    """The ids of all connections of a group, in the order in which they joined; of those at other
    gateways of the cluster, which come last, the references.

    ``await wsraw.members("room")`` in an async handler, ``wsraw.members("room").result()`` in a
    plain one. Joins of the running handler count once it has returned, or has called `flush`.
    Raises ConnectionError if there is no gateway, or it is lost before it has answered.
    """
    return _runtime().questions.members(values.group(group))


def count(group: str) -> Asked[int]:
    """How many connections are in a group; otherwise like `members`."""
    return _runtime().questions.count(values.group(group))


def users(group: str) -> Asked[dict[str, int]]:
    """The users in a group, and how many of each one's connections are; in the order in which they
    joined, at most 10,000 of each gateway. Connections without a user are left out. Otherwise like
    `members`."""
    return _runtime().questions.users(values.group(group))


def connections(group: str) -> Asked[Connections]:
    """The connections of a group, as a sequence, whichever workers serve them; otherwise like
    `members`."""
    runtime = _runtime()
    return runtime.questions.members(values.group(group)).map(
        lambda ids: Connections(ids, runtime.reached)
    )


def user_connections(user: str) -> Asked[Connections]:
    """The connections of a user, otherwise like `connections`: none if the user is not here."""
    runtime = _runtime()
    return runtime.questions.user_connections(values.user(user)).map(
        lambda ids: Connections(ids, runtime.reached)
    )


def flush() -> None:
    """Send the commands of the current handler before it returns.

    For handlers that take long. If the worker dies before the handler returns, these commands are
    repeated.
    """
    _runtime().flush()


def call_soon(function: Callable[..., Any], *args: Any) -> None:
    """Call a function between handlers, in their thread; to be used from other threads.

    Its commands are sent at once. It may be ``async def`` if handlers are. Raises TypeError for
    anything that is not a function.
    """
    values.function(function, "what call_soon calls")
    _worker()[1](function, args)
