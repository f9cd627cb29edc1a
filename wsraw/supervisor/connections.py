"""Sans-I/O. Connections as text for people: a table of many, the details of one, and its trace."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from wsraw.config.units import human_size, human_time
from wsraw.link.records import DEFAULT_POOL
from wsraw.runtime.printable import aligned, printable

Facts = dict[str, Any]


def table(rows: Sequence[Facts], matched: int) -> str:
    """A row for each connection, and how many more there are."""
    if not rows:
        return "no connections"
    columns = dict(COLUMNS)
    if all(row["pool"] == DEFAULT_POOL for row in rows):
        del columns["pool"]
    if not any(_notes(row) for row in rows):
        del columns["notes"]
    if not any("user" in row for row in rows):
        del columns["user"]
    cells = [
        list(columns),
        *([printable(show(row)) for show in columns.values()] for row in rows),
    ]
    lines = aligned(cells)
    if matched > len(rows):
        lines.append(f"… {matched - len(rows):,} more (--limit 0 shows all)")
    return "\n".join(lines)


def _place(row: Facts) -> str:
    return str(row.get("target") or row["path"] or "-")


def _events(row: Facts) -> str:
    return f"{row.get('in_flight', 0)}+{row.get('parked', 0)}"


def _notes(row: Facts) -> str:
    notes = ["slow"] if row.get("slow") else []
    return ", ".join([*notes, *(["paused"] if row.get("paused") else [])])


COLUMNS: Final[dict[str, Callable[[Facts], str]]] = {
    "id": lambda row: str(row["id"]),
    "kind": lambda row: str(row["kind"]),
    "state": lambda row: str(row["state"]),
    "peer": lambda row: row["peer"] or "-",
    "path or target": _place,
    "user": lambda row: row.get("user") or "-",
    "pool": lambda row: row["pool"] or "-",
    "worker": lambda row: row.get("worker") or "-",
    "age": lambda row: human_time(row.get("age")),
    "last in": lambda row: human_time(row.get("last_in")),
    "last out": lambda row: human_time(row.get("last_out")),
    "received": lambda row: _size(row.get("received")),
    "sent": lambda row: _size(row.get("sent")),
    "output": lambda row: _size(row["output"]),
    "events": _events,
    "notes": _notes,
}


def details(facts: Facts) -> str:
    """The details of one connection."""
    how = "opened by a handler" if facts["opened"] else "accepted"
    lines = [f"connection {facts['id']}: {facts['kind']}, {facts['state']}, {how}"]
    for name, show in DETAILS.items():
        text = show(facts)
        if text:
            lines.append(f"  {name:<12}{printable(text)}")
    return "\n".join(lines)


def _who(facts: Facts) -> str:
    peer = facts["peer"] or "-"
    behind = f", through {facts['proxy']}" if facts["proxy"] else ""
    at = f", at {facts['listener']}" if facts["listener"] else ""
    return f"{peer}{behind}{at}"


def _what(facts: Facts) -> str:
    params = ", ".join(f"{name} = {value}" for name, value in facts["params"].items())
    return str(facts.get("target") or facts["path"]) + (f" ({params})" if params else "")


def _worker(facts: Facts) -> str:
    if facts.get("worker"):
        return str(facts["worker"])
    return "" if "heard" not in facts else "none" if facts["heard"] else "none has heard of it yet"


def _carried(facts: Facts) -> str:
    if "age" not in facts:
        return "nothing yet"
    since = [
        f"{way} {human_time(ago)} ago" if ago is not None else f"{way} never"
        for way, ago in (("in", facts["last_in"]), ("out", facts["last_out"]))
    ]
    return f"last {', '.join(since)}"


def _received(facts: Facts) -> str:
    received = facts["tcp"].get("received")
    parts = [] if received is None else [f"{human_size(received)} received by the kernel"]
    if facts["unfinished"]:
        parts.append(f"{human_size(facts['unfinished'])} are not a message yet")
    return ", ".join(parts)


def _output(facts: Facts) -> str:
    parts = [f"{human_size(facts.get('sent', 0))} sent"]
    if facts["output"]:
        parts.append(f"{human_size(facts['output'])} waiting")
        if facts.get("stalled", 0) >= 1:
            parts.append(f"nothing taken for {human_time(facts['stalled'])}")
    if facts.get("dropped"):
        parts.append(f"{human_size(facts['dropped'])} dropped")
    if facts.get("held_back"):
        parts.append(f"{facts['held_back']} commands behind an unfinished message")
    return ", ".join(parts)


def _of_events(facts: Facts) -> str:
    if "in_flight" not in facts:
        return ""
    oldest = f" (the oldest for {human_time(facts['oldest'])})" if facts["oldest"] else ""
    return (
        f"{facts['in_flight']} in flight{oldest}, {facts['parked']} parked, "
        f"{human_size(facts['events'])}"
    )


def _reading(facts: Facts) -> str:
    if not facts.get("paused"):
        return ""
    return f"paused for {human_time(facts['paused_for'])}: {'; '.join(facts['paused'])}"


def _names(facts: Facts, key: str) -> str:
    names = ", ".join(map(str, facts.get(key, ())))
    more = facts.get(f"{key}_total", 0) - len(facts.get(key, ()))
    return f"{names} and {more:,} more" if more > 0 else names


def _deflate(facts: Facts) -> str:
    terms = facts.get("deflate")
    if terms is None:
        return ""
    return "with context takeover" if terms["context_takeover"] else "without context takeover"


def _tcp(facts: Facts) -> str:
    tcp = facts["tcp"]
    if not tcp:
        return ""
    return (
        f"round trip {human_time(tcp['round_trip'])}, segments repeated {tcp['repeated']}, "
        f"{human_size(tcp['unsent'])} not sent by the kernel"
    )


def _memory(facts: Facts) -> str:
    shared = facts.get("shared")
    also = f"; {human_size(shared)} of published messages, kept once for all" if shared else ""
    return _size(facts.get("memory")) + also


def _end(facts: Facts) -> str:
    ending = facts["ending"]
    if ending is None:
        return ""
    reason = f" {ending['reason']}" if ending["reason"] else ""
    return f"{ending['cause'] or 'none'}, code {ending['code']}{reason}"


DETAILS: Final[dict[str, Callable[[Facts], str]]] = {
    "peer": _who,
    "path": lambda facts: "" if facts["opened"] else _what(facts),
    "target": lambda facts: _what(facts) if facts["opened"] else "",
    "name": lambda facts: facts.get("name", ""),
    "pool": lambda facts: facts["pool"],
    "worker": _worker,
    "age": lambda facts: human_time(facts.get("age")),
    "data": _carried,
    "input": _received,
    "output": _output,
    "events": _of_events,
    "reading": _reading,
    "user": lambda facts: facts.get("user", ""),
    "groups": lambda facts: _names(facts, "groups"),
    "coupled": lambda facts: _names(facts, "coupled"),
    "spliced": lambda facts: f"with {facts['spliced']}" if facts.get("spliced") else "",
    "state": lambda facts: _size(facts.get("state_bytes")) if facts.get("state_bytes") else "",
    "subprotocol": lambda facts: facts.get("subprotocol", ""),
    "deflate": _deflate,
    "scheme": lambda facts: facts["scheme"],
    "tls": lambda facts: ", ".join(facts["tls"].values()),
    "tcp": _tcp,
    "ping": lambda facts: "waiting for a pong" if facts.get("pinged") else "",
    "verdict": lambda facts: "on_connect has not decided yet" if facts["undecided"] else "",
    "end": _end,
    "memory": _memory,
}
"""Lines of `details`; those without a text are left out."""


# --- trace ---


def trace_line(line: Facts, time: str, *, with_id: bool) -> str:
    """A line of a trace. `time` is when the event happened, `with_id` whether to show the
    connection. A payload is shown on one line: control characters, line breaks and bytes that are
    not UTF-8 as escapes, and a backslash as two."""
    parts = [time]
    if with_id:
        parts.append(str(line["con"] or "-"))
    size, data, text = line["size"], line["data"], line["text"]
    told = f"{line['about']} {line['what']}"
    if text:
        told += f" {printable(text)}"
    if size or data:
        told += f", {size:,} byte{'' if size == 1 else 's'}"
    if data:
        more = "…" if size > len(data) else ""
        told += f": {visible(data)}{more}"
    return " ".join([*parts, told])


def visible(data: bytes) -> str:
    """Bytes as text on one line; bytes that cannot be shown, and backslashes, are escaped."""
    text = data.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
    text = _NOT_UTF_8.sub(lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return printable(text).replace("\t", "\\t")


_NOT_UTF_8: Final = re.compile("[\udc80-\udcff]")


def _size(size: int | None) -> str:
    return "0" if size == 0 else human_size(size)
