from __future__ import annotations

import base64
import json

import pytest

from tests.gateway.harness import Harness, entry_of
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.sessions.dead_letters import dead_letter
from wsraw.link.records import Event, OnClose, OnConnect, OnError, OnMessage


@pytest.fixture
def entry() -> Entry:
    harness = Harness()
    entry = entry_of(harness.raw())
    entry.state = b"\xff state"
    return entry


def test_every_dead_letter_has_the_common_fields(entry: Entry) -> None:
    letter = dead_letter(entry, OnConnect(1, entry.id, {}, delivery=3), 2)
    assert letter == {
        "con": entry.id,
        "kind": "raw",
        "event": "on_connect",
        "deaths": 2,
        "lost_links": 0,
        "deliveries": 2,
        "about": entry.con.about,
        "inf": {"Protocol": "raw"},
        "state": base64.b64encode(b"\xff state").decode(),
    }


@pytest.mark.parametrize(
    ("event", "more"),
    [
        (
            OnMessage(1, 7, b"\x00boom", "binary", final=False),
            {"type": "binary", "final": False, "data": base64.b64encode(b"\x00boom").decode()},
        ),
        (OnError(1, 7, "reset"), {"message": "reset"}),
        (
            OnClose(1, 7, 1001, "bye", "peer"),
            {"code": 1001, "reason": "bye", "cause": "peer"},
        ),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_each_kind_of_dead_letter_has_its_own_fields(
    entry: Entry, event: Event, more: dict[str, object]
) -> None:
    letter = dead_letter(entry, event, 1)
    assert letter["event"] == type(event).__struct_config__.tag
    assert {key: letter[key] for key in more} == more
    assert len(letter) == 9 + len(more)
    assert json.loads(json.dumps(letter)) == letter
