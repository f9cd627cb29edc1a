"""Sans-I/O. Every setting: name, type, default, meaning.

options.py derives the command line, the file and the docs from it.
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
IS_PATH: Final = {"path": True}
"""Marks a setting that is a path, or begins with one."""


Dispatch = Literal["any", "sticky"]
Delivery = Literal["at-least-once", "at-most-once"]
Verdict = Literal["gateway", "handlers"]


class PoolSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `pools`. What it leaves out is as in the settings of the run."""

    name: Annotated[
        str, Meta(description="The name that routes use: letters, digits, dots, - and _.")
    ]
    workers: Annotated[
        tuple[str, ...],
        Meta(
            description="As the setting `workers`. A pool without it has only workers that are "
            "started by hand or on other machines.",
            extra=IS_PATH,
        ),
    ] = ()
    dispatch: Annotated[
        Dispatch | None, Meta(description="Overrides the setting `dispatch` for this pool.")
    ] = None
    delivery: Annotated[
        Delivery | None, Meta(description="Overrides the setting `delivery` for this pool.")
    ] = None
    verdict: Annotated[
        Verdict | None, Meta(description="Overrides the setting `verdict` for this pool.")
    ] = None
    subprotocols: Annotated[
        tuple[str, ...] | None,
        Meta(description="Overrides the setting `subprotocols` for this pool."),
    ] = None


class RouteSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One table of `routes`. It matches a client that meets all of its conditions."""

    pool: Annotated[str, Meta(description="The pool that serves clients of this route.")]
    path: Annotated[
        str,
        Meta(
            description="The path of the WebSocket request: a pattern such as /rooms/{room}, where "
            "{room} is one segment, or /files/{path...}, where {path...} is the rest of the path."
        ),
    ] = ""
    kind: Annotated[
        Literal["any", "websocket", "raw"],
        Meta(description="The kind of connection."),
    ] = "any"
    host: Annotated[
        str,
        Meta(
            description="The Host header of the WebSocket request: example.org, *.example.org, "
            "127.0.0.1:8000."
        ),
    ] = ""
    subprotocol: Annotated[
        str,
        Meta(
            description="A subprotocol that the WebSocket client offers. It is then the one that "
            "is agreed on."
        ),
    ] = ""
    listener: Annotated[
        str,
        Meta(
            description="The listener, written as in `listen`; the part from ? on may be left out."
        ),
    ] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run. Times are in seconds, sizes in bytes; a time of 0 switches off.

    sources.py collects them. A size may be written as `256KiB` and a time as `5m`. The order is
    that of `--help` and the docs: options.py says where a section begins.
    """

    workers: Annotated[
        tuple[str, ...],
        Meta(
            description="What to run, and in how many processes: a handlers file (handlers.py:4) "
            "or the command of a worker in another language ('node chat.mjs:4'). May be repeated; "
            "all of them serve the same clients. none: start no workers. Default without pools: "
            "one worker that prints every event.",
            extra=IS_PATH,
        ),
    ] = ()
    pools: Annotated[
        tuple[PoolSettings, ...],
        Meta(
            description="A separate group of workers for some of the clients: NAME=WORKERS, such "
            "as chat=chat.py:4, or NAME alone for workers that are started by hand. May be "
            "repeated. More options: [[pools]] in the settings file.",
            extra={"flag": "pool"},
        ),
    ] = ()
    routes: Annotated[
        tuple[RouteSettings, ...],
        Meta(
            description="Which pool serves a client: PATTERN=POOL, such as /rooms/{room}=chat, "
            "raw=feed, websocket=chat or any=chat. May be repeated; the first match wins. Clients "
            "that match no route go to the default pool, that of `workers`; without one they get "
            "404 (raw: reset). More options: [[routes]] in the settings file.",
            extra={"flag": "route"},
        ),
    ] = ()
    dispatch: Annotated[
        Dispatch,
        Meta(
            description="any: an idle connection may move to a less busy worker, with its state. "
            "sticky: a connection stays with its worker as long as that worker lives."
        ),
    ] = "any"
    concurrency: Annotated[
        int,
        Meta(
            ge=1,
            description="Events that one worker with async handlers works on at the same time. "
            "Plain handlers always work on one event at a time.",
        ),
    ] = 100
    messages: Annotated[
        Literal["frames", "whole"],
        Meta(
            description="frames: call on_message for each WebSocket frame. whole: join the "
            "fragments of a message first."
        ),
    ] = "frames"
    subprotocols: Annotated[
        tuple[str, ...],
        Meta(
            description="A WebSocket subprotocol of the handlers. May be repeated, preferred ones "
            "first; the first that a client offers is agreed on."
        ),
    ] = ()
    on_exception: Annotated[
        Literal["close", "keep"],
        Meta(description="Whether to close or keep a connection whose handler raised."),
    ] = "close"
    delivery: Annotated[
        Delivery,
        Meta(
            description="What happens to the unfinished events of a worker that died. "
            "at-least-once: another worker handles them again. at-most-once: they are not "
            "repeated, and their connections are closed."
        ),
    ] = "at-least-once"
    max_deliveries: Annotated[
        int,
        Meta(
            ge=1,
            description="How often an event is delivered to workers that die of it. Then it "
            "becomes a dead letter, and its connection is closed (1011).",
        ),
    ] = 3
    handler_timeout: Annotated[
        Seconds,
        Meta(description="Kill a worker as hung when one of its handlers takes longer than this."),
    ] = 30.0
    worker_wait_timeout: Annotated[
        Seconds,
        Meta(
            description="Close a new connection (1013, raw: reset) that has waited this long for "
            "a worker."
        ),
    ] = 30.0
    max_events: Annotated[
        int,
        Meta(
            ge=0,
            description="Replace a worker after this many events, give or take 10 %. 0: never.",
        ),
    ] = 0
    max_memory: Annotated[
        Size,
        Meta(
            description="Replace a worker that uses more memory (RSS) than this. Needs /proc. 0: "
            "never."
        ),
    ] = 0
    reload: Annotated[
        bool,
        Meta(
            description="Reload when the handlers file changes, or another *.py file in its "
            "folder or below."
        ),
    ] = False
    listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where clients connect: HOST:PORT, [IPV6]:PORT or unix:PATH. May be "
            "repeated. Prefixes fix the protocol: raw:// or ws://, with TLS tls:// or wss://. "
            "Options for this listener alone follow a ?, as in HOST:PORT?plain_http=health: "
            "first_byte_timeout, plain_http, proxy_protocol and the tls settings."
        ),
    ] = ("127.0.0.1:8000",)
    plain_http: Annotated[
        Literal["raw", "reject", "health"],
        Meta(
            description="How to treat an HTTP request that does not ask for a WebSocket. raw: as "
            "raw data. reject: answer 426. health: answer 200, for health checks."
        ),
    ] = "raw"
    first_byte_timeout: Annotated[
        Seconds,
        Meta(
            description="Treat a client as raw when it has sent nothing for this long after "
            "connecting: for protocols in which the server speaks first."
        ),
    ] = 0.0
    tls: Annotated[
        Literal["auto", "off", "optional", "required"],
        Meta(
            description="TLS on listeners without a prefix. required: always. optional: the first "
            "byte of each connection decides. off: never. auto: required if there is a tls_cert."
        ),
    ] = "auto"
    tls_cert: Annotated[
        tuple[str, ...],
        Meta(
            description="File with a certificate and its chain (PEM). May be repeated: the first "
            "one is the default, each further one names the servers that it is for: "
            "example.org,*.example.org=FILE.",
            extra=IS_PATH,
        ),
    ] = ()
    tls_key: Annotated[
        tuple[str, ...],
        Meta(
            description="File with the private key (PEM, not encrypted) of each tls_cert, in the "
            "same order. Not needed if the tls_cert files contain the keys.",
            extra=IS_PATH,
        ),
    ] = ()
    tls_min_version: Annotated[
        Literal["1.2", "1.3"], Meta(description="The oldest TLS version that is accepted.")
    ] = "1.2"
    tls_client_ca: Annotated[
        str,
        Meta(
            description="File with the certificate authorities (PEM) for client certificates.",
            extra=IS_PATH,
        ),
    ] = ""
    tls_client_auth: Annotated[
        Literal["none", "optional", "required"],
        Meta(
            description="Whether clients present a certificate. A certificate that tls_client_ca "
            "has not signed is rejected, with optional too."
        ),
    ] = "none"
    verdict: Annotated[
        Verdict,
        Meta(
            description="Who accepts WebSocket clients. gateway: it accepts all at once. handlers: "
            "the handshake waits for on_connect, which may reject it with an HTTP status."
        ),
    ] = "gateway"
    verdict_timeout: Annotated[
        Seconds, Meta(description="Answer 503 when on_connect takes longer than this to decide.")
    ] = 10.0
    origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Web pages that may connect: https://example.org, "
            "https://*.example.org, file://, same-origin, null or any. May be repeated. Other "
            "origins get 403. Clients that send no Origin header (anything but a browser) are "
            "allowed."
        ),
    ] = ("same-origin",)
    hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names that HTTP and WebSocket clients may use: example.org, "
            "*.example.org, 127.0.0.1:8000 or any. May be repeated. Other hosts get 421."
        ),
    ] = ("any",)
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Proxies that may say who their client is: an address, a network such as "
            "10.0.0.0/8, or unix for peers on unix sockets. May be repeated."
        ),
    ] = ()
    proxy_protocol: Annotated[
        Literal["off", "optional", "required"],
        Meta(
            description="Whether connections begin with a PROXY header (version 1 or 2). required: "
            "always; only trusted proxies may connect. optional: trusted proxies may send one."
        ),
    ] = "off"
    forwarded: Annotated[
        Literal["x-forwarded-for", "forwarded", "off"],
        Meta(
            description="The HTTP header in which trusted proxies name their client. Choose the "
            "one that your proxy sets itself: a header that it passes on can be forged."
        ),
    ] = "x-forwarded-for"
    max_connections: Annotated[
        int,
        Meta(
            ge=0,
            description="Most connections at the same time. Further clients are refused (503, raw: "
            "reset). 0: as many as the limit on open files allows.",
        ),
    ] = 0
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=0,
            description="Most connections at the same time from one IPv4 address or IPv6 /64 "
            "network. Further clients are refused (429, raw: reset). Loopback and unix sockets are "
            "exempt. 0: no limit.",
        ),
    ] = 1024
    silence_timeout: Annotated[
        Seconds,
        Meta(description="Disconnect a client that sends nothing for this long after connecting."),
    ] = 60.0
    handshake_timeout: Annotated[
        Seconds,
        Meta(
            description="Most time for the TLS handshake, and again for the HTTP request headers "
            "(408)."
        ),
    ] = 10.0
    max_header_size: Annotated[
        int,
        Meta(
            ge=1024,
            description="Largest HTTP request line and headers (431).",
            extra={"unit": "size"},
        ),
    ] = 16 * KIB
    max_message_size: Annotated[
        Bytes,
        Meta(description="Largest WebSocket message after decompression (1009); at most 63MiB."),
    ] = MIB
    message_rate: Annotated[
        float,
        Meta(
            ge=0,
            description="Messages per second that a client may send on average: WebSocket frames "
            "(pings too), or reads of a raw connection. 0: no limit.",
        ),
    ] = 0.0
    byte_rate: Annotated[
        Size,
        Meta(description="Bytes per second that a client may send on average. 0: no limit."),
    ] = 0
    rate_burst: Annotated[
        Seconds,
        Meta(
            description="How much of both rates a client may use at once after a silence, in "
            "seconds of that rate."
        ),
    ] = 1.0
    rate_action: Annotated[
        Literal["pause", "close"],
        Meta(
            description="What happens to a client above a rate. pause: it is read from more "
            "slowly. close: it is closed (1008)."
        ),
    ] = "pause"
    idle_timeout: Annotated[
        Seconds,
        Meta(
            description="Close (1001) a client that has neither sent nor received data for this "
            "long; pings do not count. It may take up to a fifth longer. 0: never."
        ),
    ] = 0.0
    write_timeout: Annotated[
        Seconds,
        Meta(
            description="Close (1008) a client that has read none of its waiting output for this "
            "long."
        ),
    ] = 60.0
    output_limit: Annotated[
        Bytes, Meta(description="Most bytes of output that may wait for one client.")
    ] = 4 * MIB
    overflow: Annotated[
        Literal["close", "drop-newest", "drop-oldest"],
        Meta(
            description="What happens at output_limit. close: close the client (1008). "
            "drop-newest, drop-oldest: drop published messages for it. Messages sent to one "
            "client are never dropped."
        ),
    ] = "close"
    high_water_mark: Annotated[
        Bytes,
        Meta(
            description="Stop reading from a connection while more bytes than this are held for it."
        ),
    ] = 256 * KIB
    pause_timeout: Annotated[
        Seconds,
        Meta(description="Close (1013) a connection that could not be read from for this long."),
    ] = 120.0
    memory_limit: Annotated[
        Size,
        Meta(
            description="Most bytes held for all connections together. Above 80 % new clients are "
            "refused; above 100 % reading stops and the connections that hold most are closed "
            "(1013). 0: a quarter of the memory of this machine or container."
        ),
    ] = 0
    ping_interval: Annotated[
        Seconds, Meta(description="Ping a WebSocket that has been silent for this long.")
    ] = 20.0
    ping_timeout: Annotated[
        Seconds,
        Meta(description="Close (1011) a WebSocket that stays silent for this long after a ping."),
    ] = 20.0
    close_timeout: Annotated[
        Seconds, Meta(description="Most time for the peer to complete a close.")
    ] = 10.0
    connect_timeout: Annotated[
        Seconds,
        Meta(description="Most time for a connection that a handler opens to be established."),
    ] = 10.0
    deflate: Annotated[
        bool, Meta(description="Offer and accept WebSocket compression (permessage-deflate).")
    ] = True
    deflate_from: Annotated[
        Size,
        Meta(
            description="Compress messages of at least this many bytes. Fragmented messages are "
            "always compressed: their size is not known in advance."
        ),
    ] = 1024
    deflate_window_bits: Annotated[
        int,
        Meta(
            ge=9,
            le=15,
            description="Size of the compression window, as a power of 2, in both directions if "
            "the peer agrees. A larger window compresses better and costs more memory.",
        ),
    ] = 12
    deflate_context_takeover: Annotated[
        bool,
        Meta(
            description="Compress with the context of earlier messages. Small messages become "
            "smaller; each connection needs more memory, and published messages are compressed "
            "once for each client."
        ),
    ] = False
    run_dir: Annotated[
        str,
        Meta(
            description="Folder for sockets, token and dead letters of the run; only its owner may "
            "access it. Default: a new folder for each run.",
            extra=IS_PATH,
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe messages that are logged."),
    ] = "info"
    stop_timeout: Annotated[
        Seconds,
        Meta(description="Most time for handlers and clients to finish when the run is stopped."),
    ] = 30.0
    drain_timeout: Annotated[
        Seconds,
        Meta(
            description="Most time for the handlers of a worker that is being replaced; then it is "
            "killed."
        ),
    ] = 30.0
    start_timeout: Annotated[
        Seconds,
        Meta(
            description="Most time for a worker to load its handlers file and connect; then it is "
            "killed, and another one is started."
        ),
    ] = 60.0
    gateway_timeout: Annotated[
        Seconds,
        Meta(
            description="Kill and restart a gateway that has not answered the supervisor for this "
            "long. 0: never."
        ),
    ] = 60.0
    restart_intensity: Annotated[
        int,
        Meta(
            ge=0,
            description="Deaths of starting workers within 30 s above which a pool is in a crash "
            "loop: at the start the run ends, later it keeps trying.",
        ),
    ] = 5
    worker_listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where workers on other machines connect: tcp://ADDRESS:PORT. May be "
            "repeated. Except on loopback it needs link_key and worker_keys."
        ),
    ] = ()
    link_key: Annotated[
        str,
        Meta(
            description="File with the gateway's secret key for worker_listen, made by "
            "`wsraw keygen`.",
            extra=IS_PATH,
        ),
    ] = ""
    worker_keys: Annotated[
        str,
        Meta(
            description="File, or folder of *.pub files, with the public keys of the workers that "
            "may connect, and the pools that each may join.",
            extra=IS_PATH,
        ),
    ] = ""
    worker_heartbeat: Annotated[
        Seconds,
        Meta(
            description="Interval of heartbeats on links to other machines. A link is lost after "
            "three without an answer."
        ),
    ] = 2.0


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
