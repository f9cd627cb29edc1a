"""New handlers on trial that fail: behind a shield their events are given back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from wsraw.link.records import (
    Attach,
    Close,
    Detach,
    Event,
    GiveBack,
    Join,
    OnRequest,
    Part,
    Reject,
    Send,
    State,
)

from .conftest import Pair, closed, con_id, connect, message

MakePair = Callable[..., Pair]
BOTH = pytest.mark.parametrize("word", ["def", "async def"])

FAILS = """
heard = []
{word} on_connect(inf, con):
    heard.append("on_connect")
    if fails: 1 / 0
{word} on_request(request, con): 1 / 0
{word} on_close(con): 1 / 0
{word} on_message(msg, con):
    heard.append(msg["data"])
    if msg["data"] == "bad":
        con.send("not this")
        con.state = "nor this"
        con.join("nor that")
        raise ValueError("oh")
    con.state = msg["data"]
    return msg["data"]
"""


class Shielded:
    """A worker behind a shield, with handlers that fail at times."""

    def __init__(
        self, pair: MakePair, word: str, text: str = FAILS, *, fails: bool = False
    ) -> None:
        self.pair = pair(f"fails = {fails}\n" + text.replace("{word}", word))
        self.pair.begin_session(2, shield=True)

    def batches(self, *events: Event) -> list[list[Any]]:
        """Deliver and handle events; returns all records, including acks, batch by batch."""
        self.pair.deliver(*events)
        self.pair.handle_all()
        return self.said()

    def said(self) -> list[list[Any]]:
        found = []
        while (data := self.pair.runtime.link.data_to_send()) is not None:
            _, records, _ = self.pair.gateway._decoder.decode(data)
            found.append(records)
        return found


def kinds(batches: list[list[Any]]) -> list[Any]:
    return [record for batch in batches for record in batch if type(record) is not State]


@BOTH
def test_the_event_and_what_comes_behind_it_are_given_back(pair: MakePair, word: str) -> None:
    """No command of the failed event is sent, and the events before it are acked first."""
    p = Shielded(pair, word)
    first, second = p.batches(
        connect(1), message(1, b"good"), message(1, b"bad"), message(1, b"later"), message(2, b"x")
    )
    assert [type(each).__name__ for each in first] == ["Send", "State", "Ack"]
    assert (first[2].first, first[2].last) == (1, 2)
    assert second[0] == GiveBack(3)
    assert [each.last for each in second if type(each).__name__ == "Ack"] == [5]
    assert p.pair.heard == ["on_connect", "good", "bad", "x"]
    assert p.pair.con(1)._kept == p.pair.con(1)._saved, "as it was before the event"


@BOTH
def test_what_was_on_its_way_is_not_handled_before_or_after_the_detach(
    pair: MakePair, word: str
) -> None:
    p = Shielded(pair, word)
    p.batches(connect(1), message(1, b"bad"))
    assert p.batches(message(1, b"1")) == []
    # All of these come in one batch, and the notice takes effect at once.
    p.pair.gateway.deliver(message(1, b"2"), None, 0, 0.0)
    p.pair.gateway.deliver(closed(1), None, 0, 0.0)
    p.pair.notice(Detach(con_id(1)))
    p.pair.handle_all()
    assert p.said() == []
    assert p.pair.heard == ["on_connect", "bad"]
    assert con_id(1) not in p.pair.runtime.link.held
    assert con_id(1) not in p.pair.runtime.connections


@BOTH
def test_a_connection_may_come_again(pair: MakePair, word: str) -> None:
    p = Shielded(pair, word)
    p.batches(connect(1), message(1, b"bad"))
    p.pair.notice(Detach(con_id(1)))
    p.pair.notice(Attach(con_id(1), {}, b"", 0))
    assert [each for each in kinds(p.batches(message(1, b"x"))) if type(each) is Send] == [
        Send(con_id(1), b"x", "text")
    ]


@BOTH
@pytest.mark.parametrize(
    "event",
    [
        connect(1),
        connect(1, verdict=True),
        closed(1),
        OnRequest(0, con_id(1), {"method": "GET"}),
    ],
    ids=["connect", "verdict", "close", "request"],
)
def test_any_event_is_given_back(pair: MakePair, word: str, event: Event) -> None:
    p = Shielded(pair, word, fails=True)
    assert kinds(p.batches(event)) == [GiveBack(1)]
    assert p.pair.runtime.link._ends == {}


@BOTH
def test_what_a_handler_has_flushed_cannot_be_undone(pair: MakePair, word: str) -> None:
    """So the exception has its usual effect, but only for this event."""
    p = Shielded(
        pair,
        word,
        """
import wsraw
{word} on_message(msg, con):
    if msg["data"] == "flushes":
        con.send("this")
        wsraw.flush()
    else:
        wsraw.flush()
    raise ValueError("oh")
""",
    )
    said = kinds(p.batches(message(1, b"flushes")))
    assert [each for each in said if type(each) in (Send, Close, GiveBack)] == [
        Send(con_id(1), b"this", "text"), Close(con_id(1), 1011, "internal error"),
    ]  # fmt: skip
    assert kinds(p.batches(message(2, b"nothing to flush"))) == [GiveBack(2)]


@BOTH
def test_without_a_shield_nothing_is_given_back(pair: MakePair, word: str) -> None:
    p = Shielded(pair, word, fails=True)
    p.pair.begin_session(3)
    assert Reject(con_id(1), 500) in kinds(p.batches(connect(1, verdict=True)))
    assert not p.pair.runtime.link.is_shielded


def test_parts_and_groups_of_a_failed_handler_are_dropped(pair: MakePair) -> None:
    p = Shielded(
        pair,
        "def",
        """
def on_message(msg, con):
    for n in range(10):
        con.send(b"x" * 10_000)
    con.join("group")
    raise ValueError("oh")
""",
    )
    p.pair.runtime.link.room = 50_000
    p.pair.runtime.link.event_limit = 500_000
    said = kinds(p.batches(message(1, b"x")))
    assert said == [GiveBack(1)]
    assert not {Part, Join, Send} & set(map(type, said))


def test_an_async_handler_of_a_session_that_is_over_gives_nothing_back(pair: MakePair) -> None:
    p = Shielded(
        pair,
        "async def",
        """
import asyncio
gate = asyncio.Event()
async def on_message(msg, con):
    await gate.wait()
    raise ValueError("oh")
""",
    )

    async def main() -> None:
        p.pair.deliver(message(1, b"x"))
        task = asyncio.create_task(p.pair.runtime.handle_async(p.pair.runtime.queue.popleft()))
        await asyncio.sleep(0)
        p.pair.begin_session(3, shield=True)
        p.pair.module.gate.set()
        await task

    asyncio.run(main())
    assert p.said() == []


def test_the_shell_is_told_at_once_that_a_handler_has_raised(pair: MakePair) -> None:
    p = Shielded(pair, "def")
    told: list[bool] = []
    p.pair.runtime.times.urgent = lambda: told.append(True)
    p.batches(connect(1), message(1, b"good"))
    assert not told
    p.batches(message(1, b"bad"))
    assert told == [True]
