from __future__ import annotations

from tests.gateway.harness import Harness, entry_of
from wsraw.gateway.delivery.groups.table import Table


def test_a_list_goes_on_where_it_ended_whoever_has_left() -> None:
    harness = Harness()
    table = Table()
    members = [entry_of(harness.raw()) for _ in range(7)]
    for entry in members:
        table.add("g", entry)
    ids = [entry.id for entry in members]
    page, after = table.page("g", 0, 3)
    assert page == ids[:3]
    for index in (2, 4, 0):
        table.remove("g", members[index])
    table.add("g", members[0])
    page, after = table.page("g", after, 3)
    assert page == [ids[3], ids[5], ids[6]]
    assert table.page("g", after, 3) == ([ids[0]], 0)
    # A page without room returns nothing, and does not lose the place.
    page, again = table.page("g", after, 0)
    assert (page, table.page("g", again, 3)) == ([], ([ids[0]], 0))
    assert table.page("none", 0, 3) == table.page("none", 5, 3) == ([], 0)
    assert table.page("g", 10**9, 3) == ([], 0)


def test_the_first_member_and_the_end_of_the_last_one_are_told() -> None:
    harness = Harness()
    table = Table()
    a, b = (entry_of(harness.raw()) for _ in range(2))
    told: list[tuple[str, bool]] = []
    table.watcher = lambda name, is_there: told.append((name, is_there))
    table.add("g", a)
    table.add("g", b)
    table.add("h", b)
    table.remove("g", a)
    assert told == [("g", True), ("h", True)]
    table.remove("g", b)
    table.add("g", b)
    assert told[2:] == [("g", False), ("g", True)]
