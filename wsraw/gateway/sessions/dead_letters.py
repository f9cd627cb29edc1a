"""Sans-I/O. The record of an event that kills workers."""

from __future__ import annotations

import base64
from typing import Any

from wsraw.gateway.delivery.entry import Entry
from wsraw.link.records import Event, OnClose, OnError, OnMessage, OnRequest

FILE_NAME = "dead-letters.jsonl"
"""A file in the run folder: one JSON object a line."""


def dead_letter(entry: Entry, event: Event, deaths: int, losses: int = 0) -> dict[str, Any]:
    """All that a person needs to find the cause; `data` is base64."""
    con = entry.con
    letter: dict[str, Any] = {
        "con": entry.id,
        "kind": con.kind,
        "event": type(event).__struct_config__.tag,
        "deaths": deaths,
        "lost_links": losses,
        "deliveries": event.delivery - 1,
        "about": _to_json(con.about),
        "inf": con.inf,
        "state": base64.b64encode(entry.state).decode(),
    }
    if isinstance(event, OnMessage):
        letter |= {
            "type": event.type,
            "final": event.final,
            "data": base64.b64encode(event.data).decode(),
        }
    elif isinstance(event, OnRequest):
        letter["data"] = base64.b64encode(event.body).decode()
    elif isinstance(event, OnError):
        letter["message"] = event.message
    elif isinstance(event, OnClose):
        letter |= {"code": event.code, "reason": event.reason, "cause": event.cause}
    return letter


def _to_json(about: dict[str, Any]) -> dict[str, Any]:
    """Facts as JSON, with the body of a server's answer, which is bytes, as base64."""
    response = about.get("response")
    if response is None:
        return about
    body = base64.b64encode(response["body"]).decode()
    return {**about, "response": {**response, "body": body}}
