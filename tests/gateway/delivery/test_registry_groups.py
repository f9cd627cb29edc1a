from __future__ import annotations

from tests.gateway.harness import Harness, entry_of
from wsraw.config.settings import Settings
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.entry import Entry
from wsraw.gateway.delivery.registry import Groups


def flow() -> Flow:
    return Flow(Settings(), 1 << 30)


def entries(count: int) -> list[Entry]:
    harness = Harness()
    return [entry_of(harness.raw()) for _ in range(count)]


def test_members_are_listed_in_the_order_they_joined() -> None:
    groups = Groups(flow())
    a, b, c = entries(3)
    for entry in (b, a, c, b):
        groups.join(entry, "g")
    assert [*groups.members("g")] == [b, a, c]
    assert [*groups.members("h")] == []


def test_a_member_that_leaves_is_removed() -> None:
    groups = Groups(flow())
    a, b = entries(2)
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


def test_an_ended_connection_leaves_its_groups_and_an_empty_group_is_removed() -> None:
    groups = Groups(flow())
    a, b, never = entries(3)
    for group in ("g", "h"):
        groups.join(a, group)
    groups.join(b, "h")
    for entry in (a, never):
        groups.forget(entry)
    assert [*groups.members("g")] == []
    assert [*groups.members("h")] == [b]
    assert a.groups == set()
    groups.forget(b)
    assert len(groups) == 0


def test_a_list_goes_on_where_it_ended_whoever_has_left() -> None:
    groups = Groups(flow())
    members = entries(7)
    for entry in members:
        groups.join(entry, "g")
    ids = [entry.id for entry in members]
    page, after = groups.page("g", 0, 3)
    assert page == ids[:3]
    groups.leave(members[2], "g")
    groups.leave(members[4], "g")
    groups.leave(members[0], "g")
    groups.join(members[0], "g")
    page, after = groups.page("g", after, 3)
    assert page == [ids[3], ids[5], ids[6]]
    assert groups.page("g", after, 3) == ([ids[0]], 0)
    # No room for any now.
    page, again = groups.page("g", after, 0)
    assert (page, groups.page("g", again, 3)) == ([], ([ids[0]], 0))
    assert groups.page("none", 0, 3) == groups.page("none", 5, 3) == ([], 0)
    assert groups.page("g", 10**9, 3) == ([], 0)
