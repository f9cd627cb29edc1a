"""Sans-I/O. Every setting once: name, type, default, meaning.

options.py makes the command line, the file and the docs of it; checks.py says whether they fit each
other, addresses.py reads the one that is more than a value.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_type_hints

import msgspec
from msgspec import Meta

KIB: Final = 1024
MIB: Final = 1024 * 1024

LARGEST_MESSAGE: Final = 63 * MIB
"""The most that `max_message_size` may be: such a message fits into a batch, both ways."""

MOST_HEADERS: Final = 128
"""What the library behind the handshake takes."""

Seconds = Annotated[float, Meta(ge=0, extra={"unit": "time"})]
Size = Annotated[int, Meta(ge=0, extra={"unit": "size"})]
Bytes = Annotated[int, Meta(ge=1, extra={"unit": "size"})]
IS_PATH: Final = {"path": True}
"""Of a setting whose value, or what it begins with, is a path."""


Dispatch = Literal["any", "sticky"]
Delivery = Literal["at-least-once", "at-most-once"]
Verdict = Literal["gateway", "handlers"]


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `pools`. What it does not say is as in the settings of the run."""

    name: Annotated[str, Meta(description="What routes call it: letters, digits, dots, - and _.")]
    workers: Annotated[
        tuple[str, ...],
        Meta(
            description="As the setting of the same name. Without any, only those serve it that "
            "come by themselves, from other machines or by hand.",
            extra=IS_PATH,
        ),
    ] = ()
    dispatch: Annotated[
        Dispatch | None, Meta(description="As the setting of the same name, for this pool.")
    ] = None
    delivery: Annotated[
        Delivery | None, Meta(description="As the setting of the same name, for this pool.")
    ] = None
    verdict: Annotated[
        Verdict | None, Meta(description="As the setting of the same name, for this pool.")
    ] = None
    subprotocols: Annotated[
        tuple[str, ...] | None,
        Meta(description="As the setting of the same name, for this pool."),
    ] = None


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `routes`. It takes a client for which all holds that it says."""

    pool: Annotated[str, Meta(description="The pool that it leads to.")]
    path: Annotated[
        str,
        Meta(
            description="Of a WebSocket: a pattern such as /rooms/{room}, where {room} is one "
            "segment, or /files/{path...}, where {path...} is all that is left."
        ),
    ] = ""
    kind: Annotated[
        Literal["any", "websocket", "raw"],
        Meta(description="What the client is."),
    ] = "any"
    host: Annotated[
        str,
        Meta(
            description="The Host that a WebSocket was opened under: example.org, *.example.org, "
            "127.0.0.1:8000."
        ),
    ] = ""
    subprotocol: Annotated[
        str,
        Meta(description="One that the client of a WebSocket offers; it is agreed on, then."),
    ] = ""
    listener: Annotated[
        str,
        Meta(description="One of listen, as it stands there; what follows a ? may be left out."),
    ] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run can be told. Times are seconds, sizes are bytes; 0 switches a time off.

    sources.py gathers them; a size may come as `256KiB` and a time as `5m`.
    """

    listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where clients connect: HOST:PORT, [IPV6]:PORT or unix:PATH; may be "
            "repeated. raw:// or ws:// in front fixes the protocol, tls:// or wss:// does so with "
            "TLS; ?name=value behind it sets first_byte_timeout, plain_http, proxy_protocol or one "
            "of the tls settings for this listener alone."
        ),
    ] = ("127.0.0.1:8000",)
    workers: Annotated[
        tuple[str, ...],
        Meta(
            description="Handlers file, and how many processes run it: handlers.py or "
            "handlers.py:4. Or the command of a worker in another language: 'node chat.mjs:4'. May "
            "be repeated: all serve the same clients. none: workers come from elsewhere alone. "
            "Without it, and without pools, every event is printed.",
            extra=IS_PATH,
        ),
    ] = ()
    pools: Annotated[
        tuple[PoolSettings, ...],
        Meta(
            description="Workers for some of the clients: NAME=WORKERS, as in chat=chat.py:4, or "
            "NAME alone for a pool that workers join by themselves. May be repeated, of one name, "
            "too. In a file [[pools]].",
            extra={"flag": "pool"},
        ),
    ] = ()
    routes: Annotated[
        tuple[RouteSettings, ...],
        Meta(
            description="Which clients a pool serves: PATTERN=POOL, as in /rooms/{room}=chat, "
            "raw=feed, websocket=chat or any=chat. May be repeated; the first that fits counts. "
            "Who fits none goes to workers; without these, 404, raw: reset. In a file [[routes]].",
            extra={"flag": "route"},
        ),
    ] = ()
    run_dir: Annotated[
        str,
        Meta(
            description="Folder for the link's sockets; private. Default: a fresh one.",
            extra=IS_PATH,
        ),
    ] = ""
    dispatch: Annotated[
        Dispatch,
        Meta(
            description="any: an idle connection may move to a less busy worker, its state with "
            "it. sticky: a connection stays with its worker while that one lives."
        ),
    ] = "any"
    concurrency: Annotated[
        int,
        Meta(
            ge=0,
            description="Events that async handlers may work on at the same time in one worker; "
            "0 means 100. Plain handlers take one at a time.",
        ),
    ] = 0
    on_exception: Annotated[
        Literal["close", "keep"],
        Meta(description="What becomes of a connection whose handler raised."),
    ] = "close"
    subprotocols: Annotated[
        tuple[str, ...],
        Meta(
            description="WebSocket subprotocols that the handlers speak, best first; the first one "
            "that a client offers is agreed on. May be repeated."
        ),
    ] = ()
    verdict: Annotated[
        Verdict,
        Meta(
            description="Who lets a client in. gateway: it does, at once. handlers: a WebSocket's "
            "handshake waits for on_connect, which may reject it with an HTTP status."
        ),
    ] = "gateway"
    verdict_timeout: Annotated[
        Seconds, Meta(description="The longest a handshake waits for that; then 503.")
    ] = 10.0
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Whose web pages may connect: https://example.org, "
            "https://*.example.org, file://, same-origin, null, any. Others get 403. Clients that "
            "send no Origin header (anything but a browser) are allowed. May be repeated."
        ),
    ] = ("same-origin",)
    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Names under which clients that speak HTTP may connect: example.org, "
            "*.example.org, 127.0.0.1:8000, any. Other Hosts get 421. May be repeated."
        ),
    ] = ("any",)
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Proxies that are believed who their client is: an address, a network as "
            "10.0.0.0/8, or unix for peers on unix sockets. May be repeated."
        ),
    ] = ()
    proxy_protocol: Annotated[
        Literal["off", "optional", "required"],
        Meta(
            description="Whether connections begin with a PROXY header, version 1 or 2. required: "
            "only trusted proxies may connect. optional: they may send one, and nobody else."
        ),
    ] = "off"
    forwarded: Annotated[
        Literal["x-forwarded-for", "forwarded", "off"],
        Meta(
            description="The header in which trusted proxies say who their client is: the one that "
            "they write themselves, never one that they pass on."
        ),
    ] = "x-forwarded-for"
    delivery: Annotated[
        Delivery,
        Meta(
            description="What becomes of the messages that a worker held when it died: they go to "
            "another one, or they are not repeated and their connections are closed."
        ),
    ] = "at-least-once"
    max_deliveries: Annotated[
        int,
        Meta(
            ge=1,
            description="Deaths of workers after which an event that was handled alone in the last "
            "one goes to the dead letters, and its connection is closed (1011).",
        ),
    ] = 3
    handler_timeout: Annotated[
        Seconds,
        Meta(description="The longest a handler may take; then its worker is killed as hung."),
    ] = 30.0
    max_events: Annotated[
        int,
        Meta(
            ge=0,
            description="Events after which a worker is replaced in good order, give or take 10 %.",
        ),
    ] = 0
    messages: Annotated[
        Literal["frames", "whole"],
        Meta(
            description="frames: on_message for each WebSocket frame. whole: fragments are joined "
            "first."
        ),
    ] = "frames"
    plain_http: Annotated[
        Literal["raw", "reject", "health"],
        Meta(
            description="What becomes of an HTTP request without Upgrade: websocket, whatever its "
            "method. raw: it is raw data. reject: 426. health: 200, for health checks."
        ),
    ] = "raw"
    tls: Annotated[
        Literal["auto", "off", "optional", "required"],
        Meta(
            description="TLS where a listener's address does not say it: required; optional, by "
            "the first byte of each connection; off. auto: required where there is a tls_cert."
        ),
    ] = "auto"
    tls_cert: Annotated[
        tuple[str, ...],
        Meta(
            description="File of the server's certificate and its chain (PEM). May be repeated; "
            "the first is for all clients, the others for the server names in front of them: "
            "example.org,*.example.org=FILE.",
            extra=IS_PATH,
        ),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        Meta(
            description="File of the key (PEM, not encrypted), one for each tls_cert; without any "
            "the keys stand in the tls_cert files.",
            extra=IS_PATH,
        ),
    ] = ()
    tls_min_version: Annotated[
        Literal["1.2", "1.3"], Meta(description="The oldest version of TLS that is spoken.")
    ] = "1.2"
    tls_client_ca: Annotated[
        str,
        Meta(
            description="File of the authorities (PEM) that certificates of clients need.",
            extra=IS_PATH,
        ),
    ] = ""
    tls_client_auth: Annotated[
        Literal["none", "optional", "required"],
        Meta(
            description="Whether clients are asked for a certificate. One that tls_client_ca does "
            "not vouch for ends the handshake, with optional too."
        ),
    ] = "none"
    first_byte_timeout: Annotated[
        Seconds,
        Meta(
            description="A client silent for so long after connecting is raw, for protocols in "
            "which the server speaks first."
        ),
    ] = 0.0
    silence_timeout: Annotated[
        Seconds,
        Meta(
            description="A client that has sent nothing for so long after connecting is cut off, "
            "where first_byte_timeout does not make it raw."
        ),
    ] = 60.0
    handshake_timeout: Annotated[
        Seconds,
        Meta(
            description="The longest a client may take to send its HTTP head (408); before that, "
            "as long again for TLS, from the moment it was accepted."
        ),
    ] = 10.0
    max_header_size: Annotated[
        int,
        Meta(
            ge=1024,
            description="The largest HTTP head of a client, its first line included (431).",
            extra={"unit": "size"},
        ),
    ] = 16 * KIB
    max_header_count: Annotated[
        int,
        Meta(ge=1, le=MOST_HEADERS, description="The most headers that it may have (431)."),
    ] = 100
    max_connections: Annotated[
        int,
        Meta(
            ge=0,
            description="Connections at the same time, above which new clients are refused (503, "
            "raw: reset); 0 means as many as there are descriptors for, less a tenth at least.",
        ),
    ] = 0
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=0,
            description="The same for one IPv4 address, or one IPv6 network of 64 bits (429, raw: "
            "reset). Loopback and unix sockets are not counted. 0: no bound.",
        ),
    ] = 1024
    message_rate: Annotated[
        float,
        Meta(
            ge=0,
            description="Messages (WebSocket frames, pings too, or reads of a raw connection) that "
            "a client may send in a second, on average; 0: as many as it likes.",
        ),
    ] = 0.0
    byte_rate: Annotated[
        Size,
        Meta(
            description="Bytes that a client may send in a second, on average; 0: as many as it "
            "likes."
        ),
    ] = 0
    rate_burst: Annotated[
        Seconds,
        Meta(description="So many seconds' worth of both rates may come at once after a silence."),
    ] = 1.0
    rate_action: Annotated[
        Literal["pause", "close"],
        Meta(
            description="Who sends more is not read from until its average is right again, or is "
            "closed (1008)."
        ),
    ] = "pause"
    idle_timeout: Annotated[
        Seconds,
        Meta(
            description="A client to and from which no data has gone for so long is closed (1001); "
            "pings are no data. It may take a fifth longer."
        ),
    ] = 0.0
    write_timeout: Annotated[
        Seconds,
        Meta(
            description="A connection that has taken nothing of its waiting output for so long is "
            "closed (1008)."
        ),
    ] = 60.0
    connect_timeout: Annotated[
        Seconds, Meta(description="The longest an opened connection may take until it stands.")
    ] = 10.0
    close_timeout: Annotated[
        Seconds, Meta(description="The longest wait for the peer's half of a close.")
    ] = 10.0
    ping_interval: Annotated[
        Seconds, Meta(description="A WebSocket silent for so long is sent a ping.")
    ] = 20.0
    ping_timeout: Annotated[
        Seconds, Meta(description="One that stays silent for so long after it is closed (1011).")
    ] = 20.0
    max_message_size: Annotated[
        Bytes,
        Meta(
            description="The largest WebSocket message, after decompression (1009); at most 63 MiB."
        ),
    ] = MIB
    max_frame_size: Annotated[
        Size,
        Meta(
            description="The largest single WebSocket frame, after decompression (1009); 0: as "
            "max_message_size.",
        ),
    ] = 0
    deflate: Annotated[
        bool, Meta(description="Agree on compression (permessage-deflate) with those who want it.")
    ] = True
    deflate_from: Annotated[
        Size,
        Meta(
            description="Bytes of a message from which on it is sent compressed. Fragmented ones "
            "always are: their size is not known.",
        ),
    ] = 1024
    deflate_level: Annotated[
        int,
        Meta(ge=1, le=9, description="How hard zlib tries: 1 is fastest, 9 is smallest."),
    ] = 6
    deflate_window_bits: Annotated[
        int,
        Meta(
            ge=9,
            le=15,
            description="Compression looks back over 2 to the power of this many bytes, in both "
            "directions where the peer agrees. More finds more, and costs more memory.",
        ),
    ] = 12
    deflate_context_takeover: Annotated[
        bool,
        Meta(
            description="Compression remembers earlier messages: smaller ones come out shorter, "
            "for memory that each connection keeps, and published messages are compressed for each."
        ),
    ] = False
    high_water_mark: Annotated[
        Bytes,
        Meta(description="Bytes held for one connection above which reading from it pauses."),
    ] = 256 * KIB
    low_water_mark: Annotated[
        Bytes, Meta(description="Bytes held for one connection below which reading resumes.")
    ] = 64 * KIB
    output_limit: Annotated[
        Bytes,
        Meta(description="Output bytes of one connection above which it is closed (1008)."),
    ] = 4 * MIB
    overflow: Annotated[
        Literal["close", "drop-newest", "drop-oldest"],
        Meta(
            description="At that bound: close the slow reader, or drop the newest or oldest "
            "published messages for it. What was sent to it alone is never dropped."
        ),
    ] = "close"
    memory_limit: Annotated[
        Size,
        Meta(
            description="Bytes held for all connections: above 80 % no new ones, above 100 % "
            "nobody is read from and the fullest are closed (1013); 0 means a quarter of "
            "the memory that this machine, or this container, has.",
        ),
    ] = 0
    worker_wait_timeout: Annotated[
        Seconds,
        Meta(description="The longest a new connection waits for a worker (1013, raw: reset)."),
    ] = 30.0
    pause_timeout: Annotated[
        Seconds,
        Meta(description="The longest reading may stay paused; then 1013, cause stalled."),
    ] = 120.0
    stop_timeout: Annotated[
        Seconds, Meta(description="The longest a stop waits for handlers and clients.")
    ] = 30.0
    drain_timeout: Annotated[
        Seconds,
        Meta(
            description="The longest a worker that is replaced may take to finish its handlers; "
            "then it is killed."
        ),
    ] = 30.0
    start_timeout: Annotated[
        Seconds,
        Meta(
            description="The longest a worker may take to load its handlers file and say hello; "
            "then it is killed, and another is started."
        ),
    ] = 60.0
    gateway_timeout: Annotated[
        Seconds,
        Meta(
            description="The longest the gateway may take to answer the supervisor; then it is "
            "killed as hung, and another is started. 0: it is not asked."
        ),
    ] = 60.0
    worker_listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where workers on other machines connect: tcp://ADDRESS:PORT; may be "
            "repeated. Beyond this machine it needs link_key and worker_keys."
        ),
    ] = ()
    link_key: Annotated[
        str,
        Meta(
            description="File with the gateway's secret key for worker_listen; `wsraw keygen` "
            "makes it.",
            extra=IS_PATH,
        ),
    ] = ""
    worker_keys: Annotated[
        str,
        Meta(
            description="File or folder (*.pub) with the public keys of workers that are let in, "
            "and for which pools.",
            extra=IS_PATH,
        ),
    ] = ""
    insecure_link: Annotated[
        bool,
        Meta(
            description="Let worker_listen be without keys on a network: whoever reads along "
            "there has the token, and every message."
        ),
    ] = False
    worker_heartbeat: Annotated[
        Seconds,
        Meta(
            description="The time between two heartbeats on links to other machines; after three "
            "without an answer the link is lost."
        ),
    ] = 2.0
    reload: Annotated[
        bool,
        Meta(
            description="Reload when the handlers file changes, or another *.py file in its "
            "folder or below."
        ),
    ] = False
    max_memory: Annotated[
        Size,
        Meta(
            description="Bytes of memory (RSS) above which a worker is replaced in good order; "
            "where there is /proc.",
        ),
    ] = 0
    restart_intensity: Annotated[
        int,
        Meta(
            ge=0,
            description="Deaths at the start, within restart_period, above which workers are in a "
            "crash loop.",
        ),
    ] = 5
    restart_period: Annotated[
        Seconds, Meta(description="The time in which restart_intensity deaths are counted.")
    ] = 30.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="What the log shows.")
    ] = "info"

    @property
    def frame_limit(self) -> int:
        """Bytes of a frame's data at most: no frame may have more than its message."""
        return min(self.max_frame_size or self.max_message_size, self.max_message_size)


# --- making and carrying settings ---


def convert(values: Mapping[str, Any]) -> Settings:
    """Settings whose types and bounds are right; how they fit each other is for
    `checks.from_options`.

    Raises ValueError.
    """
    settings: Settings = convert_to(values, Settings)
    return settings


def convert_field(name: str, value: Any, kind: type[msgspec.Struct]) -> Any:
    """One value of a struct, its type and bounds checked. Raises ValueError, with the name."""
    try:
        # The struct may have others that must be said, too.
        return msgspec.convert(value, _hints(kind)[name])
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        raise ValueError(f"{name}{path.rstrip('`')}: {what}") from error


@cache
def _hints(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """Looked up once: it takes a millisecond, and there may be thousands of routes."""
    return get_type_hints(kind, include_extras=True)


_Any = TypeVar("_Any", Settings, PoolSettings, RouteSettings)


def replaced(settings: _Any, **changes: Any) -> _Any:
    """The same settings with some others."""
    return msgspec.structs.replace(settings, **changes)


def to_json(settings: Settings) -> str:
    """For a child process."""
    return msgspec.json.encode(settings).decode()


def from_json(text: str) -> Settings:
    """The settings that `to_json` wrote. Raises ValueError for anything else."""
    try:
        return msgspec.json.decode(text, type=Settings)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError(f"not settings: {error}") from error


def convert_to(values: Mapping[str, Any], kind: type[Any]) -> Any:
    """A struct whose types and bounds are right. Raises ValueError that begins with a name."""
    for name in values:
        if name not in kind.__struct_fields__:
            raise ValueError(f"{name}: there is no such setting")
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$.")
        name = path.rstrip("`")
        raise ValueError(f"{name}: {what}" if name else what) from error
