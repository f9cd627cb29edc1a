"""Sans-I/O. The functions that a handlers file imports from wsraw; they reach the one runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Final

from wsraw.link import open_options
from wsraw.link.records import Open, Publish
from wsraw.workers import values
from wsraw.workers.connection import FORKED, Connection, Message, parse_message, to_id, to_ids

if TYPE_CHECKING:
    from wsraw.workers.runtime import Runtime


class _During:
    """Stands for the connection whose event is being handled."""

    def __repr__(self) -> str:
        return "DURING"


DURING: Final = _During()

CallSoon = Callable[[Callable[..., Any], tuple[Any, ...]], None]
_installed: tuple[Runtime, CallSoon] | None = None
_why_none = NO_WORKER = "this works in a wsraw worker, while its handlers run"


def install(runtime: Runtime, call_soon: CallSoon) -> None:
    """Make this the worker that the functions below speak for. One process, one worker."""
    global _installed
    _installed = runtime, call_soon


def installed() -> bool:
    """Whether this process has its worker."""
    return _installed is not None


def uninstall() -> None:
    """That worker is over; the functions below raise until there is another one."""
    global _installed, _why_none
    _installed, _why_none = None, NO_WORKER


def forked() -> None:
    """This process was forked from the worker's: it has none, and may have one of its own."""
    global _installed, _why_none
    _installed, _why_none = None, FORKED


def _runtime() -> Runtime:
    if _installed is None:
        raise RuntimeError(_why_none)
    return _installed[0]


def send_message(msg: Message, con: Connection | int) -> None:
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
    couple: Connection | int | _During | None = DURING,
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
) -> Connection:
    """Open a connection to another server; it is returned at once and can be sent to at once.

    What happens to it comes as events like those of any other. If it cannot be opened, that is an
    on_error and an on_close.

    `target`: ``host:port``, ``tcp://host:port``, ``tls://host:port``, ``unix:path``, or
    ``ws://host:port/path`` and ``wss://host/path``, which mean protocol `websocket`. With
    ``ws://user:password@host`` a WebSocket logs in (Basic); `con.target` does not show that. `url`,
    `host`: path and Host of a WebSocket's request; those of the target when None. `orig`: its
    Origin; there is none by default, as it is not a browser. `headers`: more of them.
    `subprotocols`: offered in that order. `connect_timeout`: seconds until it must stand; the
    setting when None. `reconnect`: when it ends and nobody here wanted that, another one is opened
    after a while (0.5 s at first, up to 30 s, with jitter); it is a new connection with a new id,
    which takes over the name, and on_connect tells of it, for raw ones too. `name`: there is one of
    each name; opening it again gives the one that stands. `couple`: the connection that is not read
    while this one cannot write, and the other way round; by default the one whose event is being
    handled, None for no coupling. `deflate`: whether a WebSocket offers compression; None: as the
    setting says.

    With TLS the server's certificate is verified, by the authorities that the gateway's system
    trusts. `ca`: by those of this file alone. `cert`, `key`: files of a certificate that we show,
    and its key. (PEM; the text itself will do.) `server_name`: what the server is asked for and
    must prove to be, where that is not the target's host. `verify`: False takes any server for the
    right one.

    Raises TypeError or ValueError for what cannot be opened whatever happens (a target without a
    port, a header with a line break, a negative timeout), OSError for a file that cannot be read,
    and ConnectionError while there is no gateway.
    """
    target = values.text(target, "target")
    protocol = values.text(protocol, "protocol")
    url = "" if url is None else values.text(url, "url")
    host = "" if host is None else values.text(host, "host")
    orig = values.text(orig, "orig")
    options: dict[str, Any] = {}
    if name is not None:
        options["name"] = values.text(name, "name")
    if couple is None:
        options["couple"] = None
    elif not isinstance(couple, _During):
        options["couple"] = to_id(couple)
    if headers is not None:
        options["headers"] = values.headers(headers)
    if subprotocols is not None:
        names = values.many(subprotocols, "subprotocols must be a list of str")
        options["subprotocols"] = [values.token(each, "a subprotocol") for each in names]
    if connect_timeout is not None:
        options["connect_timeout"] = values.seconds(
            connect_timeout, "connect_timeout", or_zero=True
        )
    if deflate is not None:
        options["deflate"] = values.flag(deflate, "deflate")
    if not values.flag(verify, "verify"):
        options["verify"] = False
    for part, pem in (("ca", ca), ("cert", cert), ("key", key)):
        if pem is not None:
            options[part] = _pem(pem, part)
    if server_name is not None:
        options["server_name"] = values.text(server_name, "server_name")
    if values.flag(reconnect, "reconnect"):
        options["reconnect"] = True
    if open_options.is_websocket_target(target):
        protocol = "websocket"
    if url == "/":
        # In the record that means the target's path.
        target = open_options.without_path(target)
    fields = {"target": target, "protocol": protocol, "url": url or "/", "host": host, "orig": orig}
    asked = open_options.check(Open(0, **fields, options=options))
    fields["target"] = asked.shown
    if asked.login:
        # From here on nobody sees it who logs or shows what was opened.
        options["headers"] = {"Authorization": asked.login, **options.get("headers", {})}
    return _runtime().open(fields, options)


def _pem(value: str | Path, part: str) -> str:
    """Read here: the gateway may be on another machine than the file."""
    if not isinstance(value, str | PurePath):
        raise TypeError(f"{part} must be a file or a PEM text, not {values.kind_of(value)}")
    if isinstance(value, str) and "-----BEGIN" in value:
        return values.text(value, part)
    # What stands around the certificates may be in any encoding; they are ASCII.
    return Path(value).read_text("utf-8", "replace")


def connection(con: Connection | int) -> Connection:
    """The connection of that id, whichever worker serves it, so that it can be sent to or closed.

    Raises TypeError for what is no id. Whether it is still there only its events can tell.
    """
    if isinstance(con, Connection):
        return con
    return _runtime().connection(to_id(con))


def join(group: str, con: Connection | int) -> None:
    """Put a connection into a group. The same as ``con.join(group)``."""
    connection(con).join(group)


def leave(group: str, con: Connection | int) -> None:
    """Take a connection out of a group. The same as ``con.leave(group)``."""
    connection(con).leave(group)


def publish(group: str, msg: Message, *, exclude: Iterable[Connection | int] = ()) -> None:
    """Send a message to all connections of a group, whichever workers serve them.

    `exclude`: connections that do not get it. Raises TypeError or ValueError for what is no whole
    message.
    """
    send_publish(publish_command(group, msg, exclude))


def send_publish(command: Publish) -> None:
    """The second half of `publish`."""
    excluded = len(command.options.get("except", ()))
    size = len(command.data) + values.size(command.group) + 9 * excluded
    _runtime().command(command, size)


def publish_command(group: str, msg: Message, exclude: Iterable[Connection | int]) -> Publish:
    """What `publish` commands."""
    name = values.group(group)
    data, type_, final = parse_message(msg)
    if not final:
        raise ValueError("only a whole message can be published; this one has final=False")
    ids = to_ids(exclude)
    return Publish(name, data, type_, {"except": ids} if ids else {})


def flush() -> None:
    """Send what the current handler has commanded so far, before it returns.

    For a handler that takes long. After a crash of the worker these commands can happen twice.
    """
    _runtime().flush()


def call_soon(function: Callable[..., Any], *args: Any) -> None:
    """Call a function in the thread of the handlers, between them; for threads.

    What it commands goes out at once. It may be ``async def`` where handlers are. Raises TypeError
    for what is not a function.
    """
    values.function(function, "what call_soon calls")
    if _installed is None:
        raise RuntimeError(_why_none)
    _installed[1](function, args)
