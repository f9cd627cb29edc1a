"""The works of the benchmark: the options of wsload, and the figures of its reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders import (
    BURN,
    BURN_2,
    CONTENDERS,
    EVENTS,
    EVENTS_COMPILED,
    Contender,
)

IN_PROCESS = "websockets+uvloop"
"""The server that ratios refer to: the usual way to serve WebSockets with Python."""

DEFLATE = ("--header", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")


@dataclass(frozen=True)
class Work:
    """A mode of wsload and its options. `figure` is compared; higher is better unless `lower` is
    set.
    """

    name: str
    title: str
    options: tuple[str, ...]
    figure: str = "msgs_per_s"
    lower: bool = False
    also: tuple[str, ...] = ("lat_us.p50", "lat_us.p99", "server_cpu_s_per_100k")
    who: tuple[Contender, ...] = field(default_factory=lambda: tuple(CONTENDERS.values()))
    against: str = IN_PROCESS
    raw: bool = False
    long: bool = False
    """Run only if asked for by name, or with --all."""
    seconds: float | None = None


def _only(*names: str) -> tuple[Contender, ...]:
    return tuple(CONTENDERS[name] for name in names)


ECHO = ("echo", "--conns", "64", "--size", "64")
ALL = tuple(CONTENDERS.values())
WITH_RAW = tuple(c for c in ALL if c.raw is not None)
OURS = ("wsraw", "wsraw-compiled")
IDLE = _only(*OURS, "websockets", IN_PROCESS, "uvicorn", "picows", "node-ws", "epoll-c")

WORKS = {
    work.name: work
    for work in (
        Work("echo-1", "echo, 64 connections, depth 1, 64 B", (*ECHO, "--depth", "1")),
        Work("echo-16", "echo, 64 connections, depth 16, 64 B", (*ECHO, "--depth", "16")),
        Work(
            "raw-1",
            "raw echo, 64 connections, depth 1, 64 B",
            (*ECHO, "--depth", "1"),
            who=WITH_RAW,
            against="wsraw",
            raw=True,
        ),
        Work(
            "raw-16",
            "raw echo, 64 connections, depth 16, 64 B",
            (*ECHO, "--depth", "16"),
            who=WITH_RAW,
            against="wsraw",
            raw=True,
        ),
        Work(
            "echo-16k",
            "echo, 8 connections, depth 4, 16 KiB binary",
            ("echo", "--conns", "8", "--depth", "4", "--size", "16384", "--binary"),
            also=("mb_per_s", "lat_us.p50", "lat_us.p99", "server_cpu_s_per_100k"),
        ),
        Work(
            "echo-1m",
            "echo, 4 connections, depth 1, 1 MiB binary",
            ("echo", "--conns", "4", "--depth", "1", "--size", "1048576", "--binary"),
            also=("mb_per_s", "lat_us.p50", "lat_us.p99", "server_cpu_s_per_100k"),
        ),
        Work(
            "rate",
            "2,000 messages/s on schedule over 200 connections, 64 B",
            ("rate", "--conns", "200", "--rate", "2000", "--size", "64"),
            figure="lat_us.p50",
            lower=True,
            also=("lat_us.p99", "lat_us.p999", "server_cpu_s_per_100k"),
        ),
        Work(
            "connect",
            "connect, handshake, one echo, close; 32 at a time",
            ("connect", "--conns", "32", "--echo-once"),
            figure="handshakes_per_s",
            also=("lat_us.p50", "lat_us.p99", "server_cpu_s_per_100k"),
            who=(EVENTS, EVENTS_COMPILED, *ALL),
            against="websockets",
        ),
        Work(
            "idle-9000",
            "9,000 idle connections, deflate negotiated",
            ("hold", "--conns", "9000", *DEFLATE),
            figure="kib_per_connection",
            lower=True,
            also=("server_cores_pct", "server_rss_kib"),
            who=IDLE,
            long=True,
            seconds=45.0,
        ),
        Work(
            "idle-18000",
            "18,000 idle connections, deflate negotiated",
            ("hold", "--conns", "18000", *DEFLATE),
            figure="kib_per_connection",
            lower=True,
            also=("server_cores_pct", "server_rss_kib"),
            who=_only(*OURS, IN_PROCESS),
            long=True,
            seconds=45.0,
        ),
        *(
            Work(
                name,
                f"5,000 messages/s over {count:,} connections",
                ("rate", "--conns", str(count), "--rate", "5000"),
                figure="server_cpu_s_per_100k",
                lower=True,
                also=("lat_us.p50", "lat_us.p99"),
                who=_only(*OURS, IN_PROCESS),
                long=True,
            )
            for name, count in (("few", 100), ("many", 10_000))
        ),
        Work(
            "burn",
            "a handler that burns 1 ms; one worker, two workers",
            ("echo", "--conns", "32", "--depth", "1"),
            also=("lat_us.p50", "lat_us.p99"),
            who=(BURN, BURN_2),
            against=BURN.name,
            long=True,
        ),
    )
}


def read(report: dict[str, Any], figure: str) -> float | None:
    """A figure of a report by its dotted name."""
    value: Any = report
    for key in figure.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
