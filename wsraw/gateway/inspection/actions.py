"""Sans-I/O. What operators do to connections: close them, and send to them.

Requests are generators, see steps.py.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, Final

from wsraw.gateway.connection.connection import CLOSED, CLOSING, Connection
from wsraw.gateway.delivery.entry import Entry, entry_of
from wsraw.gateway.delivery.registry import Registry
from wsraw.gateway.inspection.filters import Filter
from wsraw.gateway.inspection.steps import InspectionResult, Look, Steps, find, id_of
from wsraw.gateway.websocket.messages import UNFINISHED
from wsraw.gateway.websocket.websocket import MAX_REASON, close_refusal
from wsraw.link.records import GROUP_LIMIT, Publish, Send, SendToUser

log = logging.getLogger("wsraw.gateway")

MOST_DATA: Final = 1024 * 1024
"""Bytes that an operator may send at once."""


# --- kick ---


def kick(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """Close the connection `id`, or that of a reference `ref`, or those that fit a filter, with a
    `code` and a `reason`. If that is more than one connection, `all` must be set, or nothing is
    done. Answers how many were `closed`. In a cluster, `all` with a `user` and no other filter
    closes that user's connections at all gateways; `told` says that the other gateways were asked
    to do so.

    Raises ValueError for options that cannot be right.
    """
    code, reason = options.get("code", 1008), options.get("reason", "")
    if not isinstance(code, int) or not isinstance(reason, str):
        raise ValueError("code must be a number, and reason a text")
    why = close_refusal(code)
    if why is not None:
        raise ValueError(why)
    if len(reason.encode("utf-8", "replace")) > MAX_REASON:
        raise ValueError(f"a reason has at most {MAX_REASON} bytes")
    if "id" in options:
        return _kick_one(registry, id_of(options), code, reason)
    if "ref" in options:
        return _kick_ref(registry, options["ref"], code, reason)
    chosen = Filter(options, registry)
    may_be_many = bool(options.get("all"))
    if chosen.is_for_all and not may_be_many:
        raise ValueError("say which connections: an ID, a filter, or all")
    everywhere = ""
    if may_be_many and not set(options) - {"all", "code", "reason", "user"}:
        everywhere = chosen.user
    return _kick_many(registry, chosen, may_be_many, code, reason, everywhere)


def _kick_one(registry: Registry, con_id: int, code: int, reason: str) -> Steps:
    con = yield from find(registry, con_id)
    if isinstance(con, str):
        return InspectionResult(False, con)
    registry.kick(con, code, reason)
    log.info("wsraw kick: closed %s", con.label, extra=con.subject.extra())
    return InspectionResult(True, "", {"matched": 1, "closed": 1})


def _kick_ref(registry: Registry, ref: object, code: int, reason: str) -> Steps:
    """Close the connection with the reference `ref`, at any gateway of the cluster."""
    cluster = registry.groups.cluster
    node, _, number = ref.rpartition("/") if isinstance(ref, str) else ("", "", "")
    if cluster is None:
        return InspectionResult(False, "references are for a cluster; see the setting cluster")
    if not (node and number.isascii() and number.isdigit() and len(number) < 20):
        return InspectionResult(
            False, f"{ref!r} is not the reference of a connection, as con.ref is"
        )
    if node == cluster.node:
        return (yield from _kick_one(registry, int(number), code, reason))
    why = cluster.kick(f"{node}/{number}", code, reason)
    return InspectionResult(not why, why, {"matched": 0, "closed": 0, "told": not why})


def _kick_many(
    registry: Registry,
    chosen: Filter,
    may_be_many: bool,
    code: int,
    reason: str,
    everywhere: str = "",
) -> Steps:
    """`everywhere`: the user whose connections at other gateways must be closed, too."""
    found: list[Connection] = []
    for cons in chosen.each():
        found += [con for con in cons if con.state is not CLOSED and chosen.matches(con)]
        yield None
    if len(found) > 1 and not may_be_many:
        why = f"{len(found):,} connections match; --all closes all of them"
        return InspectionResult(False, why, {"matched": len(found), "closed": 0})
    closed = 0
    try:
        for con in found:
            if con.state is not CLOSED:
                registry.kick(con, code, reason)
                closed += 1
            yield None
    finally:
        # Logged even if the operator has gone.
        if closed == 1:
            log.info("wsraw kick: closed %s", found[0].label, extra=found[0].subject.extra())
        elif closed:
            log.info("wsraw kick: closed %d connections", closed)
    data = {"matched": len(found), "closed": closed}
    cluster = registry.groups.cluster
    if everywhere and cluster is not None:
        data["told"] = not cluster.kick_user(everywhere, code, reason)
    return InspectionResult(True, "", data)


# --- send, publish ---


def send(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """Send `data` to the connection `id`: a text, or with `binary` a binary message.

    Raises ValueError for options that cannot be right.
    """
    return _send(registry, id_of(options), _data_of(options), _type_of(options))


def _send(registry: Registry, con_id: int, data: bytes, kind: str) -> Steps:
    con = yield from find(registry, con_id)
    if isinstance(con, str):
        return InspectionResult(False, con)
    entry = entry_of(con)
    if entry is None:
        return InspectionResult(False, f"the protocol of connection {con_id} is not known yet")
    if con.state in (CLOSING, CLOSED):
        return InspectionResult(False, f"connection {con_id} is closing")
    now = registry.flow.now
    registry.outgoing.catch_up(entry, now)
    why = registry.outgoing.send(entry, None, Send(con_id, data, kind), now)
    return InspectionResult(why is None, why or "", {"sent": int(why is None)})


def publish(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """Send `data` to all members of `group`, except those whose ids are in `exclude`. Answers to
    how many members it was `sent`.

    Raises ValueError for options that cannot be right.
    """
    groups, group = registry.groups, _name_of(options, "group")
    publish = Publish(group, _data_of(options), _type_of(options), _excluded(options))
    members = groups.members(group)
    return _publish(registry, members, publish.options, partial(groups.publish, publish))


def send_to_user(registry: Registry, options: Mapping[str, Any], look: Look) -> Steps:
    """Send `data` to all connections of `user`; options and answer as for `publish`."""
    groups, user = registry.groups, _name_of(options, "user")
    send = SendToUser(user, _data_of(options), _type_of(options), _excluded(options))
    return _publish(
        registry, groups.users.of(user), send.options, partial(groups.send_to_user, send)
    )


def _publish(
    registry: Registry,
    members: Collection[Entry],
    options: dict[str, Any],
    publish: Callable[[float], str | None],
) -> Steps:
    excluded = set(options.get("except", ()))
    while True:
        count = len(members)
        if excluded:
            count = sum(entry.id not in excluded for entry in members)
        why = publish(registry.flow.now)
        if why != UNFINISHED:
            return InspectionResult(why is None, why or "", {"sent": count})
        # Too many messages are being sent to large groups.
        yield None


def _name_of(options: Mapping[str, Any], what: str) -> str:
    name = options.get(what)
    if not isinstance(name, str):
        raise ValueError(f"{what}: {name!r} is not the name of a {what}")
    if len(name) > GROUP_LIMIT:
        # The group has no members, and never will have.
        raise ValueError(f"{what}: a name has at most {GROUP_LIMIT} characters, not {len(name)}")
    return name


def _excluded(options: Mapping[str, Any]) -> dict[str, Any]:
    excluded = options.get("exclude")
    return {"except": excluded} if excluded else {}


def _data_of(options: Mapping[str, Any]) -> bytes:
    data = options.get("data")
    if not isinstance(data, bytes):
        raise ValueError("data must be bytes")
    if len(data) > MOST_DATA:
        raise ValueError(f"{len(data)} bytes; at most {MOST_DATA} can be sent at once")
    return data


def _type_of(options: Mapping[str, Any]) -> str:
    return "binary" if options.get("binary") else "text"
