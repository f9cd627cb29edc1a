"""Sans-I/O. Facts about a connection as plain values: times in seconds, sizes in bytes.

Texts of clients are shortened, and parts that may be secret are left out: the query of a path, the
userinfo of a target.
"""

from __future__ import annotations

from typing import Any, Final

from wsraw.gateway.connection.connection import CLOSED, Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import (
    PAUSED_COUPLED,
    PAUSED_FULL,
    PAUSED_OWN,
    PAUSED_RATE,
    PAUSED_SPLICED,
    PAUSED_STOPPING,
    Entry,
    entry_of,
)
from wsraw.runtime.printable import without_secrets

LONGEST: Final = 200
"""Characters that are shown of a text that a client or a handler has chosen."""

MOST_SHOWN: Final = 100
"""Groups, and coupled connections, that are listed for a connection."""

PAUSES: Final = {
    PAUSED_OWN: "more than high_water_mark is held for it",
    PAUSED_COUPLED: "a coupled connection does not take its output",
    PAUSED_SPLICED: "the connection that it is spliced with is busy with a large message",
    PAUSED_STOPPING: "the gateway is stopping",
    PAUSED_RATE: "it has sent more than its rate allows",
    PAUSED_FULL: "memory_limit is reached",
}
"""Why a connection is not read from."""


def summary(con: Connection, flow: Flow) -> dict[str, Any]:
    """The facts that a list shows."""
    now = flow.now
    entry = entry_of(con)
    facts: dict[str, Any] = {
        "id": con.id,
        "kind": con.kind or "unknown",
        "state": con.state.value,
        "opened": con.opened,
        "peer": _short(con.about.get("peer", "")),
        "path": path_of(con),
        "listener": con.about.get("listener", ""),
        "pool": con.pool if entry is None else entry.pool.name,
        "output": con.output.waiting,
    }
    if "user" in con.about:
        facts["user"] = _short(con.about["user"])
    if con.opened:
        facts["target"] = _short(without_secrets(con.target))
    if entry is None:
        return facts
    holder = entry.holder
    facts |= {
        "worker": holder.name.removeprefix("worker ") if holder is not None else "",
        "age": now - entry.since,
        "last_in": _ago(entry.received_at, now),
        "last_out": _ago(entry.sent_at, now),
        "sent": entry.taken,
        "in_flight": entry.in_flight,
        "parked": len(entry.parked),
        "events": entry.event_bytes,
        "paused": [why for bit, why in PAUSES.items() if entry.pauses & bit],
        "slow": flow.is_slow(entry),
    }
    return facts


def whole(con: Connection, flow: Flow) -> dict[str, Any]:
    """All facts; `summary` is a part of them."""
    facts = summary(con, flow) | {
        "scheme": con.about.get("scheme", ""),
        "proxy": con.about.get("proxy", ""),
        "tls": _tls(con.about.get("tls", {})),
        "params": {name: _short(value) for name, value in con.about.get("params", {}).items()},
        "unfinished": con.unfinished,
        "undecided": con.undecided,
        "ending": _ending(con),
        "limited": con.rate_limit is not None,
    }
    facts |= _of_websocket(con)
    entry = entry_of(con)
    return facts if entry is None else facts | _of_entry(entry, flow)


def _of_websocket(con: Connection) -> dict[str, Any]:
    ws = con.websocket
    if ws is None:
        return {}
    terms = ws.terms
    return {
        "subprotocol": ws.subprotocol or "",
        "deflate": None
        if terms is None
        else {"context_takeover": terms.send_takeover, "contexts": ws.contexts_size},
        "pinged": con.keepalive.awaits_pong,
    }


def _of_entry(entry: Entry, flow: Flow) -> dict[str, Any]:
    now = flow.now
    holder = entry.holder
    _, unwritten_since = flow.unwritten.get(entry, (0, now))
    sent_at = []
    if holder is not None and entry.in_flight:
        flights = holder.window.in_flight.values()
        sent_at = [flight.sent_at for flight in flights if flight.owner is entry]
    return {
        "parked_bytes": sum([size for _, size, _ in entry.parked]),
        "held_back": len(entry.held_back or ()),
        "oldest": now - min(sent_at) if sent_at else 0.0,
        "dropped": entry.skipped,
        "stalled": now - unwritten_since,
        "paused_for": now - entry.paused_since if entry.pauses else 0.0,
        "heard": entry.heard,
        "name": _short(entry.name or ""),
        "state_bytes": len(entry.state),
        "groups": [_short(name) for name in sorted(entry.groups or ())[:MOST_SHOWN]],
        "groups_total": len(entry.groups or ()),
        "spliced": entry.splice.other if entry.splice is not None else 0,
        "coupled": sorted(other.id for other in entry.couples or ())[:MOST_SHOWN],
        "coupled_total": len(entry.couples or ()),
        "shared": entry.con.output.shared_size,
        "memory": entry.kept + entry.con.kept + entry.output_memory + entry.event_bytes,
    }


def _ending(con: Connection) -> dict[str, Any] | None:
    ending = con.ending
    if not ending.cause and con.state is not CLOSED:
        return None
    return {"code": ending.code, "reason": _short(ending.reason), "cause": ending.cause}


def _tls(about: dict[str, Any]) -> dict[str, str]:
    """TLS facts: without the client's certificate, but with the name in it."""
    facts = {name: _short(about[name]) for name in _OF_TLS if about.get(name)}
    client = about.get("client")
    return facts | {"client": _short(client["subject"])} if client else facts


_OF_TLS: Final = ("version", "cipher", "server_name", "alpn")


def path_of(con: Connection) -> str:
    """The path that a WebSocket client has asked for, without its query."""
    return _short(without_secrets(con.inf.get("url", "")))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _ago(when: float, now: float) -> float | None:
    """Seconds since a time; None if that was never."""
    return now - when if when else None
