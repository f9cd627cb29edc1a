"""Every call of handlers, with every kind of value that cannot be sent: it raises TypeError or
ValueError, and no command is sent.

Kludex/uvicorn#1259 (close with reason None), NousResearch/hermes-agent#97288 and
miguelgrinberg/Flask-SocketIO#1808 (one value of a client's JSON that cannot be encoded).
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import wsraw
from wsraw.gateway import http
from wsraw.link.records import (
    GROUP_LIMIT,
    STATE_LIMIT,
    Accept,
    Ack,
    Close,
    Join,
    Publish,
    Record,
    Reject,
    Send,
    State,
    encode,
    gateway_decoder,
)
from wsraw.testing import App
from wsraw.workers import embedded_asyncio as embedded
from wsraw.workers import embedded_threads, values
from wsraw.workers.connection import Connection, encode_state
from wsraw.workers.loading.handlers import every

from .conftest import Pair, con_id, connect, message

MakePair = Callable[..., Pair]
Call = Callable[[Connection, Any], object]

HALF = "\ud83d"


class Text(str):
    """A subclass of str like markupsafe's Markup and Django's SafeString."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not what it holds"


class Data(bytes):
    def __bytes__(self) -> bytes:
        return b"not what it holds"


class Number(enum.IntEnum):
    CODE = 4000


class Word(enum.StrEnum):
    TEXT = "text"


NO_TEXT = (HALF, "a" + HALF, Text(HALF), None, 5, 1.5, b"x", object(), ["x"], {"x": 1})
NO_ID = (-1, 2**53, 2**64, 2**80, -(2**70), 1.5, math.nan, "1", None, True, object(), [1])
NO_MESSAGE = (
    *(HALF, Text(HALF), None, 5, 1.5, object(), ["x"], {}, {"data": None}, {"data": HALF}),
    *({"data": "x", "type": "ping"}, {"data": "x", "type": 5}, {"data": "x", "type": ["text"]}),
    *({"data": "x", "final": "no"}, {"data": "x", "final": 2}, {"data": "x", HALF: 1}),
    (i for i in range(3)),
)
NO_CODE = (None, 4000.0, "4000", True, -1, 999, 1006, 5000, 2**64, 2**80, math.nan, object())
NO_FLAG = (None, "yes", 2, -1, 0.0, object(), [])
NO_HEADERS = (
    *("X", 5, [("X", "y")], {"X": HALF}, {"X": None}, {"X": 5}, {"X": b"y"}, {"X": "a\r\nb"}),
    *({HALF: "y"}, {5: "y"}, {"": "y"}, {"a b": "y"}, {"X": "\u20ac"}),
)
LOOP: list[Any] = []
LOOP.append(LOOP)
DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]
NO_STATE = (
    *(HALF, [Text(HALF)], {HALF: 1}, {"x": [HALF]}, 2**64, -(2**63) - 1, {"x": 2**80}, LOOP, DEEP),
    *(object(), [object()], 1j, range(3), len, b"x" * STATE_LIMIT, {object(): 1}),
)

CALLS: dict[str, tuple[Call, tuple[Any, ...]]] = {
    "con.send": (lambda con, v: con.send(v), NO_MESSAGE),
    "con.send type": (lambda con, v: con.send("x", v), (HALF, 5, b"text", ["text"], "ping")),
    "con.send final": (lambda con, v: con.send("x", None, v), NO_FLAG[1:]),
    "send_message": (lambda con, v: wsraw.send_message(v, con), NO_MESSAGE),
    "send_message con": (lambda con, v: wsraw.send_message("x", v), NO_ID),
    "con.close": (lambda con, v: con.close(v), NO_CODE),
    "con.close reason": (lambda con, v: con.close(4000, v), NO_TEXT),
    "con.accept": (lambda con, v: con.accept(v), (*NO_TEXT[:3], *NO_TEXT[4:], "a b")),
    "con.accept headers": (lambda con, v: con.accept(headers=v), (*NO_HEADERS, {"Upgrade": "x"})),
    "con.reject": (lambda con, v: con.reject(v), (None, 403.0, "403", True, 200, 2**64, object())),
    "con.reject reason": (lambda con, v: con.reject(403, v), (*NO_TEXT, "a\r\nb", "\u20ac")),
    "con.reject headers": (
        lambda con, v: con.reject(headers=v),
        (*NO_HEADERS, {"Content-Length": "1"}, {f"X{n}": "y" * 1000 for n in range(40)}),
    ),
    "con.reject body": (
        lambda con, v: con.reject(body=v),
        (HALF, None, 5, 2**40, [1, 2], "x" * (values.ANSWER_LIMIT + 1)),
    ),
    "con.join": (lambda con, v: con.join(v), (*NO_TEXT, "x" * (GROUP_LIMIT + 1))),
    "con.leave": (lambda con, v: con.leave(v), (*NO_TEXT, "x" * (GROUP_LIMIT + 1))),
    "join": (lambda con, v: wsraw.join(v, con), NO_TEXT),
    "join con": (lambda con, v: wsraw.join("g", v), NO_ID),
    "leave": (lambda con, v: wsraw.leave(v, con), NO_TEXT),
    "leave con": (lambda con, v: wsraw.leave("g", v), NO_ID),
    "con.couple": (lambda con, v: con.couple(v), NO_ID),
    "con.state": (lambda con, v: setattr(con, "state", v), NO_STATE),
    "publish": (lambda con, v: wsraw.publish(v, "x"), (*NO_TEXT, "x" * (GROUP_LIMIT + 1))),
    "publish msg": (lambda con, v: wsraw.publish("g", v), (*NO_MESSAGE, {"data": 1, "final": 0})),
    "publish exclude": (
        lambda con, v: wsraw.publish("g", "x", exclude=v),
        (None, "12", b"12", [None], *([v] for v in NO_ID)),
    ),
    "send_to_user": (
        lambda con, v: wsraw.send_to_user(v, "x"),
        (*NO_TEXT, "", "x" * (GROUP_LIMIT + 1)),
    ),
    "send_to_user msg": (lambda con, v: wsraw.send_to_user("ann", v), NO_MESSAGE),
    "con.user": (
        lambda con, v: setattr(con, "user", v),
        (*(v for v in NO_TEXT if v is not None), "", "x" * (GROUP_LIMIT + 1)),
    ),
    "connection": (lambda con, v: wsraw.connection(v).send("x"), NO_ID),
    "call_soon": (lambda con, v: wsraw.call_soon(v), (None, 5, "print", object())),
    "every": (
        lambda con, v: every(v),
        (None, "1", True, 0, -1, math.nan, math.inf, 1e308, 10**400, object(), len),
    ),
    "open": (lambda con, v: wsraw.open_client_connection(v), NO_TEXT),
    **{
        f"open {name}": (
            lambda con, v, name=name: wsraw.open_client_connection("h:1", **{name: v}),  # type: ignore[misc]
            wrong,
        )
        for name, wrong in {
            "protocol": (*NO_TEXT, "http", "x" * 10_000),
            "url": (*NO_TEXT[:3], *NO_TEXT[4:]),
            "host": (*NO_TEXT[:3], *NO_TEXT[4:]),
            "orig": NO_TEXT,
            "name": (*NO_TEXT[:3], *NO_TEXT[4:]),
            "couple": tuple(v for v in NO_ID if v is not None),
            "headers": NO_HEADERS,
            "subprotocols": (5, "chat", [HALF], [5], [None], ["a b"], [""]),
            "connect_timeout": ("5", True, -1, math.nan, math.inf, 1e308, 10**400, object()),
            "reconnect": NO_FLAG,
            "deflate": NO_FLAG[1:],
            "verify": NO_FLAG,
            "ca": (5, b"x", object(), f"-----BEGIN {HALF}"),
            "cert": (5, b"x", object()),
            "key": (5, b"x", object()),
            "server_name": (*NO_TEXT[:3], *NO_TEXT[4:]),
        }.items()
    },
}
EACH = [(name, call, value) for name, (call, wrong) in CALLS.items() for value in wrong]


def check(name: str, value: object, raised: list[BaseException]) -> None:
    shown = f"{name}({values.brief(value)})"
    assert [type(error) for error in raised] in ([TypeError], [ValueError]), (shown, raised)
    assert 10 < len(str(raised[0])) < 400, (shown, str(raised[0]))


@pytest.mark.parametrize("word", ["def", "async def"])
def test_wrong_arguments_raise_at_the_call(pair: MakePair, word: str) -> None:
    p = pair(f"{word} on_connect(inf, con): call(con)\n", on_exception="keep")
    raised: list[BaseException] = []
    p.runtime.report = lambda what, error: raised.append(error)
    for n, (name, call, value) in enumerate(EACH, 1):
        p.module.call = lambda con, call=call, value=value: call(con, value)  # type: ignore[attr-defined]
        # What is wrong is raised before it: the verdict is all that is commanded.
        assert p.run(connect(n, verdict=True)) == [Reject(con_id(n), 500)], (name, value)
        check(name, value, raised)
        raised.clear()
    assert p.calls == []


def test_wrong_arguments_raise_in_a_test_as_well(tmp_path: Path) -> None:
    todo: list[Callable[[Connection], object]] = []
    handlers = SimpleNamespace(
        on_connect=lambda inf, con: todo[-1](con), on_message=lambda msg, con: msg
    )
    with App(handlers, verdict="handlers") as app:
        for name, call, value in EACH:
            todo.append(lambda con, call=call, value=value: call(con, value))  # type: ignore[misc]
            with pytest.raises((TypeError, ValueError)) as caught:
                app.websocket()
            check(name, value, [caught.value])
        todo.append(lambda con: None)
        client = app.websocket()
        client.send("x")
        assert client.received == ["x"]


@pytest.mark.parametrize("word", ["def", "async def"])
def test_the_return_value_of_on_message_is_checked(pair: MakePair, word: str) -> None:
    p = pair(f"{word} on_message(msg, con): return value\n")
    raised: list[BaseException] = []
    p.runtime.report = lambda what, error: raised.append(error)
    for n, value in enumerate((v for v in NO_MESSAGE if v is not None), 1):
        p.module.value = value  # type: ignore[attr-defined]
        assert p.run(message(n, b"x")) == [Close(con_id(n), 1011, "internal error")]
        check("return", value, raised)
        raised.clear()


def test_a_state_made_wrong_in_place_fails_the_handler(pair: MakePair) -> None:
    p = pair("def on_message(msg, con):\n    con.state = []\n    con.state.append(value)\n")
    raised: list[BaseException] = []
    p.runtime.report = lambda what, error: raised.append(error)
    for n, value in enumerate(NO_STATE, 1):
        p.module.value = value  # type: ignore[attr-defined]
        assert p.run(message(n, b"x")) == [Close(con_id(n), 1011, "internal error")]
        check("con.state", value, raised)
        raised.clear()


EMBEDDED: dict[str, tuple[Callable[[embedded.Worker, Any], Any], tuple[Any, ...]]] = {
    "send": (lambda worker, v: worker.send(1, v), NO_MESSAGE),
    "send con": (lambda worker, v: worker.send(v, "x"), NO_ID),
    "publish": (lambda worker, v: worker.publish(v, "x"), NO_TEXT),
    "publish msg": (lambda worker, v: worker.publish("g", v), NO_MESSAGE),
    "publish exclude": (lambda worker, v: worker.publish("g", "x", exclude=[v]), NO_ID),
    "close": (lambda worker, v: worker.close(v), NO_ID),
    "close code": (lambda worker, v: worker.close(1, v), NO_CODE),
    "close reason": (lambda worker, v: worker.close(1, 1000, v), NO_TEXT),
    "join": (lambda worker, v: worker.join(v, 1), NO_TEXT),
    "join con": (lambda worker, v: worker.join("g", v), NO_ID),
    "leave": (lambda worker, v: worker.leave(v, 1), NO_TEXT),
    "leave con": (lambda worker, v: worker.leave("g", v), NO_ID),
}


def test_an_embedded_worker_checks_arguments_without_a_gateway(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), embedded.Worker(run_dir=tmp_path) as worker:
            for name, (call, wrong) in EMBEDDED.items():
                for value in wrong:
                    with pytest.raises((TypeError, ValueError)) as caught:
                        await call(worker, value)
                    check(name, value, [caught.value])
            with pytest.raises(TypeError):
                worker.call_soon_threadsafe("x")  # type: ignore[arg-type]

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())
    with embedded_threads.Worker(run_dir=tmp_path) as worker:
        for name, (call, wrong) in EMBEDDED.items():
            for value in wrong:
                with pytest.raises((TypeError, ValueError)) as caught:
                    call(worker, value)  # type: ignore[arg-type]
                check(name, value, [caught.value])


@pytest.mark.parametrize(
    "options",
    [
        {"run_dir": 5},
        {"run_dir": b"x"},
        {"endpoint": 5, "token": "x"},
        {"endpoint": HALF, "token": "x"},
        {"endpoint": "ipc://x", "token": 5},
        {"endpoint": "ipc://x", "token": HALF},
        {"endpoint": "ipc://x", "keys": "x"},
        {"run_dir": "x", "pool": 5},
        {"run_dir": "x", "pool": HALF},
        {"run_dir": "x", "concurrency": 0},
        {"run_dir": "x", "concurrency": 1.5},
        {"run_dir": "x", "concurrency": "5"},
        {"run_dir": "x", "concurrency": 2**64},
        {"run_dir": "x", "on_exception": 5},
    ],
)
def test_the_arguments_of_an_embedded_worker_are_checked(options: dict[str, Any]) -> None:
    for kind in (embedded.Worker, embedded_threads.Worker):
        with pytest.raises((TypeError, ValueError)):
            kind(**options)


@pytest.fixture
def told(pair: MakePair) -> Iterator[Callable[[Call], list[Any]]]:
    p = pair("def on_connect(inf, con): call(con)\n")

    def tell(call: Call) -> list[Any]:
        p.module.call = lambda con: call(con, None)  # type: ignore[attr-defined]
        return [record for record in p.run(connect(1, verdict=True)) if not isinstance(record, Ack)]

    yield tell


@pytest.mark.parametrize(
    ("call", "command"),
    [
        (lambda con, _: con.send(Text("x")), Send(con_id(1), b"x", "text")),
        (lambda con, _: con.send({"data": Data(b"x")}), Send(con_id(1), b"x")),
        (lambda con, _: con.send("x", Word.TEXT, 0), Send(con_id(1), b"x", "text", False)),
        (lambda con, _: con.close(Number.CODE, Text("x")), Close(con_id(1), 4000, "x")),
        (lambda con, _: con.join(Text("x")), Join(con_id(1), "x")),
        (
            lambda con, _: con.reject(HTTPStatus.FORBIDDEN, Text("x"), {Text("X"): Text("y")}),
            Reject(con_id(1), 403, "x", {"X": "y"}),
        ),
        (lambda con, _: con.reject(body=bytearray(b"x")), Reject(con_id(1), 403, body=b"x")),
        (
            lambda con, _: con.accept(headers={"X": Text("y")}),
            Accept(con_id(1), None, {"X": "y"}),
        ),
        (
            lambda con, _: wsraw.publish(Text("g"), Text("x"), exclude=[Number.CODE]),
            Publish("g", b"x", "text", {"except": [4000]}),
        ),
        (
            lambda con, _: setattr(con, "state", {Text("x"): [Text("y"), Data(b"z"), Number.CODE]}),
            State(con_id(1), encode_state({"x": ["y", b"z", 4000]})),
        ),
    ],
)
def test_a_subclass_counts_as_its_base_type(
    told: Callable[[Call], list[Any]], call: Call, command: Record
) -> None:
    """markupsafe's Markup and Django's SafeString are str, and members of IntEnum are int."""
    assert told(call) == [command]
    assert gateway_decoder().decode(encode([1, command])) == (1, [command], [])


def test_the_largest_answer_is_accepted_by_the_gateway() -> None:
    assert 2 * values.ANSWER_LIMIT <= http.MAX_ANSWER
