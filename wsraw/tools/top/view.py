"""Sans-I/O. The view of a run on a screen: figures with rates in, lines out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from wsraw.config.units import human_size, human_time
from wsraw.link.records import DEFAULT_POOL
from wsraw.runtime.printable import printable
from wsraw.tools.display_width import cells
from wsraw.tools.top.rates import Figures

LABELS: Final = 14
"""Cells of the column of labels, if the screen is not narrow."""

NARROW: Final = 48
"""Cells; on a narrower screen, lines that are continued are indented by only 2."""

GAP: Final = "   "

NORMAL: Final = ""
HEADING: Final = "heading"
ALARM: Final = "alarm"

MOST_HANDLERS: Final = 6
"""Handlers that are shown: the slowest ones."""

LOST: Final = ("dead", "hung")
"""States of a worker that needs attention."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the view. It has no control characters, and fits the width."""

    text: str
    style: str = NORMAL
    """NORMAL, HEADING or ALARM."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    heading: str
    text: Callable[[Figures], str]
    importance: int
    """The higher this number, the sooner the column is left out on a narrow screen."""
    is_number: bool = True


def lines(
    figures: Figures | None,
    clock: str,
    width: int,
    height: int = 0,
    trouble: str = "",
    hint: str = "",
) -> list[Line]:
    """The lines that show a run: `width` cells each, at most `height` of them (0: any number).

    `clock` is the time of the figures. `trouble` says why there are no newer ones; figures are None
    if there are none at all. `hint` ends the first line.
    """
    found = [Line(text, ALARM) for text in _words(trouble, width)]
    if figures is None:
        return _limited(found, height)
    if trouble:
        found += [Line(text) for text in _flow(["the last answer:"], width)]
    found += [
        *(Line(text, HEADING) for text in _flow(_title(figures, clock, hint), width)),
        *(Line(text, ALARM) for problem in figures["problems"] for text in _words(problem, width)),
    ]
    if figures["reloading"]:
        found += [Line(text) for text in _flow(["reloading"], width)]
    found.append(Line(""))
    if figures["gateway"]["answers"]:
        for label, pieces in _overview(figures):
            found += [Line(text) for text in _labelled(label, pieces, width)]
    found.append(Line(""))
    found += _table(POOLS, figures["pools"], width, _is_pool_lost)
    handlers = [each for each in figures["handlers"] or () if _is_active(each)]
    if handlers:
        found.append(Line(""))
        found += _handlers(handlers[:MOST_HANDLERS], width)
    if figures.get("slow_clients"):
        found.append(Line(""))
        found += _table(SLOW, figures["slow_clients"], width, lambda row: False)
    workers = [*figures["workers"], *figures["by_hand"]]
    if workers:
        found.append(Line(""))
        found += _workers(workers, width, height - len(found) if height else len(workers) + 1)
    return _limited(found, height)


def _limited(found: list[Line], height: int) -> list[Line]:
    return found[:height] if height else found


def _title(figures: Figures, clock: str, hint: str) -> list[str]:
    return [
        clock,
        f"pid {figures['pid']}",
        f"up {human_time(figures['age'])}",
        *figures["listen"],
        *([hint] if hint else []),
    ]


def _overview(figures: Figures) -> Iterable[tuple[str, list[str]]]:
    """The figures of the gateway itself: labels, each with its texts."""
    gateway, rates = figures["gateway"], figures["rates"]
    kinds = gateway["connections"]
    yield "messages", [f"in {_rate(rates['received'])}", f"out {_rate(rates['sent'])}"]
    yield (
        "data",
        [f"in {_bytes(rates['received_bytes'])}", f"out {_bytes(rates['sent_bytes'])}"],
    )
    yield (
        "connections",
        [
            f"{kinds['total']:,}",
            f"accepted {_rate(rates['accepted'])}",
            f"closed {_rate(rates['closed'])}",
            *(f"{name} {kinds[name]:,}" for name in kinds if name != "total" and kinds[name]),
            f"sockets {gateway['sockets']:,} of {gateway['max_connections']:,}"
            if gateway["max_connections"]
            else f"sockets {gateway['sockets']:,}",
        ],
    )
    if any(each["responses"] for each in gateway["totals"]):
        yield (
            "responses",
            [f"HTTP {_rate(rates['responses'])}", f"5xx {_rate(rates['failures'])}"],
        )
    longest = f" (longest {human_time(gateway['paused_longest'])})" if gateway["paused"] else ""
    yield (
        "slow clients",
        [f"output waiting {gateway['unwritten']:,}", f"paused {gateway['paused']:,}{longest}"],
    )
    state = "full" if gateway["full"] else "crowded" if gateway["crowded"] else ""
    limit = gateway["memory_limit"]
    share = f" ({gateway['bytes'] / limit:.0%})" if limit else ""
    yield (
        "memory",
        [
            f"{human_size(gateway['bytes'])} of {human_size(limit)}{share}",
            *([state] if state else []),
            f"process {human_size(gateway['rss'])}",
        ],
    )
    busy = rates["busy"]
    yield (
        "loop",
        [
            f"busy {'-' if busy is None else f'{min(busy, 1.0):.0%}'}",
            f"late by {human_time(gateway['loop']['lag'])}",
        ],
    )
    reached = figures["limits_reached"] or {}
    yield (
        "limits",
        [
            f"{name} {count:,}" + (f" (+{reached[name]:,})" if name in reached else "")
            for name, count in sorted(gateway["limits"].items())
        ]
        or ["none reached"],
    )


# --- tables ---


def _oldest(pool: Figures) -> float | None:
    """The age of the oldest event of a pool, parked or in flight."""
    ages: tuple[float | None, ...] = (pool["longest_parked"], pool["longest_in_flight"])
    return max((age for age in ages if age is not None), default=None)


def _is_pool_lost(pool: Figures) -> bool:
    return bool(pool["crash_loop"] or pool["ready"] == 0)


def _is_active(handler: Figures) -> bool:
    return bool(handler["calls_per_second"] or handler["exceptions_per_second"])


def _raises(handler: Figures) -> bool:
    return bool(handler["exceptions_per_second"])


def _is_worker_lost(worker: Figures) -> bool:
    return worker["state"] in LOST


def _name(worker: Figures) -> str:
    if "n" in worker:
        return str(worker["n"] or "-")
    if not worker["address"]:
        return "by hand"
    return f"{worker['key']} at {worker['address']}" if worker["key"] else worker["address"]


POOLS: Final = (
    Column("pool", lambda pool: pool["name"], 0, False),
    Column("ready", lambda pool: f"{_count(pool['ready'])}/{pool['workers_wanted']}", 1),
    Column("acked", lambda pool: _rate(pool["acked_per_second"]), 2),
    Column("in flight", lambda pool: _count(pool["in_flight"]), 5),
    Column("parked", lambda pool: _count(pool["parked"]), 3),
    Column("oldest", lambda pool: human_time(_oldest(pool)), 4),
    Column("waiting", lambda pool: _count(pool["waiting"]), 7),
    Column("connections", lambda pool: _count(pool["connections"]), 6),
)

HANDLERS: Final = (
    Column("handler", lambda each: each["handler"], 0, False),
    Column("calls", lambda each: _rate(each["calls_per_second"]), 2),
    Column("mean", lambda each: human_time(each["mean"]), 3),
    Column("p99", lambda each: human_time(each["p99"]), 1),
    Column("exceptions", lambda each: _rate(each["exceptions_per_second"]), 4),
    Column("pool", lambda each: each["pool"], 5, False),
)

SLOW: Final = (
    Column("slow client", lambda row: str(row["id"]), 0, False),
    Column("output", lambda row: human_size(row["output"]), 1),
    Column("last out", lambda row: human_time(row.get("last_out")), 3),
    Column("peer", lambda row: row["peer"] or "-", 2, False),
    Column("path or target", lambda row: str(row.get("target") or row["path"] or "-"), 4, False),
    Column("pool", lambda row: row["pool"] or "-", 5, False),
)

WORKERS: Final = (
    Column("worker", _name, 0, False),
    Column("state", lambda worker: worker["state"], 1, False),
    Column("acked", lambda worker: _rate(worker["acked_per_second"]), 2),
    Column("in flight", lambda worker: _count(worker["in_flight"]), 3),
    Column("window", lambda worker: _count(worker["window"]), 6),
    Column("oldest", lambda worker: human_time(worker["oldest"]), 4),
    Column("memory", lambda worker: human_size(worker.get("rss")), 5),
    Column("restarts", lambda worker: _count(worker.get("restarts")), 8),
    Column("pool", lambda worker: worker["pool"] or "-", 7, False),
    Column("runs", lambda worker: worker.get("runs") or worker.get("language") or "-", 9, False),
)


def _handlers(handlers: list[Figures], width: int) -> list[Line]:
    """The table of handlers; those that raise stand out."""
    is_one = all(each["pool"] == DEFAULT_POOL for each in handlers)
    return _table(HANDLERS[:-1] if is_one else HANDLERS, handlers, width, _raises)


def _workers(workers: list[Figures], width: int, height: int) -> list[Line]:
    """The table of workers. If not all fit, it has those with the oldest events, and those that do
    not serve."""
    columns: Sequence[Column] = WORKERS
    if all(worker["pool"] == DEFAULT_POOL for worker in workers):
        columns = [column for column in WORKERS if column.heading != "pool"]
    left_out = 0
    if len(workers) + 1 > height:
        # A line for the headings, and one for the number of those left out.
        room = max(height - 2, 0)
        left_out = len(workers) - room
        order = sorted(range(len(workers)), key=lambda n: _attention(workers[n]), reverse=True)
        workers = [workers[n] for n in sorted(order[:room])]
    found = _table(columns, workers, width, _is_worker_lost)
    if left_out:
        text = f"… {left_out} more" if not workers else f"… {left_out} more, with less to do"
        found += [Line(each) for each in _flow([text], width)]
    return found


def _attention(worker: Figures) -> tuple[bool, float, int]:
    return worker["state"] != "ready", worker["oldest"] or 0.0, worker["in_flight"] or 0


def _table(
    columns: Sequence[Column],
    rows: Sequence[Figures],
    width: int,
    is_lost: Callable[[Figures], bool],
) -> list[Line]:
    """Rows under headings, with as many columns as fit."""
    cut = [
        [_clean(column.heading), *(_clean(column.text(row)) for row in rows)] for column in columns
    ]
    sizes = [max(map(_length, texts)) for texts in cut]
    shown = list(range(len(columns)))
    while len(shown) > 1 and sum(sizes[n] + 2 for n in shown) - 2 > width:
        shown.remove(max(shown, key=lambda n: columns[n].importance))
    found = []
    for y in range(len(rows) + 1):
        padded = [_padded(cut[n][y], sizes[n], columns[n].is_number) for n in shown]
        style = HEADING if not y else ALARM if is_lost(rows[y - 1]) else NORMAL
        found.append(Line(_cut("  ".join(padded).rstrip(), width), style))
    return found


# --- text ---


def _clean(text: str) -> str:
    """A text that takes as many cells as `_length` says."""
    return printable(text).replace("\t", " ")


def _length(text: str) -> int:
    return len(text) if text.isascii() else sum(map(cells, text))


def _cut(text: str, width: int) -> str:
    """The text, or its beginning and an ellipsis."""
    if _length(text) <= width:
        return text
    used, kept = 0, []
    for char in text:
        used += cells(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def _padded(text: str, size: int, is_number: bool) -> str:
    space = " " * (size - _length(text))
    return space + text if is_number else text + space


def _flow(
    pieces: Iterable[str], width: int, gap: str = GAP, first: str = "", indent: str = "  "
) -> list[str]:
    """Pieces side by side, in as many lines as they need. No piece is divided; one that is too long
    for a line is cut."""
    found: list[str] = []
    line, is_empty = first, True
    for piece in map(_clean, pieces):
        if not is_empty and _length(line) + len(gap) + _length(piece) > width:
            found.append(line)
            line, is_empty = indent, True
        line += piece if is_empty else gap + piece
        is_empty = False
    return [_cut(each, width) for each in ([*found, line] if not is_empty else found)]


def _words(text: str, width: int) -> list[str]:
    return _flow(text.split(), width, " ")


def _labelled(label: str, pieces: Iterable[str], width: int) -> list[str]:
    if width < NARROW:
        return _flow([label, *pieces], width, "  ")
    return _flow(pieces, width, GAP, label.ljust(LABELS), " " * LABELS)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}/s" if value >= 10 or value == int(value) else f"{value:.1f}/s"


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{human_size(round(value))}/s"
