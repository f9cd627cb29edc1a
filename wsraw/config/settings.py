"""Sans-I/O. Every setting: name, type, default, and its meaning as a docstring.

options.py derives the command line, the file and the docs from it, texts included.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

KIB: Final = 1024
MIB: Final = 1024 * 1024

LARGEST_MESSAGE: Final = 63 * MIB
"""Bytes of the largest message that fits into a batch, in both directions."""

Seconds = Annotated[float, Meta(ge=0, extra={"unit": "time"})]
Size = Annotated[int, Meta(ge=0, extra={"unit": "size"})]
Bytes = Annotated[int, Meta(ge=1, extra={"unit": "size"})]
Count = Annotated[int, Meta(ge=0)]
PositiveCount = Annotated[int, Meta(ge=1)]
PathText = Annotated[str, Meta(extra={"path": True})]
PathTexts = Annotated[tuple[str, ...], Meta(extra={"path": True})]
"""Paths, or texts that begin with one."""

Dispatch = Literal["any", "sticky"]
Delivery = Literal["at-least-once", "at-most-once"]
Verdict = Literal["gateway", "handlers"]


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `pools`. What it leaves out is as in the settings of the run."""

    name: str
    """The name that routes use: letters, digits, dots, - and _."""
    workers: PathTexts = ()
    """As the setting `workers`. A pool without it has only workers that are started by hand or on
    other machines."""
    dispatch: Dispatch | None = None
    """Overrides the setting `dispatch` for this pool."""
    delivery: Delivery | None = None
    """Overrides the setting `delivery` for this pool."""
    verdict: Verdict | None = None
    """Overrides the setting `verdict` for this pool."""
    subprotocols: tuple[str, ...] | None = None
    """Overrides the setting `subprotocols` for this pool."""


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `routes`. It matches a client that meets all of its conditions."""

    pool: str
    """The pool that serves clients of this route."""
    path: str = ""
    """The path of the WebSocket request: a pattern such as /rooms/{room}, where {room} is one
    segment, or /files/{path...}, where {path...} is the rest of the path."""
    kind: Literal["any", "websocket", "raw"] = "any"
    """The kind of connection."""
    host: str = ""
    """The Host header of the WebSocket request: example.org, *.example.org, 127.0.0.1:8000."""
    subprotocol: str = ""
    """A subprotocol that the WebSocket client offers. It is then the one that is agreed on."""
    listener: str = ""
    """The listener, written as in `listen`; the part from ? on may be left out."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run. Times are in seconds, sizes in bytes; a time of 0 switches off.

    sources.py collects them. A size may be written as `256KiB` and a time as `5m`. The order is
    that of `--help` and the docs: options.py says where a section begins.
    """

    workers: PathTexts = ()
    """What to run, and in how many processes: a handlers file (handlers.py:4) or the command of a
    worker in another language ('node chat.mjs:4'). May be repeated; all of them serve the same
    clients. none: start no workers. Default without pools: one worker that prints every event."""
    pools: tuple[PoolSettings, ...] = ()
    """A separate group of workers for some of the clients: NAME=WORKERS, such as chat=chat.py:4, or
    NAME alone for workers that are started by hand. May be repeated. More options: [[pools]] in the
    settings file."""
    routes: tuple[RouteSettings, ...] = ()
    """Which pool serves a client: PATTERN=POOL, such as /rooms/{room}=chat, raw=feed,
    websocket=chat or any=chat. May be repeated; the first match wins. Clients that match no route
    go to the default pool, that of `workers`; without one they get 404 (raw: reset). More options:
    [[routes]] in the settings file."""
    dispatch: Dispatch = "any"
    """any: an idle connection may move to a less busy worker, with its state. sticky: a connection
    stays with its worker as long as that worker lives."""
    concurrency: PositiveCount = 100
    """Events that one worker with async handlers works on at the same time. Plain handlers always
    work on one event at a time."""
    messages: Literal["frames", "whole"] = "frames"
    """frames: call on_message for each WebSocket frame. whole: join the fragments of a message
    first."""
    subprotocols: tuple[str, ...] = ()
    """A WebSocket subprotocol of the handlers. May be repeated, preferred ones first; the first
    that a client offers is agreed on."""
    on_exception: Literal["close", "keep"] = "close"
    """Whether to close or keep a connection whose handler raised."""
    delivery: Delivery = "at-least-once"
    """What happens to the unfinished events of a worker that died. at-least-once: another worker
    handles them again. at-most-once: they are not repeated, and their connections are closed."""
    max_deliveries: PositiveCount = 3
    """How often an event is delivered to workers that die of it. Then it becomes a dead letter, and
    its connection is closed (1011)."""
    handler_timeout: Seconds = 30.0
    """Kill a worker as hung when one of its handlers takes longer than this."""
    worker_wait_timeout: Seconds = 30.0
    """Close a new connection (1013, raw: reset) that has waited this long for a worker."""
    max_events: Count = 0
    """Replace a worker after this many events, give or take 10 %. 0: never."""
    max_memory: Size = 0
    """Replace a worker that uses more memory (RSS) than this. Needs /proc. 0: never."""
    reload: bool = False
    """Reload when the handlers file changes, or another *.py file in its folder or below."""
    listen: tuple[str, ...] = ("127.0.0.1:8000",)
    """Where clients connect: HOST:PORT, [IPV6]:PORT or unix:PATH. May be repeated. Prefixes fix the
    protocol: raw:// or ws://, with TLS tls:// or wss://. Options for this listener alone follow a
    ?, as in HOST:PORT?plain_http=health: first_byte_timeout, plain_http, proxy_protocol and the tls
    settings."""
    plain_http: Literal["raw", "reject", "health"] = "raw"
    """How to treat an HTTP request that does not ask for a WebSocket. raw: as raw data. reject:
    answer 426. health: answer 200, for health checks."""
    first_byte_timeout: Seconds = 0.0
    """Treat a client as raw when it has sent nothing for this long after connecting: for protocols
    in which the server speaks first."""
    tls: Literal["auto", "off", "optional", "required"] = "auto"
    """TLS on listeners without a prefix. required: always. optional: the first byte of each
    connection decides. off: never. auto: required if there is a tls_cert."""
    tls_cert: PathTexts = ()
    """File with a certificate and its chain (PEM). May be repeated: the first one is the default,
    each further one names the servers that it is for: example.org,*.example.org=FILE."""
    tls_key: PathTexts = ()
    """File with the private key (PEM, not encrypted) of each tls_cert, in the same order. Not
    needed if the tls_cert files contain the keys."""
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest TLS version that is accepted."""
    tls_client_ca: PathText = ""
    """File with the certificate authorities (PEM) for client certificates."""
    tls_client_auth: Literal["none", "optional", "required"] = "none"
    """Whether clients present a certificate. A certificate that tls_client_ca has not signed is
    rejected, with optional too."""
    verdict: Verdict = "gateway"
    """Who accepts WebSocket clients. gateway: it accepts all at once. handlers: the handshake waits
    for on_connect, which may reject it with an HTTP status."""
    verdict_timeout: Seconds = 10.0
    """Answer 503 when on_connect takes longer than this to decide."""
    origins: tuple[str, ...] = ("same-origin",)
    """Web pages that may connect: https://example.org, https://*.example.org, file://, same-origin,
    null or any. May be repeated. Other origins get 403. Clients that send no Origin header
    (anything but a browser) are allowed."""
    hosts: tuple[str, ...] = ("any",)
    """Host names that HTTP and WebSocket clients may use: example.org, *.example.org,
    127.0.0.1:8000 or any. May be repeated. Other hosts get 421."""
    trusted_proxies: tuple[str, ...] = ()
    """Proxies that may say who their client is: an address, a network such as 10.0.0.0/8, or unix
    for peers on unix sockets. May be repeated."""
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    """Whether connections begin with a PROXY header (version 1 or 2). required: always; only
    trusted proxies may connect. optional: trusted proxies may send one."""
    forwarded: Literal["x-forwarded-for", "forwarded", "off"] = "x-forwarded-for"
    """The HTTP header in which trusted proxies name their client. Choose the one that your proxy
    sets itself: a header that it passes on can be forged."""
    max_connections: Count = 0
    """Most connections at the same time. Further clients are refused (503, raw: reset). 0: as many
    as the limit on open files allows."""
    max_connections_per_address: Count = 1024
    """Most connections at the same time from one IPv4 address or IPv6 /64 network. Further clients
    are refused (429, raw: reset). Loopback and unix sockets are exempt. 0: no limit."""
    silence_timeout: Seconds = 60.0
    """Disconnect a client that sends nothing for this long after connecting."""
    handshake_timeout: Seconds = 10.0
    """Most time for the TLS handshake, and again for the HTTP request headers (408)."""
    max_header_size: Annotated[int, Meta(ge=1024, extra={"unit": "size"})] = 16 * KIB
    """Largest HTTP request line and headers (431)."""
    max_message_size: Annotated[Bytes, Meta(le=LARGEST_MESSAGE)] = MIB
    """Largest WebSocket message after decompression (1009); at most 63MiB."""
    message_rate: Annotated[float, Meta(ge=0)] = 0.0
    """Messages per second that a client may send on average: WebSocket frames (pings too), or reads
    of a raw connection. 0: no limit."""
    byte_rate: Size = 0
    """Bytes per second that a client may send on average. 0: no limit."""
    rate_burst: Seconds = 1.0
    """How much of both rates a client may use at once after a silence, in seconds of that rate."""
    rate_action: Literal["pause", "close"] = "pause"
    """What happens to a client above a rate. pause: it is read from more slowly. close: it is
    closed (1008)."""
    idle_timeout: Seconds = 0.0
    """Close (1001) a client that has neither sent nor received data for this long; pings do not
    count. It may take up to a fifth longer. 0: never."""
    write_timeout: Seconds = 60.0
    """Close (1008) a client that has read none of its waiting output for this long."""
    output_limit: Bytes = 4 * MIB
    """Most bytes of output that may wait for one client."""
    overflow: Literal["close", "drop-newest", "drop-oldest"] = "close"
    """What happens at output_limit. close: close the client (1008). drop-newest, drop-oldest: drop
    published messages for it. Messages sent to one client are never dropped."""
    high_water_mark: Bytes = 256 * KIB
    """Stop reading from a connection when more bytes than this are held for it, until a quarter is
    left."""
    pause_timeout: Seconds = 120.0
    """Close (1013) a connection that could not be read from for this long."""
    memory_limit: Size = 0
    """Most bytes held for all connections together. Above 80 % new clients are refused; above 100 %
    reading stops and the connections that hold most are closed (1013). 0: a quarter of the memory
    of this machine or container."""
    ping_interval: Seconds = 20.0
    """Ping a WebSocket that has been silent for this long."""
    ping_timeout: Seconds = 20.0
    """Close (1011) a WebSocket that stays silent for this long after a ping."""
    close_timeout: Seconds = 10.0
    """Most time for the peer to complete a close."""
    connect_timeout: Seconds = 10.0
    """Most time for a connection that a handler opens to be established."""
    deflate: bool = True
    """Offer and accept WebSocket compression (permessage-deflate)."""
    deflate_from: Size = 1024
    """Compress messages of at least this many bytes. Fragmented messages are always compressed:
    their size is not known in advance."""
    deflate_window_bits: Annotated[int, Meta(ge=9, le=15)] = 12
    """Size of the compression window, as a power of 2, in both directions if the peer agrees. A
    larger window compresses better and costs more memory."""
    deflate_context_takeover: bool = False
    """Compress with the context of earlier messages. Small messages become smaller; each connection
    needs more memory, and published messages are compressed once for each client."""
    run_dir: PathText = ""
    """Folder for sockets, token and dead letters of the run; only its owner may access it. Default:
    a new folder for each run."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe messages that are logged."""
    stop_timeout: Seconds = 30.0
    """Most time for handlers and clients to finish when the run is stopped."""
    drain_timeout: Seconds = 30.0
    """Most time for the handlers of a worker that is being replaced; then it is killed."""
    start_timeout: Seconds = 60.0
    """Most time for a worker to load its handlers file and connect; then it is killed, and another
    one is started."""
    gateway_timeout: Seconds = 60.0
    """Kill and restart a gateway that has not answered the supervisor for this long. 0: never."""
    restart_intensity: Count = 5
    """Deaths of starting workers within 30 s above which a pool is in a crash loop: at the start
    the run ends, later it keeps trying."""
    worker_listen: tuple[str, ...] = ()
    """Where workers on other machines connect: tcp://ADDRESS:PORT. May be repeated. Except on
    loopback it needs link_key and worker_keys."""
    link_key: PathText = ""
    """File with the gateway's secret key for worker_listen, made by `wsraw keygen`."""
    worker_keys: PathText = ""
    """File, or folder of *.pub files, with the public keys of the workers that may connect, and the
    pools that each may join."""
    worker_heartbeat: Annotated[Seconds, Meta(le=60)] = 2.0
    """Interval of heartbeats on links to other machines. A link is lost after three without an
    answer."""


# --- copies, and the way to a child process ---

_Any = TypeVar("_Any", Settings, PoolSettings, RouteSettings)


def replaced(settings: _Any, **changes: Any) -> _Any:
    """A copy with these changes."""
    return msgspec.structs.replace(settings, **changes)


def to_json(settings: Settings) -> str:
    """The settings as a child process reads them."""
    return msgspec.json.encode(settings).decode()


def from_json(text: str) -> Settings:
    """The settings that `to_json` wrote. Raises ValueError for anything else."""
    try:
        return msgspec.json.decode(text, type=Settings)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ValueError(f"not settings: {error}") from error
