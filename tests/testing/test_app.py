"""Handlers in-process, driven by the real worker machine with the real registry and sessions."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import wsraw
from tests.deadline import DEADLINE, UNIT
from wsraw.testing import App, RawPeer, WebSocketPeer
from wsraw.workers.loading.handlers import LoadError

Make = Callable[..., App]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    apps: list[App] = []

    def write(source: str, **settings: object) -> App:
        file = tmp_path / "user.py"
        file.write_text(textwrap.dedent(source), "utf-8")
        apps.append(App(file, **{"timeout": DEADLINE, **settings}))  # type: ignore[arg-type]
        return apps[-1]

    yield write
    for app in apps:
        app.close()


def test_a_websocket_client_exchanges_messages(make: Make) -> None:
    app = make("""
        def on_connect(inf, con):
            con.send(inf["url"] + inf["X-Name"] + con.kind)
        def on_message(msg, con):
            con.state = (con.state or 0) + 1
            return {"data": msg["data"], "type": msg["type"]}
        def on_close(con):
            closed.append((con.close_code, con.close_reason, con.close_cause, con.state))
        closed = []
    """)
    client = app.websocket("/chat?x=1", headers={"X-Name": "ann"})
    assert client.status == 101
    client.send("hello")
    client.send(b"\0\1")
    assert client.received == ["/chat?x=1annwebsocket", "hello", b"\0\1"]
    client.close(4001, "bye")
    assert client.closed and client.close_code == 4001
    assert app.module.closed == [(4001, "bye", "peer", 2)]
    with pytest.raises(ConnectionError):
        client.send("too late")


def test_raw_clients_and_groups_are_supported(make: Make) -> None:
    app = make("""
        import wsraw
        def on_connect(inf, con):
            con.join("all")
        def on_message(msg, con):
            wsraw.publish("all", msg["data"], exclude=[con])
        def on_close(con):
            wsraw.publish("all", con.close_cause)
    """)
    one, two, three = app.raw(b"a"), app.raw(b"b"), app.websocket()
    assert (one.data, two.data, three.received) == (b"b", b"", [])
    one.send("c")
    assert two.data == b"c" and three.received == [b"c"]
    one.close()
    assert one.closed and three.received == [b"c", "eof"]
    two.reset()
    assert three.received[-1] == "lost"


@pytest.mark.parametrize("word", ["def", "async def"])
def test_handlers_are_told_who_joins_and_leaves(make: Make, word: str) -> None:
    app = make(
        f"""
        import wsraw
        {word} on_connect(inf, con):
            con.user = con.request.query["name"]
        {word} on_message(msg, con):
            what, _, group = msg["data"].partition(" ")
            getattr(con, what)(group)
            if group == "room.2":
                con.close()
        {word} on_join(group, con):
            wsraw.publish(group, f"{{con.user}} has come", exclude=con)
        {word} on_leave(group, con):
            wsraw.publish(group, f"{{con.user}} has left")
        """,
        presence=("room.*",),
    )
    ann, bob = app.websocket("/?name=ann"), app.websocket("/?name=bob")
    for client in (ann, bob):
        client.send("join room.1")
        client.send("join hall")
    bob.send("leave room.1")
    bob.send("join room.1")
    bob.close()
    assert ann.received == [f"bob has {what}" for what in ("come", "left", "come", "left")]
    assert bob.received == []
    late = app.websocket("/?name=late")
    ann.send("join room.2")
    assert ann.closed
    assert late.received == []


def test_users_are_supported(make: Make) -> None:
    app = make("""
        import wsraw
        def on_connect(inf, con):
            con.user = con.request.query.get("name")
        def on_message(msg, con):
            wsraw.send_to_user(msg["data"], f"from {con.user}", exclude=con)
            con.send(str(len(wsraw.user_connections(msg["data"]).result())))
    """)
    names = ("name=ann", "name=ann", "name=bob", "")
    ann, anns, bob, nobody = (app.websocket(f"/?{name}") for name in names)
    bob.send("ann")
    ann.send("ann")
    nobody.send("ann")
    app.reload()
    ann.send("ann")
    assert ann.received == ["from bob", "2", "from None", "2"]
    assert anns.received == ["from bob", "from ann", "from None", "from ann"]
    assert (bob.received, nobody.received) == (["2"], ["2"])


def test_a_handler_may_send_more_than_a_batch_carries(make: Make) -> None:
    app = make("""
        def on_message(msg, con):
            for n in range(70):
                con.send(bytes([n]) * 1_000_000)
            return msg
    """)
    client = app.raw(b"go")
    assert client.data == b"".join(bytes([n]) * 1_000_000 for n in range(70)) + b"go"


def test_an_exception_of_a_handler_fails_the_test(make: Make) -> None:
    app = make("""
        def on_message(msg, con):
            con.send("never sent")
            raise ValueError(msg["data"])
    """)
    client, other = app.websocket(), app.websocket()
    with pytest.raises(ValueError, match="oops") as raised:
        client.send("oops")
    assert "on_message" in raised.value.__notes__[0]
    # The connection is closed as in a real run, and other connections are not.
    assert client.received == [] and client.close_code == 1011
    assert not other.closed
    app.settle()


def test_async_handlers_run_and_the_clock_is_advanced(make: Make) -> None:
    app = make("""
        import asyncio
        async def on_message(msg, con):
            if msg["data"] == "thread":
                return await asyncio.to_thread(str.upper, "thread")
            await asyncio.sleep(float(msg["data"]))
            return f"slept {msg['data']} {con.delivery}"
    """)
    one, two = app.websocket(), app.websocket()
    one.send("0.01")
    assert one.received == ["slept 0.01 1"]
    one.send("20", wait=False)
    one.send("0", wait=False)
    two.send("thread", wait=False)
    assert one.received == ["slept 0.01 1"]
    # The real clock runs, too.
    app.advance(10)
    assert one.received == ["slept 0.01 1"]
    app.advance(10)
    # Each connection handles one event at a time.
    assert one.received[1:] == ["slept 20 1", "slept 0 1"]
    app.settle()
    assert two.received == ["THREAD"]


def test_a_handler_that_does_not_end_fails_the_test(make: Make) -> None:
    app = make(
        """
        import asyncio
        async def on_message(msg, con):
            await asyncio.Event().wait()
        """,
        timeout=2 * UNIT,
    )
    client = app.websocket()
    with pytest.raises(TimeoutError, match="on_message of"):
        client.send("x")
    with pytest.raises(TimeoutError, match="cancelled"):
        app.advance(40)


def test_a_handler_that_does_not_end_when_it_is_cancelled_fails_the_test(make: Make) -> None:
    app = make(
        """
        import asyncio
        async def on_message(msg, con):
            for _ in range(2):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    pass
            await asyncio.Event().wait()
        """
    )
    client = app.websocket()
    client.send("x", wait=False)
    with pytest.raises(AssertionError, match="killed"):
        app.advance(40)
    assert app._worker is not None
    app._worker.discard()


def test_timers_and_timeouts_follow_the_clock(make: Make) -> None:
    app = make(
        """
        import wsraw
        ticks = []
        def on_start():
            wsraw.every(2.5)(lambda: ticks.append("start"))
        @wsraw.every(10)
        def beat():
            wsraw.publish("all", "beat")
        def on_connect(inf, con):
            con.join("all")
        def on_close(con):
            ticks.append(con.close_cause)
        def on_stop():
            ticks.append("stop")
        """,
        idle_timeout="50s",
    )
    client = app.websocket()
    app.advance(30.1)
    assert client.received == ["beat"] * 3
    assert app.module.ticks == ["start"] * 12
    silent = make_silent(app)
    app.advance(60)
    assert silent.closed
    ticks = app.module.ticks
    app.close()
    assert ticks[-1] == "stop"


def make_silent(app: App) -> RawPeer:
    silent = app.raw(b"x")
    app._gateway.registry.groups.leave(silent._pipe.con.entry, "all")
    return silent


def test_opened_connections_are_answered_by_the_test(make: Make) -> None:
    app = make("""
        from wsraw import open_client_connection
        log = []
        def on_message(msg, con):
            if con.target:
                con.state.send(msg["data"]) if hasattr(con.state, "send") else None
                log.append((con.target, msg["data"]))
                return
            target, _, text = msg["data"].partition(" ")
            up = open_client_connection(target)
            up.send(text)
        def on_error(message, con):
            log.append((con.target, message))
        def on_close(con):
            log.append((con.target, con.close_cause))
    """)
    client = app.websocket()
    client.send("127.0.0.1:7000 hello")
    (raw,) = app.opened
    assert isinstance(raw, RawPeer) and raw.target == "127.0.0.1:7000"
    assert raw.data == b"hello"
    raw.send("answer")
    client.send("ws://there/path text")
    web = app.opened[1]
    assert isinstance(web, WebSocketPeer)
    assert web.inf["url"] == "/path" and web.received == ["text"]
    web.send("frame")
    web.close(1000)
    app.refused.add("nobody:1")
    client.send("nobody:1 x")
    assert app.module.log == [
        ("127.0.0.1:7000", b"answer"),
        ("ws://there/path", "frame"),
        ("ws://there/path", "peer"),
        ("nobody:1", "refused by the test"),
        ("nobody:1", "connect-failed"),
    ]


def test_an_opened_websocket_can_be_refused(make: Make) -> None:
    """The status, headers and body reach the handler; without an answer they are None."""
    app = make(
        """
        from wsraw import open_client_connection

        log = []

        def on_message(msg, con):
            open_client_connection(msg["data"])

        def on_error(error_message, con):
            log.append((con.target, con.kind, con.response))

        def on_close(con):
            log.append(con.response)
        """
    )
    app.rejected["ws://there/"] = (401, {"WWW-Authenticate": "Basic"}, b"who are you?")
    app.refused.add("ws://nobody/")
    client = app.websocket()
    client.send("ws://ann:secret@there/")
    client.send("ws://nobody/")
    client.close()
    (target, kind, response), *ends = app.module.log
    assert (target, kind) == ("ws://there/", "websocket")
    assert (response.status, response.body) == (401, b"who are you?")
    assert response.headers["WWW-Authenticate"] == "Basic"
    assert ends == [response, ("ws://nobody/", "websocket", None), None, None]


def test_a_worker_is_killed_while_a_handler_waits(make: Make) -> None:
    app = make(
        """
        import asyncio

        async def on_message(msg, con):
            await asyncio.sleep(10)
            con.send(f"delivery {con.delivery}")
        """
    )
    client = app.websocket()
    client.send("x", wait=False)
    app.kill_worker(wait=False)
    app.kill_worker(wait=False)
    assert client.received == []
    app.advance(10)
    assert client.received == ["delivery 3"]


def test_verdicts_and_settings_apply(make: Make) -> None:
    app = make(
        """
        def on_connect(inf, con):
            if "X-Key" not in inf:
                con.reject(401, body="who are you?")
            else:
                con.accept("b")
        """,
        verdict="handlers",
        subprotocols=["a", "b"],
    )
    refused = app.websocket()
    assert (refused.status, refused.body, refused.closed) == (401, b"who are you?", True)
    client = app.websocket(headers={"X-Key": "1"}, subprotocols=["a", "b"])
    assert (client.status, client.subprotocol) == (101, "b")
    # The gateway's own refusals are visible, too.
    assert app.websocket(headers={"Origin": "https://evil.example"}).status == 403


def test_a_slow_reader_can_be_simulated(make: Make) -> None:
    app = make(
        """
        def on_message(msg, con):
            con.send(bytes(100_000))
        def on_close(con):
            causes.append(con.close_cause)
        causes = []
        """,
        output_limit="512KiB",
    )
    client = app.websocket()
    client.send("x")
    client.stop_reading()
    for _ in range(8):
        client.send("x")
    app.advance(1.1)
    client.send("x")
    assert app.module.causes == []
    # Only now the client sees the close frame, and answers it.
    client.resume_reading()
    assert client.close_code == 1008
    assert app.module.causes == ["overflow"]


def test_a_reload_and_a_death_can_be_simulated(make: Make, tmp_path: Path) -> None:
    source = """
        import asyncio
        seen, attached = [], []
        async def on_message(msg, con):
            con.state = (con.state or 0) + 1
            seen.append((msg["data"], con.delivery))
            if msg["data"] == "die" and con.delivery == 1:
                await asyncio.Event().wait()
            return f"VERSION {con.state}"
        def on_attach(con):
            attached.append(con.id)
    """
    app = make(source)
    client = app.websocket()
    client.send("a")
    (tmp_path / "user.py").write_text(textwrap.dedent(source).replace("VERSION", "second"))
    app.reload()
    client.send("b")
    assert client.received == ["VERSION 1", "second 2"]
    assert app.module.seen == [("b", 1)] and app.module.attached == [client.id]
    client.send("die", wait=False)
    app.kill_worker()
    # The unfinished event comes again, and its commands happen once.
    assert app.module.seen == [("die", 2)]
    assert client.received[2:] == ["second 3"]


def test_any_object_with_handlers_is_accepted() -> None:
    handlers = SimpleNamespace(on_message=lambda msg, con: msg["data"][::-1])
    with App(handlers) as app:
        client = app.websocket()
        client.send("abc")
        assert client.received == ["cba"]
        wsraw.connection(client.id).send("from the test")
        app.settle()
        assert client.received[1:] == ["from the test"]
        with pytest.raises(RuntimeError, match="close it first"):
            App(handlers)
    with pytest.raises(RuntimeError, match="closed"):
        app.websocket()


def test_an_app_that_cannot_begin_raises(make: Make) -> None:
    with pytest.raises(LoadError, match="on_message"):
        make("def on_message(): pass")
    with pytest.raises(ZeroDivisionError):
        make("def on_start(): 1 / 0")
    with pytest.raises(ValueError, match="verdict"):
        make("", verdict="nobody")
    # The failed apps leave nothing behind.
    make("pass")


def test_raw_bytes_can_be_received_as_they_come(make: Make) -> None:
    app = make("def on_close(con):\n    causes.append(con.close_cause)\ncauses = []")
    client = app.websocket()
    client.send_bytes(b"\xff\xff\xff\xff")
    assert client.close_code == 1002
    assert app.module.causes == ["protocol-error"]


PARAMS = """
    def on_connect(inf, con):
        con.send(str(con.params))
    def on_attach(con):
        attached.append(con.params)
    def on_message(msg, con):
        return msg["data"]
    attached = []
"""


def test_parameters_of_a_path_reach_the_handlers(make: Make) -> None:
    app = make(PARAMS, routes=["/rooms/{room}=default"])
    client = app.websocket("/rooms/a%20b?x=1")
    assert client.received == ["{'room': 'a b'}"]
    assert app.websocket("/elsewhere").received == ["{}"], "there is one pool for all"
    app.reload()
    client.send("still there")
    assert client.received[1:] == ["still there"]
    assert app.module.attached[0] == {"room": "a b"}


def test_one_of_several_pools_is_tested(make: Make) -> None:
    app = make(
        PARAMS,
        pool="chat",
        pools=["chat", {"name": "feed", "verdict": "handlers"}],
        routes=["/rooms/{room}=chat", {"pool": "feed", "path": "/feed", "host": "testserver"}],
    )
    assert app.websocket("/rooms/7").received == ["{'room': '7'}"]
    assert app.websocket("/rooms/").status == 404
    assert app.raw("hello").was_reset
    theirs = app.websocket("/feed")
    assert (theirs.status, theirs.closed) == (0, False), "its handlers are not here"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"pool": "chat"}, "pool 'chat': these handlers can be those of default"),
        ({"pools": ["chat"]}, "pool 'default': these handlers can be those of chat"),
        ({"routes": ["/a=chat"]}, "routes: /a=chat: there is no pool 'chat'"),
        ({"routes": ["/a"]}, "routes: '/a': write PATTERN=POOL"),
    ],
)
def test_an_unknown_pool_is_refused(make: Make, given: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        make(PARAMS, **given)
