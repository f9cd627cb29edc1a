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
"""Bytes of the largest message that fits into a batch of the worker link, in both directions."""

LARGEST_REMOTE_MESSAGE: Final = 15 * MIB
"""Bytes of the largest message from a worker on another machine."""

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


BRIDGE: Final = "bridge:"
"""Begins the names of the pools of bridges."""


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `pools`. What it leaves out is as in the settings of the run."""

    name: str
    """The name that routes use: letters, digits, dots, - and _."""
    workers: PathTexts = ()
    """Like the setting `workers`. A pool without it has only workers that are started by hand or on
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
    """The path of the request: a pattern such as /rooms/{room}, where {room} is one segment, or
    /files/{path...}, where {path...} is the rest of the path."""
    kind: Literal["any", "websocket", "raw", "http"] = "any"
    """The kind of connection."""
    host: str = ""
    """The Host header of the request: example.org, *.example.org, 127.0.0.1:8000."""
    subprotocol: str = ""
    """A subprotocol that the WebSocket client offers. It is then the one that is selected."""
    listener: str = ""
    """The listener, written as in `listen`; the part from ? on may be left out."""


class BridgeSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `bridges`: the gateway connects each of its clients to a target by itself. It
    has the clients that meet all of its conditions and match no route."""

    to: str = ""
    """Where to connect: tcp://HOST:PORT, tls://HOST:PORT, ws://HOST:PORT/PATH, wss:// or
    unix:PATH."""
    tokens: PathText = ""
    """Instead of `to`: a file with `token: HOST:PORT` on each line. The client names its token as
    ?token=… or in the path, as the parameter {token}. The file is read again when it changes."""
    name: str = ""
    """A name for the status and the metrics. Default: its number."""
    path: str = ""
    """The path of the request: a pattern such as /vnc/{token}."""
    kind: Literal["any", "websocket", "raw"] = "any"
    """The kind of connection."""
    host: str = ""
    """The Host header of the request: example.org, *.example.org, 127.0.0.1:8000."""
    listener: str = ""
    """The listener, written as in `listen`; the part from ? on may be left out."""
    framing: Literal["chunk", "line", "length"] = "chunk"
    """What counts as a message on a raw side. chunk: whatever arrives at once. line: each line.
    length: each message comes after its length, in four bytes."""
    type: Literal["text", "binary"] | None = None
    """The type of the messages that a WebSocket gets from a raw side. Default: text for lines,
    otherwise binary."""
    subprotocols: tuple[str, ...] = ("binary",)
    """If the target is raw: the subprotocols that are accepted from a WebSocket client. If the
    client is raw: those that are offered to a WebSocket target."""
    verify: bool = True
    """Whether a target with TLS must have a certificate for its name, from an authority that this
    system trusts."""
    server_name: str = ""
    """The name that the certificate of a target with TLS must have, if it is not the name of the
    host."""
    proxy: str | None = None
    """Overrides the setting `connect_proxy`; empty: no proxy."""
    pass_headers: tuple[str, ...] = ("all",)
    """Which headers of the client's request a WebSocket target gets: all, none, or a list of names.
    Host, headers of the connection itself, and headers about the client's address are never passed
    on."""
    pass_host: bool | None = None
    """Whether a WebSocket target gets the Host header of the client's request, instead of the
    target's own name. Default: true, except for wss://."""
    set_headers: tuple[str, ...] = ()
    """Headers for a WebSocket target, as NAME: VALUE. They replace headers of the same name. NAME:
    without a value removes a header."""
    send_forwarded: Literal["x-forwarded-for", "forwarded", "off"] = "x-forwarded-for"
    """The headers that tell a WebSocket target the client's address, scheme and Host:
    X-Forwarded-For, -Proto and -Host, or Forwarded."""
    send_proxy: Literal["off", "v1", "v2"] = "off"
    """Begin each connection to the target with a PROXY header of this version, which has the
    client's address. The target must expect it."""

    @property
    def pool(self) -> str:
        """The pool that its clients are counted in; no pool with workers has such a name."""
        return BRIDGE + self.name

    @property
    def route(self) -> RouteSettings:
        """The route that leads to it."""
        return RouteSettings(
            pool=self.pool,
            path=self.path,
            kind=self.kind,
            host=self.host,
            listener=self.listener,
        )


class HistorySettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `history`. The first one that matches a group counts."""

    groups: str
    """The groups whose messages are kept: a name, or a pattern such as room.*, where * stands for
    any text."""
    messages: Annotated[int, Meta(ge=1, le=1000)] = 100
    """How many of the last messages of each group are kept."""
    time: Seconds = 300.0
    """How long a message is kept. 0: no limit."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run. Times are in seconds, sizes in bytes; a time of 0 switches off.

    sources.py collects them. A size may be written as `256KiB` and a time as `5m`. The order is
    that of `--help` and the docs: options.py says where a section begins. It has as many attributes
    as there are settings: they are looked up by the names under which users set them.
    """

    workers: PathTexts = ()
    """What to run, and in how many processes: a handlers file (handlers.py:4), a module of a
    package (chat.main:4), or the command of a worker in another language ('node chat.mjs:4'). May
    be repeated; all of them serve the same clients. none: start no workers. Default if there are no
    pools: one worker that prints every event."""
    pools: tuple[PoolSettings, ...] = ()
    """A separate group of workers for some of the clients: NAME=WORKERS, such as chat=chat.py:4, or
    NAME alone for workers that are started by hand. May be repeated. [[pools]] in the settings file
    has more options."""
    routes: tuple[RouteSettings, ...] = ()
    """Which pool serves a client: PATTERN=POOL, such as /rooms/{room}=chat, raw=feed,
    websocket=chat, http=api or any=chat. May be repeated; the first match wins. Clients that match
    no route go to the default pool, which `workers` defines. Without a default pool they are
    refused (404, raw: reset). [[routes]] in the settings file has more options."""
    bridges: tuple[BridgeSettings, ...] = ()
    """Forward clients to another server, without workers: TARGET, such as tcp://127.0.0.1:5900, or
    PATH=TARGET for requests with this path. May be repeated. [[bridges]] in the settings file has
    more options."""
    dispatch: Dispatch = "any"
    """Whether a connection may change workers. any: between two events, it may move to a less busy
    worker, with its state. sticky: it stays with its worker as long as that worker lives."""
    concurrency: PositiveCount = 100
    """Maximum number of events that a worker with async handlers handles at the same time. A worker
    with plain handlers handles one at a time."""
    messages: Literal["frames", "whole"] = "frames"
    """What on_message is called for. frames: each WebSocket frame. whole: each complete message,
    with its fragments joined."""
    subprotocols: tuple[str, ...] = ()
    """A WebSocket subprotocol that the handlers support. May be repeated, preferred ones first; the
    first of them that a client offers is selected."""
    history: tuple[HistorySettings, ...] = ()
    """Groups whose last messages the gateway keeps for clients that reconnect: GROUPS=MESSAGES or
    GROUPS=MESSAGES,TIME. For example, room.*=100,5m keeps the last 100 messages of each group whose
    name begins with room., for 5 minutes. May be repeated; the first match counts. All histories
    together take at most a quarter of memory_limit. [[history]] in the settings file has the same
    options."""
    presence: tuple[str, ...] = ()
    """Groups for which on_join and on_leave are called: a name, or a pattern such as room.*, where
    * stands for any text. May be repeated."""
    on_exception: Literal["close", "keep"] = "close"
    """Whether to close or keep a connection when its handler raises an exception."""
    delivery: Delivery = "at-least-once"
    """What happens to the unfinished events of a worker that died. at-least-once: another worker
    handles them again. at-most-once: they are not repeated, and their connections are closed."""
    max_deliveries: PositiveCount = 3
    """Set an event aside as a dead letter, and close its connection (1011), after this many workers
    have died while handling it."""
    handler_timeout: Seconds = 30.0
    """Cancel an async handler that takes longer than this. If the handler does not end then, or is
    a plain function, kill its worker."""
    worker_wait_timeout: Seconds = 30.0
    """Close a new connection (1013, raw: reset) that has waited this long, if its pool has no ready
    worker. As long as the pool has a ready worker, however busy, connections wait."""
    max_events: Count = 0
    """Replace a worker after about this many events: up to 10 % more or fewer, at random, so that
    not all workers are replaced at once. 0: never."""
    max_memory: Size = 0
    """Replace a worker that uses more memory (RSS) than this, on Linux and Windows. 0: never."""
    reload: bool = False
    """Reload when the handlers file, or a *.py file in its folder or a subfolder, changes. For a
    module in a package, the folder that contains the package is watched."""
    listen: tuple[str, ...] = ("127.0.0.1:8000",)
    """Where clients connect: HOST:PORT, [IPV6]:PORT, unix:PATH, or, for a socket that a service
    manager passes, fd:NUMBER or fd:NAME. May be repeated. A prefix fixes the protocol: raw:// or
    ws://; with TLS, tls:// or wss://. Some settings can be set for one listener, after a ?, as in
    HOST:PORT?plain_http=health: first_byte_timeout, plain_http, proxy_protocol and the tls
    settings."""
    reuse_port: bool = False
    """Let several runs listen on the same addresses (Linux: SO_REUSEPORT); the kernel distributes
    the clients among them. With `cluster`, the runs share their groups, and each uses a core of its
    own."""
    plain_http: Literal["raw", "reject", "health", "handlers", "static"] = "raw"
    """What to do with an HTTP request that does not ask for a WebSocket. raw: treat it as raw data.
    reject: answer 426. health: answer 200, for health checks. handlers: on_request answers it.
    static: answer it with a file from the folder `static`; this is the default if `static` is
    set."""
    static: PathText = ""
    """Folder whose files are served to GET and HEAD requests, on the same ports as the sockets.
    With plain_http = handlers, on_request is called first; requests that it does not answer get a
    file."""
    first_byte_timeout: Seconds = 0.0
    """Treat a client as raw if it sends nothing for this long after connecting. Set it for
    protocols in which the server speaks first. 0: never."""
    tls: Literal["auto", "off", "optional", "required"] = "auto"
    """Whether listeners without a prefix use TLS. required: always. optional: the first byte of
    each connection decides. off: never. auto: required if tls_cert is set, otherwise off."""
    tls_cert: PathTexts = ()
    """File with a certificate and its chain (PEM). May be repeated. The first one is the default;
    each further one begins with the server names that it is for, as in
    example.org,*.example.org=FILE."""
    tls_key: PathTexts = ()
    """File with the private key (PEM, not encrypted) of a tls_cert. May be repeated, in the order
    of tls_cert. Not needed if the tls_cert files contain the keys."""
    tls_min_version: Literal["1.2", "1.3"] = "1.2"
    """The oldest TLS version that is accepted."""
    tls_client_ca: PathText = ""
    """File with the certificate authorities (PEM) for client certificates."""
    tls_client_auth: Literal["none", "optional", "required"] = "none"
    """Whether clients must present a certificate. Even with optional, a certificate that
    tls_client_ca has not signed is rejected."""
    verdict: Verdict = "gateway"
    """Who accepts WebSocket clients. gateway: the gateway, immediately. handlers: the handshake
    waits for on_connect, which may reject it with an HTTP status."""
    verdict_timeout: Seconds = 10.0
    """With verdict = handlers, answer 503 when on_connect takes longer than this to decide."""
    origins: tuple[str, ...] = ("same-origin",)
    """Origins of web pages that may connect: https://example.org, https://*.example.org, file://,
    same-origin, null or any. May be repeated. Other origins get 403. Clients that send no Origin
    header (anything but a browser) are allowed."""
    hosts: tuple[str, ...] = ("any",)
    """Host names that HTTP and WebSocket clients may ask for: example.org, *.example.org,
    127.0.0.1:8000 or any. May be repeated. Requests for other hosts get 421."""
    trusted_proxies: tuple[str, ...] = ()
    """Proxies that are trusted to report the address of their client: an address, a network such as
    10.0.0.0/8, or unix for peers on unix sockets. May be repeated."""
    proxy_protocol: Literal["off", "optional", "required"] = "off"
    """Whether connections begin with a PROXY header (version 1 or 2). required: always; only
    trusted proxies may connect. optional: trusted proxies may send one."""
    forwarded: Literal["x-forwarded-for", "forwarded", "off"] = "x-forwarded-for"
    """The HTTP header in which trusted proxies report the address of their client. Choose the one
    that your proxy sets itself: a header that it only passes on can be forged."""
    max_connections: Count = 0
    """Maximum number of connections at the same time. Further clients are refused (503, raw:
    reset). 0: as many as the limit on open files allows."""
    max_connections_per_address: Count = 1024
    """Maximum number of connections at the same time from one IPv4 address or IPv6 /64 network.
    Further clients are refused (429, raw: reset). Loopback addresses and unix sockets are exempt.
    0: no limit."""
    silence_timeout: Seconds = 60.0
    """Disconnect a client that sends nothing for this long after connecting. handshake_timeout
    applies instead on listeners where the client must send first: those that require TLS or a PROXY
    header, or that begin with ws://."""
    handshake_timeout: Seconds = 10.0
    """Time limit for the TLS handshake, and separately for the HTTP request headers (408)."""
    max_header_size: Annotated[int, Meta(ge=1024, extra={"unit": "size"})] = 16 * KIB
    """Maximum size of the HTTP request line and headers (431)."""
    max_message_size: Annotated[Bytes, Meta(le=LARGEST_MESSAGE)] = MIB
    """Maximum size of a WebSocket message after decompression (1009), and of the body of a request
    (413). In bridges and splices with framing, also of a line or message of the raw side. At most
    63MiB, or 15MiB with worker_listen."""
    message_rate: Annotated[float, Meta(ge=0)] = 0.0
    """Messages per second that a client may send on average. On a WebSocket, each frame counts,
    pings too; on a raw connection, each read. 0: no limit."""
    byte_rate: Size = 0
    """Bytes per second that a client may send on average. 0: no limit."""
    rate_burst: Seconds = 1.0
    """How much a client may send at once after a silence: as much as message_rate and byte_rate
    allow in this time."""
    rate_action: Literal["pause", "close"] = "pause"
    """What happens to a client that exceeds message_rate or byte_rate. pause: the gateway reads
    from it more slowly. close: it is closed (1008)."""
    idle_timeout: Seconds = 0.0
    """Close (1001) a client that has neither sent nor received data for this long. The close may
    come up to a fifth of this time later. Pings do not count. 0: never."""
    write_timeout: Seconds = 60.0
    """Close (1008) a client that reads nothing for this long while output waits for it."""
    output_limit: Bytes = 4 * MIB
    """Maximum number of bytes of output that may wait for one client."""
    overflow: Literal["close", "drop-newest", "drop-oldest"] = "close"
    """What happens when more than output_limit waits for a client. close: it is closed (1008).
    drop-newest: further published messages are dropped for it. drop-oldest: the published messages
    that have waited longest are dropped; further ones instead where deflate_context_takeover or an
    unfinished message forbids that. Messages sent to one client are never dropped."""
    high_water_mark: Bytes = 256 * KIB
    """Stop reading from a connection when more bytes than this are held for it (events that are not
    handled yet, and output that waits); resume when a quarter of this is left."""
    pause_timeout: Seconds = 120.0
    """Close (1013) a connection when reading from it has been paused for this long. Time without a
    ready worker does not count, nor time in which the only reason is output that the client is
    reading."""
    memory_limit: Size = 0
    """Maximum number of bytes held for all connections together. Above 80 %, new clients wait
    to be accepted. Above 100 %, reading stops, and the connections that hold the most are closed
    (1013). 0: a quarter of the memory of this machine or container."""
    ping_interval: Seconds = 20.0
    """Ping a WebSocket that has been silent for this long."""
    ping_timeout: Seconds = 20.0
    """Close (1011) a WebSocket that stays silent for this long after a ping."""
    close_timeout: Seconds = 10.0
    """Time limit for the peer to complete a close."""
    connect_timeout: Seconds = 10.0
    """Time limit for establishing a connection that a handler or a bridge opens."""
    connect_proxy: str = ""
    """Proxy through which handlers and bridges open connections: http://[USER:PASSWORD@]HOST:PORT
    (CONNECT) or socks5://…. The proxy resolves the names of targets. Loopback addresses and unix
    sockets are reached without it."""
    deflate: bool = True
    """Offer and accept WebSocket compression (permessage-deflate)."""
    deflate_from: Size = 1024
    """Compress messages of at least this many bytes. Fragmented messages are always compressed:
    their size is not known in advance."""
    deflate_window_bits: Annotated[int, Meta(ge=9, le=15)] = 12
    """Size of the compression window: 2 to the power of N bytes, in both directions if the peer
    agrees. A larger window compresses better and costs more memory."""
    deflate_context_takeover: bool = False
    """Keep the compression context from one message to the next. Small messages become smaller, but
    each connection needs more memory, and published messages are compressed separately for each
    client."""
    run_dir: PathText = ""
    """Folder for the sockets, tokens and dead letters of the run. Only its owner may access it.
    Default: a new folder for each run."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Log messages of this severity and above. What handlers print is always logged."""
    log_format: Literal["text", "json"] = "text"
    """How the log is written. text: lines for people. json: one JSON object per line."""
    log_rate: Size = MIB
    """Bytes per second that each process may log on average; 10 seconds' worth may come at once.
    Further lines are left out, and a line says how many. 0: no limit."""
    stop_timeout: Seconds = 30.0
    """Time limit for handlers and clients to finish when the run is stopped."""
    drain_timeout: Seconds = 30.0
    """Time limit for the handlers of a worker that is being replaced. After it, the worker is
    killed."""
    start_timeout: Seconds = 60.0
    """Time limit for a worker to load its handlers file and connect. After it, the worker is killed
    and another one is started."""
    canary_percent: Annotated[int, msgspec.Meta(ge=1, le=99)] = 10
    """Percentage of the connections with which `wsraw reload --canary` tries new handlers."""
    canary_time: Seconds = 60.0
    """How long `wsraw reload --canary` tries new handlers before all workers get them. 0: --for is
    required."""
    canary_shield: bool = False
    """If a new handler raises an exception during the trial of `wsraw reload --canary`, give its
    event to an old worker instead of closing the connection. That event is then handled twice."""
    gateway_timeout: Seconds = 60.0
    """Kill and restart a gateway, or the admin process, that has not answered the supervisor for
    this long. 0: never."""
    upgrade_timeout: Seconds = 10.0
    """Time limit for a new gateway to take over all connections. After it, the old gateway
    continues. 0: no limit."""
    upgrade_linger: Seconds = 3600.0
    """Keep TLS connections for this long after an upgrade: the old gateway stays and encrypts for
    them. Then they are closed (1012). 0: close them at once."""
    upgrade_spread: Seconds = 30.0
    """Spread the closes after upgrade_linger over this time, so that not all clients reconnect at
    once."""
    restart_intensity: Annotated[int, Meta(ge=0, le=1000)] = 5
    """A pool is in a crash loop if, within 30 s, more than this many of its workers die while
    starting. At the start of a run, a crash loop ends the run; later, wsraw keeps trying."""
    admin: str = ""
    """Where the admin page (/), metrics (/metrics) and health checks (/healthz, /readyz) are
    served over HTTP: HOST:PORT, as in 127.0.0.1:9100. Default: nowhere."""
    admin_token: PathText = ""
    """File with a secret that requests to `admin` must carry in the header Authorization: Bearer
    SECRET. Health checks need none. Required if other machines can reach the address."""
    publish_token: PathText = ""
    """File with a secret that POST /publish on `admin` must carry in the header Authorization:
    Bearer SECRET. The secret allows publishing and nothing else. Default: publishing over HTTP is
    refused."""
    worker_listen: tuple[str, ...] = ()
    """Where workers on other machines connect: tcp://ADDRESS:PORT. May be repeated. Needs link_key
    and worker_keys, except on loopback addresses."""
    link_key: PathText = ""
    """File with the gateway's secret key for worker_listen. `wsraw keygen` writes it."""
    worker_keys: PathText = ""
    """File, or folder of *.pub files, with the public keys of the workers that may connect, and the
    pools that each may join."""
    worker_heartbeat: Annotated[Seconds, Meta(le=60)] = 2.0
    """Interval between heartbeats on links to other machines. A link is lost after three heartbeats
    without an answer."""
    cluster: tuple[str, ...] = ()
    """NATS server that connects this gateway with others, so that groups, users and references of
    connections (con.ref) work across all of them: nats://HOST:4222, or tls://HOST:4222. May be
    repeated for the servers of one NATS cluster. Needs `pip install 'wsraw[cluster]'`. Default: no
    cluster."""
    cluster_name: str = "wsraw"
    """Name of the cluster. Gateways with different cluster names share nothing, even on the same
    NATS server."""
    node: str = ""
    """Name of this gateway in the cluster: letters, digits, - and _. Each gateway needs a name of
    its own. Default: a random name for each run."""
    cluster_credentials: PathText = ""
    """File with the credentials for NATS, as `nsc` writes it: user JWT and seed."""
    cluster_ca: PathText = ""
    """File with the certificate authorities (PEM) of the NATS servers. Default: those of the
    system."""


# --- copies, and the way to a child process ---

_Any = TypeVar("_Any", Settings, PoolSettings, RouteSettings, BridgeSettings, HistorySettings)


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
