from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.corpus import UPGRADE, frame
from tests.gateway.harness import Harness, entry_of
from wsraw.config.settings import Settings
from wsraw.gateway.connection.output import CHUNK
from wsraw.gateway.counters import CROWDED
from wsraw.gateway.delivery.accounts import CROWDED_FOR, GRAIN, MOST_CLOSED, Flow
from wsraw.gateway.delivery.entry import (
    PAUSED_COUPLED,
    PAUSED_FULL,
    PAUSED_OWN,
    PAUSED_STOPPING,
    Entry,
)
from wsraw.link.records import Send

HIGH, LOW, LIMIT = 1000, 250, 10_000


def flow(**settings: int) -> Flow:
    marks = {"high_water_mark": HIGH, **settings}
    return Flow(Settings(**marks), LIMIT)  # type: ignore[arg-type]


def new_entry() -> Entry:
    """An entry in a gateway of its own, so that only the flow under test counts it."""
    entry = entry_of(Harness().raw(b"", protocol="raw"))
    entry.event_bytes = entry.con.kept = 0
    return entry


def set_output(flow: Flow, entry: Entry, size: int) -> None:
    con = entry.con
    con.output.drop()
    con.output.append(b"x" * size)
    flow.output_changed(entry)


def taken(flow: Flow) -> set[Entry]:
    changed = set(flow.changed)
    flow.changed.clear()
    return changed


# --- one connection ---


def test_reading_pauses_above_the_high_mark_and_resumes_at_the_low_one() -> None:
    f, entry = flow(), new_entry()
    f.add(entry, HIGH)
    assert (entry.pauses, taken(f)) == (0, set())
    f.add(entry, 1)
    assert (entry.pauses, taken(f), set(f.paused)) == (PAUSED_OWN, {entry}, {entry})
    f.add(entry, -(HIGH - LOW))
    assert (entry.pauses, taken(f)) == (PAUSED_OWN, set())
    f.add(entry, -1)
    assert (entry.pauses, taken(f), set(f.paused)) == (0, {entry}, set())
    assert f.total == entry.event_bytes == LOW


def test_output_and_events_count_in_one_account() -> None:
    f, entry = flow(), new_entry()
    f.add(entry, HIGH // 2)
    set_output(f, entry, HIGH // 2)
    assert not entry.pauses
    set_output(f, entry, HIGH // 2 + 1)
    assert entry.pauses == PAUSED_OWN
    assert f.total == HIGH + 1
    f.add(entry, -HIGH // 2)
    assert entry.pauses == PAUSED_OWN
    set_output(f, entry, LOW)
    assert not entry.pauses
    assert f.total == LOW


def test_handled_events_resume_reading_only_when_the_output_allows_it() -> None:
    f, entry = flow(), new_entry()
    f.add(entry, HIGH + 1)
    set_output(f, entry, LOW + 1)
    f.add(entry, -(HIGH + 1))
    assert entry.pauses == PAUSED_OWN
    set_output(f, entry, LOW)
    assert not entry.pauses


def test_a_pause_is_dated_when_it_begins() -> None:
    f, entry = flow(), new_entry()
    f.now = 5.0
    f.pause(entry, PAUSED_COUPLED)
    f.now = 6.0
    f.pause(entry, PAUSED_OWN)
    assert entry.paused_since == 5.0
    f.resume(entry, PAUSED_COUPLED)
    assert set(f.paused) == {entry}
    f.resume(entry, PAUSED_OWN)
    f.resume(entry, PAUSED_OWN)
    f.pause(entry, PAUSED_OWN)
    assert entry.paused_since == 6.0


# --- couples ---


def test_output_of_a_connection_pauses_reading_of_its_coupled_one() -> None:
    f, one, other = flow(), new_entry(), new_entry()
    f.couple(one, other)
    set_output(f, one, HIGH)
    assert not other.pauses
    set_output(f, one, HIGH + 1)
    assert other.pauses == PAUSED_COUPLED
    assert one.pauses == PAUSED_OWN
    set_output(f, one, LOW + 1)
    assert other.pauses == PAUSED_COUPLED
    set_output(f, one, LOW)
    assert (one.pauses, other.pauses) == (0, 0)


def test_events_of_a_connection_do_not_pause_its_coupled_one() -> None:
    f, one, other = flow(), new_entry(), new_entry()
    f.couple(one, other)
    f.add(one, 5 * HIGH)
    f.output_changed(one)
    assert not other.pauses, "there is no deadlock, as each depends on the other's output alone"


def test_coupling_with_a_full_connection_pauses_at_once() -> None:
    f, one, other = flow(), new_entry(), new_entry()
    set_output(f, one, HIGH + 1)
    f.couple(one, other)
    assert other.pauses == PAUSED_COUPLED


def test_any_of_several_coupled_connections_pauses_reading() -> None:
    f, one, two, other = flow(), new_entry(), new_entry(), new_entry()
    f.couple(one, other)
    f.couple(other, two)
    for entry in (one, two):
        set_output(f, entry, HIGH + 1)
    set_output(f, one, 0)
    assert other.pauses == PAUSED_COUPLED
    set_output(f, two, 0)
    assert not other.pauses


@pytest.mark.parametrize("over", [True, False])
def test_a_connection_that_has_ended_pauses_no_other(over: bool) -> None:
    f, one, other = flow(), new_entry(), new_entry()
    f.couple(one, other)
    set_output(f, one, HIGH + 1 if over else 1)
    f.add(one, 50)
    assert bool(other.pauses) == over
    f.forget(one)
    assert not other.pauses
    assert other.couples == set()
    assert f.total == 0
    assert set(f.paused) == set()
    set_output(f, other, HIGH + 1)
    assert not one.pauses & PAUSED_COUPLED


def test_output_of_an_ended_connection_is_not_counted() -> None:
    f, entry = flow(), new_entry()
    set_output(f, entry, HIGH + 1)
    entry.gone = True
    f.forget(entry)
    set_output(f, entry, HIGH)
    assert (f.total, set(f.paused), f.changed) == (0, set(), {})


# --- memory ---


def test_memory_above_each_of_three_marks_has_its_effect() -> None:
    f = flow(high_water_mark=LIMIT)
    small, large, output = new_entry(), new_entry(), new_entry()
    entries = [small, large, output]
    f.add(small, LOW)
    f.add(large, 4000)
    set_output(f, output, 3750)
    assert f.total == 0.8 * LIMIT
    assert f.check_memory(entries) == []
    assert not f.crowded
    f.add(large, 1)
    assert f.check_memory(entries) == []
    assert f.crowded, "above 80 % no new ones"
    assert [r.pauses for r in entries] == [0, PAUSED_OWN, PAUSED_OWN]
    f.add(large, 2000)
    assert f.check_memory(entries) == [output.con], "above 100 % the fullest output goes"
    f.forget(output)
    assert f.check_memory(entries) == []
    assert not f.crowded
    assert large.pauses == 0


def test_memory_pressure_ends_well_below_where_it_began() -> None:
    f, entry = flow(high_water_mark=LIMIT), new_entry()
    f.add(entry, 8001)
    f.check_memory([entry])
    f.add(entry, -1000)
    f.check_memory([entry])
    assert f.crowded
    f.add(entry, -1)
    f.check_memory([entry])
    assert not f.crowded
    f.add(entry, 1000)
    f.check_memory([entry])
    assert (f.crowded, entry.pauses) == (False, 0)


def test_only_as_many_are_closed_as_it_takes() -> None:
    f = flow(high_water_mark=LIMIT)
    entries = [new_entry() for _ in range(4)]
    for entry, size in zip(entries, (2000, 5000, 4000, 1000), strict=True):
        set_output(f, entry, size)
    assert f.check_memory(entries) == [entries[1].con]
    f.add(entries[0], 4000)
    assert f.check_memory(entries) == [entries[1].con, entries[2].con]


def test_parked_events_alone_close_nobody() -> None:
    f, entry = flow(high_water_mark=LIMIT), new_entry()
    f.add(entry, 2 * LIMIT)
    assert f.check_memory([entry]) == []
    assert entry.pauses


def test_total_memory_is_checked_when_it_grows() -> None:
    f, entry, other = flow(), new_entry(), new_entry()
    f.add(entry, 8000)
    assert not f.is_check_due
    set_output(f, other, 1)
    assert f.is_check_due
    assert f.check_memory([entry, other]) == []
    assert (f.is_check_due, f.crowded, f.full) == (False, True, False)
    f.add(entry, 2000 - CHUNK)
    assert not f.is_check_due
    f.add(entry, 1)
    assert f.is_check_due
    f.check_memory([entry, other])
    assert f.full, "nobody is read from"
    f.add(entry, int(LIMIT * GRAIN))
    assert not f.is_check_due
    f.add(entry, 1)
    assert f.is_check_due, "but answers can still grow"


def test_memory_added_by_one_read_is_checked_with_that_read() -> None:
    harness = Harness()
    con = harness.raw(b"", protocol="raw")
    flow = harness.registry.flow
    flow.memory_limit = 100_000
    flow.check_memory(harness.registry.entries.values())
    harness.say(con, bytes(70_000))
    assert not flow.is_check_due
    harness.say(con, bytes(20_000))
    assert flow.is_check_due


def test_parts_of_a_large_message_count_as_they_are_read() -> None:
    f, entry = flow(), new_entry()
    entry.con.intake.unparsed += bytes(5000)
    f.read_part(entry.con, 8000)
    assert not f.is_check_due
    f.read_part(entry.con, 1)
    assert f.is_check_due
    f.check_memory([entry])
    assert (f.crowded, f.weighed) == (False, 5000), "what was complete is not there any more"
    entry.con.intake.unparsed += bytes(5001)
    f.read_part(entry.con, 5001)
    assert f.is_check_due
    assert f.check_memory([entry]) == [entry.con]
    assert f.full
    f.forget(entry)
    assert f.weighed == 0
    assert f.is_check_due


def test_under_memory_pressure_connections_pause_at_the_low_mark() -> None:
    f, entry, other = flow(), new_entry(), new_entry()
    f.add(other, 8001)
    f.add(entry, LOW)
    f.check_memory([entry, other])
    assert not entry.pauses
    f.add(entry, 1)
    assert entry.pauses == PAUSED_OWN
    f.forget(other)
    assert f.is_check_due
    f.check_memory([entry])
    assert not entry.pauses, "the mark is the high one again"
    f.add(entry, HIGH - LOW - 1)
    assert not entry.pauses
    f.add(entry, 1)
    assert entry.pauses == PAUSED_OWN


def test_closing_for_memory_ends_below_the_limit_and_before_pausing_does() -> None:
    f, entry, paused = flow(high_water_mark=2 * LIMIT), new_entry(), new_entry()
    f.add(entry, LIMIT + 1)
    f.check_memory([entry])
    f.pause(paused, PAUSED_FULL)
    f.add(entry, -1000)
    assert not f.is_check_due
    f.check_memory([entry])
    assert (f.full, paused.pauses) == (True, PAUSED_FULL)
    f.add(entry, -1)
    assert f.is_check_due
    f.check_memory([entry])
    assert (f.full, f.crowded, paused.pauses, entry.pauses) == (False, True, 0, PAUSED_OWN)
    f.add(entry, -1999)
    assert not f.is_check_due
    f.add(entry, -1)
    assert f.is_check_due
    f.check_memory([entry])
    assert (f.crowded, entry.pauses) == (False, 0)


def test_connections_are_closed_for_memory_over_several_turns() -> None:
    f = flow()
    entries = [new_entry() for _ in range(2 * MOST_CLOSED)]
    for entry in entries:
        set_output(f, entry, 200)
    first = f.check_memory(entries)
    assert len(first) == MOST_CLOSED
    assert f.is_check_due, "the next turn goes on"
    for con in first:
        entry = entry_of(con)
        f.forget(entry)
        entries.remove(entry)
    second = f.check_memory(entries)
    assert sum(200 for _ in [*first, *second]) == 20_000 - 0.9 * LIMIT + 200 - 200
    assert not f.is_check_due


def test_slow_readers_do_not_keep_new_clients_out_for_ever() -> None:
    f = flow(high_water_mark=LIMIT)
    entries = [new_entry() for _ in range(4)]
    for entry, size in zip(entries, (100, 4000, 3000, 1500), strict=True):
        set_output(f, entry, size)
    for f.now in (5.0, 5.0 + CROWDED_FOR):
        assert f.check_memory(entries) == []
        assert f.crowded
    f.now += 0.1
    assert f.check_memory(entries) == [entries[1].con], "the fullest, and no more than it takes"
    f.forget(entries.pop(1))
    f.check_memory(entries)
    assert not f.crowded


def test_output_that_does_not_cause_the_pressure_is_kept() -> None:
    f, waiting, reader = flow(high_water_mark=LIMIT), new_entry(), new_entry()
    f.add(waiting, 8000)
    set_output(f, reader, 500)
    for f.now in (1.0, 100.0):
        assert f.check_memory([waiting, reader]) == [], "handlers are slow, and no reader"
        assert f.crowded


def test_a_connection_that_is_no_longer_read_stays_paused() -> None:
    f, entry = flow(), new_entry()
    f.pause(entry, PAUSED_STOPPING)
    f.add(entry, HIGH + 1)
    f.add(entry, -(HIGH + 1))
    assert entry.pauses == PAUSED_STOPPING


# --- random steps ---

step = st.tuples(
    st.sampled_from(["add", "remove", "output", "couple", "forget"]),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3 * HIGH),
)


@given(st.lists(step, max_size=40))
def test_the_accounts_and_pauses_always_add_up(steps: list[tuple[str, int, int, int]]) -> None:
    f = flow()
    entries = [new_entry() for _ in range(4)]
    for kind, n, other, size in steps:
        entry = entries[n]
        if kind == "add":
            f.add(entry, size)
        elif kind == "remove":
            f.add(entry, -min(size, entry.event_bytes))
        elif kind == "output":
            set_output(f, entry, size)
        elif kind == "couple" and n != other:
            f.couple(entry, entries[other])
        elif kind == "forget":
            f.forget(entry)
            entries[n] = new_entry()
        assert f.total == sum(r.event_bytes + r.output_memory for r in entries)
        assert set(f.paused) == {r for r in entries if r.pauses}
        for r in entries:
            weight = r.event_bytes + r.output_counted
            assert weight <= HIGH or r.pauses & PAUSED_OWN
            assert weight > LOW or not r.pauses & PAUSED_OWN
            assert bool(r.pauses & PAUSED_COUPLED) == any(o.over for o in r.couples or ())
            assert r.over or r.output_counted <= HIGH
            assert not r.over or r.output_counted > LOW


@pytest.mark.parametrize("takeover", [False, True])
def test_contexts_of_compression_count_in_the_limit(takeover: bool) -> None:
    harness = Harness(deflate_context_takeover=takeover, deflate_from=0)
    linked = harness.worker()
    offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    con = harness.raw(UPGRADE % offer)
    harness.turn()
    flow = harness.registry.flow
    flow.check_memory(harness.registry.entries.values())
    entry = entry_of(con)
    assert not entry.unfinished, "none before the first message"
    assert linked.refused(Send(con.id, b"x" * 100, "text")) == ""
    flow.check_memory(harness.registry.entries.values())
    assert entry.unfinished == (6 * 1024 + 32 * 1024 if takeover else 0)
    flow.memory_limit = 20 * 1024
    assert flow.check_memory(harness.registry.entries.values()) == ([con] if takeover else [])


def test_a_connection_closed_for_memory_is_counted_once() -> None:
    """The connection stays among the largest until its events are handled and its close frame is
    written.
    """
    harness = Harness(20_000, ping_interval=0.0, high_water_mark=100_000, handler_timeout=0.0)
    linked = harness.worker()
    con = harness.websocket()
    linked.work()
    for _ in range(30):
        harness.say(con, frame(0x82, b"y" * 1000))
    linked.say(Send(con.id, b"x" * 30_000, "binary"))
    harness.run(10)
    assert con.ending.cause == "memory"
    assert harness.registry.counters.counts == {CROWDED: 1, "memory_limit": 1}
