from __future__ import annotations

import random
from typing import Any

import pytest

from tests.gateway.harness import Harness, LinkedWorker, entry_of
from wsraw.config.settings import HistorySettings, Settings
from wsraw.gateway.connection.connection import Connection
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.groups.history import KEPT, SHARE, History
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.link.records import Answer, Close, Join, Leave, Publish, Send

ALL = 1 << 30


class Told:
    """A history, and what it reports."""

    def __init__(self, *rules: HistorySettings, memory_limit: int = 1 << 30) -> None:
        self.flow = Flow(Settings(), memory_limit)
        self.members: set[str] = set()
        self.history = History(self.flow, rules, "8f3a", self.members.__contains__)

    def publish(self, group: str, *data: bytes, now: float = 0.0) -> None:
        for each in data:
            self.history.append(group, PublishedMessage(each, "text"), now)

    def since(self, group: str, position: str | None, room: int = ALL, now: float = 0.0) -> Any:
        past = self.history.since(group, position, room, now)
        assert past is not None
        return b"".join(message.data for message in past.messages).decode(), past.recovered

    def position(self, group: str) -> str:
        past = self.history.since(group, None, 0, 0.0)
        assert past is not None
        return f"{past.epoch}:{past.offset}"


def rule(groups: str = "*", messages: int = 5, time: float = 10.0) -> HistorySettings:
    return HistorySettings(groups=groups, messages=messages, time=time)


def test_what_was_published_since_a_position_is_told() -> None:
    told = Told(rule())
    assert told.since("g", "") == ("", True)
    start = told.position("g")
    told.publish("g", b"a", b"b")
    middle = told.position("g")
    told.publish("g", b"c")
    assert told.since("g", start) == ("abc", True)
    assert told.since("g", middle) == ("c", True)
    assert told.since("g", told.position("g")) == ("", True)
    assert told.since("g", "") == ("abc", True)
    assert told.since("g", None) == ("", True)
    assert (start.rpartition(":")[2], middle.rpartition(":")[2]) == ("0", "2")


def test_a_history_has_a_number_of_messages_and_says_if_some_are_missing() -> None:
    told = Told(rule(messages=3))
    start = told.position("g")
    told.publish("g", b"a", b"b", b"c", b"d")
    assert told.since("g", start) == ("bcd", False)
    assert told.since("g", "") == ("bcd", False)
    assert told.since("g", start[:-1] + "1") == ("bcd", True)


def test_a_message_is_kept_for_a_time() -> None:
    told = Told(rule(time=10.0))
    start = told.position("g")
    told.publish("g", b"a", now=0.0)
    told.publish("g", b"b", now=6.0)
    assert told.since("g", start, now=10.0) == ("ab", True)
    assert told.since("g", start, now=10.1) == ("b", False)
    assert told.since("g", start[:-1] + "1", now=10.1) == ("b", True)
    forever = Told(rule(time=0.0))
    forever.publish("g", b"a")
    forever.history.tick(1e9)
    assert forever.since("g", "", now=1e9) == ("a", True)


@pytest.mark.parametrize("offset", ["99", "-1", "", "x", "9" * 30])
def test_a_position_that_nobody_was_told_recovers_nothing(offset: str) -> None:
    told = Told(rule())
    told.publish("g", b"a")
    epoch = told.position("g").rpartition(":")[0]
    assert told.since("g", f"{epoch}:{offset}") == ("", False)


@pytest.mark.parametrize("position", ["other:1", "1", ":", "8f3a:0"])
def test_a_position_of_another_epoch_gets_all_messages(position: str) -> None:
    told = Told(rule())
    told.publish("g", b"a", b"b")
    assert told.since("g", position) == ("ab", False)


def test_each_group_has_offsets_and_an_epoch_of_its_own() -> None:
    told = Told(rule())
    told.publish("g", b"a", b"b")
    told.publish("h", b"c")
    g, h = told.position("g"), told.position("h")
    assert (g[-1], h[-1]) == ("2", "1")
    assert g[:-1] != h[:-1]
    assert told.since("h", g) == ("c", False)


def test_the_first_rule_that_matches_counts_and_other_groups_have_no_history() -> None:
    told = Told(rule("room.vip", messages=1), rule("room.*", messages=2))
    for group in ("room.vip", "room.1", "hall"):
        told.publish(group, b"a", b"b", b"c")
    assert told.since("room.vip", "") == ("c", False)
    assert told.since("room.1", "") == ("bc", False)
    assert told.history.since("hall", "", ALL, 0.0) is None
    assert len(told.history) == 2


def test_only_messages_that_have_room_are_told() -> None:
    told = Told(rule())
    start = told.position("g")
    told.publish("g", b"aaa", b"bbb", b"ccc")
    assert told.since("g", start, room=6) == ("bbbccc", False)
    assert told.since("g", start, room=-1) == ("", False)


# --- memory ---


def test_all_messages_are_counted_until_they_are_old() -> None:
    told = Told(rule(time=10.0))
    for n in range(20):
        told.publish(f"g{n}", b"x" * 1000)
    assert told.flow.accounted > 20 * (1000 + KEPT)
    told.members.add("g3")
    told.history.tick(10.5)
    assert len(told.history) == 1, "one that has members knows its offset"
    told.members.clear()
    told.history.left("g3", 11.0)
    told.history.tick(20.0)
    assert len(told.history) == 1, "a member may come back"
    told.history.tick(21.5)
    assert len(told.history) == told.flow.accounted == told.history.size == 0


def test_all_streams_together_have_a_bound() -> None:
    """The group that has waited longest for a message loses its oldest message."""
    told = Told(rule(messages=1000), memory_limit=1 << 20)
    begin = told.position("old")
    for n in range(100):
        told.publish("old", b"x" * 1000, now=n)
    for _ in range(500):
        told.publish("new", b"x" * 1000, now=100.0)
        assert told.history.size <= SHARE * (1 << 20)
    assert told.since("old", begin, now=0.0) == ("", False)
    assert told.since("new", "", now=100.0)[0]
    for n in range(10_000):
        told.publish(f"g{n}", b"x", now=200.0)
    assert len(told.history) < 1000
    assert told.flow.accounted < 1 << 20


@pytest.mark.parametrize("have_members", [False, True])
def test_groups_that_are_only_asked_for_have_the_same_bound(have_members: bool) -> None:
    """Clients may choose the names of groups, so each join may make a history."""
    told = Told(rule(messages=1000, time=0.0), memory_limit=1 << 20)
    for n in range(10_000):
        if have_members:
            told.members.add(f"g{n}")
        position = told.position(f"g{n}")
        assert told.history.size <= SHARE * (1 << 20)
        assert told.since(f"g{n}", position) == ("", True)
    assert 100 < len(told.history) < 1000
    begin = told.position("g")
    told.publish("g", b"x")
    assert told.since("g", begin) == ("x", True), "a new one can be used"


def test_while_memory_is_crowded_half_is_dropped_each_second() -> None:
    told = Told(rule(messages=1000))
    told.members.add("g")
    told.publish("g", *[b"x" * 1000] * 500)
    size = told.history.size
    told.flow.crowded = True
    told.history.tick(0.0)
    assert told.history.size <= size / 2
    for _ in range(20):
        told.history.tick(0.0)
    assert told.since("g", "") == ("", False)
    assert len(told.history) == 1


# --- joins ---


def joined(linked: LinkedWorker, con: Connection, since: str | None, ref: int = 1) -> Any:
    linked.say(Join(con.id, "g", since, ref))
    linked.harness.turn()
    (answer,) = linked.take(Answer)
    assert answer.ref == ref
    return answer.value


def test_a_member_that_joins_is_sent_what_it_has_missed() -> None:
    harness = Harness(history=(rule(),))
    linked = harness.worker()
    con, other = harness.raw(), harness.raw()
    linked.work()
    epoch, offset, *more = joined(linked, con, None)
    assert (offset, more) == (0, [True, 0])
    linked.say(Publish("g", b"a"), Publish("g", b"b"), Send(other.id, b"first,"))
    assert joined(linked, other, f"{epoch}:1") == [epoch, 2, True, 1]
    linked.say(Publish("g", b"c"))
    assert (harness.write(con), harness.write(other)) == (b"abc", b"first,bc")
    # The client is a member already: nothing is sent again, and its position is unknown.
    assert joined(linked, other, f"{epoch}:1") == [epoch, 3, False, 0]
    assert joined(linked, other, None) == [epoch, 3, True, 0]
    assert harness.write(other) == b""
    linked.say(Leave(other.id, "g"), Publish("g", b"d"), Join(other.id, "g", f"{epoch}:3"))
    assert harness.write(other) == b"d"
    assert linked.take(Answer) == []


def test_a_join_that_cannot_be_is_answered_too() -> None:
    harness = Harness(history=(rule("room"),))
    linked = harness.worker()
    con, closed = harness.raw(), harness.raw()
    linked.work()
    assert "'g' has no history" in joined(linked, con, "")
    linked.say(Close(closed.id))
    harness.hang_up(closed)
    linked.work()
    assert joined(linked, closed, "") == ["", 0, False, 0]
    assert "g" not in harness.registry.groups.table


def test_a_replay_does_not_close_a_client_for_its_length() -> None:
    harness = Harness(history=(rule(messages=100),), output_limit=400_000)
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    linked.say(*[Publish("g", b"x" * 10_000) for _ in range(100)])
    _, offset, recovered, replayed = joined(linked, con, "")
    assert (offset, recovered) == (100, False)
    assert 30 <= replayed <= 40
    assert len(harness.write(con)) == replayed * 10_000


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_lost_or_doubled_between_replay_and_live_messages(seed: int) -> None:
    """Members leave and come back with their positions during publishes to a large group."""
    choose = random.Random(seed)
    harness = Harness(history=(rule(messages=1000, time=0.0),))
    harness.registry.outgoing.share = choose.choice((1, 4, 64))
    linked = harness.worker()
    cons = [harness.raw() for _ in range(12)]
    linked.work()
    epoch = joined(linked, cons[0], None)[0]
    published, got = 0, {con.id: b"" for con in cons}
    inside = {cons[0].id}
    for _ in range(120):
        con = choose.choice(cons)
        match choose.randrange(4):
            case 0 if con.id in inside and con is not cons[0]:
                linked.say(Leave(con.id, "g"))
                inside.discard(con.id)
            case 1 if con.id not in inside:
                got[con.id] += harness.write(con)
                count = len(got[con.id]) // 4
                told = joined(linked, con, f"{epoch}:{count}")
                assert told == [epoch, published, True, published - count]
                inside.add(con.id)
            case 2:
                linked.say(Publish("g", b"%03d," % published))
                published += 1
            case 3:
                got[con.id] += harness.write(con)
        if choose.random() < 0.3:
            harness.sessions.backlog.go_on(0.0)
    while harness.registry.outgoing.broadcasts:
        harness.sessions.backlog.go_on(0.0)
    for con in cons:
        got[con.id] += harness.write(con)
        whole = b"".join(b"%03d," % n for n in range(published))
        assert whole.startswith(got[con.id])
        if con.id in inside:
            assert got[con.id] == whole


def test_frames_of_a_history_are_counted_while_they_are_kept() -> None:
    harness = Harness(history=(rule(messages=3, time=10.0),))
    linked = harness.worker()
    con = harness.raw()
    linked.work()
    before = harness.registry.flow.accounted
    linked.say(Join(con.id, "g"), *[Publish("g", b"x" * 10_000) for _ in range(9)])
    harness.write(con)
    kept = harness.registry.flow.accounted - before
    assert 60_000 < kept < 75_000, "three messages, as they came and as they were sent"
    linked.say(Leave(con.id, "g"))
    harness.registry.groups.history.tick(harness.now + 60)
    assert harness.registry.flow.accounted == before
    assert entry_of(con).groups == set()
