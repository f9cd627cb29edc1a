from __future__ import annotations

from stage import Stage, route_of

from wsraw.gateway.flow import Flow
from wsraw.gateway.groups import Groups
from wsraw.gateway.route import Route
from wsraw.settings import Settings


def flow() -> Flow:
    return Flow(Settings(), 1 << 30)


def routes(count: int) -> list[Route]:
    stage = Stage()
    return [route_of(stage.raw()) for _ in range(count)]


def test_members_in_the_order_they_joined() -> None:
    groups = Groups(flow())
    a, b, c = routes(3)
    for route in (b, a, c, b):
        groups.join(route, "g")
    assert [*groups.members("g")] == [b, a, c]
    assert [*groups.members("h")] == []


def test_leaving() -> None:
    groups = Groups(flow())
    a, b = routes(2)
    groups.join(a, "g")
    groups.join(b, "g")
    groups.join(a, "h")
    groups.leave(a, "g")
    groups.leave(a, "g")
    groups.leave(b, "h")
    groups.leave(b, "no such group")
    assert [*groups.members("g")] == [b]
    assert [*groups.members("h")] == [a]
    groups.join(a, "g")
    assert [*groups.members("g")] == [b, a]


def test_who_is_gone_is_in_no_group_and_an_empty_group_is_none() -> None:
    groups = Groups(flow())
    a, b, never = routes(3)
    for group in ("g", "h"):
        groups.join(a, group)
    groups.join(b, "h")
    for route in (a, never):
        groups.forget(route)
    assert [*groups.members("g")] == []
    assert [*groups.members("h")] == [b]
    assert a.groups == set()
    groups.forget(b)
    assert groups._members == {}
