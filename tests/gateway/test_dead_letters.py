from __future__ import annotations

import base64
import json

import pytest
from stage import Stage, route_of

from wsraw import messages as m
from wsraw.gateway.dead_letters import dead_letter
from wsraw.gateway.route import Route


@pytest.fixture
def route() -> Route:
    stage = Stage()
    route = route_of(stage.raw())
    route.state = b"\xff state"
    return route


def test_what_every_letter_holds(route: Route) -> None:
    letter = dead_letter(route, m.OnConnect(1, route.id, {}, delivery=3), 2)
    assert letter == {
        "con": route.id,
        "kind": "raw",
        "event": "on_connect",
        "deaths": 2,
        "lost_links": 0,
        "deliveries": 2,
        "about": route.con.about,
        "inf": {"Protocol": "raw"},
        "state": base64.b64encode(b"\xff state").decode(),
    }


@pytest.mark.parametrize(
    ("event", "more"),
    [
        (
            m.OnMessage(1, 7, b"\x00boom", "binary", final=False),
            {"type": "binary", "final": False, "data": base64.b64encode(b"\x00boom").decode()},
        ),
        (m.OnError(1, 7, "reset"), {"message": "reset"}),
        (
            m.OnClose(1, 7, 1001, "bye", "peer"),
            {"code": 1001, "reason": "bye", "cause": "peer"},
        ),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_what_each_kind_adds(route: Route, event: m.Event, more: dict[str, object]) -> None:
    letter = dead_letter(route, event, 1)
    assert letter["event"] == type(event).__struct_config__.tag
    assert {key: letter[key] for key in more} == more
    assert len(letter) == 9 + len(more)
    assert json.loads(json.dumps(letter)) == letter
