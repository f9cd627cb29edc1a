"""Queries of handlers to the gateway: members of groups, and the output that waits for a client."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import wsraw
from tests.deadline import DEADLINE, eventually
from wsraw.gateway.sessions import commands
from wsraw.link.records import Answer, Mark, Query, Reached, Record, Refused
from wsraw.testing import App, Server
from wsraw.workers.connection import Connections
from wsraw.workers.loading.handlers import LoadError
from wsraw.workers.questions import MOST_QUERIES, Asked, Questions

Make = Callable[..., App]


class Asking:
    """Questions, and the records that they send."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.has_session = True
        self.questions = Questions(self._send)

    def _send(self, record: Record) -> bool:
        if self.has_session:
            self.sent.append(record)
        return self.has_session

    def answer(self, value: Any, next_: int = 0) -> None:
        """Answer the last query that was sent."""
        self.questions.answered(Answer(self.sent[-1].ref, value, next_))


def test_an_answer_ends_the_wait_of_its_question_alone() -> None:
    asking = Asking()
    one, two = asking.questions.count("a"), asking.questions.count("b")
    assert [(query.what, query.arg) for query in asking.sent] == [("count", "a"), ("count", "b")]
    asking.answer(7)
    assert two.result() == 7
    with pytest.raises(RuntimeError, match="await the answer"):
        one.result()
    asking.questions.answered(Answer(99, "for nobody"))


def test_a_long_list_is_asked_for_page_by_page_and_names_each_member_once() -> None:
    asking = Asking()
    asked = asking.questions.members("g")
    assert asking.sent[-1].number == 0
    asking.answer([1, 2, 3], 30)
    assert asking.sent[-1] == Query(2, "members", "g", 30)
    asking.answer([], 30)
    asking.answer([4, 1])
    assert len(asking.sent) == 3
    assert asked.result() == [1, 2, 3, 4]


def test_no_more_queries_than_the_gateway_answers_at_a_time_are_sent() -> None:
    asking = Asking()
    asked = [asking.questions.count(f"{n}") for n in range(2 * MOST_QUERIES)]
    # Marks are answered when clients have read the data, however long that takes.
    mark = asking.questions.drained(5)
    assert len(asking.sent) == MOST_QUERIES + 1
    for query in list(asking.sent[:-1]):
        asking.questions.answered(Answer(query.ref, int(query.arg)))
    assert [each.result() for each in asked[:MOST_QUERIES]] == list(range(MOST_QUERIES))
    assert [query.arg for query in asking.sent[-MOST_QUERIES:]] == [
        f"{n}" for n in range(MOST_QUERIES, 2 * MOST_QUERIES)
    ]
    asking.questions.answered(Reached(5, asking.sent[MOST_QUERIES].ref, written=False))
    assert mark.result() is False


def test_what_has_no_answer_when_the_session_ends_fails() -> None:
    asking = Asking()
    asked: list[Asked[Any]] = [asking.questions.count("g") for _ in range(MOST_QUERIES + 1)]
    asked += [asking.questions.drained(5), asking.questions.members("g")]
    asking.questions.lost()
    asking.has_session = False
    asked += [asking.questions.count("g"), asking.questions.drained(5)]
    for each in asked:
        with pytest.raises(ConnectionError, match="lost"):
            each.result()
    asking.has_session = True
    again = asking.questions.count("g")
    asking.answer(1)
    assert again.result() == 1


def test_a_question_can_be_awaited_by_several_and_its_waiter_cancelled() -> None:
    asking = Asking()

    async def main() -> list[object]:
        asked = asking.questions.count("g")

        async def wait() -> int:
            return await asked

        tasks = [asyncio.create_task(wait()) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0)
        asking.answer(4)
        return [*await asyncio.gather(*tasks, return_exceptions=True), await asked]

    first, cancelled, *others = asyncio.run(main())
    assert (first, others) == (4, [4, 4])
    assert isinstance(cancelled, asyncio.CancelledError)


def test_an_answer_that_does_not_come_in_time_is_a_timeout() -> None:
    asking = Asking()
    waited = []
    asking.questions.wait = lambda is_done, seconds: waited.append((is_done(), seconds))
    with pytest.raises(TimeoutError, match=r"within 0\.5 s"):
        asking.questions.count("g").result(timeout=0.5)
    assert waited == [(False, 0.5)]


def test_connections_are_made_when_they_are_asked_for() -> None:
    made: list[int] = []

    def connection(con: int) -> Any:
        made.append(con)
        return con

    cons: Any = Connections([5, 6, 7], connection)
    assert (len(cons), cons[1], list(cons[1:]), 7 in cons, repr(cons)) == (
        (3, 6, [6, 7], True, "<3 connections>")
    )
    assert made == [6, 6, 7, 5, 6, 7]


# --- in-process ---


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    apps: list[App] = []

    def write(source: str, **settings: Any) -> App:
        file = tmp_path / "user.py"
        file.write_text(textwrap.dedent(source), "utf-8")
        apps.append(App(file, timeout=DEADLINE, **settings))
        return apps[-1]

    yield write
    for app in apps:
        app.close()


PLAIN = """
import wsraw

def on_connect(inf, con):
    con.join("room")

def on_message(msg, con):
    if msg["data"] == "count":
        return str(wsraw.count("room").result())
    if msg["data"] == "all":
        return str(wsraw.members("room").result() == wsraw.members("room").result())
    for other in wsraw.connections("room").result():
        other.send("hello")
"""
ASYNC = """
import wsraw

async def on_connect(inf, con):
    con.join("room")

async def on_message(msg, con):
    if msg["data"] == "count":
        return str(await wsraw.count("room"))
    if msg["data"] == "all":
        return str(await wsraw.members("room") == await wsraw.members("room"))
    for other in await wsraw.connections("room"):
        other.send("hello")
"""


@pytest.mark.parametrize("source", [PLAIN, ASYNC], ids=["plain", "async"])
def test_handlers_know_the_members_of_a_group(
    make: Make, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PAGE", 2)
    app = make(source)
    clients = [app.websocket() for _ in range(5)]
    clients[3].close()
    clients[0].send("count")
    clients[0].send("all")
    clients[0].send("greet")
    assert clients[0].received == ["4", "True", "hello"]
    assert [client.received for client in clients[1:]] == [["hello"], ["hello"], [], ["hello"]]


def test_a_join_of_the_running_handler_counts_after_a_flush(make: Make) -> None:
    app = make("""
        import wsraw
        async def on_message(msg, con):
            con.join("g")
            before = await wsraw.count("g")
            wsraw.flush()
            con.send(f"{before} {await wsraw.count('g')}")
    """)
    client = app.websocket()
    client.send("x")
    assert client.received == ["0 1"]


DRAIN = """
async def on_message(msg, con):
    con.state = 0
    while con.state < 5:
        con.state += 1
        con.send(bytes(1000))
        waiting.append(await con.buffered())
        if not await con.drained():
            ended.append(con.state)
            return
        waiting.append(await con.buffered())
    con.send("done")

waiting = []
ended = []
"""


def test_a_handler_waits_until_its_client_has_read(make: Make) -> None:
    app = make(DRAIN, handler_timeout=10.0, write_timeout=0.0)
    client = app.raw()
    client.stop_reading()
    client.send(b"x", wait=False)
    app.advance(60.0)
    # `buffered` is asked before the handler's own commands leave.
    assert app.module.waiting == [0]
    client.resume_reading()
    assert len(client.data) == 5004
    assert app.module.waiting == [0] * 10


def test_a_handler_is_told_that_its_client_has_gone(make: Make) -> None:
    app = make(DRAIN)
    client = app.raw()
    client.stop_reading()
    client.send(b"x", wait=False)
    client.reset()
    assert app.module.ended == [1]


def test_a_handler_goes_on_from_its_state_when_its_worker_has_died(make: Make) -> None:
    app = make("""
        async def on_message(msg, con):
            con.state = con.state or 0
            while con.state < 8:
                con.send(b"%d" % con.state)
                con.state += 1
                await con.drained()
    """)
    client = app.raw()
    for _ in range(3):
        client.stop_reading()
        client.send(b"x", wait=False)
        app.kill_worker(wait=False)
        client.resume_reading()
    assert client.data == b"01234567"


def test_a_timer_of_the_pool_is_called_at_its_interval_also_after_a_reload(make: Make) -> None:
    app = make("""
        import wsraw
        @wsraw.every(10, once=True)
        def plain():
            wsraw.publish("all", "plain")
        @wsraw.every(15, once=True)
        async def waits():
            wsraw.publish("all", "async")
        def on_connect(inf, con):
            con.join("all")
    """)
    client = app.websocket()
    app.advance(9.0)
    assert client.received == []
    app.advance(2.0)
    assert client.received == ["plain"]
    app.advance(7.0)
    # The new worker calls the timers when the old one would have.
    app.reload()
    app.advance(1.0)
    assert client.received == ["plain", "async"]
    app.advance(2.0)
    assert client.received == ["plain", "async", "plain"]
    app.advance(10.0)
    assert client.received.count("plain") == 3
    assert client.received.count("async") == 2


def test_a_timer_of_the_pool_is_not_asked_for_early(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio calls timers early where the clock has steps of 16 ms."""
    asked = 0
    turn = Questions.turn

    def count(self: Questions, *args: Any) -> None:
        nonlocal asked
        asked += 1
        assert asked < 50
        turn(self, *args)

    monkeypatch.setattr(Questions, "turn", count)
    app = make("""
        import wsraw
        @wsraw.every(10, once=True)
        def plain():
            wsraw.publish("all", "plain")
        def on_connect(inf, con):
            con.join("all")
    """)
    monkeypatch.setattr(app._loop, "_clock_resolution", 1 / 64)
    client = app.websocket()
    app.advance(31.0)
    assert client.received == ["plain"] * 3


def test_two_timers_of_the_pool_need_two_names(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("""
import wsraw

for _ in range(2):
    wsraw.every(10, once=True)(lambda: None)
""")
    with pytest.raises(LoadError, match="give each function a name of its own"):
        App(tmp_path / "twice.py")


def test_an_async_handler_that_takes_too_long_is_cancelled(make: Make) -> None:
    app = make("""
        import asyncio
        async def on_message(msg, con):
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append(msg["data"])
        ended = []
    """)
    client, other = app.websocket(), app.websocket()
    client.send("slow", wait=False)
    with pytest.raises(TimeoutError, match="handler_timeout"):
        app.advance(32.0)
    assert app.module.ended == ["slow"]
    assert (client.close_code, other.closed) == (1011, False)


# --- real processes ---


@pytest.mark.parametrize("source", [PLAIN, ASYNC], ids=["plain", "async"])
def test_members_are_known_in_every_worker(source: str, tmp_path: Path) -> None:
    (tmp_path / "room.py").write_text(source)
    with Server(tmp_path / "room.py", workers=3, timeout=DEADLINE) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]

        def all_joined() -> bool:
            clients[0].send("count")
            return clients[0].recv(DEADLINE) == "4"

        eventually(all_joined, "four members")
        clients[1].send("greet")
        assert [client.recv(DEADLINE) for client in clients] == ["hello"] * 4


def test_a_question_without_a_worker_is_an_error() -> None:
    for ask in (wsraw.members, wsraw.count, wsraw.connections):
        with pytest.raises(RuntimeError, match="wsraw worker"):
            ask("room")


def test_a_thread_cannot_ask(make: Make) -> None:
    app = make("""
        import asyncio, wsraw
        async def on_message(msg, con):
            try:
                await asyncio.to_thread(wsraw.count, "g")
            except RuntimeError as error:
                return str(error)
    """)
    client = app.websocket()
    client.send("x")
    assert client.received == ["a thread cannot do this itself: use wsraw.call_soon(function, …)"]


def test_marks_are_sent_behind_what_they_mark() -> None:
    asking = Asking()
    asking.questions.drained(9)
    assert asking.sent == [Mark(9, 1)]


# --- joins from a position on ---


@pytest.mark.parametrize("word", ["async def", "def"])
def test_a_client_that_comes_back_is_sent_what_it_has_missed(make: Make, word: str) -> None:
    wait = "await " if word.startswith("async") else ""
    end = "" if wait else ".result()"
    app = make(
        f"""
        import wsraw
        {word} on_message(msg, con):
            what, _, text = msg["data"].partition(" ")
            if what == "join":
                con.send("before")
                joined = {wait}con.join("room.1", since=text if text else None){end}
                con.send(f"{{joined.position}} {{joined.recovered}} {{joined.replayed}}")
            elif what == "later":
                con.join("room.1", since=text)
            else:
                wsraw.publish("room.1", text)
        """,
        history=("room.*=3",),
    )
    first, second, third = (app.websocket() for _ in range(3))
    first.send("join ")
    begin = first.received[1].split()[0]
    assert first.received == ["before", f"{begin} True 0"]
    for text in ("a", "b"):
        second.send(f"say {text}")
    second.send(f"join {begin}")
    epoch = begin.partition(":")[0]
    assert second.received == ["before", "a", "b", f"{epoch}:2 True 2"]
    for text in ("c", "d"):
        third.send(f"say {text}")
    third.send(f"later {epoch}:3")
    assert third.received == ["d"]
    assert second.received[4:] == first.received[4:] == ["c", "d"]
    third.close()
    again = app.websocket()
    again.send(f"join {begin}")
    assert again.received == ["before", "b", "c", "d", f"{epoch}:4 False 3"]


def test_a_join_that_failed_says_why(make: Make) -> None:
    app = make("""
        async def on_message(msg, con):
            try:
                await con.join("hall", since="")
            except ValueError as error:
                con.send(str(error))
    """)
    client = app.websocket()
    client.send("x")
    assert client.received == ["group 'hall' has no history; the setting history keeps one"]


def test_a_join_of_a_handler_that_raised_is_not_waited_for(make: Make) -> None:
    app = make(
        """
        asked = []
        async def on_message(msg, con):
            asked.append(con.join("g", since=None))
            raise ValueError
        """,
        history=("*=3",),
    )
    client = app.websocket()
    with pytest.raises(ValueError):
        client.send("x")
    with pytest.raises(ConnectionError):
        app.module.asked[0].result()


def test_a_refused_question_fails_with_the_reason() -> None:
    asking = Asking()
    asked: list[Asked[Any]] = [asking.questions.count("a"), asking.questions.drained(5)]
    asked += [asking.questions.members("g"), asking.questions.buffered(5)]
    asked.append(asking.questions.joined(lambda: None)[1])
    for ref, each in enumerate(asked, 1):
        assert asking.questions.refused(Refused(1, 0, "never given out", ref))
        with pytest.raises(ValueError, match="never given out"):
            each.result()
    assert not asking.questions.refused(Refused(1, 0, "a command", 0))
    # All queries count as answered.
    for n in range(MOST_QUERIES):
        asking.questions.count(f"{n}")
    assert len(asking.sent) == 4 + MOST_QUERIES
