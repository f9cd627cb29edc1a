"""Sans-I/O. The last messages of groups, for members that come back.

A group whose name matches a rule has a *stream*: an offset, which grows by one with each message,
and the last messages. The stream's epoch distinguishes it from an earlier stream of the same group,
which was lost because the gateway was restarted or the group forgotten. So `epoch:offset` is a
position from which a member that joins can continue.

All streams together are bounded in bytes. At the bound the oldest message of the stream that has
waited longest for a new one is dropped, and while memory is crowded, half of all.
"""

from __future__ import annotations

import re
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final, NamedTuple, Protocol

from wsraw.config.patterns import GroupPattern
from wsraw.config.settings import HistorySettings
from wsraw.gateway.delivery.groups.message import PublishedMessage

SHARE: Final = 1 / 4
"""Share of the memory limit that all streams together may take."""

KEPT: Final = 512
"""Bytes of a message, without its data and its frames."""

STREAM: Final = 1024
"""Bytes of a stream, without its messages and its name."""

MOST_EXPIRED: Final = 1000
"""Streams without a new message for long that are checked in a second."""


_NUMBER: Final = re.compile("[0-9]{1,18}")


class Accounts(Protocol):
    """The part of accounts.py that a history uses."""

    memory_limit: int
    crowded: bool
    now: float

    def store(self, size: int) -> None: ...


class Past(NamedTuple):
    """What a member that joins is told about a stream, and what it is sent."""

    epoch: str
    offset: int
    """Offset of the last message."""
    recovered: bool
    """No message is missing between the given position and the first of these messages."""
    messages: list[PublishedMessage]


class Stream:
    """The last messages of a group."""

    __slots__ = ("cost", "epoch", "kept", "offset", "rule", "touched")

    def __init__(self, epoch: str, rule: HistoryRule, cost: int, now: float) -> None:
        self.epoch = epoch
        self.offset = 0
        self.kept: deque[tuple[float, PublishedMessage]] = deque()
        """The messages, each with the time when it came. The last one has `offset`, and there are
        no gaps."""
        self.rule = rule
        self.cost = cost
        self.touched = now
        """When the last message came, or when the last member left."""

    def since(self, position: str) -> tuple[int, bool]:
        """How many of the kept messages come after a position, and whether these are all that were
        published since."""
        kept = len(self.kept)
        epoch, _, number = position.rpartition(":")
        if not position:
            return kept, kept == self.offset
        if epoch != self.epoch:
            # For a position of another epoch, all messages here are new.
            return kept, False
        missed = self.offset - int(number) if _NUMBER.fullmatch(number) else -1
        if missed < 0:
            # No member can have been told that position.
            return 0, False
        return min(missed, kept), missed <= kept


class HistoryRule:
    """How much is kept for which groups, and the streams of these groups."""

    def __init__(self, settings: HistorySettings) -> None:
        self.pattern = GroupPattern(settings.groups)
        self.most = settings.messages
        self.time = settings.time
        self.streams: OrderedDict[str, Stream] = OrderedDict()
        """The streams; the one to which nothing has been published for longest comes first."""


class History:
    """The streams of all groups."""

    def __init__(
        self,
        flow: Accounts,
        rules: Collection[HistorySettings],
        instance: str,
        has_members: Callable[[str], bool],
    ) -> None:
        """`instance`: a text that no other gateway uses."""
        self._flow = flow
        self._rules = [HistoryRule(each) for each in rules]
        self._streams: dict[str, Stream] = {}
        self._instance = instance
        self._has_members = has_members
        self._epochs = 0
        self.size = 0
        """Bytes of all streams, including the frames that their messages may keep."""

    def __len__(self) -> int:
        return len(self._streams)

    def append(self, group: str, message: PublishedMessage, now: float) -> None:
        """Keep a message published to a group, if the group has a history."""
        if not self._rules:
            return
        stream = self._stream(group, now)
        if stream is None:
            return
        stream.offset += 1
        stream.touched = now
        stream.rule.streams.move_to_end(group)
        stream.kept.append((now, message))
        self._count(KEPT + len(message.data), len(message.data))
        self._expire(stream, now)
        self._make_room(self._flow.memory_limit * SHARE)

    def since(self, group: str, position: str | None, room: int, now: float) -> Past | None:
        """The messages of a group since a position ("": all; None: from now on), only as many of
        the last ones as fit into `room` bytes. None if the group has no history."""
        stream = self._stream(group, now)
        if stream is None:
            return None
        self._expire(stream, now)
        if position is None:
            return Past(stream.epoch, stream.offset, True, [])
        count, recovered = stream.since(position)
        messages: list[PublishedMessage] = []
        for _, message in islice(reversed(stream.kept), count):
            room -= len(message.data)
            if room < 0:
                recovered = False
                break
            messages.append(message)
        messages.reverse()
        return Past(stream.epoch, stream.offset, recovered, messages)

    def left(self, group: str, now: float) -> None:
        """The last member has left: a stream without messages is still kept for a while."""
        stream = self._streams.get(group)
        if stream is not None:
            stream.touched = now
            stream.rule.streams.move_to_end(group)

    def tick(self, now: float) -> None:
        """Once a second: drop what is too old, and half of everything while memory is crowded."""
        for rule in self._rules:
            if rule.time:
                self._expire_streams(rule, now)
        if self._flow.crowded:
            self._make_room(self.size / 2, keeps_members=True)

    # --- the end of messages and streams ---

    def _stream(self, group: str, now: float) -> Stream | None:
        """The stream of a group, made if it does not exist; None if no rule matches the group."""
        stream = self._streams.get(group)
        if stream is None:
            rule = next((each for each in self._rules if each.pattern.matches(group)), None)
            if rule is None:
                return None
            self._epochs += 1
            cost = STREAM + sys.getsizeof(group)
            stream = Stream(f"{self._instance}{self._epochs:x}", rule, cost, now)
            self._streams[group] = rule.streams[group] = stream
            self._count(cost)
            self._make_room(self._flow.memory_limit * SHARE)
        return stream

    def _expire(self, stream: Stream, now: float) -> None:
        rule = stream.rule
        while len(stream.kept) > rule.most or (
            stream.kept and rule.time and now - stream.kept[0][0] > rule.time
        ):
            self._drop_oldest(stream)

    def _expire_streams(self, rule: HistoryRule, now: float) -> None:
        for group, stream in list(islice(rule.streams.items(), MOST_EXPIRED)):
            if now - stream.touched <= rule.time:
                break
            self._expire(stream, now)
            self._set_aside(group, stream, now)

    def _set_aside(self, group: str, stream: Stream, now: float) -> None:
        """Forget a stream without messages, or look at it later while it has members."""
        if self._has_members(group):
            stream.touched = now
            stream.rule.streams.move_to_end(group)
        else:
            self._forget(group, stream)

    def _forget(self, group: str, stream: Stream) -> None:
        del self._streams[group], stream.rule.streams[group]
        self._count(-stream.cost)

    def _make_room(self, most: float, keeps_members: bool = False) -> None:
        """Drop messages, and streams that have none left, until all streams together take that many
        bytes.

        At the bound a stream goes even if it has members: whoever joins a group makes one. If
        `keeps_members`, such streams stay, as they know their offset.
        """
        left = len(self._streams)
        while self.size > most and left:
            rules = [rule for rule in self._rules if rule.streams]
            rule = min(rules, key=lambda each: next(iter(each.streams.values())).touched)
            group, stream = next(iter(rule.streams.items()))
            if stream.kept:
                self._drop_oldest(stream)
                continue
            left -= 1
            if keeps_members:
                self._set_aside(group, stream, self._flow.now)
            else:
                self._forget(group, stream)

    def _drop_oldest(self, stream: Stream) -> None:
        _, message = stream.kept.popleft()
        self._count(-KEPT - len(message.data), -len(message.data))

    def _count(self, size: int, frames: int = 0) -> None:
        """Count bytes; a negative size removes them. `frames`: the bytes that the frames of a
        message may add, which count where the frames are made."""
        self.size += size + frames
        self._flow.store(size)
