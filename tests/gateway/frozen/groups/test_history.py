"""The next gateway knows the history of groups, as far as there is time to move it."""

from __future__ import annotations

from typing import Any

import pytest

from wsraw.config.settings import HistorySettings, Settings
from wsraw.gateway.delivery.accounts import Flow
from wsraw.gateway.delivery.groups.history import KEPT, History
from wsraw.gateway.delivery.groups.message import PublishedMessage
from wsraw.gateway.frozen.copying import Clock
from wsraw.gateway.frozen.groups import history as frozen
from wsraw.gateway.frozen.groups.history import ThawHistory, freeze_history
from wsraw.gateway.frozen.records import FrozenError, Streams, StreamState, decode, encode

ALL = 1 << 40


def rule(groups: str = "*", messages: int = 1000, time: float = 60.0) -> HistorySettings:
    return HistorySettings(groups=groups, messages=messages, time=time)


def history(*rules: HistorySettings, instance: str = "old", memory: int = 1 << 40) -> History:
    return History(Flow(Settings(), memory), rules, instance, lambda group: False)


def publish(kept: History, group: str, *data: bytes, now: float = 100.0) -> None:
    for each in data:
        kept.append(group, PublishedMessage(each, "text"), now)


def moved(old: History, *rules: HistorySettings, at: float = 100.0, **made: Any) -> History:
    """Move a history to a process whose clock shows 5."""
    new = history(*rules, instance="new", **made)
    thaw = ThawHistory(new, Clock(5.0))
    for streams in freeze_history(old, Clock(at)):
        record = decode(encode(streams))
        assert isinstance(record, Streams)
        thaw.take(record)
    thaw.finish()
    return new


def since(kept: History, group: str, position: str, now: float = 5.0) -> tuple[list[bytes], bool]:
    past = kept.since(group, position, ALL, now)
    assert past is not None
    return [message.data for message in past.messages], past.recovered


def test_a_position_is_good_for_the_next_gateway() -> None:
    old = history(rule())
    publish(old, "a", b"1", b"2")
    past = old.since("a", None, ALL, 100.0)
    assert past is not None
    publish(old, "a", b"3")
    publish(old, "b", b"other")
    new = moved(old, rule())
    assert since(new, "a", f"{past.epoch}:{past.offset}") == ([b"3"], True)
    publish(new, "a", b"4", now=5.0)
    assert since(new, "a", f"{past.epoch}:{past.offset}") == ([b"3", b"4"], True)
    assert since(new, "b", "") == ([b"other"], True)
    # A new stream gets an epoch of the new gateway.
    publish(new, "c", b"x", now=5.0)
    after = new.since("c", None, ALL, 5.0)
    assert after is not None
    assert after.epoch.startswith("new")


def test_messages_keep_their_age() -> None:
    old = history(rule(time=60.0))
    publish(old, "a", b"old", now=50.0)
    publish(old, "a", b"young", now=95.0)
    new = moved(old, rule(time=60.0))
    assert since(new, "a", "", now=14.0)[0] == [b"old", b"young"]
    assert since(new, "a", "", now=16.0)[0] == [b"young"]
    new.tick(200.0)
    assert len(new) == 0
    assert new.size == 0
    assert new._flow.total == 0


def test_other_settings_hold_for_what_was_kept_before() -> None:
    old = history(rule("room.*"), rule("chat.*"))
    publish(old, "room.1", b"1", b"2", b"3")
    publish(old, "chat.1", b"1")
    new = moved(old, rule("room.*", messages=2))
    assert since(new, "room.1", "") == ([b"2", b"3"], False)
    assert new.since("chat.1", "", ALL, 5.0) is None
    assert len(new) == 1
    assert moved(old).size == 0


def test_all_take_no_more_memory_than_before_and_no_more_than_may_be() -> None:
    old = history(rule())
    for n in range(20):
        publish(old, f"g{n}", *[b"x" * 100] * 50, now=100.0 + n)
    assert moved(old, rule(), at=120.0).size == old.size
    small = moved(old, rule(), at=120.0, memory=old.size)
    assert 0 < small.size <= old.size / 4
    # Groups with recent messages keep the most.
    assert "g19" in small._streams
    assert "g0" not in small._streams


def test_of_too_much_each_group_keeps_the_same_share(monkeypatch: pytest.MonkeyPatch) -> None:
    old = history(rule())
    for n in range(10):
        publish(old, f"g{n}", *[b"%d" % number for number in range(10 * n)])
    size = sum([(KEPT + len(m.data)) for each in old._streams.values() for _, m in each.kept])
    monkeypatch.setattr(frozen, "MOST_MOVED", size // 2)
    new = moved(old, rule())
    for n in range(1, 10):
        kept, recovered = since(new, f"g{n}", "")
        assert kept == [b"%d" % number for number in range(5 * n, 10 * n)]
        assert not recovered
        assert since(new, f"g{n}", f"{old._streams[f'g{n}'].epoch}:{5 * n}") == (kept, True)


def test_more_groups_than_can_move_are_forgotten_the_oldest_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen, "MOST_STREAMS", 3)
    old = history(rule())
    for n in range(5):
        publish(old, f"g{n}", b"x", now=95.0 + n)
    assert list(moved(old, rule())._streams) == ["g2", "g3", "g4"]


def test_a_large_history_comes_in_pieces() -> None:
    old = history(rule())
    large = [bytes([n]) * 50_000 for n in range(9)]
    publish(old, "large", *large)
    publish(old, "small", *[b"%d" % n for n in range(900)])
    for n in range(3000):
        publish(old, f"{n}", b"")
    records = [encode(streams) for streams in freeze_history(old, Clock(100.0))]
    assert max(map(len, records)) < frozen.MOST_BYTES + 50_000 + 1000
    assert len(records) > 5
    new = moved(old, rule())
    assert since(new, "large", "") == (large, True)
    assert since(new, "small", "") == ([b"%d" % n for n in range(900)], True)
    assert len(new) == 3002


def test_a_message_of_no_type_is_refused() -> None:
    thaw = ThawHistory(history(rule()), Clock(0.0))
    with pytest.raises(FrozenError, match="message of group 'g' has type 'raw'"):
        thaw.take(Streams([StreamState("g", "e", 1, 0.0, [(0.0, b"", "raw")])]))
