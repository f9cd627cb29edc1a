"""The worker's machine, with the gateway's end of the link behind a fake wire."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from wsraw.link.gateway_end import who
from wsraw.link.records import (
    Ack,
    Attach,
    Bye,
    Close,
    Detach,
    Hello,
    Hung,
    Mark,
    OnError,
    OnLeave,
    OnMessage,
    Opened,
    Part,
    Record,
    Refused,
    Send,
    State,
    User,
    Who,
    encode,
    gateway_decoder,
)
from wsraw.workers.connection import encode_state

from .conftest import EPOCH, FIRST_ID, Pair, closed, con_id, connect, message

MakePair = Callable[..., Pair]

RECORD = """
heard = []
def on_connect(inf, con): heard.append(("on_connect", inf, con.id))
def on_message(msg, con): heard.append(("on_message", msg, con.id))
def on_error(error_message, con): heard.append(("on_error", error_message, con.id))
def on_close(con):
    heard.append(("on_close", con.close_code, con.close_reason, con.close_cause, con.closed))
"""


# --- events ---


@pytest.mark.parametrize("word", ["def", "async def"])
def test_every_event_reaches_its_handler_with_its_arguments(pair: MakePair, word: str) -> None:
    p = pair(RECORD.replace("def", word))
    p.run(
        connect(1),
        message(1, "grün".encode()),
        message(1, b"\xff", "binary", final=False),
        message(1, b"\xfe", "raw"),
        OnError(0, con_id(1), "broken"),
        closed(1, 1002, "why", "protocol-error"),
    )
    con = con_id(1)
    assert p.heard == [
        ("on_connect", {"Protocol": "websocket server"}, con),
        ("on_message", {"type": "text", "data": "grün", "final": True}, con),
        ("on_message", {"type": "binary", "data": b"\xff", "final": False}, con),
        ("on_message", {"data": b"\xfe"}, con),
        ("on_error", "broken", con),
        ("on_close", 1002, "why", "protocol-error", True),
    ]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_events_without_a_handler_are_acked(pair: MakePair, word: str) -> None:
    p = pair(f"{word} on_start(): pass\n")
    events = [connect(1), message(1, b"x"), OnError(0, con_id(1), "e"), closed(1)]
    assert p.run(*events) == []
    assert p.con(1).closed


@pytest.mark.parametrize("word", ["def", "async def"])
@pytest.mark.parametrize(
    ("returned", "sends"),
    [
        ("msg", [("x", "text", True)]),
        ("'yes'", [("yes", "text", True)]),
        ("b'yes'", [("yes", "binary", True)]),
        ("{'data': 'part', 'final': False}", [("part", "text", False)]),
        ("None", []),
        ("''", [("", "text", True)]),
    ],
)
def test_a_returned_value_is_the_reply(
    pair: MakePair, word: str, returned: str, sends: list[tuple[str, str, bool]]
) -> None:
    p = pair(f"{word} on_message(msg, con): return {returned}\n")
    assert p.run(message(1, b"x")) == [
        Send(con_id(1), data.encode(), type, final) for data, type, final in sends
    ]


def test_only_on_message_replies(pair: MakePair) -> None:
    p = pair("def on_connect(inf, con): return 'x'\ndef on_close(con): return 'x'\n")
    assert p.run(connect(1), closed(1)) == []


@pytest.mark.parametrize("word", ["def", "async def"])
def test_con_delivery_is_that_of_the_event(pair: MakePair, word: str) -> None:
    p = pair(f"{word} on_message(msg, con): return str(con.delivery)\n")
    sends = p.run(message(1, b"x", delivery=3), message(1, b"x"))
    assert [send.data for send in sends] == [b"3", b"1"]


# --- rule 1: commands with their ack ---


def test_commands_are_sent_before_the_ack_of_their_event(pair: MakePair) -> None:
    p = pair("def on_message(msg, con): con.send('a'); con.send('b')\n")
    p.deliver(message(1, b"x"))
    p.runtime.handle(p.runtime.queue.popleft())
    _, *records = gateway_decoder().decode(p.sent())[1]
    assert [type(record).__name__ for record in records] == ["Send", "Ack"]


def test_an_unfinished_async_handler_sends_nothing(pair: MakePair) -> None:
    p = pair(
        """
        import asyncio
        async def on_message(msg, con):
            con.send("first")
            await gate.wait()
            con.send("second")
        """
    )

    async def scenario() -> None:
        p.module.gate = asyncio.Event()
        p.deliver(message(1, b"x"))
        task = asyncio.create_task(p.runtime.handle_async(p.runtime.queue.popleft()))
        await asyncio.sleep(0)
        assert p.commands() == []
        p.gate.set()
        await task
        assert [send.data for send in p.commands()] == [b"first", b"second"]

    asyncio.run(scenario())


@pytest.mark.parametrize("word", ["def", "async def"])
def test_flush_sends_before_the_handler_returns(pair: MakePair, word: str) -> None:
    p = pair(
        f"""
        from wsraw import flush
        {word} on_message(msg, con):
            con.send("early")
            flush()
            con.send("late")
        """
    )
    batches = []
    p.runtime.send_now = lambda: batches.append(p.commands())
    assert p.run(message(1, b"x")) == [Send(con_id(1), b"late", "text")]
    assert batches == [[Send(con_id(1), b"early", "text")]]


def test_commands_outside_an_event_are_sent_at_once(pair: MakePair) -> None:
    p = pair("")
    ready = []
    p.runtime.output_ready = lambda: ready.append(True)
    p.con(9).send("x")
    assert ready
    assert p.commands() == [Send(con_id(9), b"x", "text")]


def test_a_thread_cannot_command(pair: MakePair) -> None:
    p = pair("def on_message(msg, con): run(con.send, 'from a thread')\n")
    caught = []

    def run(function: Callable[..., None], *args: object) -> None:
        def body() -> None:
            with pytest.raises(RuntimeError, match="call_soon"):
                function(*args)
            caught.append(True)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()

    p.module.run = run
    assert p.run(message(1, b"x")) == []
    assert caught


# --- exceptions ---


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_handler_that_raises_closes_its_connection_and_drops_its_commands(
    pair: MakePair, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    p = pair(
        f"""
        heard = []
        {word} on_message(msg, con):
            heard.append(msg["data"])
            con.send("not this")
            raise ValueError("oh")
        {word} on_close(con): heard.append("on_close")
        """
    )
    logging.getLogger("wsraw").propagate = True
    assert p.run(message(1, b"1"), message(1, b"2"), closed(1)) == [
        Close(con_id(1), 1011, "internal error")
    ]
    assert p.heard == ["1", "on_close"]
    (record,) = caplog.records
    assert record.getMessage() == f"on_message of connection {con_id(1)} (delivery 1) raised"
    assert record.exc_info is not None and record.exc_info[2] is not None
    assert record.exc_info[2].tb_frame.f_code.co_filename.endswith("user_handlers.py")


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_handler_that_raises_may_keep_its_connection(pair: MakePair, word: str) -> None:
    p = pair(
        f"""
        {word} on_message(msg, con):
            if msg["data"] == "bad":
                con.send("not this")
                con.close()
                raise ValueError("oh")
            return msg["data"]
        """,
        on_exception="keep",
    )
    assert p.run(message(1, b"bad"), message(1, b"good")) == [Send(con_id(1), b"good", "text")]
    assert not p.con(1).closed


def test_on_close_that_raises_closes_nothing(pair: MakePair) -> None:
    p = pair("def on_close(con): 1 / 0\n")
    assert p.run(closed(1)) == []


@pytest.mark.parametrize("what", ["raise SystemExit", "return 3", "con.send(None)", "con.close(9)"])
def test_wrong_return_values_and_exits_count_as_raising(pair: MakePair, what: str) -> None:
    p = pair(f"def on_message(msg, con): {what}\n")
    assert p.run(message(1, b"x")) == [Close(con_id(1), 1011, "internal error")]


def test_a_cancelled_handler_counts_as_raising(pair: MakePair) -> None:
    p = pair(
        "import asyncio\n"
        "async def on_message(msg, con):\n"
        "    asyncio.current_task().cancel()\n"
        "    await asyncio.sleep(0)\n"
    )
    assert p.run(message(1, b"x")) == [Close(con_id(1), 1011, "internal error")]


@pytest.mark.parametrize("word", ["def", "async def"])
@pytest.mark.parametrize(
    "what", ["KeyboardInterrupt", "GeneratorExit", "SystemExit(3)", "asyncio.CancelledError"]
)
def test_base_exceptions_are_handled_like_exceptions(pair: MakePair, word: str, what: str) -> None:
    """`except Exception` does not catch CancelledError (python-websockets/websockets#1113)."""
    p = pair(
        f"import asyncio\n{word} on_message(msg, con): raise {what}\n"
        f"{word} on_attach(con): raise {what}\n"
    )
    assert p.run(message(1, b"x")) == [Close(con_id(1), 1011, "internal error")]
    p.notice(Attach(con_id(2), {}, b"", 0))
    assert p.run(message(2, b"x")) == [Close(con_id(2), 1011, "internal error")]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, GeneratorExit, SystemExit, asyncio.CancelledError]
)
def test_base_exceptions_outside_events_are_handled_like_exceptions(
    pair: MakePair, error: type[BaseException]
) -> None:
    p = pair("")
    raised: list[str] = []
    p.runtime.report = lambda what, error: raised.append(what)

    def fail() -> None:
        raise error

    async def fail_later() -> None:
        await asyncio.sleep(0)
        raise error

    assert not p.runtime.call("every", fail)
    assert not asyncio.run(p.runtime.call_async("on_stop", fail))
    assert not asyncio.run(p.runtime.call_async("call_soon", fail_later))
    assert raised == ["every", "on_stop", "call_soon"]


def test_connections_opened_by_a_failed_handler_are_forgotten(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import open_client_connection
        def on_message(msg, con):
            global opened
            opened = open_client_connection("h:1")
            opened.state = 1
            raise ValueError
        """
    )
    p.run(message(1, b"x"))
    assert p.opened.closed
    assert p.opened.id not in p.runtime.link.held


def test_a_command_refused_by_the_gateway_is_logged(
    pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    p = pair("")
    with caplog.at_level(logging.ERROR, "wsraw.worker"):
        p.notice(Refused(1, 0, "join of connection 5: no"))
    assert caplog.messages == ["the gateway rejected a command: join of connection 5: no"]


# --- rule 17: who closes hears no more ---


@pytest.mark.parametrize("word", ["def", "async def"])
def test_after_a_close_only_on_close_is_called(pair: MakePair, word: str) -> None:
    p = pair(
        f"""
        heard = []
        {word} on_message(msg, con):
            heard.append(msg["data"])
            con.close(4000, "enough")
        {word} on_error(error_message, con): heard.append("on_error")
        {word} on_close(con): heard.append("on_close")
        """
    )
    commands = p.run(
        message(1, b"1"),
        message(1, b"2"),
        OnError(0, con_id(1), "e"),
        closed(1),
        message(2, b"3"),
    )
    assert p.heard == ["1", "on_close", "3"]
    assert commands == [Close(con_id(n), 4000, "enough") for n in (1, 2)]


def test_closing_another_connection_silences_that_one(pair: MakePair) -> None:
    p = pair(
        f"""
        from wsraw import connection
        heard = []
        def on_message(msg, con):
            heard.append(con.id)
            connection({con_id(2)}).close()
        """
    )
    p.run(connect(2), message(1, b"x"), message(2, b"x"), message(1, b"x"))
    assert p.heard == [con_id(1)] * 2


# --- state ---


def attach(n: int, state: bytes = b"", version: int = 1) -> Attach:
    return Attach(con_id(n), {"Protocol": "raw"}, state, version, {"peer": "1.2.3.4:5"})


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_changed_state_is_sent_after_each_event(pair: MakePair, word: str) -> None:
    p = pair(
        f"""
        {word} on_connect(inf, con): con.state = {{"n": 0, "who": con}}
        {word} on_message(msg, con):
            con.state["n"] += 1
            return repr(con.state)
        """
    )
    states = [r for r in p.run(connect(1)) if isinstance(r, State)]
    assert len(states) == 1
    send, state = p.run(message(1, b"x"))
    # A connection in the state is its id from the beginning, whether or not the state has moved.
    assert send.data.decode() == repr({"n": 1, "who": con_id(1)})
    p.notice(Detach(con_id(1)))
    p.notice(attach(1, state.data, 2))
    send, state = p.run(message(1, b"x"))
    assert send.data.decode() == repr({"n": 2, "who": con_id(1)})


def test_a_state_that_did_not_change_is_not_sent(pair: MakePair) -> None:
    p = pair(
        """
        def on_message(msg, con):
            if msg["data"] == "set":
                con.state = [1]
            assert con.state in (None, [1])
        """
    )
    assert p.run(message(1, b"look")) == []
    assert len(p.run(message(1, b"set"))) == 1
    assert p.run(message(1, b"set"), message(1, b"look")) == []


def test_a_handler_that_raises_has_set_no_state(pair: MakePair) -> None:
    p = pair(
        """
        def on_message(msg, con):
            if msg["data"] == "show":
                return repr(con.state)
            con.state = (con.state or []) + [msg["data"]]
            con.state.append(1)
            if msg["data"] == "bad":
                raise ValueError
        """,
        on_exception="keep",
    )
    p.run(message(1, b"good"), message(1, b"bad"))
    assert p.run(message(1, b"show"))[0].data == b"['good', 1]"


@pytest.mark.parametrize("value", ["'x' * 65536", "object()", "[object()]", "{con: lambda: 0}"])
def test_a_state_that_cannot_be_encoded_raises_where_it_is_set(pair: MakePair, value: str) -> None:
    p = pair(
        f"""
        def on_message(msg, con):
            try:
                con.state = {value}
            except (TypeError, ValueError):
                return repr(con.state)
        """
    )
    assert p.run(message(1, b"x")) == [Send(con_id(1), b"None", "text")]


def test_a_state_that_grew_too_large_fails_the_handler(pair: MakePair) -> None:
    p = pair(
        """
        def on_message(msg, con):
            con.state = []
            con.state.append("x" * 65536)
        """
    )
    assert p.run(message(1, b"x")) == [Close(con_id(1), 1011, "internal error")]


def test_the_state_of_another_connection_can_be_read_and_not_set(pair: MakePair) -> None:
    """Any connection's state can be read if it is served here. Only its current handler may set
    it, as commands of others could overtake.
    """
    p = pair(
        """
        from wsraw import connection
        def on_connect(inf, con): con.state = con.id
        def on_message(msg, con):
            other = connection(int(msg["data"]))
            try:
                con.send(repr(other.state))
                other.state = 2
            except (LookupError, RuntimeError) as error:
                con.send(type(error).__name__)
        """
    )
    p.run(connect(2))
    here, elsewhere = con_id(2), con_id(3)
    commands = p.run(message(1, str(here).encode()), message(1, str(elsewhere).encode()))
    assert [c.data.decode() for c in commands] == [str(here), "RuntimeError", "LookupError"]


def test_the_state_of_an_opened_connection_can_be_set(pair: MakePair) -> None:
    """The state is set with the event that opens the connection, or at once outside of any
    event.
    """
    p = pair(
        """
        from wsraw import open_client_connection
        def on_message(msg, con):
            global up
            up = open_client_connection("h:1")
            up.state = {"down": con}
            con.state = {"up": up}
        """
    )
    kinds = [type(r).__name__ for r in p.run(message(1, b"x"))]
    assert kinds == ["Open", "State", "State"]
    p.up.state = 5
    (state,) = p.commands()
    assert (state.con, state.data) == (p.up.id, b"\x05")


def test_a_user_is_bound_when_the_handler_returns_and_not_if_it_raises(pair: MakePair) -> None:
    p = pair(
        """
        def on_message(msg, con):
            if msg["data"] == "show":
                return repr(con.user)
            con.user = None if msg["data"] == "nobody" else msg["data"]
            if msg["data"] == "bad":
                con.user = "worse"
                raise ValueError
        """,
        on_exception="keep",
    )
    assert p.run(message(1, b"show"))[0].data == b"None"
    assert p.run(message(1, b"ann")) == [User(con_id(1), "ann")]
    assert p.run(message(1, b"bad")) == []
    assert p.run(message(1, b"show"))[0].data == b"'ann'"
    assert p.run(message(1, b"nobody")) == [User(con_id(1), "")]
    assert p.run(message(1, b"bad"), message(1, b"show"))[0].data == b"None"


def test_what_was_flushed_of_a_user_stays(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import flush
        def on_message(msg, con):
            if msg["data"] == "show":
                return con.user
            con.user = "ann"
            flush()
            con.user = "bob"
            raise ValueError
        """,
        on_exception="keep",
    )
    assert p.run(message(1, b"x"), message(1, b"show")) == [
        User(con_id(1), "ann"),
        Send(con_id(1), b"ann", "text"),
    ]


def test_the_user_of_another_connection_cannot_be_set(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import connection
        def on_message(msg, con):
            try:
                connection(int(msg["data"])).user = "ann"
            except RuntimeError as error:
                con.send(str(error))
        """
    )
    (said,) = p.run(message(1, str(con_id(2)).encode()))
    assert b"con.user is set in an event of that connection" in said.data


def test_flush_also_sends_the_state(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import flush
        def on_message(msg, con):
            con.state = 1
            flush()
            con.state = 1
        """
    )
    assert p.run(message(1, b"x")) == [State(con_id(1), b"\x01")]


# --- connections come and go ---


@pytest.mark.parametrize("word", ["def", "async def"])
def test_on_attach_comes_before_the_next_event(pair: MakePair, word: str) -> None:
    p = pair(
        f"""
        {word} on_attach(con): con.send(f"attached {{con.peer}} {{con.kind}} {{con.state}}")
        def on_message(msg, con): return msg
        """
    )
    p.notice(attach(1, b"\x07"))
    assert p.commands() == []
    assert [c.data for c in p.run(message(1, b"a", "raw"), message(1, b"b", "raw"))] == [
        b"attached 1.2.3.4:5 raw 7",
        b"a",
        b"b",
    ]


def test_a_connection_that_returns_is_the_same_object(pair: MakePair) -> None:
    p = pair("")
    p.run(connect(1))
    kept = p.con(1)
    p.notice(Detach(con_id(1)))
    with pytest.raises(LookupError):
        _ = kept.state
    p.notice(attach(1, b"\x01"))
    assert p.con(1) is kept
    assert kept.state == 1


def test_a_detached_connection_is_not_kept_alive(pair: MakePair) -> None:
    import gc
    import weakref

    p = pair("")
    p.run(connect(1))
    there = weakref.ref(p.con(1))
    assert there() is not None
    p.notice(Detach(con_id(1)))
    gc.collect()
    assert there() is None


def test_opening_an_open_name_returns_that_connection(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import open_client_connection
        def on_message(msg, con):
            global feed
            feed = open_client_connection("h:1", name="feed")
            return str(con == feed)
        """
    )
    opened, send = p.run(message(1, b"x"))
    assert send.data == b"False"
    p.notice(Opened(opened.con, con_id(77)))
    assert p.feed.id == con_id(77)
    assert p.feed == p.con(77)
    assert opened.con not in p.runtime.link.held


# --- sessions ---


def test_a_new_session_drops_unhandled_events(pair: MakePair) -> None:
    p = pair(RECORD)
    p.deliver(message(1, b"old"))
    p.begin_session(2)
    p.run(message(1, b"new"))
    assert [what[1]["data"] for what in p.heard] == ["new"]


def test_a_who_drops_waiting_events_before_the_welcome(pair: MakePair) -> None:
    """Handlers that run before the welcome would be acked without a session."""
    p = pair("def on_message(msg, con): return 'handled'")
    p.deliver(connect(1), message(1, b"x"))
    p.runtime.receive(who())
    assert not p.runtime.queue
    (hello,) = p.gateway.receive(p.sent())
    assert isinstance(hello, Hello)


def test_a_handler_that_outlives_its_session_commands_nothing(pair: MakePair) -> None:
    p = pair(
        """
        from wsraw import open_client_connection
        async def on_message(msg, con):
            global opened
            await gate.wait()
            opened = open_client_connection("h:1")
            con.close()
            con.send("too late")
        """
    )

    async def scenario() -> None:
        p.module.gate = asyncio.Event()
        p.deliver(message(1, b"x"))
        task = asyncio.create_task(p.runtime.handle_async(p.runtime.queue.popleft()))
        await asyncio.sleep(0)
        p.begin_session(2)
        p.gate.set()
        await task

    asyncio.run(scenario())
    assert p.runtime.link.data_to_send() is None
    assert p.opened.closed


def test_a_new_gateway_has_other_connections(pair: MakePair) -> None:
    p = pair("")
    p.run(connect(1))
    con = p.con(1)
    assert not con.closed
    p.begin_session(1, EPOCH + 1)
    assert con.closed
    with pytest.raises(LookupError):
        _ = con.state
    assert p.runtime.connections == {}


def test_nothing_can_be_opened_without_a_gateway(pair: MakePair) -> None:
    from wsraw import open_client_connection
    from wsraw.link import records

    p = pair("")
    p.runtime.receive(records.encode([0, records.Who()]))
    with pytest.raises(ConnectionError):
        open_client_connection("h:1")
    p.con(1).send("lost, as it belongs to no event")
    p.sent()  # the hello
    assert p.runtime.link.data_to_send() is None


def test_unhandled_events_are_returned_at_bye(pair: MakePair) -> None:
    p = pair(RECORD)
    p.deliver(message(1, b"1"), message(1, b"2"))
    p.runtime.handle(p.runtime.queue.popleft())
    p.runtime.bye()
    assert p.commands() == [Bye()]
    assert len(p.gateway.window.in_flight) == 1


def test_refusals_are_logged_with_their_call(
    pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    p = pair("")
    logging.getLogger("wsraw").propagate = True
    p.gateway.batches = 4
    p.gateway.refuse(0, "because")
    p.tell()
    assert "because" in caplog.text
    assert not p.runtime.rejection
    p.runtime.receive(encode([0, Who(), Refused(0, 0, "its token is wrong")]))
    assert p.runtime.rejection == "its token is wrong"


def test_ids_come_from_the_range_of_the_session(pair: MakePair) -> None:
    from wsraw import open_client_connection

    pair("")
    assert [open_client_connection("h:1").id for _ in range(3)] == [
        FIRST_ID,
        FIRST_ID + 1,
        FIRST_ID + 2,
    ]


def test_a_redelivered_on_close_is_marked(pair: MakePair) -> None:
    """The gateway died before it had the ack, which the next gateway cannot know."""
    at = pair(
        """
        seen = []
        def on_close(con): seen.append((con.close_cause, con.delivery))
        """
    )
    at.run(connect(1), closed(1, cause="peer"))
    at.begin_session(2, epoch=EPOCH + 1)
    at.run(closed(1, code=1006, cause="gateway-died"))
    assert at.seen == [("peer", 1), ("gateway-died", 2)]


# --- output larger than a batch (issues of users who send a whole history at once) ---


def batches(both: Pair) -> list[list[Any]]:
    """The batches of the worker, as the gateway reads them."""
    decoder, found = gateway_decoder(), []
    while (data := both.runtime.link.data_to_send()) is not None:
        found.append(decoder.decode(data)[1])
    return found


@pytest.mark.parametrize("define", ["def", "async def"])
def test_more_than_a_batch_carries_leaves_in_parts(pair: Callable[..., Pair], define: str) -> None:
    """The parts include the state and the return value, and the next event is not affected."""
    both = pair(
        f"""
        import wsraw
        {define} on_message(msg, con):
            if msg["data"] == b"much":
                for n in range(10):
                    con.send(bytes([n]) * 30_000)
                con.state = b"s" * 30_000
            return msg
        """
    )
    both.runtime.link.room = 100_000
    both.runtime.link.event_limit = 400_000
    con = con_id(1)
    both.deliver(*(OnMessage(0, con, data, "binary") for data in (b"much", b"little", b"much")))
    while both.runtime.queue:
        event = both.runtime.queue.popleft()
        if define == "def":
            both.runtime.handle(event)
        else:
            asyncio.run(both.runtime.handle_async(event))
    sends: list[Record] = [Send(con, bytes([n]) * 30_000) for n in range(10)]
    state = encode_state(b"s" * 30_000)
    assert batches(both) == [
        [*sends[:3], Part(1)],
        [*sends[3:6], Part(1)],
        [*sends[6:9], Part(1)],
        [sends[9], Send(con, b"much"), State(con, state), Send(con, b"little"), Ack(1, 2)],
        [*sends[:3], Part(3)],
        [*sends[3:6], Part(3)],
        [*sends[6:9], Part(3)],
        [sends[9], Send(con, b"much"), Ack(3, 3)],
    ]


@pytest.mark.parametrize("define", ["def", "async def"])
def test_a_handler_that_fails_after_a_part_has_sent_nothing(
    pair: Callable[..., Pair], define: str
) -> None:
    both = pair(
        f"""
        import wsraw
        {define} on_message(msg, con):
            wsraw.open_client_connection("127.0.0.1:1")
            con.close()
            for n in range(10):
                con.send(bytes(30_000))
            raise RuntimeError
        """
    )
    link = both.runtime.link
    link.room, link.event_limit = 100_000, 400_000
    held = set(link.held)
    con = con_id(1)
    closed = Close(con, 1011, "internal error")
    assert both.run(OnMessage(0, con, b"", "binary")) == [closed]
    assert held | {con} >= link.held, "what it has opened in a part was never opened"
    both.deliver(OnMessage(0, con_id(2), b"", "binary"))
    both.begin_session(2)
    assert batches(both) == []


def test_commands_of_a_session_that_is_over_are_dropped_with_their_parts(
    pair: Callable[..., Pair],
) -> None:
    both = pair(
        """
        import asyncio
        async def on_message(msg, con):
            for n in range(10):
                con.send(bytes(30_000))
                await asyncio.sleep(0)
        """
    )
    both.runtime.link.room, both.runtime.link.event_limit = 100_000, 400_000
    both.deliver(OnMessage(0, con_id(1), b"", "binary"))

    async def run() -> None:
        task = asyncio.ensure_future(both.runtime.handle_async(both.runtime.queue.popleft()))
        for _ in range(8):
            await asyncio.sleep(0)
        both.begin_session(2)
        await task

    asyncio.run(run())
    assert batches(both) == []


@pytest.mark.parametrize(
    "command",
    [
        "con.send(bytes(30_000))",
        "con.send('x' * 30_000)",
        "con.send({'data': bytes(30_000)})",
        "wsraw.publish('g', bytes(30_000))",
        "return bytes(200_000)",
        "con.send(b'')",
    ],
)
@pytest.mark.parametrize("define", ["def", "async def"])
def test_more_than_an_event_may_have_raises_at_the_call(
    pair: Callable[..., Pair], caplog: pytest.LogCaptureFixture, command: str, define: str
) -> None:
    """The command is one return, many sends, or very many small ones: each ends its own event,
    and the log says so.
    """
    both = pair(
        f"""
        import wsraw
        {define} on_message(msg, con):
            if msg["data"] == b"much":
                for _ in range(1000):
                    {command}
            return msg
        """
    )
    both.runtime.link.room, both.runtime.link.event_limit = 50_000, 100_000
    con = con_id(1)
    records = both.run(
        OnMessage(0, con, b"a little", "binary"),
        OnMessage(0, con, b"much", "binary"),
        OnMessage(0, con_id(2), b"a little", "binary"),
    )
    echo = Send(con, b"a little")
    closed = Close(con, 1011, "internal error")
    assert records == [echo, closed, Send(con_id(2), b"a little")]
    assert "ValueError" in caplog.text
    is_one = "return" in command
    assert ("flush()" in caplog.text) != is_one
    assert ("at most 100000 bytes" in caplog.text) != is_one


def test_flush_makes_room_for_more_commands(pair: Callable[..., Pair]) -> None:
    both = pair(
        """
        import wsraw
        def on_message(msg, con):
            for _ in range(9):
                con.send(bytes(30_000))
                wsraw.flush()
        """
    )
    both.runtime.link.room = both.runtime.link.event_limit = 40_000
    both.deliver(OnMessage(0, con_id(1), b"", "binary"))
    both.runtime.handle(both.runtime.queue.popleft())
    assert [len(both.commands()) for _ in range(9)] == [1] * 9
    assert not both.gateway.window.in_flight


def test_commands_outside_an_event_are_split_into_batches(
    pair: Callable[..., Pair],
) -> None:
    both = pair("")
    both.runtime.link.room = 40_000
    con = both.con(1)
    for _ in range(9):
        con.send(bytes(30_000))
    with pytest.raises(ValueError, match="too large"):
        con.send(bytes(40_000))
    assert [len(both.commands()) for _ in range(9)] == [1] * 9


def test_what_cannot_be_spliced_stays_with_its_handlers(pair: MakePair) -> None:
    p = pair("""
        heard = []
        def on_message(msg, con):
            heard.append(msg["data"])
            try:
                con.splice(con)
            except ValueError as error:
                heard.append(str(error).rpartition(" ")[2])
    """)
    assert p.run(message(1, b"1"), message(1, b"2")) == []
    assert p.heard == ["1", "itself", "2", "itself"]


def test_an_event_that_waits_for_its_handler_is_not_taken_for_one_that_hangs(
    pair: MakePair,
) -> None:
    p = pair("async def on_message(msg, con): pass\n")
    cancelled: list[int] = []
    p.runtime.cancel = cancelled.append
    p.deliver(message(1, b"x"), message(1, b"y"))
    first, second = p.runtime.queue
    p.notice(Hung(con_id(1), second.seq))
    assert p.commands() == [Mark(con_id(1), 1)] and not cancelled
    p.runtime.queue.popleft()
    p.notice(Hung(con_id(1), first.seq))
    assert p.commands() == [] and cancelled == [first.seq]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_member_whose_gateway_is_gone_is_closed_and_has_its_own_reference(
    pair: MakePair, word: str
) -> None:
    p = pair(
        f"""
        heard = []
        {word} on_attach(con): heard.append("attached")
        {word} on_leave(group, con): heard.append((group, con.ref, con.user, con.closed))
        """
    )
    p.notice(Attach(con_id(1), {}, b"", 0, {"ref": "there/77", "user": "ann"}))
    assert p.run(OnLeave(0, con_id(1), "room")) == []
    assert p.heard == [("room", "there/77", "ann", True)]
    # The next gateway must not send an on_close for this connection.
    assert con_id(1) not in p.runtime.link.held
    p.notice(Detach(con_id(1)))
