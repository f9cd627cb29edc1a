"""The results as Markdown: medians over the rounds, and ratios within the same rounds."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.works import Work, read

Results = Mapping[tuple[str, str], Sequence[dict[str, Any] | None]]
"""By work and contender: the report of each round, None for a round that failed."""

UNITS = {
    "msgs_per_s": "messages/s",
    "handshakes_per_s": "handshakes/s",
    "mb_per_s": "MB/s",
    "lat_us.p50": "p50 ms",
    "lat_us.p99": "p99 ms",
    "lat_us.p999": "p99.9 ms",
    "server_cpu_s_per_100k": "CPU s per 100,000",
    "kib_per_connection": "KiB each (PSS)",
    "server_rss_kib": "RSS MiB",
    "server_cores_pct": "% of a core",
}


def _median(reports: Sequence[dict[str, Any] | None], figure: str) -> float | None:
    values = [value for r in reports if r is not None and (value := read(r, figure)) is not None]
    return statistics.median(values) if values else None


def _shown(value: float | None, figure: str) -> str:
    if value is None:
        return "–"
    if figure.startswith("lat_us"):
        return f"{value / 1000:.2f}"
    if figure == "server_rss_kib":
        return f"{value / 1024:.0f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def ratio(results: Results, work: Work, contender: str) -> float | None:
    """The median of the ratios of each round, as disturbances affect both servers of a round."""
    ours, theirs = results.get((work.name, contender)), results.get((work.name, work.against))
    if not ours or not theirs:
        return None
    ratios = []
    for one, other in zip(ours, theirs, strict=False):
        a = read(one, work.figure) if one else None
        b = read(other, work.figure) if other else None
        if a and b:
            ratios.append(a / b)
    return statistics.median(ratios) if ratios else None


def table(results: Results, work: Work) -> str:
    """The table of one work."""
    figures = (work.figure, *(f for f in work.also if f != work.figure))
    head = [UNITS.get(f, f) for f in figures]
    lines = [
        f"### {work.name}: {work.title}",
        "",
        f"| | {head[0]} | ratio to {work.against} | {' | '.join([*head[1:], 'RSS MiB'])} |",
        "|---|" + "--:|" * (len(figures) + 2),
    ]
    rows = []
    for contender in work.who:
        reports = results.get((work.name, contender.name))
        if not reports or all(r is None for r in reports):
            continue
        median = _median(reports, work.figure)
        factor = ratio(results, work, contender.name)
        cells = [
            contender.name,
            _shown(median, work.figure),
            "–" if factor is None else f"{factor:.2f}",
            *(_shown(_median(reports, f), f) for f in figures[1:]),
            _shown(_median(reports, "server_rss_kib"), "server_rss_kib"),
        ]
        failed = sum(r is None for r in reports)
        if failed:
            cells[0] += f" ({failed} of {len(reports)} runs went wrong)"
        rows.append((median or 0.0, "| " + " | ".join(cells) + " |"))
    rows.sort(reverse=not work.lower)
    return "\n".join([*lines, *(row for _, row in rows), ""])


def ended(wrong: Sequence[str]) -> int:
    """Print the errors; returns 1 if a run of ours failed."""
    for what in wrong:
        print(f"wrong: {what}")
    if any(what.startswith("wsraw") for what in wrong):
        return 1
    print("\nno breach")
    return 0


def machine() -> str:
    """A description of this machine."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    packages = []
    for package in ("websockets", "uvloop", "uvicorn", "picows", "pyzmq", "msgspec"):
        try:
            packages.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    try:
        asked = subprocess.run(["node", "--version"], capture_output=True, text=True)
        packages.append(f"Node {asked.stdout.strip()}")
    except OSError:
        pass
    return (
        f"{datetime.date.today()}. {os.cpu_count()} cores ({name}), {platform.system()} "
        f"{platform.release()}, Python {sys.version.split()[0]}; {', '.join(packages)}."
    )
